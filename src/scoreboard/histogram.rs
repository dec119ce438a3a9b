//! How often something took how long: counts by fixed bounds, as words of a row. Each histogram has one writer at a time, so
//! a count is a load and a store, which cost no locked instruction; readers see each word as it was or as it is.

use std::time::Duration;

use super::atomic::{AtomicU64, Ordering};

/// The upper bounds of the buckets, in microseconds: what is as long as a bound is in its bucket (`le` in Prometheus).
pub const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_000_000,
];

/// One a bound, and one for what is above the last.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// The sum stands before the counts: in one cache line with that of the first bucket, where nearly all are counted.
const SUM: usize = 0;
const FIRST: usize = 1;
pub(super) const WORDS: usize = FIRST + BUCKETS;

/// A histogram at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not cumulative.
    pub buckets: [u64; BUCKETS],
    pub sum_ns: u64,
}

impl Counts {
    /// Adds another one to it.
    pub fn add(&mut self, other: &Counts) {
        for (ours, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *ours += theirs;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    /// How many there are in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The bucket of a duration. Those of a loaded server are nearly all in the first.
fn bucket(nanos: u64) -> usize {
    BOUNDS_US
        .iter()
        .position(|bound| nanos <= bound * 1000)
        .unwrap_or(BOUNDS_US.len())
}

/// Counts one. Only for who writes alone: a second writer at the same time would lose counts.
pub(super) fn record(words: &[AtomicU64], took: Duration) {
    let nanos = took.as_secs() * 1_000_000_000 + u64::from(took.subsec_nanos());
    grow(&words[SUM], nanos);
    grow(&words[FIRST + bucket(nanos)], 1);
}

fn grow(word: &AtomicU64, by: u64) {
    let before = word.load(Ordering::Relaxed);
    word.store(before.wrapping_add(by), Ordering::Relaxed);
}

pub(super) fn read(words: &[AtomicU64]) -> Counts {
    let mut counts = Counts {
        sum_ns: words[SUM].load(Ordering::Relaxed),
        ..Counts::default()
    };
    for (count, word) in counts.buckets.iter_mut().zip(&words[FIRST..]) {
        *count = word.load(Ordering::Relaxed);
    }
    counts
}

/// Adds what was counted elsewhere. Only for who writes alone.
pub(super) fn add(words: &[AtomicU64], counts: &Counts) {
    grow(&words[SUM], counts.sum_ns);
    for (word, count) in words[FIRST..].iter().zip(counts.buckets) {
        grow(word, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_long_as_a_bound_is_in_its_bucket() {
        assert_eq!(bucket(0), 0);
        for (at, bound) in BOUNDS_US.into_iter().enumerate() {
            assert_eq!(bucket(bound * 1000), at);
            assert_eq!(bucket(bound * 1000 + 1), at + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!(BOUNDS_US.is_sorted());
    }
}
