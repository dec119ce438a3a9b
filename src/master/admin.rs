//! The admin listener: one socket, made by the master and held until the server ends, from which all workers accept. The
//! master serves nothing on it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::lchown;
use std::path::Path;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::control::{Purpose, SocketError, listen, take_name_away};
use crate::config::{Account, Admin, AdminAddress};
use crate::sys;
use crate::worker::AdminSocket;

/// How many connections may wait for an accept.
const BACKLOG: i32 = 64;

/// There is no admin listener where one was asked for.
#[derive(Debug)]
pub enum AdminError {
    Socket(SocketError),
    Address(SocketAddr, io::Error),
    /// The socket can't be given to the workers' user.
    Owner(String, io::Error),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminError::Socket(error) => error.fmt(f),
            AdminError::Address(address, error) => {
                write!(f, "the admin listener can't listen on {address}: {error}")
            }
            AdminError::Owner(path, error) => {
                write!(
                    f,
                    "the admin socket {path} can't be given to the workers' user: {error}"
                )
            }
        }
    }
}

impl std::error::Error for AdminError {}

/// The listener, if there is one.
#[derive(Debug, Default)]
pub struct AdminListener(Option<Bound>);

#[derive(Debug)]
struct Bound {
    socket: AdminSocket,
    /// As configured: a port that was left open is 0.
    asked: AdminAddress,
}

/// All that is handed to another image of the program.
#[derive(Serialize, Deserialize)]
pub struct HandedAdmin {
    descriptor: RawFd,
    asked: HandedAddress,
}

#[derive(Serialize, Deserialize)]
enum HandedAddress {
    Tcp(SocketAddr),
    Unix(OsString),
}

impl AdminListener {
    /// Listens where the configuration says. Where it says nothing, a place that can't be had is told of and done without.
    /// `owner` is the user of the workers, if that is another one.
    ///
    /// # Errors
    /// A listener that was asked for by name can't be had.
    pub fn open(wanted: &Admin, owner: Option<&Account>) -> Result<Self, AdminError> {
        let bound = match wanted {
            Admin::Off => None,
            Admin::At(address) => Some(Bound::at(address, owner)?),
            Admin::Usual(places) => places.first().and_then(|path| {
                Bound::unix(path, true, owner)
                    .inspect_err(|error| {
                        log::warn!("master: {error}; there are no metrics, and `canvas-cluster status` can't ask this server");
                    })
                    .ok()
            }),
        };
        let listener = AdminListener(bound);
        if let Some(place) = listener.place() {
            log::info!("master: metrics and status are on {place}");
        }
        Ok(listener)
    }

    /// Where it can be reached.
    fn place(&self) -> Option<String> {
        let bound = self.0.as_ref()?;
        Some(match &bound.socket {
            AdminSocket::Tcp(socket) => format!("http://{}", socket.local_addr().ok()?),
            AdminSocket::Unix(_) => bound.asked.to_string(),
        })
    }

    pub fn socket(&self) -> Option<&AdminSocket> {
        self.0.as_ref().map(|bound| &bound.socket)
    }

    /// What is to be handed over.
    pub fn handed(&self) -> Option<HandedAdmin> {
        let bound = self.0.as_ref()?;
        Some(HandedAdmin {
            descriptor: bound.socket.as_raw_fd(),
            asked: match &bound.asked {
                AdminAddress::Tcp(address) => HandedAddress::Tcp(*address),
                AdminAddress::Unix(path) => HandedAddress::Unix(path.into()),
            },
        })
    }

    /// Takes over what was handed over.
    ///
    /// # Errors
    /// The descriptor was not.
    pub fn adopt(handed: Option<&HandedAdmin>) -> io::Result<Self> {
        let Some(handed) = handed else {
            return Ok(AdminListener::default());
        };
        let descriptor = sys::adopt_descriptor(handed.descriptor)?;
        let (socket, asked) = match &handed.asked {
            HandedAddress::Tcp(address) => (
                AdminSocket::Tcp(descriptor.into()),
                AdminAddress::Tcp(*address),
            ),
            HandedAddress::Unix(path) => (
                AdminSocket::Unix(descriptor.into()),
                AdminAddress::Unix(path.into()),
            ),
        };
        Ok(AdminListener(Some(Bound { socket, asked })))
    }

    /// Goes to where the configuration says, if that is another place. Workers that have the socket keep it.
    pub fn settle_at(&mut self, wanted: &Admin, owner: Option<&Account>) {
        let place = match wanted {
            Admin::Off => None,
            Admin::At(address) => Some(address.clone()),
            Admin::Usual(places) => places.first().cloned().map(AdminAddress::Unix),
        };
        if place.as_ref() == self.0.as_ref().map(|bound| &bound.asked) {
            return;
        }
        match AdminListener::open(wanted, owner) {
            Ok(mut other) => {
                self.close();
                self.0 = other.0.take();
            }
            Err(error) => {
                log::error!(
                    "master: {error}; metrics and status stay where they were, if they were"
                );
            }
        }
    }

    /// Takes the socket's name away, if it has one.
    pub fn close(&mut self) {
        let Some(bound) = self.0.take() else { return };
        drop(bound.socket);
        if let AdminAddress::Unix(path) = &bound.asked {
            take_name_away(path);
        }
    }

    /// Everything that is handed over.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.socket().into_iter().map(AsFd::as_fd)
    }
}

impl Bound {
    fn at(address: &AdminAddress, owner: Option<&Account>) -> Result<Self, AdminError> {
        match address {
            AdminAddress::Unix(path) => Bound::unix(path, false, owner),
            AdminAddress::Tcp(address) => Bound::tcp(*address),
        }
    }

    /// `ours`: the folder is for this server alone.
    fn unix(path: &Path, ours: bool, owner: Option<&Account>) -> Result<Self, AdminError> {
        let socket = listen(Purpose::Admin, path, ours, BACKLOG).map_err(AdminError::Socket)?;
        if let Some(account) = owner {
            // The name itself, not what somebody else might have put into its place; and it is still closed to all others.
            lchown(path, Some(account.uid), Some(account.gid))
                .map_err(|error| AdminError::Owner(path.display().to_string(), error))?;
        }
        Ok(Bound {
            socket: AdminSocket::Unix(socket),
            asked: AdminAddress::Unix(path.to_owned()),
        })
    }

    fn tcp(address: SocketAddr) -> Result<Self, AdminError> {
        let bind = || -> io::Result<OwnedFd> {
            let kind = Type::STREAM.nonblocking().cloexec();
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, kind, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_tcp_nodelay(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        };
        let socket = bind().map_err(|error| AdminError::Address(address, error))?;
        Ok(Bound {
            socket: AdminSocket::Tcp(socket.into()),
            asked: AdminAddress::Tcp(address),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    #[test]
    fn a_socket_is_private_and_replaces_a_dead_one_and_no_living_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let wanted = Admin::At(AdminAddress::Unix(path.clone()));
        let mut first = AdminListener::open(&wanted, None).expect("a socket");
        let mode = std::fs::metadata(&path).expect("a socket").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        drop(UnixStream::connect(&path).expect("somebody listens"));
        let second = AdminListener::open(&wanted, None).expect_err("it is taken");
        assert!(second.to_string().contains("another server"), "{second}");
        // As one leaves it that is killed.
        first.0 = None;
        assert!(path.exists());
        let mut next = AdminListener::open(&wanted, None).expect("a dead one's name");
        next.close();
        assert!(!path.exists());
        // What is no socket is left alone.
        std::fs::write(&path, "mine").expect("a file");
        let error = AdminListener::open(&wanted, None).expect_err("a file");
        assert!(error.to_string().contains("something else"), "{error}");
        assert_eq!(std::fs::read(&path).expect("still there"), b"mine");
        // Unasked for, it is done without.
        let usual = Admin::Usual(vec![path]);
        let none = AdminListener::open(&usual, None).expect("none is no error");
        assert!(none.socket().is_none());
    }

    #[test]
    fn it_goes_on_across_an_exec_and_moves_only_to_another_place() {
        let any = AdminAddress::Tcp(([127, 0, 0, 1], 0).into());
        let wanted = Admin::At(any);
        let listener = AdminListener::open(&wanted, None).expect("a port");
        let address = |listener: &AdminListener| match listener.socket() {
            Some(AdminSocket::Tcp(socket)) => socket.local_addr().expect("bound"),
            other => panic!("{other:?}"),
        };
        let before = address(&listener);
        let mut handed = listener.handed().expect("there is one");
        // A copy, as another image would find it: this process has the first one still.
        let copy = listener.socket().expect("there is one").as_fd();
        let copy = copy.try_clone_to_owned().expect("a descriptor");
        fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor");
        handed.descriptor = std::os::fd::IntoRawFd::into_raw_fd(copy);
        let text = serde_json::to_vec(&handed).expect("JSON");
        let handed: HandedAdmin = serde_json::from_slice(&text).expect("our own");
        let mut next = AdminListener::adopt(Some(&handed)).expect("left open");
        drop(listener);
        assert_eq!(address(&next), before);
        next.settle_at(&wanted, None);
        assert_eq!(address(&next), before);
        drop(TcpStream::connect(before).expect("somebody listens"));
        next.settle_at(&Admin::Off, None);
        assert!(next.socket().is_none());
        assert!(AdminListener::adopt(None).expect("none").socket().is_none());
    }
}
