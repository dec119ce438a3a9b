//! Served by real servers: CouchDB is away and comes back, lets nobody in, has no such database, speaks TLS; and no reader sees less
//! than was acknowledged.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::checker::{assert_coherent, time};
use crate::support::checker::check;
use crate::support::couchdb::{CouchDb, PASSWORD, PASSWORD_ENCODED, USER};
use crate::support::process::signal;
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::shoes::{create, draft, list_target, post, put};
use crate::support::{Backend, Canvas, Dir, PATIENCE, Server, alone, wait_until};

/// Two workers, and requests that give up before the tests do.
#[track_caller]
fn serve(backend: &Backend) -> Server {
    let canvas = backend.canvas().workers(2);
    // The client's own notes, too, are searched for the password.
    let canvas = canvas.args(["--request-timeout", "3s", "--log-level", "debug"]);
    let mut server = canvas.start();
    // On a busy machine the stand-in may be late now and then.
    server.allow("not available");
    server.allow("store: ");
    server
}

#[track_caller]
fn wait_for_status(server: &Server, target: &str, status: u16) {
    wait_until(PATIENCE, &format!("{target} to answer {status}"), || {
        server.get(target).status == status
    });
}

#[track_caller]
fn assert_no_password_in(server: &Server) {
    let log = server.log_text();
    let basic = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for word in [PASSWORD, PASSWORD_ENCODED, "Zebra", &basic] {
        assert!(!log.contains(word), "the log tells the password: {log}");
    }
}

/// Each worker finds out by itself that the database is back. `fresh` begins shoes that nobody has asked for.
#[track_caller]
fn wait_for_every_worker(server: &Server, fresh: i64) {
    wait_for_status(server, "/readyz", 200);
    for ((worker, mut client), shoe) in server.one_client_per_worker().into_iter().zip(fresh..) {
        wait_until(PATIENCE, &format!("worker {worker} to be back"), || {
            client.get(&list_target(shoe)).expect("an answer").status == 200
        });
    }
}

/// Warnings and errors about the database.
fn complaints(server: &Server) -> Vec<String> {
    let lines = [server.lines_with("WARN"), server.lines_with("ERROR")].concat();
    let about = |line: &String| {
        let line = line.to_lowercase();
        line.contains("couchdb") || line.contains("store")
    };
    lines.into_iter().filter(about).collect()
}

#[test]
fn an_outage_costs_no_worker_and_no_row_and_ends_by_itself() {
    let couchdb = CouchDb::private();
    let backend = Backend::on_couchdb(&couchdb, None);
    backend.migrate();
    couchdb.kill();
    // There before its database is.
    let server = serve(&backend);
    let workers = server.workers();
    server.get("/healthz").expect(200);
    server.get("/readyz").problem(503);
    for shoe in 0..20 {
        server.get(&list_target(shoe)).problem(503);
        server.call(&post(draft(shoe, &[]))).problem(503);
    }
    couchdb.start();
    wait_for_every_worker(&server, 500);
    let id = create(&server, 7, &[("img1", "a")]);

    let mut fresh = 1000;
    for down in [CouchDb::kill, CouchDb::freeze] {
        down(&couchdb);
        fresh += 1;
        server.get(&list_target(fresh)).problem(503);
        server.call(&put(id, draft(8, &[]))).problem(503);
        wait_for_status(&server, "/readyz", 503);
        server.get("/healthz").expect(200);
        match fresh {
            1001 => couchdb.start(),
            _ => couchdb.thaw(),
        }
        wait_for_every_worker(&server, fresh + 10);
        fresh += 100;
    }
    // The one whose answer nobody waited for may have been carried out.
    let shoes = backend.couch().document(&id.to_string())["shoe_id"].clone();
    assert!(shoes == 7 || shoes == 8, "{shoes}");
    assert_eq!(backend.rows(), 1);
    assert_eq!(server.workers(), workers, "an outage cost workers");
    let said = complaints(&server);
    assert!(
        !said.is_empty() && said.len() <= 16,
        "a storm of warnings: {said:#?}"
    );
    assert_no_password_in(&server);
}

/// Bytes that come one by one, each in time and all of them too late, hold nobody longer than a request may take.
#[test]
fn answers_that_trickle_hold_no_request_past_its_deadline() {
    let couchdb = CouchDb::private();
    let mut backend = Backend::on_couchdb(&couchdb, None);
    backend.migrate();
    let relay = Relay::to(couchdb.port());
    backend.database_url = relay.url(&backend.database_url, couchdb.port());
    let server = serve(&backend);
    let id = create(&server, 7, &[]);
    relay.trickle();
    let begun = std::time::Instant::now();
    server.get(&list_target(8)).problem(503);
    server.call(&put(id, draft(9, &[]))).problem(503);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    relay.heal();
    wait_for_status(&server, &list_target(8), 200);
    relay.reset_all();
    wait_for_status(&server, &list_target(10), 200);
}

#[test]
fn a_write_of_unknown_outcome_is_said_to_be_one() {
    let couchdb = CouchDb::private();
    let backend = Backend::on_couchdb(&couchdb, None);
    backend.migrate();
    let mut server = serve(&backend);
    server.allow("outcome");
    let id = create(&server, 7, &[("img1", "a")]);
    server.get(&list_target(7)).expect(200);
    for (fault, happened) in [("lose-request", false), ("accepted", true)] {
        couchdb.fault(fault);
        let problem = server
            .call(&put(id, draft(7, &[("img1", fault)])))
            .problem(503);
        assert!(problem.kind.ends_with("/outcome-unknown"), "{problem:?}");
        wait_for_status(&server, &list_target(7), 200);
        let shown = server.get(&list_target(7)).expect(200).json();
        let expected = if happened { fault } else { "a" };
        assert_eq!(shown[0]["img1"], expected, "a worker kept what was");
    }
    couchdb.fault("lose-answer");
    server
        .call(&put(id, draft(7, &[("img1", "b")])))
        .expect(200);
    couchdb.fault("lose-answer");
    create(&server, 7, &[("img1", "c")]);
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
    assert_eq!(backend.rows(), 2);
}

#[test]
fn who_is_not_let_in_or_finds_no_database_says_what_to_do() {
    let couchdb = CouchDb::shared();
    let mut backend = Backend::on_couchdb(couchdb, None);
    let server = serve(&backend);
    server.get("/readyz").problem(503);
    server.get(&list_target(7)).problem(503);
    server.wait_for_line("canvas-cluster migrate");
    backend.migrate();
    wait_for_status(&server, &list_target(7), 200);

    backend.database_url = backend.couch().url_with("hunter2");
    let refused = backend.tool("migrate").run();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let refused = refused.naming(&["user name or password"]);
    assert!(!refused.output().contains("hunter2"), "{refused:?}");
    let server = serve(&backend);
    server.get("/readyz").problem(503);
    server.get(&list_target(7)).problem(503);
    server.wait_for_line("user name or password");
    assert!(!server.log_text().contains("hunter2"));
    assert!(complaints(&server).len() <= 4, "{:#?}", complaints(&server));
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[test]
fn a_server_with_tls_is_known_by_its_authority_and_its_name() {
    let dir = Dir::new();
    let ours = authority("ours");
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ours).unwrap();
    let cert = dir.write("server.crt", &certificate.pem());
    let key = dir.write("server.key", &key.serialize_pem());
    let ca = dir.write("ca.crt", &ours.pem());
    let other = dir.write("other.crt", &authority("other").pem());
    let couchdb = CouchDb::with_tls(&cert, &key);
    let migrate = |host: &str, ca: &std::path::Path| {
        let (port, ca) = (couchdb.port(), ca.display());
        let url =
            format!("couchdbs://shop:{PASSWORD_ENCODED}@{host}:{port}/shoes?sslrootcert={ca}");
        let canvas = Canvas::new(dir.path()).arg("migrate");
        canvas.env("CANVAS_DATABASE_URL", url).run()
    };
    let made = ["database shoes: created", "view on shoe_id: created"];
    migrate("localhost", &ca).expect(0).naming(&made);
    for (host, ca) in [("localhost", &other), ("127.0.0.1", &ca)] {
        let refused = migrate(host, ca);
        assert_ne!(refused.code, Some(0), "{host}: {refused:?}");
        refused.naming(&["certificate"]);
    }
    migrate("localhost", &dir.join("missing.crt")).naming(&["missing.crt"]);
}

#[test]
fn no_reader_sees_less_than_was_acknowledged_on_two_hosts() {
    let _machine = alone();
    let redis = Redis::private();
    let backend = Backend::on_couchdb(CouchDb::shared(), Some(&redis));
    backend.migrate();
    let start = || {
        // The stand-in's index takes in one write after another: more lanes would write more, and read less.
        let canvas = backend.canvas().workers(2);
        let canvas = canvas.args(["--l1-ttl", "1h", "--lanes", "1"]);
        let mut server = canvas.start();
        for expected in ["SIGKILL", "degraded", "not available", "store", "redis"] {
            server.allow(expected);
        }
        server
    };
    let (here, there) = (start(), start());
    let mut random = fastrand::Rng::with_seed(7);
    let mut kill_one = |server: &Server| {
        if let Some(victim) = random.choice(server.workers()) {
            signal(victim, Signal::SIGKILL);
        }
    };
    let mut turn = 0;
    let verdict = check(&[&here, &there], Duration::from_secs(5), time(), || {
        turn += 1;
        match turn % 3 {
            0 => kill_one(&here),
            1 => kill_one(&there),
            _ => {
                redis.kill();
                redis.start();
            }
        }
    });
    assert_coherent("two hosts on CouchDB and their Redis", &verdict);
}
