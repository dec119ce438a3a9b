//! How much of a message the server takes. Filled from the settings table when a worker starts, read by the
//! head scanner and the body decoder, which promise never to hold or count past these figures.

/// The most field lines that [`Limits::fields`] can allow: the parser's table on the stack has this many rows.
pub const MAX_FIELDS: usize = 128;

/// The size limits of one request. All in bytes, except `fields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest request line, without its CRLF. One byte more is 414 (RFC 9112 section 3).
    pub request_line: usize,
    /// The largest head: tolerated leading empty lines, request line, field lines and the final empty
    /// line, every CRLF counted. One byte more is 431 (RFC 6585 section 5).
    pub head: usize,
    /// The most field lines of a head; one more is 431. Figures above [`MAX_FIELDS`] count as that.
    pub fields: usize,
    /// The largest content of a request, counted after chunks are joined. One byte more is 413
    /// (RFC 9110 section 15.5.14).
    pub body: usize,
    /// The most bytes in a chunked body that carry nothing: chunk extensions, leading zeros of chunk sizes and
    /// the trailer section. One byte more is 413. The sizes and CRLFs that each chunk needs are
    /// not counted: `body` bounds them already, and a sender of one-byte chunks is slow but honest.
    pub chunk_overhead: usize,
}

impl Default for Limits {
    /// 8 KiB of request line, 16 KiB of head, 64 fields, 64 KiB of content, 16 KiB of chunk overhead.
    fn default() -> Self {
        Limits {
            request_line: 8 * 1024,
            head: 16 * 1024,
            fields: 64,
            body: 64 * 1024,
            chunk_overhead: 16 * 1024,
        }
    }
}
