//! A tiny HTTP/1.1 client over a plain socket: every byte sent is the test's own, every byte received is
//! checked. It follows RFC 9112 as far as the server's answers need it (Content-Length, no chunks).

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a connect or one read may take. Longer than any deadline in the server, for a test wants the
/// server's own answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One connection. Requests go out one after another; the server may close it after any of them.
pub struct Client {
    stream: TcpStream,
    /// Bytes received beyond the last response.
    rest: Vec<u8>,
    /// True once the server has said `Connection: close`.
    pub told_to_close: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why no response came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    Refused,
    Reset,
    /// The connection ended before the first byte of a response.
    Closed,
    /// The connection ended inside a response.
    Truncated,
    TimedOut,
    /// Bytes that are no HTTP response.
    Malformed,
    Other(ErrorKind),
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Client, Trouble> {
        Client::connect_within(address, TIMEOUT)
    }

    pub fn connect_within(address: SocketAddr, timeout: Duration) -> Result<Client, Trouble> {
        Client::over(TcpStream::connect_timeout(&address, timeout)?, timeout)
    }

    /// Connects from another address of this host, such as 127.0.0.9.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Result<Client, Trouble> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&address.into(), TIMEOUT)?;
        Client::over(socket.into(), TIMEOUT)
    }

    fn over(stream: TcpStream, timeout: Duration) -> Result<Client, Trouble> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            rest: Vec::new(),
            told_to_close: false,
        })
    }

    /// A second handle on the same connection, to send from elsewhere.
    pub fn another_handle(&self) -> Client {
        let stream = self.stream.try_clone().expect("one more descriptor");
        Client {
            stream,
            rest: Vec::new(),
            told_to_close: false,
        }
    }

    pub fn local_address(&self) -> SocketAddr {
        self.stream
            .local_addr()
            .expect("a connected socket has an address")
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        Ok(self.stream.write_all(bytes)?)
    }

    pub fn get(&mut self, target: &str) -> Result<Response, Trouble> {
        self.call(&Request::new("GET", target))
    }

    pub fn call(&mut self, request: &Request) -> Result<Response, Trouble> {
        self.send_raw(&request.bytes())?;
        self.receive(request.method != "HEAD")
    }

    /// Reads one response; `with_body` is false for answers to HEAD.
    pub fn receive(&mut self, with_body: bool) -> Result<Response, Trouble> {
        let response = loop {
            let head_end = self.read_head()?;
            let head: Vec<u8> = self.rest.drain(..head_end).collect();
            let response = parse_head(&head).ok_or(Trouble::Malformed)?;
            // 1xx answers come before the real one.
            if response.status >= 200 {
                break response;
            }
        };
        self.read_body(response, with_body)
    }

    /// True if the server closes the connection without sending anything more.
    pub fn ends(&mut self) -> bool {
        let mut byte = [0];
        self.rest.is_empty() && matches!(self.stream.read(&mut byte), Ok(0))
    }

    /// True if the server has ended the connection in whatever way.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(
            self.stream.read(&mut byte).map_err(Trouble::from),
            Ok(0) | Err(Trouble::Reset)
        )
    }

    fn read_head(&mut self) -> Result<usize, Trouble> {
        loop {
            if let Some(at) = find(&self.rest, b"\r\n\r\n") {
                return Ok(at + 4);
            }
            if self.read_more()? == 0 {
                return Err(if self.rest.is_empty() {
                    Trouble::Closed
                } else {
                    Trouble::Truncated
                });
            }
        }
    }

    fn read_body(&mut self, mut response: Response, with_body: bool) -> Result<Response, Trouble> {
        self.told_to_close |= response
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !with_body || matches!(response.status, 204 | 304) {
            return Ok(response);
        }
        let length: usize = match response.header("content-length") {
            Some(length) => length.parse().map_err(|_| Trouble::Malformed)?,
            None => return Err(Trouble::Malformed),
        };
        while self.rest.len() < length {
            if self.read_more()? == 0 {
                return Err(Trouble::Truncated);
            }
        }
        response.body = self.rest.drain(..length).collect();
        Ok(response)
    }

    fn read_more(&mut self) -> Result<usize, Trouble> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        self.rest.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

/// A request to be sent as it is: nothing is added but Host, Content-Length and, with a JSON body, Content-Type.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Request {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Some(bytes.into());
        self
    }

    /// A body of type `application/json`; the text need not be JSON.
    pub fn json(self, text: impl Into<Vec<u8>>) -> Self {
        self.header("Content-Type", "application/json").body(text)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\n",
            self.method, self.target
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

impl Response {
    /// The value of a header that occurs at most once. Panics if it is repeated.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str());
        let first = values.next();
        assert!(
            values.next().is_none(),
            "the header {name} is repeated: {self}"
        );
        first
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body)
            .unwrap_or_else(|_| panic!("a body that is not UTF-8: {self}"))
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }

    /// Checks the status and answers with the response itself.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "unexpected answer: {self}");
        self
    }

    /// The problem document (RFC 9457) of an error, its shape checked.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Problem {
        assert_eq!(self.status, status, "unexpected answer: {self}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self}"
        );
        let document = self.json();
        let text = |member: &str| {
            let text = document[member]
                .as_str()
                .unwrap_or_else(|| panic!("no text `{member}`: {self}"));
            assert!(!text.is_empty(), "`{member}` is empty: {self}");
            text.to_owned()
        };
        assert_eq!(
            document["status"], status,
            "`status` differs from the status line: {self}"
        );
        Problem {
            kind: text("type"),
            title: text("title"),
            detail: text("detail"),
            field: document["field"].as_str().map(str::to_owned),
        }
    }
}

/// An `application/problem+json` document. `kind` is its `type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: String,
    pub title: String,
    pub detail: String,
    pub field: Option<String>,
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, self.headers)?;
        let shown = &self.body[..self.body.len().min(2000)];
        write!(f, " {}", String::from_utf8_lossy(shown))
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Trouble::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Trouble::Reset
            }
            // A read timeout shows as WouldBlock on Linux.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Trouble::TimedOut,
            other => Trouble::Other(other),
        }
    }
}

fn parse_head(head: &[u8]) -> Option<Response> {
    let text = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.1 ")?
        .get(..3)?
        .parse()
        .ok()?;
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Response {
        status,
        headers,
        body: Vec::new(),
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
