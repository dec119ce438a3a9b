//! What master and worker say to each other, over a socket pair that keeps messages apart. Orders come this way
//! and not as signals, since a signal can be lost between fork and handler and says nothing but its number.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, SockFlag, SockType,
    recvmsg, sendmsg, socketpair,
};

use crate::sys;

/// What the master tells a worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// Finish and be gone.
    Leave(Leave),
    /// Open the log files anew: they have been moved away.
    Reopen,
    /// The server is about to stop: say so to who asks whether it is ready, and serve on.
    Unready,
    /// A worker that starts is at the other end of this: hand it a copy of what the cache has.
    HandOn(Heir),
}

/// The way to a worker that starts.
#[derive(Debug)]
pub struct Heir(pub UnixStream);

impl PartialEq for Heir {
    fn eq(&self, other: &Heir) -> bool {
        self.0.as_raw_fd() == other.0.as_raw_fd()
    }
}

impl Eq for Heir {}

/// How to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// A successor serves: accept no more, finish what is in flight, let idle clients stay until they ask again.
    /// With `sweep` what waits in the queues is served first: nobody else may know of one of the sockets.
    Retire { within: Duration, sweep: bool },
    /// The server stops: serve what waits in the listener's queue, finish what is in flight, close what is idle. `waited` if
    /// all of --drain-delay has passed before: then what is idle has as long again to be closed by its client.
    Stop { within: Duration, waited: bool },
}

/// What a worker tells the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The listener is registered: requests are answered from now on.
    Ready,
    /// It has served as many requests, or grown as large, as it may: another one should take its place.
    Worn,
    /// Somebody has told this worker alone to finish: another one should take its place first.
    Told,
}

/// One end of the pair. Closing it is a message too: the other end reads [`Heard::End`].
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What a read of the channel gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<M> {
    Message(M),
    Nothing,
    /// The other process is gone.
    End,
}

/// To be raised when a message comes to mean something else, or one can't be done without: a master speaks to the workers of
/// the image that it was upgraded from.
pub const PROTOCOL: u32 = 1;

const READY: u8 = b'R';
const WORN: u8 = b'W';
const TOLD: u8 = b'T';
const RETIRE: u8 = b'D';
const STOP: u8 = b'S';
const REOPEN: u8 = b'O';
// An older image does not know it, and its workers go on saying that they are ready.
const UNREADY: u8 = b'U';
// Nor this: its workers read the message without the descriptor, which the kernel then closes.
const HAND_ON: u8 = b'H';

impl Channel {
    /// A connected pair: the master's end first.
    ///
    /// # Errors
    /// Too many open files.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Channel(ours), Channel(theirs)))
    }

    /// The master's end of a channel that the image of the program before this one made.
    pub fn adopt(descriptor: OwnedFd) -> Channel {
        Channel(descriptor)
    }

    /// Sends an order. A worker that is gone hears nothing, and its death is reported elsewhere.
    ///
    /// # Errors
    /// The peer is gone, or has left hundreds of messages unread.
    pub fn order(&self, order: Order) -> io::Result<()> {
        let (kind, within, flag) = match &order {
            Order::Leave(Leave::Retire { within, sweep }) => (RETIRE, *within, *sweep),
            Order::Leave(Leave::Stop { within, waited }) => (STOP, *within, *waited),
            Order::Reopen => (REOPEN, Duration::ZERO, false),
            Order::Unready => (UNREADY, Duration::ZERO, false),
            Order::HandOn(_) => (HAND_ON, Duration::ZERO, false),
        };
        let mut message = [kind, 0, 0, 0, 0, u8::from(flag)];
        let within = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        message[1..5].copy_from_slice(&within.to_le_bytes());
        match &order {
            Order::HandOn(Heir(way)) => self.send(&message, &[way.as_raw_fd()]),
            _ => self.send(&message, &[]),
        }
    }

    /// Sends a report.
    ///
    /// # Errors
    /// As [`Channel::order`].
    pub fn report(&self, report: Report) -> io::Result<()> {
        match report {
            Report::Ready => self.send(&[READY], &[]),
            Report::Worn => self.send(&[WORN], &[]),
            Report::Told => self.send(&[TOLD], &[]),
        }
    }

    fn send(&self, message: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        // Empty rights would be refused.
        let rights = match descriptors {
            [] => &[],
            _ => &rights[..],
        };
        let message = [IoSlice::new(message)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &message, rights, flags, None)?;
        Ok(())
    }

    /// The next order, without waiting.
    pub fn hear_order(&self) -> Heard<Order> {
        let mut message = [0; 6];
        let (heard, descriptor) = self.receive(&mut message);
        match heard {
            Heard::Message(&[kind @ (RETIRE | STOP), a, b, c, d, flag]) => {
                let within = Duration::from_millis(u32::from_le_bytes([a, b, c, d]).into());
                Heard::Message(Order::Leave(if kind == RETIRE {
                    Leave::Retire {
                        within,
                        sweep: flag != 0,
                    }
                } else {
                    Leave::Stop {
                        within,
                        waited: flag != 0,
                    }
                }))
            }
            Heard::Message([REOPEN, ..]) => Heard::Message(Order::Reopen),
            Heard::Message([UNREADY, ..]) => Heard::Message(Order::Unready),
            Heard::Message([HAND_ON, ..]) => match descriptor {
                Some(way) => Heard::Message(Order::HandOn(Heir(way.into()))),
                // There was no room for one more: the heir starts with nothing.
                None => Heard::Nothing,
            },
            Heard::Message(_) | Heard::Nothing => Heard::Nothing,
            Heard::End => Heard::End,
        }
    }

    /// The next report, without waiting.
    pub fn hear_report(&self) -> Heard<Report> {
        match self.receive(&mut [0; 5]).0 {
            Heard::Message([READY, ..]) => Heard::Message(Report::Ready),
            Heard::Message([WORN, ..]) => Heard::Message(Report::Worn),
            Heard::Message([TOLD, ..]) => Heard::Message(Report::Told),
            Heard::Message(_) | Heard::Nothing => Heard::Nothing,
            Heard::End => Heard::End,
        }
    }

    fn receive<'m>(&self, message: &'m mut [u8]) -> (Heard<&'m [u8]>, Option<OwnedFd>) {
        let mut rights = cmsg_space!([RawFd; 1]);
        loop {
            let mut parts = [IoSliceMut::new(message)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut rights), flags);
            let (length, descriptor) = match received {
                Ok(received) => (received.bytes, descriptor_of(&received)),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return (Heard::Nothing, None),
                Err(_) => return (Heard::End, None),
            };
            return match length {
                0 => (Heard::End, None),
                length => (Heard::Message(&message[..length]), descriptor),
            };
        }
    }
}

/// The descriptor that came with a message, if one did and there was room for it.
fn descriptor_of(received: &RecvMsg<'_, '_, ()>) -> Option<OwnedFd> {
    let mut came = received.cmsgs().ok()?;
    match came.next()? {
        ControlMessageOwned::ScmRights(numbers) => sys::take_inherited(*numbers.first()?).ok(),
        _ => None,
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order_and_the_end_is_heard() {
        let (master, worker) = Channel::pair().expect("a pair");
        assert_eq!(worker.hear_order(), Heard::Nothing);
        let orders = || {
            let leave = |sweep| Leave::Retire {
                within: Duration::from_secs(30),
                sweep,
            };
            let stop = |waited| Leave::Stop {
                within: Duration::from_millis(1),
                waited,
            };
            [
                Order::Leave(leave(false)),
                Order::Leave(leave(true)),
                Order::Reopen,
                Order::Unready,
                Order::Leave(stop(false)),
                Order::Leave(stop(true)),
            ]
        };
        for order in orders() {
            master.order(order).expect("sent");
        }
        for order in orders() {
            assert_eq!(worker.hear_order(), Heard::Message(order));
        }
        let reports = [Report::Ready, Report::Worn, Report::Told];
        for report in reports {
            worker.report(report).expect("sent");
        }
        drop(worker);
        for report in reports {
            assert_eq!(master.hear_report(), Heard::Message(report));
        }
        assert_eq!(master.hear_report(), Heard::End);
    }

    #[test]
    fn the_way_to_an_heir_comes_with_its_order_and_once() {
        let (master, worker) = Channel::pair().expect("a pair");
        let (mut heir, donor) = UnixStream::pair().expect("a pair");
        master.order(Order::Reopen).expect("sent");
        master.order(Order::HandOn(Heir(donor))).expect("sent");
        master.order(Order::Unready).expect("sent");
        assert_eq!(worker.hear_order(), Heard::Message(Order::Reopen));
        let Heard::Message(Order::HandOn(Heir(mut way))) = worker.hear_order() else {
            panic!("no way to the heir");
        };
        way.write_all(b"all").expect("written");
        drop(way);
        let mut read = String::new();
        heir.read_to_string(&mut read).expect("read to the end");
        assert_eq!(read, "all");
        assert_eq!(worker.hear_order(), Heard::Message(Order::Unready));
    }
}
