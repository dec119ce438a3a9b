//! No reader ever sees a value that is older than an acknowledged write, whoever dies meanwhile: readers and writers on all
//! workers of one host or two, while workers, connections and Redis are killed at random.
//!
//! `tests/run checker 600` checks each for ten minutes, and prints what was read and written.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::checker::{Verdict, check};
use crate::support::postgres::Postgres;
use crate::support::process::signal;
use crate::support::redis::{self, Redis};
use crate::support::{Backend, Server, alone};

/// Of one host and its own: nothing.
const NONE: Duration = Duration::ZERO;

/// Of other hosts: the server promises one message, or half a second where that is lost. A busy machine may keep a
/// process from running for long; an answer that is never corrected is what must show.
const LAG: Duration = Duration::from_secs(5);

/// The second that the guarantee speaks of, which holds as long as Redis is there.
const SOON: Duration = Duration::from_secs(1);

/// So long that nothing is seen because its time was over.
const FOR_EVER: [&str; 2] = ["--l1-ttl", "1h"];

pub fn time() -> Duration {
    match std::env::var("CANVAS_CHECK_SECONDS") {
        Ok(text) => Duration::from_secs(text.parse().expect("CANVAS_CHECK_SECONDS is a number")),
        Err(_) => Duration::from_secs(5),
    }
}

fn seeded() -> fastrand::Rng {
    let seed = fastrand::u64(..);
    println!("the order of the troubles: seed {seed}");
    fastrand::Rng::with_seed(seed)
}

fn serve(backend: &Backend) -> Server {
    serve_with(backend, &[])
}

fn serve_with(backend: &Backend, more: &[&str]) -> Server {
    let canvas = backend.canvas().workers(3).args(FOR_EVER);
    let mut server = canvas.args(more).start();
    for expected in [
        "SIGKILL",
        "degraded",
        "not available",
        "database",
        "store",
        "redis",
    ] {
        server.allow(expected);
    }
    server
}

fn kill_a_worker(server: &Server, random: &mut fastrand::Rng) {
    let workers: Vec<i32> = server.workers().into_iter().collect();
    if let Some(victim) = random.choice(workers) {
        signal(victim, Signal::SIGKILL);
    }
}

/// Prints what was seen, and fails if it was too little or not in order.
#[track_caller]
pub fn assert_coherent(what: &str, verdict: &Verdict) {
    println!(
        "{what}: {} reads, {} writes acknowledged, {} unknown, {} refused; on another host {:?} old at most, control {:?}",
        verdict.reads,
        verdict.acknowledged,
        verdict.unknown,
        verdict.refused,
        verdict.oldest,
        verdict.slowest
    );
    assert!(verdict.violations.is_empty(), "{what}: {verdict:?}");
    assert!(
        verdict.reads > 100 && verdict.acknowledged > 10,
        "{what}: too little happened: {verdict:?}"
    );
}

#[test]
fn sqlite_while_workers_die() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = serve(&backend);
    let mut random = seeded();
    let verdict = check(&[&server], NONE, time(), || {
        kill_a_worker(&server, &mut random);
    });
    assert_coherent("SQLite", &verdict);
}

/// Ends every connection of the database but our own.
fn cut_connections(backend: &Backend) {
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut own = backend.postgres().connect();
    own.execute(others, &[]).expect("a superuser");
}

#[test]
fn postgres_while_workers_and_connections_die() {
    let _machine = alone();
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    let server = serve(&backend);
    let mut random = seeded();
    let verdict = check(&[&server], NONE, time(), || match random.bool() {
        true => kill_a_worker(&server, &mut random),
        false => cut_connections(&backend),
    });
    assert_coherent("PostgreSQL", &verdict);
}

fn cut_redis(redis: &Redis) {
    let mut connection = redis::connect(&redis.url()).expect("the test's Redis");
    let _: i64 = ::redis::cmd("CLIENT")
        .arg(&["KILL", "SKIPME", "yes"])
        .query(&mut connection)
        .expect("CLIENT KILL");
}

/// While Redis is there, a lost connection to it costs half a second.
#[test]
fn two_hosts_hear_of_each_other_within_a_second() {
    let _machine = alone();
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let (here, there) = (serve(&backend), serve(&backend));
    let mut random = seeded();
    let verdict = check(&[&here, &there], LAG, time(), || match random.u8(..4) {
        0 => kill_a_worker(&here, &mut random),
        1 => kill_a_worker(&there, &mut random),
        2 => cut_connections(&backend),
        _ => cut_redis(&redis),
    });
    assert_coherent("two hosts and their Redis", &verdict);
    assert!(verdict.oldest <= SOON + 4 * verdict.slowest, "{verdict:?}");
}

/// What workers keep themselves would hide much of what Redis has.
#[test]
fn two_hosts_without_caches_of_their_own_while_redis_dies() {
    let _machine = alone();
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let serve = || serve_with(&backend, &["--l1-bytes", "0"]);
    let (here, there) = (serve(), serve());
    let mut random = seeded();
    let verdict = check(&[&here, &there], LAG, time(), || match random.u8(..4) {
        0 => kill_a_worker(&here, &mut random),
        1 => kill_a_worker(&there, &mut random),
        2 => cut_redis(&redis),
        _ => {
            redis.kill();
            redis.start();
        }
    });
    assert_coherent("two hosts, Redis alone", &verdict);
}

#[test]
fn two_hosts_while_workers_connections_and_redis_die() {
    let _machine = alone();
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let (here, there) = (serve(&backend), serve(&backend));
    let mut random = seeded();
    let verdict = check(&[&here, &there], LAG, time() * 2, || {
        match random.u8(..5) {
            0 => kill_a_worker(&here, &mut random),
            1 => kill_a_worker(&there, &mut random),
            2 => cut_connections(&backend),
            3 => cut_redis(&redis),
            _ => {
                redis.kill();
                redis.start();
            }
        };
    });
    assert_coherent("two hosts", &verdict);
}
