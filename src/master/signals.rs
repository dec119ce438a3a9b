//! Signals as the master hears them: one table, and a descriptor for its one wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use signal_hook::consts::{
    SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// What a signal asks of the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read the configuration again and replace the workers.
    Reload,
    /// Go on as the program that its file now holds.
    Upgrade,
    /// Stop accepting, finish what is in flight, leave.
    Stop,
    /// Leave at once.
    Abort,
    /// Open the log files anew.
    Reopen,
    /// One worker more, or one fewer, until the next reload.
    More,
    Fewer,
    /// A child changed its state.
    Reap,
}

impl Request {
    /// Whether it wants other workers than there are, which makes no sense of a server that stops.
    pub fn changes(self) -> bool {
        match self {
            Request::Reload | Request::Upgrade | Request::More | Request::Fewer => true,
            Request::Reopen | Request::Stop | Request::Abort | Request::Reap => false,
        }
    }
}

/// The table: which signal asks for what.
const TABLE: &[(i32, Request)] = &[
    (SIGHUP, Request::Reload),
    (SIGUSR2, Request::Upgrade),
    (SIGTERM, Request::Stop),
    (SIGQUIT, Request::Stop),
    (SIGINT, Request::Abort),
    (SIGUSR1, Request::Reopen),
    (SIGTTIN, Request::More),
    (SIGTTOU, Request::Fewer),
    (SIGCHLD, Request::Reap),
];

/// Signals delivered as bytes on a socket, so that waiting for them is one more descriptor in poll(2).
pub struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// Takes the signals of the table over.
    ///
    /// # Errors
    /// Too many open files.
    pub fn listen() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let numbers = TABLE.iter().map(|(number, _)| *number);
        SignalDelivery::with_pipe(read, write, SignalOnly, numbers).map(Signals)
    }

    /// What has been asked since the last call; the same request twice may come once.
    pub fn take(&mut self) -> Vec<Request> {
        let pending: Vec<i32> = self.0.pending().collect();
        TABLE
            .iter()
            .filter(|(number, _)| pending.contains(number))
            .map(|(_, request)| *request)
            .collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}

/// Blocks every signal for as long as it lives: around a fork, so that none is lost between it and the moment that
/// the child knows what to do with it. A child keeps them blocked for good (`forget`) and reads those it heeds from a
/// signalfd, so that no handler of the master's ever runs in it.
pub struct Blocked(SigSet);

impl Blocked {
    /// # Errors
    /// None that sigprocmask(2) can give for valid arguments.
    pub fn now() -> io::Result<Self> {
        let mut before = SigSet::empty();
        let mut all = SigSet::all();
        // A fault is reported where it happens, blocked or not; said here because a blocked one kills without a core.
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGABRT,
        ] {
            all.remove(fault);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), Some(&mut before))?;
        Ok(Blocked(before))
    }

    /// Lets every signal come that another image of the program has blocked for this one, once there are handlers.
    ///
    /// # Errors
    /// As [`Blocked::now`].
    pub fn end() -> io::Result<()> {
        SigSet::empty().thread_set_mask()?;
        Ok(())
    }

    /// Leaves the signals blocked.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // Restoring a mask that was in force can't fail.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_and_the_readme_know_every_signal() {
        let manual = crate::config::man_page(&crate::config::command());
        let readme = include_str!("../../README.md");
        for (number, _) in TABLE.iter().filter(|(number, _)| *number != SIGCHLD) {
            let signal = Signal::try_from(*number).expect("a signal");
            let name = signal.as_str().trim_start_matches("SIG");
            assert!(readme.contains(&format!("`{name}`")), "{name} in README");
            assert!(manual.contains(name), "{name} in the manual");
        }
    }
}
