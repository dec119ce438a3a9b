//! The worker's own cache: finished answers, bounded in bytes, each stamped with the generation that its key had before
//! anything was asked for it. An answer counts only while the stamp still is the table's, so it is never older than
//! a write that was acknowledged on this host.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use super::trust::Trust;
use crate::scoreboard::generations::{Entry, Generations};

/// What an entry costs besides its answer: the cache's own 21 bytes, the entry, and the heap's rounding.
const OVERHEAD: usize = 200;

/// For how many milliseconds after its time an answer is given when there is nobody to ask: an outage, or the better part of
/// a failover. Nobody reads what is written to a database that is away; but it may be away for this host alone.
const LATE: u64 = 60_000;

/// The size of a usual answer, from which the cache guesses how many there will be.
const USUAL_ANSWER: usize = 1024;

/// Answers by shoe. Only the scheduler's thread comes here, and before it serves the one that starts it, so the lock is never
/// contended.
pub struct L1<V> {
    answers: Option<Mutex<Cache<i32, Kept<V>, ByBytes>>>,
    generations: Generations,
    trust: Arc<Trust>,
    /// Milliseconds.
    ttl: u64,
}

struct Kept<V> {
    answer: V,
    bytes: usize,
    stamp: Stamp,
    /// Milliseconds on the caller's clock.
    until: u64,
}

/// What was true before an answer was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    generation: u64,
    /// The period of hearing, 0 for none.
    period: u64,
}

impl Stamp {
    /// Whether it changes with the writes of other hosts, too, and not with those of this host alone.
    pub fn hears_others(&self) -> bool {
        self.period != 0
    }
}

/// What the cache knows of a shoe.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<V> {
    Answer(V),
    /// Nothing that counts. What is asked for now may be kept under the stamp, if that hears others, and may answer whoever
    /// gets the same stamp later, if it does not hear them not much later; without one it is for who asks alone.
    Nothing(Option<Stamp>),
}

/// An answer as the cache of one worker hands it to that of another on the same host.
#[derive(Debug, PartialEq, Eq)]
pub struct Handed<V> {
    pub shoe_id: i32,
    pub answer: V,
    /// The generation that it was asked for under.
    pub generation: u64,
    /// Milliseconds until its time is over; negative when that was so long ago.
    pub left: i64,
}

impl<V> Handed<V> {
    /// The same with another answer.
    pub fn map<W>(self, answer: impl FnOnce(V) -> W) -> Handed<W> {
        Handed {
            shoe_id: self.shoe_id,
            answer: answer(self.answer),
            generation: self.generation,
            left: self.left,
        }
    }
}

#[derive(Clone)]
struct ByBytes;

impl<V> Weighter<i32, Kept<V>> for ByBytes {
    fn weight(&self, _: &i32, kept: &Kept<V>) -> u64 {
        (kept.bytes + OVERHEAD) as u64
    }
}

impl<V: Clone> L1<V> {
    /// A cache of at most `bytes`, none at all for 0. `ttl` bounds the age of answers that a write made elsewhere, of
    /// which nobody told this host, has made old.
    pub fn new(bytes: usize, ttl: Duration, generations: Generations, trust: Arc<Trust>) -> Self {
        L1 {
            answers: (bytes > 0).then(|| {
                let items = (bytes / (USUAL_ANSWER + OVERHEAD)).max(16);
                Mutex::new(Cache::with_weighter(items, bytes as u64, ByBytes))
            }),
            generations,
            trust,
            ttl: ttl.as_millis() as u64,
        }
    }

    fn answers(&self) -> Option<MutexGuard<'_, Cache<i32, Kept<V>, ByBytes>>> {
        // A panic inside the cache would leave it whole enough to be dropped from, and stamps guard the rest.
        let answers = self.answers.as_ref()?;
        Some(answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The stamp of what is asked for now; `None` while writes of this host move another table.
    fn stamp(&self, shoe_id: i32) -> Option<Stamp> {
        // Loaded first of all: what a write kills from here on was asked for too early.
        let entry = Entry::of_shoe(shoe_id);
        let period = self.trust.period(entry).unwrap_or(0);
        self.generations.are_everybodys().then(|| Stamp {
            generation: self.generations.load(entry),
            period,
        })
    }

    /// Looks a shoe up. `now` is any clock of milliseconds, the same for all calls.
    pub fn find(&self, shoe_id: i32, now: u64) -> Found<V> {
        let Some(stamp) = self.stamp(shoe_id) else {
            return Found::Nothing(None);
        };
        let answers = self.answers();
        match answers.as_ref().and_then(|answers| answers.get(&shoe_id)) {
            // What is kept was asked for under a stamp that heard others.
            Some(kept) if kept.stamp == stamp && now < kept.until => {
                Found::Answer(kept.answer.clone())
            }
            _ => Found::Nothing(Some(stamp)),
        }
    }

    /// What was kept of a shoe and is past its time, for a minute, when there is nobody to ask: no write that this host was
    /// told of has ended it.
    pub fn find_late(&self, shoe_id: i32, now: u64) -> Option<V> {
        let stamp = self.stamp(shoe_id)?;
        let answers = self.answers()?;
        let kept = answers.get(&shoe_id)?;
        (kept.stamp == stamp && now < kept.until + LATE).then(|| kept.answer.clone())
    }

    /// Keeps an answer of this many bytes that was asked for after its stamp was given, at the moment `asked`: its age
    /// counts from there.
    pub fn keep(&self, shoe_id: i32, answer: V, bytes: usize, stamp: Stamp, asked: u64) {
        let entry = Entry::of_shoe(shoe_id);
        // A write in between has made it old already: it would only take the place of another.
        if self.trust.period(entry) != Some(stamp.period)
            || self.generations.load(entry) != stamp.generation
        {
            return;
        }
        if let Some(mut answers) = self.answers() {
            let kept = Kept {
                answer,
                bytes,
                stamp,
                until: asked + self.ttl,
            };
            answers.insert(shoe_id, kept);
        }
    }

    /// All that counts, for a worker that starts. `now` as in [`L1::find`].
    pub fn hand_on(&self, now: u64) -> Vec<Handed<V>> {
        let Some(answers) = self.answers() else {
            return Vec::new();
        };
        let counting = answers.iter().filter(|(shoe_id, kept)| {
            self.stamp(**shoe_id) == Some(kept.stamp) && now < kept.until + LATE
        });
        counting
            .map(|(shoe_id, kept)| Handed {
                shoe_id: *shoe_id,
                answer: kept.answer.clone(),
                generation: kept.stamp.generation,
                left: kept.until as i64 - now as i64,
            })
            .collect()
    }

    /// Takes an answer over from a worker that has served beside this one all along and heard whatever this one would have. True
    /// if it counts: the host's generations say so, whoever loaded them.
    pub fn take_over(&self, handed: Handed<V>, bytes: usize, now: u64) -> bool {
        let Some(stamp) = self.stamp(handed.shoe_id) else {
            return false;
        };
        let counts = stamp.hears_others() && stamp.generation == handed.generation;
        if counts && let Some(mut answers) = self.answers() {
            let left = handed.left.min(self.ttl as i64);
            let kept = Kept {
                answer: handed.answer,
                bytes,
                stamp,
                until: now.saturating_add_signed(left),
            };
            answers.insert(handed.shoe_id, kept);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;
    use crate::scoreboard::buckets::Buckets;

    const TTL: u64 = 1000;

    fn cache(bytes: usize, trust: &Arc<Trust>) -> (L1<u32>, Scoreboard) {
        let board = Scoreboard::new().expect("shared memory");
        let ttl = Duration::from_millis(TTL);
        (
            L1::new(bytes, ttl, board.generations(), trust.clone()),
            board,
        )
    }

    fn stamp(found: Found<u32>) -> Stamp {
        match found {
            Found::Nothing(Some(stamp)) => stamp,
            other => panic!("{other:?} is no stamp"),
        }
    }

    #[test]
    fn an_answer_counts_until_its_time_is_over() {
        let (l1, _) = cache(1 << 20, &Arc::new(Trust::always()));
        let first = stamp(l1.find(7, 0));
        l1.keep(7, 1, 100, first, 0);
        assert_eq!(l1.find(7, TTL - 1), Found::Answer(1));
        assert_eq!(stamp(l1.find(7, TTL)), first);
        stamp(l1.find(8, 0));
    }

    #[test]
    fn an_answer_past_its_time_is_had_for_a_minute_unless_a_write_has_ended_it() {
        let trust = Arc::new(Trust::always());
        let (l1, board) = cache(1 << 20, &trust);
        let late = |now| l1.find_late(7, now);
        assert_eq!(late(0), None);
        l1.keep(7, 1, 100, stamp(l1.find(7, 0)), 0);
        assert_eq!((late(0), late(TTL + LATE - 1)), (Some(1), Some(1)));
        assert_eq!(late(TTL + LATE), None);
        trust.suspend(Buckets::ALL);
        assert_eq!(late(TTL), None, "others may have written");
        trust.begin(Buckets::ALL);
        assert_eq!(late(TTL), None);
        l1.keep(7, 2, 100, stamp(l1.find(7, 0)), 0);
        assert_eq!(late(TTL), Some(2));
        drop(board.row(0).intend(0, &[7]));
        assert_eq!(late(TTL), None);
        l1.keep(7, 3, 100, stamp(l1.find(7, 0)), 0);
        board.divide();
        assert_eq!(late(TTL), None);
    }

    #[test]
    fn a_write_kills_what_is_kept_and_what_was_asked_for_before_it() {
        let (l1, board) = cache(1 << 20, &Arc::new(Trust::always()));
        let early = stamp(l1.find(7, 0));
        l1.keep(7, 1, 100, early, 0);
        drop(board.row(0).intend(0, &[7]));
        let late = stamp(l1.find(7, 0));
        l1.keep(7, 1, 100, early, 0);
        assert_eq!(stamp(l1.find(7, 0)), late);
        l1.keep(7, 2, 100, late, 0);
        assert_eq!(l1.find(7, 0), Found::Answer(2));
    }

    #[test]
    fn nothing_counts_while_others_are_not_heard_and_nothing_of_before() {
        let trust = Arc::new(Trust::not_yet());
        let (l1, _) = cache(1 << 20, &trust);
        let unheard = stamp(l1.find(7, 0));
        assert!(!unheard.hears_others());
        l1.keep(7, 0, 100, unheard, 0);
        assert_eq!(stamp(l1.find(7, 0)), unheard);
        trust.begin(Buckets::ALL);
        let early = stamp(l1.find(7, 0));
        assert!(early.hears_others());
        l1.keep(7, 0, 100, unheard, 0);
        assert_eq!(stamp(l1.find(7, 0)), early);
        l1.keep(7, 1, 100, early, 0);
        assert_eq!(l1.find(7, 0), Found::Answer(1));
        trust.suspend(Buckets::ALL);
        assert_eq!(stamp(l1.find(7, 0)), unheard);
        trust.begin(Buckets::ALL);
        let late = stamp(l1.find(7, 0));
        l1.keep(7, 1, 100, early, 0);
        assert_eq!(stamp(l1.find(7, 0)), late);
    }

    #[test]
    fn nothing_counts_and_nothing_is_kept_while_another_table_is_moved_instead() {
        let (l1, board) = cache(1 << 20, &Arc::new(Trust::always()));
        let early = stamp(l1.find(7, 0));
        l1.keep(7, 1, 100, early, 0);
        assert_eq!(l1.find(7, 0), Found::Answer(1));
        board.divide();
        assert_eq!(l1.find(7, 0), Found::Nothing(None));
    }

    #[test]
    fn a_new_worker_takes_over_what_counts() {
        let trust = Arc::new(Trust::always());
        let (old, board) = cache(1 << 20, &trust);
        let heir = || {
            let ttl = Duration::from_millis(TTL);
            L1::new(1 << 20, ttl, board.generations(), Arc::new(Trust::always()))
        };
        for (shoe_id, answer) in [(7, 1), (8, 2), (9, 3)] {
            old.keep(shoe_id, answer, 100, stamp(old.find(shoe_id, 0)), 0);
        }
        drop(board.row(0).intend(0, &[8]));
        let handed = |now| {
            let mut handed = old.hand_on(now);
            handed.sort_by_key(|handed| handed.shoe_id);
            handed
        };
        let of = |shoe_id, answer, left| Handed {
            shoe_id,
            answer,
            generation: 0,
            left,
        };
        assert_eq!(handed(400), [of(7, 1, 600), of(9, 3, 600)]);
        // The heir's clock is its own; how long an answer has left is not.
        let new = heir();
        assert!(
            handed(400)
                .into_iter()
                .all(|one| new.take_over(one, 100, 5))
        );
        assert_eq!(new.find(7, 604), Found::Answer(1));
        assert!(matches!(new.find(7, 605), Found::Nothing(Some(_))));
        assert!(matches!(new.find(8, 5), Found::Nothing(Some(_))));
        // A write that comes between counts, and after it as well.
        drop(board.row(0).intend(0, &[9]));
        let newer = heir();
        assert!(!newer.take_over(of(9, 3, 600), 100, 5));
        assert!(newer.take_over(of(7, 1, 600), 100, 5));
        drop(board.row(0).intend(0, &[7]));
        assert!(matches!(newer.find(7, 5), Found::Nothing(Some(_))));
        // What is past its time is for an outage, and a longer life than its own cache gives none has.
        assert_eq!(handed(TTL + LATE), []);
        let past = heir();
        let generation = board.generations().load(Entry::of_shoe(10));
        let long = |left| Handed {
            shoe_id: 10,
            answer: 4,
            generation,
            left,
        };
        assert!(past.take_over(long(i64::MAX), 100, 5));
        assert_eq!(past.find(10, TTL + 4), Found::Answer(4));
        assert!(matches!(past.find(10, TTL + 5), Found::Nothing(_)));
        assert!(past.take_over(long(-1000), 100, 5000));
        assert!(matches!(past.find(10, 5000), Found::Nothing(_)));
        assert_eq!(past.find_late(10, 5000), Some(4));
    }

    #[test]
    fn who_does_not_hear_others_takes_nothing_over_and_hands_nothing_on() {
        let trust = Arc::new(Trust::always());
        let (old, board) = cache(1 << 20, &trust);
        old.keep(7, 1, 100, stamp(old.find(7, 0)), 0);
        let deaf: L1<u32> = L1::new(
            1 << 20,
            Duration::from_millis(TTL),
            board.generations(),
            Arc::new(Trust::not_yet()),
        );
        let handed = old.hand_on(0);
        assert_eq!(handed.len(), 1);
        assert!(handed.into_iter().all(|one| !deaf.take_over(one, 100, 0)));
        trust.suspend(Buckets::ALL);
        assert_eq!(old.hand_on(0), []);
        trust.begin(Buckets::ALL);
        assert_eq!(old.hand_on(0), []);
        board.divide();
        assert_eq!(old.hand_on(0), []);
    }

    #[test]
    fn a_flood_of_keys_neither_outgrows_it_nor_drives_out_what_is_hot() {
        const BYTES: usize = 1 << 20;
        let (l1, _) = cache(BYTES, &Arc::new(Trust::always()));
        let ask = |shoe_id: i32| match l1.find(shoe_id, 0) {
            Found::Answer(_) => true,
            Found::Nothing(stamp) => {
                l1.keep(shoe_id, 0, 1000, stamp.expect("a stamp"), 0);
                false
            }
        };
        // A tenth of the room is hot, and each hot key is asked for now and then while 50 times the room passes by.
        let hot = (BYTES / (1000 + OVERHEAD) / 10) as i32;
        for _ in 0..3 {
            for shoe_id in 0..hot {
                ask(shoe_id);
            }
        }
        let (mut hits, mut asked) = (0, 0);
        for strange in 0..50 * 10 * hot {
            ask(1_000_000 + strange);
            if strange % 5 == 0 {
                asked += 1;
                hits += u32::from(ask(strange / 5 % hot));
            }
        }
        assert!(hits * 100 >= asked * 95, "{hits} of {asked} were hits");
        let weight = l1.answers().expect("a cache").weight();
        assert!(weight <= BYTES as u64, "{weight} bytes");
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let (l1, _) = cache(0, &Arc::new(Trust::always()));
        let first = stamp(l1.find(7, 0));
        l1.keep(7, 1, 100, first, 0);
        assert_eq!(stamp(l1.find(7, 0)), first);
    }
}
