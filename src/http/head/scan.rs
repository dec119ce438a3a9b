//! Finds where a head ends, in bytes that arrive in any pieces, and refuses what can no longer become a request
//! as soon as that is certain, so that a hostile sender is never waited for. Called by the connection after each
//! read; promises that every byte is looked at once and that the verdict does not depend on the pieces.

use memchr::memchr3;

use super::refusal::Refusal;
use super::request_line::{self, is_token_byte};
use crate::http::limits::{Limits, MAX_FIELDS};

/// RFC 9112 section 2.2 asks for leniency with an empty line before the request line (old clients send CRLF after
/// a POST body); this many are skipped, one more is refused.
const BLANK_LINES: u8 = 2;

/// The place in a head up to which its bytes are known. A few words; holds no bytes itself.
#[derive(Debug, Clone, Default)]
pub struct Scanner {
    /// Every byte before this index has been looked at.
    at: usize,
    /// Where the current line begins.
    line: usize,
    /// Complete field lines so far.
    fields: u16,
    blank: u8,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Before the request line.
    #[default]
    Blank,
    /// In the request line, its first SP not seen yet.
    Method,
    /// In the request line, after its first SP.
    Target,
    Fields,
    Done,
}

impl Scanner {
    /// A scanner at the start of a message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on to the next message, whose first byte will be `buf[0]`.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether a byte of a request line has come; false while there is nothing, or only the empty lines that
    /// are skipped. An end of the stream now is a client that leaves, not a request cut short.
    pub fn begun(&self) -> bool {
        self.phase != Phase::Blank
    }

    /// Looks at what is new in `buf`, which holds everything received of this message so far.
    ///
    /// `Some(n)`: the head is `buf[..n]`, with the skipped empty lines before it and the empty line that ends it.
    /// `None`: it is not complete. Every CR, LF and NUL of a head that was found is part of a CRLF.
    ///
    /// # Errors
    /// The syntax of lines ([`Refusal::BareCr`], [`Refusal::BareLf`], [`Refusal::Nul`],
    /// [`Refusal::BlankLines`]), everything about the request line as soon as that line is complete (a byte
    /// that no method has: at once), and the limits. Don't call again after an error.
    pub fn scan(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        // Nothing past the limit is looked at, so that one big read and many small ones meet the same end.
        let window = buf.get(..limits.head).unwrap_or(buf);
        match self.advance(window, limits)? {
            None if buf.len() > window.len() => Err(Refusal::HeadTooLarge),
            found => Ok(found),
        }
    }

    fn advance(&mut self, window: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        loop {
            let more = match self.phase {
                Phase::Blank => self.skip_blank(window)?,
                Phase::Method => self.pass_method(window, limits)?,
                Phase::Target => self.end_request_line(window, limits)?,
                Phase::Fields => self.pass_fields(window, limits)?,
                Phase::Done => return Ok(Some(self.at)),
            };
            if !more {
                return Ok(None);
            }
        }
    }

    /// Each of these four says whether the phase is over; if not, the window is used up.
    fn skip_blank(&mut self, window: &[u8]) -> Result<bool, Refusal> {
        loop {
            match window.get(self.at..).unwrap_or_default() {
                [] | [b'\r'] => return Ok(false),
                [b'\r', b'\n', ..] if self.blank == BLANK_LINES => return Err(Refusal::BlankLines),
                [b'\r', b'\n', ..] => self.blank += 1,
                [b'\r', ..] => return Err(Refusal::BareCr),
                [b'\n', ..] => return Err(Refusal::BareLf),
                _ => break,
            }
            self.at += 2;
        }
        self.line = self.at;
        self.phase = Phase::Method;
        Ok(true)
    }

    fn pass_method(&mut self, window: &[u8], limits: &Limits) -> Result<bool, Refusal> {
        let new = window.get(self.at..).unwrap_or_default();
        let end = new.iter().position(|&byte| !is_token_byte(byte));
        self.at += end.unwrap_or(new.len());
        if self.at - self.line > limits.request_line {
            return Err(Refusal::RequestLineTooLong);
        }
        match end.map(|end| new[end]) {
            None => Ok(false),
            Some(b' ' | b'\r') if self.at > self.line => {
                self.phase = Phase::Target;
                Ok(true)
            }
            Some(b'\n') => Err(Refusal::BareLf),
            Some(0) => Err(Refusal::Nul),
            Some(b' ') => Err(Refusal::RequestLine),
            Some(_) => Err(Refusal::Method),
        }
    }

    fn end_request_line(&mut self, window: &[u8], limits: &Limits) -> Result<bool, Refusal> {
        let end = self.end_of_line(window);
        if self.at - self.line > limits.request_line {
            return Err(Refusal::RequestLineTooLong);
        }
        let Some(end) = end? else { return Ok(false) };
        request_line::check(&window[self.line..end])?;
        self.phase = Phase::Fields;
        self.next_line(end);
        Ok(true)
    }

    fn pass_fields(&mut self, window: &[u8], limits: &Limits) -> Result<bool, Refusal> {
        let most = limits.fields.min(MAX_FIELDS);
        while let Some(end) = self.end_of_line(window)? {
            let empty = end == self.line;
            self.next_line(end);
            if empty {
                self.phase = Phase::Done;
                return Ok(true);
            }
            if usize::from(self.fields) == most {
                return Err(Refusal::TooManyFields);
            }
            self.fields += 1;
        }
        Ok(false)
    }

    /// Moves `at` to the CR of the next CRLF and says where that is; to the end of the window (or to a CR that
    /// is the last byte there) if it has not come yet.
    fn end_of_line(&mut self, window: &[u8]) -> Result<Option<usize>, Refusal> {
        let new = window.get(self.at..).unwrap_or_default();
        let Some(found) = memchr3(b'\r', b'\n', 0, new) else {
            self.at += new.len();
            return Ok(None);
        };
        self.at += found;
        match &new[found..] {
            [b'\r'] => Ok(None),
            [b'\r', b'\n', ..] => Ok(Some(self.at)),
            [b'\r', ..] => Err(Refusal::BareCr),
            [b'\n', ..] => Err(Refusal::BareLf),
            _ => Err(Refusal::Nul),
        }
    }

    fn next_line(&mut self, end: usize) {
        self.at = end + 2;
        self.line = self.at;
    }
}
