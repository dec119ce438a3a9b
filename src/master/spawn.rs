//! Starting a worker: its configuration, its row of the scoreboard, what it accepts from, and whose cache it takes over.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::unistd::getpid;

use super::Master;
use super::admin::AdminListener;
use super::children::Child;
use super::listeners::Listeners;
use super::plan::{Event, WorkerId};
use super::process;
use super::publication::now_ms;
use crate::config::Config;
use crate::logging;
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{self, Scoreboard};
use crate::sys;
use crate::worker::control::{Channel, Heir, Order};
use crate::worker::{self, AdminSocket, Assignment, Inherited};

impl Master {
    /// Starts a worker, or says what there is instead.
    pub(super) fn spawn(
        &mut self,
        worker: WorkerId,
        slot: usize,
        candidate: bool,
    ) -> Option<Event> {
        let config = match &self.change.candidate {
            Some(config) if candidate => config,
            _ => &self.config,
        };
        let Some(row) = self.free_row() else {
            log::error!(
                "master: can't start worker {slot}: too many are still leaving; will try again"
            );
            return Some(Event::Died(worker));
        };
        // Before there is one that counts.
        self.scoreboard.use_row(row);
        let sockets = Sockets {
            listeners: &self.listeners,
            admin: &self.admin,
        };
        let (donor, heir) = self.introduce(slot);
        match start_worker(worker, slot, config, &sockets, self.scoreboard, row, heir) {
            Ok(child) => {
                log::debug!("master: started worker {slot} (pid {})", child.pid);
                self.children.insert(worker, child);
                if let Some((donor, way)) = donor {
                    self.order(donor, Order::HandOn(Heir(way)));
                }
                if self.plan.is_leaving() {
                    self.order(worker, Order::Unready);
                }
                None
            }
            Err(error) => {
                log::error!("master: can't start worker {slot}: {error}; will try again");
                Some(Event::Died(worker))
            }
        }
    }

    /// Whose cache a worker that starts in this slot takes over, and the two ends of the way between them: that of the one that it
    /// replaces, or else of the one that has served longest.
    fn introduce(&self, slot: usize) -> (Option<(WorkerId, UnixStream)>, Option<UnixStream>) {
        let serving = self.children.values().filter(|child| {
            // With another scoreboard its stamps say nothing; and who hangs answers nothing.
            child.ready && !child.leaving && child.row.is_some() && child.still == 0
        });
        let donor = serving.min_by_key(|child| (child.slot != slot, child.since));
        let Some(donor) = donor else {
            return (None, None);
        };
        match UnixStream::pair() {
            Ok((way, heir)) => (Some((donor.worker, way)), Some(heir)),
            Err(error) => {
                log::debug!("master: worker {slot} starts with an empty cache: {error}");
                (None, None)
            }
        }
    }

    /// A row of the scoreboard that no living worker has.
    fn free_row(&self) -> Option<usize> {
        (0..scoreboard::ROWS)
            .find(|row| self.children.values().all(|child| child.row != Some(*row)))
    }
}

/// What workers accept from.
struct Sockets<'m> {
    listeners: &'m Listeners,
    admin: &'m AdminListener,
}

/// Forks one worker. In the child nothing of the master is left but what the assignment names.
fn start_worker(
    worker: WorkerId,
    slot: usize,
    config: &Config,
    sockets: &Sockets<'_>,
    scoreboard: Scoreboard,
    row: usize,
    donor: Option<UnixStream>,
) -> io::Result<Child> {
    let (ours, theirs) = Channel::pair()?;
    let Sockets { listeners, admin } = sockets;
    let sockets = listeners.of(&config.listen, config.workers.count());
    let bells = listeners.bells(config.workers.count());
    let master = getpid();
    let pid = process::fork_child(|| {
        // The first worker of a reload tries the new one, and the master has it when that serves.
        logging::adopt(config.log_level, config.log_format);
        let inherited: io::Result<Vec<Inherited>> = sockets
            .iter()
            .map(|place| {
                Ok(Inherited {
                    number: place.number,
                    mark: place.mark,
                    socket: place.socket.try_clone()?,
                    proxied: place.proxied,
                })
            })
            .collect();
        let inherited = inherited.and_then(|listeners| {
            let bells: io::Result<Vec<OwnedFd>> =
                bells.iter().map(|bell| bell.try_clone()).collect();
            let admin = admin.socket().map(AdminSocket::try_clone).transpose()?;
            Ok((listeners, bells?, admin))
        });
        let assigned = inherited.and_then(|(listeners, bells, admin)| {
            let keep = listeners
                .iter()
                .map(|listener| listener.socket.as_raw_fd())
                .chain(bells.iter().map(|bell| bell.as_raw_fd()))
                .chain(admin.iter().map(AdminSocket::as_raw_fd))
                .chain(donor.iter().map(AsRawFd::as_raw_fd))
                .chain([theirs.as_fd().as_raw_fd()]);
            sys::close_inherited(&keep.collect::<Vec<_>>())?;
            Ok(Assignment {
                master,
                slot,
                config,
                listeners,
                bells,
                admin,
                channel: theirs,
                scoreboard,
                row: scoreboard.row(row),
                donor,
            })
        });
        match assigned {
            Ok(assignment) => worker::run(assignment),
            Err(error) => {
                log::error!("worker {slot}: can't take over its sockets: {error}");
                worker::EXIT_FAILED
            }
        }
    })?;
    let counted = |counter| scoreboard.row(row).counted(counter);
    Ok(Child {
        worker,
        pid,
        slot,
        channel: ours,
        row: Some(row),
        since: Instant::now(),
        started_ms: now_ms(),
        requests_before: counted(Counter::Requests),
        connections_before: counted(Counter::Connections),
        ready: false,
        leaving: false,
        forsaken: false,
        beat: 0,
        still: 0,
    })
}
