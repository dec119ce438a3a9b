//! A change of what serves: a reload, another number of workers, or the last step of an upgrade. One at a time: its configuration
//! is read and prepared for, tried by one worker, adopted or taken back as the plan says, and what came of it is told to
//! whoever asked.

use std::fmt;
use std::time::Instant;

use super::notify::{self, Phase};
use super::plan::Event;
use super::preparation::{self, Preparation};
use super::publication::now_ms;
use super::wishes::Scale;
use super::{Master, limits, patience};
use crate::config::{Config, MOST_WORKERS, Workers};
use crate::ctl::message::{self, Answer, Upgraded, What};
use crate::logging;

/// The change that is under way, if one is.
pub(super) struct Change {
    /// The configuration that it tries, until its first worker serves.
    pub(super) candidate: Option<Config>,
    /// What has to be there before that one can be tried, in the making.
    pub(super) preparation: Option<Preparation>,
    /// The one that served before it was adopted, until it serves everywhere; or that one, while it is taken back.
    other: Option<Config>,
    /// What it is.
    pub(super) under_way: Option<What>,
    /// When the last one began.
    begun: Instant,
    /// How the last worker ended that never served.
    pub(super) failure: Option<String>,
    /// What is to be told of it once it is taken back.
    verdict: Option<String>,
}

impl Change {
    pub(super) fn none() -> Self {
        Change {
            candidate: None,
            preparation: None,
            other: None,
            under_way: None,
            begun: Instant::now(),
            failure: None,
            verdict: None,
        }
    }

    /// Gives up what is being made ready.
    pub(super) fn end_preparation(&mut self) {
        self.preparation.take().iter().for_each(Preparation::end);
    }
}

impl Master {
    /// Asks for a reload as soon as no other change is under way.
    pub(super) fn wish_for_reload(&mut self) {
        let why = "a reload was asked for since, which brings its own number of workers".to_owned();
        self.control
            .drop_unbegun(What::Scale, &Answer::Refused { why });
        self.wishes.reload();
    }

    /// Notes that a change is under way.
    pub(super) fn begin(&mut self, what: What) {
        self.change.under_way = Some(what);
        self.change.begun = Instant::now();
        self.change.failure = None;
        self.change.verdict = None;
        self.control.begin(what);
    }

    /// Notes what came of the change that was under way, and tells the service manager and those who wait for it.
    pub(super) fn conclude(&mut self, answer: &Answer) {
        let from = self
            .upgraded_from
            .take_if(|_| self.change.under_way.is_some());
        let upgraded = from.map(|from| after_upgrade(from, answer));
        let answer = upgraded.as_ref().unwrap_or(answer);
        let (result, why) = match answer {
            Answer::Refused { why } => (message::Result::Refused, Some(why.clone())),
            Answer::Failed { why } => (message::Result::Failed, Some(why.clone())),
            _ => (message::Result::Done, None),
        };
        if let Some(what) = self.change.under_way.take() {
            let at_ms = now_ms();
            self.count_change(what, result);
            self.history.note(message::Change {
                what,
                result,
                why,
                generation: self.generation,
                workers: self.plan.wanted(),
                at: at_ms / 1000,
                at_ms,
                took_ms: self.change.begun.elapsed().as_millis() as u64,
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

    /// Reads the configuration again and, if it is good, starts to replace the workers.
    pub(super) fn reload(&mut self) -> Option<Event> {
        self.begin(What::Reload);
        if self.upgraded_from.is_some() {
            // Who asked for a reload meanwhile gets it too.
            self.begin(What::Upgrade);
        }
        let status = format!("{}, reading the configuration", self.status());
        self.manager.tell(Phase::Reloading, &status);
        let config = match self.sources.load() {
            Ok(config) => config,
            Err(error) => return self.refuse_reload(&error),
        };
        if let Err(error) = self
            .listeners
            .extend(&config.listen, config.workers.count())
        {
            self.withdraw_addresses();
            return self.refuse_reload(&error);
        }
        match preparation::start(&config) {
            Ok(None) => self.try_out(config),
            Ok(Some(child)) => {
                self.change.preparation = Some(Preparation::of(child, config));
                None
            }
            Err(error) => {
                self.withdraw_addresses();
                self.refuse_reload(&error)
            }
        }
    }

    /// Starts to replace the workers by those of a configuration for which all is there.
    pub(super) fn try_out(&mut self, config: Config) -> Option<Event> {
        limits::fit(&config);
        self.listeners.deepen();
        log::info!("master: reloading: the configuration is good, replacing workers one by one");
        if config.control_socket != self.config.control_socket {
            log::warn!("master: the control socket stays where it is until the next start");
        }
        if config.admin != self.config.admin {
            log::warn!(
                "master: the admin listener stays where it is until the next start or upgrade"
            );
        }
        let slots = config.workers.count();
        self.change.candidate = Some(config);
        Some(Event::Reload { slots })
    }

    /// Goes on with more workers, or fewer, but at least one; the rest of the configuration stays.
    pub(super) fn scale(&mut self, scale: Scale) -> Option<Event> {
        self.begin(What::Scale);
        let now = self.plan.wanted();
        let slots = match scale {
            Scale::By(by) => now.saturating_add_signed(by as isize),
            Scale::To(workers) => workers,
        };
        let slots = slots.clamp(1, MOST_WORKERS);
        if slots == now {
            if let Scale::By(_) = scale {
                log::warn!(
                    "master: {now} workers it stays, for that is the least or the most there can be"
                );
            }
            let done = self.done();
            self.conclude(&done);
            return None;
        }
        if let Err(error) = self.listeners.extend(&self.config.listen, slots) {
            return self.refuse_reload(&error);
        }
        log::info!("master: going from {now} workers to {slots}, until the next reload");
        let mut config = self.config.clone();
        config.workers = Workers::Fixed(slots);
        self.change.candidate = Some(config);
        Some(Event::Reload { slots })
    }

    pub(super) fn refuse_reload(&mut self, error: &dyn fmt::Display) -> Option<Event> {
        log::error!("master: reload refused, the old workers keep serving: {error}");
        self.conclude(&Answer::Refused {
            why: error.to_string(),
        });
        None
    }

    /// Puts the configuration in force that was not, and lays the other one aside.
    fn serve_by_other(&mut self) {
        if let Some(config) = &mut self.change.other {
            std::mem::swap(&mut self.config, config);
        }
        logging::adopt(self.config.log_level, self.config.log_format);
        self.plan.set_patience(patience(&self.config));
        self.generation = self.plan.generation();
    }

    /// What became of a change that fails, and how the worker ended that never served.
    fn with_failure(&mut self, what: &str) -> String {
        let how = self.change.failure.take();
        let how = how.unwrap_or_else(|| "it could not be started".to_owned());
        format!("{what}: {how}; the server's log says why")
    }

    /// Whether the configuration that comes listens elsewhere than the one that goes: then the workers that serve one of them hold
    /// sockets of which those of the other know nothing.
    pub(super) fn changes_addresses(&self) -> bool {
        let others = self.change.candidate.iter().chain(&self.change.other);
        others
            .into_iter()
            .any(|other| other.listen != self.config.listen)
    }

    /// The configuration that was tried serves in one slot: it is the one that new workers have from now on.
    pub(super) fn adopt(&mut self) {
        self.change.other = self.change.candidate.take();
        self.serve_by_other();
    }

    /// Goes back to the configuration of before, with which workers do get ready.
    pub(super) fn take_back(&mut self) {
        log::error!(
            "master: reload failed: a slot's workers did not get ready with the new configuration; going back to the \
             one before"
        );
        let what = "a later worker did not get ready, so the configuration of before serves again";
        self.change.verdict = Some(self.with_failure(what));
        self.serve_by_other();
    }

    /// Stays with the new configuration, since the one of before is no better.
    pub(super) fn keep(&mut self) {
        self.serve_by_other();
        self.change.other = None;
        self.give_up_addresses();
        self.open_sockets();
        log::error!(
            "master: workers don't get ready with the configuration of before either: the new one stays, as far as it serves"
        );
        let why = self.with_failure(
                "neither with it nor with the configuration of before do all workers get ready, so those of the new one \
             serve on",
            );
        self.change.verdict = None;
        self.conclude(&Answer::Failed { why });
    }

    /// All slots serve with the new configuration.
    pub(super) fn finish(&mut self) {
        self.change.other = None;
        self.give_up_addresses();
        let workers = self.config.workers.count();
        log::info!(
            "master: reloaded: generation {}, {workers} workers",
            self.generation
        );
        self.open_sockets();
        let done = self.done();
        self.conclude(&done);
    }

    /// Nothing serves with the new configuration: it was not good, or it has been taken back.
    pub(super) fn reject(&mut self) {
        self.change.candidate = None;
        self.withdraw_addresses();
        self.change.other = None;
        let why = match self.change.verdict.take() {
            None => {
                log::error!(
                    "master: reload failed: its first worker did not get ready; the old workers keep serving"
                );
                self.with_failure(
                    "the first worker did not get ready, so the old ones keep serving",
                )
            }
            Some(verdict) => {
                log::info!("master: the configuration of before serves again");
                verdict
            }
        };
        self.conclude(&Answer::Failed { why });
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
