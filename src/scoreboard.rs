//! What master and workers share in memory. One memfd of 64-bit atomics, mapped before the first fork:
//! readers never lock, and a worker killed at any instruction leaves it usable, since every write is one word.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// The words of the table, by place.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// How many writes, ever, could not mark their shoe in Redis before they committed.
    RedisOwed,
    /// Up to which of those Redis was emptied since.
    RedisSettled,
    /// How many words there are.
    Count,
}

/// The shared table. Copying it copies the view, not the memory.
#[derive(Clone, Copy)]
pub struct Scoreboard {
    words: &'static [AtomicU64],
}

impl Scoreboard {
    /// Maps a zeroed table.
    ///
    /// # Errors
    /// The kernel's, when it has no memory to share.
    pub fn new() -> io::Result<Self> {
        Ok(Scoreboard {
            words: sys::shared_words("canvas-cluster-scoreboard", Word::Count as usize)?,
        })
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        &self.words[word as usize]
    }

    /// Notes that a write may leave its old value in Redis. Called before the commit, so that nobody on this
    /// host believes Redis once the write shows. A worker that dies afterwards leaves its debt to the others.
    pub fn owe_redis(&self) {
        self.word(Word::RedisOwed).fetch_add(1, Ordering::SeqCst);
    }

    /// The debt to be settled now, if any: pass it to [`Scoreboard::settle_redis`] once Redis holds nothing old.
    pub fn redis_debt(&self) -> Option<RedisDebt> {
        // Settled is read first: read the other way round, a settlement in between would hide a newer debt.
        let settled = self.word(Word::RedisSettled).load(Ordering::SeqCst);
        let owed = self.word(Word::RedisOwed).load(Ordering::SeqCst);
        (settled < owed).then_some(RedisDebt(owed))
    }

    /// Forgives the debt as it was when it was read; one made since stays. Any worker may settle for all.
    pub fn settle_redis(&self, debt: RedisDebt) {
        self.word(Word::RedisSettled)
            .fetch_max(debt.0, Ordering::SeqCst);
    }
}

/// How far the debt reached when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisDebt(u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_made_while_an_older_one_is_settled_stays() {
        let board = Scoreboard::new().expect("shared memory");
        assert_eq!(board.redis_debt(), None);
        board.owe_redis();
        let seen = board.redis_debt().expect("owed");
        board.owe_redis();
        board.settle_redis(seen);
        let newer = board.redis_debt().expect("the newer debt stays");
        board.settle_redis(newer);
        board.settle_redis(seen);
        assert_eq!(board.redis_debt(), None);
    }
}
