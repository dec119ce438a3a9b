//! A URL names two database servers. The one that takes writes dies, falls silent, or turns read-only, and the other one takes over:
//! hits go on meanwhile, and nothing that was acknowledged is lost.
//!
//! `tests/run outages 10` goes through ten times as many, and prints what was measured.

use std::collections::BTreeMap;

use crate::support::http::Request;
use crate::support::ledger::Ledger;
use crate::support::postgres::{Database, Postgres};
use crate::support::relay::Relay;
use crate::support::shoes::{create, draft, list_target, put};
use crate::support::vigil::{Vigil, rounds};
use crate::support::{Backend, Client, PATIENCE, Server, alone, wait_until};

/// A database of the first server, migrated, and a URL of these two ports.
fn of_two(first: &Postgres, ports: [u16; 2]) -> Backend {
    let mut backend = Backend::on(first, None);
    backend.migrate();
    let one = format!("127.0.0.1:{}", first.port());
    let both = format!("127.0.0.1:{},127.0.0.1:{}", ports[0], ports[1]);
    assert!(backend.database_url.contains(&one));
    backend.database_url = backend.database_url.replace(&one, &both)
        + "?target_session_attrs=read-write&connect_timeout=2";
    backend
}

/// Two workers whose own caches have time enough.
#[track_caller]
fn serve(backend: &Backend) -> Server {
    backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "2s", "--l1-ttl", "1h"])
        .start()
}

fn rows_of(database: &Database, what: &str) -> i64 {
    let query = format!("SELECT count(*) FROM shoe_images WHERE {what}");
    let row = database.connect().query_one(&query, &[]);
    row.expect("a number").get(0)
}

/// The first of two servers falls silent, the second one takes over; back again the other way round.
#[test]
fn the_other_server_takes_over_from_one_that_falls_silent() {
    let _machine = alone();
    let (first, second) = (
        Relay::to(Postgres::shared().port()),
        Relay::to(Postgres::shared().port()),
    );
    let backend = of_two(Postgres::shared(), [first.port(), second.port()]);
    let server = serve(&backend);
    create(&server, 7, &[("img1", "a")]);
    assert_eq!(second.taken(), 0);
    let mut vigil = Vigil::over(&server, 7);
    for (silent, other) in [(&first, &second), (&second, &first)] {
        let before = other.taken();
        silent.swallow_everything();
        vigil.wait_for_return();
        create(&server, 8, &[("img1", "b")]);
        assert!(other.taken() > before);
        silent.heal();
    }
    vigil.end();
    assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 3);
}

/// The primary is killed amid reads and writes, and its standby is promoted.
#[test]
fn a_promoted_standby_takes_over_from_a_primary_that_was_killed() {
    let _machine = alone();
    for _ in 0..rounds() {
        let primary = Postgres::private();
        let standby = primary.standby();
        let backend = of_two(&primary, [primary.port(), standby.port()]);
        let (old, new) = (backend.postgres(), standby.copy_of(backend.postgres()));
        // What is acknowledged is on both.
        primary.administer(&format!(
            "ALTER DATABASE {} SET synchronous_commit = on;
             ALTER SYSTEM SET synchronous_standby_names = '*';
             SELECT pg_reload_conf()",
            old.name
        ));
        let server = serve(&backend);
        create(&server, 7, &[("img1", "a")]);
        let mut vigil = Vigil::over(&server, 7);
        let ledger = Ledger::keep(&server, || {
            wait_until(PATIENCE, "writers to write", || rows_of(old, "true") > 50);
            primary.kill();
            vigil.refusals_are_fast("one killed, the other still a standby");
            standby.promote();
            vigil.is_back("promoted", || {
                assert_eq!(rows_of(&new, "shoe_id = 7"), 1);
            });
            let goal = rows_of(&new, "true") + 50;
            wait_until(PATIENCE, "writers to go on", || {
                rows_of(&new, "true") >= goal
            });
        });
        vigil.end();
        ledger.assert_true_of(&new);
        let rows = server.get(&list_target(7)).expect(200).json();
        assert_eq!(rows[0]["img1"], "a");
    }
}

/// The primary is demoted without a word to those who are connected: it answers reads as before, and what is written from now
/// on is written elsewhere.
#[test]
fn a_primary_that_turned_read_only_is_left() {
    let _machine = alone();
    let primary = Postgres::private();
    let standby = primary.standby();
    let backend = of_two(&primary, [primary.port(), standby.port()]);
    let (old, new) = (backend.postgres(), standby.copy_of(backend.postgres()));
    let server = serve(&backend);
    let id = create(&server, 8, &[("img1", "a")]);
    create(&server, 7, &[("img1", "a")]);
    // Each lane has its connection.
    let mut clients: BTreeMap<i32, Vec<Client>> = BTreeMap::new();
    for _ in 0..12 {
        for (worker, client) in server.one_client_per_worker() {
            clients.entry(worker).or_default().push(client);
        }
    }
    let row = Request::new("GET", &format!("/api/images/{id}"));
    let mut shown = |worker| {
        let clients: &mut Vec<Client> = clients.get_mut(&worker).expect("a worker");
        for client in &mut *clients {
            client.send_raw(&row.bytes()).expect("a request");
        }
        let answers = clients.iter_mut().map(|client| {
            let answer = client.receive(true).expect("an answer").expect(200);
            answer.json()["img1"].as_str().expect("a name").to_owned()
        });
        answers.collect::<Vec<String>>()
    };
    for worker in server.workers() {
        assert!(shown(worker).iter().all(|name| name == "a"));
    }
    let vigil = Vigil::over(&server, 7);
    wait_until(PATIENCE, "the standby to catch up", || {
        rows_of(&new, "shoe_id = 7") == 1
    });
    let mut witness = old.connect();
    primary.administer(
        "ALTER SYSTEM SET default_transaction_read_only = on;
         SELECT pg_reload_conf()",
    );
    wait_until(PATIENCE, "the primary to be demoted", || {
        let row = witness.query_one("SHOW transaction_read_only", &[]);
        row.expect("a row").get::<_, String>(0) == "on"
    });
    standby.promote();
    for (worker, mut client) in server.one_client_per_worker() {
        let name = format!("of {worker}");
        let change = put(id, draft(8, &[("img1", &name)]));
        wait_until(PATIENCE, &format!("worker {worker} to write"), || {
            let answer = client.call(&change).expect("an answer");
            assert!([200, 503].contains(&answer.status), "{answer}");
            answer.status == 200
        });
        // Who has found out asks the one that did not hear of it no more, on whatever connection.
        for _ in 0..10 {
            client.call(&change).expect("an answer").expect(200);
            let shown = shown(worker);
            assert!(shown.iter().all(|shown| *shown == name), "{shown:?}");
        }
    }
    vigil.end();
    assert_eq!(rows_of(&new, "img1 LIKE 'of %'"), 1);
    assert_eq!(rows_of(old, "img1 LIKE 'of %'"), 0);
}
