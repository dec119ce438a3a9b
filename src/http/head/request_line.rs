//! Line 1 of a request: `method SP request-target SP HTTP-version` (RFC 9112 section 3), and the four forms of
//! a request-target. Called by the scanner when the line is complete, to refuse early, and by the parser.

use super::authority;
use super::refusal::Refusal;

/// The method of a request (RFC 9110 section 9). Case-sensitive: `get` is [`Method::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method<'b> {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    /// A token that is no method known here.
    Other(&'b str),
}

impl<'b> Method<'b> {
    /// The method as it stands in the request line.
    pub fn as_str(&self) -> &'b str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other(name) => name,
        }
    }
}

/// What a request is for (RFC 9112 section 3.2). Visible ASCII without `#`, as the client sent it: nothing is
/// decoded or normalised here, [`target`](crate::http::target) does that once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'b> {
    /// Origin-form, or absolute-form with its scheme and authority taken off.
    Path {
        /// Begins with `/`; an absolute-form without a path has `/`.
        path: &'b str,
        /// What follows the first `?`, which may be empty; `None` without a `?`.
        query: Option<&'b str>,
    },
    /// `*`, the whole server: only of OPTIONS. `OPTIONS http://host` means the same (RFC 9112 section 3.2.4).
    Asterisk,
    /// `host:port`: only of CONNECT.
    Authority,
}

/// The versions of HTTP that are served (RFC 9112 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// A request line that is valid.
pub(super) struct RequestLine<'b> {
    pub method: Method<'b>,
    pub target: Target<'b>,
    pub version: Version,
    /// The authority of an absolute-form target, which takes the place of Host (RFC 9112 section 3.2.2).
    pub authority: Option<&'b str>,
}

/// Parses line 1, given without its CRLF.
///
/// # Errors
/// [`Refusal::Method`], [`Refusal::RequestLine`], [`Refusal::Version`], [`Refusal::Target`].
pub(super) fn parse(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let (method, target, version) = split(line)?;
    let (target, authority) = parse_target(target, method)?;
    Ok(RequestLine {
        method,
        target,
        version,
        authority,
    })
}

/// Says what [`parse`] would refuse, without the work of parsing an origin-form target.
pub(super) fn check(line: &[u8]) -> Result<(), Refusal> {
    match split(line)? {
        (Method::Connect, ..) => parse(line).map(drop),
        (_, [b'/', ..], _) => Ok(()),
        _ => parse(line).map(drop),
    }
}

/// The three parts of the line; the target is not empty and has none but visible bytes.
fn split(line: &[u8]) -> Result<(Method<'_>, &[u8], Version), Refusal> {
    let (method, rest) = split_at_space(line).ok_or(Refusal::RequestLine)?;
    let method = parse_method(method)?;
    // Nearly every line ends in one of these two.
    let (target, version) = match rest.split_last_chunk() {
        Some((target, b" HTTP/1.1")) => (target, Version::Http11),
        Some((target, b" HTTP/1.0")) => (target, Version::Http10),
        _ => return Err(blame(method, rest)),
    };
    match target
        .iter()
        .find(|&&byte| !TARGET_BYTES[usize::from(byte)])
    {
        None if !target.is_empty() => Ok((method, target, version)),
        None | Some(b' ') => Err(Refusal::RequestLine), // a space too many
        Some(_) => Err(Refusal::Target),
    }
}

/// Tells what is wrong with `rest`, which follows the method and does not end in a version that is served.
/// HTTP/1.2 to HTTP/1.9 don't exist. RFC 9110 section 2.5 would read them as 1.1, but a peer that says so expects
/// something this server has never heard of; they are refused with the other versions.
#[cold]
fn blame(method: Method<'_>, rest: &[u8]) -> Refusal {
    match (split_at_space(rest), method, rest) {
        (None, Method::Get, [b'/', ..]) => Refusal::Version, // HTTP/0.9
        (Some((_, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])), ..) => {
            Refusal::Version
        }
        _ => Refusal::RequestLine,
    }
}

/// A byte that a token may hold (RFC 9110 section 5.6.2).
pub(in crate::http) fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES[usize::from(byte)]
}

static TOKEN_BYTES: [bool; 256] = table(b"!#$%&'*+-.^_`|~");

/// Visible ASCII but `#`: a target has no fragment.
static TARGET_BYTES: [bool; 256] = table(b"!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~");

/// True for letters, digits and `marks`.
pub(super) const fn table(marks: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0;
    while byte < 128 {
        table[byte] |= (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
}

fn split_at_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn parse_method(name: &[u8]) -> Result<Method<'_>, Refusal> {
    Ok(match name {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        b"PUT" => Method::Put,
        b"DELETE" => Method::Delete,
        b"OPTIONS" => Method::Options,
        b"PATCH" => Method::Patch,
        b"CONNECT" => Method::Connect,
        b"TRACE" => Method::Trace,
        [] => return Err(Refusal::RequestLine),
        other if other.iter().all(|&byte| is_token_byte(byte)) => {
            Method::Other(str::from_utf8(other).map_err(|_| Refusal::Method)?)
        }
        _ => return Err(Refusal::Method),
    })
}

fn parse_target<'b>(
    target: &'b [u8],
    method: Method<'b>,
) -> Result<(Target<'b>, Option<&'b str>), Refusal> {
    if method == Method::Connect {
        return match authority::is_valid_with_port(target) {
            true => Ok((Target::Authority, None)),
            false => Err(Refusal::Target),
        };
    }
    let text = str::from_utf8(target).map_err(|_| Refusal::Target)?;
    if target.starts_with(b"/") {
        return Ok((split_query(text), None));
    }
    if text == "*" && method == Method::Options {
        return Ok((Target::Asterisk, None));
    }
    parse_absolute(text, method)
}

/// absolute-form (RFC 9112 section 3.2.2), of the schemes http and https. A user name in it is refused
/// (RFC 9110 section 4.2.4).
fn parse_absolute<'b>(
    target: &'b str,
    method: Method<'b>,
) -> Result<(Target<'b>, Option<&'b str>), Refusal> {
    let (scheme, rest) = target.split_once("://").ok_or(Refusal::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::Target);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !authority::is_valid(authority.as_bytes()) {
        return Err(Refusal::Target);
    }
    let target = match path.strip_prefix('?') {
        Some(query) => Target::Path {
            path: "/",
            query: Some(query),
        },
        None if path.is_empty() && method == Method::Options => Target::Asterisk,
        None if path.is_empty() => split_query("/"),
        None => split_query(path),
    };
    Ok((target, Some(authority)))
}

fn split_query(target: &str) -> Target<'_> {
    let mark = target.bytes().position(|byte| byte == b'?');
    let (path, query) = target.split_at(mark.unwrap_or(target.len()));
    Target::Path {
        path,
        query: query.get(1..),
    }
}
