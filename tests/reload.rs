//! SIGHUP: the configuration is read again and the workers are replaced one by one, and no client notices.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::control::status;
use crate::support::http::{Client, Request, Trouble};
use crate::support::load::{Load, Style};
use crate::support::postgres::Postgres;
use crate::support::process::{alive, free_port};
use crate::support::shoes::{create, list_target};
use crate::support::sockets::{socket_inodes, watched_inodes};
use crate::support::{Backend, PATIENCE, Server, alone, over_both_stores, wait_until};

over_both_stores!(reloads_lose_no_request);

fn reads() -> Vec<Request> {
    (1..40)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect()
}

/// A configuration file with these lines; written in one step, for the server may read it at any time.
fn configure(folder: &Path, lines: &str) -> PathBuf {
    let (draft, file) = (folder.join("config.toml.new"), folder.join("config.toml"));
    std::fs::write(&draft, lines).expect("a file in the test's folder");
    std::fs::rename(&draft, &file).expect("a file in the test's folder");
    file
}

#[track_caller]
fn reload_under(server: &Server, load: &Load, count: usize) {
    let master = server.master();
    let before = server.workers();
    server.reload(count);
    assert!(alive(master));
    assert!(server.workers().is_disjoint(&before));
    load.wait_for_answers(50);
}

fn reloads_lose_no_request(backend: &Backend) {
    let _machine = alone();
    let server = backend.serve(2);
    create(&server, 7, &[("img1", "a")]);
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let load = Load::start(server.address(), style, 6, reads());
        load.wait_for_answers(100);
        for _ in 0..10 {
            reload_under(&server, &load, 2);
        }
        let tally = load.stop();
        tally.report(&format!("10 reloads, {style:?}"));
        tally.assert_all_ok();
    }
}

#[test]
fn a_storm_of_hangups_ends_with_fresh_workers_and_loses_nothing() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let load = Load::start(server.address(), Style::ConnectionPerRequest, 4, reads());
    load.wait_for_answers(50);
    let before = server.workers();
    for _ in 0..15 {
        server.signal(Signal::SIGHUP);
        // A few answers apart: some hang-ups meet a reload at every stage, some the one before.
        load.wait_for_answers(3);
    }
    wait_until(PATIENCE, "the storm to pass", || {
        let now = server.workers();
        now.is_disjoint(&before) && now.len() == 2
    });
    load.wait_for_answers(50);
    let tally = load.stop();
    tally.report("15 hang-ups, a few answers apart");
    tally.assert_all_ok();
    // One more, alone, works as ever.
    wait_for_calm(&server, 2);
    server.reload(2);
}

/// Waits until the workers have stopped changing: all of them answer, and are the same before and after.
#[track_caller]
fn wait_for_calm(server: &Server, count: usize) {
    wait_until(PATIENCE, "the workers to settle", || {
        let before = server.workers();
        before.len() == count && server.answering_workers() == before && server.workers() == before
    });
}

#[test]
fn a_broken_configuration_leaves_the_workers_alone() {
    let backend = Backend::sqlite();
    let file = configure(backend.dir.path(), "workers = 2\n");
    let mut server = backend.canvas().arg("--config").arg(&file).start();
    // Whatever the level that tells of it, it is expected.
    server.allow("config");
    server.allow("reload");
    let workers = server.workers();
    for (broken, named) in [
        ("workers = \"many\"\n", "workers"),
        ("wrokers = 3\n", "wrokers"),
        ("workers = [\n", "config.toml"),
        ("workers = 3\nredis_url = \"nonsense\"\n", "redis_url"),
    ] {
        configure(backend.dir.path(), broken);
        let length = server.log_length();
        server.signal(Signal::SIGHUP);
        server.wait_for_line_after(length, named);
        for _ in 0..8 {
            server.get("/healthz").expect(200);
        }
        assert_eq!(
            server.workers(),
            workers,
            "a broken configuration ({broken:?}) cost workers"
        );
    }
    std::fs::remove_file(&file).expect("our own file");
    let length = server.log_length();
    server.signal(Signal::SIGHUP);
    server.wait_for_line_after(length, "config.toml");
    assert_eq!(server.workers(), workers);
    // Mended, it is taken.
    configure(backend.dir.path(), "workers = 3\n");
    server.reload(3);
}

/// Between two steps of a reload nothing is started, for whoever starts takes processor time from those who serve. What comes
/// meanwhile is not kept waiting by it: here the end of the server.
#[test]
fn a_reload_pauses_between_two_workers() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(3)
        .args(["--roll-pause", "10m"])
        .start();
    let before = server.workers();
    server.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the first worker to be replaced", || {
        let now = server.workers();
        now.len() == 3 && now.difference(&before).count() == 1
    });
    let (now, answering) = (server.workers(), server.answering_workers());
    assert_eq!(answering, now, "those of before serve beside the new one");
    let status = status(&backend);
    assert_eq!(status["generation"], 2, "{status}");
    assert_eq!(server.workers(), now, "nobody has followed");
    server.stop();
}

/// The sockets for the slots that the reload wanted once took their share of the connections, although no worker would
/// ever accept from them.
#[test]
fn a_reload_to_more_workers_that_fails_leaves_no_connection_waiting() {
    let backend = Backend::sqlite();
    let file = configure(backend.dir.path(), "workers = 1\n");
    let mut server = backend.canvas().arg("--config").arg(&file).start();
    server.allow("reload failed");
    server.allow("access log");
    let workers = server.workers();
    let log = backend.dir.join("nowhere/access.log");
    for count in [4, 8] {
        let settings = format!("workers = {count}\naccess_log = {log:?}\n");
        configure(backend.dir.path(), &settings);
        let length = server.log_length();
        server.signal(Signal::SIGHUP);
        server.wait_for_line_after(length, "reload failed");
        for _ in 0..40 {
            server.get("/healthz").expect(200);
        }
        assert_eq!(server.workers(), workers);
    }
    configure(backend.dir.path(), "workers = 4\n");
    server.reload(4);
    assert_eq!(server.answering_workers().len(), 4);
}

/// The master and the new workers keep the listeners open, so a worker that only closes them goes on being told of
/// connections that are not its own.
#[test]
fn a_worker_that_leaves_no_longer_watches_the_listeners() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let listeners = socket_inodes(server.master());
    let watched = |worker: i32| watched_inodes(worker).intersection(&listeners).count();
    let idle = server.one_client_per_worker();
    for (worker, _) in &idle {
        assert_ne!(watched(*worker), 0, "worker {worker} serves no listener");
    }
    server.signal(Signal::SIGHUP);
    for (worker, _) in &idle {
        wait_until(PATIENCE, "an old worker to leave its listeners", || {
            watched(*worker) == 0
        });
        assert!(alive(*worker), "worker {worker} has dropped its client");
    }
}

/// Old workers, each with an idle client, while new ones serve.
fn retired_workers(server: &Server) -> Vec<(i32, Client)> {
    let idle = server.one_client_per_worker();
    let listeners = socket_inodes(server.master());
    server.signal(Signal::SIGHUP);
    for (worker, _) in &idle {
        wait_until(PATIENCE, "an old worker to leave its listeners", || {
            watched_inodes(*worker).is_disjoint(&listeners)
        });
    }
    idle
}

#[test]
fn a_retired_worker_tells_of_the_end_with_its_next_answer() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    create(&server, 7, &[("img1", "a")]);
    for (worker, mut client) in retired_workers(&server) {
        assert!(alive(worker), "worker {worker} has dropped its client");
        let answer = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(answer.header("connection"), Some("close"), "{answer}");
        assert!(
            client.ends(),
            "the connection goes on after its last answer"
        );
        wait_until(PATIENCE, "a worker without clients to leave", || {
            !alive(worker)
        });
    }
}

#[test]
fn a_retired_worker_closes_what_is_idle_at_the_drain_timeout() {
    let backend = Backend::sqlite();
    let canvas = backend.canvas().workers(2);
    let server = canvas
        .args(["--drain-timeout", "1s", "--request-timeout", "1s"])
        .start();
    let began = Instant::now();
    for (worker, mut client) in retired_workers(&server) {
        assert!(client.ends(), "worker {worker} sends something, or resets");
        let kept = began.elapsed();
        assert!(
            kept >= Duration::from_secs(1),
            "an idle client was kept for {kept:?} only"
        );
        wait_until(PATIENCE, "a worker without clients to leave", || {
            !alive(worker)
        });
    }
    server.get("/healthz").expect(200);
}

#[test]
fn the_number_of_workers_changes_without_a_lost_request() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let file = configure(backend.dir.path(), "workers = 2\n");
    let server = backend.canvas().arg("--config").arg(&file).start();
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let load = Load::start(server.address(), style, 4, reads());
        load.wait_for_answers(50);
        for count in [4, 1, 3, 2] {
            configure(backend.dir.path(), &format!("workers = {count}\n"));
            reload_under(&server, &load, count);
        }
        let tally = load.stop();
        tally.report(&format!("4 reloads to other numbers of workers, {style:?}"));
        tally.assert_all_ok();
    }
}

/// An address that goes was once left by its workers one by one, and who came to their queues waited for the end of the roll, to
/// be reset then. Who comes in the moment in which the last of its sockets is closed still is: the kernel knows no way to
/// close the door and serve those inside.
#[test]
fn an_address_comes_and_goes_and_keeps_nobody_waiting() {
    const CLIENTS: usize = 3;
    const SOCKETS: usize = 3;
    let _machine = alone();
    let backend = Backend::sqlite();
    let ports = [free_port(), free_port()];
    let listen = |count: usize| {
        let addresses = ports.iter().take(count);
        let addresses: Vec<String> = addresses.map(|port| format!("127.0.0.1:{port}")).collect();
        configure(
            backend.dir.path(),
            &format!("workers = 3\nlisten = {addresses:?}\n"),
        )
    };
    let file = listen(1);
    let canvas = backend.canvas().arg("--config").arg(&file);
    let mut server = canvas.launch_as_it_is();
    server.wait_until_ready();
    let stays = Load::start(server.address(), Style::ConnectionPerRequest, 3, reads());
    let goes = SocketAddr::from(([127, 0, 0, 1], ports[1]));
    for _ in 0..5 {
        listen(2);
        server.reload(3);
        let load = Load::start(goes, Style::ConnectionPerRequest, CLIENTS, reads());
        load.wait_for_answers(50);
        listen(1);
        server.reload(3);
        wait_until(PATIENCE, "nobody to listen there", || {
            TcpStream::connect(goes).is_err()
        });
        let tally = load.stop();
        assert!(tally.other.is_empty(), "{tally:?}");
        let mut reset = 0;
        for ((_, kind), count) in &tally.trouble {
            match kind {
                Trouble::Refused => {}
                Trouble::Reset | Trouble::Closed => reset += *count,
                other => panic!("{other:?}: {tally:?}"),
            }
        }
        assert!(reset <= (CLIENTS * SOCKETS) as u64, "{tally:?}");
    }
    stays.stop().assert_all_ok();
    server.stop();
}

#[test]
fn a_reload_takes_the_new_settings() {
    let (old, new) = (Backend::sqlite(), Backend::sqlite());
    create(&new.serve(1), 7, &[("img1", "of the new database")]);
    let settings =
        |backend: &Backend| format!("workers = 2\ndatabase_url = \"{}\"\n", backend.database_url);
    let file = configure(old.dir.path(), &settings(&old));
    let server = crate::support::Canvas::new(old.dir.path())
        .arg("--config")
        .arg(&file)
        .start();
    assert_eq!(server.get(&list_target(7)).expect(200).text(), "[]");
    configure(old.dir.path(), &settings(&new));
    server.reload(2);
    for (worker, mut client) in server.one_client_per_worker() {
        let rows = client
            .get(&list_target(7))
            .expect("an answer")
            .expect(200)
            .json();
        assert_eq!(
            rows[0]["img1"], "of the new database",
            "worker {worker} has the old database"
        );
    }
}

/// The master took the new level before the first worker had tried the configuration, and kept it when that failed.
#[test]
fn the_log_level_of_a_configuration_that_fails_is_not_kept() {
    let backend = Backend::sqlite();
    let file = configure(backend.dir.path(), "workers = 1\n");
    let mut server = backend.canvas().arg("--config").arg(&file).start();
    for expected in ["reload failed", "access log", "ended with"] {
        server.allow(expected);
    }
    let (log, debug) = (
        backend.dir.join("nowhere/access.log"),
        "log_level = \"debug\"\n",
    );
    configure(
        backend.dir.path(),
        &format!("workers = 1\naccess_log = {log:?}\n{debug}"),
    );
    server.signal(Signal::SIGHUP);
    server.wait_for_line("reload failed");
    let length = server.log_length();
    let worker = server.only_worker();
    crate::support::process::signal(worker, Signal::SIGKILL);
    server.wait_for_line_after(length, &format!("(pid {worker}) ended with"));
    wait_until(PATIENCE, "a worker in its place", || {
        server.workers().iter().any(|other| *other != worker)
    });
    // A start is told of at this level.
    let told = server.lines_with("master: started worker");
    assert!(told.is_empty(), "{told:?}");
    // One that serves is taken with its level.
    configure(backend.dir.path(), &format!("workers = 1\n{debug}"));
    server.reload(1);
    server.wait_for_line("DEBUG");
}

#[test]
fn a_reload_finishes_what_the_old_workers_have_in_flight() {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let server = backend.serve_on_one_warm_lane();
    let mut waiting: Vec<_> = (0..6).map(|_| server.connect()).collect();
    // New workers must become ready although the database answers nothing: it is not theirs to wait for.
    postgres.freeze();
    for (shoe, client) in waiting.iter_mut().enumerate() {
        client
            .send_raw(&Request::new("GET", &list_target(shoe as i64)).bytes())
            .expect("a request");
    }
    server.wait_until_read(&waiting);
    let old = server.workers();
    server.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "new workers beside the old ones", || {
        server.workers().difference(&old).count() == 2
    });
    server.get("/healthz").expect(200);
    postgres.thaw();
    for client in &mut waiting {
        assert_eq!(
            client
                .receive(true)
                .expect("an answer from the old worker")
                .expect(200)
                .text(),
            "[]"
        );
    }
    // A client that keeps its connection may hold an old worker until the drain time-out; these don't.
    drop(waiting);
    wait_until(PATIENCE, "the old workers to leave", || {
        server.workers().is_disjoint(&old)
    });
}
