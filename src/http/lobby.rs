//! Where connections wait that have been idle for a while: a socket and a deadline each, no coroutine, no stack, no
//! buffer. Their sockets are watched by an epoll(7) of the lobby's own, which the scheduler watches as one
//! descriptor; the first bytes of a request bring a connection back to a coroutine.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use may::io::{CoIo, WaitIo};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;

use super::connection::Arrival;
use super::watch::Watch;
use crate::scoreboard::Row;
use crate::scoreboard::counters::Counter;

/// How many sockets one look at the epoll brings back.
const AT_ONCE: usize = 256;

/// The lobby of a worker. Only its scheduler thread comes here, so the lock is never contended; it is never held over
/// a wait.
pub struct Lobby {
    epoll: Epoll,
    /// The same epoll, as the scheduler sees it.
    bell: CoIo<OwnedFd>,
    seats: Mutex<Slab<Seat>>,
    watch: Arc<Watch>,
    tally: Row,
}

struct Seat {
    stream: TcpStream,
    arrival: Arrival,
    /// Milliseconds on the watch's clock.
    deadline: u64,
}

impl Lobby {
    /// An empty lobby. The coroutine runtime must be configured already, for this starts it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(watch: Arc<Watch>, tally: Row) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = CoIo::new(epoll.0.try_clone()?).map_err(io::Error::from)?;
        Ok(Lobby {
            epoll,
            bell,
            seats: Mutex::default(),
            watch,
            tally,
        })
    }

    fn seats(&self) -> MutexGuard<'_, Slab<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle connection in until `deadline`. One that can't be watched is closed.
    pub fn seat(&self, stream: TcpStream, arrival: Arrival, deadline: u64) {
        let mut seats = self.seats();
        let place = seats.vacant_entry();
        let interest = EpollEvent::new(
            EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
            place.key() as u64,
        );
        if let Err(error) = self.epoll.add(&stream, interest) {
            log::error!("worker: an idle connection can't be watched, so it is closed: {error}");
            return;
        }
        place.insert(Seat {
            stream,
            arrival,
            deadline,
        });
        self.watch.enter();
    }

    fn leave(&self, key: usize) -> Option<Seat> {
        let seat = self.seats().try_remove(key)?;
        self.watch.leave();
        // A socket that is closed leaves the epoll by itself, one that goes on has to be taken out.
        if let Err(error) = self.epoll.delete(&seat.stream) {
            log::debug!("worker: a connection was not in the lobby's epoll: {error}");
        }
        Some(seat)
    }

    /// Hands every connection that has something to read to `serve`, with the deadline it had here, for ever. Runs on a
    /// coroutine; `serve` may wait.
    pub fn attend(&self, serve: impl Fn(TcpStream, Arrival, u64)) {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        loop {
            // Drained to the end each time: the scheduler watches by edges.
            match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => drop(self.bell.wait_io()),
                Ok(count) => {
                    for event in &events[..count] {
                        // After a wait the key may be another connection's, which then has a coroutine for nothing.
                        if let Some(seat) = self.leave(event.data() as usize) {
                            serve(seat.stream, seat.arrival, seat.deadline);
                        }
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    log::error!("worker: the lobby can't look at its connections: {error}");
                    self.bell.wait_io();
                }
            }
        }
    }

    /// Closes those whose time is over, and all of them once the idle are evicted.
    pub fn tick(&self) {
        let now = self.watch.now();
        let evicting = self.watch.evicting();
        let over: Vec<usize> = self
            .seats()
            .iter()
            .filter(|(_, seat)| evicting || seat.deadline <= now)
            .map(|(key, _)| key)
            .collect();
        for key in over {
            if self.leave(key).is_some() && !evicting {
                self.tally.count(Counter::IdleTimeouts);
            }
        }
    }
}
