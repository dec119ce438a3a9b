//! Buckets: the keys of the host in as many parts as a Redis Cluster may hold in places of their own. What is known of one
//! server of a cluster concerns the buckets that it serves, and no others.

use std::iter;

use super::atomic::Ordering;
use super::generations::{ENTRIES, Entry, Generations};

/// How many buckets there are: as many as a word has bits.
pub const BUCKETS: usize = 64;

/// How many entries of the table of generations belong to a bucket.
const ENTRIES_A_BUCKET: usize = ENTRIES / BUCKETS;

/// Some of the buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buckets(u64);

impl Buckets {
    pub const NONE: Buckets = Buckets(0);
    pub const ALL: Buckets = Buckets(u64::MAX);

    /// One bucket; `bucket` is below [`BUCKETS`].
    pub fn one(bucket: usize) -> Self {
        Buckets(1 << (bucket % BUCKETS))
    }

    pub fn from_bits(bits: u64) -> Self {
        Buckets(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn and(self, others: Buckets) -> Self {
        Buckets(self.0 | others.0)
    }

    #[must_use]
    pub fn without(self, others: Buckets) -> Self {
        Buckets(self.0 & !others.0)
    }

    /// Those that are among both.
    #[must_use]
    pub fn common(self, others: Buckets) -> Self {
        Buckets(self.0 & others.0)
    }

    /// Whether all of the others are among these.
    pub fn contain(self, others: Buckets) -> bool {
        others.without(self).is_empty()
    }

    /// Whether some bucket is among both.
    pub fn meet(self, others: Buckets) -> bool {
        !self.common(others).is_empty()
    }

    /// Their numbers, in ascending order.
    pub fn numbers(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        iter::from_fn(move || {
            let bucket = (left != 0).then(|| left.trailing_zeros() as usize)?;
            // Without its lowest bit.
            left &= left - 1;
            Some(bucket)
        })
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl FromIterator<usize> for Buckets {
    fn from_iter<I: IntoIterator<Item = usize>>(buckets: I) -> Self {
        let one = |all: Buckets, bucket| all.and(Buckets::one(bucket));
        buckets.into_iter().fold(Buckets::NONE, one)
    }
}

impl Entry {
    /// The bucket that its keys are in.
    pub fn bucket(self) -> usize {
        usize::from(self.0) / ENTRIES_A_BUCKET
    }
}

impl Generations {
    /// Kills what is cached of the keys in these buckets, everywhere on the host.
    pub fn bump_buckets(&self, buckets: Buckets) {
        for bucket in buckets.numbers() {
            let first = bucket * ENTRIES_A_BUCKET;
            for entry in &self.entries[first..first + ENTRIES_A_BUCKET] {
                entry.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn sets_of_buckets() {
        let some: Buckets = [3, 63].into_iter().collect();
        assert_eq!(some.numbers().collect::<Vec<_>>(), [3, 63]);
        assert!(Buckets::ALL.contain(some) && !some.contain(Buckets::ALL));
        assert!(some.meet(Buckets::one(3)) && !some.meet(Buckets::one(4)));
        assert_eq!(some.without(Buckets::one(63)), Buckets::one(3));
        assert!(some.contain(Buckets::NONE) && Buckets::default().is_empty());
    }

    #[test]
    fn a_bucket_is_killed_with_all_its_keys_and_no_others() {
        let board = Scoreboard::new().expect("shared memory");
        let generations = board.generations();
        let (shoe, last) = (Entry::of_shoe(7), Entry(u16::MAX));
        assert_eq!(last.bucket(), BUCKETS - 1);
        assert_ne!(shoe.bucket(), last.bucket());
        generations.bump_buckets(Buckets::one(shoe.bucket()));
        assert_eq!((generations.load(shoe), generations.load(last)), (1, 0));
        generations.bump_buckets(Buckets::ALL);
        assert_eq!((generations.load(shoe), generations.load(last)), (2, 1));
    }
}
