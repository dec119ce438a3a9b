//! The admin listener: metrics, status and the live page, told by any worker for all; and `canvas-cluster status`.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use canvas_cluster::ctl::Place;
use canvas_cluster::status::model::{ChangeKind, Outcome, ServerState, Status, WorkerState};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::support::exposition::{Exposition, Format};
use crate::support::http::{Client, Request, Response};
use crate::support::load::{Load, Style};
use crate::support::process::signal;
use crate::support::shoes::{create, list_target};
use crate::support::{Backend, Canvas, Dir, PATIENCE, Server, alone, until_done, wait_until};
use crate::upgrade::make_strange;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A server whose admin listener has a port of its own.
fn with_admin(canvas: Canvas) -> Canvas {
    canvas.args(["--admin", "127.0.0.1:0"])
}

/// Where the admin listener is, as the log tells.
#[track_caller]
pub fn admin_of(server: &Server) -> SocketAddr {
    let line = server.wait_for_line("metrics and status are on http://");
    let (_, address) = line.rsplit_once("http://").expect("the pattern");
    address.trim().parse().expect("an address")
}

#[track_caller]
fn ask(address: SocketAddr, target: &str) -> Response {
    let mut client = Client::connect(address).expect("a connection");
    client.get(target).expect("an answer")
}

#[track_caller]
pub fn metrics(address: SocketAddr) -> Exposition {
    let answer = ask(address, "/metrics").expect(200);
    Exposition::read(answer.text(), Format::Prometheus)
}

#[track_caller]
fn status(address: SocketAddr) -> Status {
    let answer = ask(address, "/status.json").expect(200);
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// The workers that serve, as the status tells.
fn ready(status: &Status) -> usize {
    let workers = status.workers.iter();
    workers
        .filter(|worker| worker.state == WorkerState::Ready)
        .count()
}

#[test]
fn what_describes_the_api_is_here_when_it_is_wanted_here() {
    let backend = Backend::sqlite();
    for (place, status) in [("admin", 200), ("public", 404), ("none", 404)] {
        let server = with_admin(backend.canvas())
            .workers(1)
            .args(["--api-docs", place])
            .start();
        let admin = admin_of(&server);
        for (path, content_type) in [
            ("/openapi.json", "application/json"),
            ("/docs", "text/html; charset=utf-8"),
            ("/docs.css", "text/css; charset=utf-8"),
        ] {
            let answer = ask(admin, path).expect(status);
            if status == 200 {
                assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
            }
        }
        server.stop();
    }
}

#[test]
fn every_path_is_answered_and_nothing_else() {
    let backend = Backend::sqlite();
    let server = with_admin(backend.canvas()).workers(2).start();
    let admin = admin_of(&server);
    let alive = ask(admin, "/healthz").expect(200);
    assert_eq!(alive.text(), "{\"status\":\"alive\"}");
    let page = ask(admin, "/").expect(200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.text().starts_with("<!doctype html>"));
    for (path, kind) in [
        ("/live.css", "text/css; charset=utf-8"),
        ("/live.js", "text/javascript; charset=utf-8"),
    ] {
        let file = ask(admin, path).expect(200);
        assert_eq!(file.header("content-type"), Some(kind));
        assert!(!file.body.is_empty());
    }
    let document = ask(admin, "/status.json").expect(200);
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(document.header("cache-control"), Some("no-store"));

    let mut client = Client::connect(admin).expect("a connection");
    let head = client
        .call(&Request::new("HEAD", "/metrics"))
        .expect("an answer");
    assert!(head.expect(200).body.is_empty());
    for path in ["/nowhere", "/api/images/?shoe_id=7", "/..%2f", "/live.js/"] {
        assert_eq!(client.get(path).expect("an answer").status, 404, "{path}");
    }
    let post = client
        .call(&Request::new("POST", "/status.json"))
        .expect("an answer");
    assert_eq!(post.expect(405).header("allow"), Some("GET, HEAD"));
    // A body is more than anybody needs here.
    let answer = client.call(&Request::new("POST", "/metrics").body("x"));
    assert!(answer.is_ok_and(|answer| [405, 413].contains(&answer.status)));
    // The public address has none of it.
    for path in ["/metrics", "/status.json"] {
        server.get(path).problem(404);
    }
}

#[test]
fn openmetrics_is_for_who_asks_for_it() {
    let backend = Backend::sqlite();
    let server = with_admin(backend.canvas()).workers(1).start();
    let mut client = Client::connect(admin_of(&server)).expect("a connection");
    let mut scrape = |accept: Option<&str>| {
        let request = Request::new("GET", "/metrics");
        let request = match accept {
            Some(accept) => request.header("Accept", accept),
            None => request,
        };
        client.call(&request).expect("an answer").expect(200)
    };
    // It is told from the worker's first look at itself on.
    wait_until(PATIENCE, "the worker's memory to be told", || {
        let text = scrape(None).text().to_owned();
        text.contains("canvas_cluster_worker_resident_memory_bytes{")
    });
    let plain = scrape(None);
    assert_eq!(plain.header("content-type"), Some(PROMETHEUS));
    let plain = Exposition::read(plain.text(), Format::Prometheus);
    // As Prometheus 3 asks.
    let open = scrape(Some(
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
         application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
         text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    ));
    assert_eq!(open.header("content-type"), Some(OPENMETRICS));
    let open = Exposition::read(open.text(), Format::OpenMetrics);
    // The series are the same, whatever their metrics are called.
    let names = |exposition: &Exposition| exposition.samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&plain), names(&open));
    assert_eq!(plain.kinds["canvas_cluster_requests_total"], "counter");
    assert_eq!(open.kinds["canvas_cluster_requests"], "counter");
    assert_eq!(
        open.kinds["canvas_cluster_request_duration_seconds"],
        "histogram"
    );
}

/// README's table is the one that the program makes.
#[test]
fn readme_has_the_metrics() {
    let readme = include_str!("../README.md");
    let table = canvas_cluster::admin::metrics::readme_table();
    assert!(
        readme.contains(&table),
        "put this between README's comments:\n{table}"
    );
}

#[test]
fn what_was_asked_for_is_what_is_counted() {
    let backend = Backend::sqlite();
    let log = backend.dir.join("access.log");
    let server = with_admin(backend.canvas())
        .workers(2)
        .args(["--l1-ttl", "1h", "--access-log"])
        .arg(&log)
        .start();
    let admin = admin_of(&server);
    assert_eq!(metrics(admin).value("canvas_cluster_requests_total"), 0.0);
    // One worker has the connection, and with it all questions: the first is the database's, the others its own cache's.
    let mut client = server.connect();
    for _ in 0..30 {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    for _ in 0..5 {
        client.get("/nowhere").expect("an answer").problem(404);
    }
    client.get("/healthz").expect("an answer").expect(200);
    let looks = 20;
    for _ in 0..looks {
        metrics(admin);
    }
    let told = metrics(admin);
    for (series, count) in [
        ("requests_total", 36.0),
        ("responses_total{class=\"2xx\"}", 31.0),
        ("responses_total{class=\"3xx\"}", 0.0),
        ("responses_total{class=\"4xx\"}", 5.0),
        ("responses_total{class=\"5xx\"}", 0.0),
        ("request_duration_seconds_count", 36.0),
        ("cache_hits_total{layer=\"l1\"}", 29.0),
        ("cache_misses_total{layer=\"l1\"}", 1.0),
        ("cache_hits_total{layer=\"redis\"}", 0.0),
        ("cache_misses_total{layer=\"redis\"}", 0.0),
        ("lane_queue_delay_seconds_count", 1.0),
        ("lane_batches_total", 1.0),
        ("shed_total", 0.0),
        ("panics_total", 0.0),
        ("connections_accepted_total", 1.0),
        ("admin_requests_total", 22.0),
        ("workers_wanted", 2.0),
        ("workers{state=\"ready\"}", 2.0),
        ("workers{state=\"starting\"}", 0.0),
        ("generation", 1.0),
        ("build_info{version=\"0.1.0\"}", 1.0),
    ] {
        let series = format!("canvas_cluster_{series}");
        assert_eq!(told.value(&series), count, "{series}");
    }
    assert_eq!(told.sum("canvas_cluster_connections"), 1.0);
    assert!(told.sum("canvas_cluster_worker_resident_memory_bytes") > 4e6);
    let slowest = told.value("canvas_cluster_request_duration_seconds_sum");
    assert!(slowest > 0.0 && slowest < 60.0, "{slowest}");

    let status = status(admin);
    assert_eq!(status.totals["requests"], 36);
    assert_eq!(status.totals["admin_requests"], 23);
    assert_eq!(status.latency.count(), 36);
    assert_eq!((status.state, status.generation), (ServerState::Running, 1));
    assert_eq!((status.wanted, status.ready, ready(&status)), (2, 2, 2));
    assert_eq!(status.pid, server.master());
    let pids: BTreeSet<i32> = status.workers.iter().map(|worker| worker.pid).collect();
    assert_eq!(pids, server.workers());
    let sum = |count: &dyn Fn(&canvas_cluster::status::model::Worker) -> u64| -> u64 {
        status.workers.iter().map(count).sum()
    };
    assert_eq!(sum(&|worker| worker.totals["requests"]), 36);
    assert_eq!(sum(&|worker| worker.connections), 1);
    assert_eq!(sum(&|worker| worker.latency.count()), 36);
    drop(client);
    let mut server = server;
    server.stop_with(Signal::SIGTERM);
    let lines = std::fs::read_to_string(log).expect("an access log");
    assert_eq!(lines.lines().count(), 36);
    assert!(!lines.contains("/metrics"), "{lines}");
}

#[test]
fn what_redis_has_and_has_not_is_counted() {
    let backend = Backend::postgres_redis();
    let server = with_admin(backend.canvas())
        .workers(2)
        .args(["--l1-bytes", "0"])
        .start();
    let admin = admin_of(&server);
    let told = |result: &str| {
        let series = format!("canvas_cluster_cache_{result}_total{{layer=\"redis\"}}");
        metrics(admin).value(&series)
    };
    // It is filled behind the first answer.
    let mut asked = 0.0;
    wait_until(PATIENCE, "Redis to have it", || {
        server.get(&list_target(7)).expect(200);
        asked += 1.0;
        told("hits") > 0.0
    });
    assert_eq!((told("hits"), told("misses")), (1.0, asked - 1.0));
    // Each was a question of its own, and those that Redis had not were asked once more.
    let waits = metrics(admin).value("canvas_cluster_lane_queue_delay_seconds_count");
    assert_eq!(waits, asked + asked - 1.0);
}

/// Looks all the time, from any worker, until it is told to stop; how often it has.
fn look_on(admin: SocketAddr, done: &AtomicBool, looks: &AtomicU64) {
    let mut last: Option<Exposition> = None;
    while !done.load(Ordering::Relaxed) {
        // A worker that is killed takes its connections with it.
        let answer = Client::connect(admin).and_then(|mut client| client.get("/metrics"));
        let Ok(answer) = answer else { continue };
        if answer.status == 503 {
            continue;
        }
        let now = Exposition::read(answer.expect(200).text(), Format::Prometheus);
        if let Some(last) = &last {
            now.assert_not_behind(last);
        }
        last = Some(now);
        looks.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn counts_never_go_back_and_none_is_lost_with_its_worker() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = with_admin(backend.canvas()).workers(2).start();
    let admin = admin_of(&server);
    create(&server, 7, &[("img1", "a")]);
    let (done, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    let more_looks = |what: &str| {
        let goal = looks.load(Ordering::Relaxed) + 5;
        wait_until(PATIENCE, what, || looks.load(Ordering::Relaxed) >= goal);
    };
    let replace = |which: Signal, line: &str| {
        let (before, length) = (server.workers(), server.log_length());
        server.signal(which);
        server.wait_for_line_after(length, line);
        wait_until(PATIENCE, "the old workers to leave", || {
            let now = server.workers();
            now.is_disjoint(&before) && now.len() == 2
        });
        more_looks("looks after that");
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| look_on(admin, &done, &looks));
        }
        until_done(&done, || {
            more_looks("looks before anything happens");
            // Nothing is lost here, so the counts are exact.
            let before = metrics(admin).value("canvas_cluster_responses_total{class=\"2xx\"}");
            let reads = vec![Request::new("GET", &list_target(7))];
            let load = Load::start(server.address(), Style::KeepAlive, 4, reads.clone());
            load.wait_for_answers(50);
            replace(Signal::SIGHUP, "master: reloaded: ");
            load.wait_for_answers(50);
            replace(Signal::SIGUSR2, "master: reloaded: ");
            load.wait_for_answers(50);
            let tally = load.stop();
            tally.assert_all_ok();
            let told = metrics(admin);
            let after = told.value("canvas_cluster_responses_total{class=\"2xx\"}");
            assert_eq!(after - before, tally.ok as f64);
            let requests = told.value("canvas_cluster_requests_total");
            let timed = told.value("canvas_cluster_request_duration_seconds_count");
            assert_eq!(timed, requests);
            for (kind, count) in [("reload", 1.0), ("upgrade", 1.0), ("scale", 0.0)] {
                let series =
                    format!("canvas_cluster_reloads_total{{kind=\"{kind}\",outcome=\"done\"}}");
                assert_eq!(told.value(&series), count, "{series}");
            }

            // What a worker had counted that is killed stays counted.
            let load = Load::start(server.address(), Style::KeepAlive, 4, reads);
            for _ in 0..3 {
                load.wait_for_answers(50);
                let victim = *server.workers().first().expect("a worker");
                signal(victim, Signal::SIGKILL);
                wait_until(PATIENCE, "a worker in its place", || {
                    let now = server.workers();
                    now.len() == 2 && !now.contains(&victim)
                });
                more_looks("looks after a death");
            }
            // An image that lays its memory out in another way goes on from what was counted until then.
            make_strange(&server);
            replace(Signal::SIGUSR2, "master: reloaded: ");
            replace(Signal::SIGHUP, "master: reloaded: ");
            let tally = load.stop();
            assert!(tally.ok > 0);
            let last = metrics(admin).value("canvas_cluster_responses_total{class=\"2xx\"}");
            assert!(last > after, "{last} after {after}");
            let upgrades = "canvas_cluster_reloads_total{kind=\"upgrade\",outcome=\"done\"}";
            assert_eq!(metrics(admin).value(upgrades), 2.0);
        });
    });
    let told = status(admin);
    let kinds: Vec<ChangeKind> = told.reloads.iter().map(|change| change.kind).collect();
    use ChangeKind::{Reload, Upgrade};
    assert_eq!(
        kinds,
        [Reload, Upgrade, Upgrade, Reload],
        "the newest first"
    );
    assert!(
        told.reloads
            .iter()
            .all(|change| change.outcome == Outcome::Done)
    );
    assert!(
        told.reloads
            .iter()
            .all(|change| change.took_ms > 0 && change.why.is_empty())
    );
    assert_eq!(told.generation, 5);
    assert!(told.started_ms > 0 && told.started_ms <= told.reloads[3].at_ms);
}

/// While one worker leaves slowly, the listener is its successor's.
#[test]
fn a_worker_that_drains_leaves_the_listener_to_others_and_is_still_seen() {
    let backend = Backend::sqlite();
    let server = with_admin(backend.canvas()).workers(1).start();
    let admin = admin_of(&server);
    // Keeps the old worker: it asked once, and may ask again.
    let mut client = server.connect();
    client.get("/healthz").expect("an answer").expect(200);
    // Connections to the admin listener keep nobody.
    let mut idle = Client::connect(admin).expect("a connection");
    idle.get("/healthz").expect("an answer").expect(200);
    let old = server.only_worker();
    server.signal(Signal::SIGHUP);
    let drains = |status: &Status| {
        let workers = status.workers.iter();
        workers
            .filter(|worker| worker.state == WorkerState::Draining)
            .any(|worker| worker.pid == old && worker.connections == 1)
    };
    // Until then a connection may still come to the old one, which closes it unasked as it closed the idle one.
    let told = |admin| {
        let answer = Client::connect(admin).ok()?.get("/status.json").ok()?;
        serde_json::from_slice::<Status>(&answer.body).ok()
    };
    wait_until(PATIENCE, "the old worker to drain", || {
        told(admin).is_some_and(|status| drains(&status) && ready(&status) == 1)
    });
    assert!(idle.is_closed());
    for _ in 0..20 {
        let status = status(admin);
        assert!(drains(&status), "{status:?}");
        assert_eq!(status.state, ServerState::Reloading);
    }
    let told = metrics(admin);
    assert_eq!(
        told.value("canvas_cluster_workers{state=\"draining\"}"),
        1.0
    );
    assert_eq!(told.value("canvas_cluster_connections{slot=\"0\"}"), 1.0);
    drop(client);
    wait_until(PATIENCE, "the old worker to leave", || {
        !server.workers().contains(&old)
    });
    wait_until(PATIENCE, "that to be told", || {
        status(admin).state == ServerState::Running
    });
}

#[test]
fn a_slot_without_a_worker_and_a_change_that_failed_are_told() {
    let backend = Backend::sqlite();
    let file = backend.dir.write("config.toml", "workers = 2\n");
    let mut server = with_admin(backend.canvas())
        .arg("--config")
        .arg(&file)
        .start();
    server.allow("reload refused");
    let admin = admin_of(&server);
    backend.dir.write("config.toml", "wrokers = 2\n");
    server.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the refusal to be told", || {
        !status(admin).reloads.is_empty()
    });
    let told = status(admin);
    assert_eq!(told.reloads[0].outcome, Outcome::Failed);
    assert!(
        told.reloads[0].why.contains("did you mean workers"),
        "{told:?}"
    );
    let failed = "canvas_cluster_reloads_total{kind=\"reload\",outcome=\"failed\"}";
    assert_eq!(metrics(admin).value(failed), 1.0);
    // Each death in a row is followed by a longer pause than the one before.
    let mut waited = false;
    while !waited {
        let workers = status(admin).workers;
        let victim = workers
            .iter()
            .find(|worker| worker.slot == 1)
            .expect("a slot");
        signal(victim.pid, Signal::SIGKILL);
        wait_until(PATIENCE, "the worker to be replaced", || {
            let later = status(admin).workers;
            let other = later
                .iter()
                .find(|worker| worker.slot == 1)
                .expect("a slot");
            waited |= other.state == WorkerState::BackingOff && other.pid == 0;
            other.state == WorkerState::Ready && other.pid != victim.pid
        });
    }
    assert_eq!((status(admin).wanted, status(admin).ready), (2, 2));
}

#[test]
fn only_so_many_connections_are_served_at_once_and_public_ones_do_not_wait_for_them() {
    let backend = Backend::sqlite();
    let server = with_admin(backend.canvas()).workers(1).start();
    let admin = admin_of(&server);
    let connect = || Client::connect(admin).expect("a connection");
    let mut kept: Vec<Client> = (0..16).map(|_| connect()).collect();
    for client in &mut kept {
        client.get("/healthz").expect("an answer").expect(200);
    }
    let mut late = connect();
    late.send_raw(&Request::new("GET", "/status.json").bytes())
        .expect("the kernel takes it");
    for _ in 0..20 {
        server.get("/healthz").expect(200);
    }
    // Room for one.
    drop(kept.pop());
    let answer = late.receive(true).expect("an answer").expect(200);
    let status: Status = serde_json::from_slice(&answer.body).expect("a status");
    assert_eq!(status.workers[0].connections, 0, "theirs are not counted");
    // A crowd of them keeps nobody from leaving.
    server.reload(1);
}

/// Connects to a socket whose name may be too long for its address.
fn connect_to(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Place::of(path)?.name())
}

/// A GET over a Unix socket.
#[track_caller]
fn ask_socket(path: &Path, target: &str) -> (String, String) {
    let mut stream = connect_to(path).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[track_caller]
fn status_at(path: &Path) -> Status {
    let (head, body) = ask_socket(path, "/status.json");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {head} {body}"))
}

fn usual_socket(canvas: &Canvas) -> PathBuf {
    canvas.runtime_home().join("canvas-cluster/admin.sock")
}

#[test]
fn without_a_word_it_is_a_private_socket_beside_the_control_socket() {
    let backend = Backend::sqlite();
    let canvas = backend.canvas().workers(2);
    let path = usual_socket(&canvas);
    let mut server = canvas.start();
    let about = std::fs::metadata(&path).expect("a socket");
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    assert_eq!(about.uid(), geteuid().as_raw());
    let (head, body) = ask_socket(&path, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    Exposition::read(&body, Format::Prometheus);
    // The name stays through everything, and leads to somebody.
    server.reload(2);
    let length = server.log_length();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line_after(length, "master: reloaded: ");
    wait_until(PATIENCE, "both to serve", || status_at(&path).ready == 2);
    server.stop_with(Signal::SIGTERM);
    assert!(!path.exists(), "nobody is to find it");
}

#[test]
fn a_socket_that_a_dead_server_left_is_replaced_and_a_living_ones_is_not() {
    let backend = Backend::sqlite();
    let path = backend.dir.join("admin.sock");
    let address = format!("unix:{}", path.display());
    let canvas = backend.canvas().workers(1).args(["--admin", &address]);
    let mut first = canvas.clone().start();
    canvas
        .clone()
        .args(["--listen", "127.0.0.1:0", "--control-socket", "none"])
        .run()
        .expect(111)
        .naming(&["another server has the admin socket", "--admin"]);
    first.kill_master();
    wait_until(PATIENCE, "its workers to follow", || {
        connect_to(&path).is_err()
    });
    assert!(path.exists(), "it was left behind");
    let second = canvas.start();
    let (head, _) = ask_socket(&path, "/healthz");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    drop(second);
    drop(first);
}

/// Root gives it to the user of the workers, who see of each other what is told here, although they see nothing of /proc.
#[test]
fn the_workers_user_has_the_socket_and_tells_of_all_workers() {
    let dir = Dir::new();
    let me = User::from_uid(geteuid()).expect("users can be looked up");
    let name = match (geteuid().is_root(), me) {
        (true, _) => "nobody".to_owned(),
        (false, Some(me)) => me.name,
        (false, None) => return,
    };
    let user = User::from_name(&name)
        .expect("users can be looked up")
        .expect("this user");
    let canvas = Canvas::new(dir.path()).workers(2).args(["--user", &name]);
    let path = usual_socket(&canvas);
    let server = canvas.start();
    let about = std::fs::metadata(&path).expect("a socket");
    assert_eq!(
        (about.uid(), about.mode() & 0o777),
        (user.uid.as_raw(), 0o600)
    );
    server.get(&list_target(7)).expect(200);
    wait_until(PATIENCE, "both to serve", || ready(&status_at(&path)) == 2);
    let status = status_at(&path);
    assert_eq!(status.workers.len(), 2);
    for worker in &status.workers {
        assert!(
            worker.cpu_seconds.is_some_and(|used| used > 0.0),
            "{worker:?}"
        );
        assert!(
            worker.rss_bytes.is_some_and(|bytes| bytes > 1 << 20),
            "{worker:?}"
        );
        assert!(
            worker.heartbeat_age_ms.is_some_and(|age| age < 30_000),
            "{worker:?}"
        );
        assert!(worker.started_ms >= status.started_ms && worker.started_ms <= status.now_ms);
    }
}

#[test]
fn what_others_could_reach_is_refused_unless_that_is_wanted() {
    let backend = Backend::sqlite();
    let check = |arguments: &[&str]| {
        let canvas = backend.tool("check").args(arguments.iter().copied());
        canvas.run()
    };
    for address in ["0.0.0.0:1122", "[::]:1122", "192.0.2.1:1122"] {
        check(&["--admin", address]).expect(100).naming(&[
            "--admin",
            address,
            "--allow-remote-admin",
        ]);
        check(&["--admin", address, "--allow-remote-admin"]).expect(0);
    }
    for address in ["127.0.0.1:1122", "[::1]:1122", "unix:/run/x.sock", "none"] {
        check(&["--admin", address])
            .expect(0)
            .naming(&[&format!("admin = {address} (--admin)")]);
    }
    for (wrong, named) in [
        ("localhost:1122", "127.0.0.1:1122"),
        ("1122", "127.0.0.1:1122"),
        ("/run/x.sock", "write unix:"),
        ("unix:", "empty"),
        ("", "--admin"),
    ] {
        check(&["--admin", wrong])
            .expect(100)
            .naming(&["--admin", named]);
    }
    check(&["--admin", "127.0.0.1:1121"])
        .expect(100)
        .naming(&["--admin", "--listen"]);
    let beside = check(&["--control-socket", "/run/y/control.sock"]).expect(0);
    assert!(
        beside
            .output()
            .contains("admin = unix:/run/y/admin.sock (default)")
    );
    let none = check(&["--control-socket", "none"]).expect(0);
    assert!(none.output().contains("admin = none (default)"));
    // An address that somebody has is none to be had.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    backend
        .canvas()
        .args(["--listen", "127.0.0.1:0", "--admin", &address])
        .run()
        .expect(111)
        .naming(&["admin listener", &address]);
}

#[test]
fn status_is_a_table_for_people_and_a_document_for_programs() {
    let backend = Backend::sqlite();
    let server = backend.canvas().workers(2).start();
    create(&server, 7, &[("img1", "a")]);
    let load = Load::start(
        server.address(),
        Style::KeepAlive,
        2,
        vec![Request::new("GET", &list_target(7))],
    );
    load.wait_for_answers(20);
    let shown = backend.tool("status").run().expect(0);
    load.stop().assert_all_ok();
    let table = &shown.stdout;
    assert!(table.starts_with("canvas-cluster 0.1.0, pid "), "{table}");
    assert!(
        table.contains("running") && table.contains("2 of 2 workers ready"),
        "{table}"
    );
    for word in [
        "slot", "pid", "gen", "CPU", "req/s", "p50", "p99", "p99.9", "conns", "hits",
    ] {
        assert!(table.contains(word), "{word} in {table}");
    }
    for worker in server.workers() {
        let line = table
            .lines()
            .find(|line| line.contains(&format!(" {worker} ")));
        let line = line.unwrap_or_else(|| panic!("no {worker} in {table}"));
        assert!(line.contains("ready") && line.contains('%'), "{line}");
    }
    let rate = table
        .lines()
        .find(|line| line.contains("requests/s"))
        .expect("a rate");
    assert!(!rate.starts_with("0 "), "{rate}");

    let shown = backend.tool("status").arg("--json").run().expect(0);
    let status: Status = serde_json::from_str(&shown.stdout).expect("a status");
    assert_eq!((status.pid, status.ready), (server.master(), 2));
    // Who can't be reached, and who has nothing to be reached by.
    backend
        .tool("status")
        .args(["--admin", "none"])
        .run()
        .expect(112)
        .naming(&["admin is none"]);
    let nowhere = format!("unix:{}", backend.dir.join("nowhere").display());
    backend
        .tool("status")
        .args(["--admin", &nowhere])
        .run()
        .expect(112)
        .naming(&["no server listens at", &nowhere]);
    backend
        .tool("status")
        .args(["--timeout", "1h"])
        .run()
        .expect(100)
        .naming(&["--timeout"]);
    // A mistake in the file keeps nobody from looking.
    let file = backend.dir.write("bad.toml", "wrokers = 2\n");
    backend
        .tool("status")
        .arg("--json")
        .arg("--config")
        .arg(&file)
        .run()
        .expect(0);
}

#[test]
fn status_finds_a_listener_that_has_an_address() {
    let backend = Backend::sqlite();
    let server = with_admin(backend.canvas()).workers(1).start();
    let address = admin_of(&server).to_string();
    let shown = backend.tool("status").args(["--json", "--admin", &address]);
    let shown = shown.run().expect(0);
    let status: Status = serde_json::from_str(&shown.stdout).expect("a status");
    assert_eq!(status.pid, server.master());
}
