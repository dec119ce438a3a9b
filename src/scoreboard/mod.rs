//! What master and workers share in memory. One memfd of 64-bit atomics, mapped before the first fork:
//! readers never lock, and a worker killed at any instruction leaves it usable, since every write is one word.

/// Where this room's atomics come from. `tests/model` compiles the rooms below over others, which know what the memory
/// model allows.
mod atomic {
    pub use std::sync::atomic::{AtomicU64, Ordering};
}
pub mod buckets;
pub mod counters;
pub mod generations;
pub mod histogram;
mod layout;
pub mod marks;
pub mod published;
pub mod replicas;
mod row;
pub mod written;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use self::atomic::{AtomicU64, Ordering};
use self::buckets::Buckets;
use self::counters::Counter;
use self::generations::{ENTRIES, Generations};
use self::histogram::Counts;
pub use self::layout::{AdoptError, Adopted, divide};
use self::marks::Marks;
use self::published::Published;
use self::replicas::Replicas;
pub use self::row::{Intent, Row};
use self::written::Written;
use crate::sys;

/// How many workers may live at once: two generations of the most that can be configured, and some that are dying.
pub const ROWS: usize = 2 * 1024 + 256;

/// The words before the table of generations, one page of them.
const HEADER: usize = 512;

/// Where the records of what was written to databases are in the header, behind them what is told of the replicas, and then where
/// writes are marked in Redis.
const WRITTEN: usize = 64;
const REPLICAS: usize = WRITTEN + written::RECORDS * written::WORDS;
const MARKS: usize = REPLICAS + replicas::WORDS;

const _: () = assert!(MARKS + marks::WORDS <= Word::Divided as usize);

/// The most listening sockets of one address: one a slot.
const SOCKETS: usize = 1024;

/// The most slots.
const SLOTS: usize = 1024;

/// Where the rows begin: those of workers, and one more for what was counted in another table.
const FIRST_ROW: usize = HEADER + ENTRIES + SOCKETS + SLOTS;

/// Where the CPU time of each slot is, and behind it what the master publishes.
const SLOT_CPU: usize = FIRST_ROW + (ROWS + 1) * row::WORDS;
const PUBLISHED: usize = SLOT_CPU + SLOTS;

/// All words of the table.
const WORDS: usize = PUBLISHED + published::WORDS;

/// The single words of the table, by place. All are zero at first.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// Which host this is, to tell its messages from those of others.
    Identity,
    /// How many of the rows were ever a worker's.
    RowsUsed,
    /// Not 0 while nothing of this is to be told: see [`Scoreboard::silence`].
    Silent,
    /// Not 0 while there are tables of other layouts besides: see [`Scoreboard::divide`]. This place and the next never change,
    /// so that every image of the program finds them in the table of any other.
    Divided = HEADER as isize - 2,
    /// How the table is laid out.
    Layout = HEADER as isize - 1,
}

/// The shared table. Copying it copies the view, not the memory.
#[derive(Clone, Copy)]
pub struct Scoreboard {
    words: &'static [AtomicU64],
    /// Which record is of this process's database.
    database: usize,
}

impl Scoreboard {
    /// Maps a zeroed table, and answers with the memory that it is in, too.
    ///
    /// # Errors
    /// The kernel's, when it has no memory to share.
    pub fn in_memory() -> io::Result<(Self, OwnedFd)> {
        let (words, memory) = sys::shared_words("canvas-cluster-scoreboard", WORDS)?;
        let board = Scoreboard::over(words);
        let identity = RandomState::new().hash_one(std::process::id());
        board
            .word(Word::Identity)
            .store(identity, Ordering::Relaxed);
        board
            .word(Word::Layout)
            .store(layout::number(), Ordering::Relaxed);
        Ok((board, memory))
    }

    fn over(words: &'static [AtomicU64]) -> Self {
        Scoreboard { words, database: 0 }
    }

    /// The same table, for a process that writes to the database of this URL.
    #[must_use]
    pub fn of_database(self, url: &str) -> Self {
        Scoreboard {
            database: Written::record_of(url),
            ..self
        }
    }

    /// Maps a zeroed table that no other image of the program will see.
    ///
    /// # Errors
    /// As [`Scoreboard::in_memory`].
    pub fn new() -> io::Result<Self> {
        Scoreboard::in_memory().map(|(board, _)| board)
    }

    /// A number that no other running server has, by all odds.
    pub fn identity(&self) -> u64 {
        self.word(Word::Identity).load(Ordering::Relaxed)
    }

    /// The generations of all keys.
    pub fn generations(&self) -> Generations {
        Generations {
            entries: &self.words[HEADER..HEADER + ENTRIES],
            divided: self.word(Word::Divided),
        }
    }

    /// How far this process's database has been written, as the host knows.
    pub fn written(&self) -> Written {
        self.record(self.database)
    }

    fn record(&self, number: usize) -> Written {
        let start = WRITTEN + number * written::WORDS;
        Written {
            words: &self.words[start..start + written::WORDS],
            divided: self.word(Word::Divided),
        }
    }

    /// Doubts how far any database has been written, for who does not know which one it is.
    fn doubt_everywhere(&self) {
        for number in 0..written::RECORDS {
            self.record(number).doubt();
        }
    }

    /// What is told of the replicas.
    pub fn replicas(&self) -> Replicas {
        Replicas {
            words: &self.words[REPLICAS..REPLICAS + replicas::WORDS],
        }
    }

    /// A row; `index` is below [`ROWS`].
    pub fn row(&self, index: usize) -> Row {
        let start = FIRST_ROW + index * row::WORDS;
        Row {
            index,
            words: &self.words[start..start + row::WORDS],
            generations: self.generations(),
        }
    }

    /// A row of no table, for what is not to be counted with the rest. It lives as long as the process.
    pub fn row_apart(&self) -> Row {
        let words: Box<[AtomicU64]> = (0..row::WORDS).map(|_| AtomicU64::new(0)).collect();
        Row {
            index: ROWS,
            words: Box::leak(words),
            generations: self.generations(),
        }
    }

    fn socket(&self, mark: usize) -> &AtomicU64 {
        &self.words[HEADER + ENTRIES + mark % SOCKETS]
    }

    /// Says that somebody accepts from the sockets of this mark, at this [`moment`].
    pub fn attend(&self, mark: usize, moment: u64) {
        self.socket(mark).store(moment, Ordering::Relaxed);
    }

    /// When somebody last accepted from them.
    pub fn last_attended(&self, mark: usize) -> u64 {
        self.socket(mark).load(Ordering::Relaxed)
    }

    fn slot(&self, slot: usize) -> &AtomicU64 {
        &self.words[HEADER + ENTRIES + SOCKETS + slot % SLOTS]
    }

    /// Says that the worker of this row accepts for the slot from now on.
    pub fn occupy(&self, slot: usize, row: Row) {
        self.slot(slot)
            .store(row.index as u64 + 1, Ordering::Relaxed);
    }

    /// The row of the worker that last said so; it may have left or died since.
    pub fn worker_of(&self, slot: usize) -> Option<Row> {
        let index = self.slot(slot).load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.row(index as usize % ROWS))
    }

    /// Says that the row is a worker's from now on. For the master.
    pub fn use_row(&self, index: usize) {
        self.word(Word::RowsUsed)
            .fetch_max(index as u64 + 1, Ordering::Relaxed);
    }

    /// The rows in which something may have been counted. Reading the others would have the kernel give memory to them.
    fn used_rows(&self) -> impl Iterator<Item = Row> {
        let used = self.word(Word::RowsUsed).load(Ordering::Relaxed) as usize;
        let rows = (0..used.min(ROWS)).chain([ROWS]);
        rows.map(|row| self.row(row))
    }

    /// How often something happened on all workers that ever were. Never goes back.
    pub fn total(&self, counter: Counter) -> u64 {
        self.used_rows().map(|row| row.counted(counter)).sum()
    }

    /// All that workers have counted that ever were. Never goes back.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for row in self.used_rows() {
            sums.add(row);
        }
        sums
    }

    /// Begins with what was counted in another table. Called once, before the table has workers.
    pub fn inherit(&self, sums: &Sums) {
        self.row(ROWS)
            .inherit(&sums.counters, &sums.latency, &sums.queue_delay);
    }

    fn cpu_of(&self, slot: usize) -> &AtomicU64 {
        &self.words[SLOT_CPU + slot % SLOTS]
    }

    /// Adds to the CPU time of the workers of a slot, in microseconds.
    pub fn add_slot_cpu(&self, slot: usize, micros: u64) {
        self.cpu_of(slot).fetch_add(micros, Ordering::Relaxed);
    }

    /// The CPU time of all workers that the slot ever had, in microseconds. Never goes back.
    pub fn slot_cpu(&self, slot: usize) -> u64 {
        self.cpu_of(slot).load(Ordering::Relaxed)
    }

    /// Tells workers how the server is. For the master alone.
    pub fn publish(&self, published: &Published) {
        self.board().write(published);
    }

    /// What the master told last. None before it has told anything.
    pub fn published(&self) -> Option<Published> {
        self.board().read()
    }

    fn board(&self) -> published::Board<'static> {
        published::Board {
            words: &self.words[PUBLISHED..],
        }
    }

    fn word(&self, word: Word) -> &'static AtomicU64 {
        &self.words[word as usize]
    }

    /// Where this host's writes are marked in Redis, and what it owes there.
    pub fn marks(&self) -> Marks {
        Marks {
            words: &self.words[MARKS..MARKS + marks::WORDS],
        }
    }

    /// Tells every cache of what the worker of this row, which is gone, had begun to write. Called by who reaps it.
    pub fn settle_writes_of(&self, row: Row) {
        // Owed first: what is asked of Redis between the two must be too old already.
        if row.has_begun() {
            // Its commit may have come, and nobody has noted how far.
            self.doubt_everywhere();
            self.marks().owe(Buckets::ALL);
        }
        row.settle();
    }
}

/// What was counted, together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// By counter, in the order of [`Counter::all`].
    counters: Vec<u64>,
    pub latency: Counts,
    pub queue_delay: Counts,
}

impl Sums {
    /// What the workers have counted that had this row.
    pub fn of(row: Row) -> Self {
        let mut sums = Sums::default();
        sums.add(row);
        sums
    }

    /// What was counted by counters of these names, in any order, and known by them no more if this version has none such.
    pub fn named(counters: &[(String, u64)], latency: Counts, queue_delay: Counts) -> Self {
        let count_of = |counter: Counter| {
            let name = counter.name();
            let counted = counters.iter().find(|(known, _)| *known == name);
            counted.map_or(0, |(_, count)| *count)
        };
        Sums {
            counters: Counter::all().map(count_of).collect(),
            latency,
            queue_delay,
        }
    }

    fn add(&mut self, row: Row) {
        self.counters.resize(Counter::COUNT, 0);
        for (sum, counter) in self.counters.iter_mut().zip(Counter::all()) {
            *sum += row.counted(counter);
        }
        self.latency.add(&row.latency());
        self.queue_delay.add(&row.queue_delay());
    }

    /// How often something was counted.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.get(counter.place()).copied().unwrap_or(0)
    }

    /// Each counter, and how often it was counted.
    pub fn counters(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::all().map(|counter| (counter, self.counted(counter)))
    }
}

/// Milliseconds on the clock that all processes of the host share: CLOCK_MONOTONIC (clock_gettime(2)).
pub fn moment() -> u64 {
    // This clock is always there.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| Duration::from(time).as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::generations::Entry;
    use super::*;

    #[test]
    fn a_write_moves_its_entries_when_it_is_done_and_not_before() {
        let board = Scoreboard::new().expect("shared memory");
        let of = |shoe_id| board.generations().load(Entry::of_shoe(shoe_id));
        let intent = board.row(3).intend(1, &[7, 8]);
        assert_eq!((of(7), of(8), of(9)), (0, 0, 0));
        drop(intent);
        assert_eq!((of(7), of(8), of(9)), (1, 1, 0));
        drop(board.row(3).intend(1, &[7]));
        assert_eq!((of(7), of(8)), (2, 1));
        drop(board.row(3).intend(1, &[]));
        assert_eq!((of(7), of(8)), (2, 1));
        let intent = board.row(3).intend(1, &[7, 8, 10]);
        assert_eq!((of(7), of(8)), (2, 1));
        drop(intent);
        assert_eq!((of(7), of(8), of(9), of(10)), (3, 2, 0, 1));
        // Nothing is left to be told.
        board.row(3).settle();
        assert_eq!((of(7), of(8), of(9), of(10)), (3, 2, 0, 1));
    }

    #[test]
    fn the_writes_of_a_dead_worker_are_told_by_who_reaps_it() {
        let board = Scoreboard::new().expect("shared memory");
        let of = |shoe_id| board.generations().load(Entry::of_shoe(shoe_id));
        // A process that is killed drops nothing.
        std::mem::forget(board.row(0).intend(0, &[7]));
        std::mem::forget(board.row(0).intend(5, &[8]));
        std::mem::forget(board.row(1).intend(0, &[9]));
        board.row(0).settle();
        assert_eq!((of(7), of(8), of(9)), (1, 1, 0));
        board.row(0).settle();
        assert_eq!((of(7), of(8), of(9)), (1, 1, 0));
        // More shoes than a note has room for: all are told.
        std::mem::forget(board.row(0).intend(0, &[1, 2, 3]));
        board.row(0).settle();
        assert_eq!((of(7), of(8), of(9)), (2, 2, 1));
    }

    #[test]
    fn totals_are_of_all_rows() {
        let board = Scoreboard::new().expect("shared memory");
        for row in [0, 1, ROWS - 1] {
            board.use_row(row);
        }
        board.row(0).count(Counter::Requests);
        board.row(ROWS - 1).count(Counter::Requests);
        board.row(1).count(Counter::Refused(31));
        assert_eq!(board.total(Counter::Requests), 2);
        assert_eq!(board.total(Counter::Refused(31)), 1);
        assert_eq!(board.total(Counter::Refused(30)), 0);
        assert_eq!(board.sums().counted(Counter::Requests), 2);
        assert_eq!(Sums::of(board.row(0)).counted(Counter::Requests), 1);
    }

    #[test]
    fn what_was_counted_in_another_table_is_counted_on() {
        let (old, new) = (
            Scoreboard::new().expect("shared memory"),
            Scoreboard::new().expect("shared memory"),
        );
        for micros in [9, 90, 400, 3_000_000] {
            old.row(0).note_latency(Duration::from_micros(micros));
        }
        old.row(1).note_queue_delay(Duration::from_millis(2));
        old.row(1).add(Counter::RedisHits, 7);
        old.use_row(1);
        let sums = old.sums();
        assert_eq!(sums.latency.count(), 4);
        assert_eq!(sums.latency.buckets[0], 2);
        assert_eq!(sums.latency.buckets[2], 1);
        assert_eq!(sums.latency.buckets[histogram::BUCKETS - 1], 1);
        assert_eq!(sums.latency.sum_ns, 3_000_499_000);
        new.inherit(&sums);
        assert_eq!(new.sums(), sums);
        new.use_row(0);
        new.row(0).note_latency(Duration::ZERO);
        assert_eq!(new.sums().latency.count(), 5);
        assert_eq!(new.total(Counter::RedisHits), 7);
        // By name: an image of another version may have its counters in another order, and some that are unknown here.
        let mut named: Vec<(String, u64)> = sums
            .counters()
            .map(|(counter, count)| (counter.name(), count))
            .collect();
        named.reverse();
        named.push(("unheard_of".to_owned(), 3));
        let again = Sums::named(&named, sums.latency.clone(), sums.queue_delay.clone());
        assert_eq!(again, sums);
    }

    #[test]
    fn the_cpu_time_of_a_slot_outlives_its_workers() {
        let board = Scoreboard::new().expect("shared memory");
        board.add_slot_cpu(1, 5);
        board.add_slot_cpu(1, 7);
        assert_eq!((board.slot_cpu(0), board.slot_cpu(1)), (0, 12));
    }
}
