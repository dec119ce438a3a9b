//! The server under a service manager: what it tells, in which order, the signs of life, and the listening sockets that
//! outlive a restart or come from a socket unit.

use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, geteuid, setfsuid};
use serde_json::Value;

use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::manager::{Manager, Notice, kept};
use crate::support::process::{free_port, signal, stand_still};
use crate::support::{Backend, Canvas, Client, PATIENCE, Server, alone, wait_until};

/// A server on this address that tells this manager.
fn canvas(backend: &Backend, manager: &Manager, address: SocketAddr) -> Canvas {
    let canvas = backend.canvas().env("NOTIFY_SOCKET", manager.name());
    canvas.arg("--listen").arg(address.to_string())
}

/// Starts one on a free port. Another test may take the port first, so it is tried with several.
#[track_caller]
fn serve(backend: &Backend, manager: &Manager, workers: usize) -> (Server, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let canvas = canvas(backend, manager, address).workers(workers);
    (start(canvas), address)
}

#[track_caller]
fn start(canvas: Canvas) -> Server {
    let mut server = canvas.launch_as_it_is();
    server.wait_until_ready();
    server
}

/// The phases among these notices.
fn phases(notices: &[Notice]) -> Vec<&'static str> {
    let all = ["READY=1", "RELOADING=1", "STOPPING=1"];
    notices
        .iter()
        .flat_map(|notice| all.into_iter().filter(|phase| notice.says(phase)))
        .collect()
}

#[test]
fn the_manager_hears_each_phase_in_its_order() {
    let (backend, manager) = (Backend::sqlite(), Manager::new());
    let file = backend.dir.write("config.toml", "workers = 2\n");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut server = start(
        canvas(&backend, &manager, address)
            .arg("--config")
            .arg(&file),
    );
    server.allow("reload refused");
    let notices = manager.hear_until("READY=1");
    assert_eq!(phases(&notices), ["READY=1"]);
    let ready = notices.last().expect("just heard");
    assert_eq!(
        ready.value("STATUS="),
        Some("2/2 workers ready, 0 req/s, generation 1")
    );

    server.signal(Signal::SIGHUP);
    let notices = manager.hear_until("READY=1");
    assert_eq!(phases(&notices), ["RELOADING=1", "READY=1"]);
    let reloading = notices.iter().find(|notice| notice.says("RELOADING=1"));
    let moment = reloading.and_then(|notice| notice.value("MONOTONIC_USEC="));
    assert!(
        moment.is_some_and(|moment| moment.parse::<u64>().is_ok()),
        "{moment:?}"
    );
    let status = notices.last().and_then(|notice| notice.value("STATUS="));
    assert!(
        status.is_some_and(|status| status.contains("generation 2")),
        "{status:?}"
    );

    backend.dir.write("config.toml", "wrokers = 2\n");
    server.signal(Signal::SIGHUP);
    let notices = manager.hear_until("READY=1");
    assert_eq!(phases(&notices), ["RELOADING=1", "READY=1"]);
    let status = notices.last().and_then(|notice| notice.value("STATUS="));
    assert!(
        status
            .is_some_and(|status| status.contains("reload refused") && status.contains("wrokers")),
        "{status:?}"
    );

    server.stop();
    let notices = manager.heard();
    assert_eq!(phases(&notices), ["STOPPING=1"]);
    // The drain time-out and some: the manager's own may be shorter.
    let more = notices
        .iter()
        .find_map(|notice| notice.value("EXTEND_TIMEOUT_USEC="));
    let more: u64 = more.and_then(|more| more.parse().ok()).expect("a time");
    assert!((32_000_000..60_000_000).contains(&more), "{more}");
}

/// A delay counts too, and the manager hears of the stop when it begins.
#[test]
fn the_manager_is_told_how_long_a_delayed_stop_takes() {
    let (backend, manager) = (Backend::sqlite(), Manager::new());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let delayed = ["--drain-delay", "5m", "--drain-timeout", "10m"];
    let mut server = start(canvas(&backend, &manager, address).args(delayed));
    manager.hear_until("READY=1");
    server.signal(Signal::SIGTERM);
    let notices = manager.hear_until("STOPPING=1");
    let status = notices.last().and_then(|notice| notice.value("STATUS="));
    assert!(
        status.is_some_and(|status| status.contains("about to stop")),
        "{status:?}"
    );
    let more = |notice: Notice| -> u64 {
        let more = notice.value("EXTEND_TIMEOUT_USEC=");
        more.and_then(|more| more.parse().ok()).expect("a time")
    };
    assert_eq!(more(manager.hear()), 909_000_000);
    // What is left once the delay is skipped.
    server.stop_with(Signal::SIGTERM);
    let mut notices = manager.heard();
    notices.retain(|notice| notice.value("EXTEND_TIMEOUT_USEC=").is_some());
    let left: Vec<u64> = notices.into_iter().map(more).collect();
    assert_eq!(left, [609_000_000]);
}

#[test]
fn the_status_line_follows_the_requests_and_says_nothing_twice() {
    let _machine = alone();
    let (backend, manager) = (Backend::sqlite(), Manager::new());
    let (server, address) = serve(&backend, &manager, 1);
    manager.hear_until("READY=1");
    let load = Load::start(
        address,
        Style::KeepAlive,
        2,
        vec![Request::new("GET", "/healthz")],
    );
    let mut lines: Vec<String> = Vec::new();
    let status = |notice: &Notice| notice.value("STATUS=").map(str::to_owned);
    while lines.last().is_none_or(|line| line.contains(" 0 req/s")) {
        lines.extend(status(&manager.hear()));
    }
    load.stop().assert_all_ok();
    while !lines.last().is_some_and(|line| line.contains(" 0 req/s")) {
        lines.extend(status(&manager.hear()));
    }
    // Nothing happens for some times the line is made anew.
    let silent_for = |ms: u64| {
        let now = ctl_status(&backend)["uptime_seconds"]
            .as_u64()
            .expect("a time")
            * 1000;
        wait_until(PATIENCE, "time to pass", || {
            ctl_status(&backend)["uptime_seconds"]
                .as_u64()
                .expect("a time")
                * 1000
                >= now + ms
        });
    };
    silent_for(5000);
    lines.extend(manager.heard().iter().filter_map(status));
    assert!(lines.windows(2).all(|pair| pair[0] != pair[1]), "{lines:?}");
    server.stop();
}

fn ctl_status(backend: &Backend) -> Value {
    let call = Canvas::new(backend.dir.path()).args(["ctl", "status", "--json"]);
    serde_json::from_str(&call.run().expect(0).stdout).expect("JSON")
}

#[test]
fn the_watchdog_is_fed_while_somebody_serves_and_not_otherwise() {
    let (backend, manager) = (Backend::sqlite(), Manager::new());
    let canvas = backend.canvas().env("NOTIFY_SOCKET", manager.name());
    // The master must not end the worker that stands still.
    let canvas = canvas
        .env("WATCHDOG_USEC", "400000")
        .args(["--hang-timeout", "10m"]);
    let server = canvas.workers(1).start();
    manager.hear_until("WATCHDOG=1");
    manager.hear_until("WATCHDOG=1");

    let worker = server.only_worker();
    signal(worker, Signal::SIGSTOP);
    let silent_for = |ms: u64| {
        wait_until(PATIENCE, "the worker to be silent", || {
            let silent = &ctl_status(&backend)["workers"][0]["silent_ms"];
            silent.as_u64().is_some_and(|silent| silent >= ms)
        });
    };
    silent_for(1500);
    manager.heard();
    silent_for(3500);
    let fed = manager
        .heard()
        .iter()
        .any(|notice| notice.says("WATCHDOG=1"));
    assert!(!fed, "a sign of life although nobody serves");

    signal(worker, Signal::SIGCONT);
    manager.hear_until("WATCHDOG=1");
    server.stop();
}

#[test]
fn kept_sockets_keep_their_queue_over_a_restart() {
    let (backend, manager) = (Backend::sqlite(), Manager::new());
    let (server, address) = serve(&backend, &manager, 2);
    let sockets = kept(manager.hear_until("READY=1"));
    assert_eq!(sockets.len(), 2, "a socket for each worker");
    server.stop();
    assert!(kept(manager.heard()).is_empty());

    // Nobody serves, and nobody is refused.
    let mut waiting: Vec<Client> = (0..16)
        .map(|_| Client::connect(address).expect("a place in the queue"))
        .collect();
    for client in &mut waiting {
        let request = Request::new("GET", "/healthz").bytes();
        client.send_raw(&request).expect("room in the socket");
    }
    let next = canvas(&backend, &manager, address).workers(2).pass(sockets);
    let server = start(next);
    for mut client in waiting {
        client.receive(true).expect("an answer").expect(200);
    }
    // They are kept already, and are not given again.
    assert!(kept(manager.hear_until("READY=1")).is_empty());
    assert_eq!(server.answering_workers().len(), 2);
    server.stop();
}

#[test]
fn an_address_that_is_given_up_is_not_kept() {
    let (backend, manager) = (Backend::sqlite(), Manager::new());
    let addresses = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let configure = |wanted: &[SocketAddr]| {
        let wanted: Vec<String> = wanted.iter().map(|one| format!("\"{one}\"")).collect();
        let text = format!("workers = 1\nlisten = [{}]\n", wanted.join(", "));
        backend.dir.write("config.toml", &text)
    };
    let file = configure(&addresses);
    let canvas = || {
        let canvas = backend.canvas().env("NOTIFY_SOCKET", manager.name());
        canvas.arg("--config").arg(&file)
    };
    let let_go = |notices: &[Notice]| -> Vec<String> {
        let gone = notices
            .iter()
            .filter(|notice| notice.says("FDSTOREREMOVE=1"));
        gone.map(|notice| notice.value("FDNAME=").expect("a name").to_owned())
            .collect()
    };
    let server = start(canvas());
    let sockets = kept(manager.hear_until("READY=1"));
    let (names, sockets): (Vec<String>, Vec<TcpListener>) = sockets.into_iter().unzip();
    assert_eq!(names.len(), 2);
    configure(&addresses[..1]);
    server.signal(Signal::SIGHUP);
    assert_eq!(let_go(&manager.hear_until("READY=1")), names[1..]);
    drop(server);

    // One that is passed although nobody wants it any more is closed.
    manager.heard();
    let passed = names.iter().cloned().zip(sockets).collect();
    let server = start(canvas().pass(passed));
    assert_eq!(let_go(&manager.hear_until("READY=1")), names[1..]);
    assert!(
        TcpListener::bind(addresses[1]).is_ok(),
        "it is listened on still"
    );
    server.get("/healthz").expect(200);
    server.stop();
}

#[test]
fn a_socket_units_socket_is_served_by_every_worker() {
    let backend = Backend::sqlite();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    let canvas = backend
        .canvas()
        .workers(2)
        .arg("--listen")
        .arg(address.to_string());
    let server = start(canvas.pass(vec![("canvas-cluster.socket".to_owned(), socket)]));
    assert_eq!(server.answering_workers().len(), 2);
    server.reload(2);
    server.get("/healthz").expect(200);
    server.stop();
}

/// The kernel lets sockets of one user only share an address, and systemd makes those of socket units as root.
#[test]
fn a_socket_that_no_other_may_join_is_shared() {
    if !geteuid().is_root() {
        eprintln!("not root, so no socket of another user could be made");
        return;
    }
    let backend = Backend::sqlite();
    // This thread's alone; a socket belongs to the user who made it, by this id.
    setfsuid(Uid::from_raw(1));
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    setfsuid(Uid::from_raw(0));
    let address = socket.local_addr().expect("bound");
    let canvas = backend
        .canvas()
        .workers(3)
        .arg("--listen")
        .arg(address.to_string());
    let server = start(canvas.pass(vec![("canvas-cluster.socket".to_owned(), socket)]));
    server.wait_for_line("share them");
    // All accept from one queue, so which of them gets a connection is chance: each of them must, one by one alone.
    for worker in server.workers() {
        let others: Vec<i32> = server
            .workers()
            .into_iter()
            .filter(|other| *other != worker)
            .collect();
        for other in &others {
            stand_still(*other);
        }
        server.get("/healthz").expect(200);
        for other in &others {
            signal(*other, Signal::SIGCONT);
        }
    }
    server.reload(3);
    server.get("/healthz").expect(200);
    server.stop();
}

#[test]
fn what_is_passed_and_is_no_listener_is_told_and_closed() {
    let backend = Backend::sqlite();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let unwanted = stranger.local_addr().expect("bound");
    let canvas = backend
        .canvas()
        .workers(1)
        .arg("--listen")
        .arg(address.to_string());
    let file = std::fs::File::open("/dev/null").expect("it is always there");
    let rubbish = TcpListener::from(std::os::fd::OwnedFd::from(file));
    let passed = vec![
        ("rubbish".to_owned(), rubbish),
        ("stranger".to_owned(), stranger),
    ];
    let server = start(canvas.pass(passed));
    server.wait_for_line("\"rubbish\", which can't be listened on");
    server.wait_for_line(&format!(
        "{unwanted} (stranger), which --listen does not name"
    ));
    // A child that has only just begun may have it for a moment, too.
    wait_until(PATIENCE, "nobody to listen on it", || {
        TcpListener::bind(unwanted).is_ok()
    });
    server.get("/healthz").expect(200);
    server.stop();
}
