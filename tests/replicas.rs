//! Reads go to replicas that are close enough, and no answer is older than a write that its host has acknowledged: while replay
//! stands still, while replicas die, freeze and return, and while one of them is promoted; and all of it through PgBouncer.

use std::time::Duration;

use crate::admin::{admin_of, metrics};
use crate::checker::assert_coherent;
use crate::support::checker::check;
use crate::support::http::Request;
use crate::support::ledger::Ledger;
use crate::support::load::{Load, Style, Tally};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Database, Postgres, ROLE};
use crate::support::redis::Redis;
use crate::support::shoes::{Id, create, draft, list_target, put};
use crate::support::vigil::Vigil;
use crate::support::{Backend, Canvas, Client, PATIENCE, Server, alone, wait_until};

/// A primary, its replicas, and a migrated database on all of them.
pub struct Cluster {
    pub primary: Postgres,
    pub replicas: Vec<Postgres>,
    pub backend: Backend,
}

impl Cluster {
    pub fn new(replicas: usize, redis: Option<&Redis>) -> Cluster {
        let primary = Postgres::private();
        // What is not waited for is sent to replicas only once it is flushed, after a part of a second.
        primary.administer(
            "ALTER SYSTEM SET synchronous_commit = on;
             SELECT pg_reload_conf()",
        );
        let replicas = (0..replicas).map(|_| primary.standby()).collect();
        let backend = Backend::on(&primary, redis);
        backend.migrate();
        Cluster {
            primary,
            replicas,
            backend,
        }
    }

    fn database(&self) -> &Database {
        self.backend.postgres()
    }

    /// The URLs of the replicas, with spaces between.
    pub fn urls(&self) -> String {
        let urls = self.replicas.iter();
        let urls: Vec<String> = urls
            .map(|replica| replica.copy_of(self.database()).url())
            .collect();
        urls.join(" ")
    }

    /// A server that reads from the replicas, and keeps nothing itself.
    pub fn canvas(&self) -> Canvas {
        self.backend
            .canvas()
            .env("CANVAS_DATABASE_READ_URL", self.urls())
            .args(["--admin", "127.0.0.1:0", "--l1-bytes", "0"])
    }
}

fn is_used(server: &Server, replica: usize) -> bool {
    let told = metrics(admin_of(server));
    told.value(&format!(
        "canvas_cluster_replica_used{{replica=\"{replica}\"}}"
    )) == 1.0
}

#[track_caller]
fn wait_for(server: &Server, replica: usize, used: bool) {
    wait_until(
        PATIENCE,
        &format!("replica {replica} to be used: {used}"),
        || is_used(server, replica) == used,
    );
}

/// Waits until every worker may read from all of `count` replicas.
#[track_caller]
pub fn wait_for_all(server: &Server, count: usize) {
    for replica in 0..count {
        server.wait_for_line(&format!("replica {replica} ("));
        wait_for(server, replica, true);
    }
    // The gauge is one worker's; each of the others looks for itself.
    let before = reads(server, "answered");
    for (_, mut client) in server.one_client_per_worker() {
        wait_until(PATIENCE, "the worker to read from a replica", || {
            let before = reads(server, "answered");
            // Nobody has it in a cache.
            let fresh = fastrand::i64(2_000_000..2_000_000_000);
            client.get(&list_target(fresh)).expect("an answer");
            reads(server, "answered") > before
        });
    }
    assert!(reads(server, "answered") > before);
}

fn reads(server: &Server, outcome: &str) -> f64 {
    let told = metrics(admin_of(server));
    told.value(&format!(
        "canvas_cluster_replica_reads_total{{outcome=\"{outcome}\"}}"
    ))
}

fn report(server: &Server, what: &str) {
    println!(
        "{what}: replicas answered {}, were behind {}, failed {}",
        reads(server, "answered"),
        reads(server, "behind"),
        reads(server, "failed")
    );
}

/// How many sessions of ours a replica has, apart from those that look at it.
fn sessions_that_read(replica: &Postgres, cluster: &Cluster) -> i64 {
    let mut connection = replica.copy_of(cluster.database()).connect();
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'canvas-cluster/%' \
                 AND query LIKE '%shoe_images%'";
    connection.query_one(query, &[]).expect("a row").get(0)
}

/// Reads of shoes that are there, and of single rows.
fn requests(id: Id) -> Vec<Request> {
    let mut requests: Vec<Request> = (7..27)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect();
    requests.push(Request::new("GET", &format!("/api/images/{id}")));
    requests
}

/// A connection to each worker.
type Clients = Vec<(i32, Client)>;

/// Writes and at once reads through another worker, so many times; each must show it.
#[track_caller]
fn write_and_read(clients: &mut Clients, id: Id, times: u32) {
    for time in 0..times {
        let text = format!("{time}");
        let (writer, reader) = (
            time as usize % clients.len(),
            (time as usize + 1) % clients.len(),
        );
        let written = clients[writer]
            .1
            .call(&put(id, draft(7, &[("img1", &text)])));
        written.expect("an answer").expect(200);
        let rows = clients[reader].1.get(&list_target(7));
        let rows = rows.expect("an answer").expect(200).json();
        assert_eq!(rows[0]["img1"], text.as_str(), "the list, after {time}");
        let row = clients[reader].1.get(&format!("/api/images/{id}"));
        let row = row.expect("an answer").expect(200).json();
        assert_eq!(row["img1"], text.as_str(), "the row, after {time}");
    }
}

/// Both replicas are read from; replay of one stands still and it is left out, replay of both and the primary answers alone; they
/// return by themselves. A write is seen at once all the while, and no request fails.
#[test]
fn a_replica_that_falls_behind_is_left_out_and_returns() {
    let _machine = alone();
    let cluster = Cluster::new(2, None);
    let server = cluster.canvas().workers(2).start();
    let id = create(&server, 7, &[("img1", "a")]);
    wait_for_all(&server, 2);
    let mut clients = server.one_client_per_worker();
    let load = Load::start(server.address(), Style::Paced, 4, requests(id));
    write_and_read(&mut clients, id, 100);
    for replica in &cluster.replicas {
        wait_until(PATIENCE, "each replica to be read from", || {
            sessions_that_read(replica, &cluster) > 0
        });
    }
    assert!(reads(&server, "answered") > 0.0);

    let start = server.log_length();
    cluster.replicas[0].pause_replay();
    write_and_read(&mut clients, id, 50);
    wait_for(&server, 0, false);
    let line = server.wait_for_line_after(start, "replica 0 (");
    assert!(
        line.contains("left out") && line.contains("behind the primary"),
        "{line}"
    );
    assert!(is_used(&server, 1));
    write_and_read(&mut clients, id, 50);
    cluster.replicas[1].pause_replay();
    write_and_read(&mut clients, id, 20);
    wait_for(&server, 1, false);
    let lag = |replica| {
        let told = metrics(admin_of(&server));
        told.value(&format!(
            "canvas_cluster_replica_lag_seconds{{replica=\"{replica}\"}}"
        ))
    };
    wait_until(PATIENCE, "the lag to be told", || {
        lag(0) > 1.0 && lag(1) > 1.0
    });
    // Nobody else answers now.
    let alone_since = reads(&server, "answered");
    load.wait_for_answers(200);
    assert_eq!(reads(&server, "answered"), alone_since);

    let start = server.log_length();
    for (number, replica) in cluster.replicas.iter().enumerate() {
        replica.resume_replay();
        wait_for(&server, number, true);
        let back = server.wait_for_line_after(start, &format!("replica {number} ("));
        assert!(back.ends_with("is read from"), "{back}");
    }
    wait_until(PATIENCE, "replicas to be read from again", || {
        reads(&server, "answered") > alone_since
    });
    write_and_read(&mut clients, id, 50);
    let tally = load.stop();
    tally.report("replay paused and resumed, twice");
    report(&server, "replay paused and resumed");
    tally.assert_all_ok();
    server.stop();
}

/// One is killed and the other is frozen under load; both come back. No request fails.
#[test]
fn replicas_that_die_or_freeze_cost_no_request() {
    let _machine = alone();
    let cluster = Cluster::new(2, None);
    let server = cluster.canvas().workers(2).start();
    let id = create(&server, 7, &[("img1", "a")]);
    wait_for_all(&server, 2);
    let mut clients = server.one_client_per_worker();
    let load = Load::start(server.address(), Style::Paced, 4, requests(id));
    load.wait_for_answers(100);
    cluster.replicas[0].kill();
    wait_for(&server, 0, false);
    write_and_read(&mut clients, id, 20);
    load.wait_for_answers(100);
    cluster.replicas[1].freeze();
    wait_for(&server, 1, false);
    write_and_read(&mut clients, id, 20);
    load.wait_for_answers(100);
    cluster.replicas[0].start();
    wait_for(&server, 0, true);
    cluster.replicas[1].thaw();
    wait_for(&server, 1, true);
    write_and_read(&mut clients, id, 20);
    load.wait_for_answers(100);
    let tally: Tally = load.stop();
    tally.report("a replica killed, the other frozen, both back");
    report(&server, "a replica killed, the other frozen");
    tally.assert_all_ok();
    server.stop();
}

/// The primary is killed under load, and a replica promoted. The other replica has another history until it follows, and is not
/// read from; the promoted one takes the writes, and is no replica any more.
#[test]
fn a_replica_is_promoted_under_load() {
    let _machine = alone();
    let mut cluster = Cluster::new(2, None);
    let old = cluster.database().url();
    let new = cluster.replicas[0].copy_of(cluster.database());
    cluster.primary.administer(&format!(
        "GRANT pg_read_all_stats TO {ROLE};
         ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (*)';
         SELECT pg_reload_conf()"
    ));
    cluster.backend.database_url = old.replace(
        &format!("127.0.0.1:{}", cluster.primary.port()),
        &format!(
            "127.0.0.1:{},127.0.0.1:{}",
            cluster.primary.port(),
            cluster.replicas[0].port()
        ),
    ) + "?target_session_attrs=read-write&connect_timeout=2";
    let server = cluster
        .backend
        .canvas()
        .env("CANVAS_DATABASE_READ_URL", cluster.urls())
        .workers(2)
        .args(["--request-timeout", "2s", "--l1-ttl", "1h"])
        .args(["--admin", "127.0.0.1:0"])
        .start();
    let id = create(&server, 7, &[("img1", "a")]);
    create(&server, 6, &[("img1", "a")]);
    wait_for_all(&server, 2);
    let mut clients = server.one_client_per_worker();
    let mut vigil = Vigil::over(&server, 6);
    let load = Load::start(server.address(), Style::Paced, 2, requests(id));
    load.wait_for_answers(50);
    let count = |database: &Database| -> i64 {
        let query = "SELECT count(*) FROM shoe_images";
        let row = database.connect().query_one(query, &[]);
        row.expect("a number").get(0)
    };
    let ledger = Ledger::keep(&server, || {
        wait_until(PATIENCE, "writers to write", || {
            count(cluster.database()) > 50
        });
        cluster.primary.kill();
        vigil.refusals_are_fast("the primary killed, nobody promoted");
        // The new primary must not wait for two.
        cluster.replicas[0].administer(
            "ALTER SYSTEM SET synchronous_standby_names = '';
             SELECT pg_reload_conf()",
        );
        cluster.replicas[0].promote();
        vigil.wait_for_return();
        let goal = count(&new) + 50;
        wait_until(PATIENCE, "writers to go on", || count(&new) >= goal);
        assert!(!is_used(&server, 0) && !is_used(&server, 1));
        write_and_read(&mut clients, id, 20);
        cluster.replicas[1].follow(&cluster.replicas[0]);
        wait_for(&server, 1, true);
        let before = reads(&server, "answered");
        wait_until(PATIENCE, "the other replica to be read from", || {
            let fresh = fastrand::i64(2_000_000..3_000_000);
            server.get(&list_target(fresh)).expect(200);
            reads(&server, "answered") > before
        });
        write_and_read(&mut clients, id, 50);
    });
    vigil.end();
    assert!(!is_used(&server, 0), "it takes the writes");
    let promoted = server.lines_with("replica 0 (");
    assert!(
        promoted
            .iter()
            .any(|line| line.contains("it is no standby")),
        "{promoted:?}"
    );
    let tally = load.stop();
    tally.report("reads while a replica was promoted");
    report(&server, "a replica promoted");
    ledger.assert_true_of(&new);
    assert!(tally.trouble.is_empty(), "{tally:?}");
    server.stop();
}

/// Two hosts share the replicas and a Redis, while replay pauses, replicas' sessions are cut and workers are killed.
#[test]
fn no_host_shows_less_than_was_acknowledged() {
    let _machine = alone();
    let redis = Redis::private();
    let cluster = Cluster::new(2, Some(&redis));
    let start = || {
        let canvas = cluster.backend.canvas();
        let mut server = canvas
            .env("CANVAS_DATABASE_READ_URL", cluster.urls())
            .workers(2)
            .args(["--l1-ttl", "1h", "--max-replica-lag", "1m"])
            .args(["--admin", "127.0.0.1:0"])
            .start();
        server.allow("SIGKILL");
        server
    };
    let (here, there) = (start(), start());
    wait_for_all(&here, 2);
    wait_for_all(&there, 2);
    // The answers to this are not kept by Redis, which would hide what replicas say.
    let mut random = fastrand::Rng::new();
    let mut paused = false;
    let verdict = check(
        &[&here, &there],
        Duration::from_secs(5),
        crate::checker::time(),
        || {
            let replica = random.usize(..2);
            match random.u8(..3) {
                0 => cluster.replicas[replica].administer(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'canvas-cluster/%'",
                ),
                1 => {
                    let server = [&here, &there][random.usize(..2)];
                    let workers: Vec<i32> = server.workers().into_iter().collect();
                    if let Some(victim) = random.choice(workers) {
                        crate::support::process::signal(victim, nix::sys::signal::Signal::SIGKILL);
                    }
                }
                _ => {
                    paused = !paused;
                    match paused {
                        true => cluster.replicas[0].pause_replay(),
                        false => cluster.replicas[0].resume_replay(),
                    }
                }
            }
        },
    );
    report(&here, "here");
    report(&there, "there");
    let told = reads(&here, "answered") + reads(&there, "answered");
    assert!(told > 0.0, "no replica was ever believed");
    assert_coherent("two hosts, Redis, two replicas", &verdict);
    cluster.replicas[0].resume_replay();
}

/// One host without any cache, so that each read shows what a replica says; one of them never replays.
#[test]
fn a_host_without_caches_reads_its_writes() {
    let _machine = alone();
    let cluster = Cluster::new(2, None);
    // So far may a replica be behind that nothing but the place of the writes keeps it from answering.
    let server = cluster
        .canvas()
        .args(["--max-replica-lag", "10m"])
        .workers(3)
        .start();
    wait_for_all(&server, 2);
    cluster.replicas[0].pause_replay();
    let verdict = check(&[&server], Duration::ZERO, crate::checker::time(), || ());
    report(&server, "one host");
    assert!(reads(&server, "behind") > 0.0 && reads(&server, "answered") > 0.0);
    assert_coherent(
        "one host, two replicas, one of which never replays",
        &verdict,
    );
    cluster.replicas[0].resume_replay();
    server.stop();
}

/// The primary and the replica are each behind a PgBouncer that gives transactions whatever session is free.
#[test]
fn replicas_and_their_primary_behind_poolers() {
    let _machine = alone();
    let mut cluster = Cluster::new(1, None);
    let poolers = [
        PgBouncer::before(cluster.primary.port()),
        PgBouncer::before(cluster.replicas[0].port()),
    ];
    let [primary, replica] = poolers
        .each_ref()
        .map(|pooler| pooler.url(cluster.database()));
    cluster.backend.database_url = primary;
    let server = cluster
        .backend
        .canvas()
        .env("CANVAS_DATABASE_READ_URL", replica)
        .args(["--database-pooler", "--l1-bytes", "0"])
        .args(["--admin", "127.0.0.1:0"])
        .workers(2)
        .start();
    let id = create(&server, 7, &[("img1", "a")]);
    wait_for_all(&server, 1);
    let mut clients = server.one_client_per_worker();
    let load = Load::start(server.address(), Style::Paced, 4, requests(id));
    write_and_read(&mut clients, id, 100);
    cluster.replicas[0].pause_replay();
    write_and_read(&mut clients, id, 20);
    wait_for(&server, 0, false);
    cluster.replicas[0].resume_replay();
    wait_for(&server, 0, true);
    let tally = load.stop();
    tally.report("through PgBouncer, replay paused once");
    report(&server, "through PgBouncer");
    tally.assert_all_ok();
    server.stop();
}

/// What makes no sense is refused at the start, in words that show no password.
#[test]
fn replicas_that_can_not_be_are_refused() {
    let backend = Backend::sqlite();
    let refused = |canvas: Canvas, words: &[&str]| {
        let ended = canvas.run().expect(100).naming(words);
        assert!(!ended.output().contains("pw7"), "{}", ended.output());
    };
    let replica = "postgres://u:pw7@127.0.0.1/d";
    refused(
        backend.canvas().args(["--database-read-url", replica]),
        &["database_read_url", "--database-url"],
    );
    let on_postgres = || {
        backend
            .canvas()
            .env("CANVAS_DATABASE_URL", "postgres://u:pw7@127.0.0.1/d")
    };
    refused(
        on_postgres().args(["--database-read-url", "postgres://u:pw7@h1,h2/d"]),
        &["several servers", "a URL of its own"],
    );
    refused(
        on_postgres().args(["--database-read-url", "sqlite:x.db"]),
        &["--database-read-url", "only those have replicas"],
    );
    refused(
        on_postgres().args(["--database-pooler", "--database-notify"]),
        &["--database-notify", "--database-pooler", "listens"],
    );
    refused(
        on_postgres().args(["migrate", "--database-pooler"]),
        &["migrate", "--database-url"],
    );
}
