//! Redis is a cache and nothing but one: filled on a miss, never believed blindly, useful again after an outage, and
//! good for answers while the database is down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use canvas_cluster::cache::redis::RedisCache;
use canvas_cluster::scoreboard::Scoreboard;
use nix::sys::signal::Signal;

use crate::support::http::Request;
use crate::support::locked::Locked;
use crate::support::postgres::Postgres;
use crate::support::process::{signal, stand_still};
use crate::support::redis::{self, Redis};
use crate::support::shoes::{create, draft, list_target, put, row};
use crate::support::{Backend, PATIENCE, Server, wait_until};

/// A row that was there before the server started: no write has left its marks in Redis.
fn backend_with_a_row(postgres: &Postgres, redis: &Redis) -> (Backend, String) {
    let backend = Backend::on(postgres, Some(redis));
    backend.migrate();
    backend.execute("INSERT INTO shoe_images (shoe_id, img1) VALUES (7, 'a')");
    let url = backend.redis_url.clone().expect("a backend with Redis");
    (backend, url)
}

/// Asks for a shoe until Redis holds an answer with this text.
#[track_caller]
fn wait_until_cached(server: &Server, shoe: i64, url: &str, text: &str) {
    wait_until(PATIENCE, &format!("Redis to hold `{text}`"), || {
        server.get(&list_target(shoe)).expect(200);
        redis::holds(url, text)
    });
}

const OLD: &str = r#""img1":"a""#;
const NEW: &str = r#""img1":"b""#;

#[test]
fn redis_is_filled_on_a_miss_and_dropped_on_a_write() {
    let (backend, url) = backend_with_a_row(Postgres::shared(), Redis::shared());
    let arguments = ["--redis-prefix", "t:", "--redis-ttl", "100s"];
    let server = backend.canvas().workers(2).args(arguments).start();
    wait_until_cached(&server, 7, &url, OLD);
    let mut connection = redis::connect(&url).expect("the test's Redis");
    for key in redis::keys(&url) {
        assert!(key.starts_with("t:"), "a key without the prefix: {key}");
        let left: i64 = ::redis::cmd("TTL")
            .arg(&key)
            .query(&mut connection)
            .expect("TTL");
        assert!(left <= 100, "{key} lives for {left} s");
    }
    server.call(&put(1, draft(7, &[("img1", "b")]))).expect(200);
    assert!(!redis::holds(&url, OLD), "the old answer is still in Redis");
    // A fresh process has nothing cached of its own: what it answers comes from Redis or from the database.
    let fresh = backend.canvas().workers(1).args(arguments).start();
    assert_eq!(
        fresh.get(&list_target(7)).expect(200).text(),
        format!("[{}]", row(1, 7, &[("img1", "b")]))
    );
}

#[test]
fn garbage_in_redis_is_never_served() {
    let (backend, url) = backend_with_a_row(Postgres::shared(), Redis::shared());
    let server = backend.serve(1);
    wait_until_cached(&server, 7, &url, OLD);
    server.stop();
    let expected = format!("[{}]", row(1, 7, &[("img1", "a")]));
    let keys = redis::keys(&url);
    let mut connection = redis::connect(&url).expect("the test's Redis");
    let huge = "[".repeat(1_000_000);
    for garbage in [
        "",
        "garbage",
        "[]",
        "null",
        "\u{0}",
        r#"[{"id":1,"shoe_id":7}]"#,
        &huge,
    ] {
        for key in &keys {
            ::redis::cmd("SET")
                .arg(key)
                .arg(garbage)
                .exec(&mut connection)
                .expect("SET");
        }
        let server = backend.serve(1);
        let shown = &garbage[..garbage.len().min(30)];
        assert_eq!(
            server.get(&list_target(7)).expect(200).text(),
            expected,
            "with {shown:?} in Redis"
        );
    }
    // Another type than ours under our key.
    for key in &keys {
        ::redis::cmd("DEL")
            .arg(key)
            .exec(&mut connection)
            .expect("DEL");
        ::redis::cmd("RPUSH")
            .arg(key)
            .arg("x")
            .exec(&mut connection)
            .expect("RPUSH");
    }
    let server = backend.serve(1);
    assert_eq!(server.get(&list_target(7)).expect(200).text(), expected);
}

#[test]
fn what_redis_holds_is_served_while_postgres_is_down() {
    let postgres = Postgres::private();
    let (backend, url) = backend_with_a_row(&postgres, Redis::shared());
    let server = backend.serve(2);
    wait_until_cached(&server, 7, &url, OLD);
    postgres.stop();
    for (worker, mut client) in server.one_client_per_worker() {
        let answer = client
            .get(&list_target(7))
            .unwrap_or_else(|trouble| panic!("{trouble:?} from worker {worker}"));
        assert_eq!(answer.expect(200).json()[0]["img1"], "a");
        client.get(&list_target(8)).expect("an answer").problem(503);
    }
}

/// A server whose Redis took no writes while the row changed from `a` to `b`, and takes them again: what it held
/// from before is still there. So it is after a failover to a replica that was behind, or a full memory.
fn write_past_redis(backend: &Backend, redis: &Redis, url: &str) -> Server {
    let server = backend.serve(2);
    wait_until_cached(&server, 7, url, OLD);
    redis.refuse_writes();
    server.call(&put(1, draft(7, &[("img1", "b")]))).expect(200);
    redis.accept_writes();
    assert!(
        redis::holds(url, OLD),
        "the test is about an old answer that stayed"
    );
    for (worker, mut client) in server.one_client_per_worker() {
        let rows = client
            .get(&list_target(7))
            .expect("an answer")
            .expect(200)
            .json();
        assert_eq!(
            rows[0]["img1"], "b",
            "worker {worker} believes what Redis held from before"
        );
    }
    server
}

#[test]
fn redis_is_useful_again_after_it_missed_a_write() {
    let redis = Redis::private();
    let (backend, url) = backend_with_a_row(Postgres::shared(), &redis);
    let server = write_past_redis(&backend, &redis, &url);
    wait_until_cached(&server, 7, &url, NEW);
}

/// A Redis that is full evicts what it likes, ours included: the seed ran it with its LRU policy. Losing any key may
/// cost a miss; it must not make an older answer valid again.
#[test]
fn an_evicted_key_makes_no_old_answer_valid() {
    let redis = Redis::private();
    let (backend, url) = backend_with_a_row(Postgres::shared(), &redis);
    let server = write_past_redis(&backend, &redis, &url);
    // Redis works again once it takes an answer.
    create(&server, 8, &[]);
    wait_until_cached(&server, 9, &url, "[]");
    let mut connection = redis::connect(&url).expect("the test's Redis");
    for key in redis::keys(&url) {
        let value: Vec<u8> = ::redis::cmd("GET")
            .arg(&key)
            .query(&mut connection)
            .expect("GET");
        if !String::from_utf8_lossy(&value).contains(OLD) {
            ::redis::cmd("DEL")
                .arg(&key)
                .exec(&mut connection)
                .expect("DEL");
        }
    }
    // A fresh process has nothing cached of its own, and no memory of the outage.
    for server in [server, backend.serve(1)] {
        for (worker, mut client) in server.one_client_per_worker() {
            let rows = client
                .get(&list_target(7))
                .expect("an answer")
                .expect(200)
                .json();
            assert_eq!(
                rows[0]["img1"], "b",
                "worker {worker} serves an answer older than an acknowledged write"
            );
        }
    }
}

/// A tombstone is a key like any other to a Redis that is full. A fill that began before a write once covered the place
/// where one had been, and was believed for as long as Redis keeps answers.
#[test]
fn an_evicted_tombstone_lets_no_older_fill_through() {
    let redis = Redis::private();
    let (backend, url) = backend_with_a_row(Postgres::shared(), &redis);
    let server = backend
        .canvas()
        .workers(2)
        .args(["--hang-timeout", "5m", "--lanes", "1"])
        .start();
    wait_until_cached(&server, 8, &url, "[]");
    let mut clients = server.one_client_per_worker();
    let (_, mut writer) = clients.pop().expect("a client");
    let (dawdler, mut reader) = clients.pop().expect("another one");
    // Its lane has prepared the query.
    reader.get(&list_target(9)).expect("an answer").expect(200);
    // A reader that has asked Redis, and waits for the database.
    let mut locked = Locked::table(backend.postgres(), "shoe_images");
    reader
        .send_raw(&Request::new("GET", &list_target(7)).bytes())
        .expect("a request");
    locked.wait_for(1);
    assert!(redis::holds(&url, "~"), "the reader has no lease");
    // It gets its answer, and does nothing with it before the write is over and its marks are gone.
    stand_still(dawdler);
    locked.release();
    let active = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND state = 'active'";
    wait_until(PATIENCE, "the reader's query to end", || {
        backend.count(active) == 1
    });
    let change = put(1, draft(7, &[("img1", "b")]));
    writer.call(&change).expect("an answer").expect(200);
    let mut connection = redis::connect(&url).expect("the test's Redis");
    for key in redis::keys(&url) {
        if !key.ends_with("epoch") {
            ::redis::cmd("DEL")
                .arg(&key)
                .exec(&mut connection)
                .expect("DEL");
        }
    }
    signal(dawdler, Signal::SIGCONT);
    let answer = reader.receive(true).expect("an answer").expect(200);
    assert_eq!(
        answer.json()[0]["img1"],
        "a",
        "the test is about an older answer"
    );
    // The fill comes after the answer, and before the lane's next one.
    reader.get(&list_target(10)).expect("an answer").expect(200);
    let fresh = backend.serve(1);
    let rows = fresh.get(&list_target(7)).expect(200).json();
    assert_eq!(rows[0]["img1"], "b");
    assert!(!redis::holds(&url, OLD), "the older fill is in Redis");
}

/// A Redis that saves to its disk now and then (its default) and is killed comes back with what it held at the last time:
/// an answer that a write has ended since, and no tombstone. So does a replica that was behind when it took over.
#[test]
fn what_a_restored_redis_held_before_is_not_believed() {
    let redis = Redis::private();
    let (backend, url) = backend_with_a_row(Postgres::shared(), &redis);
    let mut server = backend.canvas().workers(2).start();
    server.allow("redis");
    wait_until_cached(&server, 7, &url, OLD);
    redis.save();
    server.call(&put(1, draft(7, &[("img1", "b")]))).expect(200);
    redis.kill();
    redis.start();
    assert!(
        redis::holds(&url, OLD),
        "the test is about an answer that comes back"
    );
    let mut fresh = backend.canvas().workers(1).start();
    fresh.allow("redis");
    for server in [&server, &fresh] {
        for (worker, mut client) in server.one_client_per_worker() {
            for _ in 0..3 {
                let answer = client.get(&list_target(7)).expect("an answer").expect(200);
                assert_eq!(answer.json()[0]["img1"], "b", "worker {worker}");
            }
        }
    }
    wait_until_cached(&server, 7, &url, NEW);
}

/// A cache as a worker has it, without the worker, over an empty Redis in which an epoch has begun.
fn bare_cache() -> RedisCache {
    let board = Scoreboard::new().expect("shared memory");
    let second = Duration::from_secs(1);
    let url = Redis::shared().url();
    let cache = RedisCache::new(&url, "", 100 * second, 2, second, board).expect("a URL");
    cache.fetch(&[0], |missing| missing);
    cache
}

/// What misses together may be answered by two calls, or in part: one of the shoes was refused, or has waited too long.
/// Once nothing was filled then, and the leases kept everybody else from it for four seconds.
#[test]
fn what_is_answered_in_part_is_filled_in_part() {
    let texts = |texts: [Option<&'static str>; 6]| texts.map(|text| text.map(Bytes::from));
    // 99 was never looked up, and 1 never answered.
    let expected = texts([
        Some("[7]"),
        Some("[2]"),
        None,
        Some("[4]"),
        Some("[9]"),
        None,
    ]);
    // A Redis that takes its time counts as one that is away: then from the start.
    wait_until(PATIENCE, "the answers to be in Redis", || {
        let cache = bare_cache();
        let shoes: Vec<i32> = (1..=10).rev().collect();
        let lookup = Arc::new(cache.fetch(&shoes, |missing| missing));
        assert!(lookup.found.iter().all(Option::is_none));
        let answer = |shoe| (lookup.clone(), shoe, Bytes::from(format!("[{shoe}]")));
        cache.fill(&[7, 2, 99, 4].map(answer));
        cache.fill(&[answer(9)]);
        cache.fetch(&[7, 2, 99, 4, 9, 1], |_| 0).found == expected
    });
}

/// What is hot once was an error as soon as its time was over, five seconds into an outage.
#[test]
fn what_a_worker_has_kept_outlasts_its_time_while_the_database_is_away() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    backend.execute("INSERT INTO shoe_images (shoe_id, img1) VALUES (7, 'a')");
    let mut server = backend
        .canvas()
        .workers(2)
        .args(["--l1-ttl", "100ms"])
        .start();
    server.allow("not available");
    let mut clients = server.one_client_per_worker();
    for (_, client) in &mut clients {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    postgres.stop();
    for (_, client) in &mut clients {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            let answer = client.get(&list_target(7)).expect("an answer").expect(200);
            assert_eq!(answer.json()[0]["img1"], "a");
            client.get(&list_target(8)).expect("an answer").problem(503);
        }
    }
    // What is written next ends it, as ever.
    postgres.start();
    wait_until(PATIENCE, "a write to be taken", || {
        let change = put(1, draft(7, &[("img1", "b")]));
        server.call(&change).status == 200
    });
    for (_, client) in &mut clients {
        let answer = client.get(&list_target(7)).expect("an answer");
        assert!(
            answer.status == 503 || answer.json()[0]["img1"] == "b",
            "{answer}"
        );
    }
}
