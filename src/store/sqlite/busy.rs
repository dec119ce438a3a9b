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
    use super::*;

    #[test]
    fn waiting_ends_when_patience_does() {
        be_patient(Duration::ZERO);
        assert!(!wait(0));
        be_patient(Duration::from_secs(60));
        assert!(wait(0) && wait(1_000_000));
    }
}
