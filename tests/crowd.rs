//! Many connections at once: what an idle one costs, and what happens when there is no room for more.

use std::time::Duration;

use crate::support::http::Client;
use crate::support::process::{anonymous_rss, cpu_ticks, limit_process, pss, raise_own_limit};
use crate::support::shoes::{create, list_target};
use crate::support::{Backend, PATIENCE, alone, wait_until};

#[test]
fn ten_thousand_idle_connections_cost_at_most_8_kib_each() {
    const CROWD: usize = 10_000;
    const KIB_EACH: i64 = 8;
    let _machine = alone();
    raise_own_limit(CROWD as u64 + 1000);
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    create(&server, 7, &[("img1", "a")]);
    let worker = server.only_worker();
    let before = pss(worker);
    let mut crowd: Vec<Client> = Vec::with_capacity(CROWD);
    for _ in 0..CROWD {
        let mut client = server.connect();
        client.get(&list_target(7)).expect("an answer").expect(200);
        crowd.push(client);
    }
    wait_until(PATIENCE, "the crowd to cost little", || {
        pss(worker) - before <= KIB_EACH * CROWD as i64
    });
    for client in crowd.iter_mut().step_by(1000) {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    drop(crowd);
    wait_until(PATIENCE, "the memory to be given back", || {
        pss(worker) - before <= KIB_EACH * CROWD as i64 / 4
    });
    server.get(&list_target(7)).expect(200);
}

/// What busy connections had on the heap lay between what others kept, and the allocator kept 4.7 KiB for each of them for
/// ever after: 87 MiB for 19,000.
#[test]
fn a_busy_crowd_that_has_gone_leaves_little() {
    const CROWD: usize = 6_000;
    // The worker keeps 256 stacks, whose touched pages are up to 20 KiB, and 512 buffers of 4 KiB.
    const SPARE_KIB: i64 = 8 * 1024;
    let _machine = alone();
    raise_own_limit(CROWD as u64 + 1000);
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--head-timeout", "5m"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    let worker = server.only_worker();
    let before = anonymous_rss(worker);
    let half = format!("GET {} HTTP/1.1\r\nHost: a\r\n", list_target(7));
    let mut crowd: Vec<Client> = Vec::with_capacity(CROWD);
    for _ in 0..CROWD {
        let mut client = server.connect();
        client.send_raw(half.as_bytes()).expect("half of a head");
        crowd.push(client);
    }
    // Each has touched a page of its stack and a buffer.
    wait_until(PATIENCE, "the crowd to be busy", || {
        anonymous_rss(worker) - before >= 8 * CROWD as i64
    });
    for client in &mut crowd {
        client.send_raw(b"\r\n").expect("the rest of the head");
    }
    for client in &mut crowd {
        client.receive(true).expect("an answer").expect(200);
    }
    drop(crowd);
    wait_until(PATIENCE, "the memory to be given back", || {
        anonymous_rss(worker) - before <= SPARE_KIB + CROWD as i64 / 2
    });
    server.get(&list_target(7)).expect(200);
}

/// accept(2) fails with EMFILE for as long as the queue is not empty: a loop that tries again at once burns a CPU.
#[test]
fn without_descriptors_accepting_pauses_and_others_are_served() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    create(&server, 7, &[("img1", "a")]);
    let worker = server.only_worker();
    let mut bystander = server.connect();
    bystander
        .get(&list_target(7))
        .expect("an answer")
        .expect(200);
    let open = std::fs::read_dir(format!("/proc/{worker}/fd"))
        .expect("a process")
        .count();
    let limit = (open + 10).to_string();
    limit_process(worker, &format!("--nofile={limit}:{limit}"));

    let mut waiting: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    let begun = cpu_ticks(worker);
    let window = Duration::from_secs(2);
    let until = std::time::Instant::now() + window;
    let mut served = 0;
    while std::time::Instant::now() < until {
        bystander
            .get(&list_target(7))
            .expect("an answer")
            .expect(200);
        served += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(served > 1, "the bystander was served {served} times");
    let burnt = cpu_ticks(worker) - begun;
    let whole = window.as_millis() as u64 / 10;
    assert!(
        burnt < whole / 2,
        "{burnt} of {whole} ticks of CPU for {served} requests and waiting"
    );

    // Room again: those who waited are served, in their turn.
    waiting.drain(..20);
    let mut last = waiting.pop().expect("one more");
    drop(waiting);
    last.get(&list_target(7)).expect("an answer").expect(200);
}
