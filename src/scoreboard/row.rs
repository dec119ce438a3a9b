//! A worker's row: what it has counted, and which writes it has begun.

use std::time::Duration;

use super::atomic::{AtomicU64, Ordering};
use super::counters::Counter;
use super::generations::{Entry, Generations};
use super::histogram::{self, Counts};

/// The most lanes that a worker may have.
pub(super) const LANES: usize = 64;

/// Whether durations are noted: a build without them shows what they cost.
const MEASURES: bool = cfg!(feature = "metrics");

/// Where the intents begin; the counters have room to grow in front of them.
pub(super) const INTENTS: usize = 96;

/// Where the moment of the last heartbeat is.
pub(super) const BEAT: usize = INTENTS + LANES;

/// Where the number of open connections is.
pub(super) const CONNECTIONS: usize = BEAT + 1;

/// Where the bytes of memory are that the process has in RAM.
pub(super) const RESIDENT: usize = CONNECTIONS + 1;

/// Where the histogram of requests' durations begins, in a cache line of its own.
pub(super) const LATENCY: usize = INTENTS + LANES + 8;

/// Where that of waits for a lane begins.
pub(super) const QUEUE_DELAY: usize = LATENCY + histogram::WORDS;

/// The words of a row, whole cache lines.
pub(super) const WORDS: usize = QUEUE_DELAY + histogram::WORDS;

/// An intent names its first entry in the lowest 16 bits, its second in the next 16, and is open while this is set.
const OPEN: u64 = 1 << 32;

/// Set when the write concerns more keys than there is room for.
const EVERYTHING: u64 = 1 << 33;

/// The row of one living worker process. Rows are used again and never cleared: their sums only grow.
#[derive(Clone, Copy)]
pub struct Row {
    /// Which row it is.
    pub(super) index: usize,
    pub(super) words: &'static [AtomicU64],
    pub(super) generations: Generations,
}

impl Row {
    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts so many.
    pub fn add(&self, counter: Counter, count: u64) {
        self.words[counter.place()].fetch_add(count, Ordering::Relaxed);
    }

    /// Notes how long a request took. Called by the scheduler's thread alone.
    pub fn note_latency(&self, took: Duration) {
        if !MEASURES {
            return;
        }
        histogram::record(&self.words[LATENCY..QUEUE_DELAY], took);
    }

    /// How long requests took in the workers that had this row.
    pub fn latency(&self) -> Counts {
        histogram::read(&self.words[LATENCY..QUEUE_DELAY])
    }

    /// Notes how long a question waited for a lane. Called under the lock of the queues alone.
    pub fn note_queue_delay(&self, waited: Duration) {
        if !MEASURES {
            return;
        }
        histogram::record(&self.words[QUEUE_DELAY..WORDS], waited);
    }

    /// How long questions waited for a lane in the workers that had this row.
    pub fn queue_delay(&self) -> Counts {
        histogram::read(&self.words[QUEUE_DELAY..WORDS])
    }

    /// Takes over what others have counted. Only for a row that nobody else writes.
    pub(super) fn inherit(&self, counted: &[u64], latency: &Counts, queue_delay: &Counts) {
        for (counter, count) in Counter::all().zip(counted) {
            self.add(counter, *count);
        }
        histogram::add(&self.words[LATENCY..QUEUE_DELAY], latency);
        histogram::add(&self.words[QUEUE_DELAY..WORDS], queue_delay);
    }

    /// Says how much of the process's memory is in RAM, in bytes.
    pub fn set_resident(&self, bytes: u64) {
        self.words[RESIDENT].store(bytes, Ordering::Relaxed);
    }

    /// How much of the process's memory is in RAM, in bytes; 0 while it has not said so.
    pub fn resident(&self) -> u64 {
        self.words[RESIDENT].load(Ordering::Relaxed)
    }

    /// Says that the worker's loop moves, at this [`moment`](super::moment); called by the loop itself.
    pub fn beat(&self, moment: u64) {
        self.words[BEAT].store(moment, Ordering::Relaxed);
    }

    /// When the worker's loop last moved.
    pub fn last_beat(&self) -> u64 {
        self.words[BEAT].load(Ordering::Relaxed)
    }

    /// Says how many connections the worker has open.
    pub fn set_open(&self, connections: u64) {
        self.words[CONNECTIONS].store(connections, Ordering::Relaxed);
    }

    /// How many connections the worker has open.
    pub fn open(&self) -> u64 {
        self.words[CONNECTIONS].load(Ordering::Relaxed)
    }

    /// How often something happened in the workers that had this row.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.words[counter.place()].load(Ordering::Relaxed)
    }

    /// Notes that `lane` is about to commit a write to these shoes. Until the note is dropped, which tells all
    /// caches of the host, the worker's death tells them instead: see [`Row::settle`].
    ///
    /// A lane has one transaction at a time. What it noted before and has not dropped is told at once. There is room for two
    /// shoes: a transaction of more notes everything, for the case of the worker's death, and yet tells of its own
    /// shoes alone when it is dropped.
    pub fn intend(&self, lane: usize, shoe_ids: &[i32]) -> Intent {
        let word = &self.words[INTENTS + lane];
        self.close(word);
        let intent = match *shoe_ids {
            [] => 0,
            [one] => OPEN | (u64::from(Entry::of_shoe(one).0) * 0x1_0001),
            [one, two] => {
                OPEN | u64::from(Entry::of_shoe(one).0) | (u64::from(Entry::of_shoe(two).0) << 16)
            }
            _ => OPEN | EVERYTHING,
        };
        // Before the commit in every order that any core may see.
        word.store(intent, Ordering::SeqCst);
        let entries = match shoe_ids.len() {
            0..=2 => Vec::new(),
            _ => shoe_ids.iter().map(|id| Entry::of_shoe(*id)).collect(),
        };
        Intent {
            row: *self,
            lane,
            entries,
        }
    }

    /// Whether the worker has noted a write and not closed it.
    pub fn has_begun(&self) -> bool {
        self.words[INTENTS..INTENTS + LANES]
            .iter()
            .any(|word| word.load(Ordering::SeqCst) & OPEN != 0)
    }

    /// Tells the host's caches of every write that a worker which is gone had begun: it may have committed and died
    /// before it told them. Called by who reaps it.
    pub fn settle(&self) {
        for word in &self.words[INTENTS..INTENTS + LANES] {
            self.close(word);
        }
    }

    fn close(&self, word: &AtomicU64) {
        let intent = word.load(Ordering::SeqCst);
        if intent & OPEN == 0 {
            return;
        }
        if intent & EVERYTHING != 0 {
            self.generations.bump_all();
        } else {
            let (one, two) = (Entry(intent as u16), Entry((intent >> 16) as u16));
            self.generations.bump(one);
            if two != one {
                self.generations.bump(two);
            }
        }
        // Closed last: who dies in between has told twice, never not at all.
        word.store(0, Ordering::SeqCst);
    }
}

/// A write that may be committed. Dropping it, at the latest before the write is acknowledged, kills every cached answer
/// that it may have made old; whether it was committed at all does not matter.
#[must_use]
pub struct Intent {
    row: Row,
    lane: usize,
    /// The keys, if they are more than the note names.
    entries: Vec<Entry>,
}

impl Drop for Intent {
    fn drop(&mut self) {
        let word = &self.row.words[INTENTS + self.lane];
        if self.entries.is_empty() {
            self.row.close(word);
            return;
        }
        for entry in &self.entries {
            self.row.generations.bump(*entry);
        }
        // Closed last, as in `close`.
        word.store(0, Ordering::SeqCst);
    }
}

const _: () = assert!(Counter::COUNT <= INTENTS);
