//! The field lines of a head: their syntax (by httparse), the few fields that the server knows, and the framing
//! that Content-Length and Transfer-Encoding decide together. Called by `parse` only.

use httparse::{EMPTY_HEADER, Error, Header, Status, parse_headers};
use memchr::memmem;

use super::refusal::Refusal;
use super::request_line::{Version, is_token_byte};
use super::{Framing, Head, authority};
use crate::http::limits::MAX_FIELDS;

/// Rows of the table for the usual head. The table for [`MAX_FIELDS`] is 4 KiB of stack, which a coroutine would
/// keep while it idles: only the rare connection pays for it.
const USUAL_FIELDS: usize = 20;

/// Reads all field lines into `head`, whose request line is already there; `most` is at most [`MAX_FIELDS`].
pub(super) fn read(head: &mut Head<'_>, most: usize) -> Result<(), Refusal> {
    match read_with::<USUAL_FIELDS>(head, most) {
        Err(Stop::TableFull) => read_many(head, most),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Ok(()) => Ok(()),
    }
}

#[cold]
#[inline(never)]
fn read_many(head: &mut Head<'_>, most: usize) -> Result<(), Refusal> {
    read_with::<MAX_FIELDS>(head, most).map_err(|stop| match stop {
        Stop::TableFull => Refusal::TooManyFields,
        Stop::Refused(refusal) => refusal,
    })
}

enum Stop {
    TableFull,
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

fn read_with<const N: usize>(head: &mut Head<'_>, most: usize) -> Result<(), Stop> {
    let mut table = [EMPTY_HEADER; N];
    let (end, fields) = match parse_headers(head.lines, &mut table) {
        Ok(Status::Complete(parsed)) => parsed,
        Ok(Status::Partial) => return Err(Refusal::RequestLine.into()),
        Err(Error::TooManyHeaders) => return Err(Stop::TableFull),
        Err(_) => return Err(blame(head.lines).into()),
    };
    if fields.len() > most {
        return Err(Refusal::TooManyFields.into());
    }
    head.lines = head.lines.get(..end.saturating_sub(2)).unwrap_or_default();
    let mut notes = Notes::default();
    for field in fields {
        note(head, &mut notes, field)?;
    }
    Ok(conclude(head, &notes)?)
}

/// What is known of a head while its fields pass by, beside the head itself.
#[derive(Default)]
struct Notes<'b> {
    host: Option<&'b [u8]>,
    length: Option<&'b [u8]>,
    codings: Codings,
    expects: Expects,
    close: bool,
    keep_alive: bool,
    request_id_came: bool,
    traceparent_came: bool,
}

/// The transfer codings so far, over all Transfer-Encoding lines.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    Chunked,
    Unknown,
    UnknownThenChunked,
    Faulty,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Expects {
    #[default]
    Nothing,
    Continue,
    Other,
}

/// Tells fields apart by the length of their names first: most of what browsers send has none of these lengths.
fn note<'b>(head: &mut Head<'b>, notes: &mut Notes<'b>, field: &Header<'b>) -> Result<(), Refusal> {
    let value = field.value;
    let is = |known: &str| field.name.eq_ignore_ascii_case(known);
    match field.name.len() {
        4 if is("host") => note_host(&mut notes.host, value)?,
        6 if is("accept") => head.accept = Some(value),
        6 if is("origin") => decide(&mut head.origin, value)?,
        6 if is("expect") => note_expectations(&mut notes.expects, value),
        7 if is("referer") => head.referer = head.referer.or(Some(value)),
        9 if is("forwarded") => head.forwarded = Some(value),
        10 if is("user-agent") => head.user_agent = head.user_agent.or(Some(value)),
        10 if is("connection") => {
            for option in elements(value) {
                notes.close |= option.eq_ignore_ascii_case(b"close");
                notes.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        11 if is("traceparent") => {
            describe(&mut head.traceparent, &mut notes.traceparent_came, value)
        }
        12 if is("content-type") => decide(&mut head.content_type, value)?,
        12 if is("x-request-id") => {
            describe(&mut head.request_id, &mut notes.request_id_came, value)
        }
        13 if is("authorization") => decide(&mut head.authorization, value)?,
        13 if is("if-none-match") => head.if_none_match = Some(value),
        14 if is("content-length") => note_lengths(&mut notes.length, value)?,
        15 if is("x-forwarded-for") => head.x_forwarded_for = Some(value),
        17 if is("transfer-encoding") => note_codings(&mut notes.codings, value),
        29 if is("access-control-request-method") => {
            decide(&mut head.access_control_request_method, value)?
        }
        30 if is("access-control-request-headers") => {
            head.access_control_request_headers = Some(value)
        }
        _ => {}
    }
    Ok(())
}

/// What only all fields together tell: the framing, Host, the connection's fate, the expectation.
fn conclude<'b>(head: &mut Head<'b>, notes: &Notes<'b>) -> Result<(), Refusal> {
    let modern = head.version == Version::Http11;
    head.framing = match (notes.codings, notes.length) {
        (Codings::None, None) => Framing::None,
        (Codings::None, Some(digits)) => Framing::Length(parse_length(digits)?),
        (_, Some(_)) => return Err(Refusal::TransferEncodingAndLength),
        (_, None) if !modern => return Err(Refusal::TransferEncodingInHttp10),
        (Codings::Chunked, None) => Framing::Chunked,
        (Codings::Unknown | Codings::UnknownThenChunked, None) => {
            return Err(Refusal::TransferCoding);
        }
        (Codings::Faulty, None) => return Err(Refusal::TransferEncoding),
    };
    head.host = match notes.host {
        Some(value) if authority::is_valid(value) => str::from_utf8(value).ok(),
        Some(_) => return Err(Refusal::HostInvalid),
        None if modern => return Err(Refusal::HostMissing),
        None => None,
    };
    head.keep_alive = !notes.close && (modern || notes.keep_alive);
    if modern {
        let announced = !matches!(head.framing, Framing::None | Framing::Length(0));
        head.expect_continue = match notes.expects {
            Expects::Nothing => false,
            Expects::Continue => announced,
            Expects::Other => return Err(Refusal::Expectation),
        };
    }
    Ok(())
}

fn note_host<'b>(host: &mut Option<&'b [u8]>, value: &'b [u8]) -> Result<(), Refusal> {
    match host.replace(value) {
        Some(_) => Err(Refusal::HostRepeated),
        None => Ok(()),
    }
}

fn decide<'b>(slot: &mut Option<&'b str>, value: &'b [u8]) -> Result<(), Refusal> {
    let value = printable(value).ok_or(Refusal::FieldNotAscii)?;
    match slot.replace(value) {
        Some(_) => Err(Refusal::FieldRepeated),
        None => Ok(()),
    }
}

fn describe<'b>(slot: &mut Option<&'b str>, came: &mut bool, value: &'b [u8]) {
    *slot = if *came { None } else { printable(value) };
    *came = true;
}

fn printable(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

/// The elements of a list (RFC 9110 section 5.6.1), empty ones too.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

fn note_expectations(expects: &mut Expects, value: &[u8]) {
    for expectation in elements(value) {
        *expects = match *expects {
            Expects::Other => Expects::Other,
            _ if expectation.eq_ignore_ascii_case(b"100-continue") => Expects::Continue,
            _ => Expects::Other,
        };
    }
}

/// Repeats must be the same text, so that `5, 05` is refused: some peer may read the second as octal.
fn note_lengths<'b>(length: &mut Option<&'b [u8]>, value: &'b [u8]) -> Result<(), Refusal> {
    for digits in elements(value) {
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::ContentLength);
        }
        if length.replace(digits).is_some_and(|first| first != digits) {
            return Err(Refusal::ContentLength);
        }
    }
    Ok(())
}

fn parse_length(digits: &[u8]) -> Result<u64, Refusal> {
    let add = |sum: u64, digit: &u8| {
        sum.checked_mul(10)?
            .checked_add(u64::from(digit.wrapping_sub(b'0')))
    };
    digits.iter().try_fold(0, add).ok_or(Refusal::ContentLength)
}

fn note_codings(codings: &mut Codings, value: &[u8]) {
    for coding in elements(value) {
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        let token = !coding.is_empty() && coding.iter().all(|&byte| is_token_byte(byte));
        *codings = match *codings {
            Codings::None if chunked => Codings::Chunked,
            Codings::Unknown if chunked => Codings::UnknownThenChunked,
            Codings::None | Codings::Unknown if token => Codings::Unknown,
            _ => Codings::Faulty, // after `chunked`, or not even a token: `chunked;x`, `"chunked"`, nothing
        };
    }
}

/// Finds the line for which httparse refused the fields, to tell the client more than that one of them is wrong.
#[cold]
fn blame(lines: &[u8]) -> Refusal {
    for line in lines_of(lines) {
        if let [b' ' | b'\t', ..] = line {
            return Refusal::ObsoleteFold;
        }
        match line
            .iter()
            .position(|&byte| !is_token_byte(byte))
            .map(|at| (at, &line[at..]))
        {
            Some((1.., [b':', value @ ..])) if value.iter().all(|&byte| is_value_byte(byte)) => {}
            Some((1.., [b':', ..])) => return Refusal::FieldValue,
            Some((1.., [b' ' | b'\t', rest @ ..])) if rest.trim_ascii_start().starts_with(b":") => {
                return Refusal::SpaceBeforeColon;
            }
            _ => return Refusal::FieldName,
        }
    }
    Refusal::FieldName
}

/// A byte that a field value may hold: HTAB, SP, visible ASCII, obs-text (RFC 9110 section 5.5).
pub(in crate::http) fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

fn lines_of(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let end = memmem::find(rest, b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        (!line.is_empty()).then_some(line)
    })
}

/// The values of one field, line by line: see [`Head::values`].
#[derive(Debug, Clone)]
pub struct Values<'b, 'n> {
    lines: &'b [u8],
    name: &'n str,
}

impl<'b, 'n> Values<'b, 'n> {
    pub(super) fn new(lines: &'b [u8], name: &'n str) -> Self {
        Values { lines, name }
    }
}

impl<'b> Iterator for Values<'b, '_> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        loop {
            let end = memmem::find(self.lines, b"\r\n")?;
            let (line, rest) = self.lines.split_at(end);
            self.lines = &rest[2..];
            let colon = line.iter().position(|&byte| byte == b':')?;
            if line[..colon].eq_ignore_ascii_case(self.name.as_bytes()) {
                return Some(line[colon + 1..].trim_ascii());
            }
        }
    }
}
