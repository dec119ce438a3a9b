//! A reload that fails when its first worker serves already: what served before comes back, and whoever asked is told.

use std::thread;

use serde_json::json;

use crate::control::{configure, ctl, status};
use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::manager::Manager;
use crate::support::postgres::Postgres;
use crate::support::{Backend, PATIENCE, alone, wait_until};

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
