//! What clients see while something breaks: hits go on, refusals don't wait, and soon all is well again. Each time is judged
//! beside its *control*, something that costs next to nothing and is asked at the same moment: a busy machine is slow at both.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::{Client, Request};
use super::server::Server;
use super::shoes::list_target;
use super::wait::{PATIENCE, comes_true, until_done, wait_until};

/// How often somebody asks who only looks whether all is well.
const PACE: Duration = Duration::from_millis(2);

/// What a refusal may take once the breaker is open.
const REFUSAL: Duration = Duration::from_millis(100);

/// How soon everything is back after what was missing.
const RETURN: Duration = Duration::from_secs(2);

/// How late an answer may come after its deadline: the worker's clock ticks, and a lane has a moment to say it better.
const LATE: Duration = Duration::from_millis(350);

/// Coming back, and giving up, takes some steps one after another, each of which may be as slow as the control.
const STEPS: u32 = 4;

/// The plain run's work is done so many times over; `tests/run outages 10` asks for more.
pub fn rounds() -> u32 {
    match std::env::var("CANVAS_OUTAGES_FACTOR") {
        Ok(text) => text.parse().expect("CANVAS_OUTAGES_FACTOR is a number"),
        Err(_) => 1,
    }
}

/// Times of one kind.
#[derive(Debug, Default, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn add(&mut self, others: Times) {
        self.0.extend(others.0);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Zero of none.
    pub fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    /// What so large a part of them is not above; zero of none.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(place).copied().unwrap_or_default()
    }

    /// Whether 99 of 100, and all but ten of fewer than a thousand, are not above the bound. The control's longest, twice, is added
    /// to it: for ten to be above that, a machine that is equally slow at both would have to be unfair for long.
    pub fn are_within(&self, bound: Duration, control: &Times) -> bool {
        let part = (1.0 - 10.0 / self.count().max(1) as f64).clamp(0.0, 0.99);
        self.quantile(part) <= bound + 2 * control.longest()
    }

    /// Prints them, and checks that they are within the bound.
    #[track_caller]
    pub fn assert_p99(&self, what: &str, bound: Duration, control: &Times) {
        println!("{what}: {self}; control: {control}");
        assert!(
            self.are_within(bound, control),
            "{what}: {self}, and not {bound:?}; control: {control}"
        );
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "{} with p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms",
            self.count(),
            ms(self.quantile(0.5)),
            ms(self.quantile(0.99)),
            ms(self.longest())
        )
    }
}

/// Asks, and notes how long the answer took.
#[track_caller]
pub fn timed<A>(times: &mut Times, ask: impl FnOnce() -> A) -> A {
    let begun = Instant::now();
    let answer = ask();
    times.push(begun.elapsed());
    answer
}

/// Clients of every worker who ask again and again for what it has in its own cache.
pub struct Hits {
    clients: Vec<JoinHandle<Result<(Times, Times), String>>>,
    answered: Vec<Arc<AtomicU64>>,
    over: Arc<AtomicBool>,
}

impl Hits {
    /// One for each worker, which has the answer from then on. Nobody may change it.
    #[track_caller]
    pub fn start(server: &Server, target: &str) -> Hits {
        let over = Arc::new(AtomicBool::new(false));
        let mut hits = Hits {
            clients: Vec::new(),
            answered: Vec::new(),
            over: over.clone(),
        };
        for (_, mut client) in server.one_client_per_worker() {
            let first = client.get(target).expect("an answer").expect(200);
            let (over, answered) = (over.clone(), Arc::new(AtomicU64::new(0)));
            hits.answered.push(answered.clone());
            let target = target.to_owned();
            hits.clients.push(thread::spawn(move || {
                let (mut hits, mut control) = (Times::default(), Times::default());
                while !over.load(Ordering::Relaxed) {
                    let health = timed(&mut control, || client.get("/healthz"));
                    let hit = timed(&mut hits, || client.get(&target));
                    if !health.is_ok_and(|answer| answer.status == 200) {
                        return Err("the worker is not well".to_owned());
                    }
                    match hit {
                        Ok(answer) if answer.status == 200 && answer.body == first.body => {}
                        Ok(answer) => return Err(answer.to_string()),
                        Err(trouble) => return Err(format!("{trouble:?}")),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PACE);
                }
                Ok((hits, control))
            }));
        }
        hits
    }

    /// Waits until each worker has answered some more: they don't wait for anything.
    #[track_caller]
    pub fn go_on(&self) {
        let numbers = || {
            let number = |answered: &Arc<AtomicU64>| answered.load(Ordering::Relaxed);
            self.answered.iter().map(number).collect::<Vec<u64>>()
        };
        let before = numbers();
        let more = || {
            let pairs = before.iter().zip(numbers());
            pairs.into_iter().all(|(old, new)| new >= old + 20)
        };
        let go_on = comes_true(PATIENCE, || more() || self.have_ended());
        assert!(
            go_on && more(),
            "hits don't go on: {before:?} {:?}",
            numbers()
        );
    }

    fn have_ended(&self) -> bool {
        self.clients.iter().any(JoinHandle::is_finished)
    }

    /// Ends them. None may have failed, or waited.
    #[track_caller]
    pub fn end(mut self) -> (Times, Times) {
        self.over.store(true, Ordering::Relaxed);
        let (mut hits, mut control) = (Times::default(), Times::default());
        for client in self.clients.drain(..) {
            let (times, controls) = client
                .join()
                .expect("no panic")
                .expect("hits are never refused");
            hits.add(times);
            control.add(controls);
        }
        hits.assert_p99("hits", Duration::from_millis(5), &control);
        (hits, control)
    }
}

impl Drop for Hits {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Who watches a server through an outage of its database.
pub struct Vigil {
    clients: Vec<(i32, Client)>,
    hits: Hits,
    /// A shoe that nobody has asked for.
    fresh: AtomicI64,
}

impl Vigil {
    /// `known` is a shoe that is not changed meanwhile. Shoes from 1,000,000 are the vigil's own.
    #[track_caller]
    pub fn over(server: &Server, known: i64) -> Vigil {
        let mut clients = server.one_client_per_worker();
        let fresh = AtomicI64::new(1_000_000);
        for (_, client) in &mut clients {
            let shoe = fresh.fetch_add(1, Ordering::Relaxed);
            client
                .get(&list_target(shoe))
                .expect("an answer")
                .expect(200);
        }
        Vigil {
            clients,
            hits: Hits::start(server, &list_target(known)),
            fresh,
        }
    }

    fn fresh(&self) -> String {
        list_target(self.fresh.fetch_add(1, Ordering::Relaxed))
    }

    /// The database is away: waits until each worker has found out, and from then on none of its refusals waits.
    #[track_caller]
    pub fn refusals_are_fast(&mut self, what: &str) {
        let (mut refusals, mut control) = (Times::default(), Times::default());
        let mut clients = std::mem::take(&mut self.clients);
        for (worker, client) in &mut clients {
            wait_until(PATIENCE, &format!("worker {worker} to find out"), || {
                let mut found_out = Times::default();
                let answer = timed(&mut found_out, || client.get(&self.fresh()));
                answer.expect("an answer").status == 503 && found_out.longest() < REFUSAL
            });
            for _ in 0..200 {
                let health = timed(&mut control, || client.get("/healthz"));
                health.expect("an answer").expect(200);
                let target = self.fresh();
                let refused = timed(&mut refusals, || client.get(&target)).expect("an answer");
                assert_eq!(refused.problem(503).kind, "/problems/store-unavailable");
                assert!(refused.header("retry-after").is_some(), "{refused}");
            }
        }
        self.clients = clients;
        self.hits.go_on();
        refusals.assert_p99(&format!("{what}: refusals"), REFUSAL, &control);
    }

    /// Waits until each worker reaches a database.
    #[track_caller]
    pub fn wait_for_return(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        for (worker, client) in &mut clients {
            wait_until(PATIENCE, &format!("worker {worker} to return"), || {
                let answer = client.get(&self.fresh());
                answer.expect("an answer").status == 200
            });
        }
        self.clients = clients;
        self.hits.go_on();
    }

    /// The database is back: so is every worker, in time. `ask` is a client of the database itself, the control.
    #[track_caller]
    pub fn is_back(&mut self, what: &str, mut ask: impl FnMut()) {
        let begun = Instant::now();
        let mut clients = std::mem::take(&mut self.clients);
        let mut control = Times::default();
        let waiting = AtomicU64::new(clients.len() as u64);
        let back: Vec<Option<Duration>> = thread::scope(|scope| {
            let (vigil, waiting) = (&*self, &waiting);
            let workers: Vec<_> = clients
                .iter_mut()
                .map(|(_, client)| {
                    scope.spawn(move || {
                        let back = comes_true(PATIENCE, || {
                            let answer = client.get(&vigil.fresh());
                            answer.is_ok_and(|answer| answer.status == 200)
                        });
                        waiting.fetch_sub(1, Ordering::Relaxed);
                        back.then(|| begun.elapsed())
                    })
                })
                .collect();
            while waiting.load(Ordering::Relaxed) > 0 {
                timed(&mut control, &mut ask);
                thread::sleep(PACE);
            }
            let back = workers.into_iter().map(|worker| worker.join());
            back.map(|back| back.expect("no panic")).collect()
        });
        self.clients = clients;
        self.hits.go_on();
        println!("{what}: back after {back:.3?}; control: {control}");
        for back in back {
            let in_time = back.is_some_and(|back| back <= RETURN + STEPS * control.longest());
            assert!(in_time, "{what}: back after {back:.3?}; control: {control}");
        }
    }

    /// Ends the watch; no hit may have failed.
    #[track_caller]
    pub fn end(self) {
        self.hits.end();
    }
}

/// Sends these at once, each on a connection of its own: each is answered with 503 by its deadline, or a moment later.
#[track_caller]
pub fn answered_by_the_deadline(server: &Server, deadline: Duration, requests: &[Request]) {
    let (mut times, mut control) = (Times::default(), Times::default());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let watch = scope.spawn(move || {
            let (mut control, mut client) = (Times::default(), server.connect());
            while !over.load(Ordering::Relaxed) {
                let health = timed(&mut control, || client.get("/healthz"));
                health.expect("an answer").expect(200);
                thread::sleep(PACE);
            }
            control
        });
        let clients: Vec<_> = requests
            .iter()
            .map(|request| {
                let mut client = server.connect();
                scope.spawn(move || {
                    let mut took = Times::default();
                    let answer = timed(&mut took, || client.call(request)).expect("an answer");
                    answer.problem(503);
                    took
                })
            })
            .collect();
        until_done(over, || {
            for client in clients {
                times.add(client.join().expect("no panic"));
            }
        });
        control = watch.join().expect("no panic");
    });
    println!("deadline {deadline:?}: {times}; control: {control}");
    assert!(
        times.longest() <= deadline + LATE + STEPS * control.longest(),
        "deadline {deadline:?}: {times}; control: {control}"
    );
}
