//! Leaving a Redis alone that fails, so that no lane waits on it, and saying so once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long to leave Redis alone after it failed.
const BREAK: Duration = Duration::from_millis(250);

/// How often a Redis that keeps refusing is said to.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Leaves a failing Redis alone for [`BREAK`] at a time, and says each change once.
pub(super) struct Breaker {
    start: Instant,
    /// Milliseconds since `start` until which nobody tries.
    until: AtomicU64,
    down: AtomicBool,
    /// Milliseconds since `start` before which a refusal is not said again.
    quiet_until: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            start: Instant::now(),
            until: AtomicU64::new(0),
            down: AtomicBool::new(false),
            quiet_until: AtomicU64::new(0),
        }
    }
}

impl Breaker {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Open is: don't try. When its time is over one caller is let through to probe, and the others wait on.
    pub(super) fn is_open(&self) -> bool {
        if !self.down.load(Ordering::Relaxed) {
            return false;
        }
        let until = self.until.load(Ordering::Relaxed);
        let now = self.now();
        now < until
            || self
                .until
                .compare_exchange(
                    until,
                    now + BREAK.as_millis() as u64,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_err()
    }

    pub(super) fn open(&self, why: &str) {
        self.until
            .store(self.now() + BREAK.as_millis() as u64, Ordering::Relaxed);
        if !self.down.swap(true, Ordering::Relaxed) {
            log::warn!(
                "redis: not available, so requests go to the database until it is back: {why}"
            );
        }
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

    pub(super) fn close(&self) {
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            log::info!("redis: available again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_breaker_lets_one_probe_through_after_its_time() {
        let breaker = Breaker::default();
        assert!(!breaker.is_open());
        breaker.open("test");
        assert!(breaker.is_open());
        breaker.until.store(0, Ordering::Relaxed);
        assert!(!breaker.is_open(), "the first caller probes");
        assert!(breaker.is_open(), "the next one waits for its outcome");
        breaker.close();
        assert!(!breaker.is_open());
    }
}
