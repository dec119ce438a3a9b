//! What a connection remembers of the request at hand for the access log. Exists only while the log is on; its
//! buffer serves all requests of the connection.

use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::{AccessLog, Entry};
use crate::http::context::Context;
use crate::http::head::Head;

/// The request at hand.
#[derive(Debug)]
pub struct Visit {
    /// Whom the connection belongs to, as far as the connection itself tells.
    peer: IpAddr,
    client: Option<IpAddr>,
    /// Request line, Referer and User-Agent, one after the other: the input moves on before the answer is there.
    text: Vec<u8>,
    line: Option<Range<usize>>,
    referer: Option<Range<usize>>,
    user_agent: Option<Range<usize>>,
}

impl Visit {
    pub fn new(peer: IpAddr) -> Self {
        Visit {
            peer,
            client: None,
            text: Vec::new(),
            line: None,
            referer: None,
            user_agent: None,
        }
    }

    /// Whom the connection belongs to.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The connection belongs to somebody else: a PROXY header said so.
    pub fn introduce(&mut self, peer: IpAddr) {
        self.peer = peer;
    }

    /// The head was understood: `line` is its first line.
    pub fn note(&mut self, line: Option<&[u8]>, head: &Head<'_>, client: IpAddr) {
        self.client = Some(client);
        self.note_line(line);
        self.referer = head.referer.map(|value| self.keep(value));
        self.user_agent = head.user_agent.map(|value| self.keep(value));
    }

    /// The request line is known, if `line` is one; only the first call counts.
    pub fn note_line(&mut self, line: Option<&[u8]>) {
        if self.line.is_none() {
            self.line = line.map(|line| self.keep(line));
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.text.len();
        // More than this would be cut when it is written.
        self.text
            .extend_from_slice(&bytes[..bytes.len().min(super::LONGEST)]);
        start..self.text.len()
    }

    /// The request is answered, within `duration` of its first byte: its line goes to the log, and all is forgotten but the peer.
    pub fn finish(
        &mut self,
        log: &AccessLog,
        status: u16,
        sent: usize,
        duration: Duration,
        context: &Context,
    ) {
        let text = |range: &Option<Range<usize>>| range.clone().map(|range| &self.text[range]);
        log.record(&Entry {
            client: self.client.unwrap_or(self.peer),
            time: SystemTime::now(),
            request_line: text(&self.line),
            status,
            sent,
            referer: text(&self.referer),
            user_agent: text(&self.user_agent),
            duration,
            request_id: context.id.as_str(),
            trace_id: context.trace_id(),
        });
        self.text.clear();
        self.client = None;
        (self.line, self.referer, self.user_agent) = (None, None, None);
    }

    /// Gives memory back while the connection idles.
    pub fn release(&mut self) {
        if self.text.is_empty() {
            self.text = Vec::new();
        }
    }
}
