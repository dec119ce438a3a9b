//! What a worker's connections cost when there are 50,000 of them: `cargo bench --bench connections [-- [idle|busy] [COUNT]]`.
//!
//! Starts the server with one worker and its demo catalogue, opens COUNT keep-alive connections over loopback, and
//! prints what they cost the worker. *idle* ones have each been answered and wait in the lobby; then all of them ask
//! at once. *busy* ones have sent half of a head, so each holds a coroutine. Every request must be answered 200, and
//! the memory be given back when the clients leave; anything else is exit code 1.
//!
//! Needs COUNT open files here and in the worker (root raises the limit by itself, others need `ulimit -n`), and for
//! the busy ones a vm.max_map_count of two each. Tens of connections share an address, so that ports suffice.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use canvas_cluster::tune::Host;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

const HALF: &[u8] = b"GET /api/images/?shoe_id=7 HTTP/1.1\r\nHost: localhost\r\n";
const REST: &[u8] = b"\r\n";

/// Connections from one address of 127.0.0.0/8; the default range of ports has 28,000.
const AN_ADDRESS: usize = 10_000;

/// Connections that are opened before their answers are read, well within a backlog.
const BATCH: usize = 500;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than an idle connection keeps its coroutine.
const SETTLING: Duration = Duration::from_secs(3);

/// What the worker may keep for reasons of its own, in KiB.
const SPARE: i64 = 2 * 1024;

/// Crowds so far.
static CROWDS: AtomicU8 = AtomicU8::new(0);

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let count = words
        .iter()
        .find_map(|word| word.parse().ok())
        .unwrap_or(50_000);
    let wants = |kind: &str| {
        !words.iter().any(|word| word == "idle" || word == "busy")
            || words.iter().any(|word| word == kind)
    };
    let mut outcome = may_open(count + 1_000);
    for (kind, measure) in [
        ("idle", idle as fn(&Server, usize) -> Outcome<i64>),
        ("busy", busy),
    ] {
        if wants(kind) {
            outcome = outcome.and_then(|()| {
                let server = Server::start(count)?;
                println!("{count} {kind} connections on one worker");
                let once = measure(&server, count)?;
                // What the allocator keeps, the next crowd gets: a second one must cost nothing more.
                println!("and {count} again");
                let twice = measure(&server, count)?;
                if twice > once + once / 4 + SPARE {
                    return Err(format!(
                        "{} KiB more are kept after the second crowd",
                        twice - once
                    ));
                }
                server.stop()
            });
        }
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("connections: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the limit on open files of this process and of the server, which inherits it.
fn may_open(files: usize) -> Outcome<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    let limit = hard.max(files as u64);
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map_err(|error| {
        format!(
            "can't open {files} files, the limit is {hard} ({error}): raise `ulimit -n`, or be root"
        )
    })
}

fn idle(server: &Server, count: usize) -> Outcome<i64> {
    let before = server.pss()?;
    let begun = Instant::now();
    let mut crowd = server.crowd(count, &[HALF, REST].concat(), true)?;
    say("opened and answered once", begun.elapsed(), count);
    sleep(SETTLING);
    report("an idle connection costs", server.pss()? - before, count);

    let begun = Instant::now();
    for client in &mut crowd {
        client
            .write_all(HALF)
            .and_then(|()| client.write_all(REST))
            .map_err(|error| format!("sending: {error}"))?;
    }
    crowd.iter_mut().try_for_each(expect_200)?;
    say("all of them answered again", begun.elapsed(), count);
    drop(crowd);
    server.left(before, count)
}

fn busy(server: &Server, count: usize) -> Outcome<i64> {
    // Beside stacks a worker has some 1,100 mappings.
    let needed = 2 * count as u64 + 2_000;
    match Host::new(Path::new("/"), None).number("vm.max_map_count") {
        Some(allowed) if allowed < needed => {
            return Err(format!(
                "vm.max_map_count = {allowed} is not enough: `sysctl -w vm.max_map_count={needed}`"
            ));
        }
        _ => {}
    }
    let before = server.pss()?;
    let begun = Instant::now();
    let mut crowd = server.crowd(count, HALF, false)?;
    let until = Instant::now() + PATIENCE;
    while server.mappings()? < 2 * count {
        if Instant::now() > until {
            return Err(format!(
                "{} mappings: not every connection has its stack",
                server.mappings()?
            ));
        }
        sleep(Duration::from_millis(100));
    }
    say("opened, each with half of a head", begun.elapsed(), count);
    report("a busy connection costs", server.pss()? - before, count);
    println!("  memory mappings of the worker: {}", server.mappings()?);

    let mut bystander = server.connect(count)?;
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let begun = Instant::now();
        bystander
            .write_all(&[HALF, REST].concat())
            .map_err(|error| format!("sending: {error}"))?;
        expect_200(&mut bystander)?;
        times.push(begun.elapsed());
    }
    times.sort();
    println!(
        "  a bystander's requests, one at a time: median {:?}, slowest of 1,000 {:?}",
        times[500], times[999]
    );

    let begun = Instant::now();
    for client in &mut crowd {
        client
            .write_all(REST)
            .map_err(|error| format!("sending: {error}"))?;
    }
    crowd.iter_mut().try_for_each(expect_200)?;
    say("all of them answered", begun.elapsed(), count);
    drop(crowd);
    server.left(before, count)
}

fn say(what: &str, time: Duration, count: usize) {
    println!(
        "  {what}: {:.2} s, {:.0} a second",
        time.as_secs_f64(),
        count as f64 / time.as_secs_f64()
    );
}

fn report(what: &str, kib: i64, count: usize) {
    println!(
        "  {what} {:.2} KiB of the worker's memory (Pss)",
        kib as f64 / count as f64
    );
}

/// Reads one answer, which must be a 200 with a Content-Length.
fn expect_200(client: &mut TcpStream) -> Outcome<()> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| {
                line.strip_prefix("content-length:")?
                    .trim()
                    .parse::<usize>()
                    .ok()
            });
            match length {
                Some(length) if text.starts_with("http/1.1 200 ") => {
                    if answer.len() >= head + 4 + length {
                        return Ok(());
                    }
                }
                _ => return Err(format!("not a 200 with a length: {text}")),
            }
        }
        match client.read(&mut piece) {
            Ok(0) => return Err("closed instead of an answer".to_owned()),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) => return Err(format!("no answer: {error}")),
        }
    }
}

/// A server with one worker, killed when dropped.
struct Server {
    master: Child,
    worker: i32,
    address: SocketAddr,
    _state: tempfile::TempDir,
}

impl Server {
    fn start(count: usize) -> Outcome<Server> {
        let told = |error: io::Error| format!("can't start the server: {error}");
        let state = tempfile::tempdir().map_err(told)?;
        let log = state.path().join("log");
        let master = Command::new(env!("CARGO_BIN_EXE_canvas-cluster"))
            .args([
                "--workers",
                "1",
                "--listen",
                "127.0.0.1:0",
                "--keepalive-timeout",
                "10m",
            ])
            .args(["--head-timeout", "10m", "--request-timeout", "30s"])
            .args(["--max-connections", &(count + 100).to_string()])
            .arg("--state-dir")
            .arg(state.path())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).map_err(told)?)
            .spawn()
            .map_err(told)?;
        let mut server = Server {
            master,
            worker: 0,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            _state: state,
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&log).map_err(told)?;
            let ready = text
                .lines()
                .find_map(|line| line.split_once("ready: ")?.1.split_once("http://"));
            if let Some((_, address)) = ready {
                let word = address.split_whitespace().next().unwrap_or_default();
                server.address = word
                    .trim_end_matches('/')
                    .parse()
                    .map_err(|_| text.clone())?;
                break;
            }
            if Instant::now() > until || !matches!(server.master.try_wait(), Ok(None)) {
                return Err(format!("the server does not get ready:\n{text}"));
            }
            sleep(Duration::from_millis(20));
        }
        let pid = server.master.id();
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).map_err(told)?;
        server.worker = children
            .trim()
            .parse()
            .map_err(|_| format!("not one worker: {children}"))?;
        // The first request brings what every later one finds.
        let mut first = server.connect(0)?;
        first.write_all(&[HALF, REST].concat()).map_err(told)?;
        expect_200(&mut first)?;
        Ok(server)
    }

    /// The `number`-th connection of the crowd that is being made. Every crowd has addresses of its own: ports that the last
    /// one used are in TIME-WAIT.
    fn connect(&self, number: usize) -> Outcome<TcpStream> {
        let told = |error: io::Error| format!("connection {number}: {error}");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
        let crowd = CROWDS.load(Ordering::Relaxed);
        let source = Ipv4Addr::new(127, 1, crowd, (1 + number / AN_ADDRESS) as u8);
        socket
            .bind(&SocketAddr::from((source, 0)).into())
            .map_err(told)?;
        socket.connect(&self.address.into()).map_err(told)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
        Ok(stream)
    }

    /// Connections that have each sent `bytes`, and been answered if they should be.
    fn crowd(&self, count: usize, bytes: &[u8], answered: bool) -> Outcome<Vec<TcpStream>> {
        CROWDS.fetch_add(1, Ordering::Relaxed);
        let mut crowd = Vec::with_capacity(count);
        while crowd.len() < count {
            let first = crowd.len();
            for number in first..count.min(first + BATCH) {
                let mut client = self.connect(number)?;
                client
                    .write_all(bytes)
                    .map_err(|error| format!("connection {number}: {error}"))?;
                crowd.push(client);
            }
            if answered {
                crowd[first..].iter_mut().try_for_each(expect_200)?;
            }
        }
        Ok(crowd)
    }

    /// What the worker uses of memory, shared pages in proportion, in KiB.
    fn pss(&self) -> Outcome<i64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.worker))
            .map_err(|error| format!("the worker is gone: {error}"))?;
        rollup
            .lines()
            .find_map(|line| {
                line.strip_prefix("Pss:")?
                    .trim()
                    .trim_end_matches(" kB")
                    .parse()
                    .ok()
            })
            .ok_or_else(|| "no Pss".to_owned())
    }

    fn mappings(&self) -> Outcome<usize> {
        fs::read_to_string(format!("/proc/{}/maps", self.worker))
            .map(|maps| maps.lines().count())
            .map_err(|error| format!("the worker is gone: {error}"))
    }

    /// Waits until the worker has noticed that the clients have gone, and answers with what it keeps of their memory, in KiB.
    fn left(&self, before: i64, count: usize) -> Outcome<i64> {
        let until = Instant::now() + PATIENCE;
        // Its own: files of the database, listeners, epolls.
        while self.descriptors()? > 100 {
            if Instant::now() > until {
                return Err("the worker keeps connections of clients that have gone".to_owned());
            }
            sleep(Duration::from_millis(100));
        }
        sleep(SETTLING);
        let left = self.pss()? - before;
        println!("  kept when they have gone: {left} KiB");
        if left > count as i64 + SPARE {
            return Err("more than 1 KiB a connection is not given back".to_owned());
        }
        Ok(left)
    }

    fn descriptors(&self) -> Outcome<usize> {
        fs::read_dir(format!("/proc/{}/fd", self.worker))
            .map(Iterator::count)
            .map_err(|error| format!("the worker is gone: {error}"))
    }

    fn stop(mut self) -> Outcome<()> {
        let failed = |error: String| format!("can't stop the server: {error}");
        kill(Pid::from_raw(self.master.id() as i32), Signal::SIGTERM)
            .map_err(|error| failed(error.to_string()))?;
        let status = self
            .master
            .wait()
            .map_err(|error| failed(error.to_string()))?;
        status
            .success()
            .then_some(())
            .ok_or_else(|| format!("the server ended with {status}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.master.try_wait(), Ok(None)) {
            // The worker notices by itself.
            let _ = self.master.kill();
            let _ = self.master.wait();
        }
    }
}
