//! What a worker that is aborted leaves in the log: where its loop stood. The abort is the master's, an operator's, or its own.

use nix::sys::signal::Signal;

use crate::support::http::{Client, Request};
use crate::support::load::{Load, Style};
use crate::support::process::{alive, limit_process, signal, stand_still, stat};
use crate::support::{Backend, PATIENCE, Server, wait_until};

/// What every worker's last words begin with.
const ABORTED: &str = "aborted on thread ";

#[track_caller]
fn serve(backend: &Backend, hang_timeout: &str) -> Server {
    let canvas = backend.canvas().workers(2);
    let mut server = canvas.args(["--hang-timeout", hang_timeout]).start();
    server.allow("worker ");
    server
}

/// What a worker of this pid, which is dead, has said at its end: that it was aborted, and the frames of its stack.
#[track_caller]
fn last_words(server: &Server, pid: i32) -> (String, Vec<String>) {
    server.wait_for_line(&format!("(pid {pid}) ended with SIGABRT"));
    let own = format!("[{pid}] worker ");
    let mut lines = server.lines_with(&own);
    let start = lines.iter().position(|line| line.contains(ABORTED));
    let start = start.unwrap_or_else(|| panic!("no last words of {pid}: {}", server.log_text()));
    let frames = lines.split_off(start + 1);
    (lines.remove(start), frames)
}

fn names(frames: &[String], what: &str) -> bool {
    frames.iter().any(|frame| frame.contains(what))
}

/// The frame after this one, outwards.
#[track_caller]
fn assert_within(frames: &[String], inner: &str, outer: &str) {
    let at = |what: &str| frames.iter().rposition(|frame| frame.contains(what));
    let (inner_at, outer_at) = (at(inner), at(outer));
    assert!(
        inner_at.is_some() && inner_at < outer_at,
        "{inner} is not within {outer}: {frames:#?}"
    );
}

#[test]
fn an_idle_worker_tells_that_its_loop_waits_for_events() {
    let backend = Backend::sqlite();
    let server = serve(&backend, "10m");
    for worker in server.workers() {
        // The abort comes to whatever the worker did when it stopped, as the master's does.
        stand_still(worker);
        signal(worker, Signal::SIGABRT);
        signal(worker, Signal::SIGCONT);
        let (line, frames) = last_words(&server, worker);
        assert!(
            line.contains("thread scheduler;") && line.contains(" +0x"),
            "{line}"
        );
        assert!(
            !names(&frames, "last_words"),
            "the handler's own: {frames:#?}"
        );
        assert_within(&frames, "epoll_wait", "may::");
        assert!(names(&frames, "/scheduler.rs:"), "{frames:#?}");
    }
    wait_until(PATIENCE, "two other workers", || {
        server.workers().len() == 2
    });
    server.get("/healthz").expect(200);
}

/// The stack that is told is the coroutine's, not only the scheduler's own.
#[test]
fn a_busy_worker_tells_which_work_it_was_at() {
    let backend = Backend::sqlite();
    let server = serve(&backend, "10m");
    // A worker is between two requests at times, so it may take some until one is caught at work.
    let mut last = Vec::new();
    for _ in 0..20 {
        let load = Load::start(
            server.address(),
            Style::KeepAlive,
            8,
            vec![Request::new("GET", "/healthz")],
        );
        load.wait_for_answers(100);
        let worker = *server.workers().first().expect("a worker");
        // Several in a row are told once.
        for _ in 0..5 {
            signal(worker, Signal::SIGABRT);
        }
        (_, last) = last_words(&server, worker);
        let own = format!("[{worker}] worker ");
        let told = server.lines_with(&own);
        let told = told.iter().filter(|line| line.contains(ABORTED));
        assert_eq!(told.count(), 1);
        load.stop();
        wait_until(PATIENCE, "another worker", || {
            server.workers().len() == 2 && alive(*server.workers().first().expect("a worker"))
        });
        if names(&last, "canvas_cluster::http::connection::") {
            assert!(names(&last, "src/http/connection.rs:"), "{last:#?}");
            return;
        }
    }
    panic!("no worker was caught at work: {last:#?}");
}

/// Whether the kernel keeps a SIGABRT for the process (proc_pid_status(5)).
fn has_abort_pending(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    pending.is_some_and(|set| set & 1 << (Signal::SIGABRT as u64 - 1) != 0)
}

#[test]
fn the_masters_abort_of_a_worker_that_hangs_is_heard_by_its_loop() {
    let backend = Backend::sqlite();
    let server = serve(&backend, "1s");
    let mut told = None;
    wait_until(
        PATIENCE,
        "a worker to be aborted and not yet killed",
        || {
            let Some(worker) = server.workers().first().copied() else {
                return false;
            };
            stand_still(worker);
            wait_until(PATIENCE, "the master to abort it", || {
                has_abort_pending(worker) || !alive(worker)
            });
            // Before its SIGKILL follows, which a busy machine may not leave time for.
            stand_still(server.master());
            let caught = stat(worker).is_some_and(|stat| stat.state == 'T');
            signal(worker, Signal::SIGCONT);
            wait_until(PATIENCE, "its end", || !alive(worker));
            signal(server.master(), Signal::SIGCONT);
            told = caught.then_some(worker);
            caught
        },
    );
    let worker = told.expect("set by the wait");
    let (line, frames) = last_words(&server, worker);
    assert!(line.contains(ABORTED), "{line}");
    assert_within(&frames, "epoll_wait", "may::");
    let hung = server.lines_with(&format!("(pid {worker}) hangs"));
    assert_eq!(hung.len(), 1, "{hung:?}");
}

/// abort(3) is the worker's own, from Rust's runtime, on whatever thread it happens.
#[test]
fn a_worker_without_memory_tells_who_wanted_it() {
    let backend = Backend::sqlite();
    let mut server = backend.canvas().workers(1).start();
    server.allow("worker ");
    server.allow("lane");
    let worker = server.only_worker();
    // Each of them has a stack by then, so that they can go on.
    const BODY: usize = 60_000;
    let head = format!(
        "POST /api/images/ HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {BODY}\r\n"
    );
    let mut clients: Vec<Client> = (0..200).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send_raw(head.as_bytes()).expect("half of a request");
    }
    server.wait_until_read(&clients);
    // Less than it has: from now on the kernel gives it none. (An arena's address space is there already.)
    limit_process(worker, "--data=1048576:1048576");
    for client in &mut clients {
        // Only a worker that has died resets one.
        let _ = client.send_raw(b"\r\n");
        let _ = client.send_raw(&vec![b' '; BODY - 1]);
    }
    let (line, _) = last_words(&server, worker);
    server.wait_for_line("memory allocation of ");
    assert!(line.contains(" +0x"), "{line}");
}

/// A fault, or a signal that says so: one is enough, and it is told where. The coroutine runtime's own handlers would let the first
/// two that are sent pass.
#[test]
fn a_crash_is_told_and_ends_the_worker() {
    let backend = Backend::sqlite();
    let server = serve(&backend, "10m");
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        let worker = *server.workers().first().expect("a worker");
        signal(worker, fault);
        server.wait_for_line(&format!("(pid {worker}) ended with {fault}"));
        let told = server.lines_with(&format!("[{worker}] worker "));
        assert!(
            told.iter()
                .any(|line| line.contains(&format!("crashed with {fault} on thread "))),
            "{told:#?}"
        );
        wait_until(PATIENCE, "another worker", || server.workers().len() == 2);
    }
}
