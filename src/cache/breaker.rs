//! Leaving a Redis alone that fails, so that no lane waits on it, and saying so once. No lane finds out whether it is back:
//! behind a network that swallows everything each try would cost a request its time. The clerk of the debts does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a Redis that keeps refusing is said to.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Open while Redis is away, as far as is known.
pub(super) struct Breaker {
    start: Instant,
    down: AtomicBool,
    /// How often it has opened. A connection that was begun before the last time is worth nothing: what failed one of them
    /// may have failed all, and each would show it by a time-out.
    openings: AtomicU64,
    /// Milliseconds since `start` before which a refusal is not said again.
    quiet_until: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            start: Instant::now(),
            down: AtomicBool::new(false),
            openings: AtomicU64::new(0),
            quiet_until: AtomicU64::new(0),
        }
    }
}

impl Breaker {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Open is: don't try.
    pub(super) fn is_open(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// How often it has opened by now, which a connection that begins remembers.
    pub(super) fn openings(&self) -> u64 {
        self.openings.load(Ordering::Acquire)
    }

    /// Notes that an exchange failed, on a connection that began after so many openings. True if the breaker has opened just
    /// now; a connection of before tells nothing new.
    pub(super) fn open(&self, openings: u64, why: &str) -> bool {
        if openings != self.openings() || self.down.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.openings.fetch_add(1, Ordering::AcqRel);
        log::warn!("redis: not available, so requests go to the database until it is back: {why}");
        true
    }

    /// Has no connection of before used again, though Redis is there.
    pub(super) fn retire(&self) {
        self.openings.fetch_add(1, Ordering::AcqRel);
    }

    /// Says that Redis refuses, once a minute.
    pub(super) fn complain(&self, why: &str) {
        let now = self.now();
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        let next = now + COMPLAIN_EVERY.as_millis() as u64;
        if quiet_until <= now
            && self
                .quiet_until
                .compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            log::warn!("redis: refuses a command, so the database answers instead: {why}");
        }
    }

    /// Notes that Redis answers.
    pub(super) fn close(&self) {
        if self.down.swap(false, Ordering::AcqRel) {
            log::info!("redis: available again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_before_the_last_opening_opens_nothing() {
        let breaker = Breaker::default();
        assert!(!breaker.is_open());
        let begun = breaker.openings();
        assert!(breaker.open(begun, "test"));
        assert!(breaker.is_open());
        assert!(!breaker.open(begun, "of another lane"));
        breaker.close();
        assert!(!breaker.is_open());
        assert!(!breaker.open(begun, "late"), "a connection of before");
        assert!(!breaker.is_open());
        assert!(breaker.open(breaker.openings(), "again"));
    }
}
