//! Several servers over one database and one Redis, as on several hosts: what one writes the others see.

use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::shoes::{create, draft, list_target, put, row};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

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
