//! One table for two images of the program: an upgraded master goes on with the table of the one before it, if both lay
//! it out alike. If they don't, the old workers keep the old table and the new ones get another. A write then moves only
//! one of the two, so both are marked as divided, and until the last old worker is gone nobody believes what is cached in
//! workers or in Redis: every answer comes from the database, as old and new workers see it alike.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};

use super::buckets::Buckets;
use super::counters::Counter;
use super::generations::ENTRIES;
use super::{
    HEADER, PUBLISHED, ROWS, SLOTS, SOCKETS, Scoreboard, WORDS, Word, histogram, published, row,
};
use crate::sys;

/// To be raised when a word of the header or of a row comes to mean something else. What moves is noticed by itself, and
/// counters that are added behind the others change nothing.
const VERSION: usize = 5;

/// The layout of this image's tables.
pub(super) fn number() -> u64 {
    let facts = [
        VERSION,
        HEADER,
        ENTRIES,
        SOCKETS,
        SLOTS,
        ROWS,
        row::WORDS,
        row::LANES,
        row::INTENTS,
        row::BEAT,
        row::CONNECTIONS,
        row::RESIDENT,
        row::LATENCY,
        row::QUEUE_DELAY,
        PUBLISHED,
        published::WORDS,
    ];
    let bounds = histogram::BOUNDS_US.iter().map(|bound| *bound as usize);
    // FNV-1a (draft-eastlake-fnv), which no release of a library can change.
    facts
        .into_iter()
        .chain(bounds)
        .flat_map(|fact| (fact as u64).to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// What became of the table of another image.
pub enum Adopted {
    /// It is ours too.
    Shared(Scoreboard),
    /// It is laid out in another way: its workers can't share a table with ours.
    Foreign,
}

/// The memory is no table of any image.
#[derive(Debug)]
pub struct AdoptError(io::Error);

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shared memory can't be taken over: {}", self.0)
    }
}

impl std::error::Error for AdoptError {}

impl Scoreboard {
    /// Maps the table of an image before this one, whose counters had these names.
    ///
    /// # Errors
    /// It is none, or the kernel won't map it.
    pub fn adopt(memory: impl AsFd, counters: &[String]) -> Result<Adopted, AdoptError> {
        let header = header_of(&memory)?;
        let alike = Counter::all()
            .zip(counters)
            .all(|(ours, theirs)| ours.name() == *theirs);
        if !alike || header.word(Word::Layout).load(Ordering::Relaxed) != number() {
            return Ok(Adopted::Foreign);
        }
        let words = sys::map_words(&memory, WORDS).map_err(AdoptError)?;
        Ok(Adopted::Shared(Scoreboard::over(words)))
    }

    /// Marks the table as one of several: from now on nobody who has it believes anything that is cached.
    pub fn divide(&self) {
        self.word(Word::Divided).store(1, Ordering::SeqCst);
    }

    /// From now on nobody tells what is counted here: another image of the program is about to go on from it, be it in this
    /// table or in another one, and it must not be told more before than then. For the master.
    pub fn silence(&self) {
        self.word(Word::Silent).store(1, Ordering::SeqCst);
        // Whatever is read from now on is what others may have told by now, or more.
        fence(Ordering::SeqCst);
    }

    /// Lets it be told again. For the master, whose table it is.
    pub fn speak(&self) {
        self.word(Word::Silent).store(0, Ordering::SeqCst);
    }

    /// Whether what was read of the table until now may not be told.
    pub fn is_silent(&self) -> bool {
        // Whatever was read before is from before.
        fence(Ordering::SeqCst);
        self.word(Word::Silent).load(Ordering::SeqCst) != 0
    }

    /// Whether it is one of several.
    pub fn is_divided(&self) -> bool {
        !self.generations().are_everybodys()
    }

    /// Marks the table as the only one again. What those of the others may have left in Redis is not believed.
    pub fn unite(&self) {
        // First, or there were a moment in which Redis is believed although one of them could not mark a write.
        self.marks().owe(Buckets::ALL);
        // Nor did those of the other table note here how far they wrote.
        self.doubt_everywhere();
        self.word(Word::Divided).store(0, Ordering::SeqCst);
    }
}

/// Marks the table in this memory as one of several, however it is laid out.
///
/// # Errors
/// It is none, or the kernel won't map it.
pub fn divide(memory: impl AsFd) -> Result<(), AdoptError> {
    header_of(memory).map(|header| header.divide())
}

/// The table's first words, which have the same places in every image. No more may be asked of it.
fn header_of(memory: impl AsFd) -> Result<Scoreboard, AdoptError> {
    let words = sys::map_words(memory, HEADER).map_err(AdoptError)?;
    Ok(Scoreboard::over(words))
}

#[cfg(test)]
mod tests {
    use super::super::generations::Entry;
    use super::*;

    fn names() -> Vec<String> {
        Counter::all().map(Counter::name).collect()
    }

    #[test]
    fn a_table_of_the_same_layout_is_shared() {
        let (old, memory) = Scoreboard::in_memory().expect("shared memory");
        old.row(3).count(Counter::Requests);
        old.use_row(3);
        let Ok(Adopted::Shared(new)) = Scoreboard::adopt(&memory, &names()) else {
            panic!("it is the same layout");
        };
        assert_eq!(new.identity(), old.identity());
        assert_eq!(new.total(Counter::Requests), 1);
        drop(new.row(4).intend(0, &[7]));
        assert_eq!(old.generations().load(Entry::of_shoe(7)), 1);
        // Counters at the end that only one of them knows of are in nobody's way.
        let mut more = names();
        more.push("news".to_owned());
        for known in [&more[..], &more[..5]] {
            assert!(matches!(
                Scoreboard::adopt(&memory, known),
                Ok(Adopted::Shared(_))
            ));
        }
    }

    #[test]
    fn a_table_of_another_layout_is_not() {
        let (old, memory) = Scoreboard::in_memory().expect("shared memory");
        let mut moved = names();
        moved.swap(0, 1);
        assert!(matches!(
            Scoreboard::adopt(&memory, &moved),
            Ok(Adopted::Foreign)
        ));
        old.word(Word::Layout).fetch_add(1, Ordering::Relaxed);
        assert!(matches!(
            Scoreboard::adopt(&memory, &names()),
            Ok(Adopted::Foreign)
        ));
        let (_, small) = sys::shared_words("small", HEADER - 1).expect("shared memory");
        assert!(Scoreboard::adopt(&small, &names()).is_err());
        let unsealed = tempfile::tempfile().expect("a file");
        unsealed.set_len(1 << 24).expect("room");
        assert!(Scoreboard::adopt(&unsealed, &names()).is_err());
    }

    #[test]
    fn a_divided_table_is_nobodys_until_it_is_united_and_redis_is_emptied_then() {
        let (old, memory) = Scoreboard::in_memory().expect("shared memory");
        assert!(!old.is_divided());
        divide(&memory).expect("a table");
        assert!(old.is_divided() && !old.generations().are_everybodys());
        assert!(!old.marks().is_owed(Buckets::ALL));
        old.unite();
        assert!(!old.is_divided());
        assert!(old.marks().is_owed(Buckets::ALL));
    }
}
