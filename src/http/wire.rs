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

/// How a peer must take what is written.
#[derive(Debug)]
pub struct Pace {
    /// The longest time in which it may take nothing; and what it may take on top of what `rate` allows.
    pub stall: Duration,
    /// The slowest that it may be on average, in bytes a second.
    pub rate: usize,
}

impl Pace {
    /// When to give up, after `taken` bytes since `begun`, the last of them `now`; all on the watch's clock. What the
    /// kernel buffers is taken at once and buys time by the rate, so a stall ends even a peer that is far ahead of it.
    fn deadline(&self, begun: u64, now: u64, taken: usize) -> u64 {
        let bought = taken as u64 * 1000 / self.rate.max(1) as u64;
        now.min(begun + bought) + self.stall.as_millis() as u64
    }
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

    /// Writes all of it, for as long as the peer takes it at this pace.
    pub fn write_all(&mut self, mut bytes: &[u8], pace: &Pace) -> Result<(), Broken> {
        let begun = self.watched.now();
        let mut taken = 0;
        self.watched.until(pace.deadline(begun, begun, taken));
        while !bytes.is_empty() {
            match self.io.inner().write(bytes) {
                Ok(0) => return Err(Broken::Gone),
                Ok(count) => {
                    bytes = &bytes[count..];
                    taken += count;
                    let now = self.watched.now();
                    self.watched.until(pace.deadline(begun, now, taken));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_be_slow_but_neither_stall_nor_drip() {
        let pace = Pace {
            stall: Duration::from_secs(30),
            rate: 1000,
        };
        // begun, now, taken, deadline
        let table = [
            (500, 500, 0, 30_500),
            // Far ahead: 30 s from the last byte on.
            (500, 2500, 1_000_000, 32_500),
            // At the rate.
            (500, 10_500, 10_000, 40_500),
            // Behind it: what the bytes were worth, and no more.
            (500, 20_500, 1000, 31_500),
            (500, 31_400, 1001, 31_501),
        ];
        for (begun, now, taken, deadline) in table {
            assert_eq!(
                pace.deadline(begun, now, taken),
                deadline,
                "{taken} at {now}"
            );
        }
    }
}
