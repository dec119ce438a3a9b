//! A reload that fails when its first worker serves already: what served before comes back, and whoever asked is told. And
//! one that hangs before it has a worker at all; so does a start.

use std::thread;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::control::{configure, ctl, status};
use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::manager::Manager;
use crate::support::postgres::Postgres;
use crate::support::{Backend, Canvas, Dir, PATIENCE, Server, alone, process, wait_until};

/// The roll once waited for such a slot for ever: nobody heard of it, and no later reload was taken.
#[test]
fn a_configuration_that_fails_in_a_later_slot_is_taken_back_and_loses_nothing() {
    let _machine = alone();
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let manager = Manager::new();
    let file = configure(&backend, "workers = 6\n");
    let canvas = backend.canvas().env("NOTIFY_SOCKET", manager.name());
    let mut server = canvas.arg("--config").arg(file).start();
    for expected in ["reload failed", "access log", "ended with exit code 111"] {
        server.allow(expected);
    }
    let before = server.workers();
    manager.hear_until("READY=1");
    let reads = vec![Request::new("GET", "/healthz")];
    let load = Load::start(server.address(), Style::ConnectionPerRequest, 2, reads);
    load.wait_for_answers(50);

    // Each worker waits half a second for the database before it opens its log, so that the first one has the folder,
    // and the last ones don't.
    postgres.freeze();
    let (folder, gone) = (backend.dir.join("logs"), backend.dir.join("gone"));
    std::fs::create_dir(&folder).expect("a folder");
    let log = folder.join("access.log");
    configure(&backend, &format!("workers = 6\naccess_log = {log:?}\n"));
    let ended = thread::scope(|scope| {
        let reload = scope.spawn(|| ctl(&backend, &["reload", "--wait"]));
        wait_until(PATIENCE, "the first new worker", || {
            reload.is_finished() || status(&backend)["generation"] == 2
        });
        std::fs::rename(&folder, &gone).expect("our own folder");
        reload.join().expect("an outcome")
    });
    ended.expect(111).naming(&[
        "a later worker did not get ready",
        "the configuration of before serves again",
        "exit code 111",
    ]);
    let now = status(&backend);
    assert_eq!(
        (&now["generation"], &now["ready"], &now["wanted"]),
        (&json!(1), &json!(6), &json!(6)),
        "{now}"
    );
    assert_eq!(now["changes"][0]["result"], "failed", "{now}");
    let notices = manager.hear_until("READY=1");
    let told = notices.last().and_then(|notice| notice.value("STATUS="));
    assert!(
        told.is_some_and(|told| told.contains("last reload failed")),
        "{told:?}"
    );
    postgres.thaw();
    wait_until(PATIENCE, "the workers of the new one to leave", || {
        status(&backend)["phase"] == "serving"
    });
    let now = status(&backend);
    let workers = now["workers"].as_array().expect("workers");
    assert!(
        workers.iter().all(|worker| worker["generation"] == 1),
        "{now}"
    );
    // Who never left it stays.
    assert!(!server.workers().is_disjoint(&before));

    // The next one is taken.
    std::fs::rename(&gone, &folder).expect("our own folder");
    ctl(&backend, &["reload", "--wait"])
        .expect(0)
        .naming(&["6 workers"]);
    load.wait_for_answers(50);
    let tally = load.stop();
    println!("{tally:?}");
    tally.assert_all_ok();
}

/// The master once waited for the child that prepares, and heard neither signals nor commands.
#[test]
fn a_reload_whose_preparation_hangs_keeps_the_master_from_nothing() {
    let dir = Dir::new();
    let file = dir.write("config.toml", "workers = 1\n");
    let mut server = Canvas::new(dir.path()).arg("--config").arg(file).start();
    for expected in ["reload refused", "ended with"] {
        server.allow(expected);
    }
    let call = |words: &[&str]| {
        let call = Canvas::new(dir.path()).arg("ctl");
        call.args(words.iter().copied()).run()
    };
    let now = || -> Value {
        let ended = call(&["status", "--json"]).expect(0);
        serde_json::from_str(&ended.stdout).expect("JSON")
    };
    // Whoever makes the database of a first start holds its folder, and the others wait for it.
    let folder = dir.join("held");
    std::fs::create_dir(&folder).expect("a folder");
    let held = std::fs::File::open(&folder).expect("the folder");
    held.lock().expect("its lock");
    let lines = format!("workers = 1\nstate_dir = {folder:?}\n");
    dir.write("config.toml", &format!("{lines}boot_timeout = \"1h\"\n"));
    server.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the reload to begin", || {
        now()["phase"] == "reloading"
    });
    // The worker and the child that waits.
    assert_eq!(server.workers().len(), 2);
    let victim = now()["workers"][0]["pid"].as_i64().expect("a pid") as i32;
    process::signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "a worker in its place", || {
        let now = now();
        now["ready"] == 1 && now["workers"][0]["pid"] != victim
    });
    held.unlock().expect("ours");
    server.wait_for_line("master: reloaded: ");

    // One that never comes back is given up.
    let folder = dir.join("held for ever");
    std::fs::create_dir(&folder).expect("a folder");
    let held = std::fs::File::open(&folder).expect("the folder");
    held.lock().expect("its lock");
    let lines = format!("workers = 1\nstate_dir = {folder:?}\nboot_timeout = \"1s\"\n");
    dir.write("config.toml", &lines);
    call(&["reload", "--wait"])
        .expect(100)
        .naming(&["could not be prepared within 1s"]);
    assert_eq!(
        (&now()["generation"], &now()["ready"]),
        (&json!(2), &json!(1))
    );
    server.get("/healthz").expect(200);
    wait_until(PATIENCE, "the child to be gone", || {
        server.workers().len() == 1
    });
}

/// A server whose first start waits: somebody else has the folder in which its database is to be made, and keeps it.
fn start_that_hangs(dir: &Dir, boot_timeout: &str) -> (Server, std::fs::File) {
    let folder = dir.join("held");
    std::fs::create_dir_all(&folder).expect("a folder");
    let held = std::fs::File::open(&folder).expect("the folder");
    held.lock().expect("its lock");
    let server = Canvas::new(dir.path())
        .args(["--workers", "1", "--boot-timeout", boot_timeout])
        .arg("--state-dir")
        .arg(folder)
        .launch();
    (server, held)
}

/// The start once waited for its database for as long as that took, and heard no signal meanwhile.
#[test]
fn a_start_whose_preparation_hangs_hears_signals() {
    for which in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
        let dir = Dir::new();
        let (mut server, _held) = start_that_hangs(&dir, "1h");
        wait_until(PATIENCE, "the child that prepares", || {
            server.workers().len() == 1
        });
        // What is nobody's business yet ends nothing.
        for idle in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTTIN] {
            server.signal(idle);
        }
        server.signal(which);
        let status = server.wait_for_exit();
        assert_eq!(status.code(), Some(0), "{which}: {status}");
        server.assert_clean_log();
        assert!(server.lines_with("ready: ").is_empty());
    }
}

#[test]
fn a_start_whose_preparation_hangs_is_given_up() {
    let dir = Dir::new();
    let (mut server, held) = start_that_hangs(&dir, "1s");
    server.allow("could not be prepared within 1s (--boot-timeout)");
    let line = server.wait_for_line("could not be prepared within 1s (--boot-timeout)");
    let status = server.wait_for_exit();
    assert!(
        status.code().is_some_and(|code| code != 0),
        "{status}, {line}"
    );
    server.assert_clean_log();
    // Nothing half made is in the way of the next one.
    held.unlock().expect("ours");
    let server = Canvas::new(dir.path())
        .args(["--workers", "1"])
        .arg("--state-dir")
        .arg(dir.join("held"))
        .start();
    server.get("/readyz").expect(200);
}
