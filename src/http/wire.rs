//! A socket on a coroutine: reads and writes that wait without blocking the thread, under the watch's deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use may::io::{CoIo, WaitIo};
use socket2::SockRef;

use super::watch::{Registration, Watch};

/// EPOLLIN.
const INPUT: usize = nix::libc::EPOLLIN as usize;

/// EPOLLERR, EPOLLHUP and EPOLLRDHUP: after one of these an edge for the end of the stream won't come again.
const HANGUP: usize = (nix::libc::EPOLLERR | nix::libc::EPOLLHUP | nix::libc::EPOLLRDHUP) as usize;

/// A connected socket and its place in the watch's table.
pub struct Wire<'w> {
    io: &'w CoIo<TcpStream>,
    pub watched: Registration<'w>,
    /// Whether a read may find something. False after a read that got less than it asked for: the next
    /// bytes bring their own edge, so asking again would be a system call for nothing.
    readable: bool,
    /// The peer has said that it is done, so reads go on to the end without waiting for edges.
    hangup: bool,
    /// The coroutine has waited since this was last cleared, so that others had their turn.
    pub waited: bool,
}

/// Why nothing was read or written.
#[derive(Debug)]
pub enum Broken {
    /// The deadline passed.
    Expired,
    /// The peer is gone.
    Gone,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Broken::Gone
    }
}

impl<'w> Wire<'w> {
    pub fn new(io: &'w CoIo<TcpStream>, watch: &'w Watch) -> Self {
        Wire {
            io,
            watched: watch.register(io.waker()),
            readable: true,
            hangup: false,
            waited: false,
        }
    }

    /// Parks the coroutine until the socket is ready for something or the deadline passes.
    fn wait(&mut self) -> Result<(), Broken> {
        if self.watched.take_expired() {
            return Err(Broken::Expired);
        }
        // Also woken by room to write, which says nothing about input: a new socket's first event is that.
        let events = self.io.wait_io();
        self.waited = true;
        self.readable |= events & INPUT != 0;
        self.hangup |= events & HANGUP != 0;
        if self.watched.take_expired() {
            Err(Broken::Expired)
        } else {
            Ok(())
        }
    }

    /// Waits until a read may find something, without holding a buffer meanwhile.
    pub fn readable(&mut self) -> Result<(), Broken> {
        while !self.readable && !self.hangup {
            self.wait()?;
        }
        Ok(())
    }

    /// Reads what is there now; 0 is the end of the stream, `None` is nothing yet.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Broken> {
        loop {
            match self.io.inner().read(buffer) {
                Ok(count) => {
                    self.readable = count == buffer.len();
                    return Ok(Some(count));
                }
                // After a hang-up no edge need come any more: nothing to read then is nothing ever.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.hangup => {
                    return Err(Broken::Gone);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads at least one byte into `buffer`; 0 is the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        loop {
            self.readable()?;
            if let Some(count) = self.try_read(buffer)? {
                return Ok(count);
            }
        }
    }

    /// Writes what the kernel takes, at least one byte, waiting for room if there is none. `bytes` is not empty.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        loop {
            match self.io.inner().write(bytes) {
                Ok(0) => return Err(Broken::Gone),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets the kernel forget what the peer has not taken, and tell it so with a reset (RFC 9293 section 3.10.4). After
    /// an orderly close it would keep megabytes for minutes, for a peer that may never read them.
    pub fn abort(&self) {
        // A peer that is already gone has nothing to take.
        let _ = SockRef::from(self.io.inner()).set_linger(Some(Duration::ZERO));
    }

    /// Says that no more will come from this side.
    pub fn finish(&self) {
        // A peer that is already gone needs no telling.
        let _ = self.io.inner().shutdown(Shutdown::Write);
    }
}
