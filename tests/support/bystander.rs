//! A client that has nothing to do with whatever else happens to the server: one request after another on one
//! connection, at a steady pace, and how long each took. Time that the server's worker, or the client, waited for a CPU
//! does not count: that is the machine's, which other tests may keep busy for seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::{Client, Trouble};
use super::process::{children, own_wait_for_cpu, wait_for_cpu};
use super::server::Server;
use super::sockets::{server_ends, socket_inodes};
use super::wait::{PATIENCE, wait_until};

/// The pace: a request is due this long after the one before it was.
const PACE: Duration = Duration::from_millis(5);

pub struct Bystander {
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    phase: Mutex<Phase>,
}

/// What the bystander saw for a while.
#[derive(Default)]
pub struct Phase {
    answers: Vec<Answer>,
    /// What was not a 200.
    wrong: Vec<String>,
}

struct Answer {
    /// When the request should have been sent. It was sent later if the one before it took long, so that a stall shows
    /// in all the requests that it delayed.
    due: Instant,
    came: Instant,
    /// What worker and client had waited for a CPU when it came.
    waited: Duration,
}

impl Bystander {
    /// Connects to a server of one worker, and asks for `target` from now on.
    #[track_caller]
    pub fn start(server: &Server, target: &str) -> Self {
        Bystander::ask(Asker::of(server, target, server.only_worker()))
    }

    /// The same of a server whose workers come and go: the bystander connects anew when it is told to, which is part of what
    /// its next answer takes.
    #[track_caller]
    pub fn follow(server: &Server, target: &str) -> Self {
        let mut asker = Asker::of(server, target, server.master());
        asker.follows = true;
        asker.worker = asker.owner(&server.workers()).expect("a worker");
        asker.heard = wait_for_cpu(asker.worker);
        Bystander::ask(asker)
    }

    fn ask(mut asker: Asker) -> Self {
        let shared = Arc::new(Shared::default());
        let noting = shared.clone();
        let thread = thread::spawn(move || {
            let mut due = Instant::now();
            while !noting.stop.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let answer = asker.ask(due);
                let mut phase = noting.phase.lock().unwrap();
                match answer {
                    Ok((answer, next)) => {
                        phase.answers.push(answer);
                        due = next;
                    }
                    Err(wrong) => {
                        phase.wrong.push(wrong);
                        return;
                    }
                }
            }
        });
        Bystander {
            thread: Some(thread),
            shared,
        }
    }

    /// How many requests were answered since the phase began.
    pub fn seen(&self) -> usize {
        self.shared.phase.lock().unwrap().answers.len()
    }

    /// Waits for so many answers, which all have to be good, and ends the phase.
    #[track_caller]
    pub fn watch(&self, answers: usize) -> Phase {
        wait_until(PATIENCE, "the bystander's answers", || {
            self.seen() >= answers || !self.shared.phase.lock().unwrap().wrong.is_empty()
        });
        self.end_phase()
    }

    /// What was seen since the last phase ended. All answers have to be good.
    #[track_caller]
    pub fn end_phase(&self) -> Phase {
        let phase = std::mem::take(&mut *self.shared.phase.lock().unwrap());
        assert!(
            phase.wrong.is_empty(),
            "the bystander got {:?} after {} answers",
            phase.wrong,
            phase.answers.len()
        );
        phase
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics never; if it did, its test has seen no answers.
            let _ = thread.join();
        }
    }
}

/// The bystander's connection.
struct Asker {
    client: Client,
    address: SocketAddr,
    target: String,
    master: i32,
    worker: i32,
    /// Whether it goes on with another worker when this one leaves.
    follows: bool,
    /// What worker and client have waited for a CPU so far, and what each had at the last answer.
    waited: Duration,
    heard: Duration,
    own: Duration,
}

impl Asker {
    fn of(server: &Server, target: &str, worker: i32) -> Self {
        let mut client = server.connect();
        client.get(target).expect("an answer").expect(200);
        Asker {
            client,
            address: server.address(),
            target: target.to_owned(),
            master: server.master(),
            worker,
            follows: false,
            waited: Duration::ZERO,
            heard: wait_for_cpu(worker),
            // Of the thread that asks, which is to come.
            own: Duration::ZERO,
        }
    }

    /// Makes a request; when the next one is due.
    fn ask(&mut self, due: Instant) -> Result<(Answer, Instant), String> {
        let moves = self.follows && self.client.told_to_close;
        let mut before = BTreeMap::new();
        if moves {
            // Whichever of them will have the new connection.
            let workers = children(self.master).into_iter();
            before.extend(workers.map(|worker| (worker, wait_for_cpu(worker))));
        }
        let failed = |trouble: Trouble| format!("{trouble:?} after {:?}", due.elapsed());
        if moves {
            self.client = Client::connect(self.address).map_err(failed)?;
        }
        let response = self.client.get(&self.target).map_err(failed)?;
        let came = Instant::now();
        if response.status != 200 || (self.client.told_to_close && !self.follows) {
            return Err(response.to_string());
        }
        let mut next = due + PACE;
        if moves {
            // One that began meanwhile had not begun to wait.
            let workers = children(self.master);
            let owner = self.owner(&workers).unwrap_or(self.worker);
            self.heard = before.get(&owner).copied().unwrap_or_default();
            self.worker = owner;
            next = next.max(Instant::now());
        }
        let (heard, own) = (wait_for_cpu(self.worker), own_wait_for_cpu());
        self.waited += heard.saturating_sub(self.heard) + own.saturating_sub(self.own);
        (self.heard, self.own) = (heard, own);
        let waited = self.waited;
        Ok((Answer { due, came, waited }, next))
    }

    /// Which of these workers holds the connection.
    fn owner(&self, workers: &BTreeSet<i32>) -> Option<i32> {
        let end = server_ends(self.address).remove(&self.client.local_address().port())?;
        let mut workers = workers.iter().copied();
        workers.find(|worker| socket_inodes(*worker).contains(&end.inode))
    }
}

impl Phase {
    /// The latency that one request in a hundred exceeds.
    #[track_caller]
    pub fn p99(&self) -> Duration {
        let mut sorted = self.latencies();
        sorted.sort_unstable();
        assert!(sorted.len() >= 100, "{} answers have no p99", sorted.len());
        sorted[sorted.len() * 99 / 100]
    }

    /// How long each answer took, less what was waited for a CPU meanwhile. The first has nothing to be compared with.
    fn latencies(&self) -> Vec<Duration> {
        let mut last_before_due = 0;
        let mut latencies = Vec::new();
        for answer in self.answers.iter().skip(1) {
            while self.answers[last_before_due + 1].came <= answer.due {
                last_before_due += 1;
            }
            let waited = answer
                .waited
                .saturating_sub(self.answers[last_before_due].waited);
            latencies.push((answer.came - answer.due).saturating_sub(waited));
        }
        latencies
    }
}
