//! Listening sockets: one for each address and slot, SO_REUSEPORT, made by the master and held until the address is
//! given up. Workers inherit them, so connections that wait in the kernel's queues outlive any worker.
//!
//! The kernel spreads connections over all sockets of an address, whoever serves them. When there are fewer workers
//! than sockets (after a reload with fewer), worker `i` of `n` serves the sockets `i`, `i + n`, `i + 2n`, …: no
//! socket is ever closed under its queue. When there are fewer sockets than workers (the service manager passed one, and
//! the kernel lets only the user that made it add more), several workers accept from one.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::Listen;
use crate::sys;

/// How many connections may wait for an accept, per socket. The kernel cuts it to net.core.somaxconn.
pub const BACKLOG: i32 = 65_535;

/// An address could not be listened on.
#[derive(Debug)]
pub enum ListenError {
    /// Somebody listens there already.
    InUse(SocketAddr),
    /// The kernel's word.
    Failed(SocketAddr, io::Error),
    /// No descriptor is left for what workers ring each other with.
    Bell(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::InUse(address) => write!(
                f,
                "another process listens on {address} already; stop it (`ss -ltnp` names it) or choose another --listen"
            ),
            ListenError::Failed(address, error) => write!(f, "can't listen on {address}: {error}"),
            ListenError::Bell(error) => write!(f, "can't connect the workers: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// All sockets of one address.
#[derive(Debug)]
struct Group {
    /// The address as configured: port 0 stays 0 here.
    asked: Listen,
    /// The address as bound.
    bound: SocketAddr,
    sockets: Vec<TcpListener>,
    /// How many of the sockets listen; the others, behind them, are for slots that there may be: the kernel gives them no
    /// connection.
    listening: usize,
    /// Which of them, from the first on, the service manager has: it passed them, or keeps them.
    kept: usize,
}

/// A listening socket that the service manager passed.
#[derive(Debug)]
struct Offer {
    address: SocketAddr,
    name: String,
    socket: TcpListener,
}

/// All sockets of the server.
#[derive(Debug, Default)]
pub struct Listeners {
    groups: Vec<Group>,
    /// One a slot, by which workers ask each other to take connections off them.
    bells: Vec<OwnedFd>,
    /// What the service manager passed and nobody has wanted yet.
    offers: Vec<Offer>,
}

/// A socket as workers have it. The one whose number is `i` modulo the number of slots is slot `i`'s; where an address has fewer
/// sockets than there are slots, the numbers go on and a socket has several.
#[derive(Debug)]
pub struct Place<'l> {
    /// Its number in its address's group.
    pub number: usize,
    /// Where the scoreboard says who attends to it.
    pub mark: usize,
    pub socket: &'l TcpListener,
    /// Its connections begin with a PROXY header.
    pub proxied: bool,
}

/// All that is handed to another image of the program.
#[derive(Serialize, Deserialize)]
pub struct HandedListeners {
    groups: Vec<HandedGroup>,
    /// Descriptors, in the order of the slots.
    bells: Vec<RawFd>,
}

/// A group as it is handed to another image of the program.
#[derive(Serialize, Deserialize)]
struct HandedGroup {
    asked: SocketAddr,
    proxied: bool,
    bound: SocketAddr,
    /// Descriptors, in the order of the sockets' numbers.
    sockets: Vec<RawFd>,
    /// How many of them the service manager has.
    kept: usize,
}

impl Listeners {
    /// All of it, to be handed over. Every socket listens while no worker is being replaced.
    pub fn handed(&self) -> HandedListeners {
        let hand = |group: &Group| HandedGroup {
            asked: group.asked.address,
            proxied: group.asked.proxied,
            bound: group.bound,
            sockets: group.sockets.iter().map(AsRawFd::as_raw_fd).collect(),
            kept: group.kept,
        };
        HandedListeners {
            groups: self.groups.iter().map(hand).collect(),
            bells: self.bells.iter().map(AsRawFd::as_raw_fd).collect(),
        }
    }

    /// Takes over what was handed over.
    ///
    /// # Errors
    /// A descriptor was not.
    pub fn adopt(handed: &HandedListeners) -> io::Result<Self> {
        let adopt = |group: &HandedGroup| {
            let sockets = group.sockets.iter();
            let sockets: io::Result<Vec<TcpListener>> = sockets
                .map(|socket| sys::adopt_descriptor(*socket).map(TcpListener::from))
                .collect();
            let sockets = sockets?;
            Ok(Group {
                asked: Listen {
                    address: group.asked,
                    proxied: group.proxied,
                },
                bound: group.bound,
                listening: sockets.len(),
                kept: group.kept,
                sockets,
            })
        };
        let groups: io::Result<_> = handed.groups.iter().map(adopt).collect();
        let bells = handed.bells.iter();
        let bells: io::Result<_> = bells.map(|bell| sys::adopt_descriptor(*bell)).collect();
        Ok(Listeners {
            groups: groups?,
            bells: bells?,
            offers: Vec::new(),
        })
    }

    /// Everything that is open.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = self.groups.iter().flat_map(|group| &group.sockets);
        let bells = self.bells.iter().map(AsFd::as_fd);
        sockets.map(AsFd::as_fd).chain(bells)
    }

    /// The addresses as configured: a port that was left open is 0.
    pub fn asked(&self) -> Vec<Listen> {
        self.groups.iter().map(|group| group.asked).collect()
    }

    /// Takes sockets over that the service manager passed, each under its name: they serve their address once that is
    /// wanted. What is no listening TCP socket is closed.
    pub fn offer(&mut self, passed: Vec<(OwnedFd, String)>) {
        for (fd, name) in passed {
            match accept_offer(fd, &name) {
                Ok(offer) => self.offers.push(offer),
                Err(error) => log::warn!(
                    "master: the service manager passes {name:?}, which can't be listened on: {error}"
                ),
            }
        }
    }

    /// Closes the sockets that nobody wanted, and gives their addresses and names.
    pub fn decline(&mut self) -> Vec<(SocketAddr, String)> {
        let offers = self.offers.drain(..);
        offers.map(|offer| (offer.address, offer.name)).collect()
    }

    /// Gives the sockets that `keep` has not taken yet to it, each with the name of its address; it says whether it took
    /// one. A port that was left open is another one at the next start, so its sockets are not worth keeping.
    pub fn hand_over(&mut self, keep: impl Fn(&str, &TcpListener) -> bool) {
        for group in &mut self.groups {
            if group.asked.address.port() == 0 {
                continue;
            }
            let name = kept_name(group.asked.address);
            let fresh = &group.sockets[group.kept..group.listening];
            group.kept += fresh
                .iter()
                .take_while(|socket| keep(&name, socket))
                .count();
        }
    }

    /// Listens on the wanted addresses that are not yet listened on, with a socket a slot. Where there are sockets already, but
    /// fewer than slots, the rest is bound and waits for [`Listeners::open`], since nobody would serve its queue before.
    /// Addresses that are not wanted any more stay until [`Listeners::retain`]. On an error nothing has changed.
    ///
    /// # Errors
    /// An address is taken, not ours to bind, or descriptors have run out.
    pub fn extend(&mut self, wanted: &[Listen], slots: usize) -> Result<(), ListenError> {
        for _ in self.bells.len()..slots {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let bell =
                EventFd::from_flags(flags).map_err(|error| ListenError::Bell(error.into()))?;
            self.bells.push(bell.into());
        }
        let mut fresh = Vec::new();
        for listen in wanted {
            let beside_own = self.has_port(listen.address.port());
            if !self.groups.iter().any(|group| group.serves(listen)) {
                let offered = self.offers.extract_if(.., |offer| {
                    listen.address.port() != 0 && offer.address == listen.address
                });
                let offered: Vec<TcpListener> = offered.map(|offer| offer.socket).collect();
                fresh.push(match offered.is_empty() {
                    true => Group::bind(*listen, slots, beside_own)?,
                    false => Group::adopt(*listen, offered, slots),
                });
            }
        }
        let mut more = Vec::new();
        for group in self.groups.iter().filter(|group| group.is_in(wanted)) {
            let missing = slots.saturating_sub(group.sockets.len());
            let sockets: Result<Vec<_>, _> = (0..missing).map(|_| group.join()).collect();
            more.push((group.bound, group.or_fewer(sockets)?));
        }
        for (bound, sockets) in more {
            if let Some(group) = self.groups.iter_mut().find(|group| group.bound == bound) {
                group.sockets.extend(sockets);
            }
        }
        self.groups.extend(fresh);
        Ok(())
    }

    /// Whether a socket of ours has this port, on whatever address: 0.0.0.0 and 127.0.0.1 are in each other's way.
    fn has_port(&self, port: u16) -> bool {
        let groups = self.groups.iter().map(|group| group.bound);
        let mut own = groups.chain(self.offers.iter().map(|offer| offer.address));
        port != 0 && own.any(|address| address.port() == port)
    }

    /// Lets all sockets listen: there will be somebody who serves them.
    ///
    /// # Errors
    /// The kernel's. The sockets of before serve the address all the same.
    pub fn open(&mut self) -> io::Result<()> {
        for group in &mut self.groups {
            for socket in &group.sockets[group.listening..] {
                SockRef::from(socket).listen(BACKLOG)?;
                group.listening += 1;
            }
        }
        Ok(())
    }

    /// Gives up what [`Listeners::extend`] made beyond these addresses, which are those of before, and what does not listen.
    /// Gives the names under which the service manager may keep what is given up.
    pub fn withdraw(&mut self, wanted: &[Listen]) -> Vec<String> {
        let names = self.retain(wanted);
        for group in &mut self.groups {
            group.sockets.truncate(group.listening);
        }
        names
    }

    /// Gives up the addresses that are not wanted, and gives the names under which the service manager may keep them;
    /// those who are connected stay so.
    pub fn retain(&mut self, wanted: &[Listen]) -> Vec<String> {
        let given_up = self.groups.extract_if(.., |group| !group.is_in(wanted));
        given_up
            .filter(|group| group.kept > 0)
            .map(|group| kept_name(group.asked.address))
            .collect()
    }

    /// All sockets of the wanted addresses.
    pub fn of(&self, wanted: &[Listen], slots: usize) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        for group in &self.groups {
            if let Some(listen) = wanted.iter().find(|listen| group.serves(listen)) {
                let numbers = 0..group.sockets.len().max(slots);
                let all = numbers.zip(group.sockets.iter().cycle());
                // The same in every image of the program, whatever other addresses there are.
                let first = xxh3_64(group.bound.to_string().as_bytes()) as usize / 2;
                places.extend(all.map(|(number, socket)| Place {
                    number,
                    mark: first + number,
                    socket,
                    proxied: listen.proxied,
                }));
            }
        }
        places
    }

    /// The bells of so many slots.
    pub fn bells(&self, slots: usize) -> &[OwnedFd] {
        &self.bells[..slots.min(self.bells.len())]
    }

    /// Lets as many connections wait as the host allows by now: what a socket may hold was cut when it began to listen.
    pub fn deepen(&self) {
        self.groups.iter().for_each(Group::deepen);
    }

    /// Where the server can be reached.
    pub fn addresses(&self) -> impl Iterator<Item = Listen> {
        self.groups.iter().map(|group| Listen {
            address: group.bound,
            ..group.asked
        })
    }
}

impl Group {
    /// Whether these are the sockets for it. The same socket may begin to be proxied at a reload, or cease to be; where
    /// the port was left open, only the protocol tells two addresses apart.
    fn serves(&self, listen: &Listen) -> bool {
        self.asked.address == listen.address
            && (listen.address.port() != 0 || self.asked.proxied == listen.proxied)
    }

    /// listen(2) on a socket that listens already changes its backlog and nothing else.
    fn deepen(&self) {
        // Those that wait for a worker before they listen are not to begin by this.
        let listening =
            |socket: &&TcpListener| SockRef::from(*socket).is_listener().unwrap_or(false);
        for socket in self.sockets.iter().filter(listening) {
            if let Err(error) = SockRef::from(socket).listen(BACKLOG) {
                log::warn!(
                    "master: the queue of {} stays as it was: {error}",
                    self.bound
                );
            }
        }
    }

    fn is_in(&self, wanted: &[Listen]) -> bool {
        wanted.iter().any(|listen| self.serves(listen))
    }

    /// `beside_own` is whether other sockets of ours have the port: those of an address that is about to be given up.
    fn bind(listen: Listen, slots: usize, beside_own: bool) -> Result<Self, ListenError> {
        let asked = listen.address;
        let fail = |error: io::Error| match error.raw_os_error() {
            Some(nix::libc::EADDRINUSE) => ListenError::InUse(asked),
            _ => ListenError::Failed(asked, error),
        };
        // The first socket takes the port alone: with SO_REUSEPORT already set, a second server of the same user
        // would share it in silence. Once it is ours, the option lets our other sockets join.
        let first = open(asked).map_err(fail)?;
        if beside_own {
            first.set_reuse_port(true).map_err(fail)?;
        }
        first.bind(&asked.into()).map_err(fail)?;
        first.set_reuse_port(true).map_err(fail)?;
        let bound = first
            .local_addr()
            .map_err(fail)?
            .as_socket()
            .unwrap_or(asked);
        first.listen(BACKLOG).map_err(fail)?;
        let mut group = Group {
            asked: listen,
            bound,
            sockets: vec![first.into()],
            listening: 1,
            kept: 0,
        };
        for _ in 1..slots {
            let socket = group.join()?;
            SockRef::from(&socket).listen(BACKLOG).map_err(fail)?;
            group.sockets.push(socket);
            group.listening += 1;
        }
        Ok(group)
    }

    /// The sockets that the service manager passed, and more if slots need them and the kernel allows it.
    fn adopt(listen: Listen, offered: Vec<TcpListener>, slots: usize) -> Self {
        let mut group = Group {
            asked: listen,
            bound: listen.address,
            kept: offered.len(),
            listening: offered.len(),
            sockets: offered,
        };
        let missing = slots.saturating_sub(group.sockets.len());
        // What is passed is taken at the start alone, when every slot gets a worker: no socket has to wait for one.
        let join = |_| {
            let socket = group.join()?;
            SockRef::from(&socket)
                .listen(BACKLOG)
                .map_err(|error| ListenError::Failed(group.bound, error))?;
            Ok(socket)
        };
        let sockets: Result<Vec<_>, _> = (0..missing).map(join).collect();
        // Never an error, for the group was adopted.
        let sockets = group.or_fewer(sockets).unwrap_or_default();
        group.sockets.extend(sockets);
        group.listening = group.sockets.len();
        group
    }

    /// A group that the service manager has passed does with the sockets that it has.
    fn or_fewer(
        &self,
        more: Result<Vec<TcpListener>, ListenError>,
    ) -> Result<Vec<TcpListener>, ListenError> {
        match more {
            Err(ListenError::Failed(address, error)) if self.kept > 0 => {
                log::warn!(
                    "master: {address} has {} sockets for more workers, which share them: the kernel allows no more beside \
                     what the service manager passes ({error}); without a socket unit each worker has its own",
                    self.sockets.len()
                );
                Ok(Vec::new())
            }
            more => more,
        }
    }

    /// One more socket on the group's address, which does not listen yet.
    fn join(&self) -> Result<TcpListener, ListenError> {
        let join = || -> io::Result<TcpListener> {
            let socket = open(self.bound)?;
            socket.set_reuse_port(true)?;
            socket.bind(&self.bound.into())?;
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

/// The name under which the service manager keeps the sockets of an address. A name may have no colon
/// (sd_pid_notify_with_fds(3)).
pub fn kept_name(address: SocketAddr) -> String {
    format!("{KEPT}{}", address.to_string().replace(':', "_"))
}

/// Whether this is such a name: of a socket that we gave to the service manager, not of one that a socket unit made.
pub fn is_kept_name(name: &str) -> bool {
    name.starts_with(KEPT)
}

/// What these names start with.
const KEPT: &str = "canvas-listen-";

fn accept_offer(fd: OwnedFd, name: &str) -> io::Result<Offer> {
    let socket = Socket::from(fd);
    let address = socket.local_addr()?.as_socket();
    let (Some(address), true, Type::STREAM) = (address, socket.is_listener()?, socket.r#type()?)
    else {
        return Err(io::Error::other("it is no listening TCP socket"));
    };
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // So that slots of their own may join; where another user made it, none may.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(Offer {
        address,
        name: name.to_owned(),
        socket: socket.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: SocketAddr) -> Listen {
        Listen {
            address,
            proxied: false,
        }
    }

    fn any() -> Listen {
        on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    #[test]
    fn a_second_server_on_the_address_is_refused() {
        let mut first = Listeners::default();
        first.extend(&[any()], 3).expect("free");
        let taken = first.addresses().next().expect("bound");
        let mut second = Listeners::default();
        let refused = second.extend(&[taken], 3);
        assert!(
            matches!(refused, Err(ListenError::InUse(address)) if address == taken.address),
            "{refused:?}"
        );
        let everywhere = on(SocketAddr::from(([0, 0, 0, 0], taken.address.port())));
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
            let sockets = listeners.of(&[any()], 1);
            sockets.into_iter().map(|place| place.number).collect()
        };
        assert_eq!(numbers(&listeners), [0, 1, 2, 3]);
        listeners.extend(&[any()], 2).expect("enough");
        assert_eq!(numbers(&listeners), [0, 1, 2, 3]);
        listeners.extend(&[any()], 6).expect("more");
        assert_eq!(numbers(&listeners), [0, 1, 2, 3, 4, 5]);
        listeners.open().expect("they are bound");
        listeners.withdraw(&[any()]);
        assert_eq!(numbers(&listeners), [0, 1, 2, 3, 4, 5]);
        listeners.extend(&[any()], 8).expect("even more");
        listeners.withdraw(&[any()]);
        assert_eq!(numbers(&listeners), [0, 1, 2, 3, 4, 5]);
        listeners.retain(&[]);
        assert_eq!(listeners.addresses().count(), 0);
    }

    #[test]
    fn a_socket_that_is_passed_is_served_and_what_is_kept_is_given_once() {
        let passed = |count: usize| {
            let mut first = Listeners::default();
            first.extend(&[any()], count).expect("free");
            let group = first.groups.remove(0);
            let fds = group.sockets.into_iter().map(OwnedFd::from);
            let named: Vec<_> = fds.map(|fd| (fd, "a".to_owned())).collect();
            (on(group.bound), named)
        };
        let ((one, mut sockets), (other, more)) = (passed(2), passed(1));
        sockets.extend(more);
        let file = std::fs::File::open("/dev/null").expect("it is always there");
        sockets.push((file.into(), "rubbish".to_owned()));
        let mut listeners = Listeners::default();
        listeners.offer(sockets);
        listeners.extend(&[one], 3).expect("its own user's");
        assert_eq!(listeners.of(&[one], 3).len(), 3);
        assert_eq!(listeners.decline(), [(other.address, "a".to_owned())]);
        let taken = std::cell::Cell::new(0);
        let mut hand_over = || {
            listeners.hand_over(|name, _| {
                assert_eq!(name, kept_name(one.address));
                taken.set(taken.get() + 1);
                true
            });
            taken.get()
        };
        assert_eq!((hand_over(), hand_over()), (1, 1));
        assert_eq!(listeners.retain(&[one]), [""; 0]);
        assert_eq!(listeners.retain(&[]), [kept_name(one.address)]);
    }

    /// What README advises for clients on other hosts was once refused, since another process, ourselves, had the port; and after a
    /// restart the sockets that the service manager kept were in the way.
    #[test]
    fn an_address_of_ours_may_become_wider_and_narrower() {
        let mut listeners = Listeners::default();
        listeners.extend(&[any()], 2).expect("free");
        let narrow = listeners.addresses().next().expect("bound");
        let wide = on(SocketAddr::from(([0, 0, 0, 0], narrow.address.port())));
        for (from, to) in [(narrow, wide), (wide, narrow)] {
            listeners.extend(&[to], 2).expect("it is ours");
            let group = listeners
                .groups
                .iter()
                .position(|group| group.bound == from.address);
            let group = group.map(|group| listeners.groups.remove(group));
            // The same at a restart: they are kept meanwhile.
            let kept = group.into_iter().flat_map(|group| group.sockets);
            let kept: Vec<_> = kept.map(|fd| (OwnedFd::from(fd), "a".to_owned())).collect();
            assert_eq!(listeners.groups.len(), 1);
            drop(listeners);
            listeners = Listeners::default();
            listeners.offer(kept);
            listeners.extend(&[to], 2).expect("it is ours");
            listeners.decline();
        }
        // And nobody else's is.
        let mut other = Listeners::default();
        assert!(matches!(
            other.extend(&[wide], 1),
            Err(ListenError::InUse(_))
        ));
    }

    #[test]
    fn slots_share_the_sockets_where_there_are_fewer() {
        let mut listeners = Listeners::default();
        listeners.extend(&[any()], 2).expect("free");
        let sockets = listeners.of(&[any()], 5);
        let numbers: Vec<usize> = sockets.iter().map(|place| place.number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let same =
            |one: usize, other: usize| std::ptr::eq(sockets[one].socket, sockets[other].socket);
        assert!(same(0, 4) && same(1, 3) && !same(0, 1));
    }

    #[test]
    fn an_address_may_begin_to_be_proxied_and_a_port_left_open_is_two_addresses() {
        let proxied = |listen: Listen| Listen {
            proxied: true,
            ..listen
        };
        let mut listeners = Listeners::default();
        let both = [any(), proxied(any())];
        listeners.extend(&both, 1).expect("free");
        let marks = |listeners: &Listeners, wanted: &[Listen]| -> Vec<bool> {
            let sockets = listeners.of(wanted, 1);
            sockets.into_iter().map(|place| place.proxied).collect()
        };
        assert_eq!(marks(&listeners, &both), [false, true]);
        assert_eq!(marks(&listeners, &both[1..]), [true]);
        listeners.retain(&[]);

        listeners.extend(&[any()], 1).expect("free");
        let fixed = listeners.addresses().next().expect("bound");
        let mut listeners = {
            drop(listeners);
            Listeners::default()
        };
        listeners.extend(&[fixed], 1).expect("free again");
        listeners.extend(&[proxied(fixed)], 1).expect("it is ours");
        assert_eq!(listeners.addresses().count(), 1);
        assert_eq!(marks(&listeners, &[fixed]), [false]);
        assert_eq!(marks(&listeners, &[proxied(fixed)]), [true]);
    }
}
