//! What lies between the server and its database breaks: packets are swallowed, connections reset, answers lost, a server
//! dies amid writes. Hits go on, misses fail at once, everything comes back by itself, and no acknowledged write is lost
//! or made twice.
//!
//! `tests/run outages 10` breaks it ten times as often, and prints what was measured.

use std::time::{Duration, Instant};

use crate::support::http::Request;
use crate::support::ledger::Ledger;
use crate::support::load::{Load, Style};
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::shoes::{create, draft, list_target, post, put};
use crate::support::vigil::{Hits, Times, Vigil, answered_by_the_deadline, rounds, timed};
use crate::support::{Backend, Client, PATIENCE, Server, alone, wait_until};

/// A database behind a network, migrated.
fn behind(postgres: &Postgres, relay: &Relay) -> Backend {
    let mut backend = Backend::on(postgres, None);
    backend.migrate();
    backend.database_url = relay.url(&backend.database_url, postgres.port());
    backend
}

/// Waits until each worker answers a shoe that none of them knows.
#[track_caller]
fn wait_for_all_workers(server: &Server, fresh: &mut i64) {
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(
            PATIENCE,
            &format!("worker {worker} to reach its database"),
            || {
                *fresh += 1;
                client.get(&list_target(*fresh)).expect("an answer").status == 200
            },
        );
    }
}

/// Nothing is refused and nothing answered: the first misses wait for their deadline, and from then on none does.
#[test]
fn a_network_that_swallows_everything_costs_one_deadline() {
    const DEADLINE: Duration = Duration::from_secs(5);
    let _machine = alone();
    let relay = Relay::to(Postgres::shared().port());
    let backend = behind(Postgres::shared(), &relay);
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "5s", "--l1-ttl", "1h"])
        .start();
    let workers = server.workers();
    create(&server, 7, &[("img1", "a")]);
    let mut clients = server.one_client_per_worker();
    for (_, client) in &mut clients {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    relay.swallow_everything();
    let mut fresh = 1000;
    for (_, client) in &mut clients {
        fresh += 1;
        client
            .get(&list_target(fresh))
            .expect("an answer")
            .problem(503);
        // Found out: of the many that come now none waits, or together they would take minutes.
        wait_until(PATIENCE, "misses to fail at once", || {
            fresh += 1;
            let begun = Instant::now();
            client
                .get(&list_target(fresh))
                .expect("an answer")
                .problem(503);
            begun.elapsed() < DEADLINE / 10
        });
        let begun = Instant::now();
        for _ in 0..50 {
            fresh += 1;
            let refused = client.get(&list_target(fresh)).expect("an answer");
            assert_eq!(refused.problem(503).kind, "/problems/store-unavailable");
            assert_eq!(refused.header("retry-after"), Some("1"));
            client.get(&list_target(7)).expect("an answer").expect(200);
            let write = client.call(&post(draft(fresh, &[]))).expect("an answer");
            write.problem(503);
        }
        let took = begun.elapsed();
        assert!(took < DEADLINE, "100 refusals took {took:?}");
    }
    relay.heal();
    wait_for_all_workers(&server, &mut fresh);
    create(&server, 8, &[]);
    assert_eq!(server.workers(), workers);
    assert_eq!(
        backend.count("SELECT count(*) FROM shoe_images"),
        2,
        "what was refused was not stored"
    );
}

/// Hits don't notice, and misses not for longer than it takes to find out.
#[test]
fn a_network_that_swallows_everything_stops_no_hit_and_delays_no_refusal() {
    let _machine = alone();
    let relay = Relay::to(Postgres::shared().port());
    let backend = behind(Postgres::shared(), &relay);
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "2s", "--l1-ttl", "1h"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    for _ in 0..rounds() {
        let mut vigil = Vigil::over(&server, 7);
        relay.swallow_everything();
        vigil.refusals_are_fast("swallowed");
        relay.heal();
        vigil.is_back("swallowed", || {
            assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 1);
        });
        vigil.end();
    }
}

/// A router forgets every connection there is, and lets new ones through at once. Who finds them out one by one is away for
/// longer than the network was.
#[test]
fn a_network_that_forgets_every_connection_is_back_at_once() {
    let _machine = alone();
    let relay = Relay::to(Postgres::shared().port());
    let backend = behind(Postgres::shared(), &relay);
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "500ms", "--l1-ttl", "1h"])
        .args(["--lanes", "8"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND pid <> pg_backend_pid()";
    for _ in 0..rounds() {
        let mut vigil = Vigil::over(&server, 7);
        let gone = relay.silent() + u64::try_from(backend.count(open)).expect("a number");
        relay.swallow_everything();
        wait_until(PATIENCE, "every connection to be forgotten", || {
            relay.silent() >= gone
        });
        relay.heal();
        vigil.is_back("forgotten", || {
            assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 1);
        });
        vigil.end();
    }
}

/// Neither store says a word, and a request that asks both is answered by its one deadline all the same.
#[test]
fn two_stores_that_are_swallowed_cost_one_deadline() {
    let _machine = alone();
    let redis = Redis::private();
    let (database, cache) = (
        Relay::to(Postgres::shared().port()),
        Relay::to(redis.port()),
    );
    let mut backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    backend.database_url = database.url(&backend.database_url, Postgres::shared().port());
    let direct = backend.redis_url.take().expect("a backend with Redis");
    backend.redis_url = Some(cache.url(&direct, redis.port()));
    let server = backend
        .canvas()
        .workers(1)
        .args(["--request-timeout", "1s"])
        .start();
    let id = create(&server, 7, &[("img1", "a")]);
    server.get(&list_target(8)).expect(200);
    assert!(database.taken() > 0 && cache.taken() > 0);
    database.swallow_everything();
    cache.swallow_everything();
    let mut requests: Vec<Request> = (100..110)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect();
    requests.push(post(draft(9, &[])));
    requests.push(put(id, draft(7, &[("img1", "b")])));
    answered_by_the_deadline(&server, Duration::from_secs(1), &requests);
}

#[test]
fn connections_reset_under_load_fail_no_read() {
    let _machine = alone();
    let relay = Relay::to(Postgres::shared().port());
    let backend = behind(Postgres::shared(), &relay);
    let server = backend.serve(2);
    let requests: Vec<Request> = (0..20_000)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect();
    let hits = Hits::start(&server, &list_target(1_000_000));
    let load = Load::start(server.address(), Style::KeepAlive, 4, requests);
    load.wait_for_answers(100);
    let before = relay.taken();
    for _ in 0..5 * rounds() {
        relay.reset_all();
        load.wait_for_answers(200);
        hits.go_on();
    }
    load.stop().assert_all_ok();
    hits.end();
    assert!(relay.taken() > before, "no connection was lost");
}

/// The server has committed, or has not, and only it knows.
#[test]
fn a_lost_answer_to_a_commit_is_told_and_not_tried_again() {
    let relay = Relay::to(Postgres::shared().port());
    let backend = behind(Postgres::shared(), &relay);
    let server = backend.serve(1);
    let id = create(&server, 7, &[("img1", "a")]);
    server.get(&list_target(7)).expect(200);

    relay.lose_answer_to("COMMIT");
    let answer = server.call(&post(draft(7, &[("img1", "b")])));
    assert_eq!(answer.problem(503).kind, "/problems/outcome-unknown");
    assert!(relay.has_lost_it());
    let stored = "SELECT count(*) FROM shoe_images WHERE img1 = 'b'";
    assert_eq!(backend.count(stored), 1, "it was committed, and once");
    // What was cached from before may be old, so it is gone.
    assert_eq!(
        server
            .get(&list_target(7))
            .expect(200)
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );

    relay.lose_answer_to("COMMIT");
    let answer = server.call(&put(id, draft(7, &[("img1", "c")])));
    assert_eq!(answer.problem(503).kind, "/problems/outcome-unknown");
    let rows = server.get(&list_target(7)).expect(200).json();
    assert_eq!(rows[0]["img1"], "c");

    // Before its COMMIT nothing has happened, and nothing is said to be unknown.
    relay.lose_answer_to("INSERT");
    let answer = server.call(&post(draft(7, &[("img1", "d")])));
    assert_eq!(answer.problem(503).kind, "/problems/store-unavailable");
    let stored = "SELECT count(*) FROM shoe_images WHERE img1 = 'd'";
    assert_eq!(backend.count(stored), 0);
    server.call(&post(draft(7, &[("img1", "d")]))).expect(201);
}

/// Writers go on while PostgreSQL is killed and started again. Each row has a name of its own, so it shows afterwards
/// what became of each request: what was acknowledged is there once, what was refused is not there, and only what was said to
/// be unknown may be either.
#[test]
fn no_acknowledged_write_is_lost_and_none_is_made_twice() {
    let _machine = alone();
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    // The tests' clusters don't wait for the WAL by default; a crash of the server would lose what it acknowledged.
    let database = backend.postgres();
    let name = &database.name;
    backend.execute(&format!(
        "ALTER DATABASE {name} SET synchronous_commit = on"
    ));
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "2s"])
        .start();
    let told = Ledger::keep(&server, || {
        for _ in 0..3 {
            let rows = || backend.count("SELECT count(*) FROM shoe_images");
            let goal = rows() + 50;
            wait_until(PATIENCE, "writers to write", || rows() >= goal);
            postgres.kill();
            postgres.start();
        }
        let goal = backend.count("SELECT count(*) FROM shoe_images") + 50;
        wait_until(PATIENCE, "writers to go on", || {
            backend.count("SELECT count(*) FROM shoe_images") >= goal
        });
    });
    told.assert_true_of(database);
}

/// Redis is asked first, so a Redis that says nothing is waited for; once, and not by each request.
#[test]
fn a_redis_that_is_swallowed_fails_no_request() {
    let redis = Redis::private();
    let mut backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let direct = backend.redis_url.take().expect("a backend with Redis");
    let relay = Relay::to(redis.port());
    backend.redis_url = Some(relay.url(&direct, redis.port()));
    let server = backend.serve(2);
    let id = create(&server, 7, &[("img1", "a")]);
    let mut clients = server.one_client_per_worker();
    for (_, client) in &mut clients {
        for shoe in 0..20 {
            client
                .get(&list_target(shoe))
                .expect("an answer")
                .expect(200);
        }
    }
    relay.swallow_everything();
    for (worker, client) in &mut clients {
        let (mut answers, mut control) = (Times::default(), Times::default());
        for shoe in 100..150 {
            let health = timed(&mut control, || client.get("/healthz"));
            health.expect("an answer").expect(200);
            let answer = timed(&mut answers, || client.get(&list_target(shoe)));
            answer.expect("an answer").expect(200);
        }
        println!("worker {worker} without Redis: {answers}; control: {control}");
        // Redis has a quarter of a second to answer; if each of the 50 waited for it, they would take 12.
        assert!(
            answers.sum() < Duration::from_secs(2) + 10 * control.sum(),
            "worker {worker}: {answers}, {:?} together; control: {control}",
            answers.sum()
        );
    }
    server
        .call(&put(id, draft(7, &[("img1", "b")])))
        .expect(200);
    for (worker, mut client) in server.one_client_per_worker() {
        let rows = client
            .get(&list_target(7))
            .expect("an answer")
            .expect(200)
            .json();
        assert_eq!(rows[0]["img1"], "b", "worker {worker} is out of date");
    }
    relay.heal();
    let mut shoe = 1000;
    wait_until(PATIENCE, "answers to reach Redis again", || {
        shoe += 1;
        server.get(&list_target(shoe)).expect(200);
        crate::support::redis::keys(&direct)
            .iter()
            .any(|key| key.ends_with(&format!(":{shoe}")))
    });
}

/// Somebody keeps the write lock of the file: writes say so at their deadline, reads go on, and nothing is stored twice.
#[test]
fn a_locked_sqlite_file_refuses_writes_and_answers_reads() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "1s"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    let blocker = backend.open_sqlite();
    blocker
        .execute_batch("BEGIN IMMEDIATE")
        .expect("the write lock");
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client
            .send_raw(&post(draft(9, &[])).bytes())
            .expect("a request");
    }
    for shoe in 100..120 {
        server.get(&list_target(shoe)).expect(200);
    }
    for client in &mut clients {
        let answer = client.receive(true).expect("an answer");
        let problem = answer.problem(503);
        assert!(
            ["/problems/store-refuses", "/problems/store-unavailable"]
                .contains(&problem.kind.as_str()),
            "{problem:?}"
        );
    }
    blocker
        .execute_batch("COMMIT")
        .expect("the end of the lock");
    let stored = "SELECT count(*) FROM shoe_images WHERE shoe_id = 9";
    assert_eq!(backend.count(stored), 0);
    wait_until(PATIENCE, "writes to work again", || {
        server.call(&post(draft(9, &[]))).status == 201
    });
    assert_eq!(backend.count(stored), 1);
}
