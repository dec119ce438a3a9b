//! An answer, and how it is laid on the wire: head and body into one buffer, so that they leave in one write.

use std::borrow::Cow;

use bytes::Bytes;

/// The fields that every response begins with.
const SERVER: &str = concat!(
    "Server: canvas-cluster/",
    env!("CARGO_PKG_VERSION"),
    "\r\nX-Content-Type-Options: nosniff\r\n"
);

/// A response before framing: the connection adds `Date`, `Server`, `Content-Length` and `Connection`.
#[derive(Debug, Clone)]
pub struct Response {
    status: u16,
    /// Empty for a response without content.
    content_type: &'static str,
    body: Bytes,
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

/// What the connection knows about the answer that it is about to write.
pub struct Framing<'a> {
    /// The value of `Date`, an IMF-fixdate (RFC 9110 section 5.6.7).
    pub date: &'a [u8],
    /// The request was HEAD: the head of a GET's answer, without its content (RFC 9110 section 9.3.2).
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
            content_type: "",
            body: Bytes::new(),
            headers: Vec::new(),
        }
    }

    /// With content of this type.
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.content_type = content_type;
        self.body = body.into();
        self
    }

    /// With one more field. The value must be one line of visible ASCII: callers build it from their own words.
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// Appends the response to what waits to be written.
    pub fn encode(&self, framing: &Framing<'_>, out: &mut Vec<u8>) {
        out.reserve(256 + self.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(self.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(SERVER.as_bytes());
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(framing.date);
        out.extend_from_slice(b"\r\n");
        if !self.content_type.is_empty() {
            field(out, "Content-Type", self.content_type);
        }
        // RFC 9110 section 8.6: neither 1xx nor 204 may carry a Content-Length.
        // A 304 stands for content that it does not describe here (section 15.4.5).
        if self.status >= 200 && self.status != 204 && self.status != 304 {
            field(
                out,
                "Content-Length",
                itoa::Buffer::new().format(self.body.len()),
            );
        }
        for (name, value) in &self.headers {
            field(out, name, value);
        }
        match framing.connection {
            Persistence::KeepAlive => {}
            Persistence::KeepAliveSaid => field(out, "Connection", "keep-alive"),
            Persistence::Close => field(out, "Connection", "close"),
        }
        out.extend_from_slice(b"\r\n");
        if !framing.head_only {
            out.extend_from_slice(&self.body);
        }
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
    fn no_content_has_no_length() {
        let gone = encode(&Response::new(204), false, Persistence::Close);
        assert!(gone.starts_with("HTTP/1.1 204 No Content\r\n"));
        assert!(!gone.contains("Content-Length") && gone.contains("\r\nConnection: close\r\n\r\n"));
    }
}
