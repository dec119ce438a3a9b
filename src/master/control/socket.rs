//! The control socket's name in the file system: made for this server alone, taken over from a dead server, never from a
//! living one.

use std::fmt;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::ctl::Place;

/// How many connections may wait for an accept.
const BACKLOG: i32 = 8;

/// How often a lock that another starting server holds is tried, and the nap between.
const LOCK_TRIES: u32 = 50;
const LOCK_NAP: Duration = Duration::from_millis(20);

/// Why there is no control socket.
#[derive(Debug)]
pub enum ControlError {
    /// A living server listens there.
    Taken(PathBuf),
    /// Something else than a socket has the name.
    NotASocket(PathBuf),
    /// The folder is another user's.
    Foreign(PathBuf),
    Failed(PathBuf, io::Error),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Taken(path) => write!(
                f,
                "another server has the control socket {}; stop it or choose another --control-socket",
                path.display()
            ),
            ControlError::NotASocket(path) => write!(
                f,
                "the control socket can't be {}, which is something else; remove it or choose another --control-socket",
                path.display()
            ),
            ControlError::Foreign(path) => write!(
                f,
                "the folder of the control socket, {}, belongs to another user",
                path.display()
            ),
            ControlError::Failed(path, error) => {
                write!(
                    f,
                    "can't make the control socket {}: {error}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for ControlError {}

/// Binds and listens. `ours`: the folder is for this server alone, and is made and closed to others.
pub fn listen(path: &Path, ours: bool) -> Result<UnixListener, ControlError> {
    let failed = |error: io::Error| ControlError::Failed(path.to_owned(), error);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(failed)?;
    let opened = File::open(folder).map_err(failed)?;
    if ours {
        let about = opened.metadata().map_err(failed)?;
        if about.uid() != geteuid().as_raw() {
            return Err(ControlError::Foreign(folder.to_owned()));
        }
        if about.mode() & 0o077 != 0 {
            let private = Permissions::from_mode(0o700);
            opened.set_permissions(private).map_err(failed)?;
        }
    }
    // Two servers that start together would both find a dead socket, and the second remove the first one's new one.
    let _lock = lock(opened).map_err(failed)?;
    match std::fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.to_owned()));
        }
        Ok(_) if is_dead(path) => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(ControlError::Taken(path.to_owned())),
        Err(_) => {}
    }
    bind(path).map_err(failed)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let place = Place::of(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // bind(2) gives the name the mode of the socket, less the umask: there is no moment at which others could connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(place.name())?)?;
    socket.listen(BACKLOG)?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}

/// Whether nobody listens on the socket of this name.
pub fn is_dead(path: &Path) -> bool {
    let connect = || -> io::Result<()> {
        let place = Place::of(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.connect(&SockAddr::unix(place.name())?)
    };
    connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn lock(folder: File) -> io::Result<Flock<File>> {
    let mut folder = folder;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, nix::errno::Errno::EWOULDBLOCK)) => folder = unlocked,
            Err((_, error)) => return Err(error.into()),
        }
        std::thread::sleep(LOCK_NAP);
    }
    Err(io::Error::other(
        "another server is starting in its folder, and does not get on",
    ))
}
