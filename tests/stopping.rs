//! Stopping: TERM and QUIT lose nothing that is in flight, INT and a second TERM stop at once, and neither idle clients nor stuck
//! ones hold anybody up for longer than they may.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::http::{Client, Request, Response, Trouble};
use crate::support::load::{Load, On, Style};
use crate::support::postgres::Postgres;
use crate::support::process::alive;
use crate::support::shoes::{Id, create, draft, id_of, list_target, post};
use crate::support::{Backend, Server, alone, over_both_stores};

over_both_stores!(answers_every_request_on_an_open_connection);

/// Reads of some shoes that are there and some that aren't.
fn reads() -> Vec<Request> {
    (1..40)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect()
}

/// Term and quit are the same: stop accepting, finish, exit 0.
fn answers_every_request_on_an_open_connection(backend: &Backend) {
    let _machine = alone();
    for which in [Signal::SIGTERM, Signal::SIGQUIT] {
        let mut server = backend.serve(2);
        create(&server, 7, &[("img1", "a")]);
        let load = Load::start(server.address(), Style::KeepAlive, 6, reads());
        load.wait_for_answers(200);
        server.stop_with(which);
        let tally = load.stop();
        println!(
            "{which}: {} requests answered, {} lost on open connections, {} new connections refused",
            tally.sent() - tally.troubled(On::Reused) - tally.troubled(On::Fresh),
            tally.troubled(On::Reused),
            tally.troubled(On::Fresh),
        );
        // A connection made too late is refused; one that was open gets its answers, and is told of the end.
        assert_eq!(
            tally.troubled(On::Reused),
            0,
            "requests were lost by {which}: {tally:?}"
        );
        assert!(tally.other.is_empty(), "{tally:?}");
        let fresh: BTreeSet<Trouble> = tally.trouble.keys().map(|(_, trouble)| *trouble).collect();
        assert!(
            fresh.is_subset(&BTreeSet::from([Trouble::Refused, Trouble::Reset])),
            "{tally:?}"
        );
    }
}

/// Stops a server while requests are in flight, then lets them go on: each must be answered well.
#[track_caller]
fn stop_amid(mut server: Server, mut waiting: Vec<Client>, go_on: impl FnOnce()) -> Vec<Response> {
    let mut idle = server.one_client_per_worker();
    server.signal(Signal::SIGTERM);
    // A worker that drains closes its idle connections, which shows that it has heard.
    for (worker, client) in &mut idle {
        assert!(
            client.is_closed(),
            "worker {worker} keeps an idle connection while it drains"
        );
    }
    go_on();
    let answers = waiting
        .iter_mut()
        .map(|client| {
            client
                .receive(true)
                .unwrap_or_else(|trouble| panic!("{trouble:?}: a request was lost"))
        })
        .collect();
    assert_eq!(server.wait_for_exit().code(), Some(0));
    server.assert_clean_log();
    answers
}

#[test]
fn waits_for_reads_in_flight() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let server = backend.serve_on_one_warm_lane();
    let mut waiting: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    let count = waiting.len();
    postgres.freeze();
    for (shoe, client) in waiting.iter_mut().enumerate() {
        client
            .send_raw(&Request::new("GET", &list_target(shoe as i64)).bytes())
            .expect("a request");
    }
    server.wait_until_read(&waiting);
    let answers = stop_amid(server, waiting, || postgres.thaw());
    assert_eq!(answers.len(), count);
    for answer in answers {
        assert_eq!(answer.expect(200).text(), "[]");
    }
}

#[test]
fn waits_for_writes_in_flight() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "20s"])
        .start();
    // Another process holds the write lock, so the writes wait inside the store.
    let blocker = backend.open_sqlite();
    blocker
        .execute_batch("BEGIN IMMEDIATE")
        .expect("the write lock");
    let mut waiting: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client
            .send_raw(&post(draft(7, &[("img1", "late")])).bytes())
            .expect("a request");
    }
    server.wait_until_read(&waiting);
    let answers = stop_amid(server, waiting, || {
        blocker
            .execute_batch("COMMIT")
            .expect("the end of the lock")
    });
    let ids: BTreeSet<Id> = answers
        .into_iter()
        .map(|answer| id_of(&answer.expect(201)))
        .collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(
        backend.count("SELECT count(*) FROM shoe_images WHERE img1 = 'late'"),
        4
    );
}

#[test]
fn waits_for_the_rest_of_a_body() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let bytes = post(draft(7, &[("img1", "in two parts")])).bytes();
    let (start, rest) = bytes.split_at(bytes.len() - 10);
    let mut waiting = vec![server.connect()];
    waiting[0].send_raw(start).expect("the first part");
    server.wait_until_read(&waiting);
    let mut writer = waiting[0].another_handle();
    let answers = stop_amid(server, waiting, || writer.send_raw(rest).expect("the rest"));
    answers
        .into_iter()
        .for_each(|answer| drop(answer.expect(201)));
    assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 1);
}

#[test]
fn does_not_wait_for_idle_connections() {
    let backend = Backend::sqlite();
    let mut server = backend.serve(2);
    let mut idle: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    for client in idle.iter_mut().step_by(2) {
        client.get("/healthz").expect("an answer").expect(200);
    }
    let began = Instant::now();
    server.stop_with(Signal::SIGTERM);
    // Far below the drain time-out of 30 s, which is for requests in flight.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "idle connections held the stop for {:?}",
        began.elapsed()
    );
    assert!(idle.iter_mut().all(|client| client.is_closed()));
}

#[test]
fn what_is_stuck_is_cut_at_the_drain_timeout() {
    let backend = Backend::sqlite();
    let canvas = backend.canvas().workers(2);
    let mut server = canvas
        .args(["--drain-timeout", "1s", "--request-timeout", "1s"])
        .args(["--head-timeout", "10m"])
        .start();
    server.allow("killing worker");
    server.allow("SIGKILL");
    let mut stuck = server.connect();
    stuck
        .send_raw(b"GET /healthz HTTP/1.1\r\n")
        .expect("half a head");
    server.wait_until_read([&stuck]);
    let began = Instant::now();
    server.signal(Signal::SIGTERM);
    assert!(matches!(
        stuck.receive(true),
        Err(Trouble::Closed | Trouble::Reset)
    ));
    let cut = began.elapsed();
    assert!(cut >= Duration::from_secs(1), "cut after {cut:?} already");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    server.assert_clean_log();
    // The worker ends it by itself, or the master the worker if that was too slow.
    let told = ["did not finish in time", "killing worker"];
    assert!(
        told.iter().any(|line| !server.lines_with(line).is_empty()),
        "{}",
        server.log_text()
    );
}

#[test]
fn a_second_term_stops_at_once() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let canvas = backend.canvas().workers(2);
    let mut server = canvas
        .args(["--request-timeout", "5m", "--drain-timeout", "10m"])
        .start();
    let mut waiting = server.connect();
    postgres.freeze();
    waiting
        .send_raw(&Request::new("GET", &list_target(1)).bytes())
        .expect("a request");
    server.wait_until_read([&waiting]);
    let mut idle = server.one_client_per_worker();
    server.signal(Signal::SIGTERM);
    // Each worker has heard of the first one, so that the second is another signal and no more of the same.
    for (worker, client) in &mut idle {
        assert!(
            client.is_closed(),
            "worker {worker} keeps an idle connection while it drains"
        );
    }
    assert!(alive(server.master()));
    server.signal(Signal::SIGTERM);
    assert!(matches!(
        waiting.receive(true),
        Err(Trouble::Closed | Trouble::Reset)
    ));
    assert_eq!(server.wait_for_exit().code(), Some(0));
    postgres.thaw();
}

#[test]
fn interrupting_stops_at_once() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let mut server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "20s"])
        .start();
    let mut waiting = server.connect();
    postgres.freeze();
    waiting
        .send_raw(&Request::new("GET", &list_target(1)).bytes())
        .expect("a request");
    server.wait_until_read(std::slice::from_ref(&waiting));
    let began = Instant::now();
    server.signal(Signal::SIGINT);
    server.wait_for_exit();
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "a fast stop took {:?}",
        began.elapsed()
    );
    assert!(matches!(
        waiting.receive(true),
        Err(Trouble::Closed | Trouble::Reset)
    ));
    postgres.thaw();
}
