//! How far the log of a database has been written, as this host knows: what a replica must have replayed before it may answer.
//! Writers note the place that their commit has reached before they are acknowledged; who hears of a write without its place
//! raises a *doubt*, and until that is settled by asking the primary nobody reads from a replica. Every step is one word, and
//! none is ever taken back, so a process that is killed between two leaves at worst a doubt.

use super::atomic::{AtomicU64, Ordering};

/// The words of a record.
pub(super) const WORDS: usize = 16;

/// How many records there are: one a database URL, by its hash. Two that share one want more than they must, and nothing less.
pub(super) const RECORDS: usize = 8;

/// The newest timeline that was written on.
const NEWEST: usize = 0;

/// How many doubts there ever were, and up to which of them they are settled.
const DOUBTS: usize = 1;
const SETTLED: usize = 2;

/// Where the places begin, one a timeline. A timeline that is as many failovers older shares the place of a newer one, where the
/// further of the two counts.
const PLACES: usize = 3;

/// The record of one database.
#[derive(Clone, Copy)]
pub struct Written {
    pub(super) words: &'static [AtomicU64],
    /// Not 0 while writers of this host write to another table, too.
    pub(super) divided: &'static AtomicU64,
}

impl Written {
    /// Which record is that of the database with this URL.
    pub(super) fn record_of(database: &str) -> usize {
        // FNV-1a: both images of an upgrade must find the same.
        let hash = database.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3_u64)
        });
        (hash >> 32) as usize % RECORDS
    }

    /// Notes that the log of this timeline has been written up to `lsn`. Called before the write is acknowledged, and before the
    /// generations of its keys move: a reader that finds the new generation finds this place, too.
    pub fn note(&self, timeline: u32, lsn: u64) {
        // The place first: who sees the timeline must see how far it was written.
        self.place(timeline).fetch_max(lsn, Ordering::SeqCst);
        self.words[NEWEST].fetch_max(u64::from(timeline), Ordering::SeqCst);
    }

    /// What a replica must have replayed to be as new as all that was noted: the timeline, and the place in it. `None` while nobody
    /// knows: then the primary alone may be asked.
    pub fn wanted(&self) -> Option<(u32, u64)> {
        if self.divided.load(Ordering::SeqCst) != 0 || self.is_in_doubt() {
            return None;
        }
        let timeline = self.words[NEWEST].load(Ordering::SeqCst) as u32;
        (timeline != 0).then(|| (timeline, self.place(timeline).load(Ordering::SeqCst)))
    }

    /// The newest timeline that is known to have been written on; 0 before any is.
    pub fn timeline(&self) -> u32 {
        self.words[NEWEST].load(Ordering::SeqCst) as u32
    }

    /// Says that something was written, or may have been, of which the place is not known.
    pub fn doubt(&self) {
        self.words[DOUBTS].fetch_add(1, Ordering::SeqCst);
    }

    /// How many doubts there have been: to be read before the primary is asked, and passed to [`Written::settle`] afterwards.
    pub fn doubts(&self) -> u64 {
        self.words[DOUBTS].load(Ordering::SeqCst)
    }

    /// Settles the doubts that there were when they were read; what the primary said since has been noted.
    pub fn settle(&self, doubts: u64) {
        self.words[SETTLED].fetch_max(doubts, Ordering::SeqCst);
    }

    fn is_in_doubt(&self) -> bool {
        // Settled is read first: read the other way round, a settlement in between would hide a newer doubt.
        let settled = self.words[SETTLED].load(Ordering::SeqCst);
        settled < self.words[DOUBTS].load(Ordering::SeqCst)
    }

    fn place(&self, timeline: u32) -> &AtomicU64 {
        &self.words[PLACES + timeline as usize % (WORDS - PLACES)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scoreboard;

    #[test]
    fn what_is_wanted_only_grows_and_nothing_is_known_in_doubt() {
        let board = Scoreboard::new().expect("shared memory");
        let board = board.of_database("postgres://h/d");
        let written = board.written();
        assert_eq!(written.wanted(), None, "nothing was noted yet");
        written.note(1, 100);
        written.note(1, 50);
        assert_eq!(written.wanted(), Some((1, 100)));
        // Another process of the host sees the same, and one with another database does not.
        assert_eq!(board.written().wanted(), Some((1, 100)));

        written.doubt();
        assert_eq!(written.wanted(), None);
        let doubts = written.doubts();
        written.doubt();
        written.settle(doubts);
        assert_eq!(
            written.wanted(),
            None,
            "one that came while the primary was asked"
        );
        written.note(1, 200);
        written.settle(written.doubts());
        assert_eq!(written.wanted(), Some((1, 200)));
    }

    /// A standby that is promoted may have replayed less than was written: then places begin lower again.
    #[test]
    fn a_new_timeline_begins_anew_and_the_old_one_is_never_wanted_again() {
        let board = Scoreboard::new().expect("shared memory");
        let written = board.written();
        written.note(1, 1000);
        written.note(2, 900);
        assert_eq!(written.wanted(), Some((2, 900)));
        written.note(1, 2000);
        assert_eq!(written.wanted(), Some((2, 900)), "the old primary lives on");
    }

    #[test]
    fn whoever_reaps_a_writer_doubts_and_so_does_who_unites_the_tables() {
        let (board, memory) = Scoreboard::in_memory().expect("shared memory");
        board.written().note(1, 1);
        std::mem::forget(board.row(0).intend(0, &[7]));
        board.settle_writes_of(board.row(0));
        assert_eq!(board.written().wanted(), None);
        board.written().settle(board.written().doubts());
        assert_eq!(board.written().wanted(), Some((1, 1)));
        super::super::divide(&memory).expect("a table");
        assert_eq!(board.written().wanted(), None);
        board.unite();
        assert_eq!(board.written().wanted(), None);
        board.written().settle(board.written().doubts());
        assert_eq!(board.written().wanted(), Some((1, 1)));
    }
}
