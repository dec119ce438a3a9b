//! Many clients on one thread: each sends what its manner says and reads, or does not, whenever the kernel says that
//! it can. The test's own process stays light, so what is measured beside it is the server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, SockAddr, Socket, Type};

use super::wait;

/// How much of what a member received is kept; the rest is only counted.
const KEPT: usize = 4096;

/// How long an attack may take. Only a failing test waits that long.
const PATIENCE: Duration = wait::PATIENCE.saturating_mul(2);

/// How long one wait for events is at most.
const GLANCE: Duration = Duration::from_millis(20);

/// How the members of a crowd behave.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// What each sends first.
    pub opening: Vec<u8>,
    /// What it does after that.
    pub then: Then,
    /// Whether it never reads, with buffers on both sides as small as a client can make them.
    pub deaf: bool,
}

#[derive(Debug, Clone, Default)]
pub enum Then {
    #[default]
    Listen,
    /// Sends this byte again and again, once in a while.
    Drip(u8, Duration),
    /// Sends this for as long as the server takes it.
    Repeat(Vec<u8>),
}

/// One client.
pub struct Member {
    manner: Rc<Manner>,
    /// `None` once it has ended.
    stream: Option<TcpStream>,
    /// How much of its opening, or of the current repetition, it has sent.
    sent: usize,
    opened: bool,
    due: Instant,
    /// The first bytes that the server sent.
    pub received: Vec<u8>,
    /// How the connection ended, if it has.
    pub end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server closed, all it had sent having been read.
    Closed,
    /// The server reset the connection.
    Reset,
}

pub struct Crowd {
    server: SocketAddr,
    epoll: Epoll,
    pub members: Vec<Member>,
}

impl Crowd {
    pub fn at(server: SocketAddr) -> Self {
        Crowd {
            server,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("one more descriptor"),
            members: Vec::new(),
        }
    }

    /// Adds members, which begin at once.
    pub fn join(&mut self, count: usize, manner: &Manner) {
        let manner = Rc::new(manner.clone());
        for _ in 0..count {
            let stream = connect(self.server, manner.deaf);
            let interest = manner.listening() | EpollFlags::EPOLLOUT;
            let key = self.members.len() as u64;
            self.epoll
                .add(&stream, EpollEvent::new(interest, key))
                .expect("a watched socket");
            self.members.push(Member {
                manner: manner.clone(),
                stream: Some(stream),
                sent: 0,
                opened: false,
                due: Instant::now(),
                received: Vec::new(),
                end: None,
            });
        }
    }

    /// Members whose connection has not ended.
    pub fn live(&self) -> usize {
        self.members.iter().filter(|one| one.end.is_none()).count()
    }

    /// Lets the members do as they do until `done`, which may add some. Panics with `what` once patience is over.
    #[track_caller]
    pub fn act_until(&mut self, what: &str, mut done: impl FnMut(&mut Crowd) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut events = [EpollEvent::empty(); 256];
        while !done(self) {
            assert!(
                Instant::now() < end,
                "waited {PATIENCE:?} in vain for: {what}; {} of {} members are left",
                self.live(),
                self.members.len()
            );
            let timeout = EpollTimeout::try_from(GLANCE).expect("it is short");
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => panic!("epoll_wait: {error}"),
            };
            for event in &events[..count] {
                self.serve(event.data(), event.events());
            }
            self.drip();
        }
    }

    fn serve(&mut self, key: u64, events: EpollFlags) {
        let member = &mut self.members[key as usize];
        let had_opened = member.opened;
        member.serve(events);
        // Room to write is there most of the time: who has nothing to send must not be told.
        let silent = !matches!(member.manner.then, Then::Repeat(_));
        if let (false, true, true, Some(stream)) =
            (had_opened, member.opened, silent, &member.stream)
        {
            let mut interest = EpollEvent::new(member.manner.listening(), key);
            self.epoll
                .modify(stream, &mut interest)
                .expect("a watched socket");
        }
    }

    fn drip(&mut self) {
        let now = Instant::now();
        for member in &mut self.members {
            let Then::Drip(byte, every) = member.manner.then else {
                continue;
            };
            if member.opened && member.due <= now {
                member.due = now + every;
                member.send(&[byte]);
            }
        }
    }
}

impl Manner {
    /// Events that tell of what the server sends. A reset is told of in any case.
    fn listening(&self) -> EpollFlags {
        match self.deaf {
            true => EpollFlags::empty(),
            false => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
        }
    }
}

fn connect(server: SocketAddr, deaf: bool) -> TcpStream {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).expect("a socket");
    if deaf {
        socket.set_recv_buffer_size(1).expect("a small buffer");
        // By default loopback's segments are so large that the server's kernel buffers megabytes.
        socket.set_tcp_mss(536).expect("small segments");
    }
    socket.set_nonblocking(true).expect("a non-blocking socket");
    socket.set_tcp_nodelay(true).expect("no delay");
    match socket.connect(&SockAddr::from(server)) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => {
            panic!("a connection to {server}: {error}")
        }
        _ => socket.into(),
    }
}

impl Member {
    /// What the server said, as far as it was kept.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// The status of the server's first answer, if there is one.
    pub fn status(&self) -> Option<u16> {
        let line = self.received.strip_prefix(b"HTTP/1.1 ")?;
        std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
    }

    /// Reads and writes once, so that other members have their turn.
    fn serve(&mut self, events: EpollFlags) {
        if !self.manner.deaf {
            self.read();
        } else if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.finish(End::Reset);
        }
        if events.contains(EpollFlags::EPOLLOUT) {
            self.write();
        }
    }

    /// Whether there was something to read.
    fn read(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        let Some(stream) = &mut self.stream else {
            return false;
        };
        match stream.read(&mut chunk) {
            Ok(0) => self.finish(End::Closed),
            Ok(count) => {
                let room = KEPT.saturating_sub(self.received.len());
                self.received.extend_from_slice(&chunk[..count.min(room)]);
                return true;
            }
            Err(error) if is_for_later(&error) => {}
            Err(_) => self.finish(End::Reset),
        }
        false
    }

    /// Sends of the opening what the kernel takes, later of what repeats.
    fn write(&mut self) {
        let manner = self.manner.clone();
        let bytes = match (&manner.then, self.opened) {
            (_, false) => &manner.opening,
            (Then::Repeat(bytes), true) => bytes,
            _ => return,
        };
        self.sent += self.send(&bytes[self.sent..]);
        if self.sent == bytes.len() {
            self.sent = 0;
            self.opened = true;
        }
    }

    /// Sends what the kernel takes, and says how much.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let Some(stream) = &mut self.stream else {
            return 0;
        };
        match stream.write(bytes) {
            Ok(count) => count,
            Err(error) if is_for_later(&error) => 0,
            Err(_) => {
                // The server may have said why before it left.
                while !self.manner.deaf && self.read() {}
                self.finish(End::Reset);
                0
            }
        }
    }

    /// Notes the end, if it is the first. Closing takes the socket out of the epoll.
    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.stream = None;
    }
}

fn is_for_later(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected
    )
}
