//! The server under test: the real binary with its master, its workers, its signals and its log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::Signal;

use super::canvas::binary;
use super::http::{Client, Request, Response};
use super::log::{Log, tells_of_error};
use super::process::{self, alive, all_gone, children, spawn, wait_for_exit};
use super::sockets::{server_ends, socket_inodes};
use super::wait::{PATIENCE, wait_until};

/// What the master logs once every slot serves, as `ready: N workers on http://ADDRESS [http://ADDRESS …]`.
const READY: &str = "ready: ";

pub struct Server {
    master: Child,
    log: Arc<Log>,
    log_file: PathBuf,
    addresses: Vec<SocketAddr>,
    /// Every worker that this test has seen: none may outlive the server.
    seen: Mutex<BTreeSet<i32>>,
    allowed: Vec<String>,
    /// Once it has ended, or was ended on purpose, dropping checks nothing more.
    over: bool,
}

impl Server {
    pub(super) fn launch(mut command: Command, folder: &Path) -> Server {
        let log_file = folder.join(format!("server-{}.log", count_of_launches()));
        command.stderr(Stdio::piped());
        let mut master = spawn(command).expect("the binary under test");
        let log = Log::follow(master.stderr.take().expect("it is piped"), &log_file);
        Server {
            master,
            log,
            log_file,
            addresses: Vec::new(),
            seen: Mutex::default(),
            allowed: Vec::new(),
            over: false,
        }
    }

    /// Waits for the line that says so, and learns the addresses from it.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let line = self.wait_for_line(READY);
        self.addresses = line
            .split_whitespace()
            .filter_map(|word| {
                word.strip_prefix("proxy+")
                    .unwrap_or(word)
                    .strip_prefix("http://")
            })
            .map(|address| {
                address
                    .trim_end_matches('/')
                    .parse()
                    .expect("an address in the ready line")
            })
            .collect();
        assert!(
            !self.addresses.is_empty(),
            "no address in the ready line: {line}"
        );
        self.workers();
    }

    /// The number of workers in the ready line.
    pub fn announced_workers(&self) -> usize {
        let line = self
            .lines_with(READY)
            .into_iter()
            .next()
            .expect("a ready line");
        let rest = &line[line.find(READY).expect("just found") + READY.len()..];
        rest.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .expect("a number in the ready line")
    }

    pub fn address(&self) -> SocketAddr {
        *self.addresses.first().expect("a server that is ready")
    }

    /// Every address that it listens on, in the order of the ready line.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn master(&self) -> i32 {
        self.master.id() as i32
    }

    /// The live workers, draining ones included.
    pub fn workers(&self) -> BTreeSet<i32> {
        let workers: BTreeSet<i32> = children(self.master())
            .into_iter()
            .filter(|pid| alive(*pid))
            .collect();
        self.seen.lock().unwrap().extend(&workers);
        workers
    }

    /// The worker of a server that has one.
    #[track_caller]
    pub fn only_worker(&self) -> i32 {
        let workers = self.workers();
        assert_eq!(workers.len(), 1, "{workers:?}");
        *workers.first().expect("just counted")
    }

    /// Waits until workers have accepted all these connections and read all that the kernel received on them.
    #[track_caller]
    pub fn wait_until_read<'c>(&self, clients: impl IntoIterator<Item = &'c Client>) {
        let ports: Vec<u16> = clients
            .into_iter()
            .map(|client| client.local_address().port())
            .collect();
        wait_until(PATIENCE, "the server to read the requests", || {
            // Once for all: on a machine that has just been under load the kernel's table has 100,000 lines.
            let ends = server_ends(self.address());
            ports
                .iter()
                .all(|port| ends.get(port).is_some_and(|end| end.unread == 0))
        });
    }

    /// One connection to each of the live workers, each of which has answered on it.
    #[track_caller]
    pub fn one_client_per_worker(&self) -> Vec<(i32, Client)> {
        let workers = self.workers();
        let mut clients = BTreeMap::new();
        // The kernel spreads connections at random; this many miss one of 64 workers about never.
        for _ in 0..20 {
            clients.extend(self.some_clients(&workers));
            if clients.len() == workers.len() {
                return clients.into_iter().collect();
            }
        }
        let silent: Vec<&i32> = workers
            .iter()
            .filter(|worker| !clients.contains_key(worker))
            .collect();
        panic!("no connection reached the workers {silent:?}");
    }

    /// The workers that answer a number of new connections: most likely each that accepts.
    pub fn answering_workers(&self) -> BTreeSet<i32> {
        let workers = self.workers();
        (0..5)
            .flat_map(|_| self.some_clients(&workers).into_keys())
            .collect()
    }

    /// Connections that have been answered by these workers.
    fn some_clients(&self, workers: &BTreeSet<i32>) -> BTreeMap<i32, Client> {
        let answered = |_| {
            let mut client = self.connect();
            client.get("/healthz").expect("an answer").expect(200);
            client
        };
        let clients: Vec<Client> = (0..2 * workers.len()).map(answered).collect();
        let inodes = |worker: &i32| {
            socket_inodes(*worker)
                .into_iter()
                .map(|inode| (inode, *worker))
                .collect::<Vec<_>>()
        };
        let owners: BTreeMap<u64, i32> = workers.iter().flat_map(inodes).collect();
        let ends = server_ends(self.address());
        let owner = |client: &Client| {
            owners
                .get(&ends.get(&client.local_address().port())?.inode)
                .copied()
        };
        clients
            .into_iter()
            .filter_map(|client| Some((owner(&client)?, client)))
            .collect()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address()).expect("a connection")
    }

    /// Sends a request on a connection of its own.
    #[track_caller]
    pub fn call(&self, request: &Request) -> Response {
        match self.connect().call(request) {
            Ok(response) => response,
            Err(trouble) => panic!(
                "{trouble:?} instead of an answer to {} {}",
                request.method, request.target
            ),
        }
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.call(&Request::new("GET", target))
    }

    pub fn signal(&self, which: Signal) {
        process::signal(self.master(), which);
    }

    /// Reloads and waits until every worker of before has gone and `count` new ones serve.
    #[track_caller]
    pub fn reload(&self, count: usize) {
        let before = self.workers();
        self.signal(Signal::SIGHUP);
        wait_until(PATIENCE, "the reload to replace every worker", || {
            let now = self.workers();
            now.is_disjoint(&before) && now.len() == count
        });
    }

    /// Lines that the clean log of this test may hold although they tell of an error.
    pub fn allow(&mut self, pattern: &str) {
        self.allowed.push(pattern.into());
    }

    pub fn log_text(&self) -> String {
        self.log.lines().join("\n")
    }

    pub fn lines_with(&self, pattern: &str) -> Vec<String> {
        self.log
            .lines()
            .into_iter()
            .filter(|line| line.contains(pattern))
            .collect()
    }

    /// The number of log lines so far; later lines can be looked for with [`Server::wait_for_line_after`].
    pub fn log_length(&self) -> usize {
        self.log.lines().len()
    }

    #[track_caller]
    pub fn wait_for_line(&self, pattern: &str) -> String {
        self.wait_for_line_after(0, pattern)
    }

    /// Waits for a line with `pattern` among those after the first `start`.
    #[track_caller]
    pub fn wait_for_line_after(&self, start: usize, pattern: &str) -> String {
        match self.log.wait_for(start, |line| line.contains(pattern)) {
            Some(line) => line,
            None => panic!("the server never logged `{pattern}`"),
        }
    }

    /// Stops it gracefully (SIGTERM) and checks that all went well: exit code 0, no process left, a clean log.
    #[track_caller]
    pub fn stop(mut self) {
        self.stop_with(Signal::SIGTERM);
    }

    /// Waits for the end of a server that was told to stop, or that gives up by itself, and reads its last lines.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let status = wait_for_exit(&mut self.master, PATIENCE, "the master");
        self.over = true;
        let seen = self.seen.lock().unwrap().clone();
        assert!(
            all_gone(&seen, PATIENCE),
            "workers outlive the master: {seen:?}"
        );
        assert!(
            self.log.ends(),
            "some process still holds the server's standard error"
        );
        status
    }

    /// Kills the master alone, as the kernel's OOM killer might. The workers must notice by themselves.
    pub fn kill_master(&mut self) {
        self.workers();
        process::signal(self.master(), Signal::SIGKILL);
        self.master.wait().expect("our own child");
        self.over = true;
    }

    /// The workers that this test has seen.
    pub fn seen_workers(&self) -> BTreeSet<i32> {
        self.seen.lock().unwrap().clone()
    }

    /// Fails the test if the log tells of an error or a panic that it did not expect.
    #[track_caller]
    pub fn assert_clean_log(&self) {
        for line in self.log.lines() {
            let allowed = self.allowed.iter().any(|pattern| line.contains(pattern));
            assert!(
                allowed || !tells_of_error(&line),
                "the log is not clean: {line}"
            );
        }
    }

    #[track_caller]
    pub fn stop_with(&mut self, which: Signal) {
        self.workers();
        self.signal(which);
        let status = self.wait_for_exit();
        assert_eq!(
            status.code(),
            Some(0),
            "the exit status after {which}: {status}"
        );
        self.assert_clean_log();
    }

    fn end_everything(&mut self) {
        // A frozen master neither replaces its workers nor is missed by them.
        if !self.over {
            self.signal(Signal::SIGSTOP);
        }
        // Workers may have process groups of their own, so each is named.
        let workers: BTreeSet<i32> = &self.workers() | &self.seen_workers();
        for worker in workers.into_iter().filter(|worker| is_ours(*worker)) {
            process::signal(worker, Signal::SIGKILL);
        }
        process::end(&mut self.master);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            self.end_everything();
            eprintln!(
                "the server's log ({}):\n{}",
                self.log_file.display(),
                self.log_text()
            );
        } else if !self.over {
            self.stop_with(Signal::SIGTERM);
        } else {
            self.end_everything();
        }
    }
}

/// Whether a process still runs the binary under test: its number may have gone to another since.
fn is_ours(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(binary()))
}

fn count_of_launches() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static LAUNCHES: AtomicU32 = AtomicU32::new(1);
    LAUNCHES.fetch_add(1, Ordering::Relaxed)
}
