//! The names of the control socket and of the admin listener's in the file system: made for this server alone, taken over from a dead server, never from a
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

/// How often a lock that another starting server holds is tried, and the nap between.
const LOCK_TRIES: u32 = 50;
const LOCK_NAP: Duration = Duration::from_millis(20);

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Control,
    Admin,
}

impl Purpose {
    fn flag(self) -> &'static str {
        match self {
            Purpose::Control => "--control-socket",
            Purpose::Admin => "--admin",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Control => "control socket",
            Purpose::Admin => "admin socket",
        })
    }
}

/// Why there is no socket.
#[derive(Debug)]
pub enum SocketError {
    /// A living server listens there.
    Taken(Purpose, PathBuf),
    /// Something else than a socket has the name.
    NotASocket(Purpose, PathBuf),
    /// The folder is another user's.
    Foreign(Purpose, PathBuf),
    Failed(Purpose, PathBuf, io::Error),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::Taken(purpose, path) => write!(
                f,
                "another server has the {purpose} {}; stop it or choose another {}",
                path.display(),
                purpose.flag()
            ),
            SocketError::NotASocket(purpose, path) => write!(
                f,
                "the {purpose} can't be {}, which is something else; remove it or choose another {}",
                path.display(),
                purpose.flag()
            ),
            SocketError::Foreign(purpose, path) => write!(
                f,
                "the folder of the {purpose}, {}, belongs to another user",
                path.display()
            ),
            SocketError::Failed(purpose, path, error) => {
                write!(f, "can't make the {purpose} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for SocketError {}

/// Binds and listens, with room for so many connections that wait. `ours`: the folder is for this server alone, and is made and
/// closed to others.
pub fn listen(
    purpose: Purpose,
    path: &Path,
    ours: bool,
    backlog: i32,
) -> Result<UnixListener, SocketError> {
    let failed = |error: io::Error| SocketError::Failed(purpose, path.to_owned(), error);
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
            return Err(SocketError::Foreign(purpose, folder.to_owned()));
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
            return Err(SocketError::NotASocket(purpose, path.to_owned()));
        }
        Ok(_) if is_dead(path) => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(SocketError::Taken(purpose, path.to_owned())),
        Err(_) => {}
    }
    bind(path, backlog).map_err(failed)
}

fn bind(path: &Path, backlog: i32) -> io::Result<UnixListener> {
    let place = Place::of(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // bind(2) gives the name the mode of the socket, less the umask: there is no moment at which others could connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(place.name())?)?;
    socket.listen(backlog)?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}

/// Takes a socket's name away, if nobody listens there: nobody is to find it when its server is gone. The socket itself is closed
/// already. Its name leads to an inode in the file system, which the descriptor does not tell; so ask who answers.
pub fn take_name_away(path: &Path) {
    if is_dead(path)
        && let Err(error) = std::fs::remove_file(path)
    {
        log::debug!("master: {} stays behind: {error}", path.display());
    }
}

/// Whether nobody listens on the socket of this name.
fn is_dead(path: &Path) -> bool {
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
