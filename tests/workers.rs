//! What becomes of connections when a worker hangs, keeps dying, or has served long enough; and how many workers there are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::control::status;
use crate::support::http::{Client, Request};
use crate::support::load::{Load, Style};
use crate::support::process::{alive, signal, stand_still, stat, wait_for_cpu};
use crate::support::sockets::{
    listening_inodes, queue_length, server_ends, socket_inodes, watched_inodes,
};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

/// More connections than ever reach the queue of one of two workers alone.
const MANY: usize = 40;

fn healthz() -> Vec<Request> {
    vec![Request::new("GET", "/healthz")]
}

/// Every one of many new connections is answered.
#[track_caller]
fn assert_all_are_answered(server: &Server) {
    let mut clients: Vec<_> = (0..MANY).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.get("/healthz").expect("an answer").expect(200);
    }
}

/// The listener of which a worker looks after the queue, by its inode: the others' it only holds.
#[track_caller]
fn own_listener(server: &Server, worker: i32) -> u64 {
    let listeners = socket_inodes(server.master());
    let mut own = watched_inodes(worker).into_iter();
    own.find(|inode| listeners.contains(inode))
        .expect("a listener that the worker watches")
}

/// Connects until a connection waits in this listener's queue, whose worker does not accept; how long its first answer took
/// from the connect on.
#[track_caller]
fn time_of_one_in_queue(server: &Server, listener: u64) -> Duration {
    for _ in 0..1000 {
        let began = Instant::now();
        let mut client = server.connect();
        client.send_raw(&healthz()[0].bytes()).expect("a request");
        // The kernel has it in one queue or the other before connect(2) returns, and nobody accepts from this one but a
        // sibling at its tick.
        let waits = queue_length(listener) > 0;
        client.receive(true).expect("an answer").expect(200);
        if waits {
            return began.elapsed();
        }
    }
    panic!("none of many connections has reached the queue");
}

/// What is promised, and what a machine that is busy may make of it once or twice. Without siblings that look, nobody comes for
/// minutes.
const PROMISED: Duration = Duration::from_millis(250);
const MUCH_TOO_LONG: Duration = Duration::from_secs(10);

#[test]
fn what_waits_in_the_queue_of_a_worker_that_hangs_is_answered_by_a_sibling() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--hang-timeout", "10m"])
        .start();
    let stopped = *server.workers().first().expect("a worker");
    let listener = own_listener(&server, stopped);
    let mut times = Vec::new();
    for _ in 0..10 {
        // It has just looked after its queue: it takes the longest until it is missed.
        stand_still(stopped);
        times.push(time_of_one_in_queue(&server, listener));
        assert_eq!(stat(stopped).map(|stat| stat.state), Some('T'));
        signal(stopped, Signal::SIGCONT);
        wait_until(PATIENCE, "both workers to serve again", || {
            server.answering_workers().contains(&stopped)
        });
    }
    times.sort_unstable();
    println!("connections in the queue of a worker that hangs were answered after {times:?}");
    assert!(times[times.len() / 2] <= PROMISED, "{times:?}");
    assert!(times[times.len() - 1] < MUCH_TOO_LONG, "{times:?}");
}

#[test]
fn while_a_worker_hangs_its_siblings_take_from_its_queue() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--hang-timeout", "10m"])
        .start();
    let stopped = *server.workers().first().expect("a worker");
    stand_still(stopped);
    assert_all_are_answered(&server);
    assert!(alive(stopped), "nobody may have ended it yet");
    signal(stopped, Signal::SIGCONT);
    wait_until(PATIENCE, "both workers to serve again", || {
        server.answering_workers().contains(&stopped)
    });
}

#[test]
fn a_worker_that_hangs_is_ended_and_replaced() {
    let backend = Backend::sqlite();
    let mut server = backend
        .canvas()
        .workers(2)
        .args(["--hang-timeout", "1s"])
        .start();
    server.allow("hangs");
    server.allow("killing worker");
    server.allow("SIG");
    let hung = *server.workers().first().expect("a worker");
    signal(hung, Signal::SIGSTOP);
    let line = server.wait_for_line("hangs: its loop has not moved");
    assert!(line.contains(&format!("(pid {hung})")), "{line}");
    assert!(line.contains("lane-0"), "the threads are told: {line}");
    wait_until(PATIENCE, "another worker in its place", || {
        let workers = server.workers();
        workers.len() == 2 && !workers.contains(&hung)
    });
    assert_all_are_answered(&server);
}

/// Whom the kernel holds, as on a disk that does not answer, SIGKILL ends late or never. The dead whom a debugger has not waited for
/// are as good: their parent does not see them die.
#[test]
fn a_worker_that_does_not_die_is_gone_on_without() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let mut server = backend
        .canvas()
        .workers(2)
        .args(["--hang-timeout", "3s"])
        .start();
    for known in ["hangs", "killing worker", "does not die"] {
        server.allow(known);
    }
    let held = *server.workers().first().expect("a worker");
    // Its backtrace.
    server.allow(&format!("[{held}]"));
    let tracee = Pid::from_raw(held);
    ptrace::seize(tracee, ptrace::Options::empty()).expect("a worker that is ours to trace");
    signal(held, Signal::SIGSTOP);
    let line = server.wait_for_line("was killed and does not die");
    assert!(line.contains(&format!("(pid {held})")), "{line}");
    wait_until(PATIENCE, "another worker in its place", || {
        server.answering_workers().len() == 2
    });
    assert_all_are_answered(&server);
    // Changes wait for it no more.
    let before = server.answering_workers();
    server.signal(Signal::SIGHUP);
    server.wait_for_line("reloaded: generation 2");
    assert!(server.answering_workers().is_disjoint(&before));
    // It was stopped before it was killed, so there is its stop to hear of as well, or only its end.
    while let Ok(WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)) = waitpid(tracee, None) {
        // It may have died meanwhile.
        let _ = ptrace::cont(tracee, None);
    }
    server.wait_for_line("is dead at last");
}

#[test]
fn the_queue_of_a_slot_that_keeps_dying_is_served_by_others() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let mut server = backend.serve(2);
    server.allow("ended with SIGKILL");
    // Some are dead before they are ready.
    server.allow("degraded");
    let steady = *server.workers().last().expect("a worker");
    let mortal = *server.workers().first().expect("a worker");
    let listener = own_listener(&server, mortal);
    // Each death doubles the pause before the next try: it ends near three seconds.
    for _ in 0..7 {
        let mut next = None;
        wait_until(PATIENCE, "the other slot's next worker", || {
            next = server
                .workers()
                .into_iter()
                .find(|worker| *worker != steady);
            next.is_some()
        });
        let next = next.expect("set by the wait");
        signal(next, Signal::SIGKILL);
        wait_until(PATIENCE, "its end", || !alive(next));
    }
    let time = time_of_one_in_queue(&server, listener);
    assert_all_are_answered(&server);
    assert_eq!(server.workers().len(), 1, "it came back too early to tell");
    println!("a connection in the queue of a dead worker was answered after {time:?}");
    wait_until(PATIENCE, "it to come back", || server.workers().len() == 2);
}

/// What the signal table does not name, or names for the master alone, touches nobody.
#[test]
fn signals_that_mean_nothing_here_are_ignored() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let workers = server.workers();
    let loads = [Style::KeepAlive, Style::ConnectionPerRequest]
        .map(|style| (style, Load::start(server.address(), style, 3, healthz())));
    for _ in 0..3 {
        signal(server.master(), Signal::SIGWINCH);
        for worker in &workers {
            for which in [
                Signal::SIGHUP,
                Signal::SIGINT,
                Signal::SIGUSR2,
                Signal::SIGWINCH,
            ] {
                signal(*worker, which);
            }
        }
        for (_, load) in &loads {
            load.wait_for_answers(100);
        }
    }
    // The master has looked at its signals before it answers, so nothing was begun and nothing is to come.
    let now = status(&backend);
    assert_eq!(
        (&now["phase"], &now["generation"], &now["changes"]),
        (&json!("serving"), &json!(1), &json!([])),
        "{now}"
    );
    assert_eq!(server.answering_workers(), workers);
    for (style, load) in loads {
        let tally = load.stop();
        tally.report(&format!("signals that are ignored, {style:?}"));
        tally.assert_all_ok();
    }
    assert_eq!(server.workers(), workers);
}

#[test]
fn workers_come_and_go_by_signal_without_a_lost_request() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let load = Load::start(server.address(), style, 4, healthz());
        for (which, count) in [
            (Signal::SIGTTIN, 3),
            (Signal::SIGTTIN, 4),
            (Signal::SIGTTOU, 3),
            (Signal::SIGTTOU, 2),
        ] {
            let before = server.log_length();
            server.signal(which);
            server.wait_for_line_after(before, &format!(", {count} workers"));
            load.wait_for_answers(50);
            wait_until(PATIENCE, "as many workers", || {
                server.workers().len() == count
            });
        }
        let tally = load.stop();
        tally.report(&format!("TTIN and TTOU, {style:?}"));
        tally.assert_all_ok();
    }
    server.signal(Signal::SIGTTOU);
    wait_until(PATIENCE, "one worker", || server.workers().len() == 1);
    // And there is always one.
    server.signal(Signal::SIGTTOU);
    server.wait_for_line("1 workers it stays, for");
    assert_all_are_answered(&server);
    // The configuration's own number counts from the next reload on.
    server.reload(2);
}

/// The kernel spreads connections over all sockets that listen: with one that no worker watches, its part of them would wait until a
/// sibling looks.
#[test]
fn no_socket_is_without_a_worker_while_their_number_changes() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--roll-pause", "200ms"])
        .start();
    let unwatched = || {
        let listening = listening_inodes(server.address());
        let watched: BTreeSet<u64> = server
            .workers()
            .into_iter()
            .flat_map(watched_inodes)
            .collect();
        &listening - &watched
    };
    assert_eq!(listening_inodes(server.address()).len(), 2);
    // The second time there is a socket more than workers already.
    for (which, count) in [
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTOU, 2),
    ] {
        let before = server.workers();
        server.signal(which);
        wait_until(PATIENCE, "every worker to be replaced", || {
            // Who comes may be looked at before it has begun, and who goes after it has left: not twice.
            let seen = unwatched();
            let still = &seen & &unwatched();
            assert!(still.is_empty(), "{} to {count}: {still:?}", before.len());
            let now = server.workers();
            now.is_disjoint(&before) && now.len() == count
        });
        assert_eq!(listening_inodes(server.address()).len(), 3);
    }
}

#[test]
fn a_worker_that_has_served_enough_is_relieved_without_a_lost_request() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--max-requests", "300"])
        .start();
    let first = server.workers();
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let load = Load::start(server.address(), style, 4, healthz());
        load.wait_for_answers(3000);
        let tally = load.stop();
        tally.report(&format!("300 requests a worker, {style:?}"));
        tally.assert_all_ok();
    }
    wait_until(PATIENCE, "the first workers to be gone", || {
        let now = server.workers();
        now.len() == 2 && now.is_disjoint(&first)
    });
    assert!(!server.lines_with("has reached its limit").is_empty());
}

#[test]
fn a_worker_that_has_grown_too_large_is_relieved() {
    let backend = Backend::sqlite();
    // Smaller than any worker ever is: each is relieved as soon as it has looked.
    let server = backend
        .canvas()
        .workers(1)
        .args(["--max-worker-rss", "1MiB"])
        .start();
    let first = server.workers();
    wait_until(PATIENCE, "another worker", || {
        server.workers().is_disjoint(&first)
    });
    server.get("/healthz").expect(200);
}

/// How many of these connections each worker holds.
fn shares(server: &Server, clients: &[Client]) -> Vec<usize> {
    let ends = server_ends(server.address());
    let of = |worker: &i32| {
        let held = socket_inodes(*worker);
        let is_held = |client: &&Client| {
            let end = ends.get(&client.local_address().port());
            end.is_some_and(|end| held.contains(&end.inode))
        };
        clients.iter().filter(is_held).count()
    };
    server.workers().iter().map(of).collect()
}

/// How many connections each worker holds of so many that are made at once, or one by one.
fn shares_of_new_connections(server: &Server, count: usize, at_once: bool) -> Vec<usize> {
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..count {
        let mut client = server.connect();
        if !at_once {
            client.get("/healthz").expect("an answer").expect(200);
        }
        clients.push(client);
    }
    for client in &mut clients {
        client.get("/healthz").expect("an answer").expect(200);
    }
    let shares = shares(server, &clients);
    let ports: Vec<u16> = clients
        .iter()
        .map(|client| client.local_address().port())
        .collect();
    drop(clients);
    wait_until(PATIENCE, "the clients to be gone", || {
        let ends = server_ends(server.address());
        ports.iter().all(|port| !ends.contains_key(port))
    });
    shares
}

#[test]
fn few_long_connections_are_spread_evenly() {
    const CONNECTIONS: usize = 64;
    const WORKERS: usize = 4;
    /// Who gets no CPU for 150 ms is taken for absent, and its connections are others': as it should be, and not what
    /// is looked at here.
    const STARVED: Duration = Duration::from_millis(100);
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(WORKERS);
    let waited = || -> Vec<Duration> {
        let workers = server.workers().into_iter();
        workers.map(wait_for_cpu).collect()
    };
    for at_once in [true, false, true, false] {
        let fed = (0..20).find_map(|_| {
            let before = waited();
            let shares = shares_of_new_connections(&server, CONNECTIONS, at_once);
            let starved = std::iter::zip(before, waited())
                .any(|(before, after)| after.saturating_sub(before) > STARVED);
            (!starved).then_some(shares)
        });
        let shares = fed.expect("a moment in which the machine has time for four workers");
        assert_eq!(shares.iter().sum::<usize>(), CONNECTIONS);
        let busiest = *shares.iter().max().expect("some workers");
        assert!(
            4 * busiest * WORKERS <= 5 * CONNECTIONS,
            "more than a quarter above the mean: {shares:?}"
        );
    }
}
