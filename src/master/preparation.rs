//! What must be there before workers of a configuration can start, made by a child: the embedded database, if that is what is
//! configured, and a look whether the workers' user reaches what it must. That takes a database client and that user, and
//! the master never gets near either. At the start the master waits for it and for signals; at a reload it goes on meanwhile, for a
//! disk may hang.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Master;
use super::error::MasterError;
use super::plan::Event;
use super::process::{self, End};
use super::signals::{Request, Signals};
use crate::config::Config;
use crate::{sys, worker};

/// A child that prepares for a configuration, which waits for it.
pub(super) struct Preparation {
    child: Pid,
    until: Instant,
    config: Config,
}

impl Preparation {
    /// That of a child which has begun. It has as long as a worker has to start.
    pub(super) fn of(child: Pid, config: Config) -> Self {
        Preparation {
            child,
            until: Instant::now() + config.boot_timeout,
            config,
        }
    }

    pub(super) fn is(&self, pid: Pid) -> bool {
        self.child == pid
    }

    /// When it has taken too long.
    pub(super) fn due(&self) -> Instant {
        self.until
    }

    fn overdue(&self) -> MasterError {
        MasterError::Prepare(format!(
            "what workers need could not be prepared within {:?} (--boot-timeout)",
            self.config.boot_timeout
        ))
    }

    /// Ends the child, be it that it hangs in the kernel until later. Nobody waits for it any more.
    pub(super) fn end(&self) {
        if let Err(error) = kill(self.child, Signal::SIGKILL) {
            log::debug!("master: the child that prepares is gone already: {error}");
        }
    }
}

/// Lets a child do it, and waits for it: false if the server is told to stop meanwhile.
///
/// # Errors
/// The child has failed, or takes longer than a worker may to start.
pub(super) fn prepare(config: &Config, signals: &mut Signals) -> Result<bool, MasterError> {
    let Some(child) = start(config)? else {
        return Ok(true);
    };
    let made = Preparation::of(child, config.clone());
    loop {
        let left = made.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            made.end();
            return Err(made.overdue());
        }
        // Rounded up, or the loop would spin through the last millisecond.
        let timeout = PollTimeout::try_from(left.as_millis().min(60_000) as u32 + 1);
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let asked = signals.take();
        if asked.contains(&Request::Stop) || asked.contains(&Request::Abort) {
            made.end();
            return Ok(false);
        }
        while let Some((pid, end)) = process::reap() {
            if made.is(pid) {
                return verdict(end).map(|()| true);
            }
        }
    }
}

/// Lets a child do it, if there is something to do.
///
/// # Errors
/// There is no such child to be had, or workers can't become their user.
pub(super) fn start(config: &Config) -> Result<Option<Pid>, MasterError> {
    worker::privileges::may_become_user(config).map_err(MasterError::Prepare)?;
    if !worker::needs_preparation(config) {
        return Ok(None);
    }
    let work = || match sys::close_inherited(&[]) {
        // Should it hang, it holds no listener.
        Ok(()) => worker::prepare(config),
        Err(error) => {
            log::error!("can't close what is the master's: {error}");
            worker::EXIT_FAILED
        }
    };
    process::fork_child(work).map(Some).map_err(failed)
}

fn failed(error: std::io::Error) -> MasterError {
    MasterError::System("can't prepare what workers need", error)
}

fn verdict(end: End) -> Result<(), MasterError> {
    match end {
        End::Exit(0) => Ok(()),
        end => Err(MasterError::Prepare(format!(
            "what workers need could not be prepared ({end}); the line above says why"
        ))),
    }
}

impl Master {
    /// Goes on with a reload whose preparation has ended.
    pub(super) fn hear_preparation(&mut self, made: Preparation, end: End) -> Option<Event> {
        match verdict(end) {
            _ if self.plan.is_stopping() => None,
            Ok(()) => self.try_out(made.config),
            Err(error) => {
                self.withdraw_addresses();
                self.refuse_reload(&error)
            }
        }
    }

    /// Refuses the reload whose preparation takes too long.
    pub(super) fn give_up_overdue_preparation(&mut self) {
        let now = Instant::now();
        if let Some(made) = self.change.preparation.take_if(|made| made.until <= now) {
            made.end();
            self.withdraw_addresses();
            self.refuse_reload(&made.overdue());
        }
    }
}
