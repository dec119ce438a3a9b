//! The checker finds what it is there to find: a server whose protocol is broken on purpose. Only in a build with the
//! feature `sabotage`, which `tests/run sabotage` makes.

use std::time::Duration;

use crate::support::checker::{Verdict, check};
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::{Backend, Server, alone};

/// Within this a fault has to show; it takes a second.
const TIME: Duration = Duration::from_secs(60);

fn serve(backend: &Backend, fault: &str, more: &[&str]) -> Server {
    let canvas = backend.canvas().workers(3).env("SABOTAGE", fault);
    let mut server = canvas.args(["--l1-ttl", "1h"]).args(more).start();
    server.allow("sabotage");
    server
}

#[track_caller]
fn assert_noticed(verdict: &Verdict) {
    println!("{verdict:?}");
    let noticed = verdict
        .violations
        .iter()
        .any(|what| what.contains("acknowledged"));
    assert!(noticed, "nobody noticed: {verdict:?}");
}

#[test]
fn generations_that_move_before_the_commit_are_noticed() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = serve(&backend, "move-before-commit", &[]);
    assert_noticed(&check(&[&server], Duration::ZERO, TIME, || ()));
}

/// Without the worker's own cache, which would hide it.
#[test]
fn a_redis_without_tombstones_is_noticed() {
    let _machine = alone();
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let server = serve(&backend, "no-tombstone", &["--l1-bytes", "0"]);
    assert_noticed(&check(&[&server], Duration::ZERO, TIME, || ()));
}

#[test]
fn a_server_that_is_not_broken_passes_in_the_same_build() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = serve(&backend, "", &[]);
    let verdict = check(&[&server], Duration::ZERO, Duration::from_secs(5), || ());
    assert!(verdict.violations.is_empty(), "{verdict:?}");
}
