//! What must be there before workers of a configuration can start, made by a child: the embedded database, if that is what is
//! configured, and a look whether the workers' user reaches what it must. That takes a database client and that user, and
//! the master never gets near either. At the start the master waits for it; at a reload it does not, for a disk may hang.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::plan::Event;
use super::spawn::{self, End};
use super::{Master, MasterError};
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

    /// Ends the child, be it that it hangs in the kernel until later. Nobody waits for it any more.
    pub(super) fn end(&self) {
        if let Err(error) = kill(self.child, Signal::SIGKILL) {
            log::debug!("master: the child that prepares is gone already: {error}");
        }
    }
}

/// Lets a child do it, and waits for it.
pub(super) fn prepare(config: &Config) -> Result<(), MasterError> {
    match start(config)? {
        None => Ok(()),
        Some(child) => verdict(spawn::wait_for(child).map_err(failed)?),
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
    spawn::fork_child(work).map(Some).map_err(failed)
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
        if let Some(made) = self.preparation.take_if(|made| made.until <= now) {
            made.end();
            self.withdraw_addresses();
            self.refuse_reload(&MasterError::Prepare(format!(
                "what workers need could not be prepared within {:?} (--boot-timeout)",
                made.config.boot_timeout
            )));
        }
    }
}
