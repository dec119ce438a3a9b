//! A Redis Cluster of three masters and their replicas: batches are split by slot, masters die, fall silent or give way, and slots move,
//! all under load; no request fails, and nothing old is answered by any host. Over TLS, and by a user that may do only what
//! README says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::admin::{admin_of, metrics};
use crate::checker::{assert_coherent, time};
use crate::support::checker::{assert_all_show, check};
use crate::support::cluster::{ACL, Cluster};
use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::shoes::{Id, create, draft, list_target, put};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

/// Of an answer on another host: half a second where a subscription was lost; a busy machine may keep a process from running for
/// long.
const LAG: Duration = Duration::from_secs(5);

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

fn prefix(backend: &Backend) -> &str {
    backend.redis_prefix.as_deref().expect("a prefix")
}

/// Reads shoes that nobody has asked for yet until each of these servers has had one to keep.
#[track_caller]
fn wait_until_used(cluster: &Cluster, masters: &[usize], backend: &Backend, server: &Server) {
    static NEXT: AtomicU64 = AtomicU64::new(100_000);
    let first = NEXT.fetch_add(10_000, Ordering::Relaxed);
    let mut shoe = first;
    let fresh = |key: &String| {
        let shoe = key.rsplit_once(":shoe:v1:").map(|(_, shoe)| shoe.parse());
        shoe.is_some_and(|shoe| (first..first + 10_000).contains(&shoe.expect("a number")))
    };
    wait_until(PATIENCE, "the masters to be filled", || {
        for _ in 0..20 {
            server.get(&list_target(shoe as i64)).expect(200);
            shoe += 1;
        }
        masters.iter().all(|master| {
            let keys = cluster.keys(*master, prefix(backend));
            // A lease is not enough.
            let filled = |key: &String| {
                let value = cluster.value_at(*master, key);
                value.is_some_and(|value| value.ends_with(":[]"))
            };
            keys.iter().filter(|key| fresh(key)).any(filled)
        })
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
fn all_masters_are_used_and_what_is_there_is_found() {
    let cluster = Cluster::shared();
    let backend = cluster.backend();
    let canvas = backend.canvas().workers(1);
    let server = canvas
        .args(["--l1-bytes", "0", "--admin", "127.0.0.1:0"])
        .start();
    let masters: Vec<usize> = cluster
        .nodes(0)
        .iter()
        .filter(|node| node.is_master)
        .map(|node| node.server)
        .collect();
    assert_eq!(masters.len(), 3);
    wait_until_used(cluster, &masters, &backend, &server);
    let id = create(&server, 7, &[("img1", "a")]);
    // The first question for a bucket begins its epoch, the next one fills.
    for shoe in (0..60).chain(0..60) {
        server.get(&list_target(shoe)).expect(200);
    }
    let admin = admin_of(&server);
    let hits = || metrics(admin).value("canvas_cluster_cache_hits_total{layer=\"redis\"}");
    let before = hits();
    // A shoe that was written to is not filled while its tombstone is there.
    for shoe in (0..60).filter(|shoe| *shoe != 7) {
        server.get(&list_target(shoe)).expect(200);
    }
    assert_eq!(hits() - before, 59.0);
    server
        .call(&put(id, draft(8, &[("img1", "b")])))
        .expect(200);
    assert_eq!(
        server.get(&list_target(8)).expect(200).json()[0]["img1"],
        "b"
    );
    assert_eq!(
        server
            .get(&list_target(7))
            .expect(200)
            .json()
            .as_array()
            .map(Vec::len),
        Some(0)
    );
    server.stop();
}

#[test]
fn masters_that_give_way_fall_silent_or_die_fail_no_request() {
    let _machine = alone();
    let cluster = Cluster::start();
    let backend = cluster.backend();
    let server = serve(&backend, &[]);
    let id = create(&server, 7, &[("img1", "a")]);
    let load = Load::start(server.address(), Style::Paced, 4, requests(id));
    load.wait_for_answers(200);
    let replicas = [0, 1, 2].map(|master| cluster.replica_of(master));
    let mut said = server.log_length();
    let mut wait_for_it = || {
        server.wait_for_line_after(said, "redis: the masters of the cluster are");
        said = server.log_length();
        load.wait_for_answers(200);
    };
    cluster.promote(replicas[0]);
    wait_for_it();
    println!("gave way");
    cluster.freeze(1);
    wait_until(
        PATIENCE,
        "another master in place of the silent one",
        || cluster.is_master(replicas[1], 2),
    );
    wait_for_it();
    cluster.thaw(1);
    load.wait_for_answers(200);
    println!("fell silent");
    cluster.kill(2);
    wait_until(PATIENCE, "another master in place of the dead one", || {
        cluster.is_master(replicas[2], replicas[0])
    });
    wait_for_it();
    let tally = load.stop();
    tally.report("masters that give way, fall silent and die");
    tally.assert_all_ok();
    wait_until_used(&cluster, &replicas, &backend, &server);
}

/// `tests/run checker 600` runs this for longer, too.
mod checker {
    use super::*;

    /// Lets a master be silent until its replica has taken its place.
    fn silence(cluster: &Cluster, master: usize) {
        let replica = cluster.replica_of(master);
        cluster.freeze(master);
        wait_until(PATIENCE, "another master", || {
            cluster.is_master(replica, replica)
        });
        cluster.thaw(master);
        cluster.wait_until_whole();
    }

    #[test]
    fn two_hosts_are_coherent_while_masters_give_way_and_slots_move() {
        let _machine = alone();
        let cluster = Cluster::start();
        let mut random = fastrand::Rng::with_seed(7);
        for more in [&["--l1-bytes", "0"][..], &[]] {
            let backend = cluster.backend();
            let (here, there) = (serve(&backend, more), serve(&backend, more));
            let mut turns = 0;
            let verdict = check(&[&here, &there], LAG, time(), || {
                let mut slots = [0, 9000, 16383];
                if turns > 3 {
                    random.shuffle(&mut slots);
                }
                let [from, to, other] = slots.map(|slot| cluster.master_of(slot, 0));
                match (turns, random.u8(..4)) {
                    (1, _) | (4.., 0) => cluster.promote(cluster.replica_of(from)),
                    // Two buckets, and one elsewhere.
                    (2, _) | (4.., 1) if from != other => cluster.reshard(from, other, 512),
                    (3, _) | (4.., 2) if from != to => cluster.reshard(from, to, 200),
                    (4.., 3) => silence(&cluster, from),
                    _ => {}
                }
                turns += 1;
            });
            assert_coherent(
                &format!("masters give way and slots move, {turns} turns, two hosts {more:?}"),
                &verdict,
            );
            let failed = (verdict.refused, verdict.unknown);
            assert_eq!(failed, (0, 0), "requests failed");
            assert!(turns > 2, "nothing has moved");
            cluster.wait_until_whole();
        }
    }
}

/// A master that dies together with its replica: nobody takes its place, and the others go on.
#[test]
fn a_part_that_is_lost_leaves_the_others_useful() {
    let _machine = alone();
    let cluster = Cluster::start();
    cluster.do_in_part();
    let backend = cluster.backend();
    let run = |more: &[&str]| {
        let canvas = backend.canvas().workers(1).args(more);
        let mut server = canvas
            .args(["--l1-ttl", "1h", "--admin", "127.0.0.1:0"])
            .start();
        server.allow("redis");
        server
    };
    let (uncached, cached) = (run(&["--l1-bytes", "0"]), run(&[]));
    let pass = |server: &Server| {
        (0..100).for_each(|shoe| drop(server.get(&list_target(shoe)).expect(200)));
    };
    let ending = |shoe: usize| format!(":shoe:v1:{shoe}");
    let kept = |master| {
        let keys = cluster.keys(master, prefix(&backend));
        let is_kept = |shoe: &usize| keys.iter().any(|key| key.ends_with(&ending(*shoe)));
        (0..100).filter(is_kept).count()
    };
    wait_until(PATIENCE, "all to be kept", || {
        pass(&uncached);
        kept(0) + kept(1) + kept(2) == 100
    });
    let rest = 100 - kept(0);
    assert!((30..90).contains(&rest), "{rest} of 100 on two masters");
    pass(&cached);
    let id = create(&uncached, 1000, &[("img1", "a")]);
    let load = Load::start(uncached.address(), Style::Paced, 4, requests(id));
    cluster.kill(cluster.replica_of(0));
    cluster.kill(0);
    uncached.wait_for_line("redis: not available for");
    load.wait_for_answers(300);
    let tally = load.stop();
    tally.report("a master that dies with its replica");
    tally.assert_all_ok();
    for (server, layer) in [(&uncached, "redis"), (&cached, "l1")] {
        let admin = admin_of(server);
        let series = format!("canvas_cluster_cache_hits_total{{layer=\"{layer}\"}}");
        let hits = || metrics(admin).value(&series);
        wait_until(PATIENCE, "what the others keep to be had", || {
            let before = hits();
            pass(server);
            hits() - before >= rest as f64
        });
    }
}

/// Replication is asynchronous: a tombstone dies with its master, and the next one holds the answer of before the write.
#[test]
fn a_tombstone_that_dies_with_its_master_lets_nothing_old_be_answered() {
    let _machine = alone();
    let cluster = Cluster::start();
    let backend = cluster.backend();
    let uncached = ["--l1-bytes", "0"];
    let (here, there) = (serve(&backend, &uncached), serve(&backend, &uncached));
    // Nobody may have read it before: the tombstone of its own making would be in the way for long.
    backend.execute("insert into shoe_images (shoe_id, img1) values (7, '0')");
    let id = there.get(&list_target(7)).expect(200).json()[0]["id"]
        .as_i64()
        .expect("an id");
    let (key, master) = find(&cluster, &backend, &there, 7);
    let replica = cluster.replica_of(master);
    let holds = |value: Option<String>, text: &str| value.is_some_and(|value| value.contains(text));
    let (old, new) = (r#""img1":"0""#, r#""img1":"1""#);
    wait_until(PATIENCE, "the replica to hold the answer", || {
        there.get(&list_target(7)).expect(200);
        holds(cluster.copy_at(replica, &key), old)
    });
    cluster.cut_off(replica);
    here.call(&put(id, draft(7, &[("img1", "1")]))).expect(200);
    assert!(
        holds(cluster.copy_at(replica, &key), old) && !holds(cluster.value_at(master, &key), old),
        "the tombstone was not lost"
    );
    assert_all_show(&[&here, &there], 7, "1", || {
        cluster.kill(master);
        let by = (master + 1) % 3;
        wait_until(PATIENCE, "another master", || {
            cluster.is_master(replica, by)
        });
        wait_until(PATIENCE, "the new master to be filled", || {
            holds(cluster.value_at(replica, &key), new)
        });
    });
}

/// The key of a shoe, and the master that has it.
#[track_caller]
fn find(cluster: &Cluster, backend: &Backend, server: &Server, shoe: i64) -> (String, usize) {
    let mut found = None;
    // The first question for a bucket begins its epoch, and leaves no key. The answer to it is kept by the worker that was asked.
    wait_until(PATIENCE, "a master to have the key", || {
        for (_, mut client) in server.one_client_per_worker() {
            client
                .get(&list_target(shoe))
                .expect("an answer")
                .expect(200);
        }
        found = (0..3).find_map(|master| {
            let keys = cluster.keys(master, prefix(backend));
            let ending = format!(":shoe:v1:{shoe}");
            let key = keys.into_iter().find(|key| key.ends_with(&ending))?;
            Some((key, master))
        });
        found.is_some()
    });
    found.expect("a key")
}

/// While a slot moves, a key that was moved already is marked where it is now, and other hosts hear of the write at once.
#[test]
fn a_write_reaches_a_key_that_has_gone_ahead() {
    let cluster = Cluster::start();
    let backend = cluster.backend();
    let (here, there) = (serve(&backend, &[]), serve(&backend, &[]));
    backend.execute("insert into shoe_images (shoe_id, img1) values (7, '0')");
    let shown = |server: &Server| {
        let row = server.get(&list_target(7)).expect(200).json()[0].clone();
        let name = row["img1"].as_str().expect("a name").to_owned();
        (row["id"].as_i64().expect("an id"), name)
    };
    let (id, _) = shown(&there);
    let (key, from) = find(&cluster, &backend, &there, 7);
    wait_until(PATIENCE, "the answer to be kept", || {
        cluster
            .value_at(from, &key)
            .is_some_and(|value| value.contains(r#""img1":"0""#))
    });
    let to = (from + 1) % 3;
    let slot = cluster.slot_of(&key);
    cluster.open_slot(slot, from, to);
    cluster.migrate(&key, from, to);
    // As often as there are workers, and more: each has its own cache and its own connections.
    for turn in 1..=8 {
        assert_eq!(shown(&there).1, (turn - 1).to_string());
        here.call(&put(id, draft(7, &[("img1", &turn.to_string())])))
            .expect(200);
        assert_eq!(shown(&here).1, turn.to_string());
        assert_eq!(
            cluster.value_at(to, &key).as_deref(),
            Some("-"),
            "no tombstone"
        );
        wait_until(Duration::from_secs(1), "the other host to hear", || {
            shown(&there).1 == turn.to_string()
        });
    }
    assert_eq!(cluster.value_at(from, &key), None);
    // What is left of the slot goes, too.
    for key in cluster.keys(from, prefix(&backend)) {
        if cluster.slot_of(&key) == slot {
            cluster.migrate(&key, from, to);
        }
    }
    cluster.close_slot(slot, from, to);
    // What was filled on the old master is not believed on the new one, which fills anew.
    let tag = key.split_once(":shoe:").expect("a shoe's key").0.to_owned();
    let mut shoe = 1000;
    wait_until(PATIENCE, "the new master to be filled", || {
        shoe += 20;
        (shoe..shoe + 20).for_each(|shoe| drop(here.get(&list_target(shoe)).expect(200)));
        let keys = cluster.keys(to, &tag);
        let filled = |key: &String| {
            cluster
                .value_at(to, key)
                .is_some_and(|value| value.ends_with(":[]"))
        };
        keys.iter().any(filled)
    });
    assert_eq!(
        (shown(&here).1, shown(&there).1),
        ("8".to_owned(), "8".to_owned())
    );
}

/// It is the same process, but what it holds is what another one had, which may have missed a tombstone.
#[test]
fn what_a_master_held_before_it_was_a_replica_is_not_believed() {
    let cluster = Cluster::start();
    let backend = cluster.backend();
    backend.execute("insert into shoe_images (shoe_id, img1) values (7, '0')");
    let server = serve(&backend, &["--l1-bytes", "0"]);
    let (key, master) = find(&cluster, &backend, &server, 7);
    let keeps = || {
        let value = cluster.value_at(master, &key);
        value.is_some_and(|value| value.contains(r#""img1":"0""#))
    };
    wait_until(PATIENCE, "the answer to be kept", || {
        server.get(&list_target(7)).expect(200);
        keeps()
    });
    server.stop();
    let replica = cluster.replica_of(master);
    cluster.promote(replica);
    assert_eq!(cluster.replica_of(replica), master);
    cluster.wait_until_whole();
    cluster.promote(master);
    backend.execute("update shoe_images set img1 = '1'");
    assert!(keeps(), "nothing to be believed");
    // A server that knows of nothing that was before.
    let server = serve(&backend, &["--l1-bytes", "0"]);
    for _ in 0..20 {
        let rows = server.get(&list_target(7)).expect(200);
        assert_eq!(rows.json()[0]["img1"], "1");
    }
}

#[test]
fn a_cluster_over_tls_is_used_and_no_other() {
    let cluster = Cluster::over_tls();
    let mut backend = cluster.backend();
    let server = serve(&backend, &[]);
    let keys = || {
        (0..3).map(|server| {
            let size = cluster.ask(server, &["DBSIZE"]).expect("a number of keys");
            size.trim().parse::<u64>().expect("a number")
        })
    };
    let mut shoe = 1000;
    wait_until(PATIENCE, "the masters to be filled", || {
        shoe += 20;
        (shoe..shoe + 20).for_each(|shoe| drop(server.get(&list_target(shoe)).expect(200)));
        keys().all(|keys| keys > 3)
    });
    server.stop();
    // By the system's authorities it is a stranger.
    let url = cluster.url();
    backend.redis_url = url
        .split_once("?sslrootcert=")
        .map(|(url, _)| url.to_owned());
    let stranger = serve(&backend, &[]);
    stranger.get(&list_target(8)).expect(200);
    stranger.wait_for_line("redis: not available");
    stranger.wait_for_line("certificate");
}

#[test]
fn readme_names_the_user_that_was_tested() {
    let readme = include_str!("../README.md");
    assert!(readme.contains(ACL), "README does not say `{ACL}`");
}
