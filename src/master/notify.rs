//! What the service manager is told (sd_notify(3)), and the sockets that it keeps for us. Without `NOTIFY_SOCKET` it is
//! told nothing. A manager that can't be reached is no reason to fail, and one that does not read is not waited for.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use sd_notify::NotifyState;

use crate::sys;

/// The server's phases, as systemd knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Ready,
    Reloading,
    Stopping,
}

/// How long a message that matters may wait while the manager reads nothing. A status line or a sign of life waits not
/// at all: the next one comes soon.
const PATIENCE: Duration = Duration::from_millis(500);

/// How soon a sign of life is tried again when there was nothing to show for it.
const AGAIN: Duration = Duration::from_secs(1);

/// The longest status line, in bytes.
const LONGEST: usize = 300;

/// The service manager.
pub struct Manager {
    address: Option<UnixAddr>,
    /// The status line that it knows.
    status: String,
    /// Half of what the manager waits for a sign of life, and when the next one is due.
    watchdog: Option<(Duration, Instant)>,
}

impl Manager {
    /// The one that the environment names, if any.
    pub fn find() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            address_of(&name)
                .inspect_err(|error| log::warn!("master: NOTIFY_SOCKET is of no use: {error}"))
                .ok()
        });
        let watchdog = sd_notify::watchdog_enabled()
            .filter(|_| address.is_some())
            .map(|patience| (patience / 2, Instant::now()));
        Manager {
            address,
            status: String::new(),
            watchdog,
        }
    }

    /// Whether anybody listens.
    pub fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// Tells that the server stops, that it takes so long at most, and a line for `systemctl status`: `--drain-timeout` may be
    /// longer than the manager's own patience (TimeoutStopSec).
    pub fn tell_stopping(&mut self, within: Duration, status: &str) {
        self.tell(Phase::Stopping, status);
        let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(within)], &[], PATIENCE);
    }

    /// Tells the phase and a line for `systemctl status`.
    pub fn tell(&mut self, phase: Phase, status: &str) {
        self.status = one_line(status);
        let mut states = vec![NotifyState::Status(&self.status)];
        match phase {
            Phase::Ready => states.push(NotifyState::Ready),
            Phase::Stopping => states.push(NotifyState::Stopping),
            Phase::Reloading => {
                states.push(NotifyState::Reloading);
                // Type=notify-reload wants the moment in the same datagram (systemd 253 and later).
                match NotifyState::monotonic_usec_now() {
                    Ok(now) => states.push(now),
                    Err(error) => {
                        log::debug!("no monotonic clock for the service manager: {error}")
                    }
                }
            }
        }
        self.send(&states, &[], PATIENCE);
    }

    /// Tells another status line, if it is another one.
    pub fn show(&mut self, status: &str) {
        let status = one_line(status);
        if status != self.status {
            self.send(&[NotifyState::Status(&status)], &[], Duration::ZERO);
            self.status = status;
        }
    }

    /// When the next sign of life is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.watchdog.map(|(_, due)| due)
    }

    /// Gives a sign of life, if one is due and `serves` is true of the patience that half of the manager's time is.
    pub fn live(&mut self, now: Instant, serves: impl FnOnce(Duration) -> bool) {
        let Some((half, due)) = self.watchdog else {
            return;
        };
        if now < due {
            return;
        }
        let next = if serves(half) {
            self.send(&[NotifyState::Watchdog], &[], Duration::ZERO);
            half
        } else {
            half.min(AGAIN)
        };
        self.watchdog = Some((half, now + next));
    }

    /// Has the manager keep a socket over a restart (FDSTORE=1), under a name that may be many sockets'; true if it was
    /// told.
    pub fn keep(&self, name: &str, socket: BorrowedFd<'_>) -> bool {
        let name = format!("FDNAME={name}");
        let states = [NotifyState::Custom("FDSTORE=1"), NotifyState::Custom(&name)];
        self.send(&states, &[socket.as_raw_fd()], PATIENCE)
    }

    /// Has the manager close what it keeps under this name.
    pub fn let_go(&self, name: &str) {
        let name = format!("FDNAME={name}");
        let states = [
            NotifyState::Custom("FDSTOREREMOVE=1"),
            NotifyState::Custom(&name),
        ];
        self.send(&states, &[], PATIENCE);
    }

    fn send(&self, states: &[NotifyState<'_>], fds: &[i32], patience: Duration) -> bool {
        let Some(address) = &self.address else {
            return false;
        };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        match send_to(address, message.as_bytes(), fds, patience) {
            Ok(()) => true,
            Err(error) => {
                log::debug!("the service manager can't be told: {error}");
                false
            }
        }
    }
}

/// The descriptors that the service manager passes (sd_listen_fds(3)), each with its name. To be asked once.
pub fn inherited() -> Vec<(OwnedFd, String)> {
    let passed = match sd_notify::listen_fds_with_names() {
        Ok(passed) => passed,
        Err(error) => {
            log::warn!("master: what the service manager passes can't be taken: {error}");
            return Vec::new();
        }
    };
    passed
        .filter_map(|(fd, name)| match sys::take_inherited(fd) {
            Ok(fd) => Some((fd, name)),
            Err(error) => {
                log::warn!("master: descriptor {fd}, which the service manager passes: {error}");
                None
            }
        })
        .collect()
}

/// A path, or an abstract name after `@`.
fn address_of(name: &OsStr) -> nix::Result<UnixAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => UnixAddr::new_abstract(rest),
        [b'/', ..] => UnixAddr::new(name),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

fn send_to(address: &UnixAddr, message: &[u8], fds: &[i32], patience: Duration) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    connect(socket.as_raw_fd(), address)?;
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[] } else { &rights[..] };
    let end = Instant::now() + patience;
    loop {
        let parts = [IoSlice::new(message)];
        match sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &parts,
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) if Instant::now() < end => {
                let left = end.saturating_duration_since(Instant::now()).as_millis() + 1;
                let left = PollTimeout::try_from(left as u32).unwrap_or(PollTimeout::ZERO);
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, left) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A message ends its fields with line breaks, so a status may have none; nor be so long that the manager drops it.
fn one_line(status: &str) -> String {
    let mut line = status.trim().replace('\n', "; ");
    if line.len() > LONGEST {
        let end = (0..=LONGEST)
            .rev()
            .find(|at| line.is_char_boundary(*at))
            .unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_and_not_too_long() {
        assert_eq!(one_line("a\nb\n"), "a; b");
        let long = one_line(&"ä".repeat(LONGEST));
        assert_eq!(long.chars().count(), LONGEST / 2 + 1);
        assert!(long.ends_with('…'));
    }
}
