//! How long the request at hand has taken, and where: for the log of slow requests and for `Server-Timing` (W3C Server Timing). A
//! request costs two looks at the clock, at its first bytes and when its answer is ready; a body and a late answer cost one more.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::context::{Context, Spent};
use super::head::{Head, Target};
use crate::config::ServerTiming;

/// How much of a method and a path is kept, in bytes. In place, so that a connection needs no memory for it.
const KEPT: usize = 120;

/// The longest method that is kept whole.
const METHOD_MOST: usize = 16;

/// What asks for `Server-Timing` where that is to be asked for.
const ASKING: &str = "X-Server-Timing";

/// What operators want to know.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// From when on a request is told in the log; `None` for never.
    pub slow: Option<Duration>,
    pub server_timing: ServerTiming,
}

impl Wanted {
    pub const NOTHING: Wanted = Wanted {
        slow: None,
        server_timing: ServerTiming::Never,
    };

    /// Whether the answer to this request says where its time went.
    pub fn answers(self, head: &Head<'_>) -> bool {
        match self.server_timing {
            ServerTiming::Never => false,
            ServerTiming::Asked => head.values(ASKING).any(|value| value == b"1"),
            ServerTiming::Always => true,
        }
    }
}

/// The clock of one connection.
#[derive(Debug)]
pub struct Timing {
    /// Since when the connection has waited for its first request.
    waits: Option<Instant>,
    accept: Duration,
    began: Option<Instant>,
    /// From the first byte until head and body were there; zero where they came together.
    parse: Duration,
    asked: Asked,
    ready: Option<(Instant, u16)>,
    /// When the last answer was.
    last: Option<Instant>,
}

impl Timing {
    /// A build without the feature `metrics` never looks at the clock, to be measured against one that does.
    const RUNS: bool = cfg!(feature = "metrics");

    /// Of a connection that was accepted just now.
    pub fn start() -> Self {
        Timing {
            waits: Some(Instant::now()),
            accept: Duration::ZERO,
            began: None,
            parse: Duration::ZERO,
            asked: Asked::default(),
            ready: None,
            last: None,
        }
    }

    /// Forgets the request before. `is_there` says that bytes of the next one have been read: then it began when that one was
    /// answered, which saves a look at the clock.
    pub fn reset(&mut self, is_there: bool) {
        self.began = self.last.take().filter(|_| is_there);
        self.ready = None;
        (self.accept, self.parse) = (Duration::ZERO, Duration::ZERO);
        self.asked.length = 0;
        if is_there {
            self.begin();
        }
    }

    /// Bytes of a request are there; only the first call counts.
    pub fn begin(&mut self) {
        if self.began.is_some() || !Self::RUNS {
            return;
        }
        let now = Instant::now();
        self.began = Some(now);
        if let Some(since) = self.waits.take() {
            self.accept = now.duration_since(since);
        }
    }

    /// The head was understood.
    pub fn note(&mut self, head: &Head<'_>) {
        self.asked.note(head);
    }

    /// All of a request is there that will ever be, and it came in pieces.
    pub fn read(&mut self) {
        if let Some(began) = self.began {
            self.parse = began.elapsed();
        }
    }

    /// The answer is ready; how long that took since the request's first byte, if there is a request.
    pub fn ready(&mut self, status: u16) -> Option<Duration> {
        if !Self::RUNS {
            return None;
        }
        let now = Instant::now();
        (self.ready, self.last) = (Some((now, status)), Some(now));
        self.began.map(|began| now.duration_since(began))
    }

    /// Whether so long went by between the request and its answer. What a client took to send the one, or takes to receive the
    /// other, is its own doing: it must not fill the log with that.
    pub fn is_late(&self, threshold: Duration) -> bool {
        matches!((self.began, self.ready), (Some(began), Some((ready, _)))
            if ready.duration_since(began).saturating_sub(self.parse) >= threshold)
            && !self.asked.is_nothing()
    }

    /// The answer is written, or will never be: tells of it if it was late.
    pub fn written(&mut self, threshold: Duration, context: &Context) {
        let late = self.is_late(threshold);
        let (Some((ready, status)), Some(began), true) = (self.ready.take(), self.began, late)
        else {
            return;
        };
        let end = Instant::now();
        let total = end.duration_since(began);
        let Spent { queue, redis, sql } = context.spent();
        log::warn!(
            request_id = context.id.as_str(),
            trace_id = context.trace_id(),
            traceparent = context.trace().map(|trace| trace.as_str()),
            method = self.asked.method(),
            path = &*self.asked.path(),
            shoe_id = context.shoe_id(),
            status = status,
            total_ms = ms(total),
            accept_ms = ms(self.accept),
            parse_ms = ms(self.parse),
            queue_ms = ms(queue),
            redis_ms = ms(redis),
            sql_ms = ms(sql),
            write_ms = ms(end.duration_since(ready));
            "http: a slow request"
        );
    }

    /// The value of `Server-Timing`, as of now: layers that took nothing are left out.
    pub fn server_timing(&self, context: &Context) -> String {
        let Spent { queue, redis, sql } = context.spent();
        let total = self.began.map(|began| began.elapsed()).unwrap_or_default();
        let mut value = String::new();
        for (layer, took) in [
            ("parse", self.parse),
            ("queue", queue),
            ("redis", redis),
            ("sql", sql),
        ] {
            if took > Duration::ZERO {
                // Writing to a String can't fail.
                let _ = write!(value, "{layer};dur={}, ", ms(took));
            }
        }
        let _ = write!(value, "total;dur={}", ms(total));
        value
    }
}

/// Milliseconds with three places.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// What was asked for: the method and the path, whose query is left out since anything may be in it.
#[derive(Debug)]
struct Asked {
    text: [u8; KEPT],
    method: u8,
    length: u8,
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            text: [0; KEPT],
            method: 0,
            length: 0,
        }
    }
}

impl Asked {
    fn note(&mut self, head: &Head<'_>) {
        let path = match head.target {
            Target::Path { path, .. } => path,
            Target::Asterisk => "*",
            Target::Authority => "-",
        };
        let method = head.method.as_str().as_bytes();
        let method = &method[..method.len().min(METHOD_MOST)];
        let path = &path.as_bytes()[..path.len().min(KEPT - METHOD_MOST)];
        let length = method.len() + path.len();
        self.text[..method.len()].copy_from_slice(method);
        self.text[method.len()..length].copy_from_slice(path);
        // KEPT is less than 256.
        (self.method, self.length) = (method.len() as u8, length as u8);
    }

    fn is_nothing(&self) -> bool {
        self.length == 0
    }

    fn method(&self) -> &str {
        // A token (RFC 9110 section 9.1) is ASCII.
        str::from_utf8(&self.text[..usize::from(self.method)]).unwrap_or_default()
    }

    /// May be cut within a letter.
    fn path(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.text[usize::from(self.method)..usize::from(self.length)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head;
    use crate::http::limits::Limits;

    fn head(text: &str) -> Head<'_> {
        head::parse(text.as_bytes(), &Limits::default()).expect("a good head")
    }

    #[test]
    fn a_path_is_kept_without_its_query_and_cut() {
        let long = format!("/{}", "x".repeat(500));
        for (target, kept) in [
            ("/api/images/?shoe_id=7&token=secret", "/api/images/"),
            ("http://h:1/x?y", "/x"),
            (long.as_str(), &long[..KEPT - METHOD_MOST]),
        ] {
            let mut asked = Asked::default();
            asked.note(&head(&format!(
                "DELETE {target} HTTP/1.1\r\nHost: h:1\r\n\r\n"
            )));
            assert_eq!((asked.method(), &*asked.path()), ("DELETE", kept));
        }
        let mut asked = Asked::default();
        asked.note(&head("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!((asked.method(), &*asked.path()), ("OPTIONS", "*"));
        asked.note(&head(&format!(
            "{} / HTTP/1.1\r\nHost: h\r\n\r\n",
            "M".repeat(40)
        )));
        assert_eq!(
            (asked.method(), &*asked.path()),
            (&*"M".repeat(METHOD_MOST), "/")
        );
    }

    #[test]
    fn server_timing_is_given_to_whom_it_is_meant_for() {
        let plain = head("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let asking = head("GET / HTTP/1.1\r\nHost: h\r\nx-server-timing: 1\r\n\r\n");
        let not = head("GET / HTTP/1.1\r\nHost: h\r\nX-Server-Timing: 0\r\n\r\n");
        for (server_timing, to) in [
            (ServerTiming::Never, [false, false, false]),
            (ServerTiming::Asked, [false, true, false]),
            (ServerTiming::Always, [true, true, true]),
        ] {
            let wanted = Wanted {
                slow: None,
                server_timing,
            };
            assert_eq!([&plain, &asking, &not].map(|head| wanted.answers(head)), to);
        }
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn a_request_that_waits_begins_when_the_one_before_it_ends() {
        let mut timing = Timing::start();
        assert_eq!(timing.ready(200), None, "nobody has asked");
        timing.reset(false);
        timing.begin();
        let began = timing.began;
        timing.begin();
        assert_eq!(timing.began, began, "only the first bytes count");
        assert!(timing.ready(200).is_some());
        let ended = timing.last;
        timing.reset(true);
        assert!(ended.is_some() && timing.began == ended);
        timing.ready(200);
        timing.reset(false);
        assert_eq!(timing.began, None);
    }

    #[test]
    fn server_timing_names_the_layers_that_took_time() {
        let context = Context::default();
        let timing = Timing::start();
        assert_eq!(timing.server_timing(&context), "total;dur=0");
        context.spend(Spent {
            sql: Duration::from_micros(1_900),
            queue: Duration::from_micros(20),
            ..Spent::default()
        });
        assert_eq!(
            timing.server_timing(&context),
            "queue;dur=0.02, sql;dur=1.9, total;dur=0"
        );
    }
}
