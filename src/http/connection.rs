//! One connection's life on one coroutine: read until the head is whole, decide, read the body, answer, and again.
//! Requests are answered in the order they came; a pipeline's answers leave together.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use may::io::CoIo;

use super::access::{AccessLog, Visit};
use super::body::Decoder;
use super::buffer::{Input, Pool};
use super::client::TrustedProxies;
use super::context::Context;
use super::head::{self, Framing as BodyFraming, Method, Refusal, Scanner, Version};
use super::limits::Limits;
use super::lobby::Lobby;
use super::proxy;
use super::response::{Framing, Persistence, Response};
use super::service::Service;
use super::timing::{Timing, Wanted};
use super::turnstile::Turnstile;
use super::watch::Watch;
use super::wire::{Broken, Pace, Wire};
use crate::scoreboard::Row;
use crate::scoreboard::counters::Counter;

/// Unsent answers of a pipeline are written out beyond this many bytes.
const FLUSH_ABOVE: usize = 64 * 1024;

/// How long, and for how many bytes, a connection is read on after a final answer, so that a reset can't overtake
/// the answer on its way to the client (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

/// How long a connection that waits for its next request keeps its coroutine. Longer than busy clients pause, and
/// short enough for a crowd of idle ones to cost next to nothing.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// How many requests in a row a connection may have answered without waiting for anything.
const TURN: u32 = 64;

/// How patient connections are.
#[derive(Debug, Clone)]
pub struct Patience {
    /// From a head's first byte to its last; and what a body may take on top of what its rate allows.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// While a client takes nothing of a response; and what a response may take on top of what its rate allows.
    pub write: Duration,
    /// The slowest body, of a request or a response, in bytes a second.
    pub body_rate: usize,
}

/// What all connections of a worker share.
pub struct Door<S> {
    pub service: S,
    pub limits: Limits,
    pub patience: Patience,
    pub watch: Arc<Watch>,
    /// Where connections wait that have been idle for a while. Without one they keep their coroutine.
    pub lobby: Option<Arc<Lobby>>,
    pub turnstile: Arc<Turnstile>,
    pub pool: Pool,
    /// Where the worker counts.
    pub tally: Row,
    /// Where each request and its answer are noted, if anybody wants to know.
    pub access: Option<Arc<AccessLog>>,
    /// Who is believed when it says for whom it asks.
    pub trusted: TrustedProxies,
    /// Who wants to know how long requests take.
    pub timing: Wanted,
}

/// What to do after a request.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Request,
    /// Close once everything is written.
    Close,
    /// Close, but read on a little: the peer may still be sending.
    Linger,
    /// Idle for a while: wait in the lobby.
    Park,
}

/// What is known of a connection when it gets its coroutine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It belongs to its peer.
    Direct,
    /// It comes through a proxy that begins each connection with a PROXY header, which is still to be read.
    Proxied,
    /// Its PROXY header has been read, and said whose it is.
    Introduced(IpAddr),
}

/// Serves one connection until it ends. Runs on its own coroutine.
pub fn serve<S: Service>(stream: TcpStream, arrival: Arrival, door: &Door<S>) {
    let Ok(io) = CoIo::new(stream) else { return };
    let mut connection = Connection::new(&io, arrival, door);
    let next = connection.run();
    // An expired deadline and a peer that left end a connection the same way: silently.
    if let Ok(Next::Linger) = next {
        connection.linger();
    }
    connection.release();
    let arrival = connection.arrival;
    drop(connection);
    if let (Ok(Next::Park), Some(lobby)) = (next, &door.lobby) {
        let left = door.patience.idle.saturating_sub(PARK_AFTER);
        lobby.seat(
            io.into_inner(),
            arrival,
            door.watch.now() + left.as_millis() as u64,
        );
    }
}

/// Turns one connection away: a 503 without reading a request, for there is no room to serve it.
pub fn turn_away<S: Service>(stream: TcpStream, door: &Door<S>) {
    let Ok(io) = CoIo::new(stream) else { return };
    let mut connection = Connection::new(&io, Arrival::Direct, door);
    connection.refuse(503, "this server has all the connections that it takes");
    if connection.flush().is_ok() {
        connection.linger();
    }
    connection.release();
}

struct Connection<'d, S> {
    door: &'d Door<S>,
    wire: Wire<'d>,
    arrival: Arrival,
    input: Input,
    output: Vec<u8>,
    /// What is to be written behind the output, from where it is: the content of the last answer in it.
    content: Option<Bytes>,
    scanner: Scanner,
    /// The request at hand.
    context: Context,
    timing: Timing,
    /// What the access log will want to know of it; `None` while there is no such log.
    visit: Option<Visit>,
}

impl<'d, S: Service> Connection<'d, S> {
    fn new(io: &'d CoIo<TcpStream>, arrival: Arrival, door: &'d Door<S>) -> Self {
        Connection {
            door,
            wire: Wire::new(io, &door.watch),
            arrival,
            input: Input::default(),
            output: Vec::new(),
            content: None,
            scanner: Scanner::default(),
            context: Context::default(),
            timing: Timing::start(),
            visit: door
                .access
                .as_ref()
                .map(|_| Visit::new(peer_of(io, arrival))),
        }
    }

    fn run(&mut self) -> Result<Next, Broken> {
        if self.arrival == Arrival::Proxied {
            self.read_proxy_header()?;
        }
        let mut streak = 0;
        loop {
            let next = match self.read_head()? {
                None => return Ok(Next::Close),
                Some(Ok(length)) => self.handle(length)?,
                Some(Err(next)) => next,
            };
            if next != Next::Request {
                self.flush()?;
                return Ok(next);
            }
            // Without a next one behind it the answer would leave as soon as that is waited for; now it is known whose it is.
            if self.output.len() > FLUSH_ABOVE
                || self.content.is_some()
                || self.input.filled().is_empty()
                || self.is_late()
            {
                self.flush()?;
            }
            streak = match std::mem::take(&mut self.wire.waited) {
                true => 0,
                false => streak + 1,
            };
            if streak == TURN {
                self.flush()?;
                self.door.turnstile.pass();
                streak = 0;
            }
        }
    }

    /// Reads the PROXY header, and leaves in the input what came behind it. It has the time of a head, from the
    /// beginning of the connection on; until it is there nothing is in flight.
    fn read_proxy_header(&mut self) -> Result<(), Broken> {
        self.wire.watched.within(self.door.patience.head);
        self.wire.watched.idle(true);
        let header = loop {
            match proxy::parse(self.input.filled()) {
                Ok(Some(header)) => break header,
                Ok(None) => {}
                Err(proxy::Malformed) => {
                    self.count(Counter::Unintroduced);
                    // Not answered: whoever this is does not speak the protocol of this listener.
                    log::debug!("http: a connection without a PROXY header is closed");
                    return Err(Broken::Gone);
                }
            }
            if self.fill()? == 0 {
                return Err(Broken::Gone);
            }
        };
        self.wire.watched.idle(false);
        self.input.consume(header.length);
        self.arrival = header.source.map_or(Arrival::Direct, Arrival::Introduced);
        if let (Some(visit), Some(source)) = (&mut self.visit, header.source) {
            visit.introduce(source);
        }
        Ok(())
    }

    /// Reads until a head is whole: its length, or what to do after it was refused. `None` is the end of the
    /// connection.
    fn read_head(&mut self) -> Result<Option<Result<usize, Next>>, Broken> {
        self.scanner.reset();
        self.context = Context::default();
        self.timing.reset(!self.input.filled().is_empty());
        let mut in_pieces = false;
        let mut timed = false;
        loop {
            match self.scanner.scan(self.input.filled(), &self.door.limits) {
                Ok(Some(length)) => {
                    if in_pieces {
                        self.timing.read();
                    }
                    return Ok(Some(Ok(length)));
                }
                Err(refusal) => return Ok(Some(Err(self.refuse_message(refusal)))),
                Ok(None) => {}
            }
            // Nothing more of the pipeline is here: now its answers leave, before anything waits.
            self.flush()?;
            let begun = !self.input.filled().is_empty();
            let received = match begun {
                true => {
                    // One deadline for the whole head: more bytes don't move it.
                    if !timed {
                        self.wire.watched.within(self.door.patience.head);
                        timed = true;
                    }
                    self.fill()
                }
                false => match self.wait_idle()? {
                    Some(count) => Ok(count),
                    None => return Ok(Some(Err(Next::Park))),
                },
            };
            match received {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    self.timing.begin();
                    in_pieces |= begun;
                }
                Err(Broken::Expired) if begun => {
                    self.count(Counter::HeadTimeouts);
                    let next = self.refuse(408, "the head of the request did not arrive in time");
                    return Ok(Some(Err(next)));
                }
                Err(broken) => return Err(broken),
            }
        }
    }

    /// Between two requests: holds no buffers, and is the sweep's to close. Ends with the first bytes of a request, or
    /// with `None` when the connection has been idle for long enough to wait elsewhere.
    fn wait_idle(&mut self) -> Result<Option<usize>, Broken> {
        let idle = self.door.patience.idle;
        let parks = idle > PARK_AFTER && self.door.lobby.is_some();
        self.wire.watched.within(match parks {
            true => PARK_AFTER,
            false => idle,
        });
        self.wire.watched.idle(true);
        let received = loop {
            self.release();
            match self.wire.readable().and_then(|()| self.try_fill()) {
                Ok(None) => {}
                Err(Broken::Expired) if parks && !self.door.watch.evicting() => {
                    break Ok(None);
                }
                Err(Broken::Expired) => {
                    if !self.door.watch.evicting() {
                        self.count(Counter::IdleTimeouts);
                    }
                    break Err(Broken::Expired);
                }
                received => break received,
            }
        };
        self.wire.watched.idle(false);
        received
    }

    fn try_fill(&mut self) -> Result<Option<usize>, Broken> {
        let count = self.wire.try_read(self.input.space(&self.door.pool))?;
        self.input.advance(count.unwrap_or(0));
        Ok(count)
    }

    fn fill(&mut self) -> Result<usize, Broken> {
        let count = self.wire.read(self.input.space(&self.door.pool))?;
        self.input.advance(count);
        Ok(count)
    }

    fn handle(&mut self, length: usize) -> Result<Next, Broken> {
        let door = self.door;
        let head = match head::parse(&self.input.filled()[..length], &door.limits) {
            Ok(head) => head,
            Err(refusal) => return Ok(self.refuse_message(refusal)),
        };
        self.count(Counter::Requests);
        self.context = Context::of(&head);
        if door.timing.slow.is_some() {
            self.timing.note(&head);
        }
        let timed = door.timing.answers(&head);
        if let Some(visit) = &mut self.visit {
            let client = door.trusted.client(visit.peer(), &head);
            visit.note(head::first_line(self.input.filled()), &head, client);
        }
        let head_only = head.method == Method::Head;
        let expects = head.expect_continue;
        let keep_alive = head.keep_alive;
        let version = head.version;
        let framing = head.framing;
        let admitted = guard(|| door.service.admit(&head, &self.context.id));
        self.input.consume(length);
        let Some(admitted) = admitted else {
            return Ok(self.fault());
        };

        let mut body = Vec::new();
        if framing != BodyFraming::None {
            let known = admitted.as_ref().err().map(|response| response.status());
            let read = self.read_body(
                framing,
                expects,
                admitted.is_ok().then_some(&mut body),
                known,
            );
            self.timing.read();
            match read {
                Ok(BodyEnd::Whole) => {}
                Ok(BodyEnd::Unread) => {
                    return Ok(match admitted {
                        Err(response) => {
                            self.respond(&response, head_only, Persistence::Close);
                            Next::Linger
                        }
                        Ok(_) => self.refuse_message(Refusal::BodyTooLarge),
                    });
                }
                Ok(BodyEnd::Refused(refusal)) => return Ok(self.refuse_message(refusal)),
                Ok(BodyEnd::TooSlow) => {
                    self.count(Counter::BodyTimeouts);
                    return Ok(self.refuse(408, "the body came too slowly"));
                }
                Err(broken) => return Err(broken),
            }
        }
        self.wire.watched.rest();
        let response = match admitted {
            Err(response) => *response,
            Ok(call) => match guard(|| door.service.answer(call, &body, &self.context)) {
                Some(response) => response,
                None => return Ok(self.fault()),
            },
        };
        let response = match timed {
            true => response.timed(self.timing.server_timing(&self.context)),
            false => response,
        };
        let persistence = match (keep_alive && !door.watch.draining(), version) {
            (false, _) => Persistence::Close,
            (true, Version::Http11) => Persistence::KeepAlive,
            (true, Version::Http10) => Persistence::KeepAliveSaid,
        };
        self.respond(&response, head_only, persistence);
        Ok(match persistence {
            Persistence::Close if self.input.filled().is_empty() => Next::Close,
            Persistence::Close => Next::Linger,
            _ => Next::Request,
        })
    }

    /// Reads a request's body to its end, into `body` or into nothing, so that its bytes can't be taken for a request.
    /// `known` says that the answer is already known, and with which status.
    fn read_body(
        &mut self,
        framing: BodyFraming,
        expects: bool,
        mut body: Option<&mut Vec<u8>>,
        known: Option<u16>,
    ) -> Result<BodyEnd, Broken> {
        let mut decoder = match Decoder::new(framing, &self.door.limits) {
            Ok(decoder) => decoder,
            Err(_) => return Ok(BodyEnd::Unread),
        };
        if expects && self.input.filled().is_empty() {
            // The client waits for a word: the final one, if it is known, saves it the sending.
            if known.is_some() {
                return Ok(BodyEnd::Unread);
            }
            self.output
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let begun = self.door.watch.now();
        let mut received = 0;
        loop {
            let progress = match decoder.feed(self.input.filled(), body.as_deref_mut()) {
                Ok(progress) => progress,
                Err(refusal) => return Ok(BodyEnd::Refused(refusal)),
            };
            self.input.consume(progress.consumed);
            if progress.done {
                return Ok(BodyEnd::Whole);
            }
            self.flush()?;
            // Every byte buys the time of the minimum rate and no more, so a drip can't keep the connection.
            let bought = received * 1000 / self.door.patience.body_rate.max(1);
            self.wire
                .watched
                .until(begun + self.door.patience.head.as_millis() as u64 + bought as u64);
            match self.fill() {
                Ok(0) => return Err(Broken::Gone),
                Ok(count) => received += count,
                Err(Broken::Expired) => return Ok(BodyEnd::TooSlow),
                Err(broken) => return Err(broken),
            }
        }
    }

    fn respond(&mut self, response: &Response, head_only: bool, connection: Persistence) {
        if self.output.capacity() == 0 {
            self.output = self.door.pool.take_output();
        }
        if let Some(counter) = Counter::of_status(response.status()) {
            self.count(counter);
        }
        let date = self.door.watch.date();
        let content = (!head_only).then(|| response.large_content()).flatten();
        response.encode(
            &Framing {
                date: &date,
                head_only: head_only || content.is_some(),
                connection,
            },
            &mut self.output,
        );
        self.content = content;
        let took = self.timing.ready(response.status());
        if let Some(took) = took {
            self.door.tally.note_latency(took);
        }
        if let (Some(visit), Some(log)) = (&mut self.visit, &self.door.access) {
            let sent = if head_only { 0 } else { response.length() };
            let took = took.unwrap_or_default();
            visit.finish(log, response.status(), sent, took, &self.context);
        }
    }

    /// Whether the answer at hand is to be told of in the log, and so should leave before there is another.
    fn is_late(&self) -> bool {
        let slow = self.door.timing.slow;
        slow.is_some_and(|threshold| self.timing.is_late(threshold))
    }

    fn count(&self, counter: Counter) {
        self.door.tally.count(counter);
    }

    fn refuse_message(&mut self, refusal: Refusal) -> Next {
        self.count(refusal.counter());
        self.refuse(refusal.status(), refusal.reason())
    }

    /// An answer after which nothing on this connection can be trusted to be a request.
    fn refuse(&mut self, status: u16, why: &str) -> Next {
        if let Some(visit) = &mut self.visit {
            visit.note_line(head::first_line(self.input.filled()));
        }
        let response = self.door.service.refuse(status, why, &self.context.id);
        self.respond(&response, false, Persistence::Close);
        Next::Linger
    }

    fn fault(&mut self) -> Next {
        self.count(Counter::Panics);
        log::error!(
            request_id = self.context.id.as_str(),
            trace_id = self.context.trace_id();
            "http: request {} panicked and was answered 500", self.context.id
        );
        let response = self.door.service.fault(&self.context.id);
        self.respond(&response, false, Persistence::Close);
        Next::Linger
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if self.output.is_empty() {
            return Ok(());
        }
        let patience = &self.door.patience;
        let pace = Pace {
            stall: patience.write,
            rate: patience.body_rate,
        };
        let mut written = self.wire.write_all(&self.output, &pace);
        if let (Ok(()), Some(content)) = (&written, self.content.take()) {
            written = self.wire.write_all(&content, &pace);
        }
        if let Err(Broken::Expired) = written {
            self.count(Counter::WriteTimeouts);
            self.wire.abort();
        }
        self.output.clear();
        if let Some(threshold) = self.door.timing.slow {
            self.timing.written(threshold, &self.context);
        }
        written
    }

    fn linger(&mut self) {
        self.wire.finish();
        self.wire.watched.within(LINGER);
        self.input.clear();
        let mut read = 0;
        while read < LINGER_BYTES {
            match self.fill() {
                Ok(0) | Err(_) => return,
                Ok(count) => read += count,
            }
            self.input.clear();
        }
    }

    /// Gives the buffers back to the worker.
    fn release(&mut self) {
        self.input.release(&self.door.pool);
        self.door.pool.give_output(std::mem::take(&mut self.output));
        if let Some(visit) = &mut self.visit {
            visit.release();
        }
    }
}

/// Whom the connection belongs to. One that has been reset already belongs to nobody.
fn peer_of(io: &CoIo<TcpStream>, arrival: Arrival) -> IpAddr {
    match (arrival, io.inner().peer_addr()) {
        (Arrival::Introduced(source), _) => source,
        (_, Ok(peer)) => peer.ip().to_canonical(),
        (_, Err(_)) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

/// How the reading of a body ended.
enum BodyEnd {
    Whole,
    /// It was not read, for its answer is known or it is announced as too large: the connection can't go on.
    Unread,
    /// It is malformed or too large.
    Refused(Refusal),
    TooSlow,
}

/// Runs a handler; a panic costs this connection only. The worker's panic hook has logged it.
fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}
