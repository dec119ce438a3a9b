//! More is asked for than the database can do: what it can is done, the rest is refused at once, hits don't notice, and afterwards
//! all is as before. The database is slow by waiting and not by computing, so that its capacity is known whatever the machine does.
//!
//! `tests/run outages 10` asks ten times as often, and prints what was measured.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::postgres::{Database, Postgres};
use crate::support::shoes::list_target;
use crate::support::vigil::{Hits, Times, rounds};
use crate::support::{Backend, Server, alone, until_done};

/// How long the database takes for a row, in each of its connections. One call answers eight at least.
const A_ROW: Duration = Duration::from_micros(2500);

/// What is left of the peak, at least.
const GOODPUT: f64 = 0.9;

/// How long a request that is let in may take.
const ANSWER: Duration = Duration::from_millis(100);

/// How long a refusal may take.
const REFUSAL: Duration = Duration::from_millis(5);

/// How long the server has to find out what its database can do.
const RAMP: Duration = Duration::from_secs(1);

/// Each try finds the server as the one before has left it. A machine that slows it down and not the control spoils some of them;
/// a server that is at fault spoils all.
const TRIES: u32 = 8;

/// A database whose every row takes its time.
fn slow_database(a_row: Duration) -> Backend {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    backend.execute(&format!(
        "INSERT INTO shoe_images (shoe_id, img1) SELECT n, 'a' FROM generate_series(1, 200000) AS n;
         ALTER TABLE shoe_images RENAME TO stored;
         CREATE FUNCTION slowly(text) RETURNS text VOLATILE LANGUAGE sql
             AS 'SELECT $1 FROM pg_sleep({})';
         CREATE VIEW shoe_images AS SELECT id, shoe_id, slowly(img1::text)::varchar AS img1, img2, img3, img4, img5, img6,
             img7, vid1, vid2 FROM stored;
         ANALYZE stored",
        a_row.as_secs_f64()
    ));
    backend
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answers: Times,
    refusals: Times,
    other: Vec<String>,
}

/// Some clients, each of whom asks for shoes that nobody has asked for, one after another, but not more often than this.
#[derive(Clone, Copy)]
struct Load {
    clients: u32,
    pace: Duration,
    /// What is asked before is not counted.
    ramp: Duration,
    time: Duration,
}

impl Load {
    fn run(self, server: &Server, next: &AtomicI64) -> Seen {
        let begun = Instant::now();
        let client = |number: u32| {
            let (mut client, mut seen) = (server.connect(), Seen::default());
            // They don't march in step.
            thread::sleep(self.pace * number / self.clients);
            while begun.elapsed() < self.ramp + self.time {
                let asked = Instant::now();
                let shoe = next.fetch_add(1, Ordering::Relaxed);
                let answer = client.get(&list_target(shoe)).expect("an answer");
                let took = asked.elapsed();
                let late = begun.elapsed() > self.ramp + self.time;
                if begun.elapsed() > self.ramp && !late {
                    match answer.status {
                        200 => seen.answers.push(took),
                        503 if answer.header("retry-after").is_some() => seen.refusals.push(took),
                        _ => seen.other.push(answer.to_string()),
                    }
                }
                // The pace of a client, and no waiting for an event.
                thread::sleep(self.pace.saturating_sub(asked.elapsed()));
            }
            seen
        };
        let mut sum = Seen::default();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|number| scope.spawn(move || client(number)))
                .collect();
            for client in clients {
                let seen = client.join().expect("no panic");
                sum.answers.add(seen.answers);
                sum.refusals.add(seen.refusals);
                sum.other.extend(seen.other);
            }
        });
        assert!(sum.other.is_empty(), "{:?}", sum.other);
        sum
    }

    fn goodput(self, seen: &Seen) -> f64 {
        seen.answers.count() as f64 / self.time.as_secs_f64()
    }
}

/// Runs `work` while a client of the database itself asks for rows as fast as it gets them: how many a second those were, besides.
fn beside_the_database<A>(database: &Database, work: impl FnOnce() -> A) -> (f64, A) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let control = scope.spawn(move || {
            let query =
                "SELECT id, shoe_id, img1 FROM shoe_images WHERE shoe_id BETWEEN $1 AND $1 + 7";
            let mut connection = database.connect();
            let query = connection.prepare(query).expect("a query");
            let (begun, mut rows) = (Instant::now(), 0);
            while !over.load(Ordering::Relaxed) {
                rows += connection.query(&query, &[&1000]).expect("rows").len();
            }
            rows as f64 / begun.elapsed().as_secs_f64()
        });
        let done = until_done(over, work);
        (control.join().expect("no panic"), done)
    })
}

/// What came of a try.
struct Outcome {
    peak: f64,
    goodput: f64,
    seen: Seen,
    /// Rows a second of the database's own client, without and with the crowd.
    control: [f64; 2],
    /// Answers that cost the worker nothing, meanwhile.
    health: Times,
}

impl Outcome {
    /// How much slower than it should be the database is, for everybody.
    fn slowness(&self) -> f64 {
        (1.0 / A_ROW.as_secs_f64() / self.control[1]).max(1.0)
    }

    /// Whether it was an overload, and what came of it is as it should be.
    fn is_good(&self) -> bool {
        let [free, busy] = self.control;
        let an_answer = ANSWER.mul_f64(self.slowness());
        self.seen.refusals.count() > self.seen.answers.count()
            && self.goodput >= GOODPUT * self.peak * (busy / free).min(1.0)
            && self.seen.answers.are_within(an_answer, &self.health)
            && self.seen.refusals.are_within(REFUSAL, &self.health)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { peak, goodput, .. } = self;
        write!(
            f,
            "peak {peak:.0}/s, at five times {goodput:.0}/s, {:.2} of it; answers: {}; refusals: {}; \
             control: the database's own client {:.0} and {:.0} rows/s, /healthz {}",
            goodput / peak,
            self.seen.answers,
            self.seen.refusals,
            self.control[0],
            self.control[1],
            self.health
        )
    }
}

/// Workers of one lane, and so of one connection, each. A row takes so much longer as there are more of them, and so may an answer.
fn ask_for_too_much(workers: u32) {
    let backend = &slow_database(A_ROW * workers);
    let database = backend.postgres();
    let server = backend
        .canvas()
        .workers(workers as usize)
        .args(["--lanes", "1", "--l1-ttl", "1h"])
        .start();
    let next = AtomicI64::new(1000);
    // As many clients as keep the lanes busy without waiting for long.
    let light = Load {
        clients: 4 * workers,
        pace: Duration::ZERO,
        ramp: Duration::from_millis(200),
        time: Duration::from_millis(800),
    };
    // Each of them waits for its answer, so they must be more than one call has at hand and the next one would take: 128 each.
    let clients = 320 * workers;
    let heavy = Load {
        clients,
        pace: A_ROW * clients / 5,
        ramp: RAMP,
        time: Duration::from_millis(1500) * rounds(),
    };
    for _ in 0..TRIES {
        let hits = Hits::start(&server, &list_target(7));
        let (free, seen) = beside_the_database(database, || light.run(&server, &next));
        let peak = light.goodput(&seen);
        assert_eq!(seen.refusals.count(), 0, "refused although there is room");
        let (busy, seen) = beside_the_database(database, || heavy.run(&server, &next));
        let goodput = heavy.goodput(&seen);
        // Right afterwards there is room again, and nothing left of the crowd.
        for _ in 0..20 {
            let shoe = next.fetch_add(1, Ordering::Relaxed);
            server.get(&list_target(shoe)).expect(200);
        }
        let after = light.run(&server, &next);
        assert_eq!(after.refusals.count(), 0, "refused although all is over");
        hits.go_on();
        let (_, health) = hits.end();
        let outcome = Outcome {
            peak,
            goodput,
            seen,
            control: [free, busy],
            health,
        };
        println!("{outcome}");
        if outcome.is_good() {
            return;
        }
    }
    panic!("no try was good");
}

#[test]
fn five_times_what_the_database_can_do() {
    let _machine = alone();
    ask_for_too_much(1);
}

#[test]
fn five_times_what_the_database_can_do_for_two_workers() {
    let _machine = alone();
    ask_for_too_much(2);
}
