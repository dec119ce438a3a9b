//! One line of the access log. Pure: an [`Entry`] in, bytes out, of bounded length and without anything that a
//! client could forge a line or a field with.
//!
//! `combined` is the format of Apache and nginx with the duration and the request's id behind it:
//!
//! ```text
//! 192.0.2.7 - - [24/Nov/2026:02:10:11 +0000] "GET / HTTP/1.1" 404 158 "-" "curl/8.5" 312 abc-123
//! ```
//!
//! A byte of a client that is a control byte, `"`, `\`, DEL or not ASCII is written `\xHH` there, as nginx does.
//! `json` is one object (RFC 8259) a line; what is not UTF-8 becomes U+FFFD.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::config::AccessFormat;
use crate::http::request_id;

/// The longest line in bytes, line feed included. PIPE_BUF of Linux: one write of so much to a pipe stays in one piece
/// (pipe(7)), so that the lines of several workers can't mix.
pub const LONGEST: usize = 4096;

/// How much of a line each of these may take, in bytes as written. What is longer is cut and ends with [`CUT`].
const LINE_MOST: usize = 1700;
const FIELD_MOST: usize = 800;

/// The method takes its share of the line in JSON, where it stands apart.
const METHOD_MOST: usize = 64;

/// The end of what was cut.
const CUT: &str = "...";

/// What is known of a request once it is answered.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub client: IpAddr,
    /// When the answer was ready.
    pub time: SystemTime,
    /// Method, target and version as the client sent them; `None` where no valid line came.
    pub request_line: Option<&'a [u8]>,
    pub status: u16,
    /// Bytes of content in the answer, without its head.
    pub sent: usize,
    pub referer: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    /// From the request's first byte until the answer was ready.
    pub duration: Duration,
    /// Sane already, see [`RequestId`](crate::http::request_id::RequestId).
    pub request_id: &'a str,
    /// Of a valid `traceparent`. In JSON only: `combined` has no place for it.
    pub trace_id: Option<&'a str>,
}

impl Entry<'_> {
    /// Appends the line, at most [`LONGEST`] bytes.
    pub fn write(&self, format: AccessFormat, out: &mut Vec<u8>) {
        // Writing to a Vec can't fail.
        let _ = match format {
            AccessFormat::Combined => self.write_combined(out),
            AccessFormat::Json => self.write_json(out),
        };
    }

    fn write_combined(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        // `Sun, 06 Nov 1994 08:49:37 GMT` holds every part of `06/Nov/1994:08:49:37 +0000`.
        let date = httpdate::fmt_http_date(self.time);
        let part = |range: std::ops::Range<usize>| date.get(range).unwrap_or("-");
        write!(
            out,
            "{} - - [{}/{}/{}:{} +0000] \"",
            self.client,
            part(5..7),
            part(8..11),
            part(12..16),
            part(17..25)
        )?;
        quote_combined(self.request_line, LINE_MOST, out);
        write!(out, "\" {} {} \"", self.status, self.sent)?;
        quote_combined(self.referer, FIELD_MOST, out);
        out.extend_from_slice(b"\" \"");
        quote_combined(self.user_agent, FIELD_MOST, out);
        writeln!(
            out,
            "\" {} {}",
            self.duration.as_micros(),
            short(self.request_id)
        )
    }

    fn write_json(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let words = self.request_line.and_then(split);
        write!(
            out,
            "{{\"time\":\"{}\",\"client\":\"{}\"",
            humantime::format_rfc3339_millis(self.time),
            self.client
        )?;
        for (name, value, most) in [
            ("method", words.map(|words| words.0), METHOD_MOST),
            ("target", words.map(|words| words.1), LINE_MOST),
            ("version", words.map(|words| words.2), METHOD_MOST),
        ] {
            member(name, value, most, out);
        }
        write!(out, ",\"status\":{},\"sent\":{}", self.status, self.sent)?;
        member("referer", self.referer, FIELD_MOST, out);
        member("user_agent", self.user_agent, FIELD_MOST, out);
        write!(
            out,
            ",\"duration_us\":{},\"request_id\":\"{}\"",
            self.duration.as_micros(),
            short(self.request_id)
        )?;
        let trace_id = self.trace_id.map(str::as_bytes);
        member("trace_id", trace_id, METHOD_MOST, out);
        writeln!(out, ",\"pid\":{}}}", std::process::id())
    }
}

/// Method, target and version of a valid request line.
fn split(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut words = line.split(|byte| *byte == b' ');
    let parts = (words.next()?, words.next()?, words.next()?);
    words.next().is_none().then_some(parts)
}

/// The bound of the line holds whatever a caller gives as id.
fn short(id: &str) -> &str {
    id.get(..id.len().min(request_id::LONGEST)).unwrap_or("-")
}

/// Appends a client's bytes, escaped as nginx does, in at most `most` bytes; `-` for what is absent.
fn quote_combined(bytes: Option<&[u8]>, most: usize, out: &mut Vec<u8>) {
    let Some(bytes) = bytes else {
        out.push(b'-');
        return;
    };
    let start = out.len();
    let mut keep = start;
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                let (high, low) = (byte >> 4, byte & 15);
                let digits = [DIGITS[usize::from(high)], DIGITS[usize::from(low)]];
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(&digits);
            }
            _ => out.push(*byte),
        }
        if cut(start, &mut keep, most, out) {
            return;
        }
    }
}

/// Appends a member of an object: a string, or null for what is absent.
fn member(name: &str, value: Option<&[u8]>, most: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    let Some(value) = value else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'"');
    let start = out.len();
    let mut keep = start;
    'chunks: for chunk in value.utf8_chunks() {
        let replaced = (!chunk.invalid().is_empty()).then_some('\u{fffd}');
        for letter in chunk.valid().chars().chain(replaced) {
            match letter {
                '"' | '\\' => out.extend_from_slice(&[b'\\', letter as u8]),
                // DEL, the C1 controls and the separators of lines are legal in JSON, but not kind to a terminal.
                _ if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') => {
                    let _ = write!(out, "\\u{:04x}", letter as u32);
                }
                _ => {
                    let _ = write!(out, "{letter}");
                }
            }
            if cut(start, &mut keep, most, out) {
                break 'chunks;
            }
        }
    }
    out.push(b'"');
}

/// Whether what began at `start` has grown beyond `most` bytes; then it is cut between two of its letters. `keep` is
/// where the last letter ended that leaves room for [`CUT`].
fn cut(start: usize, keep: &mut usize, most: usize, out: &mut Vec<u8>) -> bool {
    if out.len() - start > most {
        out.truncate(*keep);
        out.extend_from_slice(CUT.as_bytes());
        return true;
    }
    if out.len() - start + CUT.len() <= most {
        *keep = out.len();
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn entry<'a>() -> Entry<'a> {
        Entry {
            client: "192.0.2.7".parse().unwrap(),
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_250),
            request_line: Some(b"GET /api/images/?shoe_id=7 HTTP/1.1"),
            status: 200,
            sent: 467,
            referer: None,
            user_agent: Some(b"curl/8.5"),
            duration: Duration::from_micros(312),
            request_id: "abc-123",
            trace_id: None,
        }
    }

    fn written(entry: &Entry<'_>, format: AccessFormat) -> String {
        let mut out = Vec::new();
        entry.write(format, &mut out);
        String::from_utf8(out).expect("both formats write UTF-8")
    }

    #[test]
    fn a_line_says_what_happened() {
        assert_eq!(
            written(&entry(), AccessFormat::Combined),
            "192.0.2.7 - - [06/Nov/1994:08:49:37 +0000] \"GET /api/images/?shoe_id=7 HTTP/1.1\" 200 467 \"-\" \"curl/8.5\" 312 abc-123\n"
        );
        assert_eq!(
            written(&entry(), AccessFormat::Json),
            format!(
                "{{\"time\":\"1994-11-06T08:49:37.250Z\",\"client\":\"192.0.2.7\",\"method\":\"GET\",\
                 \"target\":\"/api/images/?shoe_id=7\",\"version\":\"HTTP/1.1\",\"status\":200,\"sent\":467,\
                 \"referer\":null,\"user_agent\":\"curl/8.5\",\"duration_us\":312,\"request_id\":\"abc-123\",\"trace_id\":null,\"pid\":{}}}\n",
                std::process::id()
            )
        );
        let traced = Entry {
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
            ..entry()
        };
        let json: Value = serde_json::from_str(&written(&traced, AccessFormat::Json)).unwrap();
        assert_eq!(json["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        let combined = written(&traced, AccessFormat::Combined);
        assert_eq!(combined, written(&entry(), AccessFormat::Combined));
    }

    #[test]
    fn a_request_without_a_line_has_a_dash_or_null() {
        let entry = Entry {
            request_line: None,
            ..entry()
        };
        assert!(written(&entry, AccessFormat::Combined).contains("] \"-\" 200 "));
        let json: Value = serde_json::from_str(&written(&entry, AccessFormat::Json)).unwrap();
        for name in ["method", "target", "version"] {
            assert_eq!(json[name], Value::Null);
        }
    }

    /// What a client sends to forge a second line, to break out of the quotes, or to act on a terminal.
    #[test]
    fn nothing_of_a_client_can_forge_a_line() {
        let forged =
            b"a\" 200 0\r\n6.6.6.6 - - \\ \x1b[2J\x7f\x00\t\xff\xc2\x9b \xe2\x80\xa8 \xc3\xa9";
        let entry = Entry {
            user_agent: Some(forged),
            ..entry()
        };
        let combined = written(&entry, AccessFormat::Combined);
        assert!(
            combined.contains(
                "\"a\\x22 200 0\\x0D\\x0A6.6.6.6 - - \\x5C \\x1B[2J\\x7F\\x00\\x09\\xFF\\xC2\\x9B \\xE2\\x80\\xA8 \\xC3\\xA9\" 312 "
            ),
            "{combined}"
        );
        let line = written(&entry, AccessFormat::Json);
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["user_agent"], *String::from_utf8_lossy(forged));
        let inside = line.strip_suffix('\n').expect("one line");
        assert!(
            !inside.contains(|c: char| c.is_control() || c == '\u{2028}'),
            "{inside:?}"
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_two_letters() {
        for (bytes, fits) in [(FIELD_MOST, true), (FIELD_MOST + 1, false)] {
            let long = vec![b'x'; bytes];
            let entry = Entry {
                referer: Some(&long),
                ..entry()
            };
            let json: Value = serde_json::from_str(&written(&entry, AccessFormat::Json)).unwrap();
            let shown = json["referer"].as_str().expect("a string");
            assert_eq!(shown.len(), FIELD_MOST);
            assert_eq!(shown.ends_with(CUT), !fits);
        }
    }

    fn check(request_line: &[u8], referer: &[u8], user_agent: &[u8]) -> Result<(), TestCaseError> {
        let entry = Entry {
            client: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
            request_line: Some(request_line),
            status: 65535,
            sent: usize::MAX,
            referer: Some(referer),
            user_agent: Some(user_agent),
            duration: Duration::MAX,
            request_id: &"i".repeat(request_id::LONGEST),
            trace_id: Some(&"a".repeat(32)),
            ..entry()
        };
        for format in [AccessFormat::Combined, AccessFormat::Json] {
            let line = written(&entry, format);
            prop_assert!(line.len() <= LONGEST, "{} bytes: {line}", line.len());
            prop_assert!(
                line.ends_with('\n') && !line[..line.len() - 1].contains(char::is_control)
            );
            match format {
                // The quotes that the format itself sets are the only ones.
                AccessFormat::Combined => prop_assert_eq!(line.matches('"').count(), 6),
                AccessFormat::Json => {
                    let json: Value = serde_json::from_str(&line).unwrap();
                    prop_assert_eq!(json["request_id"].as_str().map(str::len), Some(128));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_longest_line_fits() {
        for byte in [b'x', b' ', 0x00, b'"', 0xff, 0xc3] {
            let long = vec![byte; 65536];
            check(&long, &long, &long).unwrap();
            let mut line = long.clone();
            (line[20_000], line[40_000]) = (b' ', b' ');
            check(&line, &long, &long).unwrap();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_short_line(
            line in prop::collection::vec(any::<u8>(), 0..3000),
            referer in prop::collection::vec(any::<u8>(), 0..1500),
            user_agent in "\\PC{0,900}",
        ) {
            check(&line, &referer, user_agent.as_bytes())?;
        }
    }
}
