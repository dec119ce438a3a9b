//! PostgreSQL stopped in its tracks, crashed, restarted, absent: calls end by their deadline, the store
//! recovers by itself, and no error tells the password.

use std::time::{Duration, Instant};

use canvas_cluster::config::Secret;
use canvas_cluster::store::{Change, NoFence, PoolOptions, Room, StoreError, open, schema};

use super::fixture::{Fixture, Watch, bare, draft, once_available, parse, soon, within};
use super::server::{
    Forgetful, PASSWORD, PASSWORD_IN_URL, Server, relay_that_dies_at, relay_that_garbles,
};

/// How much later than its deadline a call may end, on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_millis(400);

#[test]
fn a_frozen_server_holds_no_call_longer_than_its_deadline() {
    let server = Server::start("", "");
    for url in [
        server.socket_url(&server.database()),
        server.tcp_url(&server.database()),
    ] {
        let fixture = Fixture::at(parse(&url));
        let store = &fixture.store;
        let row = store.insert(&draft(1, "kept"), &NoFence, soon()).unwrap();
        // Two connections in the pool: a call may meet a warm one or open a new one.
        let fence = Watch::new(|_: &[i32]| store.ping(soon()).unwrap());
        store.insert(&bare(2), &fence, soon()).unwrap();

        server.freeze();
        for attempt in 0..6 {
            let begun = Instant::now();
            let error = match attempt % 3 {
                0 => store.shoes(&[1], within(300)).err(),
                1 => store.insert(&bare(3), &NoFence, within(300)).err(),
                _ => store.ping(within(300)).err(),
            };
            let took = begun.elapsed();
            assert!(
                matches!(
                    error,
                    Some(StoreError::TimedOut | StoreError::Unavailable(_))
                ),
                "{url}, attempt {attempt}: {error:?}"
            );
            assert!(
                took < Duration::from_millis(300) + SLACK,
                "attempt {attempt} took {took:?}"
            );
        }
        server.thaw();
        let found = once_available(|| store.shoes(&[1], soon()));
        assert_eq!(found, [vec![row]], "{url}");
        assert!(
            store.shoes(&[3], soon()).unwrap()[0].is_empty(),
            "a timed-out insert was committed"
        );
    }
}

#[test]
fn a_commit_that_a_frozen_server_does_not_answer_is_of_unknown_outcome() {
    let server = Server::start("", "");
    let fixture = Fixture::at(parse(&server.socket_url(&server.database())));
    let freeze = Watch::new(|_: &[i32]| server.freeze());
    let begun = Instant::now();
    let result = fixture.store.insert(&bare(1), &freeze, within(500));
    let took = begun.elapsed();
    server.thaw();
    assert!(
        matches!(result, Err(StoreError::OutcomeUnknown(_))),
        "{result:?}"
    );
    assert!(took < Duration::from_millis(500) + SLACK, "{took:?}");
}

#[test]
fn a_connection_lost_during_commit_is_of_unknown_outcome_and_before_it_is_not() {
    let server = Server::shared();
    let database = server.database();
    let direct = Fixture::at(parse(&server.tcp_url(&database)));
    let relayed = |word| {
        let port = relay_that_dies_at(server.port, word);
        let url = format!(
            "postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:{port}/{database}?sslmode=disable"
        );
        open(&parse(&url), PoolOptions::default()).unwrap()
    };

    let at_commit = relayed(b"COMMIT").insert(&bare(1), &NoFence, soon());
    assert!(
        matches!(at_commit, Err(StoreError::OutcomeUnknown(_))),
        "{at_commit:?}"
    );
    let at_insert = relayed(b"INSERT").insert(&bare(1), &NoFence, soon());
    assert!(
        matches!(at_insert, Err(StoreError::Unavailable(_))),
        "{at_insert:?}"
    );
    // A read is tried twice, and no more.
    let at_select = relayed(b"SELECT").shoes(&[1], soon());
    assert!(
        matches!(at_select, Err(StoreError::Unavailable(_))),
        "{at_select:?}"
    );
    assert!(direct.store.shoes(&[1], soon()).unwrap()[0].is_empty());
}

/// New rows that were sent together share their transaction's fate, and none of them is sent again.
#[test]
fn a_group_that_loses_its_connection_is_wholly_unknown_or_wholly_undone() {
    let server = Server::shared();
    let database = server.database();
    let direct = Fixture::at(parse(&server.tcp_url(&database)));
    for (word, unknown) in [(&b"COMMIT"[..], true), (b"INSERT", false)] {
        let port = relay_that_dies_at(server.port, word);
        let url = format!(
            "postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:{port}/{database}?sslmode=disable"
        );
        let store = open(&parse(&url), PoolOptions::default()).unwrap();
        let changes = [1, 1, 1].map(|shoe| Change::Insert(bare(shoe)));
        for outcome in store.change(&changes, &NoFence, soon()) {
            let error = outcome.unwrap_err();
            let as_expected = match *error {
                StoreError::OutcomeUnknown(_) => unknown,
                StoreError::Unavailable(_) => !unknown,
                _ => false,
            };
            assert!(as_expected, "{error:?}");
        }
    }
    assert!(direct.store.shoes(&[1], soon()).unwrap()[0].is_empty());
}

/// BEGIN and what follows it are sent together. Where BEGIN is refused the rest commits by itself, each row for itself: this
/// once passed for a failure, and each row of a group was stored a second time.
#[test]
fn what_ran_without_its_transaction_is_of_unknown_outcome_and_told_to_the_caches() {
    let server = Server::shared();
    let database = server.database();
    let direct = Fixture::at(parse(&server.tcp_url(&database)));
    let port = relay_that_garbles(server.port, b"BEGIN", b"BEGUN");
    let url =
        format!("postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:{port}/{database}?sslmode=disable");
    let store = open(&parse(&url), PoolOptions::default()).unwrap();
    let fence = Watch::new(|_: &[i32]| ());
    let changes = [1, 1, 2].map(|shoe| Change::Insert(bare(shoe)));
    for outcome in store.change(&changes, &fence, soon()) {
        let error = outcome.unwrap_err();
        assert!(matches!(*error, StoreError::OutcomeUnknown(_)), "{error:?}");
    }
    let stored = direct.store.shoes(&[1, 2], soon()).unwrap();
    let counts: Vec<usize> = stored.iter().map(Vec::len).collect();
    assert_eq!(counts, [2, 1], "each once");
    assert_eq!(fence.raised(), [[1, 2]]);
}

/// A lane that panics between BEGIN and COMMIT once gave its connection back with the transaction open, and the next
/// write committed what was left in it.
#[test]
fn a_panic_in_a_transaction_takes_the_transaction_with_it() {
    let server = Server::shared();
    let url = parse(&server.socket_url(&server.database()));
    schema::migrate(&url, false).unwrap();
    let options = PoolOptions {
        max_size: 1,
        ..PoolOptions::default()
    };
    let store = open(&url, options).unwrap();
    let fence = Watch::new(|_: &[i32]| panic!("a fence that fails on purpose"));
    let write = std::panic::AssertUnwindSafe(|| store.insert(&bare(1), &fence, soon()));
    assert!(std::panic::catch_unwind(write).is_err());
    store.insert(&bare(2), &NoFence, soon()).unwrap();
    let stored = store.shoes(&[1, 2], soon()).unwrap();
    let counts: Vec<usize> = stored.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 1]);
}

/// A network that loses its tables for a moment forgets every connection at once. Each was found out by a time-out of its
/// own, and all requests were refused meanwhile.
#[test]
fn one_ping_without_an_answer_is_enough_for_all_connections() {
    let server = Server::shared();
    let database = server.database();
    let relay = Forgetful::to(server.port);
    let url = format!(
        "postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:{}/{database}?sslmode=disable",
        relay.port
    );
    let fixture = Fixture::at(parse(&url));
    fixture.store.warm_up(4, soon());
    relay.forget_all();
    let error = fixture.store.ping(within(500)).unwrap_err();
    assert!(matches!(error, StoreError::TimedOut), "{error:?}");
    // At the first go, on a connection of its own.
    fixture.store.ping(soon()).unwrap();
}

/// One row of a group that the server refuses takes nothing from the others.
#[test]
fn a_row_that_the_server_refuses_is_refused_alone() {
    let server = Server::shared();
    let database = server.database();
    let fixture = Fixture::at(parse(&server.socket_url(&database)));
    server
        .admin(&database)
        .batch_execute("ALTER TABLE shoe_images ADD CHECK (shoe_id <> 13)")
        .unwrap();
    let changes = [12, 13, 14].map(|shoe| Change::Insert(bare(shoe)));
    let outcomes = fixture.store.change(&changes, &NoFence, soon());
    let stored: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(stored, [true, false, true], "{outcomes:?}");
    let counts: Vec<usize> = fixture
        .store
        .shoes(&[12, 13, 14], soon())
        .unwrap()
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(counts, [1, 0, 1], "each once");
}

#[test]
fn a_server_says_how_many_connections_it_has_for_us() {
    let server = Server::shared();
    let database = server.database();
    let fixture = Fixture::at(parse(&server.socket_url(&database)));
    let store = open(&fixture.url, PoolOptions::default()).unwrap();
    assert_eq!(store.room(), Room::Unknown);
    store.ping(soon()).unwrap();
    let mut admin = server.admin(&database);
    let mut setting = |name: &str| -> u32 {
        let row = admin.query_one("SELECT coalesce(current_setting($1, true), '0')", &[&name]);
        row.unwrap().get::<_, String>(0).parse().unwrap()
    };
    let expected = setting("max_connections")
        - setting("superuser_reserved_connections")
        - setting("reserved_connections");
    assert_eq!(store.room(), Room::Connections(expected));
    admin
        .batch_execute(&format!("ALTER DATABASE {database} CONNECTION LIMIT 5"))
        .unwrap();
    let store = open(&fixture.url, PoolOptions::default()).unwrap();
    store.ping(soon()).unwrap();
    assert_eq!(store.room(), Room::Connections(5));
}

/// A caller once asked for another connection each time that it had waited for one a while, up to all that there may ever
/// be, although its host had a right to fewer.
#[test]
fn a_store_opens_no_more_connections_than_it_is_told() {
    // Its queue takes connections, and nobody ever looks at them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://shop@127.0.0.1:{port}/test?connect_timeout=600");
    let store = open(&parse(&url), PoolOptions::default()).unwrap();
    // Held, or what hangs there would be cut and tried again.
    let mut held = Vec::new();
    for limit in [1, 3] {
        store.limit(limit);
        store.ping(within(500)).unwrap_err();
        let before = held.len();
        held.extend(silent.incoming().map_while(Result::ok));
        let opened = held.len() - before;
        assert!(opened <= limit, "{opened} instead of {limit}");
    }
}

/// What a store learned its limit by is of use afterwards.
#[test]
fn a_limit_that_changes_costs_no_connection() {
    let server = Server::shared();
    let database = server.database();
    let fixture = Fixture::at(parse(&server.tcp_url(&database)));
    let mut admin = server.admin(&database);
    let mut pids = || -> Vec<i32> {
        let others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
            AND application_name = 'canvas-cluster' ORDER BY backend_start";
        let rows = admin.query(others, &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    fixture.store.limit(1);
    fixture.store.warm_up(1, soon());
    let first = pids();
    fixture.store.limit(3);
    fixture.store.warm_up(3, soon());
    let all = pids();
    assert!(
        all.len() == 3 && all.starts_with(&first),
        "{first:?}, {all:?}"
    );
    fixture.store.limit(2);
    fixture.store.warm_up(2, soon());
    let give_up = soon();
    while pids().len() > 2 {
        assert!(!give_up.passed(), "they are never closed");
        pause(5);
    }
    assert!(pids().iter().all(|pid| all.contains(pid)));
}

/// The first of two servers takes connections and answers nothing: it costs its time-out once, and then no more. One
/// connection at a time, since those that are opened together all find out for themselves.
#[test]
fn a_silent_server_is_passed_by_after_it_was_silent_once() {
    let server = Server::shared();
    let database = server.database();
    // Its queue takes connections, and nobody ever looks at them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:{},127.0.0.1:{}/{database}?connect_timeout=2",
        silent.local_addr().unwrap().port(),
        server.port
    );
    let options = PoolOptions {
        max_size: 1,
        ..PoolOptions::default()
    };
    let store = open(&parse(&url), options).unwrap();
    schema::migrate(&parse(&server.tcp_url(&database)), false).unwrap();
    once_available(|| store.ping(soon()));
    silent.set_nonblocking(true).unwrap();
    let attempts = || silent.incoming().map_while(Result::ok).count();
    assert!(attempts() >= 1, "the first server was not tried first");

    let mut admin = server.admin(&database);
    let connections = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
        AND pid <> pg_backend_pid()";
    let end_all = format!("SELECT pg_terminate_backend(pid, 5000) FROM ({connections}) AS others");
    assert_eq!(admin.query(&end_all, &[]).unwrap().len(), 1);
    // The dead connection is found out, and another one opened: nobody asks the silent server.
    once_available(|| store.ping(soon()));
    assert_eq!(attempts(), 0);
}

#[test]
fn after_a_crash_and_restart_the_next_read_and_the_next_write_work() {
    let mut server = Server::start("", "");
    let fixture = Fixture::at(parse(&server.tcp_url(&server.database())));
    let store = &fixture.store;
    for round in 0..2 {
        // Several warm connections, all of which the crash kills.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    store
                        .insert(&bare(1), &Watch::new(|_| pause(100)), soon())
                        .unwrap()
                });
            }
        });
        server.crash();
        server.run();
        match round {
            0 => assert_eq!(store.shoes(&[1], soon()).unwrap()[0].len(), 4),
            _ => assert_eq!(
                store.insert(&bare(2), &NoFence, soon()).unwrap().shoe_id,
                Some(2)
            ),
        }
    }
}

#[test]
fn a_server_that_is_down_is_told_at_once_and_used_as_soon_as_it_is_back() {
    let mut server = Server::start("", "");
    let fixture = Fixture::at(parse(&server.tcp_url(&server.database())));
    let url = format!("{}?connect_timeout=2", server.tcp_url("test"));
    server.crash();
    // A store that never saw the server is no different.
    let cold = open(&parse(&url), PoolOptions::default()).unwrap();
    for store in [&fixture.store, &cold] {
        let _ = store.ping(within(2000));
        let begun = Instant::now();
        for _ in 0..20 {
            let error = store.shoes(&[1], within(2000)).unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
            tells_no_password(&error);
        }
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "20 calls to a server that is down took {took:?}"
        );
    }
    server.run();
    let back = Instant::now();
    while fixture.store.ping(within(1000)).is_err() {
        assert!(
            back.elapsed() < Duration::from_secs(3),
            "not back {:?} after the server",
            back.elapsed()
        );
        pause(10);
    }
}

#[test]
fn the_second_server_is_used_when_the_first_is_down() {
    let server = Server::shared();
    let database = server.database();
    let one_down = format!(
        "postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:1,127.0.0.1:{}/{database}?target_session_attrs=read-write",
        server.port
    );
    let fixture = Fixture::at(parse(&one_down));
    fixture.store.insert(&bare(1), &NoFence, soon()).unwrap();

    let no_standby = format!("{}?target_session_attrs=standby", server.tcp_url(&database));
    let error = open(&parse(&no_standby), PoolOptions::default())
        .unwrap()
        .ping(within(3000))
        .unwrap_err();
    assert!(error.to_string().contains("primary"), "{error}");
    let prefer = format!(
        "{}?target_session_attrs=prefer-standby",
        server.tcp_url(&database)
    );
    open(&parse(&prefer), PoolOptions::default())
        .unwrap()
        .ping(soon())
        .unwrap();
}

/// A primary that was demoted while we were connected answers reads as before. Each of our sessions to it was found out by itself: a
/// write was refused by three of them, and reads came from all the others.
#[test]
fn of_a_server_that_was_demoted_every_session_is_left() {
    let (old, new) = (Server::start("", ""), Server::shared());
    let database = new.database();
    let create = format!("CREATE DATABASE {database}");
    old.admin("postgres").batch_execute(&create).unwrap();
    for (server, name) in [(&old, "old"), (new, "new")] {
        schema::migrate(&parse(&server.tcp_url(&database)), false).unwrap();
        let insert = format!("INSERT INTO shoe_images (shoe_id, img1) VALUES (7, '{name}')");
        server.admin(&database).batch_execute(&insert).unwrap();
    }
    let url = format!(
        "postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:{},127.0.0.1:{}/{database}",
        old.port, new.port
    );
    let pool = PoolOptions {
        max_size: 8,
        ..PoolOptions::default()
    };
    let store = open(&parse(&url), pool).unwrap();
    store.warm_up(8, soon());
    let shown = || store.shoes(&[7], soon()).unwrap().remove(0).remove(0).media[0].clone();
    assert_eq!(shown().as_deref(), Some("old"));
    let mut demoting = old.admin("postgres");
    for command in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        demoting.batch_execute(command).unwrap();
    }
    // Its sessions hear of it one after another; until then they take writes.
    let arrived = "SELECT 1 FROM shoe_images WHERE shoe_id = 8";
    let mut witness = new.admin(&database);
    let patience = soon();
    while witness.query(arrived, &[]).unwrap().is_empty() {
        assert!(!patience.passed(), "no write goes to the new server");
        store.insert(&bare(8), &NoFence, soon()).unwrap();
    }
    // While one session is at a write, reads have those that have not been asked since.
    let fence = Watch::new(|_: &[i32]| assert_eq!(shown().as_deref(), Some("new")));
    store.insert(&bare(8), &fence, soon()).unwrap();
    assert_eq!(fence.raised(), [vec![8]]);
}

#[test]
fn a_wrong_password_is_told_without_telling_it() {
    let server = Server::shared();
    let database = server.database();
    let none = format!("postgres://shop@127.0.0.1:{}/{database}", server.port);
    let wrong = format!(
        "postgres://shop:wr0ng{PASSWORD_IN_URL}@127.0.0.1:{}/{database}",
        server.port
    );
    for url in [&none, &wrong] {
        let store = open(&parse(url), PoolOptions::default()).unwrap();
        let error = store.ping(within(5000)).unwrap_err();
        assert!(error.to_string().contains("password"), "{error}");
        tells_no_password(&error);
    }
    let url = parse(&none).or_password(Some(Secret::new(PASSWORD)));
    open(&url, PoolOptions::default())
        .unwrap()
        .ping(within(5000))
        .map_err(|e| e.to_string())
        .unwrap_or_else(|error| assert!(error.contains("shoe_images"), "{error}"));
}

#[test]
fn a_table_that_is_altered_or_dropped_under_prepared_statements_is_no_riddle() {
    let server = Server::shared();
    let database = server.database();
    let fixture = Fixture::at(parse(&server.socket_url(&database)));
    let row = fixture.store.insert(&bare(1), &NoFence, soon()).unwrap();
    fixture.store.shoes(&[1], soon()).unwrap();
    let mut admin = server.admin(&database);
    admin
        .batch_execute("ALTER TABLE shoe_images ALTER img1 TYPE text")
        .unwrap();
    // A write on a session with a statement of before once failed, although nothing was committed.
    fixture.store.insert(&bare(2), &NoFence, soon()).unwrap();
    admin
        .batch_execute("ALTER TABLE shoe_images ALTER img2 TYPE text")
        .unwrap();
    assert_eq!(fixture.store.shoes(&[1], soon()).unwrap()[0], [row]);
    fixture.store.insert(&bare(1), &NoFence, soon()).unwrap();
    admin.batch_execute("DROP TABLE shoe_images").unwrap();
    for error in [
        fixture.store.shoes(&[1], soon()).unwrap_err(),
        fixture
            .store
            .insert(&bare(1), &NoFence, soon())
            .unwrap_err(),
        fixture.store.ping(soon()).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Schema(_)), "{error:?}");
        assert!(
            error.to_string().contains("canvas-cluster migrate"),
            "{error}"
        );
    }
}

#[test]
fn a_read_only_server_refuses_writes_in_words() {
    let server = Server::shared();
    let database = server.database();
    let fixture = Fixture::at(parse(&server.socket_url(&database)));
    let url = format!(
        "{}?options=-c%20default_transaction_read_only%3Don",
        server.socket_url(&database)
    );
    let store = open(&parse(&url), PoolOptions::default()).unwrap();
    let error = store.insert(&bare(1), &NoFence, soon()).unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    assert!(fixture.store.shoes(&[1], soon()).unwrap()[0].is_empty());
}

fn tells_no_password(error: &StoreError) {
    let said = format!("{error} {error:?}");
    assert!(
        !said.contains("cret-p") && !said.contains("wr0ng"),
        "{said}"
    );
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}
