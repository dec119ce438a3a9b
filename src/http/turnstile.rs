//! Taking turns: a connection that always finds its next request there never waits, and would keep the scheduler's
//! thread for ever. Passing the turnstile lets every other socket's events come first.
//!
//! The runtime's own yield would not do: it puts the coroutine behind those that are ready already, and the
//! scheduler asks the kernel for events only when none is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use may::coroutine::{self, Coroutine};
use may::io::{CoIo, WaitIo};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The turnstile of a worker.
pub struct Turnstile {
    /// Rung by who passes: an event that has to come through the kernel, behind those that are there.
    bell: CoIo<OwnedFd>,
    waiting: Mutex<Vec<Coroutine>>,
}

impl Turnstile {
    /// The coroutine runtime must be configured already, for this starts it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let bell = CoIo::new(OwnedFd::from(bell)).map_err(io::Error::from)?;
        Ok(Turnstile {
            bell,
            waiting: Mutex::default(),
        })
    }

    /// Waits until the events of now have been served.
    pub fn pass(&self) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(coroutine::current());
        match nix::unistd::write(self.bell.inner(), &1_u64.to_ne_bytes()) {
            // Full is rung already.
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => coroutine::park(),
            Err(error) => log::error!("worker: the turnstile can't be passed: {error}"),
        }
    }

    /// Lets pass who waits, for ever. Runs on a coroutine.
    pub fn attend(&self) {
        loop {
            self.bell.wait_io();
            // Edges tell of each ring, so the count need not be read; reading keeps it from running full.
            let _ = nix::unistd::read(self.bell.inner(), &mut [0; 8]);
            let passing =
                std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            passing.iter().for_each(Coroutine::unpark);
        }
    }
}
