//! A live checker of coherence. Writers count up, each a row of its own, through whatever worker takes their connection; readers ask
//! for the rows on every host, and no answer may be older than a write that was acknowledged before it was asked for.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Client, Response};
use super::server::Server;
use super::shoes::{create, draft, list_target, put};
use super::wait::{PATIENCE, comes_true};

const KEYS_A_HOST: i64 = 3;
const READERS_A_HOST: usize = 3;

/// What came of a check.
#[derive(Debug, Default)]
pub struct Verdict {
    pub reads: u64,
    pub acknowledged: u64,
    /// Writes of which nobody knows whether they happened.
    pub unknown: u64,
    /// Requests that were refused, or whose connection broke.
    pub refused: u64,
    /// Answers that were too old, in words.
    pub violations: Vec<String>,
}

/// One row, written by one writer.
struct Key {
    shoe: i64,
    id: i64,
    /// The host that its writer writes to.
    home: usize,
    history: Mutex<History>,
}

#[derive(Default)]
struct History {
    /// Each number that was acknowledged, and when.
    acknowledged: Vec<(u64, Instant)>,
    /// Numbers whose writes may still happen, even after later ones.
    unknown: BTreeSet<u64>,
}

impl History {
    /// The newest number that was acknowledged by then.
    fn newest(&self, moment: Instant) -> u64 {
        let by_then = |(_, at): &&(u64, Instant)| *at <= moment;
        let newest = self.acknowledged.iter().rev().find(by_then);
        newest.map_or(0, |(number, _)| *number)
    }
}

struct Check<'s> {
    hosts: &'s [&'s Server],
    keys: Vec<Key>,
    /// How much later than on its own host a write may be seen on others.
    lag: Duration,
    over: AtomicBool,
    reads: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    violations: Mutex<Vec<String>>,
}

/// Checks for so long, or until the first violation. `trouble` is called again and again meanwhile, each time after some more
/// reads, and may break what it likes.
pub fn check(
    hosts: &[&Server],
    lag: Duration,
    time: Duration,
    mut trouble: impl FnMut(),
) -> Verdict {
    let mut keys = Vec::new();
    for (home, server) in hosts.iter().enumerate() {
        for number in 0..KEYS_A_HOST {
            let shoe = 1000 * (home as i64 + 1) + number;
            let id = create(server, shoe, &[("img1", "0")]);
            let history = Mutex::default();
            keys.push(Key {
                shoe,
                id,
                home,
                history,
            });
        }
    }
    let check = Check {
        hosts,
        keys,
        lag,
        over: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        violations: Mutex::default(),
    };
    let until = Instant::now() + time;
    thread::scope(|scope| {
        for key in &check.keys {
            scope.spawn(|| check.write(key));
        }
        for host in 0..hosts.len() {
            for number in 0..READERS_A_HOST {
                let check = &check;
                scope.spawn(move || check.read(host, number));
            }
        }
        while !check.is_over() && Instant::now() < until {
            let goal = check.reads.load(Ordering::Relaxed) + 300;
            let goes_on = comes_true(PATIENCE, || {
                check.is_over() || check.reads.load(Ordering::Relaxed) >= goal
            });
            if !goes_on {
                check.violate("nothing was read any more".to_owned());
            }
            if !check.is_over() {
                trouble();
            }
        }
        check.over.store(true, Ordering::Relaxed);
    });
    Verdict {
        reads: check.reads.into_inner(),
        acknowledged: check.acknowledged.into_inner(),
        unknown: check
            .keys
            .iter()
            .map(|key| key.history.lock().unwrap().unknown.len() as u64)
            .sum(),
        refused: check.refused.into_inner(),
        violations: check.violations.into_inner().unwrap(),
    }
}

impl Check<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn violate(&self, what: String) {
        self.violations.lock().unwrap().push(what);
        self.over.store(true, Ordering::Relaxed);
    }

    /// Sends a request, on a new connection if there is none; `None` if there was no answer.
    fn call(
        &self,
        client: &mut Option<Client>,
        host: usize,
        ask: impl FnOnce(&mut Client) -> Option<Response>,
    ) -> Option<Response> {
        if client.is_none() {
            *client = Client::connect(self.hosts[host].address()).ok();
        }
        let connection = client.as_mut()?;
        let answer = ask(connection);
        if answer.is_none() || connection.told_to_close {
            *client = None;
        }
        answer
    }

    fn write(&self, key: &Key) {
        let mut client = None;
        for number in 1.. {
            if self.is_over() {
                return;
            }
            let body = draft(key.shoe, &[("img1", &number.to_string())]);
            let request = put(key.id, body);
            let answer = self.call(&mut client, key.home, |client| client.call(&request).ok());
            let happened = match &answer {
                Some(answer) if answer.status == 200 => Some(true),
                Some(answer) if answer.text().contains("outcome-unknown") => None,
                Some(_) => Some(false),
                None => None,
            };
            let mut history = key.history.lock().unwrap();
            match happened {
                Some(true) => {
                    history.acknowledged.push((number, Instant::now()));
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                None => drop(history.unknown.insert(number)),
                Some(false) => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
            }
            drop(history);
            // Every other number changes its connection, and with it its worker.
            if number % 2 == 0 {
                client = None;
            }
        }
    }

    fn read(&self, host: usize, number: usize) {
        let mut random = fastrand::Rng::with_seed(number as u64);
        let mut clients: Vec<Option<Client>> = (0..4).map(|_| None).collect();
        while !self.is_over() {
            let key = &self.keys[random.usize(..self.keys.len())];
            let client = &mut clients[random.usize(..4)];
            let asked = Instant::now();
            let seen_by = match key.home == host {
                true => Some(asked),
                false => asked.checked_sub(self.lag),
            };
            let least = seen_by.map_or(0, |then| key.history.lock().unwrap().newest(then));
            let target = list_target(key.shoe);
            let answer = self.call(client, host, |client| client.get(&target).ok());
            let Some(answer) = answer.filter(|answer| answer.status == 200) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.reads.fetch_add(1, Ordering::Relaxed);
            let shown = answer.json()[0]["img1"].as_str().map(str::to_owned);
            let Some(shown) = shown.and_then(|text| text.parse::<u64>().ok()) else {
                self.violate(format!("no number: {answer}"));
                return;
            };
            if shown < least && !key.history.lock().unwrap().unknown.contains(&shown) {
                self.violate(format!(
                    "host {host} showed {shown} of shoe {} of host {}, after {least} had been acknowledged",
                    key.shoe, key.home
                ));
            }
        }
    }
}
