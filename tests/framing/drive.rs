//! Reads messages the way a connection does, from pieces of any size, and notes what came of them. Shared by the
//! property tests and the fuzz targets.

use canvas_cluster::http::body::Decoder;
use canvas_cluster::http::head::{Framing, Head, Refusal, Scanner, Target, Version, parse};
use canvas_cluster::http::limits::Limits;

/// One message as it was framed, in words of its own so that two parsers can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub method: String,
    /// `path`, `path?query`, `*` or (of CONNECT) `authority`.
    pub target: String,
    pub http11: bool,
    pub host: Option<String>,
    pub keep_alive: bool,
    pub expect_continue: bool,
    /// `none`, `length N` or `chunked`.
    pub framing: String,
    pub content: Vec<u8>,
    /// Bytes on the wire, head and body.
    pub size: usize,
}

/// What a stream of bytes was read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub messages: Vec<Message>,
    /// Why reading ended; `None` if the next message is not complete yet.
    pub refusal: Option<Refusal>,
    /// The content so far of a message whose body is not complete.
    pub unfinished: Vec<u8>,
}

/// Reads the pieces one after the other.
pub fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Reading {
    let mut reader = Reader::default();
    let mut refusal = None;
    for piece in pieces {
        reader.buffer.extend_from_slice(piece);
        if let Err(why) = reader.advance(limits) {
            refusal = Some(why);
            break;
        }
    }
    Reading {
        messages: reader.messages,
        refusal,
        unfinished: reader
            .body
            .map(|(message, _)| message.content)
            .unwrap_or_default(),
    }
}

/// Asserts that whole, byte by byte and in pieces of sizes that `seed` makes up, the bytes are read alike.
pub fn read_every_way(bytes: &[u8], seed: u64, limits: &Limits) -> Reading {
    let whole = read([bytes], limits);
    assert_eq!(whole, read(bytes.chunks(1), limits), "byte by byte");
    assert_eq!(
        whole,
        read(pieces(bytes, seed), limits),
        "in pieces of seed {seed}"
    );
    whole
}

fn pieces(bytes: &[u8], mut seed: u64) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let size = 1 + (seed >> 33) as usize % 40;
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[derive(Default)]
struct Reader {
    buffer: Vec<u8>,
    scanner: Scanner,
    body: Option<(Message, Decoder)>,
    messages: Vec<Message>,
}

impl Reader {
    fn advance(&mut self, limits: &Limits) -> Result<(), Refusal> {
        loop {
            let Some((message, decoder)) = &mut self.body else {
                let Some(end) = self.scanner.scan(&self.buffer, limits)? else {
                    return Ok(());
                };
                let head = parse(&self.buffer[..end], limits)?;
                self.body = Some((describe(&head, end), Decoder::new(head.framing, limits)?));
                self.buffer.drain(..end);
                self.scanner.reset();
                continue;
            };
            let mut passed = decoder.clone();
            let progress = decoder.feed(&self.buffer, Some(&mut message.content))?;
            assert_eq!(
                passed.feed(&self.buffer, None),
                Ok(progress),
                "kept or let pass"
            );
            assert!(progress.done || progress.consumed == self.buffer.len());
            self.buffer.drain(..progress.consumed);
            message.size += progress.consumed;
            if !progress.done {
                return Ok(());
            }
            self.messages
                .extend(self.body.take().map(|(message, _)| message));
        }
    }
}

fn describe(head: &Head<'_>, size: usize) -> Message {
    Message {
        method: head.method.as_str().to_owned(),
        target: match head.target {
            Target::Path { path, query: None } => path.to_owned(),
            Target::Path {
                path,
                query: Some(query),
            } => format!("{path}?{query}"),
            Target::Asterisk => "*".to_owned(),
            Target::Authority => "authority".to_owned(),
        },
        http11: head.version == Version::Http11,
        host: head.host.map(str::to_owned),
        keep_alive: head.keep_alive,
        expect_continue: head.expect_continue,
        framing: match head.framing {
            Framing::None => "none".to_owned(),
            Framing::Length(length) => format!("length {length}"),
            Framing::Chunked => "chunked".to_owned(),
        },
        content: Vec::new(),
        size,
    }
}
