//! Leaving a Redis alone that fails, so that no lane waits on it, and saying so once. No lane finds out whether it is back:
//! behind a network that swallows everything each try would cost a request its time. The clerk of the debts does. Of a cluster the
//! buckets of a master that fails are left alone, and no others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::scoreboard::buckets::{BUCKETS, Buckets};

/// How often a Redis that keeps refusing is said to.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Open for the buckets whose Redis is away, as far as is known.
pub(super) struct Breaker {
    start: Instant,
    /// The bits of those buckets.
    down: AtomicU64,
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
            down: AtomicU64::new(0),
            openings: AtomicU64::new(0),
            quiet_until: AtomicU64::new(0),
        }
    }
}

impl Breaker {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// The buckets for which it is open, which is: don't try.
    pub(super) fn down(&self) -> Buckets {
        Buckets::from_bits(self.down.load(Ordering::Acquire))
    }

    /// How often it has opened by now, which a connection that begins remembers.
    pub(super) fn openings(&self) -> u64 {
        self.openings.load(Ordering::Acquire)
    }

    /// Notes that an exchange about these buckets failed, on a connection that began after so many openings. True if the breaker has
    /// opened just now; a connection of before tells nothing new.
    pub(super) fn open(&self, openings: u64, buckets: Buckets, why: &str) -> bool {
        if openings != self.openings() {
            return false;
        }
        let before = self.down.fetch_or(buckets.bits(), Ordering::AcqRel);
        if Buckets::from_bits(before).contain(buckets) {
            return false;
        }
        self.openings.fetch_add(1, Ordering::AcqRel);
        match buckets.count() {
            BUCKETS => log::warn!(
                "redis: not available, so requests go to the database until it is back: {why}"
            ),
            some => log::warn!(
                "redis: not available for {some} of {BUCKETS} buckets, so requests for those go to the database until it is back: {why}"
            ),
        }
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

    /// Notes that Redis answers for these buckets.
    pub(super) fn close(&self, buckets: Buckets) {
        if !self.down().meet(buckets) {
            return;
        }
        // Connections that were made meanwhile lack the servers that were left alone.
        self.retire();
        let before = self.down.fetch_and(!buckets.bits(), Ordering::AcqRel);
        let left = Buckets::from_bits(before).without(buckets);
        match left.count() {
            0 => log::info!("redis: available again"),
            some => {
                log::info!("redis: available again, but for {some} of {BUCKETS} buckets");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_before_the_last_opening_opens_nothing() {
        let breaker = Breaker::default();
        let is_open = || breaker.down() == Buckets::ALL;
        let open = |openings, why| breaker.open(openings, Buckets::ALL, why);
        assert!(!is_open());
        let begun = breaker.openings();
        assert!(open(begun, "test"));
        assert!(is_open());
        assert!(!open(begun, "of another lane"));
        breaker.close(Buckets::ALL);
        assert!(!is_open());
        assert!(!open(begun, "late"), "a connection of before");
        assert!(!is_open());
        assert!(open(breaker.openings(), "again"));
    }

    #[test]
    fn what_fails_for_some_buckets_is_left_alone_for_those() {
        let breaker = Breaker::default();
        let (some, more): (Buckets, Buckets) = ((0..20).collect(), (10..30).collect());
        assert!(breaker.open(breaker.openings(), some, "one"));
        assert!(!breaker.open(breaker.openings(), some, "known"));
        assert!(breaker.open(breaker.openings(), more, "another"));
        assert_eq!(breaker.down(), some.and(more));
        let begun = breaker.openings();
        breaker.close(some);
        assert_eq!(breaker.down(), more.without(some));
        // What began before lacks a server.
        assert_ne!(breaker.openings(), begun);
        breaker.close(Buckets::ALL);
        assert_eq!(breaker.down(), Buckets::NONE);
    }
}
