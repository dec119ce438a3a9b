//! Generations of keys: the table by which a cached answer knows that it is old. A reader loads the entry of its key
//! before it asks anything and stamps what it caches with it; a writer commits, increments the entry, and then answers.
//! What was cached under another number than the table's is dead, so no worker of this host serves a value that is
//! older than an acknowledged write, and a fill that raced with one is dead on arrival.

use super::atomic::{AtomicU64, Ordering};

/// How many entries there are. Keys share them by their hash: a write to one key costs the others of its entry a miss.
pub const ENTRIES: usize = 1 << 16;

/// A key's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(pub(super) u16);

impl Entry {
    /// Where a shoe's rows belong.
    pub fn of_shoe(shoe_id: i32) -> Self {
        // Fibonacci hashing (Knuth, TAOCP volume 3, section 6.4): neighbours, as ids are, get entries far apart.
        Entry((shoe_id.cast_unsigned().wrapping_mul(0x9E37_79B1) >> 16) as u16)
    }
}

/// The table, shared by all workers of the host.
#[derive(Clone, Copy)]
pub struct Generations {
    pub(super) entries: &'static [AtomicU64],
    pub(super) divided: &'static AtomicU64,
}

impl Generations {
    /// The number to stamp an answer with, loaded before anything is asked.
    ///
    /// Sequentially consistent, as is [`Generations::bump`]: a reader that begins after a write was acknowledged, on
    /// whatever core, sees the number that the writer left.
    pub fn load(&self, entry: Entry) -> u64 {
        self.entries[usize::from(entry.0)].load(Ordering::SeqCst)
    }

    /// Whether every writer of the host moves this table. During an upgrade to an image that lays its memory out in another
    /// way there are two of them; then nothing that a worker keeps counts.
    pub fn are_everybodys(&self) -> bool {
        self.divided.load(Ordering::SeqCst) == 0
    }

    /// Kills what is cached of this entry's keys, everywhere on the host.
    pub fn bump(&self, entry: Entry) {
        self.entries[usize::from(entry.0)].fetch_add(1, Ordering::SeqCst);
    }

    /// Kills everything that is cached.
    pub fn bump_all(&self) {
        for entry in self.entries {
            entry.fetch_add(1, Ordering::SeqCst);
        }
    }
}
