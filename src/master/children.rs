//! The workers that live: what they report, whether their loops move, how they end, and what they are ordered.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Master;
use super::plan::{Event, WorkerId};
use super::process::{self, End};
use crate::logging;
use crate::worker::control::{Channel, Heard, Leave, Order, Report};

/// A living worker process. Its pid is ours until it is reaped, and only this thread reaps, so signals sent by pid
/// can't reach a stranger.
pub(super) struct Child {
    pub(super) worker: WorkerId,
    pub(super) pid: Pid,
    pub(super) slot: usize,
    pub(super) channel: Channel,
    /// Its row of the scoreboard, by number; none if the worker has another scoreboard, of the image that the master was
    /// upgraded from.
    pub(super) row: Option<usize>,
    /// When it was started, and what its row had counted by then.
    pub(super) since: Instant,
    /// The same in Unix milliseconds.
    pub(super) started_ms: u64,
    pub(super) requests_before: u64,
    pub(super) connections_before: u64,
    /// It has reported that it serves.
    pub(super) ready: bool,
    /// It was told to finish.
    pub(super) leaving: bool,
    /// It was killed and does not die: the plan knows of it no more, but it keeps its row until it is reaped.
    pub(super) forsaken: bool,
    /// Its last heartbeat, and at how many looks in a row it was the same.
    pub(super) beat: u64,
    pub(super) still: u32,
}

/// How often the heartbeats are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a worker must still be doing at the last of so many looks to be hung: a look counts only if the master itself was
/// awake for it, so a host that slept is not taken for workers that hang.
fn looks(hang_timeout: Duration) -> u32 {
    hang_timeout.as_secs().clamp(1, u64::from(u32::MAX)) as u32
}

impl Master {
    /// Finds workers whose loop stands still, whatever their threads do.
    pub(super) fn look_at_heartbeats(&mut self) -> Vec<Event> {
        let now = Instant::now();
        if now < self.look_at {
            return Vec::new();
        }
        self.look_at = now + LOOK_EVERY;
        logging::settle();
        let mut events = Vec::new();
        for child in self.children.values_mut().filter(|child| child.ready) {
            let Some(row) = child.row else { continue };
            let beat = self.scoreboard.row(row).last_beat();
            child.still = if beat == child.beat {
                child.still + 1
            } else {
                0
            };
            child.beat = beat;
            if child.still == looks(self.config.hang_timeout) {
                log::error!(
                    "master: worker {} (pid {}) hangs: its loop has not moved for {:?}; its threads: {}",
                    child.slot,
                    child.pid,
                    self.config.hang_timeout,
                    process::describe_threads(child.pid)
                );
                events.push(Event::Hung(child.worker));
            }
        }
        events
    }

    pub(super) fn hear_reports(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for child in self.children.values_mut() {
            match child.channel.hear_report() {
                Heard::Message(Report::Ready) => {
                    log::debug!("master: worker {} (pid {}) serves", child.slot, child.pid);
                    child.ready = true;
                    events.push(Event::Ready(child.worker));
                }
                Heard::Message(report @ (Report::Worn | Report::Told)) => {
                    let why = match report {
                        Report::Told => "was told to finish",
                        _ => "has reached its limit of requests or memory",
                    };
                    log::info!(
                        "master: worker {} (pid {}) {why} and is replaced",
                        child.slot,
                        child.pid
                    );
                    events.push(Event::Worn(child.worker));
                }
                Heard::Nothing | Heard::End => {}
            }
        }
        events
    }

    /// Hears of every child that has ended: a worker, the check of a new program, or what prepares for workers.
    pub(super) fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((pid, end)) = process::reap() {
            let worker = self.children.values().find(|child| child.pid == pid);
            if let Some(worker) = worker.map(|child| child.worker) {
                self.bury(worker, end);
                events.push(Event::Died(worker));
            } else if let Some(verdict) = self.upgrade.hear_end(pid, end) {
                if let Err(why) = verdict {
                    self.refuse_upgrade(&why);
                }
            } else if let Some(made) = self.change.preparation.take_if(|made| made.is(pid)) {
                events.extend(self.hear_preparation(made, end));
            } else {
                log::debug!("master: reaped pid {pid}, which is none of the workers ({end})");
            }
        }
        events
    }

    /// Settles what a worker has left behind, and tells how it ended.
    fn bury(&mut self, worker: WorkerId, end: End) {
        let Some(child) = self.children.remove(&worker) else {
            return;
        };
        let (slot, pid) = (child.slot, child.pid);
        match child.row {
            Some(row) => self.scoreboard.settle_writes_of(self.scoreboard.row(row)),
            None => self.unite_tables(),
        }
        if !child.ready {
            self.change.failure = Some(format!(
                "worker {slot} (pid {pid}) ended with {end} before it served"
            ));
        }
        if child.forsaken {
            log::info!("master: worker {slot} (pid {pid}) is dead at last");
        } else if end == End::Exit(0) {
            log::debug!("master: worker {slot} (pid {pid}) has finished");
        } else {
            let level = match self.plan.degraded().any(|degraded| degraded == slot) {
                true => log::Level::Debug,
                false => log::Level::Warn,
            };
            log::log!(level, "master: worker {slot} (pid {pid}) ended with {end}");
        }
    }

    pub(super) fn order(&self, worker: WorkerId, order: Order) {
        let Some(child) = self.children.get(&worker) else {
            return;
        };
        if let Err(error) = child.channel.order(order) {
            // It is dying, and will be reaped; or it reads nothing, and will be killed at its deadline.
            log::debug!(
                "master: worker {} (pid {}) does not take orders: {error}",
                child.slot,
                child.pid
            );
        }
    }

    pub(super) fn signal(&self, worker: WorkerId, signal: Signal) {
        let Some(child) = self.children.get(&worker) else {
            return;
        };
        if let Err(error) = kill(child.pid, signal) {
            log::debug!("master: pid {} is gone already: {error}", child.pid);
        }
    }

    /// Has a worker finish because another one serves in its place, or none is wanted there.
    pub(super) fn retire(&mut self, worker: WorkerId) {
        if let Some(child) = self.children.get_mut(&worker) {
            child.leaving = true;
        }
        let leave = Leave::Retire {
            within: self.config.drain_timeout,
            sweep: self.changes_addresses(),
        };
        self.order(worker, Order::Leave(leave));
    }

    /// Has a worker finish because the server stops.
    pub(super) fn stop(&self, worker: WorkerId) {
        let leave = Leave::Stop {
            within: self.config.drain_timeout,
            waited: self.plan.has_waited(),
        };
        self.order(worker, Order::Leave(leave));
    }

    pub(super) fn kill(&self, worker: WorkerId) {
        let Some(child) = self.children.get(&worker) else {
            return;
        };
        log::warn!(
            "master: killing worker {} (pid {}), which did not do in time what it should",
            child.slot,
            child.pid
        );
        self.signal(worker, Signal::SIGKILL);
    }

    /// Goes on without a worker that was killed and does not die. None of its own code runs again, so its writes are settled like
    /// those of the dead.
    pub(super) fn forsake(&mut self, worker: WorkerId) {
        let Some(child) = self.children.get_mut(&worker) else {
            return;
        };
        log::error!(
            "master: worker {} (pid {}) was killed and does not die, so the server goes on without it; the kernel holds it, most \
             likely for a disk or a network file system that does not answer (dmesg tells), and its connections with it; its \
             threads: {}",
            child.slot,
            child.pid,
            process::describe_threads(child.pid)
        );
        (child.ready, child.forsaken) = (false, true);
        match child.row {
            Some(row) => self.scoreboard.settle_writes_of(self.scoreboard.row(row)),
            None => self.unite_tables(),
        }
    }
}
