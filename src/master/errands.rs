//! What is asked of the master on its control socket, done and answered.

use std::time::Instant;

use super::Master;
use super::control::{Awaited, ClientId};
use super::plan::{Doing, Event};
use super::wishes::Scale;
use crate::config::MOST_WORKERS;
use crate::config::ctl::CtlCommand;
use crate::ctl::message::{Answer, Phase, State, Status, What, Worker};
use crate::scoreboard::counters::Counter;
use crate::scoreboard::moment;

impl Master {
    /// Does what a client asks, or begins to.
    pub(super) fn obey(&mut self, client: ClientId, command: CtlCommand) -> Option<Event> {
        let refuse = |why: &str| Answer::Refused {
            why: why.to_owned(),
        };
        match command {
            CtlCommand::Status {} => {
                let status = Answer::Status(Box::new(self.describe()));
                self.control.answer(client, &status);
                None
            }
            CtlCommand::Stop { wait } => {
                self.expect(client, Awaited::End, wait);
                // A second order to stop would be one to hurry; who asks here means to stop well.
                (!self.plan.is_leaving()).then_some(Event::Stop)
            }
            _ if self.plan.is_leaving() => {
                self.control
                    .answer(client, &refuse("the server is stopping"));
                None
            }
            CtlCommand::Reload { wait } => {
                self.wish_for_reload();
                self.expect(client, Awaited::Change(What::Reload), wait);
                None
            }
            CtlCommand::Upgrade { wait } => {
                self.upgrade.wish();
                self.expect(client, Awaited::Change(What::Upgrade), wait);
                if self.upgrade.has_begun() {
                    self.control.begin(What::Upgrade);
                }
                None
            }
            CtlCommand::Scale { workers, .. } if !(1..=MOST_WORKERS).contains(&workers) => {
                let why = format!("{workers} is not a number of workers (1 to {MOST_WORKERS})");
                self.control.answer(client, &refuse(&why));
                None
            }
            CtlCommand::Scale { workers, wait } => {
                self.control.drop_unbegun(
                    What::Scale,
                    &refuse("another number of workers was asked for since"),
                );
                self.wishes.scale(Scale::To(workers));
                self.expect(client, Awaited::Change(What::Scale), wait);
                None
            }
        }
    }

    fn expect(&mut self, client: ClientId, awaited: Awaited, wait: bool) {
        match wait {
            true => self.control.wait(client, awaited),
            false => self.control.answer(client, &Answer::Accepted),
        }
    }

    /// Tells those who wait that the server is about to end.
    pub(super) fn bid_farewell(&mut self) {
        self.control.bid_farewell(self.generation);
    }

    /// How the server is.
    fn describe(&self) -> Status {
        let now = Instant::now();
        let beaten = moment();
        let mut workers: Vec<Worker> = self
            .plan
            .workers_now()
            .filter_map(|(id, generation, doing)| {
                let child = self.children.get(&id)?;
                // One of the image before an upgrade may count where this one can't look.
                let row = child.row.map(|row| self.scoreboard.row(row));
                let since = |counter, before: u64| {
                    row.map_or(0, |row| row.counted(counter).saturating_sub(before))
                };
                Some(Worker {
                    slot: child.slot,
                    pid: child.pid.as_raw(),
                    state: match doing {
                        Doing::Starting => State::Starting,
                        Doing::Ready => State::Ready,
                        Doing::Retiring => State::Retiring,
                        Doing::Aborting => State::Hung,
                        Doing::Killed => State::Killed,
                    },
                    generation,
                    age_seconds: now.saturating_duration_since(child.since).as_secs(),
                    requests: since(Counter::Requests, child.requests_before),
                    connections: since(Counter::Connections, child.connections_before),
                    silent_ms: row
                        .filter(|_| child.ready)
                        .map(|row| beaten.saturating_sub(row.last_beat())),
                })
            })
            .collect();
        workers.sort_by_key(|worker| (worker.slot, std::cmp::Reverse(worker.age_seconds)));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id().cast_signed(),
            phase: match () {
                () if self.plan.is_leaving() => Phase::Stopping,
                () if self.plan.is_starting() => Phase::Starting,
                () if self.plan.is_rolling() || self.change.preparation.is_some() => {
                    Phase::Reloading
                }
                () => Phase::Serving,
            },
            generation: self.generation,
            uptime_seconds: self.started.elapsed().as_secs(),
            addresses: self.addresses(),
            wanted: self.plan.wanted(),
            ready: self.plan.ready(),
            degraded: self.plan.degraded().collect(),
            workers,
            totals: Counter::all()
                .map(|counter| (counter.name(), self.counted(counter)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            changes: self.history.oldest_first().cloned().collect(),
        }
    }

    /// How often something happened on all workers that ever were.
    pub(super) fn counted(&self, counter: Counter) -> u64 {
        self.scoreboard.total(counter)
    }
}
