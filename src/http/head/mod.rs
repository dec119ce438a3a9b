//! The head of a request: where it ends ([`Scanner`]), what it says ([`parse`]) and how the body after it is framed
//! (RFC 9110, RFC 9112). Pure: bytes in, borrowed words out, no sockets, no allocation. The connection
//! scans after each read and parses once the head is whole. What is accepted here is read the same way by every
//! careful parser; anything that two parsers might read differently is refused.

mod authority;
mod fields;
mod refusal;
mod request_line;
mod scan;

use memchr::memchr;

use crate::http::limits::{Limits, MAX_FIELDS};

pub use self::fields::Values;
pub(in crate::http) use self::fields::is_value_byte;
pub use self::refusal::Refusal;
pub(in crate::http) use self::request_line::is_token_byte;
pub use self::request_line::{Method, Target, Version};
pub use self::scan::Scanner;

/// A request's head, in words borrowed from the bytes received.
///
/// Three kinds of fields:
/// - *Deciding* ones, of which a second line or a byte outside printable ASCII is refused: `host`,
///   `authorization`, `content_type`, `origin`, `access_control_request_method`.
/// - *Lists*, which may come in several lines (RFC 9110 section 5.3): these hold the **last** line, the one that the
///   nearest proxy wrote, and [`Head::values`] gives all of them: `if_none_match`, `forwarded`, `x_forwarded_for`,
///   `accept`, `access_control_request_headers`. Bytes, since a list may hold obs-text that some client made up.
/// - *Describing* ones, over which no request is refused: repeated, or not of printable ASCII, `request_id` and
///   `traceparent` are absent; `user_agent` and `referer` are the first line's bytes, for a log that escapes them.
///
/// All other fields are checked for their syntax and otherwise ignored, Upgrade among them (RFC 9110 section 7.8).
/// Values have no whitespace around them; one that is empty is `Some("")`.
#[derive(Debug, Clone)]
pub struct Head<'b> {
    pub method: Method<'b>,
    pub target: Target<'b>,
    pub version: Version,
    /// How the body is framed, whatever the method: a body nobody wants must still be passed over.
    pub framing: Framing,
    /// Whether the client wants the connection kept (RFC 9112 section 9.3): `close` wins over everything, HTTP/1.1
    /// stays without a word, HTTP/1.0 only with `keep-alive`.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends its body (RFC 9110 section 10.1.1). False
    /// where no body is announced, and in HTTP/1.0.
    pub expect_continue: bool,
    /// `host[:port]`, valid and not empty: the authority of an absolute-form target, else Host. `None` only in
    /// HTTP/1.0.
    pub host: Option<&'b str>,
    pub authorization: Option<&'b str>,
    pub content_type: Option<&'b str>,
    pub origin: Option<&'b str>,
    pub access_control_request_method: Option<&'b str>,
    pub access_control_request_headers: Option<&'b [u8]>,
    pub accept: Option<&'b [u8]>,
    pub if_none_match: Option<&'b [u8]>,
    pub forwarded: Option<&'b [u8]>,
    pub x_forwarded_for: Option<&'b [u8]>,
    /// X-Request-Id, not yet judged for length or alphabet.
    pub request_id: Option<&'b str>,
    pub traceparent: Option<&'b str>,
    pub user_agent: Option<&'b [u8]>,
    pub referer: Option<&'b [u8]>,
    /// The field lines as received, without the empty line that ends them.
    lines: &'b [u8],
}

/// How the body of a request is framed (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Neither Content-Length nor Transfer-Encoding: no body, and the next request begins right after the head.
    None,
    /// Content-Length, in bytes; may be 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Reads the head that [`Scanner::scan`] found: exactly its bytes, for the scanner has seen to the line ends.
///
/// # Errors
/// Every [`Refusal`] of the request line, the fields and the framing. A head that isn't whole is refused as
/// [`Refusal::RequestLine`]; that, like any bytes at all, does not panic.
pub fn parse<'b>(head: &'b [u8], limits: &Limits) -> Result<Head<'b>, Refusal> {
    let head = skip_blank_lines(head);
    let end = memchr(b'\r', head).ok_or(Refusal::RequestLine)?;
    let line = request_line::parse(&head[..end])?;
    let lines = head.get(end + 2..).ok_or(Refusal::RequestLine)?;
    let mut head = Head::new(&line, lines);
    fields::read(&mut head, limits.fields.min(MAX_FIELDS))?;
    if line.authority.is_some() {
        head.host = line.authority;
    }
    Ok(head)
}

/// The request line at the front of `input`, without its CRLF, if a whole and valid one is there. For the log: of a
/// request that was refused nothing else may be shown, since what does not parse may be part of a secret.
pub fn first_line(input: &[u8]) -> Option<&[u8]> {
    let input = skip_blank_lines(input);
    let line = &input[..memchr(b'\r', input)?];
    request_line::parse(line).is_ok().then_some(line)
}

impl<'b> Head<'b> {
    /// The values of all lines of the field `name` (any case), in the order received. Walks the whole
    /// head: for the rare field and the rare repeat, not for each request.
    pub fn values<'n>(&self, name: &'n str) -> Values<'b, 'n> {
        Values::new(self.lines, name)
    }

    fn new(line: &request_line::RequestLine<'b>, lines: &'b [u8]) -> Self {
        Head {
            method: line.method,
            target: line.target,
            version: line.version,
            framing: Framing::None,
            keep_alive: line.version == Version::Http11,
            expect_continue: false,
            host: None,
            authorization: None,
            content_type: None,
            origin: None,
            access_control_request_method: None,
            access_control_request_headers: None,
            accept: None,
            if_none_match: None,
            forwarded: None,
            x_forwarded_for: None,
            request_id: None,
            traceparent: None,
            user_agent: None,
            referer: None,
            lines,
        }
    }
}

fn skip_blank_lines(mut head: &[u8]) -> &[u8] {
    while let [b'\r', b'\n', rest @ ..] = head {
        head = rest;
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Head<'_> {
        parse(fields.as_bytes(), &Limits::default()).unwrap()
    }

    #[test]
    fn fields_reach_their_places() {
        let head = read(
            "PUT /x HTTP/1.1\r\nhost: h\r\nAUTHORIZATION: Bearer t\r\nContent-type: text/plain; a=b\r\nOrigin: https://o\r\n\
             Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: a, b\r\nAccept: */*\r\nIf-None-Match: \"e\"\r\n\
             Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Request-Id: r-1\r\nTraceparent: 00-0-0-00\r\n\
             User-Agent: u \u{e9}\r\nReferer:\r\n\r\n",
        );
        assert_eq!(head.host, Some("h"));
        assert_eq!(head.authorization, Some("Bearer t"));
        assert_eq!(head.content_type, Some("text/plain; a=b"));
        assert_eq!(head.origin, Some("https://o"));
        assert_eq!(head.access_control_request_method, Some("PUT"));
        assert_eq!(head.access_control_request_headers, Some(&b"a, b"[..]));
        assert_eq!(head.accept, Some(&b"*/*"[..]));
        assert_eq!(head.if_none_match, Some(&b"\"e\""[..]));
        assert_eq!(head.forwarded, Some(&b"for=1.2.3.4"[..]));
        assert_eq!(head.x_forwarded_for, Some(&b"1.2.3.4"[..]));
        assert_eq!(head.request_id, Some("r-1"));
        assert_eq!(head.traceparent, Some("00-0-0-00"));
        assert_eq!(head.user_agent, Some("u \u{e9}".as_bytes()));
        assert_eq!(head.referer, Some(&b""[..]));
    }

    /// HAProxy's `option forwardfor` adds a line of its own after the client's: who reads the first one believes
    /// the client.
    #[test]
    fn lists_hold_the_last_line_and_values_all_of_them() {
        let head = read(
            "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nA: b\r\nx-forwarded-for:\t1.2.3.4 \r\n\r\n",
        );
        assert_eq!(head.x_forwarded_for, Some(&b"1.2.3.4"[..]));
        assert_eq!(
            head.values("X-Forwarded-For").collect::<Vec<_>>(),
            [&b"6.6.6.6"[..], b"1.2.3.4"]
        );
        assert_eq!(head.values("X-Forwarded").count(), 0);
        assert_eq!(head.values("host").collect::<Vec<_>>(), [b"h"]);
    }

    #[test]
    fn describing_fields_never_refuse() {
        let head = read(
            "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: a\r\nX-Request-Id: b\r\nX-Request-Id: c\r\nTraceparent: \u{e9}\r\n\
             User-Agent: a\r\nUser-Agent: b\r\nReferer: \u{e9}\r\n\r\n",
        );
        assert_eq!((head.request_id, head.traceparent), (None, None));
        assert_eq!(
            (head.user_agent, head.referer),
            (Some(&b"a"[..]), Some("\u{e9}".as_bytes()))
        );
    }

    #[test]
    fn the_target_s_authority_replaces_host() {
        let head = read("GET http://a:1/x HTTP/1.1\r\nHost: b\r\n\r\n");
        assert_eq!(head.host, Some("a:1"));
        assert_eq!(
            head.target,
            Target::Path {
                path: "/x",
                query: None
            }
        );
    }

    #[test]
    fn only_a_whole_and_valid_request_line_is_shown() {
        assert_eq!(
            first_line(b"\r\nGET /x HTTP/1.1\r\nHost: h"),
            Some(&b"GET /x HTTP/1.1"[..])
        );
        for other in [
            &b""[..],
            b"GET /x HTTP/1.1",
            b"Authorization: Bearer secret\r\n",
            b"GET http://user:secret@h/ HTTP/1.1\r\n",
        ] {
            assert_eq!(first_line(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_cut_head_is_refused_without_a_panic() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
        for end in 0..head.len() {
            assert!(parse(&head[..end], &Limits::default()).is_err(), "{end}");
        }
    }

    #[test]
    fn a_scanner_is_small_and_tells_whether_a_request_began() {
        assert!(size_of::<Scanner>() <= 24);
        let (mut scanner, limits) = (Scanner::new(), Limits::default());
        assert_eq!(scanner.scan(b"\r\n", &limits), Ok(None));
        assert!(!scanner.begun());
        assert_eq!(scanner.scan(b"\r\nG", &limits), Ok(None));
        assert!(scanner.begun());
        let whole = b"\r\nGET / HTTP/1.1\r\n\r\nrest";
        assert_eq!(scanner.scan(whole, &limits), Ok(Some(20)));
        assert_eq!(scanner.scan(whole, &limits), Ok(Some(20)));
        scanner.reset();
        assert!(!scanner.begun());
    }
}
