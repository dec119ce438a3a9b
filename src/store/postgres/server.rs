//! The pool of sessions to the server of one URL, or to that of its servers which fits. Used by the store, one for the primary and
//! one for each replica.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use r2d2::{Pool, PooledConnection};
use tokio_postgres::Client;

use super::connect::{Connector, Silence};
use super::error::{self, store_error};
use super::manager::Manager;
use super::session::{CallError, Session};
use super::statements::{self, Statements};
use crate::store::pool::{self, Gate};
use crate::store::url::PostgresUrl;
use crate::store::{Deadline, PoolOptions, Room, StoreError, tls};

/// How often a read is asked: a network that cuts connections may cut the second one, too.
const READ_TRIES: usize = 3;

/// A server, by the sessions with it.
pub(super) struct Server {
    /// Exchanged for one of another size by [`Server::limit`].
    pool: RwLock<Pool<Manager>>,
    /// The most connections that it may ever have.
    most: u32,
    pub(super) connector: Arc<Connector>,
    gate: Arc<Gate>,
    /// Sessions that are older are not used any more.
    pub(super) epoch: Arc<AtomicU64>,
    /// The connections that the server lets in; 0 before it has been reached.
    room: Arc<AtomicU32>,
}

impl Server {
    pub(super) fn open(url: &PostgresUrl, options: PoolOptions) -> Result<Self, StoreError> {
        Server::named(url, options, format!("the database {url}"))
    }

    /// As what the log speaks of it.
    pub(super) fn named(
        url: &PostgresUrl,
        options: PoolOptions,
        name: String,
    ) -> Result<Self, StoreError> {
        let gate = Arc::new(Gate::new(name));
        let epoch = Arc::new(AtomicU64::new(0));
        let room = Arc::new(AtomicU32::new(0));
        let connector = Arc::new(Connector {
            url: url.clone(),
            tls: tls::connector(url)?,
            timeout: url.connect_timeout.unwrap_or(options.connect_timeout),
            statement_timeout: options.statement_timeout.max(Duration::from_millis(1)),
            room: room.clone(),
            silent: Silence::default(),
            heard: None,
            pooled: options.pooled,
        });
        let manager = Manager {
            connector: connector.clone(),
            spare: Mutex::default(),
            gate: gate.clone(),
            epoch: epoch.clone(),
        };
        Ok(Server {
            pool: RwLock::new(pool::build(manager, options.max_size)),
            most: options.max_size.max(1),
            connector,
            gate,
            epoch,
            room,
        })
    }

    fn pool(&self) -> Pool<Manager> {
        let pool = self.pool.read().unwrap_or_else(PoisonError::into_inner);
        pool.clone()
    }

    /// A connection that is not known to be dead.
    pub(super) fn checkout(
        &self,
        deadline: Deadline,
    ) -> Result<PooledConnection<Manager>, StoreError> {
        let pool = self.pool();
        loop {
            let mut session = pool::checkout(&pool, &self.gate, deadline)?;
            if session.epoch() >= self.epoch.load(Ordering::Acquire) {
                return Ok(session);
            }
            session.give_up();
        }
    }

    /// Whether all the connections that there may be are in use.
    pub(super) fn is_busy(&self) -> bool {
        let pool = self.pool();
        let state = pool.state();
        state.idle_connections == 0 && state.connections >= pool.max_size()
    }

    /// Condemns the idle connections that are as old as this one.
    pub(super) fn condemn(&self, session: &Session) {
        self.epoch.fetch_max(session.epoch() + 1, Ordering::AcqRel);
    }

    /// One query outside of a transaction; asked again on a fresh connection, twice at most, if its own was dead or stale.
    pub(super) fn read<T>(
        &self,
        deadline: Deadline,
        query: impl AsyncFn(&Client, &mut Statements) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let mut tries = READ_TRIES;
        loop {
            tries -= 1;
            let mut session = self.checkout(deadline)?;
            let begin = self.connector.begin_of_read(deadline);
            let asked = session.run(deadline, async |client, statements| {
                statements::within(client, begin.as_deref(), query(client, statements)).await
            });
            let error = match asked {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let dead = matches!(error, CallError::Lost(_));
            if tries == 0 || (!dead && !error::is_stale(&error)) {
                return Err(store_error(error));
            }
            session.give_up();
            if dead {
                self.condemn(&session);
            }
        }
    }

    /// How many connections it lets in.
    pub(super) fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            // How many a pooler lets in is its own affair, and it has them wait.
            _ if self.connector.pooled => Room::Ample,
            0 => Room::Unknown,
            connections => Room::Connections(connections),
        }
    }

    /// r2d2 opens up to a pool's size for whoever waits, and the size of a pool is for ever: so there is a new pool, which
    /// begins with what the old one has idle.
    pub(super) fn limit(&self, connections: usize) {
        let size = u32::try_from(connections)
            .unwrap_or(u32::MAX)
            .clamp(1, self.most);
        if self.pool().max_size() == size {
            return;
        }
        let mut pool = self.pool.write().unwrap_or_else(PoisonError::into_inner);
        let idle = std::iter::from_fn(|| pool.try_get().map(|mut session| session.take()));
        let manager = Manager {
            connector: self.connector.clone(),
            spare: Mutex::new(idle.take(size as usize).collect()),
            gate: self.gate.clone(),
            epoch: self.epoch.clone(),
        };
        *pool = pool::build(manager, size);
    }

    /// Opens so many connections, as far as that goes by the deadline.
    pub(super) fn warm_up(&self, connections: usize, deadline: Deadline) {
        // Held until all are there, or the next one would be the same.
        let mut held = Vec::new();
        while held.len() < connections {
            match self.checkout(deadline) {
                Ok(session) => held.push(session),
                // The gate has said why; the first request tries again.
                Err(_) => return,
            }
        }
    }
}
