//! Where this host's writes are marked in Redis, and what it owes there: for each bucket the process of Redis that it was last
//! found in, how many writes, ever, could not be marked, and up to which of those that part of Redis was emptied since. One
//! server has all buckets; each master of a cluster has some.

use super::atomic::{AtomicU64, Ordering};
use super::buckets::{BUCKETS, Buckets};

/// The words of the record.
pub(super) const WORDS: usize = 3 * BUCKETS;

/// What stands for no process: the bucket is on its way to another one.
const MOVING: u64 = u64::MAX;

/// The record of the host.
#[derive(Clone, Copy)]
pub struct Marks {
    pub(super) words: &'static [AtomicU64],
}

/// What was owed when somebody looked: pass it to [`Marks::settle`] once that part of Redis holds nothing old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    owed: Vec<(usize, u64)>,
}

impl Debt {
    /// The buckets in which something is owed.
    pub fn buckets(&self) -> Buckets {
        self.owed.iter().map(|(bucket, _)| *bucket).collect()
    }
}

impl Marks {
    fn owed(&self, bucket: usize) -> &'static AtomicU64 {
        &self.words[bucket]
    }

    fn settled(&self, bucket: usize) -> &'static AtomicU64 {
        &self.words[BUCKETS + bucket]
    }

    /// Which process the bucket's writes are marked in, 0 before the first.
    fn run(&self, bucket: usize) -> &'static AtomicU64 {
        &self.words[2 * BUCKETS + bucket]
    }

    /// Notes that a write in these buckets may leave its old value in Redis. Called before the commit, so that nobody on this
    /// host believes Redis once the write shows. A worker that dies afterwards leaves its debt to the others.
    pub fn owe(&self, buckets: Buckets) {
        for bucket in buckets.numbers() {
            self.owed(bucket).fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Says that these buckets are in this process of Redis (a number that stands for it, never 0) from now on. What was marked in another
    /// one is owed: this one may never have got it. Answers with the buckets that were in another one.
    pub fn move_to(&self, buckets: Buckets, run: u64) -> Buckets {
        let moves = |bucket: &usize| self.move_one(*bucket, run);
        buckets.numbers().filter(moves).collect()
    }

    fn move_one(&self, bucket: usize, run: u64) -> bool {
        let word = self.run(bucket);
        let first = word.compare_exchange(0, run, Ordering::SeqCst, Ordering::SeqCst);
        let Err(last) = first else {
            return false;
        };
        if last == run {
            return false;
        }
        // Owed while it is nowhere: who sees the new process sees the debt, and who settles in the old one and finds the bucket still
        // there has settled nothing of this.
        word.store(MOVING, Ordering::SeqCst);
        self.owed(bucket).fetch_add(1, Ordering::SeqCst);
        word.store(run, Ordering::SeqCst);
        true
    }

    /// Whether that process is the one in which this host's writes in these buckets are marked.
    pub fn are_in(&self, buckets: Buckets, run: u64) -> bool {
        let is_in = |bucket| self.run(bucket).load(Ordering::SeqCst) == run;
        buckets.numbers().all(is_in)
    }

    /// Whether something is owed in any of these buckets.
    pub fn is_owed(&self, buckets: Buckets) -> bool {
        buckets
            .numbers()
            .any(|bucket| self.owed_of(bucket).is_some())
    }

    fn owed_of(&self, bucket: usize) -> Option<u64> {
        // Settled is read first: read the other way round, a settlement in between would hide a newer debt.
        let settled = self.settled(bucket).load(Ordering::SeqCst);
        let owed = self.owed(bucket).load(Ordering::SeqCst);
        (settled < owed).then_some(owed)
    }

    /// The debt to be settled now in these buckets, if any.
    pub fn debt(&self, buckets: Buckets) -> Option<Debt> {
        let of_one = |bucket| Some((bucket, self.owed_of(bucket)?));
        let owed: Vec<(usize, u64)> = buckets.numbers().filter_map(of_one).collect();
        (!owed.is_empty()).then_some(Debt { owed })
    }

    /// Forgives the debt as it was when it was read; one made since stays. Any worker may settle for all. It must have found the
    /// buckets in the process in which it settled, after it had.
    pub fn settle(&self, debt: &Debt) {
        for (bucket, owed) in &debt.owed {
            self.settled(*bucket).fetch_max(*owed, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    const SOME: Buckets = Buckets::ALL;

    #[test]
    fn what_was_marked_in_another_redis_is_owed() {
        let marks = Scoreboard::new().expect("shared memory").marks();
        assert_eq!(marks.move_to(SOME, 7), Buckets::NONE);
        assert_eq!(marks.move_to(SOME, 7), Buckets::NONE);
        assert_eq!(marks.debt(SOME), None);
        assert_eq!(marks.move_to(SOME, 8), SOME);
        assert!(marks.are_in(SOME, 8) && !marks.are_in(SOME, 7));
        let debt = marks.debt(SOME).expect("owed");
        marks.settle(&debt);
        assert_eq!(marks.move_to(SOME, 7), SOME, "it is another one once more");
        assert!(marks.is_owed(SOME));
    }

    #[test]
    fn what_one_bucket_owes_is_no_other_ones_debt() {
        let marks = Scoreboard::new().expect("shared memory").marks();
        let (here, there) = (Buckets::one(3), Buckets::one(63));
        marks.move_to(Buckets::ALL, 7);
        assert_eq!(marks.move_to(here, 8), here);
        assert!(marks.are_in(here, 8) && marks.are_in(there, 7));
        assert!(marks.is_owed(here) && marks.is_owed(Buckets::ALL) && !marks.is_owed(there));
        let debt = marks.debt(Buckets::ALL).expect("owed");
        assert_eq!(debt.buckets(), here);
        marks.settle(&debt);
        assert!(!marks.is_owed(Buckets::ALL));
    }

    #[test]
    fn a_debt_made_while_an_older_one_is_settled_stays() {
        let marks = Scoreboard::new().expect("shared memory").marks();
        assert_eq!(marks.debt(SOME), None);
        marks.owe(SOME);
        let seen = marks.debt(SOME).expect("owed");
        marks.owe(SOME);
        marks.settle(&seen);
        let newer = marks.debt(SOME).expect("the newer debt stays");
        marks.settle(&newer);
        marks.settle(&seen);
        assert_eq!(marks.debt(SOME), None);
    }
}
