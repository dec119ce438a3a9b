//! A client that has nothing to do with whatever else happens to the server: one request after another on one
//! connection, at a steady pace, and how long each took. Time that the server's worker, or the client, waited for a CPU
//! does not count: that is the machine's, which other tests may keep busy for seconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::Client;
use super::process::{own_wait_for_cpu, wait_for_cpu};
use super::server::Server;
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
        let mut client = server.connect();
        let worker = server.only_worker();
        let shared = Arc::new(Shared::default());
        let (target, noting) = (target.to_owned(), shared.clone());
        let thread = thread::spawn(move || {
            let mut due = Instant::now();
            while !noting.stop.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let goes_on = noting.note(&mut client, &target, due, worker);
                if !goes_on {
                    return;
                }
                due += PACE;
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

impl Shared {
    /// Makes one request; false if no more can follow.
    fn note(&self, client: &mut Client, target: &str, due: Instant, worker: i32) -> bool {
        let answer = client.get(target);
        let answer_at = Answer {
            due,
            came: Instant::now(),
            waited: wait_for_cpu(worker) + own_wait_for_cpu(),
        };
        let mut phase = self.phase.lock().unwrap();
        match answer {
            Ok(response) if response.status == 200 && !client.told_to_close => {
                phase.answers.push(answer_at);
                true
            }
            Ok(response) => {
                phase.wrong.push(response.to_string());
                false
            }
            Err(trouble) => {
                phase
                    .wrong
                    .push(format!("{trouble:?} after {:?}", due.elapsed()));
                false
            }
        }
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
