//! Whether this host hears of the writes of others. While it does not, nothing cached counts; once it does again, nothing of before.
//! Where several servers tell of them, each does so of its buckets.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::scoreboard::buckets::{BUCKETS, Buckets};
use crate::scoreboard::generations::Entry;

/// What is heard, by bucket.
pub struct Trust {
    /// The period of hearing, 0 while there is none.
    heard: [AtomicU64; BUCKETS],
    periods: AtomicU64,
}

impl Trust {
    /// For a host that has nobody to hear of.
    pub fn always() -> Self {
        let trust = Trust::not_yet();
        trust.begin(Buckets::ALL);
        trust
    }

    /// For one that has yet to begin.
    pub fn not_yet() -> Self {
        Trust {
            heard: [const { AtomicU64::new(0) }; BUCKETS],
            periods: AtomicU64::new(0),
        }
    }

    /// The period in which the writes to the keys of an entry are heard.
    pub(super) fn period(&self, entry: Entry) -> Option<u64> {
        let period = self.heard[entry.bucket()].load(Ordering::SeqCst);
        Some(period).filter(|period| *period != 0)
    }

    /// Whatever is written in these buckets elsewhere from now on may go unheard.
    pub fn suspend(&self, buckets: Buckets) {
        for bucket in buckets.numbers() {
            self.heard[bucket].store(0, Ordering::SeqCst);
        }
    }

    /// Whatever is written in these buckets elsewhere from now on will be heard.
    pub fn begin(&self, buckets: Buckets) {
        let period = self.periods.fetch_add(1, Ordering::SeqCst) + 1;
        for bucket in buckets.numbers() {
            self.heard[bucket].store(period, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_heard_of_some_buckets_is_heard_of_others() {
        let (here, there) = (Entry::of_shoe(7), Entry::of_shoe(9));
        assert_ne!(here.bucket(), there.bucket());
        let trust = Trust::always();
        let before = (trust.period(here), trust.period(there));
        trust.suspend(Buckets::one(here.bucket()));
        assert_eq!((trust.period(here), trust.period(there)), (None, before.1));
        trust.begin(Buckets::one(here.bucket()));
        assert!(trust.period(here) > before.0);
        assert_eq!(trust.period(there), before.1);
    }
}
