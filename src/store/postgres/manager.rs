//! What r2d2 asks of us: opening sessions, as far as the gate lets it, and telling the broken ones.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use r2d2::ManageConnection;

use super::connect::Connector;
use super::session::Session;
use crate::store::pool::Gate;

/// Opens sessions for the pool, as far as the gate lets it.
pub(super) struct Manager {
    pub(super) connector: Arc<Connector>,
    /// Sessions of the pool before this one, which are handed out first.
    pub(super) spare: Mutex<Vec<Session>>,
    pub(super) gate: Arc<Gate>,
    pub(super) epoch: Arc<AtomicU64>,
}

impl ManageConnection for Manager {
    type Connection = Session;
    type Error = ConnectError;

    fn connect(&self) -> Result<Session, ConnectError> {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(session) = spare {
            return Ok(session);
        }
        // Before the attempt: a server that restarts during it condemns this session too.
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut session = self
            .gate
            .attempt(|| self.connector.connect())
            .map_err(ConnectError)?;
        session.set_epoch(epoch);
        Ok(session)
    }

    fn is_valid(&self, session: &mut Session) -> Result<(), ConnectError> {
        match session.is_alive() {
            true => Ok(()),
            false => Err(ConnectError("the server hung up".to_owned())),
        }
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        // Who panics leaves a transaction open, which the next one would take for its own.
        session.is_broken() || thread::panicking()
    }
}

/// Why a connection could not be opened, in words without a password.
#[derive(Debug)]
pub(super) struct ConnectError(String);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConnectError {}
