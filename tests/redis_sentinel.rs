//! A Redis with a replica and three Sentinels: the master dies, falls silent, or is told to give way, under load; no request
//! fails, and nothing old is answered by any host, whatever the new master never got. Over TLS, and by users that may do only
//! what README says.

use std::time::Duration;

use crate::checker::assert_coherent;
use crate::support::checker::{assert_all_show, check};
use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::postgres::Postgres;
use crate::support::sentinels::{ACL, SENTINEL_ACL, Sentinels};
use crate::support::shoes::{Id, create, draft, list_target, put};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

fn backend(group: &Sentinels) -> Backend {
    let mut backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    backend.redis_url = Some(group.url());
    backend
}

fn serve(backend: &Backend, more: &[&str]) -> Server {
    let mut server = backend
        .canvas()
        .workers(2)
        .args(["--request-timeout", "2s", "--l1-ttl", "1h"])
        .args(more)
        .start();
    server.allow("redis");
    server
}

/// Reads shoes that nobody has asked for yet until Redis has had one to keep.
#[track_caller]
fn wait_until_used(group: &Sentinels, master: usize, server: &Server) {
    let mut shoe = 1000;
    wait_until(PATIENCE, "the master to be filled", || {
        shoe += 1;
        server.get(&list_target(shoe)).expect(200);
        group.holds(master, ":[]")
    });
}

fn requests(id: Id) -> Vec<Request> {
    let mut requests: Vec<Request> = (0..100)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect();
    requests.extend((0..20).map(|turn| put(id, draft(7, &[("img1", &turn.to_string())]))));
    requests
}

#[test]
fn a_master_that_dies_or_falls_silent_fails_no_request() {
    let _machine = alone();
    for silent in [false, true] {
        let group = Sentinels::start();
        let backend = backend(&group);
        let server = serve(&backend, &[]);
        let id = create(&server, 7, &[("img1", "a")]);
        let load = Load::start(server.address(), Style::Paced, 4, requests(id));
        load.wait_for_answers(200);
        // Two of three are enough.
        group.freeze_a_sentinel();
        let before = group.master_of(1);
        match silent {
            true => group.freeze(before),
            false => group.kill(before),
        }
        group.wait_for_another_of(1, before);
        server.wait_for_line("redis: the master is");
        load.wait_for_answers(300);
        if silent {
            group.thaw(before);
            load.wait_for_answers(200);
        }
        let tally = load.stop();
        tally.report(match silent {
            true => "a master that falls silent",
            false => "a master that dies",
        });
        tally.assert_all_ok();
        wait_until_used(&group, 1 - before, &server);
    }
}

/// The old master answers as one for seconds after another one has taken its place.
#[test]
fn two_hosts_are_coherent_while_the_master_gives_way() {
    let _machine = alone();
    let group = Sentinels::start();
    for more in [&["--l1-bytes", "0"][..], &[]] {
        let backend = backend(&group);
        let (here, there) = (serve(&backend, more), serve(&backend, more));
        let mut turns = 0;
        let verdict = check(
            &[&here, &there],
            Duration::from_secs(5),
            Duration::from_secs(5),
            || {
                if turns == 1 {
                    let before = group.master();
                    group.ask_for_failover();
                    group.wait_for_another(before);
                }
                turns += 1;
            },
        );
        assert_coherent(&format!("SENTINEL FAILOVER, two hosts {more:?}"), &verdict);
        assert!(turns > 1, "the master stayed");
        // Sentinels make the old master a replica in their own time.
        group.wait_until_whole();
    }
}

/// Replication is asynchronous: a tombstone dies with its master, and the next one holds the answer of before the write.
#[test]
fn a_tombstone_that_dies_with_its_master_lets_nothing_old_be_answered() {
    let _machine = alone();
    let group = Sentinels::with_relay();
    let backend = backend(&group);
    let uncached = ["--l1-bytes", "0"];
    let (here, there) = (serve(&backend, &uncached), serve(&backend, &uncached));
    let id = create(&here, 7, &[("img1", "0")]);
    let (master, replica) = (0, 1);
    wait_until(PATIENCE, "the replica to hold the answer", || {
        there.get(&list_target(7)).expect(200);
        group.holds(replica, r#""img1":"0""#)
    });
    let relay = group.relay.as_ref().expect("a relay");
    relay.swallow_everything();
    here.call(&put(id, draft(7, &[("img1", "1")]))).expect(200);
    assert!(
        group.holds(replica, r#""img1":"0""#) && !group.holds(master, r#""img1":"0""#),
        "the tombstone was not lost"
    );
    assert_all_show(&[&here, &there], 7, "1", || {
        group.kill(master);
        group.wait_for_another(master);
        wait_until(PATIENCE, "the new master to be filled", || {
            group.holds(replica, r#""img1":"1""#)
        });
    });
}

#[test]
fn sentinels_and_servers_over_tls_are_used_and_no_others() {
    let group = Sentinels::over_tls();
    let mut backend = backend(&group);
    let server = serve(&backend, &[]);
    wait_until_used(&group, group.master(), &server);
    server.stop();
    // By the system's authorities it is a stranger.
    let url = group.url();
    backend.redis_url = url
        .split_once("&sslrootcert=")
        .map(|(url, _)| url.to_owned());
    let stranger = serve(&backend, &[]);
    stranger.get(&list_target(8)).expect(200);
    stranger.wait_for_line("redis: not available");
    stranger.wait_for_line("certificate");
}

#[test]
fn readme_names_the_users_that_were_tested() {
    let readme = include_str!("../README.md");
    for line in [ACL, SENTINEL_ACL] {
        assert!(readme.contains(line), "README does not say `{line}`");
    }
}
