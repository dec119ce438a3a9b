//! Whether the database is there. Pure: moments are arguments, and asking it is the lanes' business.
//!
//! A call that failed for want of an answer makes the database *suspect*: one lane asks it something small, at once, and
//! meanwhile nothing changes, for it may have been one slow query or one lock. Only when that fails as well does the breaker
//! open, and everything that needs the database is refused at once until a probe, by one lane at a time, succeeds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// The pause after a first failed probe; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// The breaker of one worker.
#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
    /// A lane is at a probe.
    probing: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Suspect,
    Open {
        failures: u32,
        next_probe: Instant,
        why: Arc<StoreError>,
    },
}

impl Breaker {
    /// Notes how a call ended.
    pub fn note(&mut self, answered: bool) {
        match (&self.state, answered) {
            (State::Closed, false) => self.state = State::Suspect,
            // What one lane has just heard is as good as a probe's answer.
            (State::Suspect | State::Open { .. }, true) => self.state = State::Closed,
            (State::Closed, true) | (State::Suspect | State::Open { .. }, false) => {}
        }
    }

    /// Why nothing is to be asked, while it is open.
    pub fn refusal(&self) -> Option<Arc<StoreError>> {
        match &self.state {
            State::Open { why, .. } => Some(why.clone()),
            State::Closed | State::Suspect => None,
        }
    }

    /// Whether the caller is to probe now. It must tell the outcome to [`Breaker::probed`]; nobody else probes before.
    pub fn claim_probe(&mut self, now: Instant) -> bool {
        let due = match &self.state {
            State::Closed => false,
            State::Suspect => true,
            State::Open { next_probe, .. } => now >= *next_probe,
        };
        let claimed = due && !self.probing;
        self.probing |= claimed;
        claimed
    }

    /// How long until a probe is due; `None` while none is to come from here.
    pub fn until_probe(&self, now: Instant) -> Option<Duration> {
        match &self.state {
            State::Open { next_probe, .. } if !self.probing => {
                Some(next_probe.saturating_duration_since(now))
            }
            _ => None,
        }
    }

    /// Opens it without a probe: there is no lane left for one. The first to return probes at once.
    pub fn open(&mut self, why: Arc<StoreError>, now: Instant) {
        if self.refusal().is_none() {
            self.state = State::Open {
                failures: 0,
                next_probe: now,
                why,
            };
        }
    }

    /// Ends a probe. `dice` from 0 to 1 spreads the next one, so that many workers don't ask in step.
    pub fn probed(&mut self, now: Instant, outcome: Result<(), Arc<StoreError>>, dice: f64) {
        self.probing = false;
        let Err(why) = outcome else {
            self.state = State::Closed;
            return;
        };
        let failures = match &self.state {
            // Another lane was answered while this one was not: all is well, or will be suspect again.
            State::Closed => return,
            State::Suspect => 0,
            State::Open { failures, .. } => *failures,
        };
        let pause = LONGEST_PAUSE.min(FIRST_PAUSE * (1 << failures.min(8)));
        self.state = State::Open {
            failures: failures.saturating_add(1),
            next_probe: now + pause.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0),
            why,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Result<(), Arc<StoreError>> {
        Err(Arc::new(StoreError::TimedOut))
    }

    #[test]
    fn one_failed_call_refuses_nothing() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert!(!breaker.claim_probe(now));
        breaker.note(false);
        assert!(breaker.refusal().is_none());
        assert!(breaker.claim_probe(now));
        assert!(!breaker.claim_probe(now), "two lanes probe");
        breaker.probed(now, Ok(()), 0.5);
        assert!(!breaker.claim_probe(now));
    }

    #[test]
    fn open_it_refuses_and_one_lane_probes_after_each_pause() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        breaker.note(false);
        assert!(breaker.claim_probe(now));
        breaker.probed(now, lost(), 1.0);
        for _ in 0..20 {
            assert!(breaker.refusal().is_some());
            assert!(!breaker.claim_probe(now));
            let pause = breaker.until_probe(now).expect("a probe to come");
            assert!(FIRST_PAUSE <= pause && pause <= LONGEST_PAUSE, "{pause:?}");
            now += pause;
            assert!(breaker.claim_probe(now) && !breaker.claim_probe(now));
            assert_eq!(breaker.until_probe(now), None);
            breaker.probed(now, lost(), 1.0);
        }
        now += LONGEST_PAUSE;
        assert!(breaker.claim_probe(now));
        breaker.probed(now, Ok(()), 0.0);
        assert!(breaker.refusal().is_none());
    }

    #[test]
    fn without_a_lane_for_a_probe_it_opens_and_the_first_that_is_free_probes() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.open(Arc::new(StoreError::TimedOut), now);
        assert!(breaker.refusal().is_some());
        assert!(breaker.claim_probe(now));
        breaker.open(Arc::new(StoreError::TimedOut), now);
        assert!(!breaker.claim_probe(now), "two lanes probe");
        breaker.probed(now, Ok(()), 0.5);
        assert!(breaker.refusal().is_none());
    }

    #[test]
    fn any_answer_closes_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.note(false);
        assert!(breaker.claim_probe(now));
        breaker.note(true);
        breaker.probed(now, lost(), 0.5);
        assert!(
            breaker.refusal().is_none(),
            "an answer came during the probe"
        );
        breaker.note(false);
        assert!(breaker.claim_probe(now));
        breaker.probed(now, lost(), 0.5);
        breaker.note(true);
        assert!(breaker.refusal().is_none());
    }
}
