//! Listening sockets: one for each address and slot, SO_REUSEPORT, made by the master and held until the address is
//! given up. Workers inherit them, so connections that wait in the kernel's queues outlive any worker.
//!
//! The kernel spreads connections over all sockets of an address, whoever serves them. When there are fewer workers
//! than sockets (after a reload with fewer), worker `i` of `n` serves the sockets `i`, `i + n`, `i + 2n`, …: no
//! socket is ever closed under its queue.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait for an accept, per socket. The kernel cuts it to net.core.somaxconn.
pub const BACKLOG: i32 = 65_535;

/// An address could not be listened on.
#[derive(Debug)]
pub enum ListenError {
    /// Somebody listens there already.
    InUse(SocketAddr),
    /// The kernel's word.
    Failed(SocketAddr, io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::InUse(address) => write!(
                f,
                "another process listens on {address} already; stop it (`ss -ltnp` names it) or choose another --listen"
            ),
            ListenError::Failed(address, error) => write!(f, "can't listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// All sockets of one address.
#[derive(Debug)]
struct Group {
    /// The address as configured: port 0 stays 0 here.
    asked: SocketAddr,
    /// The address as bound.
    bound: SocketAddr,
    sockets: Vec<TcpListener>,
}

/// All sockets of the server.
#[derive(Debug, Default)]
pub struct Listeners {
    groups: Vec<Group>,
}

impl Listeners {
    /// Listens on what is wanted and not yet listened on, with at least one socket a slot. Addresses that are not wanted
    /// any more stay until [`Listeners::retain`]. On an error nothing has changed.
    ///
    /// # Errors
    /// An address is taken, not ours to bind, or descriptors have run out.
    pub fn extend(&mut self, wanted: &[SocketAddr], slots: usize) -> Result<(), ListenError> {
        let mut fresh = Vec::new();
        for address in wanted {
            if !self.groups.iter().any(|group| group.asked == *address) {
                fresh.push(Group::bind(*address, slots)?);
            }
        }
        let mut more = Vec::new();
        for group in self
            .groups
            .iter()
            .filter(|group| wanted.contains(&group.asked))
        {
            let missing = slots.saturating_sub(group.sockets.len());
            let sockets: Result<Vec<_>, _> = (0..missing).map(|_| group.join()).collect();
            more.push((group.asked, sockets?));
        }
        for (asked, sockets) in more {
            if let Some(group) = self.groups.iter_mut().find(|group| group.asked == asked) {
                group.sockets.extend(sockets);
            }
        }
        self.groups.extend(fresh);
        Ok(())
    }

    /// Gives up the addresses that are not wanted; those who are connected stay so.
    pub fn retain(&mut self, wanted: &[SocketAddr]) {
        self.groups.retain(|group| wanted.contains(&group.asked));
    }

    /// All sockets of the wanted addresses, each with its number in its address's group. Those whose number is `i` modulo
    /// the number of slots are slot `i`'s.
    pub fn of(&self, wanted: &[SocketAddr]) -> impl Iterator<Item = (usize, &TcpListener)> {
        self.groups
            .iter()
            .filter(|group| wanted.contains(&group.asked))
            .flat_map(|group| group.sockets.iter().enumerate())
    }

    /// Where the server can be reached.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.groups.iter().map(|group| group.bound)
    }
}

impl Group {
    fn bind(asked: SocketAddr, slots: usize) -> Result<Self, ListenError> {
        let fail = |error: io::Error| match error.raw_os_error() {
            Some(nix::libc::EADDRINUSE) => ListenError::InUse(asked),
            _ => ListenError::Failed(asked, error),
        };
        // The first socket takes the port alone: with SO_REUSEPORT already set, a second server of the same user
        // would share it in silence. Once it is ours, the option lets our other sockets join.
        let first = open(asked).map_err(fail)?;
        first.bind(&asked.into()).map_err(fail)?;
        first.set_reuse_port(true).map_err(fail)?;
        let bound = first
            .local_addr()
            .map_err(fail)?
            .as_socket()
            .unwrap_or(asked);
        first.listen(BACKLOG).map_err(fail)?;
        let mut group = Group {
            asked,
            bound,
            sockets: vec![first.into()],
        };
        for _ in 1..slots {
            let socket = group.join()?;
            group.sockets.push(socket);
        }
        Ok(group)
    }

    /// One more socket on the group's address.
    fn join(&self) -> Result<TcpListener, ListenError> {
        let join = || -> io::Result<TcpListener> {
            let socket = open(self.bound)?;
            socket.set_reuse_port(true)?;
            socket.bind(&self.bound.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        };
        join().map_err(|error| ListenError::Failed(self.bound, error))
    }
}

/// A socket with the options that connections inherit from it.
fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // Connections of a server that was here before may still be in TIME_WAIT on this port.
    socket.set_reuse_address(true)?;
    // Answers leave in one write each; holding them back for more would only delay them.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // [::] means IPv6 only, so that 0.0.0.0 can be listened on beside it and no address means two things.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn a_second_server_on_the_address_is_refused() {
        let mut first = Listeners::default();
        first.extend(&[any()], 3).expect("free");
        let taken = first.addresses().next().expect("bound");
        let mut second = Listeners::default();
        let refused = second.extend(&[taken], 3);
        assert!(
            matches!(refused, Err(ListenError::InUse(address)) if address == taken),
            "{refused:?}"
        );
        let everywhere = SocketAddr::from(([0, 0, 0, 0], taken.port()));
        assert!(matches!(
            second.extend(&[everywhere], 1),
            Err(ListenError::InUse(_))
        ));
    }

    #[test]
    fn every_slot_has_a_socket_and_none_is_given_up_with_its_slot() {
        let mut listeners = Listeners::default();
        listeners.extend(&[any()], 4).expect("free");
        let numbers = |listeners: &Listeners| -> Vec<usize> {
            listeners.of(&[any()]).map(|(number, _)| number).collect()
        };
        assert_eq!(numbers(&listeners), [0, 1, 2, 3]);
        listeners.extend(&[any()], 2).expect("enough");
        assert_eq!(numbers(&listeners), [0, 1, 2, 3]);
        listeners.extend(&[any()], 6).expect("more");
        assert_eq!(numbers(&listeners), [0, 1, 2, 3, 4, 5]);
        listeners.retain(&[]);
        assert_eq!(listeners.addresses().count(), 0);
    }
}
