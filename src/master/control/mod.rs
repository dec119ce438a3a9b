//! The control socket: a Unix socket on which the master's own user and root tell it what to do. It is one more
//! descriptor in the master's poll(2); nothing here waits. Clients are few, their requests short, and a client that says
//! nothing, or takes nothing of its answer, is dropped at its deadline.

mod handed;
mod socket;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

pub use self::handed::HandedControl;
pub use self::socket::{Purpose, SocketError, listen, take_name_away};
use crate::config::ControlSocket;
use crate::config::ctl::CtlCommand;
use crate::ctl::message::{Answer, REQUEST_LIMIT, What};

/// How many connections may wait for an accept.
const BACKLOG: i32 = 8;

/// The most clients at once; others wait in the kernel's queue.
const MOST_CLIENTS: usize = 8;

/// The most of them that may wait for an outcome, so that `status` always gets through.
const MOST_WAITING: usize = 6;

/// How long a client may take for its request, and for taking its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long one may wait for an outcome: longer than any client of ours does.
const OUTCOME: Duration = Duration::from_secs(86_400);

/// How long nobody is accepted after the kernel could not give a descriptor.
const DEAF: Duration = Duration::from_secs(1);

/// A client, by the order of its coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientId(u64);

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    Change(What),
    /// The end of the server.
    End,
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    /// Its request is not whole yet.
    Asking,
    /// `begun`: what is under way is what it asked for.
    Waiting { awaited: Awaited, begun: bool },
    /// It has its answer, or takes it. What else it sends is read and forgotten, for closing a socket with bytes unread
    /// would reset it under the answer.
    Answered,
}

struct Client {
    id: ClientId,
    stream: UnixStream,
    request: Vec<u8>,
    /// What of the answer is not sent yet.
    unsent: Vec<u8>,
    step: Step,
    until: Instant,
}

/// The socket and its clients.
#[derive(Default)]
pub struct Control {
    socket: Option<(UnixListener, PathBuf)>,
    clients: Vec<Client>,
    next: u64,
    deaf_until: Option<Instant>,
}

impl Control {
    /// Listens where the configuration says. Where it says nothing, a place that can't be had is told of and done without.
    ///
    /// # Errors
    /// A socket that was asked for by name can't be had.
    pub fn open(wanted: &ControlSocket) -> Result<Self, SocketError> {
        let listen = |path: &Path, ours: bool| listen(Purpose::Control, path, ours, BACKLOG);
        let socket = match wanted {
            ControlSocket::Off => None,
            ControlSocket::At(path) => Some((listen(path, false)?, path.clone())),
            ControlSocket::Usual(places) => places.first().and_then(|path| {
                listen(path, true)
                    .inspect_err(|error| {
                        log::warn!("master: {error}; `canvas-cluster ctl` can't reach this server, signals can");
                    })
                    .ok()
                    .map(|listener| (listener, path.clone()))
            }),
        };
        Ok(Control {
            socket,
            ..Control::default()
        })
    }

    /// Takes the socket's name away, if it still is ours: nobody is to find it when we are gone.
    pub fn close(&mut self) {
        let Some((listener, path)) = self.socket.take() else {
            return;
        };
        drop(listener);
        take_name_away(&path);
    }

    /// What to wait for.
    pub fn fds(&self) -> Vec<PollFd<'_>> {
        let listener = self
            .socket
            .iter()
            .filter(|_| self.clients.len() < MOST_CLIENTS && self.deaf_until.is_none())
            .map(|(listener, _)| PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        let clients = self.clients.iter().map(|client| {
            let wanted = match client.step {
                Step::Asking => PollFlags::POLLIN,
                // A hang-up is told unasked.
                Step::Waiting { .. } => PollFlags::empty(),
                Step::Answered if !client.unsent.is_empty() => {
                    PollFlags::POLLIN | PollFlags::POLLOUT
                }
                Step::Answered => PollFlags::POLLIN,
            };
            PollFd::new(client.stream.as_fd(), wanted)
        });
        listener.chain(clients).collect()
    }

    /// When a deadline passes.
    pub fn next_due(&self) -> Option<Instant> {
        let deadlines = self.clients.iter().map(|client| client.until);
        deadlines.chain(self.deaf_until).min()
    }

    /// Accepts, reads and sends what can be without waiting, drops who is gone or late, and gives what is asked.
    pub fn attend(&mut self, now: Instant) -> Vec<(ClientId, CtlCommand)> {
        self.deaf_until.take_if(|until| *until <= now);
        self.accept(now);
        let mut asked = Vec::new();
        let mut refused = Vec::new();
        self.clients.retain_mut(|client| {
            if client.until <= now {
                return false;
            }
            match client.step {
                Step::Asking => match client.hear() {
                    Heard::Request(command) => asked.push((client.id, command)),
                    Heard::Nonsense(why) => refused.push((client.id, why)),
                    Heard::Part => {}
                    Heard::End => return false,
                },
                Step::Waiting { .. } => return !client.has_hung_up(),
                Step::Answered => return client.send() && client.forget_the_rest(),
            }
            true
        });
        for (client, why) in refused {
            self.answer(client, &Answer::Refused { why });
        }
        asked
    }

    fn accept(&mut self, now: Instant) {
        let Some((listener, _)) = &self.socket else {
            return;
        };
        while self.clients.len() < MOST_CLIENTS && self.deaf_until.is_none() {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::warn!("master: can't accept on the control socket: {error}");
                    self.deaf_until = Some(now + DEAF);
                    return;
                }
            };
            if let Err(error) = stream.set_nonblocking(true) {
                log::debug!("master: a control connection can't be used: {error}");
                continue;
            }
            self.next += 1;
            let id = ClientId(self.next);
            let may = may_command(&stream);
            self.clients.push(Client {
                id,
                stream,
                request: Vec::new(),
                unsent: Vec::new(),
                step: Step::Asking,
                until: now + PATIENCE,
            });
            if let Err(why) = may {
                log::warn!("master: refused a command: {why}");
                // Not through `self.answer`: `listener` is borrowed.
                if let Some(client) = self.clients.last_mut() {
                    client.answer(&Answer::Refused { why }, now);
                }
            }
        }
    }

    /// Answers a client, if it is still there.
    pub fn answer(&mut self, client: ClientId, answer: &Answer) {
        let now = Instant::now();
        if let Some(client) = self.clients.iter_mut().find(|known| known.id == client) {
            client.answer(answer, now);
        }
    }

    /// Keeps a client until what it waits for is known; refuses it when too many wait already.
    pub fn wait(&mut self, client: ClientId, awaited: Awaited) {
        let waiting = |client: &&Client| matches!(client.step, Step::Waiting { .. });
        if self.clients.iter().filter(waiting).count() >= MOST_WAITING {
            let why = format!("{MOST_WAITING} clients wait already; it is done without waiting");
            return self.answer(client, &Answer::Failed { why });
        }
        if let Some(client) = self.clients.iter_mut().find(|known| known.id == client) {
            client.until = Instant::now() + OUTCOME;
            client.step = Step::Waiting {
                awaited,
                begun: false,
            };
        }
    }

    /// Notes that what these clients asked for is under way now.
    pub fn begin(&mut self, what: What) {
        for client in &mut self.clients {
            if let Step::Waiting { awaited, begun } = &mut client.step {
                *begun |= *awaited == Awaited::Change(what);
            }
        }
    }

    /// Answers those whose change was under way.
    pub fn settle(&mut self, answer: &Answer) {
        self.answer_waiting(answer, |awaited, begun| {
            begun && matches!(awaited, Awaited::Change(_))
        });
    }

    /// Answers those who wait for a change of this kind that has not begun, and never will.
    pub fn drop_unbegun(&mut self, what: What, answer: &Answer) {
        self.answer_waiting(answer, |awaited, begun| {
            !begun && awaited == Awaited::Change(what)
        });
    }

    /// Answers all who wait for a change: it won't come.
    pub fn abandon(&mut self, answer: &Answer) {
        self.answer_waiting(answer, |awaited, _| matches!(awaited, Awaited::Change(_)));
    }

    /// Answers all who wait, and takes the socket's name away: the server, whose configuration was of this generation, ends.
    pub fn bid_farewell(&mut self, generation: u64) {
        let why = "the server stops".to_owned();
        self.abandon(&Answer::Failed { why });
        let gone = Answer::Done {
            generation,
            workers: 0,
            upgrade: None,
        };
        self.answer_waiting(&gone, |awaited, _| awaited == Awaited::End);
        self.close();
    }

    fn answer_waiting(&mut self, answer: &Answer, whom: impl Fn(Awaited, bool) -> bool) {
        let now = Instant::now();
        for client in &mut self.clients {
            if let Step::Waiting { awaited, begun } = client.step
                && whom(awaited, begun)
            {
                client.answer(answer, now);
            }
        }
    }
}

/// What a client has said.
enum Heard {
    Request(CtlCommand),
    /// Not all of it yet.
    Part,
    Nonsense(String),
    End,
}

impl Client {
    fn hear(&mut self) -> Heard {
        let mut piece = [0; REQUEST_LIMIT];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Heard::End,
                Ok(length) => self.request.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Part,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Heard::End,
            }
            let end = self.request.iter().position(|byte| *byte == b'\n');
            match end {
                Some(end) if end < REQUEST_LIMIT => {
                    return match serde_json::from_slice(&self.request[..end]) {
                        Ok(command) => Heard::Request(command),
                        Err(error) => {
                            Heard::Nonsense(format!("the request can't be read: {error}"))
                        }
                    };
                }
                None if self.request.len() < REQUEST_LIMIT => {}
                _ => {
                    return Heard::Nonsense(format!(
                        "the request is longer than {REQUEST_LIMIT} bytes"
                    ));
                }
            }
        }
    }

    fn answer(&mut self, answer: &Answer, now: Instant) {
        self.unsent = serde_json::to_vec(answer).unwrap_or_default();
        self.unsent.push(b'\n');
        self.step = Step::Answered;
        self.until = now + PATIENCE;
        // Most fit into the socket's buffer at once, and the last ones of a server must.
        self.send();
    }

    /// Sends what goes; false when the client is gone.
    fn send(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => {
                    self.unsent.drain(..length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads on until the client has closed; false once it has.
    fn forget_the_rest(&mut self) -> bool {
        if self.unsent.is_empty() {
            // Says that this was all. A client that is gone has heard it.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        let mut piece = [0; REQUEST_LIMIT];
        // As much as the socket's buffer holds by default, so that a client which never ends takes turns.
        for _ in 0..64 {
            match self.stream.read(&mut piece) {
                Ok(0) => return !self.unsent.is_empty(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether a client that waits has gone; what it sends meanwhile is not read.
    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok()
            && fds[0]
                .revents()
                .is_some_and(|events| events.intersects(gone))
    }
}

/// Whether the process at the other end is our own user's or root's (SO_PEERCRED in unix(7): as it was when it connected).
fn may_command(stream: &UnixStream) -> Result<(), String> {
    let peer = getsockopt(stream, PeerCredentials)
        .map_err(|error| format!("the kernel does not say who asks: {error}"))?;
    if peer.uid() == 0 || peer.uid() == geteuid().as_raw() {
        Ok(())
    } else {
        Err(format!(
            "user {} (pid {}) may not command this server; its own user and root may",
            peer.uid(),
            peer.pid()
        ))
    }
}
