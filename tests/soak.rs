//! Hundreds of reloads, changes and deaths in a row, under two loads at once: clients that keep their connections, and
//! clients that make one for each request. Every request that is lost is accounted for, and nothing may gather in the
//! master.
//!
//! `tests/run soak 10` does ten times as much, and prints what was sent and lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::bystander::Bystander;
use crate::support::http::{Request, Trouble};
use crate::support::load::{Load, Style, Tally};
use crate::support::process::{
    alive, anonymous_rss, children, signal, signal_thread, stand_still, stat,
};
use crate::support::shoes::{create, list_target};
use crate::support::sockets::{server_ends, socket_inodes};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

const CLIENTS: usize = 3;

/// How many times as long as in the plain run.
fn factor() -> usize {
    match std::env::var("CANVAS_SOAK_FACTOR") {
        Ok(text) => text.parse().expect("CANVAS_SOAK_FACTOR is a number"),
        Err(_) => 1,
    }
}

fn reads() -> Vec<Request> {
    (1..40)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect()
}

/// Clients of both styles at once.
struct Loads([Load; 2]);

impl Loads {
    fn start(server: &Server) -> Self {
        let start = |style| Load::start(server.address(), style, CLIENTS, reads());
        let loads = Loads([Style::KeepAlive, Style::ConnectionPerRequest].map(start));
        loads.wait_for_answers(50);
        loads
    }

    /// Waits until both have so many more answers.
    #[track_caller]
    fn wait_for_answers(&self, count: u64) {
        for load in &self.0 {
            load.wait_for_answers(count);
        }
    }

    #[track_caller]
    fn stop_and_assert_all_ok(self) -> Tally {
        let mut sum = Tally::default();
        for load in self.0 {
            let tally = load.stop();
            tally.assert_all_ok();
            sum.add(tally);
        }
        sum
    }
}

/// What may gather in a process: descriptors by what they are, and children that nobody has waited for.
fn possessions(server: &Server) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let entries = std::fs::read_dir(format!("/proc/{}/fd", server.master()));
    for entry in entries.expect("a living master").flatten() {
        if let Ok(target) = std::fs::read_link(entry.path()) {
            // What follows are numbers of sockets and pipes that are made anew each time.
            let target = target.to_string_lossy().into_owned();
            let kind = target.split('[').next().unwrap_or_default().to_owned();
            *counts.entry(kind).or_default() += 1;
        }
    }
    let zombie = |pid: &&i32| stat(**pid).is_some_and(|stat| stat.state == 'Z');
    let zombies = children(server.master()).iter().filter(zombie).count();
    counts.insert("zombie".to_owned(), zombies);
    counts
}

#[test]
fn five_hundred_reloads_lose_nothing_and_leave_nothing_behind() {
    /// The master's allocator may keep a page or two more; a leak of 100 bytes a worker would be 100 KiB.
    const GROWTH: i64 = 64;
    const WARM_UP: usize = 50;
    const ROUND: usize = 50;
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    create(&server, 7, &[("img1", "a")]);
    let mut sum = Tally::default();
    let mut before = None;
    let reloads = 500 * factor();
    for round in 0..reloads / ROUND {
        if round * ROUND == WARM_UP {
            before = Some((possessions(&server), anonymous_rss(server.master())));
        }
        // 200 of the 500 meet clients: these have to be answered meanwhile, which is most of the work.
        let loads = (round < reloads / ROUND * 2 / 5).then(|| Loads::start(&server));
        for _ in 0..ROUND {
            server.reload(2);
        }
        if let Some(loads) = loads {
            loads.wait_for_answers(10);
            sum.add(loads.stop_and_assert_all_ok());
        }
    }
    let (possessed, memory) = before.expect("more rounds than the warm-up");
    // The master may not have reaped the last of the old workers yet.
    wait_until(PATIENCE, "only what was open before to be open", || {
        possessions(&server) == possessed
    });
    let grown = anonymous_rss(server.master()) - memory;
    assert!(
        grown <= GROWTH,
        "{reloads} reloads have cost the master {grown} KiB"
    );
    sum.report(&format!("{reloads} reloads, 2 of 5 under load"));
    println!("    the master has grown by {grown} KiB");
}

/// Hang-ups come at every stage of a reload, and of what a worker does at its start and its end.
#[test]
fn a_storm_of_hangups_loses_nothing() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let mut random = seeded();
    let loads = Loads::start(&server);
    let hangups = 200 * factor();
    for _ in 0..hangups {
        server.signal(Signal::SIGHUP);
        // The spacing is what is tested.
        std::thread::sleep(Duration::from_micros(random.u64(0..25_000)));
    }
    loads.wait_for_answers(50);
    let tally = loads.stop_and_assert_all_ok();
    tally.report(&format!("{hangups} hang-ups, 0 to 25 ms apart"));
    // The plan coalesces them, and is as ever afterwards.
    wait_until(PATIENCE, "the storm to pass", || {
        server.workers().len() == 2
    });
    wait_for_calm(&server);
}

/// Waits until no change is under way: a reload is the only one in the log after the signal.
#[track_caller]
fn wait_for_calm(server: &Server) {
    wait_until(PATIENCE, "a reload that nothing disturbs", || {
        let before = server.workers();
        before.len() == 2 && server.answering_workers() == before && server.workers() == before
    });
    server.reload(2);
}

/// Whatever is asked of the master, in whatever order: more and fewer workers, other workers, another program.
#[test]
fn changes_in_any_order_lose_nothing() {
    const CHANGES: [Signal; 4] = [
        Signal::SIGHUP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGUSR2,
    ];
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let mut random = seeded();
    let mut told = BTreeMap::new();
    let loads = Loads::start(&server);
    let changes = 60 * factor();
    for _ in 0..changes {
        let change = CHANGES[random.usize(..CHANGES.len())];
        *told.entry(change.as_str()).or_insert(0) += 1;
        server.signal(change);
        // Some meet the change before them, some its end.
        loads.wait_for_answers(random.u64(1..200));
    }
    let tally = loads.stop_and_assert_all_ok();
    tally.report(&format!("{changes} changes {told:?}"));
    assert!(alive(server.master()));
}

/// Does a change, and waits until it is through.
type Change<'a> = &'a dyn Fn(&Server);

/// What a bystander waits for its answers while workers are replaced, beside what it waits when nothing happens: quiet and loud
/// phases take turns, so that both meet the same machine. What it waits for a CPU, which new workers take at their start, does
/// not count. Reloads pause as they do by default.
#[test]
fn changes_keep_nobody_waiting() {
    /// Two seconds' worth.
    const ANSWERS: usize = 400;
    /// A change is begun after so many, at most.
    const APART: usize = 50;
    const FACTOR: u32 = 3;
    /// Below this the kernel's scheduler decides, and a factor tells nothing.
    const FLOOR: Duration = Duration::from_millis(5);
    /// The neighbours of a shared machine may spoil so many rounds but one.
    const ROUNDS: usize = 6;
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(2)
        .args(["--roll-pause", "1s"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    let replace = |server: &Server, which: Signal, count: usize| {
        let before = server.workers();
        server.signal(which);
        wait_until(PATIENCE, "every worker to be replaced", || {
            let now = server.workers();
            now.is_disjoint(&before) && now.len() == count
        });
    };
    let changes: [(&str, Change<'_>); 3] = [
        ("HUP", &|server| replace(server, Signal::SIGHUP, 2)),
        ("TTIN and HUP", &|server| {
            replace(server, Signal::SIGTTIN, 3);
            replace(server, Signal::SIGHUP, 2);
        }),
        ("USR2", &|server| replace(server, Signal::SIGUSR2, 2)),
    ];
    let bystander = Bystander::follow(&server, &list_target(7));
    bystander.watch(ANSWERS / 4);
    for (name, change) in changes {
        let mut seen = Vec::new();
        let held = (0..ROUNDS).any(|_| {
            let quiet = bystander.watch(ANSWERS).p99();
            let mut count = 0;
            while bystander.seen() < ANSWERS {
                let next = bystander.seen() + APART;
                change(&server);
                count += 1;
                wait_until(PATIENCE, "the bystander's answers", || {
                    bystander.seen() >= next.min(ANSWERS)
                });
            }
            let loud = bystander.end_phase().p99();
            println!("{name} {count} times: p99 {loud:?}, and {quiet:?} before");
            seen.push((quiet, loud));
            loud <= FLOOR.max(quiet * FACTOR)
        });
        assert!(held, "{name}: p99 before and during: {seen:?}");
    }
}

/// What a worker's death may cost: the requests on the connections that it had accepted, one each, and no other.
#[test]
fn deaths_cost_what_the_dead_had_accepted() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let mut server = backend
        .canvas()
        .workers(3)
        .args(["--hang-timeout", "1s"])
        .start();
    for expected in ["SIG", "hangs", "killing worker", "degraded", "] worker "] {
        server.allow(expected);
    }
    let mut random = seeded();
    // With clients that leave no processor to anybody else, a kernel was seen to need half a minute to bury the dead.
    for style in [Style::Paced, Style::ConnectionPerRequest] {
        let mut sum = Tally::default();
        let mut accepted_by_the_dead = 0;
        let deaths = 12 * factor();
        for _ in 0..deaths {
            let workers: Vec<i32> = server.workers().into_iter().collect();
            let load = Load::start(server.address(), style, CLIENTS * 2, reads());
            load.wait_for_answers(30);
            let victim = workers[random.usize(..workers.len())];
            // It stands still, so what it has accepted is all that it will ever have.
            stand_still(victim);
            let owned = socket_inodes(victim);
            let accepted: BTreeSet<u16> = server_ends(server.address())
                .into_iter()
                .filter(|(_, end)| owned.contains(&end.inode))
                .map(|(port, _)| port)
                .collect();
            // Killed at once, or crashed, or left to the master, which finds that it hangs.
            match random.u8(..3) {
                0 => signal(victim, Signal::SIGKILL),
                1 => {
                    // The loop's own thread finds it before it does anything else.
                    signal_thread(victim, "scheduler", Signal::SIGSEGV);
                    signal(victim, Signal::SIGCONT);
                }
                _ => {}
            }
            wait_until(PATIENCE, "another worker in its place", || {
                let workers = server.workers();
                workers.len() == 3 && !workers.contains(&victim)
            });
            load.wait_for_answers(30);
            let tally = load.stop();
            let lost: BTreeSet<u16> = tally.lost_on.iter().copied().collect();
            assert_eq!(lost.len(), tally.lost_on.len(), "two on one connection");
            assert!(tally.other.is_empty(), "{tally:?}");
            match style {
                // Each of them was waiting for an answer, or sent its next request to nobody.
                Style::KeepAlive | Style::Paced => assert_eq!(lost, accepted, "{tally:?}"),
                // Some of them had been answered, and were only not closed yet.
                Style::ConnectionPerRequest => {
                    assert!(lost.is_subset(&accepted), "{lost:?} {accepted:?} {tally:?}");
                }
            }
            assert_eq!(
                tally.trouble.values().sum::<u64>(),
                lost.len() as u64,
                "{tally:?}"
            );
            accepted_by_the_dead += accepted.len();
            sum.add(tally);
            // Otherwise each death would make the next one's successor wait longer.
            server.reload(3);
        }
        sum.report(&format!(
            "{deaths} deaths, {style:?}, {accepted_by_the_dead} accepted by the dead"
        ));
    }
}

/// A crash, which nobody can see coming: at most the one request that each client is waiting for.
#[test]
fn a_crash_costs_each_client_one_request_at_most() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let mut server = backend.serve(3);
    // Its last words, and what the master says.
    for expected in ["] worker ", "SIGSEGV", "degraded"] {
        server.allow(expected);
    }
    let mut random = seeded();
    let mut sum = Tally::default();
    let crashes = 10 * factor();
    for round in 0..crashes {
        // Those without a pause would leave no processor to anybody else, as in the test above.
        let style = [Style::Paced, Style::ConnectionPerRequest][round % 2];
        let workers: Vec<i32> = server.workers().into_iter().collect();
        let load = Load::start(server.address(), style, CLIENTS * 2, reads());
        load.wait_for_answers(30);
        let victim = workers[random.usize(..workers.len())];
        signal(victim, Signal::SIGSEGV);
        wait_until(PATIENCE, "another worker in its place", || {
            let workers = server.workers();
            workers.len() == 3 && !workers.contains(&victim)
        });
        load.wait_for_answers(30);
        let tally = load.stop();
        assert!(tally.other.is_empty(), "{tally:?}");
        assert!(tally.lost_on.len() <= CLIENTS * 2, "{tally:?}");
        let kinds = [Trouble::Closed, Trouble::Reset, Trouble::Truncated];
        assert!(
            tally.trouble.keys().all(|(_, kind)| kinds.contains(kind)),
            "{tally:?}"
        );
        sum.add(tally);
        server.reload(3);
    }
    sum.report(&format!("{crashes} crashes"));
}

/// Another order of things in each run, which a failing test tells.
fn seeded() -> fastrand::Rng {
    let seed = match std::env::var("CANVAS_SOAK_SEED") {
        Ok(text) => text.parse().expect("CANVAS_SOAK_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("again: CANVAS_SOAK_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
