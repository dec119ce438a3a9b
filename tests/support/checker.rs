//! A live checker of coherence. Writers make, change, move and delete a row each, through whatever worker takes their connection, and
//! number its states; readers ask for the rows on every host, and no answer may be older than a write that was acknowledged
//! before it was asked for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Client, Response};
use super::server::Server;
use super::shoes::{delete, draft, id_of, list_target, post, put};
use super::wait::{PATIENCE, comes_true, until_done};

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
    /// How long another host went on with an answer after the write that ended it was acknowledged, at the longest.
    pub oldest: Duration,
    /// Its control: how long a host took for an answer that costs nothing, at the longest.
    pub slowest: Duration,
}

/// A writer, and the two shoes that its rows are of: one row at a time, which is changed, moved from one to the other, deleted
/// and made anew.
struct Key {
    shoes: [i64; 2],
    /// The host that its writer writes to.
    home: usize,
    /// The row that there is now.
    row: Mutex<Arc<Row>>,
}

/// A row from the request that makes it on. Its name is in `img2`, and the number of its state in `img1`.
struct Row {
    name: String,
    history: Mutex<History>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    UnderWay,
    Acknowledged(Instant),
    /// It may still happen, even after later ones.
    Unknown,
    Refused,
}

/// A state that a write was to bring about: the number, and whose row it is; nobody's once deleted.
#[derive(Debug)]
struct Version {
    number: u64,
    shoe: Option<i64>,
    /// Whose row it was before, as far as its writer knows. After a write of unknown outcome it does not, and then nothing is
    /// promised of the shoe that it may have been of: that write may have taken it from there, and is still to be told.
    before: Option<i64>,
    fate: Fate,
}

impl Version {
    /// Whether this write is one of that shoe's.
    fn is_of(&self, shoe: i64) -> bool {
        self.shoe == Some(shoe) || self.before == Some(shoe)
    }
}

#[derive(Default)]
struct History {
    versions: Vec<Version>,
    /// The places of those whose fate is unknown.
    unknown: Vec<usize>,
    /// Nobody knows any more whether there is such a row, or whether there are two.
    lost: bool,
}

impl History {
    /// The place of the newest state that this shoe must show: it was acknowledged by then.
    fn newest(&self, shoe: i64, moment: Instant) -> usize {
        let by_then = |version: &Version| {
            version.is_of(shoe) && matches!(version.fate, Fate::Acknowledged(at) if at <= moment)
        };
        self.versions.iter().rposition(by_then).unwrap_or(0)
    }

    /// The place of the newest state in which this shoe shows this number of the row, or nothing of it; past the end if that
    /// may come at any time; `None` if it never can.
    fn place(&self, shoe: i64, shown: Option<u64>) -> Option<usize> {
        let fits = |version: &Version| {
            let shows = (version.shoe == Some(shoe)).then_some(version.number);
            version.fate != Fate::Refused && shows == shown
        };
        let fitting = |(place, version): (usize, &Version)| fits(version).then_some(place);
        if self
            .unknown
            .iter()
            .any(|place| fits(&self.versions[*place]))
        {
            return Some(self.versions.len());
        }
        self.versions.iter().enumerate().rev().find_map(fitting)
    }

    /// When the first state of this shoe after this place was acknowledged.
    fn ended(&self, shoe: i64, place: usize) -> Option<Instant> {
        let after = self.versions.get(place + 1..)?;
        after.iter().find_map(|version| match version.fate {
            Fate::Acknowledged(at) if version.is_of(shoe) => Some(at),
            _ => None,
        })
    }
}

/// What a writer does next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Post,
    Put,
    Move,
    Delete,
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
    /// In nanoseconds, as in [`Verdict`].
    oldest: AtomicU64,
    slowest: AtomicU64,
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
    for home in 0..hosts.len() {
        for number in 0..KEYS_A_HOST {
            let first = 1000 * (home as i64 + 1) + 2 * number;
            keys.push(Key {
                shoes: [first, first + 1],
                home,
                row: Mutex::new(Row::new(first, 0)),
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
        oldest: AtomicU64::new(0),
        slowest: AtomicU64::new(0),
    };
    let unknown = AtomicU64::new(0);
    let until = Instant::now() + time;
    thread::scope(|scope| {
        for key in &check.keys {
            scope.spawn(|| check.write(key, &unknown));
        }
        for host in 0..hosts.len() {
            for number in 0..READERS_A_HOST {
                let check = &check;
                scope.spawn(move || check.read(host, number));
            }
            let check = &check;
            scope.spawn(move || check.ask_for_health(host));
        }
        until_done(&check.over, || {
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
        });
    });
    Verdict {
        reads: check.reads.into_inner(),
        acknowledged: check.acknowledged.into_inner(),
        unknown: unknown.into_inner(),
        refused: check.refused.into_inner(),
        violations: check.violations.into_inner().unwrap(),
        oldest: Duration::from_nanos(check.oldest.into_inner()),
        slowest: Duration::from_nanos(check.slowest.into_inner()),
    }
}

/// Reads a shoe on all hosts while `trouble` happens: whatever they are asked, each shows this as its first picture.
#[track_caller]
pub fn assert_all_show(hosts: &[&Server], shoe: i64, img1: &str, trouble: impl FnOnce()) {
    let (reads, stale, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for host in hosts {
            scope.spawn(|| {
                let mut client = host.connect();
                while !over.load(Ordering::Relaxed) {
                    let answer = client.get(&list_target(shoe)).expect("an answer");
                    let rows = answer.expect(200);
                    reads.fetch_add(1, Ordering::Relaxed);
                    let is_old = rows.json()[0]["img1"] != img1;
                    stale.fetch_add(u64::from(is_old), Ordering::Relaxed);
                    // The pace of a client, and no waiting for an event.
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        until_done(&over, trouble);
    });
    let (reads, stale) = (reads.into_inner(), stale.into_inner());
    println!("a lost tombstone: {reads} reads, {stale} stale");
    assert!(reads > 100, "{reads} reads");
    assert_eq!(stale, 0, "of {reads} reads");
}

impl Row {
    /// One that is not there yet.
    fn new(first_shoe: i64, turn: u64) -> Arc<Row> {
        let nothing = Version {
            number: 0,
            shoe: None,
            before: None,
            fate: Fate::Acknowledged(Instant::now()),
        };
        Arc::new(Row {
            name: format!("{first_shoe}-{turn}"),
            history: Mutex::new(History {
                versions: vec![nothing],
                unknown: Vec::new(),
                lost: false,
            }),
        })
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

    fn write(&self, key: &Key, unknown: &AtomicU64) {
        let mut random = fastrand::Rng::with_seed(key.shoes[0] as u64);
        let mut client = None;
        let mut row = key.row.lock().unwrap().clone();
        // Where the row is, as far as its writer knows.
        let (mut id, mut shoe, mut place) = (None, key.shoes[0], None);
        for number in 1.. {
            if self.is_over() {
                return;
            }
            let deed = match (id, random.u8(..10)) {
                (None, _) => Deed::Post,
                (_, 0) => Deed::Delete,
                (_, 1..4) => Deed::Move,
                _ => Deed::Put,
            };
            if deed == Deed::Move {
                shoe = key.shoes[usize::from(shoe == key.shoes[0])];
            }
            let state = draft(shoe, &[("img1", &number.to_string()), ("img2", &row.name)]);
            let request = match (deed, id) {
                (Deed::Put | Deed::Move, Some(id)) => put(id, state),
                (Deed::Delete, Some(id)) => delete(id),
                _ => post(state),
            };
            let to = (deed != Deed::Delete).then_some(shoe);
            row.history.lock().unwrap().versions.push(Version {
                number,
                shoe: to,
                before: place,
                fate: Fate::UnderWay,
            });
            let answer = self.call(&mut client, key.home, |client| client.call(&request).ok());
            let fate = match &answer {
                Some(answer) if matches!(answer.status, 200 | 201 | 204) => {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    Fate::Acknowledged(Instant::now())
                }
                Some(answer) if !answer.text().contains("outcome-unknown") => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    Fate::Refused
                }
                _ => {
                    unknown.fetch_add(1, Ordering::Relaxed);
                    Fate::Unknown
                }
            };
            let mut history = row.history.lock().unwrap();
            let last = history.versions.len() - 1;
            history.versions[last].fate = fate;
            match fate {
                Fate::Unknown => {
                    history.unknown.push(last);
                    place = place.filter(|place| to == Some(*place));
                }
                Fate::Acknowledged(_) => place = to,
                Fate::Refused | Fate::UnderWay => {}
            }
            let acknowledged = matches!(fate, Fate::Acknowledged(_));
            match deed {
                Deed::Post if acknowledged => id = answer.as_ref().map(id_of),
                Deed::Delete if acknowledged => id = None,
                Deed::Post | Deed::Delete if fate == Fate::Unknown => history.lost = true,
                _ => {}
            }
            let forsaken = history.lost;
            drop(history);
            if forsaken {
                row = Row::new(key.shoes[0], number);
                *key.row.lock().unwrap() = row.clone();
                (id, place) = (None, None);
            }
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
            let shoe = key.shoes[random.usize(..2)];
            let row = key.row.lock().unwrap().clone();
            let client = &mut clients[random.usize(..4)];
            let asked = Instant::now();
            let seen_by = match key.home == host {
                true => Some(asked),
                false => asked.checked_sub(self.lag),
            };
            let least = seen_by.map_or(0, |then| row.history.lock().unwrap().newest(shoe, then));
            let target = list_target(shoe);
            let answer = self.call(client, host, |client| client.get(&target).ok());
            let Some(answer) = answer.filter(|answer| answer.status == 200) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.reads.fetch_add(1, Ordering::Relaxed);
            let rows = answer.json();
            let ours = |shown: &&Value| shown["img2"] == row.name.as_str();
            let shown: Vec<u64> = rows
                .as_array()
                .into_iter()
                .flatten()
                .filter(ours)
                .filter_map(|shown| shown["img1"].as_str()?.parse().ok())
                .collect();
            let history = row.history.lock().unwrap();
            if history.lost {
                continue;
            }
            let place = match shown.len() {
                0 | 1 => history.place(shoe, shown.first().copied()),
                _ => None,
            };
            if place.is_none_or(|place| place < least) {
                let last = history.versions.len().saturating_sub(6).min(least);
                self.violate(format!(
                    "host {host} showed {shown:?} of row {} of host {} for shoe {shoe}, after {} had been acknowledged: {:?}",
                    row.name, key.home, history.versions[least].number, &history.versions[last..]
                ));
                return;
            }
            let ended = place.and_then(|place| history.ended(shoe, place));
            let age = ended.map_or(Duration::ZERO, |ended| {
                asked.saturating_duration_since(ended)
            });
            self.oldest
                .fetch_max(age.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// The control. A connection's first answer may have to wait for a worker that is still to begin.
    fn ask_for_health(&self, host: usize) {
        let mut client = None;
        while !self.is_over() {
            let known = client.is_some();
            let begun = Instant::now();
            let answer = self.call(&mut client, host, |client| client.get("/healthz").ok());
            if known && answer.is_some() {
                let took = begun.elapsed().as_nanos() as u64;
                self.slowest.fetch_max(took, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
