//! A panic in a handler costs its connection and nothing else; in a coroutine that serves all, it costs the worker.

use std::process::Command;
use std::time::Duration;

use canvas_cluster::config::LogFormat;
use canvas_cluster::scoreboard::counters::Counter;
use canvas_cluster::worker::EXIT_FAILED;
use canvas_cluster::worker::panics::{log_panics, start_vital};
use log::LevelFilter;

use crate::support::{LOG, Raw, SLOT, board, expected};

#[test]
fn a_panic_is_answered_500_logged_and_closes_only_its_connection() {
    let mut bystander = Raw::connect();
    bystander.send(b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        bystander.response(),
        expected("200 OK", "GET /before []", false)
    );
    let counted = board().total(Counter::Panics);
    // A message that is written out, one that is put together, and none.
    let cases = [
        ("/panic/admit", "on purpose, in admit"),
        ("/panic/answer", "on purpose, in answer"),
        ("/panic/wordless", "(no message)"),
    ];
    for (path, message) in cases {
        let mut raw = Raw::connect();
        // What follows on the connection is not answered.
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        raw.send(format!("{request}GET /next HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(
            raw.rest(),
            expected("500 Internal Server Error", "fault", true),
            "{path}"
        );
        let start = format!("ERROR worker {SLOT}: panicked at tests/wire/support.rs:");
        let lines: Vec<String> = LOG
            .lines()
            .into_iter()
            .filter(|line| line.starts_with(&start) && line.ends_with(&format!(": {message}")))
            .collect();
        assert_eq!(lines.len(), 1, "{path}: {:?}", LOG.lines());
        assert!(!lines[0].contains('\n'), "{lines:?}");
    }
    bystander.send(b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        bystander.response(),
        expected("200 OK", "GET /after []", false)
    );
    // Nothing else panics in this process.
    assert_eq!(board().total(Counter::Panics), counted + 3);
}

/// This test calls itself: the process that ends must not be the one that looks on.
#[test]
fn a_panic_in_a_vital_coroutine_ends_the_worker() {
    const WORKER: &str = "CANVAS_TEST_VITAL_PANIC";
    const NAME: &str = "panics::a_panic_in_a_vital_coroutine_ends_the_worker";
    if std::env::var_os(WORKER).is_some() {
        return be_a_worker_that_panics();
    }
    let ended = Command::new(std::env::current_exe().expect("this test binary"))
        .args(["--exact", NAME, "--nocapture"])
        .env(WORKER, "1")
        .output()
        .expect("a second run of this test");
    let log = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(EXIT_FAILED), "{log}");
    assert!(
        log.contains(&format!("worker {SLOT}: panicked at tests/wire/panics.rs:")),
        "{log}"
    );
    assert!(log.contains(": a vital one, on purpose\n"), "{log}");
}

/// As `worker::run` begins, with its real log. Comes back only if the panic does not end the process.
fn be_a_worker_that_panics() {
    canvas_cluster::logging::start(LevelFilter::Info, LogFormat::Text);
    log_panics(SLOT);
    may::config()
        .set_workers(1)
        .set_stack_size(16 * 1024)
        .set_worker_pin(false);
    start_vital(|| panic!("a vital one, on purpose")).expect("a stack");
    // The panic ends this process. One that it does not end must end all the same.
    std::thread::sleep(Duration::from_secs(20));
}
