//! Waiting for another connection to let go of the file. SQLite's own way looks ever more rarely, down to ten times a second: a
//! worker that has waited for long would come after all that have just arrived, and under load never. This one looks as often
//! however long it has waited, so that everybody's chance is the same.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

/// The mean of the pauses between two looks.
const PAUSE: Duration = Duration::from_micros(500);

thread_local! {
    /// Until when this thread waits. SQLite calls from within a statement, and hands nothing on.
    static GIVE_UP: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on this thread waits for so long, whatever it waits for.
pub(super) fn be_patient(patience: Duration) {
    GIVE_UP.set(Instant::now().checked_add(patience));
}

/// Waits a little; false once it has been long enough. SQLite calls it with how often it has asked before.
pub(super) fn wait(_asked: i32) -> bool {
    let now = Instant::now();
    let goes_on = GIVE_UP.get().is_none_or(|give_up| now < give_up);
    if goes_on {
        // A fresh RandomState hashes with fresh keys: those who wait don't look in step.
        let dice = RandomState::new().hash_one(0_u8) % 1024;
        thread::sleep(PAUSE / 2 + PAUSE.mul_f64(dice as f64 / 1024.0));
    }
    goes_on
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    thread_local! {
        static LOOKS: Cell<u32> = const { Cell::new(0) };
        /// How many of them there were when half of the time was over.
        static EARLY: Cell<u32> = const { Cell::new(0) };
    }

    const PATIENCE: Duration = Duration::from_secs(2);

    fn counted(asked: i32) -> bool {
        LOOKS.set(LOOKS.get() + 1);
        let left = GIVE_UP
            .get()
            .map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left > PATIENCE / 2) {
            EARLY.set(LOOKS.get());
        }
        wait(asked)
    }

    /// SQLite's own way looks some thirty times in two seconds, and six times in the second of them: whoever had waited for long
    /// came after all workers whose writes had just begun to wait.
    #[test]
    fn who_has_waited_for_long_looks_as_often_as_who_has_just_come() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shoes.db");
        let holder = Connection::open(&path).expect("a file");
        holder.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        let waiting = Connection::open(&path).expect("a file");
        waiting.busy_handler(Some(counted)).expect("a handler");
        be_patient(PATIENCE);
        let refused = waiting.execute_batch("BEGIN IMMEDIATE");
        assert!(refused.is_err(), "the lock was given twice");
        // Some 2,000 and 2,000 on a machine that has nothing else to do.
        let (early, late) = (EARLY.get(), LOOKS.get() - EARLY.get());
        assert!(
            early >= 100 && late >= 100,
            "{early} looks, and then {late}"
        );
        holder.execute_batch("COMMIT").expect("the lock given back");
        be_patient(PATIENCE);
        waiting.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    }

    #[test]
    fn waiting_ends_when_patience_does() {
        be_patient(Duration::ZERO);
        assert!(!wait(0));
        be_patient(Duration::from_secs(60));
        assert!(wait(0) && wait(1_000_000));
    }
}
