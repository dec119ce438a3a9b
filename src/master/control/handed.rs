//! The control socket across an upgrade: its name leads to a socket that listens at every moment, and clients who wait for
//! an outcome are told it by the image of the program that knows it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Client, ClientId, Control, Step};
use crate::config::ControlSocket;
use crate::sys;

/// All that is handed to another image of the program.
#[derive(Serialize, Deserialize)]
pub struct HandedControl {
    /// The listening socket, and the path that it was bound to.
    socket: Option<(RawFd, OsString)>,
    clients: Vec<HandedClient>,
    next: u64,
}

/// A client who has no answer yet.
#[derive(Serialize, Deserialize)]
struct HandedClient {
    id: ClientId,
    descriptor: RawFd,
    /// What it has said so far.
    request: Vec<u8>,
    step: Step,
    /// What is left of its time, in milliseconds.
    left: u64,
}

impl Control {
    /// All of it but the clients who have been answered: closing their connections is what comes next anyway.
    pub fn handed(&self) -> HandedControl {
        let now = Instant::now();
        let hand = |client: &Client| HandedClient {
            id: client.id,
            descriptor: client.stream.as_raw_fd(),
            request: client.request.clone(),
            step: client.step,
            left: client.until.saturating_duration_since(now).as_millis() as u64,
        };
        let socket = self.socket.as_ref();
        HandedControl {
            socket: socket.map(|(listener, path)| (listener.as_raw_fd(), path.clone().into())),
            clients: self.unanswered().map(hand).collect(),
            next: self.next,
        }
    }

    /// Takes over what was handed over.
    ///
    /// # Errors
    /// A descriptor was not.
    pub fn adopt(handed: &HandedControl) -> io::Result<Self> {
        let now = Instant::now();
        let adopt = |client: &HandedClient| {
            Ok(Client {
                id: client.id,
                stream: sys::adopt_descriptor(client.descriptor)?.into(),
                request: client.request.clone(),
                unsent: Vec::new(),
                step: client.step,
                until: now + Duration::from_millis(client.left),
            })
        };
        let clients: io::Result<_> = handed.clients.iter().map(adopt).collect();
        let socket = match &handed.socket {
            Some((descriptor, path)) => Some((
                sys::adopt_descriptor(*descriptor)?.into(),
                PathBuf::from(path),
            )),
            None => None,
        };
        Ok(Control {
            socket,
            clients: clients?,
            next: handed.next,
            deaf_until: None,
        })
    }

    /// Everything that is handed over.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = self.socket.iter().map(|(listener, _)| listener.as_fd());
        listener.chain(self.unanswered().map(|client| client.stream.as_fd()))
    }

    /// Whether a client has taken a part of its answer: the rest would be lost with this image of the program.
    pub fn is_answering(&self) -> bool {
        self.clients.iter().any(|client| !client.unsent.is_empty())
    }

    /// Goes to where the configuration says, if that is another place. The clients stay.
    pub fn settle_at(&mut self, wanted: &ControlSocket) {
        let place = match wanted {
            ControlSocket::Off => None,
            ControlSocket::At(path) => Some(path),
            ControlSocket::Usual(places) => places.first(),
        };
        if place == self.socket.as_ref().map(|(_, path)| path) {
            return;
        }
        match Control::open(wanted) {
            Ok(mut other) => {
                self.close();
                self.socket = other.socket.take();
            }
            Err(error) => log::error!(
                "master: {error}; `canvas-cluster ctl` reaches this server where it did before, if it did"
            ),
        }
    }

    fn unanswered(&self) -> impl Iterator<Item = &Client> {
        self.clients
            .iter()
            .filter(|client| client.step != Step::Answered)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::super::Awaited;
    use super::*;
    use crate::config::ctl::CtlCommand;
    use crate::ctl::message::{Answer, What};

    /// Takes over what another image would have left open: copies, as this process has the first ones still.
    fn across_exec(control: &Control) -> Control {
        let copy = |fd: RawFd, descriptors: &Control| {
            let mut all = descriptors.descriptors();
            let own = all.find(|own| own.as_raw_fd() == fd).expect("its own");
            let copy = own.try_clone_to_owned().expect("a descriptor");
            fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor");
            std::os::fd::IntoRawFd::into_raw_fd(copy)
        };
        let text = serde_json::to_vec(&control.handed()).expect("JSON");
        let mut handed: HandedControl = serde_json::from_slice(&text).expect("our own");
        if let Some((descriptor, _)) = &mut handed.socket {
            *descriptor = copy(*descriptor, control);
        }
        for client in &mut handed.clients {
            client.descriptor = copy(client.descriptor, control);
        }
        Control::adopt(&handed).expect("what was left open")
    }

    #[test]
    fn clients_wait_and_speak_on_and_only_the_unanswered_are_handed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let place = ControlSocket::At(path.clone());
        let mut control = Control::open(&place).expect("a socket");
        let connect = || UnixStream::connect(&path).expect("somebody listens");
        let (mut waiting, mut asking, mut answered) = (connect(), connect(), connect());
        waiting
            .write_all(b"{\"command\":\"upgrade\",\"wait\":true}\n")
            .expect("sent");
        asking.write_all(b"{\"command\":").expect("sent");
        answered.write_all(b"{}\n").expect("sent");
        let now = Instant::now();
        // Accepted at the first look, which hears them at the second.
        let mut asked = control.attend(now);
        asked.extend(control.attend(now));
        let [(client, CtlCommand::Upgrade { wait: true })] = asked[..] else {
            panic!("{asked:?}");
        };
        control.wait(client, Awaited::Change(What::Upgrade));
        control.begin(What::Upgrade);
        assert!(!control.is_answering());

        let mut next = across_exec(&control);
        assert_eq!(next.clients.len(), 2);
        drop(control);
        next.settle_at(&place);
        next.settle(&Answer::Accepted);
        let mut said = String::new();
        next.attend(now);
        waiting.read_to_string(&mut said).expect("an answer");
        assert_eq!(said, "{\"outcome\":\"accepted\"}\n");
        asking.write_all(b"\"status\"}\n").expect("sent");
        let asked = next.attend(now);
        assert!(
            matches!(asked[..], [(_, CtlCommand::Status {})]),
            "{asked:?}"
        );
        drop(connect());

        // Another place, and then none.
        let other = folder.path().join("other");
        next.settle_at(&ControlSocket::At(other.clone()));
        assert!(!path.exists());
        drop(UnixStream::connect(&other).expect("somebody listens"));
        next.settle_at(&ControlSocket::Off);
        assert!(!other.exists());
    }
}
