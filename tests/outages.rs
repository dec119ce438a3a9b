//! PostgreSQL and Redis stop, die, freeze and come back, before and while the server serves. It never ends, says so
//! without a storm, answers 503 only for what it can't know, and recovers by itself.
//!
//! `tests/run outages 10` goes through ten times as many outages, and prints what was measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::http::{Client, Request};
use crate::support::load::{Load, Style};
use crate::support::postgres::Postgres;
use crate::support::redis::{self, Redis};
use crate::support::relay::Relay;
use crate::support::shoes::{create, draft, list_target, post, put};
use crate::support::vigil::{Vigil, answered_by_the_deadline, rounds};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

#[track_caller]
fn wait_for_status(server: &Server, target: &str, status: u16) {
    wait_until(PATIENCE, &format!("{target} to answer {status}"), || {
        server.get(target).status == status
    });
}

/// Log lines that warn, or worse, and name any of these (in lower case).
fn warnings(server: &Server, about: &[&str]) -> usize {
    let lines = [server.lines_with("WARN"), server.lines_with("ERROR")].concat();
    lines
        .iter()
        .map(|line| line.to_lowercase())
        .filter(|line| about.iter().any(|word| line.contains(word)))
        .count()
}

/// Two workers with the patience that the program has by default.
#[track_caller]
fn serve(backend: &Backend) -> Server {
    backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "2s"])
        .start()
}

const DATABASE: [&str; 2] = ["database", "postgres"];

#[test]
fn starts_without_postgres_and_serves_once_it_is_there() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    postgres.stop();
    let server = serve(&backend);
    let workers = server.workers();
    server.get("/healthz").expect(200);
    server.get("/readyz").problem(503);
    for shoe in 0..30 {
        server.get(&list_target(shoe)).problem(503);
        server.call(&post(draft(shoe, &[]))).problem(503);
    }
    let said = warnings(&server, &DATABASE);
    assert!(said >= 1, "the outage is not in the log");
    assert!(
        said <= 2,
        "the outage is not said once by each worker at most, but {said} times"
    );
    postgres.start();
    wait_for_status(&server, "/readyz", 200);
    // One worker is ready; the others follow by themselves.
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(
            PATIENCE,
            &format!("worker {worker} to reach PostgreSQL"),
            || client.get(&list_target(7)).expect("an answer").status == 200,
        );
        client
            .call(&post(draft(7, &[("img1", "a")])))
            .expect("an answer")
            .expect(201);
    }
    assert_eq!(server.workers(), workers, "an outage cost workers");
}

#[test]
fn starts_without_redis_and_uses_it_once_it_is_there() {
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    redis.kill();
    let server = serve(&backend);
    let id = create(&server, 7, &[("img1", "a")]);
    for shoe in 0..30 {
        server.get(&list_target(shoe)).expect(200);
    }
    server
        .call(&put(id, draft(7, &[("img1", "b")])))
        .expect(200);
    assert_eq!(
        server.get(&list_target(7)).expect(200).json()[0]["img1"],
        "b"
    );
    server.get("/readyz").expect(200);
    assert!(warnings(&server, &["redis"]) <= 4, "a storm of warnings");
    redis.start();
    let url = backend.redis_url.clone().expect("a backend with Redis");
    let mut shoe = 1000;
    wait_until(PATIENCE, "answers to reach Redis again", || {
        shoe += 1;
        server.get(&list_target(shoe)).expect(200);
        redis::holds(&url, "[]")
    });
}

#[test]
fn serves_again_after_postgres_was_stopped_or_killed() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let server = serve(&backend);
    let workers = server.workers();
    create(&server, 7, &[("img1", "a")]);
    let mut fresh = 1000;
    for down in [Postgres::stop, Postgres::kill] {
        for (_, mut client) in server.one_client_per_worker() {
            client.get(&list_target(7)).expect("an answer").expect(200);
        }
        down(&postgres);
        server.get("/healthz").expect(200);
        fresh += 1;
        server.get(&list_target(fresh)).problem(503);
        server.call(&post(draft(fresh, &[]))).problem(503);
        wait_for_status(&server, "/readyz", 503);
        postgres.start();
        wait_for_status(&server, "/readyz", 200);
        for (worker, mut client) in server.one_client_per_worker() {
            fresh += 1;
            wait_until(
                PATIENCE,
                &format!("worker {worker} to reach PostgreSQL again"),
                || client.get(&list_target(fresh)).expect("an answer").status == 200,
            );
        }
        let rows = server.get(&list_target(7)).expect(200).json();
        assert_eq!(rows[0]["img1"], "a", "an acknowledged row is gone");
    }
    assert_eq!(server.workers(), workers, "an outage cost workers");
    assert!(warnings(&server, &DATABASE) <= 16, "a storm of warnings");
}

/// Stopped, killed or restarted: what workers have themselves they answer, the rest they refuse at once, and they are back as
/// soon as the database is.
#[test]
fn an_outage_of_postgres_stops_no_hit_and_ends_with_it() {
    let _machine = alone();
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "2s", "--l1-ttl", "1h"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    let workers = server.workers();
    let mut vigil = Vigil::over(&server, 7);
    let ask = || assert!(backend.count("SELECT count(*) FROM shoe_images") > 0);
    for _ in 0..rounds() {
        postgres.stop();
        vigil.refusals_are_fast("stopped");
        postgres.start();
        vigil.is_back("stopped", ask);
        postgres.kill();
        vigil.refusals_are_fast("killed");
        postgres.start();
        vigil.is_back("killed", ask);
        postgres.stop();
        postgres.start();
        vigil.is_back("restarted", ask);
        create(&server, 8, &[]);
    }
    vigil.end();
    assert_eq!(server.workers(), workers, "an outage cost workers");
}

/// Requests have a deadline, and are answered by it although the database is not.
#[test]
fn a_frozen_postgres_is_waited_for_until_the_deadline() {
    let _machine = alone();
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--request-timeout", "1s"])
        .start();
    let id = create(&server, 7, &[("img1", "a")]);
    postgres.freeze();
    let mut requests: Vec<Request> = (100..110)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect();
    requests.push(Request::new("GET", "/readyz"));
    requests.push(Request::new("GET", &format!("/api/images/{id}")));
    requests.push(post(draft(9, &[])));
    requests.push(put(id, draft(7, &[("img1", "b")])));
    answered_by_the_deadline(&server, Duration::from_secs(1), &requests);
    postgres.thaw();
    wait_for_status(&server, "/readyz", 200);
}

#[test]
fn a_frozen_postgres_costs_a_time_out_and_nothing_else() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "500ms"])
        .start();
    let workers = server.workers();
    create(&server, 7, &[("img1", "a")]);
    postgres.freeze();
    for shoe in 100..104 {
        server.get(&list_target(shoe)).problem(503);
        server.get("/healthz").expect(200);
    }
    server.call(&post(draft(200, &[]))).problem(503);
    postgres.thaw();
    wait_for_status(&server, "/readyz", 200);
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(
            PATIENCE,
            &format!("worker {worker} to reach PostgreSQL again"),
            || client.get(&list_target(300)).expect("an answer").status == 200,
        );
    }
    assert_eq!(server.workers(), workers, "a frozen database cost workers");
}

#[test]
fn a_killed_redis_fails_no_request() {
    let _machine = alone();
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let server = serve(&backend);
    let id = create(&server, 7, &[("img1", "a")]);
    let mut requests: Vec<Request> = (0..200)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect();
    requests.extend((0..10).map(|turn| put(id, draft(7, &[("img1", &turn.to_string())]))));
    let load = Load::start(server.address(), Style::KeepAlive, 4, requests);
    load.wait_for_answers(100);
    redis.kill();
    load.wait_for_answers(300);
    redis.start();
    load.wait_for_answers(300);
    redis.kill();
    load.wait_for_answers(300);
    load.stop().assert_all_ok();
    server.get("/readyz").expect(200);
    assert!(warnings(&server, &["redis"]) <= 20, "a storm of warnings");
}

#[test]
fn a_frozen_redis_fails_no_request() {
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let server = serve(&backend);
    create(&server, 7, &[("img1", "a")]);
    redis.freeze();
    for shoe in 100..110 {
        server.get(&list_target(shoe)).expect(200);
    }
    let id = create(&server, 8, &[("img1", "a")]);
    server
        .call(&put(id, draft(8, &[("img1", "b")])))
        .expect(200);
    assert_eq!(
        server.get(&list_target(8)).expect(200).json()[0]["img1"],
        "b"
    );
    redis.thaw();
    // What Redis held from before the freeze must not come back.
    for (worker, mut client) in server.one_client_per_worker() {
        let rows = client
            .get(&list_target(8))
            .expect("an answer")
            .expect(200)
            .json();
        assert_eq!(rows[0]["img1"], "b", "worker {worker} is out of date");
    }
}

/// Writes that came together once waited for a silent Redis one after another, inside of their transaction.
#[test]
fn many_writes_at_once_wait_for_a_frozen_redis_once() {
    const WRITERS: i32 = 64;
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let mut server = serve(&backend);
    server.allow("redis");
    for (_, mut client) in server.one_client_per_worker() {
        client.get(&list_target(1)).expect("an answer").expect(200);
    }
    let mut clients: Vec<_> = (0..WRITERS).map(|_| server.connect()).collect();
    redis.freeze();
    for (shoe, client) in (100..).zip(&mut clients) {
        client
            .send_raw(&post(draft(shoe, &[])).bytes())
            .expect("a request");
    }
    for client in &mut clients {
        client.receive(true).expect("an answer").expect(201);
    }
    redis.thaw();
    let stored = backend.count("SELECT count(*) FROM shoe_images");
    assert_eq!(stored, i64::from(WRITERS));
}

/// Time-outs were once those of single system calls: a byte now and then held the lane that looks up, with everybody who asked,
/// and each writer inside of its transaction, for as long as the bytes came.
#[test]
fn a_redis_whose_answers_trickle_in_is_waited_for_once() {
    // One answer, an epoch at least, is some 60 bytes: so many drips are 12 seconds.
    const FAR_LESS: Duration = Duration::from_secs(6);
    let redis = Redis::private();
    let relay = Relay::to(redis.port());
    let mut backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let direct = backend.redis_url.take().expect("a backend with Redis");
    backend.redis_url = Some(relay.url(&direct, redis.port()));
    let mut server = serve(&backend);
    server.allow("redis");
    let mut clients = server.one_client_per_worker();
    for (_, client) in &mut clients {
        client.get(&list_target(1)).expect("an answer").expect(200);
    }
    let asked = |client: &mut Client, request: &Request, status: u16| {
        let begun = Instant::now();
        client.call(request).expect("an answer").expect(status);
        assert!(begun.elapsed() < FAR_LESS, "{:?}", begun.elapsed());
    };
    relay.trickle();
    for (shoe, (_, client)) in (100..).zip(&mut clients) {
        asked(client, &Request::new("GET", &list_target(shoe)), 200);
        asked(client, &post(draft(shoe, &[])), 201);
    }
    // What could not be told is made up for.
    relay.heal();
    let id = create(&server, 7, &[("img1", "a")]);
    for (_, client) in &mut clients {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    relay.trickle();
    let change = put(id, draft(7, &[("img1", "b")]));
    asked(&mut clients[0].1, &change, 200);
    relay.heal();
    for (worker, client) in &mut clients {
        let answer = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(answer.json()[0]["img1"], "b", "worker {worker}");
    }
    wait_until(PATIENCE, "Redis to be filled again", || {
        server.get(&list_target(7)).expect(200);
        redis::holds(&direct, r#""img1":"b""#)
    });
}

/// A Redis that answers and refuses was once told of the debt by every batch, and told all hosts of it each time.
#[test]
fn a_redis_that_refuses_writes_is_left_alone() {
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let mut server = serve(&backend);
    server.allow("redis");
    let url = backend.redis_url.clone().expect("a backend with Redis");
    let id = create(&server, 7, &[("img1", "a")]);
    redis.refuse_writes();
    server
        .call(&put(id, draft(7, &[("img1", "b")])))
        .expect(200);
    let (before, begun) = (redis.calls("publish"), redis.calls("set"));
    for shoe in 100..400 {
        server.get(&list_target(shoe)).expect(200);
    }
    for (_, mut client) in server.one_client_per_worker() {
        let rows = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(rows.json()[0]["img1"], "b");
    }
    assert_eq!(redis.calls("publish"), before, "nothing was settled");
    // A few of each worker's clerk.
    assert!(
        redis.calls("set") < begun + 50,
        "it is asked again and again"
    );
    redis.accept_writes();
    wait_until(PATIENCE, "Redis to be filled again", || {
        server.get(&list_target(7)).expect(200);
        redis::holds(&url, r#""img1":"b""#)
    });
}

/// A Redis that was made a replica, as by a failover, answers reads and takes no tombstone.
#[test]
fn a_redis_that_became_a_replica_counts_as_gone() {
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let mut server = serve(&backend);
    server.allow("redis");
    let id = create(&server, 7, &[("img1", "a")]);
    for (_, mut client) in server.one_client_per_worker() {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    redis.command("REPLICAOF 127.0.0.1 1");
    server
        .call(&put(id, draft(7, &[("img1", "b")])))
        .expect(200);
    server.wait_for_line("redis: not available");
    for (worker, mut client) in server.one_client_per_worker() {
        let rows = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(
            rows.json()[0]["img1"],
            "b",
            "worker {worker} is out of date"
        );
    }
    redis.command("REPLICAOF NO ONE");
    server.wait_for_line("redis: available again");
    for (worker, mut client) in server.one_client_per_worker() {
        let rows = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(
            rows.json()[0]["img1"],
            "b",
            "worker {worker} is out of date"
        );
    }
}

#[test]
fn a_database_without_the_table_is_told_apart_and_mended() {
    let backend = Backend::unmigrated_postgres_redis();
    let server = backend.serve(1);
    server.get("/readyz").problem(503);
    let answer = server.get(&list_target(7));
    answer.problem(503);
    server.wait_for_line("migrate");
    backend.migrate();
    wait_for_status(&server, "/readyz", 200);
    wait_for_status(&server, &list_target(7), 200);
}

/// A small file system of its own over a folder; gone with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where nobody may mount.
    fn over(folder: &Path) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
            .arg(folder)
            .status();
        let mounted = mount.is_ok_and(|status| status.success());
        mounted.then(|| SmallDisk(folder.to_owned()))
    }

    fn grow(&self) {
        self.remount("size=8m");
    }

    fn remount(&self, how: &str) {
        let mount = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.0)
            .status();
        assert!(mount.expect("mount").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The disk of the SQLite file is full: writes are refused in words, reads go on, and with room again all is well.
#[test]
fn a_full_disk_refuses_writes_and_answers_reads() {
    let mut backend = Backend::unmigrated_sqlite();
    let folder = backend.dir.join("small");
    std::fs::create_dir(&folder).expect("a folder");
    let Some(disk) = SmallDisk::over(&folder) else {
        eprintln!("can't mount here: the stores' tests fill SQLite up by its own limit");
        return;
    };
    backend.database_url = format!("sqlite:{}", folder.join("shoes.db").display());
    backend.migrate();
    let mut server = serve(&backend);
    server.allow("full");
    let large = "x".repeat(250);
    let row = post(draft(7, &[("img1", &large), ("img2", &large)]));
    let mut stored = 0;
    let refused = loop {
        let answer = server.call(&row);
        if answer.status != 201 {
            break answer;
        }
        stored += 1;
        assert!(stored < 10_000, "the disk never gets full");
    };
    let problem = refused.problem(503);
    assert_eq!(problem.kind, "/problems/store-refuses", "{problem:?}");
    assert!(problem.detail.contains("full"), "{problem:?}");
    for (_, mut client) in server.one_client_per_worker() {
        let rows = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(rows.json().as_array().map(Vec::len), Some(stored));
        client.get(&list_target(8)).expect("an answer").expect(200);
        client.call(&row).expect("an answer").problem(503);
    }
    disk.grow();
    wait_until(PATIENCE, "writes to work again", || {
        server.call(&row).status == 201
    });
    assert_eq!(
        backend.count("SELECT count(*) FROM shoe_images"),
        stored as i64 + 1
    );
    server.stop();
}

/// The file system of the SQLite file may only be read, as after an error of its disk: writes are refused in words, reads go
/// on, and once it may be written again all is well.
#[test]
fn a_read_only_file_system_refuses_writes_and_answers_reads() {
    let mut backend = Backend::unmigrated_sqlite();
    let folder = backend.dir.join("small");
    std::fs::create_dir(&folder).expect("a folder");
    let Some(disk) = SmallDisk::over(&folder) else {
        eprintln!("can't mount here: the stores' tests have a connection that may only read");
        return;
    };
    backend.database_url = format!("sqlite:{}", folder.join("shoes.db").display());
    backend.migrate();
    let first = serve(&backend);
    let row = post(draft(7, &[("img1", "a")]));
    first.call(&row).expect(201);
    first.stop();
    disk.remount("ro");
    let mut server = serve(&backend);
    server.allow("readonly");
    for (_, mut client) in server.one_client_per_worker() {
        let rows = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(rows.json().as_array().map(Vec::len), Some(1));
        let problem = client.call(&row).expect("an answer").problem(503);
        assert_eq!(problem.kind, "/problems/store-refuses", "{problem:?}");
        assert!(problem.detail.contains("read-only"), "{problem:?}");
    }
    disk.remount("rw");
    wait_until(PATIENCE, "writes to work again", || {
        server.call(&row).status == 201
    });
    assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 2);
    server.stop();
}
