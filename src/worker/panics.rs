//! What a panic costs: a line in the log wherever it happens, and the worker itself where nothing would go on without the
//! coroutine that panicked. In a connection's handler it costs that connection (`http::connection`).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::EXIT_FAILED;
use crate::sys;

/// From now on a panic is an error in the log, with its message and place, whatever thread or coroutine of this process it
/// happens on. No backtrace: walking one takes more stack than a coroutine has.
pub fn log_panics(slot: usize) {
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("(no message)");
        // This one is caught where it happens, and told by whoever asked for a stack.
        if message.starts_with(sys::NO_STACK) {
            return;
        }
        match panic.location() {
            Some(place) => log::error!("worker {slot}: panicked at {place}: {message}"),
            None => log::error!("worker {slot}: panicked: {message}"),
        }
    }));
}

/// Starts a coroutine without which the worker serves nobody. A panic in it, unlike one in a connection, ends the process
/// with [`EXIT_FAILED`]: the master replaces a dead worker at once, and could not tell one that is dumb.
///
/// # Errors
/// No memory for its stack.
pub fn start_vital(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    sys::start_first_coroutine(move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            std::process::exit(EXIT_FAILED);
        }
    })
}
