//! TERM to a worker: somebody takes its place before it leaves, and a signal to the whole group costs nobody an answer. And
//! a worker that has no master any more before it serves.

use nix::sys::signal::Signal;

use crate::control::status;
use crate::support::http::Request;
use crate::support::load::{Load, On, Style};
use crate::support::postgres::Postgres;
use crate::support::process::{alive, signal, stand_still};
use crate::support::{Backend, Client, PATIENCE, Server, alone, wait_until};

/// It once left by itself and told nobody, so an idle client of the only worker kept everybody else waiting.
#[test]
fn the_only_worker_that_is_told_to_finish_is_relieved_first() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    for which in [Signal::SIGTERM, Signal::SIGQUIT] {
        let old = server.only_worker();
        let mut idle = server.connect();
        idle.get("/healthz").expect("an answer").expect(200);
        signal(old, which);
        wait_until(PATIENCE, "a worker beside the one that finishes", || {
            let there = server.workers();
            there.len() == 2 || !there.contains(&old)
        });
        assert!(alive(old), "it has left its idle client");
        server.wait_for_line(&format!("(pid {old}) was told to finish"));
        server.get("/healthz").expect(200);
        // Its client may ask once more.
        idle.get("/healthz").expect("an answer").expect(200);
        drop(idle);
        wait_until(PATIENCE, "the old worker to leave", || !alive(old));
    }
}

/// A worker's lanes begin after it has asked to die with its master.
fn has_threads(pid: i32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
}

/// True once no signal waits for the process: it has read those that are blocked.
fn has_heard(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = |line: &str| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000");
    !status.lines().any(pending)
}

/// As `systemctl kill` and Ctrl-\\ do. The worker that heard first left at once, and what came to its queue was reset when
/// the master closed the listeners.
#[test]
fn who_is_told_to_finish_before_the_master_is_serves_until_the_master_says_so() {
    let backend = Backend::sqlite();
    let mut server = backend.serve(2);
    stand_still(server.master());
    for worker in server.workers() {
        signal(worker, Signal::SIGTERM);
        wait_until(PATIENCE, "a worker to hear", || has_heard(worker));
    }
    server.signal(Signal::SIGTERM);
    let mut late: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for client in &mut late {
        let request = Request::new("GET", "/healthz").bytes();
        client.send_raw(&request).expect("a request");
    }
    server.signal(Signal::SIGCONT);
    for client in &mut late {
        client.receive(true).expect("an answer").expect(200);
    }
    assert_eq!(server.wait_for_exit().code(), Some(0));
    server.assert_clean_log();
}

/// Nobody listened to the channel while a worker started, so one that hung there kept the address from the next server.
#[test]
fn a_worker_that_starts_dies_with_its_master() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let mut server = backend.serve(1);
    // Half a second in which a worker waits for the database, before it is ready.
    postgres.freeze();
    let starting = loop {
        let old = server.only_worker();
        signal(old, Signal::SIGKILL);
        let fresh = |server: &Server| server.workers().into_iter().find(|pid| *pid != old);
        wait_until(PATIENCE, "a worker that starts", || {
            fresh(&server).is_some_and(has_threads)
        });
        let fresh = server.only_worker();
        stand_still(fresh);
        if status(&backend)["workers"][0]["state"] == "starting" {
            break fresh;
        }
        signal(fresh, Signal::SIGCONT);
    };
    server.kill_master();
    wait_until(PATIENCE, "it to be gone", || !alive(starting));
    postgres.thaw();
}

#[test]
fn a_group_that_is_told_to_finish_loses_no_request_under_load() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let mut server = backend.serve(2);
    let reads = vec![Request::new("GET", "/healthz")];
    let load = Load::start(server.address(), Style::KeepAlive, 6, reads);
    load.wait_for_answers(200);
    for worker in server.workers() {
        signal(worker, Signal::SIGTERM);
    }
    server.stop_with(Signal::SIGTERM);
    let tally = load.stop();
    println!("{tally:?}");
    assert_eq!(tally.troubled(On::Reused), 0, "{tally:?}");
    assert!(tally.other.is_empty(), "{tally:?}");
}
