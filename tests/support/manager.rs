//! A service manager as far as sd_notify(3) sees one: a datagram socket that keeps what it is told, and the sockets that
//! it is given.

use std::io::IoSliceMut;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use canvas_cluster::sys::take_inherited;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use super::wait::PATIENCE;

pub struct Manager {
    socket: UnixDatagram,
    name: PathBuf,
    _folder: tempfile::TempDir,
}

/// One datagram.
pub struct Notice {
    pub text: String,
    pub fds: Vec<OwnedFd>,
}

impl Notice {
    /// Whether one of its lines is this one.
    pub fn says(&self, line: &str) -> bool {
        self.text.lines().any(|known| known == line)
    }

    /// The rest of the line that begins so.
    pub fn value(&self, start: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(start))
    }
}

impl Manager {
    pub fn new() -> Self {
        // Not in the test's folder, whose name may be too long for a socket's.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = folder.path().join("notify");
        let socket = UnixDatagram::bind(&name).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Manager {
            socket,
            name,
            _folder: folder,
        }
    }

    /// For `NOTIFY_SOCKET`.
    pub fn name(&self) -> &PathBuf {
        &self.name
    }

    /// What comes next.
    #[track_caller]
    pub fn hear(&self) -> Notice {
        self.receive(MsgFlags::empty())
            .expect("the server tells its manager nothing")
    }

    /// What has come already.
    pub fn heard(&self) -> Vec<Notice> {
        std::iter::from_fn(|| self.receive(MsgFlags::MSG_DONTWAIT)).collect()
    }

    /// All up to the first notice that has this line.
    #[track_caller]
    pub fn hear_until(&self, line: &str) -> Vec<Notice> {
        let mut notices = Vec::new();
        loop {
            notices.push(self.hear());
            if notices.last().is_some_and(|notice| notice.says(line)) {
                return notices;
            }
        }
    }

    fn receive(&self, flags: MsgFlags) -> Option<Notice> {
        let mut text = [0; 4096];
        let mut space = nix::cmsg_space!([RawFd; 8]);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let received =
            match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags)
            {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return None,
                Err(error) => panic!("the manager's socket: {error}"),
            };
        let mut fds = Vec::new();
        for message in received.cmsgs().expect("room for the descriptors") {
            if let ControlMessageOwned::ScmRights(passed) = message {
                fds.extend(
                    passed
                        .into_iter()
                        .map(|fd| take_inherited(fd).expect("ours")),
                );
            }
        }
        let length = received.bytes;
        Some(Notice {
            text: String::from_utf8_lossy(&text[..length]).into_owned(),
            fds,
        })
    }
}

/// The sockets that these notices ask to keep, each with its name.
pub fn kept(notices: Vec<Notice>) -> Vec<(String, TcpListener)> {
    let mut sockets = Vec::new();
    for mut notice in notices {
        if notice.says("FDSTORE=1") {
            let name = notice.value("FDNAME=").expect("a name").to_owned();
            let fd = notice.fds.pop().expect("a descriptor");
            assert!(notice.fds.is_empty());
            sockets.push((name, TcpListener::from(fd)));
        }
    }
    sockets
}
