//! Several servers over one database and one Redis, as on several hosts: what one writes the others see.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::http::Request;
use crate::support::locked::Locked;
use crate::support::postgres::Postgres;
use crate::support::process::{signal, stand_still};
use crate::support::redis::{self, Redis};
use crate::support::relay::Relay;
use crate::support::shoes::{create, draft, list_target, put, row};
use crate::support::{Backend, Canvas, Dir, PATIENCE, Server, alone, wait_until};

/// So long that nothing in these tests is seen because its time was over.
const FOR_EVER: [&str; 2] = ["--l1-ttl", "1h"];

fn shows(server: &Server, img1: &str) -> bool {
    let rows = server.get(&list_target(7)).expect(200).json();
    rows[0]["img1"] == img1
}

/// How many answers a server's workers had in their own cache, from its last line.
fn hits(server: Server) -> u64 {
    let log = {
        let mut server = server;
        server.signal(nix::sys::signal::Signal::SIGTERM);
        server.wait_for_exit();
        server.wait_for_line("master: stopped after ")
    };
    let (_, count) = log.rsplit_once("l1_hits ").unwrap_or(("", "0"));
    let digits = count.split(',').next().unwrap_or_default();
    digits.parse().expect("a number")
}

#[test]
fn a_write_is_seen_on_every_host_that_shares_the_redis() {
    let _machine = alone();
    let backend = Backend::postgres_redis();
    let here = backend.canvas().workers(2).args(FOR_EVER).start();
    let there = backend.canvas().workers(2).args(FOR_EVER).start();
    let id = create(&here, 7, &[("img1", "0")]);
    let mut readers = there.one_client_per_worker();
    for write in 1..=50 {
        // Each worker of the other host has the value of before in its own cache.
        for (_, reader) in &mut readers {
            for _ in 0..2 {
                reader.get(&list_target(7)).expect("an answer").expect(200);
            }
        }
        let text = write.to_string();
        here.call(&put(id, draft(7, &[("img1", &text)])))
            .expect(200);
        for (worker, reader) in &mut readers {
            wait_until(PATIENCE, "the other host to show the write", || {
                let answer = reader.get(&list_target(7)).expect("an answer").expect(200);
                answer.text() == format!("[{}]", row(id, 7, &[("img1", &text)]))
            });
            assert!(there.workers().contains(worker));
        }
    }
    assert!(hits(there) > 0, "nothing was ever cached");
    here.stop();
}

#[test]
fn no_write_stays_unseen_when_redis_comes_and_goes() {
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let start = || {
        let mut server = backend.canvas().workers(1).args(FOR_EVER).start();
        server.allow("redis");
        server
    };
    let (here, there) = (start(), start());
    let id = create(&here, 7, &[("img1", "0")]);
    let mut written = 0;
    let mut write = || {
        // Whoever is asked has it in the cache.
        for server in [&here, &there] {
            for _ in 0..3 {
                server.get(&list_target(7)).expect(200);
            }
        }
        written += 1;
        let text = written.to_string();
        here.call(&put(id, draft(7, &[("img1", &text)])))
            .expect(200);
        // On its own host at once, on the other one soon.
        assert!(shows(&here, &text));
        wait_until(PATIENCE, "the other host to show the write", || {
            shows(&there, &text)
        });
    };
    for _ in 0..3 {
        write();
        // Dead.
        redis.kill();
        write();
        write();
        redis.start();
        write();
        // Silent, which nothing but the lack of an answer tells.
        redis.freeze();
        write();
        redis.thaw();
        write();
    }
}

/// The host whose write did not reach Redis tells the others as soon as Redis is back, although nobody asks it anything.
#[test]
fn a_write_that_redis_missed_is_told_without_being_asked_for() {
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    backend.execute("INSERT INTO shoe_images (shoe_id, img1) VALUES (7, '0')");
    let start = |workers| {
        let mut server = backend.canvas().workers(workers).args(FOR_EVER).start();
        server.allow("redis");
        server
    };
    let (here, there) = (start(2), start(1));
    let url = backend.redis_url.clone().expect("a backend with Redis");
    // What is asked for first begins an epoch, and is not filled.
    for shoe in [8, 7] {
        there.get(&list_target(shoe)).expect(200);
    }
    wait_until(PATIENCE, "the answer to be in Redis", || {
        redis::holds(&url, r#""img1":"0""#)
    });
    redis.refuse_writes();
    here.call(&put(1, draft(7, &[("img1", "1")]))).expect(200);
    redis.accept_writes();
    wait_until(PATIENCE, "the other host to show the write", || {
        shows(&there, "1")
    });
}

/// Who commits and dies before telling anybody is not answered; but who sees the write on one host sees it on the other.
#[test]
fn what_a_killed_worker_wrote_is_told_to_other_hosts() {
    let _machine = alone();
    // Channels are the whole Redis': in a shared one, a write to this shoe in another test would do.
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let here = backend.canvas().workers(2).args(FOR_EVER).start();
    let there = backend.canvas().workers(1).args(FOR_EVER).start();
    let id = create(&here, 7, &[("img1", "0")]);
    let database = backend.postgres();
    // COMMIT takes until the test lets it go: a trigger that is deferred to it waits for a lock.
    database
        .connect()
        .batch_execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER dawdle AFTER UPDATE ON shoe_images DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION dawdle()",
        )
        .expect("a trigger");
    let mut gate = database.connect();
    gate.batch_execute("SELECT pg_advisory_lock(7)")
        .expect("a lock");
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert!(shows(&there, "0"));
    let (victim, mut writer) = here.one_client_per_worker().pop().expect("a client");
    writer
        .send_raw(&put(id, draft(7, &[("img1", "1")])).bytes())
        .expect("a request");
    wait_until(PATIENCE, "the COMMIT to wait", || {
        backend.count(waiting) == 1
    });
    stand_still(victim);
    gate.batch_execute("SELECT pg_advisory_unlock(7)")
        .expect("the lock");
    let stored = "SELECT count(*) FROM shoe_images WHERE img1 = '1'";
    wait_until(PATIENCE, "the write to be committed", || {
        backend.count(stored) == 1
    });
    assert!(shows(&there, "0"), "nobody has told the other host");
    signal(victim, Signal::SIGKILL);
    for server in [&here, &there] {
        wait_until(PATIENCE, "the write to be seen", || shows(server, "1"));
    }
}

/// Each byte of a message that comes in drips was once a sign of life, so that a host believed what it kept for as long as the
/// message took.
#[test]
fn a_host_whose_messages_trickle_in_keeps_nothing() {
    // A message is some 80 bytes on the wire: so many drips are 16 seconds.
    const FAR_LESS: Duration = Duration::from_secs(8);
    let redis = Redis::private();
    let relay = Relay::to(redis.port());
    let mut backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let here = backend.canvas().workers(1).args(FOR_EVER).start();
    let direct = backend.redis_url.take().expect("a backend with Redis");
    backend.redis_url = Some(relay.url(&direct, redis.port()));
    let mut there = backend.canvas().workers(1).args(FOR_EVER).start();
    there.allow("redis");
    let id = create(&here, 7, &[("img1", "a")]);
    wait_until(PATIENCE, "the other host to show the row", || {
        shows(&there, "a")
    });
    relay.trickle();
    let change = put(id, draft(7, &[("img1", "b")]));
    here.call(&change).expect(200);
    let begun = Instant::now();
    wait_until(PATIENCE, "the other host to show the write", || {
        shows(&there, "b")
    });
    assert!(begun.elapsed() < FAR_LESS, "{:?}", begun.elapsed());
    relay.heal();
}

/// A Redis that lets nobody subscribe, as an access list without channels does, was once taken for one that had nothing to tell.
#[test]
fn a_host_that_may_not_subscribe_keeps_nothing() {
    let redis = Redis::private();
    let mut backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let here = backend.canvas().workers(1).args(FOR_EVER).start();
    redis.command("ACL SETUSER deaf on >loop ~* +@all resetchannels");
    let own = backend.redis_url.clone().expect("a backend with Redis");
    let (_, place) = own.rsplit_once('@').expect("a URL with a password");
    backend.redis_url = Some(format!("redis://deaf:loop@{place}"));
    let mut there = backend.canvas().workers(1).args(FOR_EVER).start();
    there.allow("redis");
    there.wait_for_line("it lets us not subscribe");
    let id = create(&here, 7, &[("img1", "0")]);
    for write in 1..=5 {
        let text = write.to_string();
        here.call(&put(id, draft(7, &[("img1", &text)])))
            .expect(200);
        for _ in 0..3 {
            assert!(shows(&there, &text), "it is behind at write {write}");
        }
    }
}

#[test]
fn a_write_past_the_server_is_seen_when_its_time_is_over() {
    let backend = Backend::sqlite();
    let patient = backend.canvas().workers(1).args(FOR_EVER).start();
    create(&patient, 7, &[("img1", "0")]);
    let hasty = backend
        .canvas()
        .workers(1)
        .args(["--l1-ttl", "100ms"])
        .start();
    let uncached = backend
        .canvas()
        .workers(1)
        .args(["--l1-bytes", "0"])
        .start();
    for server in [&patient, &hasty, &uncached] {
        assert!(shows(server, "0"));
    }
    backend.execute("UPDATE shoe_images SET img1 = '1' WHERE shoe_id = 7");
    assert!(shows(&uncached, "1"));
    wait_until(PATIENCE, "the write to be seen", || shows(&hasty, "1"));
    assert!(shows(&patient, "0"), "the patient one asked again");
}

/// A database of PostgreSQL with the triggers, and a Redis that keeps answers for as long as it likes.
fn telling() -> Backend {
    let backend = Backend::unmigrated_postgres_redis();
    backend.tool("migrate").arg("--with-notify").run().expect(0);
    backend
}

fn serve_hearing(backend: &Backend) -> Server {
    let canvas = backend.canvas().workers(2).args(FOR_EVER);
    canvas.args(["--database-notify"]).start()
}

/// Each worker has an answer of its own, and another worker may be the one that was told.
#[track_caller]
fn wait_until_all_show(server: &Server, shoe: i64, expected: &str) {
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(PATIENCE, &format!("worker {worker} to show it"), || {
            let answer = client.get(&list_target(shoe)).expect("an answer");
            answer.expect(200).text() == expected
        });
    }
}

/// Whatever somebody does in the database, at the console or in a program of their own.
#[test]
fn a_write_past_the_server_is_seen_at_once_where_the_database_tells() {
    let backend = telling();
    let server = serve_hearing(&backend);
    let id = create(&server, 7, &[("img1", "0")]);
    let shown = |img1: &str| format!("[{}]", row(id, 7, &[("img1", img1)]));
    wait_until_all_show(&server, 7, &shown("0"));
    backend.execute("UPDATE shoe_images SET img1 = '1' WHERE shoe_id = 7");
    wait_until_all_show(&server, 7, &shown("1"));
    // One that moves to another shoe changes both.
    wait_until_all_show(&server, 8, "[]");
    backend.execute("UPDATE shoe_images SET shoe_id = 8 WHERE shoe_id = 7");
    wait_until_all_show(&server, 7, "[]");
    wait_until_all_show(&server, 8, &format!("[{}]", row(id, 8, &[("img1", "1")])));
    backend.execute("DELETE FROM shoe_images");
    wait_until_all_show(&server, 8, "[]");
    // More shoes than are named.
    backend.execute("INSERT INTO shoe_images (shoe_id, img1) SELECT n, 'many' FROM generate_series(1, 500) AS n");
    let many = "SELECT count(*) FROM shoe_images WHERE img1 = 'many'";
    assert_eq!(backend.count(many), 500);
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(PATIENCE, &format!("worker {worker} to show them"), || {
            let rows = client.get(&list_target(7)).expect("an answer").expect(200);
            rows.json()[0]["img1"] == "many"
        });
    }
    backend.execute("TRUNCATE shoe_images");
    wait_until_all_show(&server, 7, "[]");
}

/// What such a server had written was once taken for known in a Redis that it has never heard of.
#[test]
fn a_write_of_a_server_without_the_redis_is_seen_where_the_database_tells() {
    let backend = telling();
    let url = backend.redis_url.clone().expect("a backend with Redis");
    let here = serve_hearing(&backend);
    let other = Dir::new();
    let without = Canvas::new(other.path())
        .env("CANVAS_DATABASE_URL", &backend.database_url)
        .workers(1)
        .start();
    let id = create(&without, 7, &[("img1", "0")]);
    let shown = |img1: &str| format!("[{}]", row(id, 7, &[("img1", img1)]));
    for write in 0..5 {
        wait_until_all_show(&here, 7, &shown(&write.to_string()));
        let known = format!(r#""img1":"{write}""#);
        wait_until(PATIENCE, "the answer to be in Redis", || {
            here.get(&list_target(7)).expect(200);
            redis::holds(&url, &known)
        });
        let next = (write + 1).to_string();
        without
            .call(&put(id, draft(7, &[("img1", &next)])))
            .expect(200);
    }
    wait_until_all_show(&here, 7, &shown("5"));
}

/// What was told while nobody heard is made good by forgetting everything.
#[test]
fn a_write_that_was_told_to_nobody_is_seen_when_the_listener_is_back() {
    let _machine = alone();
    let relay = Relay::to(Postgres::shared().port());
    let mut backend = telling();
    let direct = backend.database_url.clone();
    backend.database_url = relay.url(&direct, Postgres::shared().port());
    let mut server = serve_hearing(&backend);
    server.allow("not available");
    create(&server, 7, &[("img1", "0")]);
    for (_, mut client) in server.one_client_per_worker() {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    for write in 1..=3 {
        relay.swallow_everything();
        backend.execute(&format!("UPDATE shoe_images SET img1 = '{write}'"));
        relay.heal();
        relay.reset_all();
        for (worker, mut client) in server.one_client_per_worker() {
            wait_until(PATIENCE, &format!("worker {worker} to show it"), || {
                let answer = client.get(&list_target(7)).expect("an answer");
                answer.status == 200
                    && answer.json()[0]["img1"].as_str() == Some(&*format!("{write}"))
            });
        }
    }
}

#[test]
fn a_server_that_would_hear_nothing_says_so() {
    let backend = Backend::postgres_redis();
    let server = serve_hearing(&backend);
    server.wait_for_line("migrate --with-notify");
    drop(server);
    let sqlite = Backend::unmigrated_sqlite();
    let refused = sqlite.tool("migrate").arg("--with-notify").run();
    refused
        .expect(111)
        .naming(&["--with-notify is for PostgreSQL"]);
}

/// Half of what the database lets in is for the next generation of workers, and of the rest one connection hears. All that
/// wait for a first connection once opened one each. A second lane joins when the first is held up.
#[test]
fn a_worker_opens_no_more_connections_than_its_part() {
    let backend = telling();
    let database = backend.postgres();
    let mut watcher = database.connect();
    let limit = format!("ALTER DATABASE {} CONNECTION LIMIT 6", database.name);
    watcher.batch_execute(&limit).expect("a limit");
    let canvas = backend.canvas().workers(1).args(FOR_EVER);
    let patient = [
        "--database-notify",
        "--lanes",
        "4",
        "--request-timeout",
        "20s",
    ];
    let mut server = canvas.args(patient).start();
    server.allow("the database lets 6 connections in");
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let mut opened = || -> i64 {
        let own = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name LIKE 'canvas-cluster/%'";
        watcher.query_one(own, &[]).expect("a count").get(0)
    };
    wait_until(PATIENCE, "the first lane and the listener", || {
        opened() == 2
    });
    let mut locked = Locked::table(database, "shoe_images");
    for (shoe, client) in (1000..).zip(&mut clients) {
        client
            .send_raw(&Request::new("GET", &list_target(shoe)).bytes())
            .expect("a request");
        if shoe == 1000 {
            // Those that come after it would go along otherwise.
            locked.wait_for(1);
        }
        assert!(opened() <= 3);
    }
    wait_until(PATIENCE, "both lanes to be held up", || {
        assert!(opened() <= 3);
        locked.waiting().len() == 2
    });
    locked.release();
    for client in &mut clients {
        client.receive(true).expect("an answer").expect(200);
        assert!(opened() <= 3);
    }
}

/// A server that starts while its database is away answers from Redis, and keeps those answers. What was written before it
/// first heard was never made good.
#[test]
fn a_write_from_before_the_listener_first_heard_is_seen() {
    let _machine = alone();
    let relay = Relay::to(Postgres::shared().port());
    let mut backend = Backend::on(Postgres::shared(), Some(Redis::shared()));
    backend.tool("migrate").arg("--with-notify").run().expect(0);
    backend.execute("INSERT INTO shoe_images (shoe_id, img1) VALUES (7, '0')");
    let url = backend.redis_url.clone().expect("a backend with Redis");
    let filler = backend.serve(1);
    wait_until(PATIENCE, "the answer to be in Redis", || {
        shows(&filler, "0") && redis::holds(&url, r#""img1":"0""#)
    });
    filler.stop();
    backend.database_url = relay.url(&backend.database_url, Postgres::shared().port());
    relay.swallow_everything();
    let mut server = serve_hearing(&backend);
    server.allow("not available");
    for (_, mut client) in server.one_client_per_worker() {
        let answer = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(answer.json()[0]["img1"], "0", "it is from Redis");
    }
    backend.execute("UPDATE shoe_images SET img1 = '1' WHERE shoe_id = 7");
    relay.heal();
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(PATIENCE, &format!("worker {worker} to show it"), || {
            let answer = client.get(&list_target(7)).expect("an answer");
            answer.status == 200 && answer.json()[0]["img1"] == "1"
        });
    }
}

/// The tool tells no cache.
#[test]
fn what_the_seed_adds_is_seen_where_the_database_tells() {
    let backend = telling();
    let url = backend.redis_url.clone().expect("a backend with Redis");
    let server = serve_hearing(&backend);
    create(&server, 7, &[]);
    // The next one to be seeded.
    wait_until(PATIENCE, "Redis to hold that there are none", || {
        let rows = server.get(&list_target(8)).expect(200);
        assert_eq!(rows.text(), "[]");
        redis::holds(&url, ":[]")
    });
    let seed = backend.tool("seed").args(["--append", "--rows", "3"]);
    seed.run().expect(0);
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(PATIENCE, &format!("worker {worker} to show it"), || {
            let answer = client.get(&list_target(8)).expect("an answer");
            answer.expect(200).text() != "[]"
        });
    }
}
