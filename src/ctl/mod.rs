//! `canvas-cluster ctl`: the client of the control socket, and the messages that it and the master exchange: a line of
//! JSON there, a line of JSON back. Called by `main`; the master uses the messages. Waits no longer than it was told.

pub mod message;
mod place;
mod show;

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use self::message::{ANSWER_LIMIT, Answer};
pub use self::place::Place;
use crate::config::ctl::{Ctl, CtlCommand, EXIT_NO_SERVER};
use crate::config::{ControlSocket, EXIT_USAGE};

/// The exit code when it was tried in vain, or nobody knows what came of it.
const EXIT_FAILED: u8 = 111;

/// What came of a call: the exit code, and what to print.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: u8,
    pub stdout: String,
    pub stderr: String,
}

/// Why there is no answer.
#[derive(Debug)]
enum CtlError {
    Off,
    /// Nobody listens at any of these.
    NoServer(Vec<PathBuf>),
    Unreachable(PathBuf, io::Error),
    /// The server said nothing in time. What was asked for may be done yet.
    Late(Duration),
    /// The server ended, or ended the connection, without an answer.
    Silent,
    Broken(io::Error),
    Nonsense(String),
}

impl CtlError {
    fn code(&self) -> u8 {
        match self {
            CtlError::Off | CtlError::NoServer(_) | CtlError::Unreachable(..) => EXIT_NO_SERVER,
            _ => EXIT_FAILED,
        }
    }
}

impl fmt::Display for CtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CtlError::Off => {
                f.write_str("control_socket is none, so there is nothing to reach a server by")
            }
            CtlError::NoServer(places) => {
                let places: Vec<String> = places
                    .iter()
                    .map(|place| place.display().to_string())
                    .collect();
                write!(
                    f,
                    "no server listens at {}; is it running, and with another --control-socket?",
                    places.join(", ")
                )
            }
            CtlError::Unreachable(place, error) => {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => "; only the server's user and root may",
                    _ => "",
                };
                write!(
                    f,
                    "can't reach the server at {}: {error}{hint}",
                    place.display()
                )
            }
            CtlError::Late(timeout) => write!(
                f,
                "no answer after {timeout:?}; the server may still do it: `canvas-cluster ctl status` tells"
            ),
            CtlError::Silent => f.write_str("the server ended the connection without an answer"),
            CtlError::Broken(error) => write!(f, "the connection to the server broke: {error}"),
            CtlError::Nonsense(why) => write!(f, "the server's answer can't be read: {why}"),
        }
    }
}

/// Asks a running server and says what it answered.
pub fn run(socket: &ControlSocket, ctl: Ctl) -> Outcome {
    let (line, answer) = match ask(socket, ctl) {
        Ok(answered) => answered,
        Err(error) => {
            return Outcome {
                code: error.code(),
                stdout: String::new(),
                stderr: format!("canvas-cluster: {error}\n"),
            };
        }
    };
    let code = match answer {
        Answer::Status(_) | Answer::Accepted | Answer::Done { .. } => 0,
        Answer::Refused { .. } => EXIT_USAGE,
        Answer::Failed { .. } => EXIT_FAILED,
    };
    let text = show::answer(ctl.command, &answer);
    let (stdout, stderr) = match (ctl.json, code) {
        (true, _) => (line, String::new()),
        (false, 0) => (text, String::new()),
        (false, _) => (String::new(), format!("canvas-cluster: {text}")),
    };
    Outcome {
        code,
        stdout,
        stderr,
    }
}

/// Sends the request, and takes the answer: as it came, and read.
fn ask(socket: &ControlSocket, ctl: Ctl) -> Result<(String, Answer), CtlError> {
    let end = Instant::now() + ctl.timeout;
    let mut stream = match socket {
        ControlSocket::Off => return Err(CtlError::Off),
        ControlSocket::At(place) => connect(std::slice::from_ref(place), end)?,
        ControlSocket::Usual(places) => connect(places, end)?,
    };
    let mut request =
        serde_json::to_string(&ctl.command).map_err(|error| CtlError::Broken(error.into()))?;
    request.push('\n');
    let late = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CtlError::Late(ctl.timeout),
        _ => CtlError::Broken(error),
    };
    // A server that refuses before it has read shows in what is read.
    match stream.write_all(request.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(late(error)),
        _ => {}
    }
    let mut line = Vec::new();
    let mut whole = read_until(&mut stream, &mut line, end, |line| line.ends_with(b"\n"));
    if whole.is_ok() && matches!(ctl.command, CtlCommand::Stop { wait: true }) {
        // The server has gone when its end of the connection has.
        whole = read_until(&mut stream, &mut Vec::new(), end, |_| false);
    }
    whole.map_err(late)?;
    if line.is_empty() {
        return Err(CtlError::Silent);
    }
    let line = String::from_utf8(line).map_err(|error| CtlError::Nonsense(error.to_string()))?;
    let answer =
        serde_json::from_str(&line).map_err(|error| CtlError::Nonsense(error.to_string()))?;
    Ok((line, answer))
}

/// Connects to the first of the places where somebody listens.
fn connect(places: &[PathBuf], end: Instant) -> Result<Socket, CtlError> {
    for place in places {
        match connect_to(place, end) {
            Ok(stream) => return Ok(stream),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => return Err(CtlError::Unreachable(place.clone(), error)),
        }
    }
    Err(CtlError::NoServer(places.to_vec()))
}

fn connect_to(place: &Path, end: Instant) -> io::Result<Socket> {
    let place = Place::of(place)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Bounds the connect as well: it waits while the backlog is full.
    socket.set_write_timeout(Some(left(end)))?;
    socket.connect(&SockAddr::unix(place.name())?)?;
    Ok(socket)
}

/// Reads until it is enough, or the other end has closed.
fn read_until(
    stream: &mut Socket,
    read: &mut Vec<u8>,
    end: Instant,
    enough: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let mut piece = [0; 16 * 1024];
    while !enough(read) {
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left(end)))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) if read.len() + length <= ANSWER_LIMIT => {
                read.extend_from_slice(&piece[..length]);
            }
            Ok(_) => return Err(io::Error::other("the answer is too long")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The server closed before it had read all that was sent: what it said came before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is left, and never zero, which would mean for ever.
fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}
