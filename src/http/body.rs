//! Takes a body off the wire in whatever pieces it arrives: nothing, a counted run of bytes, or chunks (RFC 9112
//! sections 6.3 and 7.1). Called by the connection, which either keeps the content or lets it pass. Promises that
//! the same bytes give the same content and the same end, however they are cut, and that it holds no heap itself.

use crate::http::head::{Framing, Refusal, is_token_byte, is_value_byte};
use crate::http::limits::Limits;

/// Chunk sizes of more digits don't fit in 64 bits; leading zeros count too (RFC 9112 section 7.1 asks for care).
const SIZE_DIGITS: u8 = 16;

/// The state of one body.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    /// Bytes of content left in the current chunk, or in the body if it has a length.
    left: u64,
    /// Bytes of content still allowed after the current chunk.
    room: u64,
    /// Bytes that carry nothing, still allowed.
    overhead: usize,
}

/// What one call of [`Decoder::feed`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken off the front of the input; the rest belongs to the next message. All of it unless `done`.
    pub consumed: usize,
    /// Whether the message is complete.
    pub done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a body of known length.
    Counted,
    /// In a chunk size, so many digits in.
    Size {
        digits: u8,
    },
    /// In the whitespace that may stand between a size and `;`.
    SizeSpace,
    Extension,
    SizeLf,
    /// In a chunk's data.
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Decoder {
    /// A decoder for the body that follows a head with this framing.
    ///
    /// # Errors
    /// [`Refusal::BodyTooLarge`] if the announced length is over `limits.body`: known before any byte comes.
    pub fn new(framing: Framing, limits: &Limits) -> Result<Self, Refusal> {
        let room = u64::try_from(limits.body).unwrap_or(u64::MAX);
        let (state, left) = match framing {
            Framing::None | Framing::Length(0) => (State::Done, 0),
            Framing::Length(length) if length > room => return Err(Refusal::BodyTooLarge),
            Framing::Length(length) => (State::Counted, length),
            Framing::Chunked => (State::Size { digits: 0 }, 0),
        };
        Ok(Decoder {
            state,
            left,
            room,
            overhead: limits.chunk_overhead,
        })
    }

    /// Whether the message is complete; true from the start where there is no body.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes bytes of the body off the front of `input` and appends its content to `out`; `None` lets it pass
    /// unread, under the same limits. `out` grows by what has come, never by what was announced.
    ///
    /// # Errors
    /// [`Refusal::ChunkSize`], [`Refusal::ChunkExtension`], [`Refusal::ChunkEnd`], [`Refusal::Trailer`],
    /// [`Refusal::ChunkOverhead`], and [`Refusal::BodyTooLarge`] as soon as the size line of the chunk that goes over
    /// the limit is complete. What was appended before stays. Don't call again after an error.
    pub fn feed(
        &mut self,
        input: &[u8],
        mut out: Option<&mut Vec<u8>>,
    ) -> Result<Progress, Refusal> {
        let mut rest = input;
        while let ([byte, tail @ ..], false) = (rest, self.is_done()) {
            if matches!(self.state, State::Counted | State::Data) {
                let content = self.take_content(&mut rest);
                if let Some(out) = out.as_deref_mut() {
                    out.extend_from_slice(content);
                }
            } else {
                self.state = self.step(*byte)?;
                rest = tail;
            }
        }
        Ok(Progress {
            consumed: input.len() - rest.len(),
            done: self.is_done(),
        })
    }

    /// Splits what belongs to the current run of content off the front of `rest`, and moves on at its end.
    fn take_content<'i>(&mut self, rest: &mut &'i [u8]) -> &'i [u8] {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let (content, after) = rest.split_at(rest.len().min(most));
        *rest = after;
        self.left -= content.len() as u64;
        if self.left == 0 {
            self.state = match self.state {
                State::Data => State::DataCr,
                _ => State::Done,
            };
        }
        content
    }

    /// The grammar of chunks, one byte at a time (RFC 9112 section 7.1).
    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        Ok(match (self.state, byte) {
            (State::Size { digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS {
                    return Err(Refusal::ChunkSize);
                }
                if digits > 0 && self.left == 0 {
                    self.spend()?; // a zero came before this digit
                }
                self.left = self.left << 4 | hex_value(byte);
                State::Size { digits: digits + 1 }
            }
            (State::Size { digits: 1.. }, b'\r') => State::SizeLf,
            (State::Size { digits: 1.. } | State::SizeSpace, b';') => {
                self.spend_on(State::Extension)?
            }
            // BWS before `;` must be parsed; before CRLF it is no chunk line at all.
            (State::Size { digits: 1.. } | State::SizeSpace, b' ' | b'\t') => {
                self.spend_on(State::SizeSpace)?
            }
            (State::Size { .. } | State::SizeSpace, _) => return Err(Refusal::ChunkSize),

            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) if is_value_byte(byte) => self.spend_on(State::Extension)?,
            (State::Extension, _) => return Err(Refusal::ChunkExtension),
            (State::SizeLf, b'\n') => self.begin_chunk()?,
            (State::SizeLf, _) => return Err(Refusal::ChunkSize),

            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0 },
            (State::DataCr | State::DataLf, _) => return Err(Refusal::ChunkEnd),

            (State::Trailer, b'\r') => State::EndLf,
            (State::Trailer | State::TrailerName, _) if is_token_byte(byte) => {
                self.spend_on(State::TrailerName)?
            }
            (State::TrailerName, b':') => self.spend_on(State::TrailerValue)?,
            (State::TrailerValue, b'\r') => self.spend_on(State::TrailerLf)?,
            (State::TrailerValue, _) if is_value_byte(byte) => {
                self.spend_on(State::TrailerValue)?
            }
            (State::TrailerLf, b'\n') => self.spend_on(State::Trailer)?,
            (State::EndLf, b'\n') => State::Done,
            (
                State::Trailer
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::EndLf,
                _,
            ) => {
                return Err(Refusal::Trailer);
            }

            (State::Counted | State::Data | State::Done, _) => self.state, // `feed` never asks
        })
    }

    /// The size line is complete: its chunk must fit; the chunk of size 0 is the last.
    fn begin_chunk(&mut self) -> Result<State, Refusal> {
        self.room = self
            .room
            .checked_sub(self.left)
            .ok_or(Refusal::BodyTooLarge)?;
        Ok(match self.left {
            0 => State::Trailer,
            _ => State::Data,
        })
    }

    fn spend_on(&mut self, next: State) -> Result<State, Refusal> {
        self.spend()?;
        Ok(next)
    }

    fn spend(&mut self) -> Result<(), Refusal> {
        self.overhead = self.overhead.checked_sub(1).ok_or(Refusal::ChunkOverhead)?;
        Ok(())
    }
}

fn hex_value(digit: u8) -> u64 {
    u64::from(match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(framing: Framing) -> Decoder {
        Decoder::new(framing, &Limits::default()).unwrap()
    }

    #[test]
    fn no_body_is_done_before_any_byte() {
        for framing in [Framing::None, Framing::Length(0)] {
            let mut body = decoder(framing);
            assert!(body.is_done());
            let progress = Progress {
                consumed: 0,
                done: true,
            };
            assert_eq!(body.feed(b"GET / HTTP/1.1", None), Ok(progress));
        }
    }

    #[test]
    fn takes_no_byte_of_the_next_message() {
        let mut content = Vec::new();
        let progress = decoder(Framing::Length(3)).feed(b"abcGET", Some(&mut content));
        assert_eq!(
            progress,
            Ok(Progress {
                consumed: 3,
                done: true
            })
        );
        let progress =
            decoder(Framing::Chunked).feed(b"2\r\nde\r\n0\r\n\r\nGET", Some(&mut content));
        assert_eq!(
            progress,
            Ok(Progress {
                consumed: 12,
                done: true
            })
        );
        assert_eq!(content, b"abcde");
    }

    #[test]
    fn an_announced_length_over_the_limit_is_known_at_once() {
        let limits = Limits {
            body: 10,
            ..Limits::default()
        };
        assert!(Decoder::new(Framing::Length(10), &limits).is_ok());
        assert_eq!(
            Decoder::new(Framing::Length(11), &limits).unwrap_err(),
            Refusal::BodyTooLarge
        );
    }

    #[test]
    fn memory_grows_by_what_came_not_by_what_was_announced() {
        let mut content = Vec::new();
        decoder(Framing::Length(65536))
            .feed(b"x", Some(&mut content))
            .unwrap();
        assert!(content.capacity() < 64);
        assert!(size_of::<Decoder>() <= 32);
    }
}
