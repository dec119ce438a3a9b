//! What is asked of the master on its control socket, done and answered; and the changes of the past.

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Master;
use super::control::{Awaited, ClientId};
use super::notify;
use super::plan::{Doing, Event};
use super::publication::now_ms;
use super::wishes::Scale;
use crate::config::MOST_WORKERS;
use crate::config::ctl::CtlCommand;
use crate::ctl::message::{self, Answer, Change, Phase, State, Status, Upgraded, What, Worker};
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{moment, published};

/// How many changes are remembered.
const MOST_CHANGES: usize = published::MOST_CHANGES;

/// The changes that are over, oldest first.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct History(VecDeque<Change>);

impl History {
    /// The changes, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Change> {
        self.0.iter().rev()
    }

    fn note(&mut self, change: Change) {
        if self.0.len() == MOST_CHANGES {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// What the last change was and why it was not done, if it was not.
    pub fn trouble(&self) -> Option<String> {
        let last = self.0.back()?;
        let what = match last.what {
            What::Reload => "reload",
            What::Upgrade => "upgrade",
            What::Scale => "change of the number of workers",
        };
        let result = match last.result {
            message::Result::Done => return None,
            message::Result::Refused => "refused",
            message::Result::Failed => "failed",
        };
        let why = last.why.as_deref().unwrap_or_default();
        Some(format!("last {what} {result}: {why}"))
    }
}

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

    /// Asks for a reload as soon as no other change is under way.
    pub(super) fn wish_for_reload(&mut self) {
        let why = "a reload was asked for since, which brings its own number of workers".to_owned();
        self.control
            .drop_unbegun(What::Scale, &Answer::Refused { why });
        self.wishes.reload();
    }

    /// Notes that a change is under way.
    pub(super) fn begin(&mut self, what: What) {
        self.under_way = Some(what);
        self.begun = Instant::now();
        self.failure = None;
        self.verdict = None;
        self.control.begin(what);
    }

    /// Notes what came of the change that was under way, and tells the service manager and those who wait for it.
    pub(super) fn conclude(&mut self, answer: &Answer) {
        let from = self.upgraded_from.take_if(|_| self.under_way.is_some());
        let upgraded = from.map(|from| after_upgrade(from, answer));
        let answer = upgraded.as_ref().unwrap_or(answer);
        let (result, why) = match answer {
            Answer::Refused { why } => (message::Result::Refused, Some(why.clone())),
            Answer::Failed { why } => (message::Result::Failed, Some(why.clone())),
            _ => (message::Result::Done, None),
        };
        if let Some(what) = self.under_way.take() {
            let at_ms = now_ms();
            self.count_change(what, result);
            self.history.note(Change {
                what,
                result,
                why,
                generation: self.generation,
                workers: self.plan.wanted(),
                at: at_ms / 1000,
                at_ms,
                took_ms: self.begun.elapsed().as_millis() as u64,
            });
        }
        // Before every slot has served, what a change came to makes nobody ready.
        if !self.plan.is_leaving() && !self.plan.is_starting() {
            let status = self.status();
            self.manager.tell(notify::Phase::Ready, &status);
        }
        self.control.settle(answer);
    }

    /// What serves now, as the outcome of a change.
    pub(super) fn done(&self) -> Answer {
        Answer::Done {
            generation: self.generation,
            workers: self.plan.wanted(),
            upgrade: None,
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
                () if self.plan.is_rolling() || self.preparation.is_some() => Phase::Reloading,
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
            changes: self.history.0.iter().cloned().collect(),
        }
    }

    /// How often something happened on all workers that ever were.
    pub(super) fn counted(&self, counter: Counter) -> u64 {
        self.scoreboard.total(counter)
    }
}

/// What came of an upgrade, of whose last step this came: the new image is there, whatever its workers do.
fn after_upgrade(from: String, answer: &Answer) -> Answer {
    let to = env!("CARGO_PKG_VERSION").to_owned();
    match answer {
        Answer::Done {
            generation,
            workers,
            ..
        } => Answer::Done {
            generation: *generation,
            workers: *workers,
            upgrade: Some(Upgraded { from, to }),
        },
        Answer::Refused { why } | Answer::Failed { why } => Answer::Failed {
            why: format!(
                "version {to} has taken over from {from}, but its own workers don't serve: {why}"
            ),
        },
        Answer::Status(_) | Answer::Accepted => answer.clone(),
    }
}
