//! The checker finds what it is there to find: a server whose protocol is broken on purpose; and the master a worker whose loop
//! alone stands still. Only in a build with the feature `sabotage`, which `tests/run sabotage` makes.

use std::time::Duration;

use crate::replicas::{Cluster, wait_for_all};
use crate::support::checker::{Verdict, check};
use crate::support::http::{Request, Trouble};
use crate::support::load::{Load, Style};
use crate::support::postgres::Postgres;
use crate::support::process::{alive, stat};
use crate::support::redis::Redis;
use crate::support::shoes::create;
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

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

/// The replica never replays, so what it says is old whenever it is believed. Without the worker's own cache, which would hide it.
#[test]
fn reads_that_forget_what_was_written_are_noticed() {
    let _machine = alone();
    let cluster = Cluster::new(1, None);
    let canvas = cluster.canvas().workers(3).env("SABOTAGE", "forget-writes");
    let mut server = canvas.args(["--max-replica-lag", "10m"]).start();
    server.allow("sabotage");
    wait_for_all(&server, 1);
    cluster.replicas[0].pause_replay();
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

/// A worker that is stopped as a whole (SIGSTOP) could be found out in many ways. Here only its loop stands still: its threads
/// live, hear the master and would go on for ever.
#[test]
fn a_worker_whose_loop_alone_stands_still_is_ended_and_replaced() {
    const CLIENTS: usize = 6;
    let _machine = alone();
    let backend = Backend::sqlite();
    let moment = backend.dir.join("now");
    let canvas = backend.canvas().workers(3).env("SABOTAGE", "stop-loop");
    let mut server = canvas
        .env("SABOTAGE_AT", moment.as_os_str())
        .args(["--hang-timeout", "2s"])
        .start();
    for expected in ["sabotage", "worker "] {
        server.allow(expected);
    }
    create(&server, 7, &[("img1", "a")]);
    let before = server.workers();
    let load = Load::start(
        server.address(),
        Style::ConnectionPerRequest,
        CLIENTS,
        vec![Request::new("GET", "/healthz")],
    );
    load.wait_for_answers(100);
    std::fs::write(&moment, "").expect("a file in the test's folder");
    wait_until(PATIENCE, "a worker to stop its loop", || !moment.exists());
    // New connections are answered by its siblings.
    load.wait_for_answers(200);
    let line = server.wait_for_line("hangs: its loop has not moved");
    let hung = *before
        .iter()
        .find(|pid| line.contains(&format!("(pid {pid})")))
        .expect("one of the workers");
    // Whether it is dead by now or not, it was not stopped.
    assert_ne!(stat(hung).map(|stat| stat.state), Some('T'), "{line}");
    let end = server.wait_for_line(&format!("(pid {hung}) ended with SIG"));
    let told = server.lines_with(&format!("[{hung}] worker "));
    let mut words = vec!["aborted on thread scheduler"];
    // On a busy machine the second that it has is too short to look all names up, and it is killed.
    if end.contains("SIGABRT") {
        words.extend(["sabotage::stop_loop", "clock::"]);
    }
    for words in words {
        assert!(told.iter().any(|line| line.contains(words)), "{told:#?}");
    }
    wait_until(PATIENCE, "another worker in its place", || {
        let now = server.workers();
        now.len() == 3 && !now.contains(&hung)
    });
    assert!(before.iter().filter(|pid| alive(**pid)).count() == 2);
    load.wait_for_answers(100);
    let tally = load.stop();
    tally.report("a loop that stands still");
    // What it had accepted: one request of each client at most.
    assert!(tally.other.is_empty(), "{tally:?}");
    assert!(tally.lost_on.len() <= CLIENTS, "{tally:?}");
    let kinds = [Trouble::Closed, Trouble::Reset, Trouble::Truncated];
    assert!(
        tally.trouble.keys().all(|(_, kind)| kinds.contains(kind)),
        "{tally:?}"
    );
}
