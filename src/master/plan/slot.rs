//! One slot: the workers that it has, and how patient it is with those that die.

use std::time::{Duration, Instant};

use super::{Action, WorkerId};

/// The first pause before a slot's worker is replaced again, after an immediate replacement did not live.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest such pause.
pub(super) const BACKOFF_MOST: Duration = Duration::from_secs(30);

/// By how much a pause may be shorter or longer, so that slots which die together don't come back together: a part of it.
const JITTER: u32 = 4;

/// So many boots in a row that fail make a slot degraded: it is tried on, and no longer talked about.
pub(super) const DEGRADED_AFTER: u32 = 5;

#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    /// The configuration that it runs with, by number.
    pub(super) generation: u64,
    pub(super) state: State,
    /// It has got ready at some time.
    pub(super) served: bool,
    pub(super) worn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Starting {
        until: Instant,
    },
    Ready {
        since: Instant,
    },
    Retiring {
        until: Instant,
    },
    Aborting {
        until: Instant,
    },
    /// It is dead by then, or forgotten.
    Killed {
        until: Instant,
    },
}

/// What a worker does, for those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Starting,
    Ready,
    Retiring,
    /// It hangs, and is being ended.
    Aborting,
    Killed,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Slot {
    pub(super) current: Option<Worker>,
    pub(super) successor: Option<Worker>,
    pub(super) retired: Vec<Worker>,
    /// Deaths in a row without a healthy life in between.
    pub(super) deaths: u32,
    /// Workers in a row that never got ready.
    pub(super) failed_boots: u32,
    /// Its last worker did not get ready in the reload that is under way.
    pub(super) failed: bool,
    /// The reload that is under way does not wait for this slot: it had no worker before.
    pub(super) spared: bool,
    /// When the next worker may be started; `None` is at once.
    pub(super) retry_at: Option<Instant>,
}

impl Slot {
    pub(super) fn serves(&self) -> bool {
        let worker = self.current.as_ref();
        worker.is_some_and(|worker| matches!(worker.state, State::Ready { .. }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none() && self.successor.is_none() && self.retired.is_empty()
    }

    /// Lets a worker finish. One that never got ready has nothing to finish.
    pub(super) fn retire(&mut self, mut worker: Worker, until: Instant, actions: &mut Vec<Action>) {
        match worker.state {
            State::Ready { .. } | State::Starting { .. } => {
                worker.state = State::Retiring { until };
                actions.push(Action::Retire(worker.id));
            }
            State::Retiring { .. } | State::Aborting { .. } | State::Killed { .. } => {}
        }
        self.retired.push(worker);
    }

    pub(super) fn note_boot(&mut self, index: usize, actions: &mut Vec<Action>) {
        self.failed = false;
        self.spared = false;
        if std::mem::take(&mut self.failed_boots) >= DEGRADED_AFTER {
            actions.push(Action::Recovered { slot: index });
        }
    }

    pub(super) fn note_failed_boot(&mut self, index: usize, actions: &mut Vec<Action>) {
        self.failed_boots = self.failed_boots.saturating_add(1);
        if self.failed_boots == DEGRADED_AFTER {
            actions.push(Action::Degraded { slot: index });
        }
    }

    /// The first death is answered at once; the ones that follow wait twice as long each time, more or less.
    pub(super) fn back_off(&mut self, index: usize, salt: u64, now: Instant) {
        let pause = match self.deaths {
            0 => None,
            deaths => Some(
                BACKOFF_FIRST
                    .saturating_mul(1 << (deaths - 1).min(16))
                    .min(BACKOFF_MOST),
            ),
        };
        self.deaths = self.deaths.saturating_add(1);
        self.retry_at = pause.map(|pause| {
            // Any spread will do, and one made of what the plan knows keeps it pure.
            let spread = (salt ^ index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let part = (pause / JITTER).mul_f64(spread as f64 / f64::from(u32::MAX));
            now + pause - pause / JITTER / 2 + part
        });
    }
}
