//! Waiting on events: the only room that naps, a few milliseconds at a time and never for a fixed while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Only a failing test waits this long, so it is
/// generous: the machine may be small and busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `happened` is true. Panics with `what` once `patience` is over.
#[track_caller]
pub fn wait_until(patience: Duration, what: &str, mut happened: impl FnMut() -> bool) {
    if !comes_true(patience, &mut happened) {
        panic!("waited {patience:?} in vain for: {what}");
    }
}

/// Does what others go on beside until the flag is raised. It is raised as well if this panics: the scope that they are threads
/// of would wait for them for ever otherwise.
pub fn until_done<A>(over: &AtomicBool, work: impl FnOnce() -> A) -> A {
    struct Raise<'f>(&'f AtomicBool);
    impl Drop for Raise<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let _raise = Raise(over);
    work()
}

/// Polls until `happened` is true; false once `patience` is over.
pub fn comes_true(patience: Duration, mut happened: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if happened() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
