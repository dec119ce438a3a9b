//! `canvas-cluster status`, and what every reader of `/status.json` needs: the document's types ([`model`]), a client that
//! fetches it from the admin listener, and what two looks at it tell ([`rates`]). Called by `main`; the admin listener
//! writes what `model` describes. Waits no longer than it was told.

pub mod model;
pub mod rates;
pub mod show;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use self::model::Status;
use self::rates::Between;
use crate::config::status::{EXIT_NO_SERVER, EXIT_SHORT, StatusCommand};
use crate::config::{Admin, AdminAddress};
use crate::ctl::{Outcome, Place};

/// The exit code when a server was reached and its answer is none.
const EXIT_FAILED: u8 = 111;

/// The largest answer that is taken: some 2 KiB for each worker process that may live at once.
const ANSWER_LIMIT: usize = 16 << 20;

/// The most fields in the head of an answer.
const MOST_FIELDS: usize = 32;

/// How far the two looks of a table are apart.
const INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no status.
#[derive(Debug)]
pub enum FetchError {
    /// The configuration has no admin listener.
    Off,
    /// Nobody listens at any of these.
    NoServer(Vec<String>),
    Unreachable(String, io::Error),
    /// The server did not answer in time.
    Late(Duration),
    /// The connection ended before the answer did.
    Cut,
    Broken(io::Error),
    /// It answered with another status than 200.
    Refused(u16),
    Nonsense(String),
}

impl FetchError {
    /// The exit code of a command that ends with this.
    pub fn code(&self) -> u8 {
        match self {
            FetchError::Off | FetchError::NoServer(_) | FetchError::Unreachable(..) => {
                EXIT_NO_SERVER
            }
            _ => EXIT_FAILED,
        }
    }

    /// Whether another try at once may do better: a worker that leaves ends its connections.
    fn is_passing(&self) -> bool {
        matches!(
            self,
            FetchError::Cut | FetchError::Broken(_) | FetchError::Refused(503)
        )
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Off => f.write_str("admin is none, so there is nothing to ask a server by"),
            FetchError::NoServer(places) => write!(
                f,
                "no server listens at {}; is it running, and with another --admin or --control-socket?",
                places.join(", ")
            ),
            FetchError::Unreachable(place, error) => {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "; only the user of the workers and root may"
                    }
                    _ => "",
                };
                write!(f, "can't reach the server at {place}: {error}{hint}")
            }
            FetchError::Late(timeout) => write!(f, "no answer within {timeout:?}"),
            FetchError::Cut => f.write_str("the server ended the connection within its answer"),
            FetchError::Broken(error) => write!(f, "the connection to the server broke: {error}"),
            FetchError::Refused(status) => {
                write!(f, "the server answers with status {status}")
            }
            FetchError::Nonsense(why) => write!(f, "the server's answer can't be read: {why}"),
        }
    }
}

impl std::error::Error for FetchError {}

/// Asks a server how it is, within `timeout`.
///
/// # Errors
/// See [`FetchError`].
pub fn fetch(admin: &Admin, timeout: Duration) -> Result<Status, FetchError> {
    let text = fetch_text(admin, timeout)?;
    serde_json::from_str(&text).map_err(|error| FetchError::Nonsense(error.to_string()))
}

/// The same, as the server wrote it.
///
/// # Errors
/// See [`FetchError`].
pub fn fetch_text(admin: &Admin, timeout: Duration) -> Result<String, FetchError> {
    let end = Instant::now() + timeout;
    match try_fetch(admin, end, timeout) {
        Err(error) if error.is_passing() && Instant::now() < end => try_fetch(admin, end, timeout),
        fetched => fetched,
    }
}

/// Asks a running server, and says what to print.
pub fn run(admin: &Admin, command: StatusCommand) -> Outcome {
    let looked = match command.json {
        true => fetch_text(admin, command.timeout).and_then(|text| {
            let status = serde_json::from_str(&text)
                .map_err(|error| FetchError::Nonsense(error.to_string()))?;
            Ok((text + "\n", status))
        }),
        false => look_twice(admin, command.timeout),
    };
    match looked {
        Ok((stdout, status)) => Outcome {
            code: match is_short(&status) {
                true => EXIT_SHORT,
                false => 0,
            },
            stdout,
            stderr: String::new(),
        },
        Err(error) => Outcome {
            code: error.code(),
            stdout: String::new(),
            stderr: format!("canvas-cluster: {error}\n"),
        },
    }
}

/// The table of what happened within a second, and the later of the two looks.
fn look_twice(admin: &Admin, timeout: Duration) -> Result<(String, Status), FetchError> {
    let before = fetch(admin, timeout)?;
    std::thread::sleep(INTERVAL);
    let after = fetch(admin, timeout)?;
    let table = show::table(&after, Between::of(&before, &after));
    Ok((table, after))
}

/// Whether fewer workers serve than should.
fn is_short(status: &Status) -> bool {
    status.ready < status.wanted
}

fn try_fetch(admin: &Admin, end: Instant, timeout: Duration) -> Result<String, FetchError> {
    let mut stream = connect(admin, end)?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => FetchError::Late(timeout),
        _ => FetchError::Broken(error),
    };
    let request =
        b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n";
    stream
        .set_write_timeout(Some(left(end)))
        .and_then(|()| stream.write_all(request))
        .map_err(failed)?;
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        if let Some(body) = body_of(&answer)? {
            return String::from_utf8(body.to_vec())
                .map_err(|error| FetchError::Nonsense(error.to_string()));
        }
        if Instant::now() >= end {
            return Err(FetchError::Late(timeout));
        }
        stream.set_read_timeout(Some(left(end))).map_err(failed)?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(FetchError::Cut),
            Ok(length) if answer.len() + length <= ANSWER_LIMIT => {
                answer.extend_from_slice(&piece[..length]);
            }
            Ok(_) => return Err(FetchError::Nonsense("it is too long".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The content of an answer, once it is whole.
fn body_of(answer: &[u8]) -> Result<Option<&[u8]>, FetchError> {
    let nonsense = |why: &str| FetchError::Nonsense(why.to_owned());
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let start = match head.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(FetchError::Nonsense(error.to_string())),
    };
    match head.code {
        Some(200) => {}
        Some(status) => return Err(FetchError::Refused(status)),
        None => return Err(nonsense("it has no status")),
    }
    let length = head
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok())
        .filter(|length| *length <= ANSWER_LIMIT)
        .ok_or_else(|| nonsense("it does not say how long it is"))?;
    Ok(answer.get(start..start + length))
}

/// Connects to the first of the places where somebody listens.
fn connect(admin: &Admin, end: Instant) -> Result<Socket, FetchError> {
    let places: Vec<AdminAddress> = match admin {
        Admin::Off => return Err(FetchError::Off),
        Admin::At(address) => vec![address.clone()],
        Admin::Usual(paths) => paths.iter().cloned().map(AdminAddress::Unix).collect(),
    };
    for place in &places {
        let connected = match place {
            AdminAddress::Tcp(address) => connect_tcp(*address, end),
            AdminAddress::Unix(path) => connect_unix(path, end),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => return Err(FetchError::Unreachable(place.to_string(), error)),
        }
    }
    let places = places.iter().map(ToString::to_string).collect();
    Err(FetchError::NoServer(places))
}

fn connect_tcp(address: SocketAddr, end: Instant) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.connect_timeout(&address.into(), left(end))?;
    Ok(socket)
}

fn connect_unix(path: &Path, end: Instant) -> io::Result<Socket> {
    let place = Place::of(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Bounds the connect as well: it waits while the backlog is full.
    socket.set_write_timeout(Some(left(end)))?;
    socket.connect(&SockAddr::unix(place.name())?)?;
    Ok(socket)
}

/// What is left, and never zero, which would mean for ever.
fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_is_taken_when_it_is_whole_and_no_sooner() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        for end in 0..answer.len() {
            assert!(matches!(body_of(&answer[..end]), Ok(None)), "{end}");
        }
        assert_eq!(body_of(answer).expect("good"), Some(&b"{}"[..]));
        for (bad, why) in [
            (&b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"[..], "503"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "how long"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
                "how long",
            ),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "can't be read"),
        ] {
            let error = body_of(bad).expect_err("bad");
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(error.code(), EXIT_FAILED);
        }
    }

    #[test]
    fn who_says_nothing_is_waited_for_no_longer_than_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let admin = Admin::At(AdminAddress::Tcp(address));
        let timeout = Duration::from_millis(50);
        let error = fetch_text(&admin, timeout).expect_err("nobody answers");
        assert!(matches!(error, FetchError::Late(_)), "{error}");
        drop(listener);
        let error = fetch_text(&admin, timeout).expect_err("nobody is there");
        assert!(matches!(error, FetchError::NoServer(_)), "{error}");
        assert_eq!(error.code(), EXIT_NO_SERVER);
        let error = fetch_text(&Admin::Off, timeout).expect_err("none");
        assert!(matches!(error, FetchError::Off), "{error}");
    }

    #[test]
    fn fewer_workers_than_should_serve_are_an_exit_code() {
        let command = StatusCommand {
            json: true,
            timeout: Duration::from_secs(20),
        };
        for (ready, code) in [(2, 0), (1, EXIT_SHORT), (0, EXIT_SHORT)] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("bound");
            let document = model::DOCUMENT.replace("\"ready\": 1", &format!("\"ready\": {ready}"));
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{document}",
                document.len()
            );
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut piece = [0; 1024];
                let _ = stream.read(&mut piece).expect("a request");
                stream.write_all(answer.as_bytes()).expect("sent");
            });
            let outcome = run(&Admin::At(AdminAddress::Tcp(address)), command);
            server.join().expect("it has nothing to panic of");
            assert_eq!(outcome.code, code, "{outcome:?}");
            assert_eq!(outcome.stdout, document + "\n");
        }
    }

    #[test]
    fn a_connection_that_ends_early_is_tried_once_more() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            drop(listener.accept().expect("a client"));
            let (mut stream, _) = listener.accept().expect("a client");
            let mut piece = [0; 1024];
            let _ = stream.read(&mut piece).expect("a request");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer).expect("sent");
        });
        let admin = Admin::At(AdminAddress::Tcp(address));
        let text = fetch_text(&admin, Duration::from_secs(20));
        server.join().expect("it has nothing to panic of");
        assert_eq!(text.expect("the second try"), "{}");
    }
}
