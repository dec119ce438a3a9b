//! Why a message is refused. One row a reason: its status and the text for the person who sent it; its name in metrics
//! and logs is the scoreboard's, which counts it. Made by the scanner, the parser and the body decoder; answered by the
//! connection.

use std::fmt;

use crate::scoreboard::counters::{Counter, REFUSALS};

/// A reason not to serve a message (RFC 9112 section 2.2: what does not follow the grammar gets a 4xx and a close).
///
/// After any of these the connection answers and then closes, always: the place where a next message
/// would begin is unknown, or the sender counts on a body that nobody will read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// More than two empty lines before the request line (RFC 9112 section 2.2).
    BlankLines,
    /// A CR that no LF follows (RFC 9112 section 2.2).
    BareCr,
    /// An LF that no CR precedes; lenient peers end a line there, so it is the classic of request smuggling.
    BareLf,
    /// A NUL byte in the head (RFC 9110 section 5.5).
    Nul,
    /// The request line is longer than [`Limits::request_line`](crate::http::limits::Limits::request_line).
    RequestLineTooLong,
    /// The head is larger than [`Limits::head`](crate::http::limits::Limits::head).
    HeadTooLarge,
    /// More field lines than [`Limits::fields`](crate::http::limits::Limits::fields).
    TooManyFields,
    /// The method is not a token (RFC 9110 section 5.6.2): TLS on a plain port, binary noise.
    Method,
    /// Line 1 is not `method SP request-target SP HTTP-version` (RFC 9112 section 3).
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1, the HTTP/2 preface and HTTP/0.9's version-less
    /// `GET /path` included (RFC 9110 section 15.6.6).
    Version,
    /// A request-target in none of the four forms, or with bytes that aren't visible ASCII (RFC 9112 section 3.2).
    Target,
    /// A field line without a colon, or a field name that is empty or no token (RFC 9112 section 5).
    FieldName,
    /// Whitespace between a field name and its colon (RFC 9112 section 5.1).
    SpaceBeforeColon,
    /// A field line that begins with whitespace: obs-fold (RFC 9112 section 5.2).
    ObsoleteFold,
    /// A control byte in a field value (RFC 9110 section 5.5).
    FieldValue,
    /// HTTP/1.1 without Host (RFC 9112 section 3.2).
    HostMissing,
    /// More than one Host field line (RFC 9112 section 3.2).
    HostRepeated,
    /// A Host that is empty or not `uri-host [ ":" port ]` (RFC 9110 section 7.2).
    HostInvalid,
    /// A field that takes one value came twice, and the answer would depend on which one is believed.
    FieldRepeated,
    /// A field that the server decides by holds bytes outside printable ASCII.
    FieldNotAscii,
    /// A Content-Length that isn't one run of digits within 64 bits, or several that differ (RFC 9112 section 6.3).
    ContentLength,
    /// A Transfer-Encoding that is malformed, or has `chunked` twice or not last (RFC 9112 section 6.3).
    TransferEncoding,
    /// A transfer coding other than `chunked` (RFC 9112 section 6.1).
    TransferCoding,
    /// Both Transfer-Encoding and Content-Length (RFC 9112 section 6.1: refuse and close).
    TransferEncodingAndLength,
    /// Transfer-Encoding in HTTP/1.0 (RFC 9112 section 6.1: the framing is faulty).
    TransferEncodingInHttp10,
    /// An expectation other than `100-continue` (RFC 9110 section 10.1.1).
    Expectation,
    /// Content over [`Limits::body`](crate::http::limits::Limits::body), announced or received.
    BodyTooLarge,
    /// A chunk size that is empty, signed, no hexadecimal, or more than 16 digits; or a line end that isn't CRLF.
    ChunkSize,
    /// A control byte in a chunk extension.
    ChunkExtension,
    /// Chunk data that CRLF doesn't follow.
    ChunkEnd,
    /// A trailer line that is no field line.
    Trailer,
    /// More than [`Limits::chunk_overhead`](crate::http::limits::Limits::chunk_overhead) bytes that carry nothing.
    ChunkOverhead,
}

use Refusal::*;

impl Refusal {
    /// Every reason, in the order of declaration, so that `ALL[refusal as usize] == refusal`: for tables of counters.
    pub const ALL: [Refusal; REFUSALS.len()] = [
        BlankLines,
        BareCr,
        BareLf,
        Nul,
        RequestLineTooLong,
        HeadTooLarge,
        TooManyFields,
        Method,
        RequestLine,
        Version,
        Target,
        FieldName,
        SpaceBeforeColon,
        ObsoleteFold,
        FieldValue,
        HostMissing,
        HostRepeated,
        HostInvalid,
        FieldRepeated,
        FieldNotAscii,
        ContentLength,
        TransferEncoding,
        TransferCoding,
        TransferEncodingAndLength,
        TransferEncodingInHttp10,
        Expectation,
        BodyTooLarge,
        ChunkSize,
        ChunkExtension,
        ChunkEnd,
        Trailer,
        ChunkOverhead,
    ];

    /// The HTTP status of the answer: 400, 413, 414, 417, 431, 501 or 505.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// A short name for metrics and logs: lower case, words joined by `_`, unique.
    pub const fn name(self) -> &'static str {
        REFUSALS[self as usize]
    }

    /// What counts it.
    pub const fn counter(self) -> Counter {
        Counter::Refused(self as u8)
    }

    /// One English sentence for the `detail` of the answer. Never holds anything the client sent.
    pub const fn reason(self) -> &'static str {
        self.row().1
    }

    #[rustfmt::skip]
    const fn row(self) -> (u16, &'static str) {
        match self {
            BlankLines => (400, "More than two empty lines came before the request line."),
            BareCr => (400, "A CR in the head is not followed by LF."),
            BareLf => (400, "A line of the head ends with LF alone; HTTP/1.1 lines end with CRLF."),
            Nul => (400, "The head holds a NUL byte."),
            RequestLineTooLong => (414, "The request line is too long."),
            HeadTooLarge => (431, "The request line and header fields are too large together."),
            TooManyFields => (431, "The request has too many header fields."),
            Method => (400, "The request does not begin with a method name."),
            RequestLine => (400, "The first line is not `method target HTTP-version`."),
            Version => (505, "Only HTTP/1.0 and HTTP/1.1 are spoken here."),
            Target => (400, "The request target is not valid."),
            FieldName => (400, "A header field name is not valid."),
            SpaceBeforeColon => (400, "A header field has whitespace before its colon."),
            ObsoleteFold => (400, "A header line begins with whitespace; folded lines are not accepted."),
            FieldValue => (400, "A header field value holds a control byte."),
            HostMissing => (400, "The Host header field is missing."),
            HostRepeated => (400, "The Host header field came more than once."),
            HostInvalid => (400, "The Host header field is not a valid host."),
            FieldRepeated => (400, "A header field that takes one value came more than once."),
            FieldNotAscii => (400, "A header field value holds bytes outside printable ASCII."),
            ContentLength => (400, "Content-Length is not one decimal number."),
            TransferEncoding => (400, "Transfer-Encoding is not one final `chunked`."),
            TransferCoding => (501, "Only the transfer coding `chunked` is implemented."),
            TransferEncodingAndLength => (400, "Transfer-Encoding and Content-Length came together."),
            TransferEncodingInHttp10 => (400, "HTTP/1.0 has no Transfer-Encoding."),
            Expectation => (417, "Only the expectation `100-continue` can be met."),
            BodyTooLarge => (413, "The content of the request is too large."),
            ChunkSize => (400, "A chunk size line is not valid."),
            ChunkExtension => (400, "A chunk extension holds a control byte."),
            ChunkEnd => (400, "A chunk is not followed by CRLF."),
            Trailer => (400, "A trailer line is not a valid header field."),
            ChunkOverhead => (413, "The chunk extensions and trailers are too large."),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_row() {
        for (at, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, at);
            assert!(matches!(
                refusal.status(),
                400 | 413 | 414 | 417 | 431 | 501 | 505
            ));
            assert!(
                refusal
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            let same = |other: &Refusal| {
                other.name() == refusal.name() || other.reason() == refusal.reason()
            };
            assert_eq!(Refusal::ALL.iter().filter(|other| same(other)).count(), 1);
        }
    }
}
