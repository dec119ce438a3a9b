//! The admin listener's part in a worker: one coroutine accepts from a socket that all workers share, and few connections are
//! served as public ones are, with deadlines of their own and apart from all that is counted of those. They keep no worker
//! from leaving.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use may::io::{CoIo, WaitIo, WaitIoWaker};

use super::accept;
use crate::admin::Admin;
use crate::http::buffer::Pool;
use crate::http::client::TrustedProxies;
use crate::http::connection::{Arrival, Door, Patience};
use crate::http::limits::Limits;
use crate::http::timing::Wanted;
use crate::http::turnstile::Turnstile;
use crate::http::watch::Watch;
use crate::scoreboard::{Row, Scoreboard};

/// The most connections of a worker; the next ones wait for one, or for another worker.
pub const MOST: usize = 16;

/// How patient they are. A page that asks every second and a Prometheus that does every minute keep theirs.
const PATIENCE: Patience = Patience {
    head: Duration::from_secs(5),
    idle: Duration::from_secs(90),
    write: Duration::from_secs(5),
    body_rate: 1024,
};

/// Nothing that is asked here has a body.
const LIMITS: Limits = Limits {
    request_line: 1024,
    head: 8 * 1024,
    fields: 64,
    body: 0,
    chunk_overhead: 0,
};

/// The admin listener's socket, the master's own or a worker's copy.
#[derive(Debug)]
pub enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AdminSocket {
    /// Another descriptor for it.
    ///
    /// # Errors
    /// There is none left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            AdminSocket::Tcp(socket) => AdminSocket::Tcp(socket.try_clone()?),
            AdminSocket::Unix(socket) => AdminSocket::Unix(socket.try_clone()?),
        })
    }

    fn accept(&self) -> io::Result<TcpStream> {
        match self {
            AdminSocket::Tcp(socket) => socket.accept().map(|(stream, _)| stream),
            // What is done with a connection here is read(2), write(2) and shutdown(2), to which all streams are alike. The
            // peer has no address: it is asked for in vain, and not needed.
            AdminSocket::Unix(socket) => socket
                .accept()
                .map(|(stream, _)| TcpStream::from(OwnedFd::from(stream))),
        }
    }
}

impl AsFd for AdminSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            AdminSocket::Tcp(socket) => socket.as_fd(),
            AdminSocket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for AdminSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A worker's part of the admin listener.
pub struct Desk {
    socket: AdminSocket,
    door: Arc<Door<Admin>>,
    scoreboard: Scoreboard,
    /// Nothing more is accepted.
    closing: AtomicBool,
    /// The acceptor waits for room, until the next tick.
    waits: AtomicBool,
    waker: OnceLock<WaitIoWaker>,
}

impl Desk {
    pub fn new(
        socket: AdminSocket,
        scoreboard: Scoreboard,
        row: Row,
        turnstile: Arc<Turnstile>,
        describes: bool,
    ) -> Self {
        let door = Door {
            service: Admin::new(scoreboard, row, describes),
            limits: LIMITS,
            patience: PATIENCE,
            watch: Arc::new(Watch::default()),
            lobby: None,
            turnstile,
            pool: Pool::default(),
            tally: scoreboard.row_apart(),
            access: None,
            trusted: TrustedProxies::default(),
            timing: Wanted::NOTHING,
        };
        Desk {
            socket,
            door: Arc::new(door),
            scoreboard,
            closing: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }

    /// Accepts until the desk closes. Runs on a coroutine.
    pub fn run(&self) {
        // Lent, not given, for the reason that `accept::run` tells.
        let readiness = match CoIo::new(self.socket.as_fd()) {
            Ok(readiness) => readiness,
            Err(error) => {
                log::warn!("worker: can't wait for the admin listener's connections: {error}");
                return;
            }
        };
        let _ = self.waker.set(readiness.waker());
        while !self.closing.load(Ordering::Relaxed) {
            match self.accept_one() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readiness.wait_io();
                }
                // accept(2): errors of the connection, not of the listener.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    log::debug!("worker: no room for a connection of the admin listener: {error}");
                    self.waits.store(true, Ordering::Relaxed);
                    readiness.wait_io();
                }
            }
        }
    }

    fn accept_one(&self) -> io::Result<()> {
        if self.door.watch.open() >= MOST {
            return Err(io::Error::other("there are as many as may be"));
        }
        // Others may have a table by now of which they may tell.
        if self.scoreboard.is_silent() {
            return Err(io::Error::other("there is nothing to be told"));
        }
        let stream = self.socket.accept()?;
        accept::board(stream, Arrival::Direct, 0, &self.door)
    }

    /// Keeps the deadlines. Called by every tick, on the scheduler's thread.
    pub fn tick(&self) {
        self.door.watch.tick();
        if self.waits.swap(false, Ordering::Relaxed)
            && let Some(waker) = self.waker.get()
        {
            waker.wakeup();
        }
    }

    /// From the next tick on nothing more is accepted, and each connection ends with its answer: there are others.
    pub fn close(&self) {
        if !self.closing.swap(true, Ordering::Relaxed) {
            self.door.watch.drain();
            self.door.watch.evict_idle();
            self.waits.store(true, Ordering::Relaxed);
        }
    }

    /// From now on each answer is its connection's last, for the server stops; until it has, it can be asked how that goes.
    pub fn finish(&self) {
        self.door.watch.drain();
    }
}
