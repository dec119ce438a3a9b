//! Turns the raw path and query of a request-target into text, once and strictly (RFC 3986 section 2.1). Called by
//! the routes. What comes out is UTF-8 without NUL; a path that comes out has no segment that could climb, and
//! its every `/` was a `/` on the wire.

use std::borrow::Cow;
use std::fmt;

/// Why a target names nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetError {
    /// A `%` without two hexadecimal digits after it.
    Escape,
    /// `%00`.
    Nul,
    /// The decoded bytes are not UTF-8.
    NotUtf8,
    /// A path that no resource can have: see [`path`].
    UnknownPath,
}

impl TargetError {
    /// The HTTP status of the answer: 400, or 404 for a path that is well-formed but can't exist.
    pub const fn status(self) -> u16 {
        match self {
            TargetError::Escape | TargetError::Nul | TargetError::NotUtf8 => 400,
            TargetError::UnknownPath => 404,
        }
    }

    /// One English sentence for the `detail` of the answer. Never holds anything the client sent.
    pub const fn reason(self) -> &'static str {
        match self {
            TargetError::Escape => {
                "A `%` in the request target is not followed by two hexadecimal digits."
            }
            TargetError::Nul => "The request target holds an encoded NUL.",
            TargetError::NotUtf8 => "The request target does not decode to UTF-8.",
            TargetError::UnknownPath => "There is no such path.",
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for TargetError {}

/// Percent-decodes one component: once, so `%2525` is `%25`. Borrows if there is nothing to decode. `+` is itself.
///
/// # Errors
/// [`TargetError::Escape`], [`TargetError::Nul`], [`TargetError::NotUtf8`].
pub fn decode(component: &str) -> Result<Cow<'_, str>, TargetError> {
    decode_with(component, |byte| byte)
}

/// Decodes the path of a target and refuses those that only probing clients send.
///
/// # Errors
/// Those of [`decode`], else [`TargetError::UnknownPath`] for a path that does not begin with `/`, holds a
/// backslash, an encoded `/` or a control character, has a segment `.` or `..` (plain or encoded), or has an
/// empty segment before the last (`//`). One `/` at the end is part of a path and stays.
pub fn path(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    let path = decode(raw)?;
    let slashes = |text: &str| text.bytes().filter(|&byte| byte == b'/').count();
    let encoded_slash = matches!(path, Cow::Owned(_)) && slashes(&path) != slashes(raw);
    let strange = |symbol: char| symbol == '\\' || symbol.is_control();
    let Some(segments) = path.strip_prefix('/') else {
        return Err(TargetError::UnknownPath);
    };
    let before_last = segments.rsplit_once('/').map(|(before, _)| before);
    if encoded_slash
        || segments.contains(strange)
        || segments
            .split('/')
            .any(|segment| matches!(segment, "." | ".."))
        || before_last.is_some_and(|before| before.split('/').any(str::is_empty))
    {
        return Err(TargetError::UnknownPath);
    }
    Ok(path)
}

/// The pairs of a query in the form that HTML forms and `URLSearchParams` write (WHATWG URL standard section 5.1):
/// `name=value` joined by `&`, `+` is a space, the first `=` divides. A pair without `=` has the value `""`; nothing
/// between two `&` is no pair. Yields pairs in order, repeats too, and an error in the place of a pair that does
/// not decode.
pub fn query_pairs(query: &str) -> QueryPairs<'_> {
    QueryPairs { rest: query }
}

/// See [`query_pairs`].
#[derive(Debug, Clone)]
pub struct QueryPairs<'q> {
    rest: &'q str,
}

impl<'q> Iterator for QueryPairs<'q> {
    type Item = Result<(Cow<'q, str>, Cow<'q, str>), TargetError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let (pair, rest) = self.rest.split_once('&').unwrap_or((self.rest, ""));
            self.rest = rest;
            if !pair.is_empty() {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                return Some(decode_form(name).and_then(|name| Ok((name, decode_form(value)?))));
            }
        }
        None
    }
}

fn decode_form(component: &str) -> Result<Cow<'_, str>, TargetError> {
    decode_with(component, |byte| if byte == b'+' { b' ' } else { byte })
}

/// `plain` maps the bytes that are not part of an escape.
fn decode_with(component: &str, plain: impl Fn(u8) -> u8) -> Result<Cow<'_, str>, TargetError> {
    let unchanged = |byte: u8| byte != b'%' && byte != 0 && plain(byte) == byte;
    if component.bytes().all(unchanged) {
        return Ok(Cow::Borrowed(component));
    }
    let mut decoded = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let [first, tail @ ..] = rest {
        let byte = match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                hex_value(*high)? << 4 | hex_value(*low)?
            }
            (b'%', _) => return Err(TargetError::Escape),
            _ => {
                rest = tail;
                plain(*first)
            }
        };
        if byte == 0 {
            return Err(TargetError::Nul);
        }
        decoded.push(byte);
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| TargetError::NotUtf8)
}

fn hex_value(digit: u8) -> Result<u8, TargetError> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
        .ok_or(TargetError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn components() {
        for (raw, decoded) in [
            ("", ""),
            ("a+b", "a+b"),
            ("%41%7a", "Az"),
            ("%2525", "%25"),
            ("%C3%A9", "\u{e9}"),
            ("%0a", "\n"),
        ] {
            assert_eq!(decode(raw).as_deref(), Ok(decoded), "{raw}");
        }
        for raw in [
            "%", "%4", "a%", "%zz", "%4g", "%g4", "%%41", "% 41", "%+1", "%u0041",
        ] {
            assert_eq!(decode(raw), Err(TargetError::Escape), "{raw}");
        }
        for raw in ["%00", "a%00b"] {
            assert_eq!(decode(raw), Err(TargetError::Nul), "{raw}");
        }
        for raw in ["%ff", "%C3", "%c0%af", "%ed%a0%80", "%f5%80%80%80"] {
            assert_eq!(decode(raw), Err(TargetError::NotUtf8), "{raw}");
        }
        assert!(matches!(decode("plain"), Ok(Cow::Borrowed("plain"))));
    }

    #[test]
    fn paths() {
        for (raw, decoded) in [
            ("/", "/"),
            ("/api/images/", "/api/images/"),
            ("/api/%69mages", "/api/images"),
            ("/a.b/...", "/a.b/..."),
            ("/%20", "/ "),
            ("/%252e%252e/", "/%2e%2e/"),
            ("/a;b=..", "/a;b=.."),
            ("/.well-known/x", "/.well-known/x"),
        ] {
            assert_eq!(path(raw).as_deref(), Ok(decoded), "{raw}");
        }
        for raw in [
            "", "a", "%2Fa", "//", "//a", "/a//b", "/a//", "/.", "/..", "/../", "/a/../b",
            "/a/./b", "/a/..", "/%2e", "/%2E%2e/", "/.%2e/x", "/a%2Fb", "/a%2fb", "/%2f", "/a\\b",
            "/a%5Cb", "/a%5cb", "/%0a", "/%7f", "/%c2%85", "/..\\x",
        ] {
            assert_eq!(path(raw), Err(TargetError::UnknownPath), "{raw}");
        }
        assert_eq!(path("/%zz/..").unwrap_err().status(), 400);
        assert_eq!(path("/..").unwrap_err().status(), 404);
    }

    #[test]
    fn queries() {
        let pairs = |query| query_pairs(query).collect::<Result<Vec<_>, _>>();
        let owned = |wanted: &[(&'static str, &'static str)]| -> Vec<(Cow<str>, Cow<str>)> {
            wanted
                .iter()
                .map(|&(name, value)| (name.into(), value.into()))
                .collect()
        };
        for (query, wanted) in [
            ("", &[][..]),
            ("&&", &[]),
            ("shoe_id=1", &[("shoe_id", "1")]),
            ("a=1&b=2&a=3", &[("a", "1"), ("b", "2"), ("a", "3")]),
            ("a", &[("a", "")]),
            ("a=", &[("a", "")]),
            ("=b", &[("", "b")]),
            ("=", &[("", "")]),
            ("a=b=c", &[("a", "b=c")]),
            ("&a&", &[("a", "")]),
            ("a+b=c+d", &[("a b", "c d")]),
            ("a%2Bb=%26%3D", &[("a+b", "&=")]),
            ("a;b", &[("a;b", "")]),
            ("a?=/", &[("a?", "/")]),
        ] {
            assert_eq!(pairs(query), Ok(owned(wanted)), "{query}");
        }
        assert_eq!(pairs("a=%"), Err(TargetError::Escape));
        assert_eq!(pairs("%00=a"), Err(TargetError::Nul));
        assert_eq!(pairs("a=%ff"), Err(TargetError::NotUtf8));
        let mut mixed = query_pairs("a=%&b=2");
        assert_eq!(
            (mixed.next(), mixed.next()),
            (
                Some(Err(TargetError::Escape)),
                Some(Ok(("b".into(), "2".into())))
            )
        );
        assert_eq!(mixed.next(), None);
    }

    proptest! {
        #[test]
        fn what_decodes_decodes_as_others_do(raw in "([a-z+=&/.\\\\]|%[0-9A-Fa-f]{2}|%C3%A[0-9]|%){0,12}") {
            let query: Result<Vec<_>, _> = query_pairs(&raw).collect();
            if let Ok(pairs) = query {
                prop_assert_eq!(pairs, url::form_urlencoded::parse(raw.as_bytes()).collect::<Vec<_>>());
            }
            let lenient = percent_encoding::percent_decode_str(&raw).decode_utf8();
            match decode(&raw) {
                Ok(text) => prop_assert_eq!(Ok(text), lenient),
                Err(TargetError::NotUtf8) => prop_assert!(lenient.is_err()),
                Err(_) => {}
            }
            if let Ok(path) = path(&raw) {
                prop_assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'));
                prop_assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
                prop_assert_eq!(path.matches('/').count(), raw.matches('/').count());
            }
        }
    }
}
