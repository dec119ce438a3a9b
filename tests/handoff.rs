//! A worker that starts has the cache of one that serves. The test writes behind the server's back, so that what a worker has
//! kept can be told from what it reads.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use crate::support::canvas::Canvas;
use crate::support::http::Client;
use crate::support::postgres::Postgres;
use crate::support::process::signal;
use crate::support::shoes::{create, draft, list_target, put};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

const SHOE: i64 = 7;

/// What each worker answers, once.
#[track_caller]
fn answers(server: &Server) -> BTreeSet<String> {
    let clients = server.one_client_per_worker();
    let ask = |(_, mut client): (i32, Client)| {
        let response = client.get(&list_target(SHOE)).expect("an answer");
        let row = &response.expect(200).json()[0];
        row["img1"].as_str().expect("a picture").to_owned()
    };
    clients.into_iter().map(ask).collect()
}

/// Waits until there are so many workers, and all of them serve.
#[track_caller]
fn settle(server: &Server, count: usize) {
    wait_until(PATIENCE, "every worker to serve", || {
        let workers = server.workers();
        workers.len() == count && server.answering_workers() == workers
    });
}

/// Has this signal replace every worker.
#[track_caller]
fn replace_all(server: &Server, which: Signal, count: usize) {
    let before = server.workers();
    server.signal(which);
    wait_until(PATIENCE, "every worker to be replaced", || {
        server.workers().is_disjoint(&before)
    });
    settle(server, count);
}

fn all(answer: &str) -> BTreeSet<String> {
    BTreeSet::from([answer.to_owned()])
}

/// Every worker has kept `old`, and the database holds `new` without their knowing.
#[track_caller]
fn keep_old(backend: &Backend, server: &Server) {
    create(server, SHOE, &[("img1", "old")]);
    assert_eq!(answers(server), all("old"));
    backend.execute("UPDATE shoe_images SET img1 = 'new'");
    assert_eq!(answers(server), all("old"), "nothing was kept");
}

/// Has the worker of one slot replaced after its death.
#[track_caller]
fn kill_one(server: &Server) {
    let before = server.workers();
    let victim = *before.first().expect("a worker");
    signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "the dead worker to be replaced", || {
        let now = server.workers();
        now.len() == before.len() && !now.contains(&victim)
    });
}

#[test]
fn new_workers_have_what_the_old_ones_kept() {
    let backend = Backend::sqlite();
    let arguments = ["--l1-ttl", "1h"];
    let mut server = backend.canvas().workers(2).args(arguments).start();
    server.allow("SIGKILL");
    keep_old(&backend, &server);
    server.reload(2);
    assert_eq!(answers(&server), all("old"), "after a reload");
    // A slot more has no worker to replace, so it takes from another's.
    replace_all(&server, Signal::SIGTTIN, 3);
    assert_eq!(answers(&server), all("old"), "with a third worker");
    kill_one(&server);
    settle(&server, 3);
    assert_eq!(answers(&server), all("old"), "after a death");
    replace_all(&server, Signal::SIGUSR2, 2);
    assert_eq!(answers(&server), all("old"), "after an upgrade");
    // What was handed on is as mortal as what was asked for.
    server
        .call(&put(1, draft(SHOE, &[("img1", "newer")])))
        .expect(200);
    assert_eq!(answers(&server), all("newer"));
    server.reload(2);
    assert_eq!(answers(&server), all("newer"), "a write was forgotten");
}

#[test]
fn headers_are_those_of_the_new_configuration_and_answers_of_its_database() {
    let (backend, other) = (Backend::sqlite(), Backend::sqlite());
    let file = backend.dir.path().join("config.toml");
    let configure = |database: &str, age: &str| {
        let lines = format!(
            "workers = 2\nl1_ttl = \"1h\"\ndatabase_url = \"{database}\"\ncache_max_age = \"{age}\"\n"
        );
        std::fs::write(&file, lines).expect("a configuration");
    };
    let url = |backend: &Backend| backend.database_url.clone();
    configure(&url(&backend), "10s");
    let server = Canvas::new(backend.dir.path())
        .arg("--config")
        .arg(&file)
        .start();
    keep_old(&backend, &server);
    configure(&url(&backend), "20s");
    server.reload(2);
    let response = server.get(&list_target(SHOE));
    assert_eq!(response.header("cache-control"), Some("public, max-age=20"));
    assert_eq!(answers(&server), all("old"));
    other.execute("INSERT INTO shoe_images (shoe_id, img1) VALUES (7, 'another')");
    configure(&url(&other), "20s");
    server.reload(2);
    assert_eq!(answers(&server), all("another"), "of another database");
}

/// A reload in an outage, of all times, would have cost what keeps readers content.
#[test]
fn a_reload_while_the_database_is_away_loses_nothing_that_was_kept() {
    let _machine = alone();
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let arguments = ["--l1-ttl", "1h"];
    let mut server = backend.canvas().workers(2).args(arguments).start();
    server.allow("store");
    keep_old(&backend, &server);
    postgres.stop();
    server.reload(2);
    assert_eq!(answers(&server), all("old"));
    postgres.start();
    let asks = |(_, mut client): (i32, Client)| {
        let other = client.get(&list_target(SHOE + 1));
        other.is_ok_and(|response| response.status == 200)
    };
    wait_until(PATIENCE, "every worker to have the database back", || {
        server.one_client_per_worker().into_iter().all(asks)
    });
    server
        .call(&put(1, draft(SHOE, &[("img1", "newer")])))
        .expect(200);
    assert_eq!(answers(&server), all("newer"));
}

/// A donor that does not answer costs a moment: the one that serves longest is stopped, and its sibling dies.
#[test]
fn a_donor_that_stands_still_is_not_waited_for() {
    let backend = Backend::sqlite();
    let mut server = backend.canvas().workers(2).start();
    server.allow("SIGKILL");
    create(&server, SHOE, &[("img1", "old")]);
    let workers: Vec<i32> = server.workers().into_iter().collect();
    let [donor, victim] = workers[..] else {
        panic!("{workers:?} are not two workers");
    };
    signal(donor, Signal::SIGSTOP);
    signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "an heir that serves", || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&victim)
    });
    server.get(&list_target(SHOE)).expect(200);
    signal(donor, Signal::SIGCONT);
    settle(&server, 2);
}
