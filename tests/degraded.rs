//! A slot whose workers don't get ready, again and again: it is said once, shown to whoever asks, and costs nobody an answer.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::control::{ctl, status};
use crate::support::manager::{Manager, Notice};
use crate::support::process::signal;
use crate::support::{Backend, PATIENCE, wait_until};

#[test]
fn a_degraded_slot_is_said_once_and_shown_until_it_serves_again() {
    let backend = Backend::sqlite();
    let manager = Manager::new();
    let (folder, gone) = (backend.dir.join("logs"), backend.dir.join("gone"));
    std::fs::create_dir(&folder).expect("a folder");
    let log = folder.join("access.log");
    let canvas = backend.canvas().workers(2);
    let canvas = canvas.env("NOTIFY_SOCKET", manager.name());
    let mut server = canvas.arg("--access-log").arg(&log).start();
    for expected in ["is degraded", "access log", "ended with"] {
        server.allow(expected);
    }
    // Nobody can open the log any more, and who has it open serves on.
    std::fs::rename(&folder, &gone).expect("our own folder");
    let slot = &status(&backend)["workers"][1];
    assert_eq!(slot["slot"], 1);
    let victim = slot["pid"].as_i64().expect("a pid") as i32;
    signal(victim, Signal::SIGKILL);

    server.wait_for_line("master: slot 1 is degraded");
    assert_eq!(status(&backend)["degraded"], json!([1]));
    ctl(&backend, &["status"])
        .expect(0)
        .naming(&["slot 1 is degraded"]);
    let says = |notice: &Notice| {
        let line = notice.value("STATUS=").unwrap_or_default();
        line.contains("1/2 workers ready") && line.contains("degraded: slot 1")
    };
    while !says(&manager.hear()) {}
    // It is tried on, and nothing more is said of it but by who tries.
    let tries = || server.lines_with("can't open the access log").len();
    let before = tries();
    wait_until(PATIENCE, "another try", || tries() > before);
    for _ in 0..16 {
        server.get("/healthz").expect(200);
    }
    assert_eq!(server.lines_with("is degraded").len(), 1);

    std::fs::rename(&gone, &folder).expect("our own folder");
    server.wait_for_line("master: slot 1 serves again");
    let now = status(&backend);
    assert_eq!((&now["degraded"], &now["ready"]), (&json!([]), &json!(2)));
    server.stop();
}
