//! An answer, and how it is laid on the wire: head and body into one buffer, so that they leave in one write.

use std::borrow::Cow;

use bytes::Bytes;

/// The length of an IMF-fixdate (RFC 9110 section 5.6.7).
pub const DATE_LENGTH: usize = 29;

/// Content above this size, in bytes, is not copied. The copy of a smaller one costs less than a write of its own.
const LARGE: usize = 64 * 1024;

const VERSION: &[u8] = b"HTTP/1.1 ";

/// The end of the status line, and the fields that every response begins with, up to the date.
const SERVER: &str = concat!(
    "\r\nServer: canvas-cluster/",
    env!("CARGO_PKG_VERSION"),
    "\r\nX-Content-Type-Options: nosniff\r\nDate: "
);

/// A response before framing: the connection adds `Date`, `Server`, `Content-Length` and `Connection`.
#[derive(Debug, Clone)]
pub struct Response {
    status: u16,
    content: Content,
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

#[derive(Debug, Clone)]
enum Content {
    None,
    Plain(&'static str, Bytes),
    LaidOut(LaidOut),
}

/// A response as it goes over the wire, to be sent many times: a date to be overwritten, and then nothing is left to
/// do but to copy it.
#[derive(Debug, Clone)]
pub struct LaidOut {
    status: u16,
    wire: Bytes,
    /// Where the head's last field ends; an empty line and the content follow.
    head: usize,
}

impl LaidOut {
    /// The bytes that it takes.
    pub fn size(&self) -> usize {
        self.wire.len()
    }

    /// What follows the head.
    pub fn content(&self) -> &[u8] {
        &self.wire[self.head + 2..]
    }
}

/// What the connection knows about the answer that it is about to write.
pub struct Framing<'a> {
    /// The value of `Date`.
    pub date: &'a [u8; DATE_LENGTH],
    /// Without the content, which the head announces all the same: that of an answer to HEAD (RFC 9110 section 9.3.2), and one
    /// that is written by itself.
    pub head_only: bool,
    pub connection: Persistence,
}

/// What follows the response on its connection (RFC 9112 section 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// HTTP/1.1's default: the connection stays, and nothing needs to be said.
    KeepAlive,
    /// The connection stays for a client of HTTP/1.0 that asked for it.
    KeepAliveSaid,
    /// This is the last response of the connection.
    Close,
}

impl Response {
    /// An empty response.
    pub fn new(status: u16) -> Self {
        Response {
            status,
            content: Content::None,
            headers: Vec::new(),
        }
    }

    /// With content of this type.
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.content = Content::Plain(content_type, body.into());
        self
    }

    /// Lays it out for many times: see [`Response::from`].
    pub fn lay_out(&self) -> LaidOut {
        let mut wire = Vec::new();
        self.head(&[b' '; DATE_LENGTH], &mut wire);
        let head = wire.len();
        wire.extend_from_slice(b"\r\n");
        if let Content::Plain(_, body) = &self.content {
            wire.extend_from_slice(body);
        }
        LaidOut {
            status: self.status,
            wire: wire.into(),
            head,
        }
    }

    /// With one more field. The value must be one line of visible ASCII: callers build it from their own words.
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With the time that it took, also for the scripts of an origin that may read the answer (Resource Timing section 4.5). To be
    /// sent once: what is kept for others does not carry it.
    pub fn timed(self, server_timing: String) -> Self {
        let reader = self
            .headers
            .iter()
            .find(|(name, _)| *name == "Access-Control-Allow-Origin")
            .map(|(_, origin)| origin.clone());
        let response = self.header("Server-Timing", server_timing);
        match reader {
            Some(origin) => response.header("Timing-Allow-Origin", origin),
            None => response,
        }
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// Bytes of content, which a response to HEAD announces and leaves out.
    pub fn length(&self) -> usize {
        self.content().len()
    }

    fn content(&self) -> &[u8] {
        match &self.content {
            Content::None => &[],
            Content::Plain(_, body) => body,
            Content::LaidOut(laid_out) => laid_out.content(),
        }
    }

    /// Content that is better written from where it is than copied behind its head: a file, of which a thousand clients that
    /// take it slowly would otherwise have a thousand copies.
    pub fn large_content(&self) -> Option<Bytes> {
        match &self.content {
            Content::Plain(_, body) if body.len() > LARGE => Some(body.clone()),
            _ => None,
        }
    }

    /// Appends the response to what waits to be written.
    pub fn encode(&self, framing: &Framing<'_>, out: &mut Vec<u8>) {
        let body = match framing.head_only {
            true => &[],
            false => self.content(),
        };
        out.reserve(256 + body.len());
        match &self.content {
            Content::LaidOut(laid_out) => {
                let start = out.len() + date_at(self.status);
                out.extend_from_slice(&laid_out.wire[..laid_out.head]);
                out[start..start + DATE_LENGTH].copy_from_slice(framing.date);
                fields(out, &self.headers);
            }
            _ => self.head(framing.date, out),
        }
        match framing.connection {
            Persistence::KeepAlive => {}
            Persistence::KeepAliveSaid => field(out, "Connection", "keep-alive"),
            Persistence::Close => field(out, "Connection", "close"),
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
    }

    /// The status line and the fields.
    fn head(&self, date: &[u8; DATE_LENGTH], out: &mut Vec<u8>) {
        out.extend_from_slice(VERSION);
        out.extend_from_slice(itoa::Buffer::new().format(self.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(SERVER.as_bytes());
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
        let length = match &self.content {
            Content::Plain(content_type, body) => {
                field(out, "Content-Type", content_type);
                body.len()
            }
            _ => 0,
        };
        // RFC 9110 section 8.6: neither 1xx nor 204 may carry a Content-Length.
        // A 304 stands for content that it does not describe here (section 15.4.5).
        if self.status >= 200 && self.status != 204 && self.status != 304 {
            field(out, "Content-Length", itoa::Buffer::new().format(length));
        }
        fields(out, &self.headers);
    }
}

impl From<LaidOut> for Response {
    /// What was laid out, once more; fields may be added.
    fn from(laid_out: LaidOut) -> Self {
        Response {
            status: laid_out.status,
            content: Content::LaidOut(laid_out),
            headers: Vec::new(),
        }
    }
}

/// Where the date begins in the head of a response with this status.
fn date_at(status: u16) -> usize {
    VERSION.len() + "200 ".len() + reason(status).len() + SERVER.len()
}

fn fields(out: &mut Vec<u8>, headers: &[(&'static str, Cow<'static, str>)]) {
    for (name, value) in headers {
        field(out, name, value);
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of RFC 9110 section 15.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(response: &Response, head_only: bool, connection: Persistence) -> String {
        let mut out = Vec::new();
        let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
        response.encode(
            &Framing {
                date,
                head_only,
                connection,
            },
            &mut out,
        );
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn head_is_get_without_the_content() {
        let response = Response::new(200)
            .body("application/json", "[]")
            .header("ETag", "\"1\"");
        let get = encode(&response, false, Persistence::KeepAlive);
        let head = encode(&response, true, Persistence::KeepAlive);
        assert_eq!(get, format!("{head}[]"));
        assert!(
            get.contains("\r\nContent-Length: 2\r\nETag: \"1\"\r\n\r\n"),
            "{get}"
        );
        assert!(!get.contains("Connection"));
    }

    #[test]
    fn what_is_laid_out_once_is_sent_like_what_is_not() {
        for content in [true, false] {
            let mut plain = Response::new(if content { 200 } else { 404 }).header("ETag", "\"1\"");
            if content {
                plain = plain.body("application/json", "[1, 2]");
            }
            let again = Response::from(plain.lay_out());
            let (plain, again) = (
                plain.header("Vary", "Origin"),
                again.header("Vary", "Origin"),
            );
            assert_eq!(plain.status(), again.status());
            for head_only in [true, false] {
                for connection in [
                    Persistence::KeepAlive,
                    Persistence::KeepAliveSaid,
                    Persistence::Close,
                ] {
                    let sent = encode(&again, head_only, connection);
                    assert_eq!(sent, encode(&plain, head_only, connection));
                    assert!(
                        sent.contains("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
                        "{sent}"
                    );
                }
            }
        }
    }

    #[test]
    fn who_may_read_an_answer_may_read_its_timing() {
        let timed = |response: Response| {
            let response = response.timed("total;dur=1".to_owned());
            encode(&response, true, Persistence::KeepAlive)
        };
        let plain = timed(Response::new(200));
        assert!(plain.contains("\r\nServer-Timing: total;dur=1\r\n") && !plain.contains("Allow"));
        let kept = Response::from(Response::new(200).lay_out());
        let origin = "https://shop.example";
        let shared = timed(kept.header("Access-Control-Allow-Origin", origin));
        assert!(shared.contains(&format!("\r\nTiming-Allow-Origin: {origin}\r\n")));
    }

    #[test]
    fn only_large_content_is_written_by_itself() {
        let large = |size: usize| {
            let response = Response::new(200).body("video/mp4", vec![0; size]);
            response.large_content().map(|content| content.len())
        };
        assert_eq!((large(LARGE), large(LARGE + 1)), (None, Some(LARGE + 1)));
        let laid_out: Response = Response::new(200)
            .body("application/json", vec![b' '; LARGE + 1])
            .lay_out()
            .into();
        assert_eq!(laid_out.large_content(), None);
        assert_eq!(Response::new(204).large_content(), None);
    }

    #[test]
    fn no_content_has_no_length() {
        let gone = encode(&Response::new(204), false, Persistence::Close);
        assert!(gone.starts_with("HTTP/1.1 204 No Content\r\n"));
        assert!(!gone.contains("Content-Length") && gone.contains("\r\nConnection: close\r\n\r\n"));
    }
}
