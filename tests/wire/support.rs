//! The door under test: one for the whole binary, with short patience, and a client that speaks bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use canvas_cluster::config::ServerTiming;
use canvas_cluster::http::buffer::Pool;
use canvas_cluster::http::client::TrustedProxies;
use canvas_cluster::http::connection::{self, Arrival, Door, Patience};
use canvas_cluster::http::context::Context;
use canvas_cluster::http::head::{Head, Method, Target};
use canvas_cluster::http::limits::Limits;
use canvas_cluster::http::lobby::Lobby;
use canvas_cluster::http::request_id::RequestId;
use canvas_cluster::http::response::Response;
use canvas_cluster::http::service::Service;
use canvas_cluster::http::timing::Wanted;
use canvas_cluster::http::turnstile::Turnstile;
use canvas_cluster::http::watch::Watch;
use canvas_cluster::scoreboard::Scoreboard;
use canvas_cluster::sys;
use canvas_cluster::worker::panics::log_panics;
use log::kv::{Key, Value, VisitSource};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;

/// How long a client waits for anything. Only a server that hangs lets it pass.
const LIMIT: Duration = Duration::from_secs(30);

/// The patience of the door under test.
pub const HEAD: Duration = Duration::from_secs(4);
pub const IDLE: Duration = Duration::from_secs(4);
pub const WRITE: Duration = Duration::from_secs(2);
/// Bytes a second.
pub const BODY_RATE: usize = 1000;

/// A request is told of that the service takes longer for.
pub const SLOW: Duration = Duration::from_millis(1);

/// Answers with what it understood.
pub struct Echo;

impl Service for Echo {
    type Call = String;

    fn admit(&self, head: &Head<'_>, _: &RequestId) -> Result<String, Box<Response>> {
        let Target::Path { path, .. } = head.target else {
            return Ok("elsewhere".to_owned());
        };
        match path {
            "/refused" => Err(Box::new(Response::new(403).body("text/plain", "no"))),
            "/panic/admit" => panic!("on purpose, in admit"),
            "/panic/wordless" => std::panic::panic_any(7),
            _ if head.method == Method::Connect => {
                Err(Box::new(Response::new(501).body("text/plain", "no")))
            }
            _ => Ok(format!("{} {path}", head.method.as_str())),
        }
    }

    fn answer(&self, call: String, body: &[u8], _: &Context) -> Response {
        match call.as_str() {
            "GET /panic/answer" => panic!("on purpose, in {}", &call[11..]),
            "GET /hold" => {
                let hold = HOLD.get().expect("set by the test that asks");
                hold.begun.send(()).expect("the test waits");
                let released = hold.released.lock().expect("one at a time");
                released.recv_timeout(LIMIT).expect("let go");
                Response::new(200).body("text/plain", "held")
            }
            "GET /counted" => {
                COUNTED.fetch_add(1, Ordering::Relaxed);
                Response::new(200)
            }
            "GET /count" => {
                let count = COUNTED.load(Ordering::Relaxed).to_string();
                Response::new(200).body("text/plain", count)
            }
            "GET /large" => Response::new(200).body("text/plain", vec![b'x'; LARGE]),
            "GET /large/late" => {
                may::coroutine::sleep(2 * SLOW);
                Response::new(200).body("text/plain", vec![b'x'; LARGE])
            }
            _ => {
                let text = format!("{call} [{}]", String::from_utf8_lossy(body));
                Response::new(200).body("text/plain", text)
            }
        }
    }

    fn refuse(&self, status: u16, why: &str, _: &RequestId) -> Response {
        Response::new(status).body("text/plain", why.to_owned())
    }

    fn fault(&self, _: &RequestId) -> Response {
        Response::new(500).body("text/plain", "fault")
    }
}

/// The slot that the log names.
pub const SLOT: usize = 3;

/// What was logged: levels and messages.
pub static LOG: Kept = Kept(Mutex::new(Vec::new()));

pub struct Kept(Mutex<Vec<String>>);

impl Kept {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no holder panics").clone()
    }
}

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut line = format!("{} {}", record.level(), record.args());
        let shown = record.key_values().visit(&mut Shown(&mut line));
        shown.expect("fields that can be written");
        eprintln!("{line}");
        self.0.lock().expect("no holder panics").push(line);
    }

    fn flush(&self) {}
}

/// Fields behind a message.
struct Shown<'l>(&'l mut String);

impl<'kvs> VisitSource<'kvs> for Shown<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push_str(&format!(" {key}={value}"));
        Ok(())
    }
}

/// How often `/counted` was asked for.
static COUNTED: AtomicUsize = AtomicUsize::new(0);

/// One end of each channel between `/hold` and the test that holds the thread.
struct Hold {
    begun: Sender<()>,
    released: Mutex<Receiver<()>>,
}

static HOLD: OnceLock<Hold> = OnceLock::new();

/// Keeps the only scheduler thread from going on. To be used by one test.
pub struct Held {
    client: Raw,
    release: Sender<()>,
}

/// Asks for `/hold`, and answers when the thread is held.
pub fn hold_the_thread() -> Held {
    let (begun, has_begun) = channel();
    let (release, released) = channel();
    let hold = Hold {
        begun,
        released: Mutex::new(released),
    };
    assert!(HOLD.set(hold).is_ok(), "only one test holds the thread");
    let mut client = Raw::connect();
    client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    has_begun.recv_timeout(LIMIT).expect("the thread is held");
    Held { client, release }
}

impl Held {
    pub fn let_go(mut self) {
        self.release.send(()).expect("the thread waits");
        self.client.response();
    }
}

/// The content of `/large`: more than the kernel buffers for a client that does not read.
pub const LARGE: usize = 16 * 1024 * 1024;

/// Where the door under test listens, and its watch.
pub fn door() -> (SocketAddr, Arc<Watch>) {
    let (address, _, watch) = doors();
    (address, watch)
}

/// Where the door counts.
pub fn board() -> Scoreboard {
    static BOARD: OnceLock<Scoreboard> = OnceLock::new();
    *BOARD.get_or_init(|| Scoreboard::new().expect("shared memory"))
}

/// Where the same door listens for connections that begin with a PROXY header.
pub fn proxied_door() -> SocketAddr {
    doors().1
}

fn doors() -> (SocketAddr, SocketAddr, Arc<Watch>) {
    static DOORS: OnceLock<(SocketAddr, SocketAddr, Arc<Watch>)> = OnceLock::new();
    DOORS.get_or_init(start).clone()
}

fn accept(door: &Arc<Door<Echo>>, arrival: Arrival) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let door = door.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let door = door.clone();
            sys::start_first_coroutine(move || connection::serve(stream, arrival, &door))
                .expect("a stack");
        }
    });
    address
}

fn start() -> (SocketAddr, SocketAddr, Arc<Watch>) {
    assert!(log::set_logger(&LOG).is_ok(), "nothing else logs here");
    log::set_max_level(log::LevelFilter::Info);
    log_panics(SLOT);
    may::config()
        .set_workers(1)
        .set_stack_size(16 * 1024)
        .set_worker_pin(false);
    let watch = Arc::new(Watch::default());
    let tally = board().row(0);
    board().use_row(0);
    let lobby = Arc::new(Lobby::new(watch.clone(), tally).expect("a lobby"));
    let turnstile = Arc::new(Turnstile::new().expect("a turnstile"));
    let door = Arc::new(Door {
        service: Echo,
        limits: Limits::default(),
        patience: Patience {
            head: HEAD,
            idle: IDLE,
            write: WRITE,
            body_rate: BODY_RATE,
        },
        watch: watch.clone(),
        lobby: Some(lobby.clone()),
        turnstile: turnstile.clone(),
        pool: Pool::default(),
        tally,
        access: None,
        trusted: TrustedProxies::default(),
        timing: Wanted {
            slow: Some(SLOW),
            server_timing: ServerTiming::Asked,
        },
    });
    let address = accept(&door, Arrival::Direct);
    let proxied = accept(&door, Arrival::Proxied);
    sys::start_first_coroutine(move || turnstile.attend()).expect("a stack");
    let (returning, attended) = (door.clone(), lobby.clone());
    sys::start_first_coroutine(move || {
        attended.attend(move |stream, arrival, _| {
            let door = returning.clone();
            sys::start_coroutine(move || connection::serve(stream, arrival, &door))
                .expect("a stack");
        });
    })
    .expect("a stack");
    let clock = watch.clone();
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_millis(20));
            clock.tick();
            lobby.tick();
        }
    });
    (address, proxied, watch)
}

/// A connection of raw bytes.
pub struct Raw(TcpStream);

impl Raw {
    pub fn connect() -> Self {
        Raw::connect_to(door().0)
    }

    pub fn connect_to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream.set_write_timeout(Some(LIMIT)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Raw(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }

    /// Says that no more will be sent.
    pub fn finish(&self) {
        self.0.shutdown(Shutdown::Write).expect("shut down");
    }

    /// Everything until the server closes.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.0
            .read_to_end(&mut bytes)
            .expect("an orderly end and no reset");
        mask_date(&String::from_utf8_lossy(&bytes))
    }

    /// Waits for the first byte of a response.
    pub fn first_byte(&mut self) {
        self.0.read_exact(&mut [0]).expect("a byte");
    }

    /// One response with a Content-Length, or an interim one.
    pub fn response(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("a head");
            bytes.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().expect("a number"));
        let mut content = vec![0; length];
        self.0.read_exact(&mut content).expect("the content");
        mask_date(&(head + &String::from_utf8_lossy(&content)))
    }
}

/// `Date` is the one thing that differs between two equal answers.
fn mask_date(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.starts_with("Date: ") {
            true => masked.push_str("Date: -\r\n"),
            false => masked.push_str(line),
        }
    }
    masked
}

/// The response that the door gives, byte for byte.
pub fn expected(status: &str, content: &str, close: bool) -> String {
    format!(
        "HTTP/1.1 {status}\r\nServer: canvas-cluster/{}\r\nX-Content-Type-Options: nosniff\r\nDate: -\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n{}\r\n{content}",
        env!("CARGO_PKG_VERSION"),
        content.len(),
        if close { "Connection: close\r\n" } else { "" },
    )
}

/// What the door answers to bytes that end a connection, sent whole.
pub fn exchange(bytes: &[u8]) -> String {
    let mut raw = Raw::connect();
    raw.send(bytes);
    raw.finish();
    raw.rest()
}

impl Raw {
    /// A second handle of the same connection, for another thread.
    pub fn another_handle(&self) -> Raw {
        Raw(self.0.try_clone().expect("a handle"))
    }

    /// Sends, unless the server has closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Reads at most so much at a time, with a pause after each, to the end; a reset is an end as well.
    pub fn drain_slowly(&mut self, at_once: usize, pause: Duration) -> usize {
        // In a buffer of megabytes seconds pass until the kernel tells that there is room again, and nothing is taken meanwhile.
        setsockopt(&self.0, RcvBuf, &(4 * at_once)).expect("a socket of ours");
        let mut total = 0;
        let mut chunk = vec![0; at_once];
        while let Ok(count @ 1..) = self.0.read(&mut chunk) {
            total += count;
            thread::sleep(pause);
        }
        total
    }

    /// Reads nothing for a while, then everything that still comes; a reset is an end as well.
    pub fn drain_after(&mut self, pause: Duration) -> usize {
        thread::sleep(pause);
        let mut total = 0;
        let mut chunk = [0; 65536];
        while let Ok(count @ 1..) = self.0.read(&mut chunk) {
            total += count;
        }
        total
    }
}
