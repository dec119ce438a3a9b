//! Master and workers: what happens when one is killed, when the program is started twice, and at a first start.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::http::{Client, Request, Trouble};
use crate::support::load::{Load, Style};
use crate::support::process::{alive, children, signal, stat};
use crate::support::shoes::{create, draft, list_target, post};
use crate::support::{Backend, Canvas, Dir, PATIENCE, Server, alone, wait_until};

/// Reads of some shoes that are there and some that aren't.
fn reads() -> Vec<Request> {
    (1..40)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect()
}

#[test]
fn each_worker_serves() {
    let backend = Backend::sqlite();
    let server = backend.serve(4);
    assert_eq!(server.announced_workers(), 4);
    assert_eq!(server.workers().len(), 4);
    assert_eq!(server.lines_with("ready: ").len(), 1);
    server.one_client_per_worker();
}

#[test]
fn workers_are_spread_over_the_cpus() {
    let affinity = |pid: i32| -> String {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live worker");
        let line = status
            .lines()
            .find(|line| line.starts_with("Cpus_allowed_list:"))
            .expect("the CPUs of a process");
        line.split_whitespace()
            .last()
            .unwrap_or_default()
            .to_owned()
    };
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = Backend::sqlite();
    let server = backend.canvas().args(["--workers", "auto"]).start();
    let workers = server.workers();
    let cpus: BTreeSet<String> = workers.iter().map(|worker| affinity(*worker)).collect();
    assert_eq!(workers.len(), available);
    assert_eq!(cpus.len(), available, "workers share CPUs: {cpus:?}");
    // The thread that runs the coroutines is the one that counts: may's own pinning would put all on one CPU.
    for worker in workers {
        for thread in std::fs::read_dir(format!("/proc/{worker}/task"))
            .expect("a live worker")
            .flatten()
        {
            let thread = thread
                .file_name()
                .to_string_lossy()
                .parse()
                .expect("a thread's number");
            assert_eq!(
                affinity(thread),
                affinity(worker),
                "a thread of {worker} strays"
            );
        }
    }
}

#[test]
fn the_master_keeps_one_thread() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    server.reload(2);
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.master()))
        .expect("a live master")
        .count();
    assert_eq!(threads, 1, "a master that forks must have one thread");
}

#[test]
fn a_killed_worker_is_replaced_and_only_its_connections_fail() {
    let backend = Backend::sqlite();
    let server = backend.serve(4);
    create(&server, 7, &[("img1", "a")]);
    for _ in 0..3 {
        let mut clients = server.one_client_per_worker();
        let (victim, mut cut) = clients.pop().expect("a client");
        signal(victim, Signal::SIGKILL);
        for (worker, client) in &mut clients {
            let answer = client
                .get(&list_target(7))
                .unwrap_or_else(|trouble| panic!("{trouble:?} from {worker}"));
            answer.expect(200);
        }
        assert!(matches!(
            cut.get("/healthz"),
            Err(Trouble::Closed | Trouble::Reset)
        ));
        // Connections that wait in the dead worker's queue are served by its successor.
        for _ in 0..16 {
            server.get(&list_target(7)).expect(200);
        }
        wait_until(PATIENCE, "a new worker in place of the dead one", || {
            let workers = server.workers();
            workers.len() == 4 && !workers.contains(&victim)
        });
        server.one_client_per_worker();
        assert_no_zombies(&server);
    }
}

#[test]
fn a_worker_killed_under_load_costs_its_own_requests_only() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(4);
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let clients = 6;
        let load = Load::start(server.address(), style, clients, reads());
        load.wait_for_answers(100);
        let victim = *server.workers().first().expect("a worker");
        signal(victim, Signal::SIGKILL);
        wait_until(PATIENCE, "a new worker in place of the dead one", || {
            let workers = server.workers();
            workers.len() == 4 && !workers.contains(&victim)
        });
        load.wait_for_answers(200);
        let tally = load.stop();
        tally.report(&format!("a worker is killed, {style:?}"));
        let lost: u64 = tally.trouble.values().sum();
        assert!(
            lost <= clients as u64 && tally.other.is_empty(),
            "more than the dead worker's requests: {tally:?}"
        );
        let kinds: BTreeSet<Trouble> = tally.trouble.keys().map(|(_, trouble)| *trouble).collect();
        assert!(
            kinds.is_subset(&BTreeSet::from([
                Trouble::Closed,
                Trouble::Reset,
                Trouble::Truncated
            ])),
            "{tally:?}"
        );
    }
}

#[test]
fn a_second_instance_on_the_same_address_is_refused() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let address = server.address().to_string();
    let workers = server.workers();
    let second = Backend::sqlite();
    let ended = second
        .canvas()
        .workers(2)
        .args(["--listen", &address])
        .run();
    assert!(matches!(ended.code, Some(100 | 111)), "{ended:?}");
    let ended = ended.naming(&[&address]);
    assert!(
        ended.stderr.contains("another process") || ended.stderr.contains("already"),
        "{ended:?}"
    );
    // Its own address is refused as well if only one of several is taken.
    let ended = second
        .canvas()
        .workers(2)
        .args(["--listen", "127.0.0.1:0", "--listen", &address])
        .run();
    assert!(matches!(ended.code, Some(100 | 111)), "{ended:?}");
    assert_eq!(server.workers(), workers);
    for _ in 0..16 {
        server.get("/healthz").expect(200);
    }
}

#[test]
fn an_address_of_another_program_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let backend = Backend::sqlite();
    let ended = backend
        .canvas()
        .workers(2)
        .args(["--listen", &address])
        .run();
    assert!(matches!(ended.code, Some(100 | 111)), "{ended:?}");
    ended.naming(&[&address]);
}

#[test]
fn it_listens_on_several_addresses() {
    let backend = Backend::sqlite();
    let mut server = backend
        .canvas()
        .workers(2)
        .args(["--listen", "127.0.0.1:0", "--listen", "[::1]:0"])
        .launch_as_it_is();
    server.wait_until_ready();
    assert_eq!(server.addresses().len(), 2);
    for address in server.addresses() {
        Client::connect(*address)
            .expect("a connection")
            .get("/healthz")
            .expect("an answer")
            .expect(200);
    }
}

#[test]
fn sixty_four_workers_start_answer_and_stop() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.canvas().workers(64).args(["--lanes", "1"]).start();
    assert_eq!(server.announced_workers(), 64);
    assert_eq!(server.workers().len(), 64);
    create(&server, 7, &[("img1", "a")]);
    let clients = server.one_client_per_worker();
    assert_eq!(clients.len(), 64);
    for (worker, mut client) in clients {
        let answer = client
            .get(&list_target(7))
            .unwrap_or_else(|trouble| panic!("{trouble:?} from worker {worker}"));
        assert_eq!(answer.expect(200).json()[0]["img1"], "a");
    }
    assert_no_zombies(&server);
    server.stop();
}

/// What is half sent when the master is killed is answered if its rest comes, and two seconds later all workers are to be
/// gone. Answers with when they were, or with nothing if the machine was too busy for the rest to be sent in time.
fn kill_the_master_amid_requests(backend: &Backend) -> Option<Duration> {
    /// A worker gives what is in flight 1.5 s.
    const IN_TIME: Duration = Duration::from_millis(1200);
    const WORKERS: usize = 4;
    let mut server = backend.serve(WORKERS);
    let address = server.address();
    create(&server, 7, &[("img1", "a")]);
    let mut idle = server.connect();
    idle.get("/healthz").expect("an answer").expect(200);
    let requests = [
        Request::new("GET", &list_target(7)).bytes(),
        post(draft(7, &[("img1", "in two parts")])).bytes(),
    ];
    let mut halves: Vec<(Client, &[u8])> = Vec::new();
    for request in &requests {
        let (start, rest) = request.split_at(request.len() - 10);
        let mut client = server.connect();
        client.send_raw(start).expect("the first part");
        halves.push((client, rest));
    }
    server.wait_until_read(halves.iter().map(|(client, _)| client));

    server.kill_master();
    let killed = Instant::now();
    // The two halves may be with any of them.
    wait_until(PATIENCE, "every worker to know", || {
        let told = server.lines_with("the master is gone; finishing what is in flight");
        told.len() == WORKERS
    });
    let answers: Vec<_> = halves
        .iter_mut()
        .map(|(client, rest)| client.send_raw(rest).and_then(|()| client.receive(true)))
        .collect();
    let answered = killed.elapsed();
    let workers = server.seen_workers();
    // The promise is two seconds; a busy machine may take longer, and a worker that waits for its clients takes for ever.
    wait_until(PATIENCE, "the workers to follow their master", || {
        !workers.iter().any(|worker| alive(*worker))
    });
    let gone = killed.elapsed();
    assert!(idle.is_closed());

    let mut next = backend
        .canvas()
        .workers(2)
        .args(["--listen", &address.to_string()])
        .launch_as_it_is();
    next.wait_until_ready();
    assert_eq!(next.address(), address);
    next.get("/healthz").expect(200);

    for (answer, status) in std::iter::zip(answers, [200, 201]) {
        match answer {
            Ok(answer) => {
                let answer = answer.expect(status);
                assert_eq!(answer.header("connection"), Some("close"), "{answer}");
            }
            Err(trouble) => {
                assert!(answered > IN_TIME, "{trouble:?} after {answered:?}");
                return None;
            }
        }
    }
    Some(gone)
}

#[test]
fn workers_do_not_outlive_a_killed_master_and_answer_what_is_in_flight() {
    let backend = Backend::sqlite();
    let gone = (0..5).find_map(|_| kill_the_master_amid_requests(&backend));
    let gone = gone.expect("a moment in which the machine sends ten bytes within a second");
    println!("the workers of a killed master were gone after {gone:?}");
}

#[test]
fn an_idle_connection_is_kept_longer_than_a_slow_head() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--head-timeout", "300ms"])
        .start();
    let mut idle = server.connect();
    idle.get("/healthz").expect("an answer").expect(200);
    // Half a head, begun later than the other connection's silence, is given up by the server: so the time is over.
    let mut slow = server.connect();
    slow.send_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        .expect("half a head");
    slow.receive(true).expect("an answer").problem(408);
    idle.get("/healthz")
        .expect("an idle connection is not a slow head")
        .expect(200);
}

#[test]
fn a_first_start_makes_a_demo_catalogue() {
    let dir = Dir::new();
    let demo = || Canvas::new(dir.path()).workers(4).start();
    let server = demo();
    for shoe in [1, 7, 1000] {
        let rows = server.get(&list_target(shoe)).expect(200).json();
        assert_eq!(rows[0]["shoe_id"], shoe, "{rows}");
    }
    assert_eq!(server.get(&list_target(1001)).expect(200).text(), "[]");
    let id = create(&server, 7, &[("img1", "mine")]);
    server.stop();
    // A second start finds it and adds nothing.
    let server = demo();
    let rows = server.get(&list_target(7)).expect(200).json();
    let mine: Vec<&serde_json::Value> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["img1"] == "mine")
        .collect();
    assert_eq!((mine.len(), &mine[0]["id"]), (1, &id.json()), "{rows}");
    assert_eq!(
        rows.as_array().unwrap().len(),
        2,
        "the demo was made twice: {rows}"
    );
}

#[test]
fn a_unit_keeps_its_demo_in_the_state_directory() {
    let dir = Dir::new();
    let state = dir.join("state");
    std::fs::create_dir(&state).expect("a folder");
    let canvas = Canvas::new(dir.path())
        .workers(1)
        .env("STATE_DIRECTORY", state.as_os_str());
    let data_home = canvas.data_home();
    let server = canvas.start();
    server.get(&list_target(7)).expect(200);
    server.stop();
    assert!(
        std::fs::read_dir(&state)
            .expect("a folder")
            .next()
            .is_some(),
        "nothing in $STATE_DIRECTORY"
    );
    assert!(!data_home.exists(), "something in the data folder too");
}

#[track_caller]
fn assert_no_zombies(server: &Server) {
    let zombie = |pid: &i32| stat(*pid).is_some_and(|stat| stat.state == 'Z');
    wait_until(PATIENCE, "the master to reap its dead workers", || {
        !children(server.master()).iter().any(zombie)
    });
}
