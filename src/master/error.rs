//! Why a server ends in failure.

use std::fmt;
use std::io;

use super::admin::AdminError;
use super::control::SocketError;
use super::listeners::ListenError;

/// Why the server ended in failure.
#[derive(Debug)]
pub enum MasterError {
    Listen(ListenError),
    /// There is no control socket where one was asked for.
    Control(SocketError),
    /// The same of the admin listener.
    Admin(AdminError),
    /// A system call without which there is no server.
    System(&'static str, io::Error),
    /// The embedded database could not be made, or workers can't run as their user.
    Prepare(String),
    /// No worker of the first generation got ready.
    NeverReady,
}

impl fmt::Display for MasterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterError::Listen(error) => error.fmt(f),
            MasterError::Control(error) => error.fmt(f),
            MasterError::Admin(error) => error.fmt(f),
            MasterError::System(what, error) => write!(f, "{what}: {error}"),
            MasterError::Prepare(why) => f.write_str(why),
            MasterError::NeverReady => {
                f.write_str("no worker ever got ready; the lines above say how each of them ended")
            }
        }
    }
}

impl std::error::Error for MasterError {}
