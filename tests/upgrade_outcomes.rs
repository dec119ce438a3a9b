//! `canvas-cluster ctl upgrade`: what came of it is known to whoever waits, although the program that was asked is not the one
//! that answers; and the control socket is there at every moment.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::control::{configure, connect, ctl, read_to_end, socket, status};
use crate::support::canvas::binary;
use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::manager::{Manager, Notice};
use crate::support::process::{alive, children, signal};
use crate::support::{Backend, PATIENCE, Server, alone, until_done, wait_until};
use crate::upgrade::Program;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A server that was started by a link.
fn serve_linked(backend: &Backend, lines: &str) -> (Server, Program) {
    let program = Program::new(backend.dir.path());
    let file = configure(backend, lines);
    let canvas = backend.canvas().program(&program.link);
    (canvas.arg("--config").arg(file).start(), program)
}

/// A program of these lines of shell, with the way to the real one in `$real`.
fn script(backend: &Backend, name: &str, lines: &str) -> PathBuf {
    let text = format!("#!/bin/sh\nreal='{}'\n{lines}\n", binary().display());
    let file = backend.dir.write(name, &text);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    file
}

/// Sends a request, and answers with the connection once the server has taken it.
#[track_caller]
fn ask(backend: &Backend, request: &str) -> UnixStream {
    let mut stream = connect(&socket(backend));
    stream.write_all(request.as_bytes()).expect("sent");
    // Commands are taken in the order of their coming, so this one's answer says that the one before is taken.
    status(backend);
    stream
}

#[track_caller]
fn outcome(stream: UnixStream) -> Value {
    serde_json::from_str(&read_to_end(stream)).expect("one line of JSON")
}

#[test]
fn the_outcome_is_told_and_no_request_is_lost() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let (server, _program) = serve_linked(&backend, "workers = 2\n");
    let master = server.master();
    let mut generation = 1;
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let reads = vec![Request::new("GET", "/healthz")];
        let load = Load::start(server.address(), style, 6, reads);
        for _ in 0..2 {
            load.wait_for_answers(50);
            let before = server.workers();
            let ended = ctl(&backend, &["upgrade", "--wait"]).expect(0);
            generation += 1;
            let told = format!(
                "upgraded from {VERSION} to {VERSION}: generation {generation}, 2 workers\n"
            );
            assert_eq!(ended.stdout, told);
            // The new ones serve already, whatever the old ones have to finish.
            let now = status(&backend);
            assert_eq!(
                (&now["generation"], &now["ready"]),
                (&json!(generation), &json!(2))
            );
            let last = now["changes"].as_array().and_then(|all| all.last());
            let last = last.expect("a change");
            assert_eq!(
                (&last["what"], &last["result"]),
                (&json!("upgrade"), &json!("done"))
            );
            wait_until(PATIENCE, "the old workers to leave", || {
                server.workers().is_disjoint(&before)
            });
        }
        let tally = load.stop();
        tally.report(&format!("2 upgrades by ctl, {style:?}"));
        tally.assert_all_ok();
    }
    assert!(alive(master));
    // What was before is remembered by who comes after.
    let now = status(&backend);
    assert_eq!(now["changes"].as_array().map(Vec::len), Some(4), "{now}");
    let ended = ctl(&backend, &["upgrade", "--wait", "--json"]).expect(0);
    let said: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(said["upgrade"], json!({"from": VERSION, "to": VERSION}));
    // Without waiting the command is only taken.
    let length = server.log_length();
    ctl(&backend, &["upgrade"]).expect(0).naming(&["does it"]);
    server.wait_for_line_after(length, "master: reloaded: ");
}

#[test]
fn a_program_that_can_not_take_over_is_told_with_its_reason() {
    let backend = Backend::sqlite();
    let (mut server, program) = serve_linked(&backend, "workers = 2\n");
    server.allow("upgrade to ");
    let before = server.workers();
    let refused = |why: &[&str]| {
        let ended = ctl(&backend, &["upgrade", "--wait"]).expect(100);
        ended
            .naming(why)
            .naming(&["nothing has changed", "canvas-cluster"]);
        let now = status(&backend);
        assert_eq!(now["generation"], 1);
        let last = now["changes"].as_array().and_then(|all| all.last());
        let last = last.expect("a change");
        assert_eq!(
            (&last["what"], &last["result"]),
            (&json!("upgrade"), &json!("refused"))
        );
        let now = server.workers();
        assert!(now.is_superset(&before), "{now:?} after {before:?}");
        server.get("/healthz").expect(200);
    };
    program.point_to(&backend.dir.join("nowhere"));
    refused(&["No such file"]);
    let file = backend.dir.write("text", "no program\n");
    program.point_to(&file);
    refused(&["Permission denied"]);
    program.point_to(&script(
        &backend,
        "broken",
        "echo my last words; kill -SEGV $$",
    ));
    refused(&["SIGSEGV", "my last words"]);
    // The real one, which says what is wrong with the configuration.
    program.point_to(binary());
    configure(&backend, "wrokers = 2\n");
    refused(&["exit code 100", "did you mean workers"]);
    configure(&backend, "workers = 2\n");
    ctl(&backend, &["upgrade", "--wait"]).expect(0);
}

#[test]
fn new_workers_that_do_not_get_ready_are_told_by_the_new_program() {
    let backend = Backend::sqlite();
    let (mut server, _program) = serve_linked(&backend, "workers = 2\n");
    server.allow("reload failed");
    server.allow("worker 0");
    let before = server.workers();
    configure(
        &backend,
        "workers = 2\naccess_log = \"/nowhere/access.log\"\n",
    );
    let failed = |why: &[&str]| {
        let length = server.log_length();
        let ended = ctl(&backend, &["upgrade", "--wait"]).expect(111);
        ended
            .naming(&[&format!("version {VERSION} has taken over from {VERSION}")])
            .naming(why);
        server.wait_for_line_after(length, "takes over from");
        assert_eq!(server.workers(), before);
        let now = status(&backend);
        assert_eq!(now["generation"], 1);
        let last = now["changes"].as_array().and_then(|all| all.last());
        let last = last.expect("a change");
        assert_eq!(
            (&last["what"], &last["result"]),
            (&json!("upgrade"), &json!("failed"))
        );
        server.get("/healthz").expect(200);
    };
    failed(&["the old ones keep serving", "exit code 111"]);
    // The next one is another upgrade, and not the rest of this one.
    configure(&backend, "workers = 3\n");
    let ended = ctl(&backend, &["upgrade", "--wait"]).expect(0);
    ended.naming(&["generation 2, 3 workers"]);
}

/// The check finds the configuration good, and it is spoilt before the new program reads it.
#[test]
fn a_configuration_that_is_spoilt_after_the_check_is_told() {
    for mended in [true, false] {
        let backend = Backend::sqlite();
        let (mut server, program) = serve_linked(&backend, "workers = 2\n");
        server.allow("the configuration has changed");
        let file = backend.dir.join("config.toml");
        let spoiler = format!(
            "[ \"$1\" != --upgrade-check ] && exec \"$real\" \"$@\"\n\
             echo 'wrokers = 2' > '{}'\necho canvas-cluster can take over",
            file.display()
        );
        program.point_to(&script(&backend, "spoiler", &spoiler));
        let ended = ctl(&backend, &["upgrade", "--wait"]).expect(111);
        let why = [
            "has taken over from",
            "did you mean workers",
            "the old workers serve",
        ];
        ended.naming(&why);
        server.get("/healthz").expect(200);
        ctl(&backend, &["status"]).expect(111).naming(&why);
        if mended {
            // What is asked for meanwhile is not taken, and what comes next is.
            ctl(&backend, &["scale", "3"]).expect(111).naming(&why);
            configure(&backend, "workers = 2\n");
            server.wait_for_line("master: reloaded: ");
            assert_eq!(status(&backend)["changes"][0]["result"], "done");
        } else {
            ctl(&backend, &["stop", "--wait"])
                .expect(0)
                .naming(&["has stopped"]);
            assert_eq!(server.wait_for_exit().code(), Some(0));
            assert!(!socket(&backend).exists(), "the socket stays behind");
        }
    }
}

/// The new program once looked after nothing but its configuration meanwhile: the watchdog of the service manager would have
/// ended the server, old workers and all.
#[test]
fn while_the_configuration_is_spoilt_the_old_workers_are_looked_after() {
    let backend = Backend::sqlite();
    let manager = Manager::new();
    let program = Program::new(backend.dir.path());
    let file = configure(&backend, "workers = 2\n");
    let canvas = backend.canvas().program(&program.link);
    let canvas = canvas.env("NOTIFY_SOCKET", manager.name());
    let canvas = canvas.env("WATCHDOG_USEC", "2000000");
    let mut server = canvas.arg("--config").arg(&file).start();
    for expected in ["the configuration has changed", "ended with SIGKILL"] {
        server.allow(expected);
    }
    let spoiler = format!(
        "[ \"$1\" != --upgrade-check ] && exec \"$real\" \"$@\"\n\
         echo 'wrokers = 2' > '{}'\necho canvas-cluster can take over",
        file.display()
    );
    program.point_to(&script(&backend, "spoiler", &spoiler));
    ctl(&backend, &["upgrade", "--wait"]).expect(111);
    // The upgrade is over as far as the manager is concerned, and this is what came of it.
    let told = |notice: &Notice| {
        let status = notice.value("STATUS=").unwrap_or_default();
        notice.says("READY=1") && status.contains("the configuration has changed")
    };
    while !told(&manager.hear()) {}
    manager.hear_until("WATCHDOG=1");
    manager.hear_until("WATCHDOG=1");
    let victim = *server.workers().first().expect("a worker");
    signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "the dead one to be reaped", || {
        !children(server.master()).contains(&victim)
    });
    server.get("/healthz").expect(200);
    manager.hear_until("WATCHDOG=1");
    configure(&backend, "workers = 2\n");
    server.wait_for_line("master: reloaded: ");
    wait_until(PATIENCE, "two workers", || status(&backend)["ready"] == 2);
}

/// Holds the check of an upgrade until told: it opens a FIFO, which waits for a writer.
fn held_program(backend: &Backend) -> (PathBuf, PathBuf) {
    let fifo = backend.dir.join("go");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
    let lines = format!(
        "[ \"$1\" = --upgrade-check ] && read go < '{}'\nexec \"$real\" \"$@\"",
        fifo.display()
    );
    (script(backend, "held", &lines), fifo)
}

#[test]
fn whoever_waits_when_the_program_changes_is_answered_by_the_next() {
    let backend = Backend::sqlite();
    let (server, program) = serve_linked(&backend, "workers = 2\n");
    let (held, fifo) = held_program(&backend);
    program.point_to(&held);
    let upgrade = "{\"command\":\"upgrade\",\"wait\":true}\n";
    let first = ask(&backend, upgrade);
    server.wait_for_line("master: upgrading: checking");
    // The same upgrade, and the reload that it is; a number of workers, which is not forgotten; and one in the middle of
    // its request.
    let second = ask(&backend, upgrade);
    let reload = ask(&backend, "{\"command\":\"reload\",\"wait\":true}\n");
    let scale = ask(
        &backend,
        "{\"command\":\"scale\",\"workers\":3,\"wait\":true}\n",
    );
    let mut half = ask(&backend, "{\"command\":");
    std::fs::write(&fifo, "go\n").expect("the check reads");
    for waiting in [first, second, reload] {
        let said = outcome(waiting);
        assert_eq!(
            (&said["outcome"], &said["generation"], &said["workers"]),
            (&json!("done"), &json!(2), &json!(2)),
            "{said}"
        );
        assert_eq!(said["upgrade"]["from"], VERSION, "{said}");
    }
    half.write_all(b"\"status\"}\n").expect("sent");
    assert_eq!(outcome(half)["outcome"], "status");
    let said = outcome(scale);
    assert_eq!(
        (&said["outcome"], &said["workers"]),
        (&json!("done"), &json!(3)),
        "{said}"
    );
    assert_eq!(server.lines_with("takes over from").len(), 1);
    wait_until(PATIENCE, "three workers", || server.workers().len() == 3);

    // A stop overtakes the next one.
    let length = server.log_length();
    let waiting = ask(&backend, upgrade);
    server.wait_for_line_after(length, "master: upgrading: checking");
    ctl(&backend, &["stop"]).expect(0);
    let said = outcome(waiting);
    assert_eq!(said["outcome"], "failed", "{said}");
    assert!(
        said["why"]
            .as_str()
            .is_some_and(|why| why.contains("stops"))
    );
    server.stop();
}

/// A program that the master has become already, and that has no handlers yet: it waits until told, as a slow disk would have it.
fn program_that_takes_its_time(backend: &Backend) -> (PathBuf, PathBuf) {
    let fifo = backend.dir.join("go");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
    let lines = format!(
        "[ \"$1\" = --upgrade-check ] || read go < '{}'\nexec \"$real\" \"$@\"",
        fifo.display()
    );
    (script(backend, "slow", &lines), fifo)
}

/// Upgrades to a program that takes its time, sends these to what is neither the old one nor the new one, and lets it go on.
fn upgrade_and_signal(backend: &Backend, server: &Server, program: &Program, signals: &[Signal]) {
    let (slow, fifo) = program_that_takes_its_time(backend);
    program.point_to(&slow);
    server.signal(Signal::SIGUSR2);
    let image = format!("/proc/{}/exe", server.master());
    let own = std::fs::read_link(&image).expect("the old one");
    wait_until(PATIENCE, "the master to become another program", || {
        std::fs::read_link(&image).is_ok_and(|image| image != own)
    });
    for which in signals {
        server.signal(*which);
    }
    std::fs::write(&fifo, "go\n").expect("it reads");
}

/// The old image's handlers are gone and the new one's not there: what comes then was once heard by nobody, or ended the server.
#[test]
fn a_signal_between_two_images_is_heard_by_the_next() {
    let backend = Backend::sqlite();
    let (server, program) = serve_linked(&backend, "workers = 2\n");
    let more = [Signal::SIGTTIN, Signal::SIGUSR1];
    upgrade_and_signal(&backend, &server, &program, &more);
    server.wait_for_line("takes over from");
    wait_until(PATIENCE, "one worker more", || {
        status(&backend)["ready"] == 3 && server.workers().len() == 3
    });
    server.get("/healthz").expect(200);
    server.stop();

    for which in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
        let backend = Backend::sqlite();
        let (mut server, program) = serve_linked(&backend, "workers = 2\n");
        server.workers();
        upgrade_and_signal(&backend, &server, &program, &[which]);
        let status = server.wait_for_exit();
        assert_eq!(status.code(), Some(0), "{which}: {status}");
        server.assert_clean_log();
        assert_eq!(server.lines_with("takes over from").len(), 1, "{which}");
    }
}

#[test]
fn the_control_socket_answers_at_every_moment() {
    let backend = Backend::sqlite();
    let (server, _program) = serve_linked(&backend, "workers = 1\n");
    let path = socket(&backend);
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let asker = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut stream = connect(&path);
                stream
                    .write_all(b"{\"command\":\"status\"}\n")
                    .expect("sent");
                let said = outcome(stream);
                assert_eq!(said["outcome"], "status", "{said}");
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        until_done(&done, || {
            for _ in 0..5 {
                let before = answers.load(Ordering::Relaxed);
                ctl(&backend, &["upgrade", "--wait"]).expect(0);
                wait_until(PATIENCE, "somebody to ask", || {
                    answers.load(Ordering::Relaxed) > before + 5 || asker.is_finished()
                });
            }
        });
        asker.join().expect("an answer to everything");
    });
    assert_eq!(server.lines_with("takes over from").len(), 5);
}

#[test]
fn an_upgrade_takes_the_control_socket_to_another_place() {
    let backend = Backend::sqlite();
    let (server, _program) = serve_linked(&backend, "workers = 1\n");
    let (old, new) = (socket(&backend), backend.dir.join("other.sock"));
    configure(
        &backend,
        &format!("workers = 1\ncontrol_socket = {new:?}\n"),
    );
    // Whoever has asked at the old place hears of it there.
    ctl(&backend, &["upgrade", "--wait"]).expect(0);
    assert!(!old.exists());
    let place = new.to_str().expect("text");
    ctl(&backend, &["status", "--control-socket", place]).expect(0);
    server.signal(Signal::SIGHUP);
    server.wait_for_line("generation 3");
    ctl(&backend, &["upgrade", "--wait", "--control-socket", place])
        .expect(0)
        .naming(&["generation 4"]);
}
