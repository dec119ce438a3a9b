//! Slow clients: each phase of a request has its own end, and drips don't move it.

use std::time::{Duration, Instant};

use crate::support::{BODY_RATE, HEAD, IDLE, LARGE, Raw, WRITE, door, expected, hold_the_thread};

/// Long enough for an idle connection to be in the lobby, and shorter than its patience.
const IN_THE_LOBBY: Duration = Duration::from_millis(1500);

/// Sends a byte every few milliseconds until the server has had enough; how long that took, and its answer.
fn drip(start: &[u8], byte: u8) -> (Duration, String) {
    let mut raw = Raw::connect();
    raw.send(start);
    let began = Instant::now();
    let answer = std::thread::scope(|scope| {
        let mut sender = raw.another_handle();
        scope.spawn(move || {
            while sender.try_send(&[byte]) {
                std::thread::sleep(Duration::from_millis(5))
            }
        });
        raw.rest()
    });
    (began.elapsed(), answer)
}

#[test]
fn a_head_that_drips_is_answered_408_at_its_deadline() {
    let (took, answer) = drip(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b'x');
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(took >= HEAD, "{took:?}");
}

#[test]
fn a_body_below_the_minimum_rate_is_answered_408() {
    // 200 bytes a second at most, where BODY_RATE are asked for.
    const { assert!(BODY_RATE > 200) };
    let (took, answer) = drip(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n",
        b'x',
    );
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(took >= HEAD, "{took:?}");
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let mut fresh = Raw::connect();
    let mut used = Raw::connect();
    used.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(used.response(), expected("200 OK", "GET / []", false));
    let began = Instant::now();
    assert_eq!(fresh.rest(), "");
    assert_eq!(used.rest(), "");
    assert!(
        began.elapsed() + Duration::from_millis(200) >= IDLE,
        "{:?}",
        began.elapsed()
    );
}

/// After a second without a request a connection waits in the lobby, without a coroutine. Nobody can tell.
#[test]
fn a_connection_comes_back_from_the_lobby_with_its_next_request() {
    let mut raw = Raw::connect();
    for round in 0..2 {
        raw.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            raw.response(),
            expected("200 OK", "GET /x []", false),
            "round {round}"
        );
        std::thread::sleep(IN_THE_LOBBY);
    }
    // In two pieces, the first of which brings it back.
    raw.send(b"GET /y HTTP/1.1\r\nHo");
    std::thread::sleep(Duration::from_millis(50));
    raw.send(b"st: a\r\nConnection: close\r\n\r\n");
    assert_eq!(raw.rest(), expected("200 OK", "GET /y []", true));
}

#[test]
fn a_client_that_leaves_the_lobby_is_noticed() {
    let watch = door().1;
    let mut clients: Vec<Raw> = (0..50).map(|_| Raw::connect()).collect();
    for client in &mut clients {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response();
    }
    std::thread::sleep(IN_THE_LOBBY);
    assert!(watch.open() >= 50, "those in the lobby are open");
    drop(clients);
    let began = Instant::now();
    while watch.open() > 20 {
        assert!(
            began.elapsed() < IDLE / 2,
            "{} are still open",
            watch.open()
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_client_that_does_not_read_delays_nobody_and_is_let_go() {
    let mut greedy = Raw::connect();
    greedy.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut bystander = Raw::connect();
    bystander.send(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(bystander.response(), expected("200 OK", "GET /b []", false));
    let received = greedy.drain_after(Duration::from_secs(4));
    assert!(
        received < LARGE,
        "the whole answer was kept for a client that did not read"
    );
}

/// The time to write was for the whole answer, so that a large one over a slow line was cut off in the middle.
#[test]
fn a_client_that_reads_slowly_but_steadily_gets_all_of_a_large_answer() {
    let mut slow = Raw::connect();
    slow.send(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let began = Instant::now();
    let received = slow.drain_slowly(64 * 1024, Duration::from_millis(20));
    assert!(
        received > LARGE,
        "{received} bytes in {:?}",
        began.elapsed()
    );
    assert!(began.elapsed() > 2 * WRITE, "{:?}", began.elapsed());
}

/// A client whose next request is always there never waits: its connection would keep the thread until the last one.
#[test]
fn a_client_that_never_pauses_lets_others_have_their_turn() {
    const REQUESTS: usize = 300;
    let (mut greedy, mut bystander) = (Raw::connect(), Raw::connect());
    for client in [&mut greedy, &mut bystander] {
        client.send(b"GET /known HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response();
    }
    // The thread is held while both clients send, so that it finds everything there at once, the greedy one's first.
    let held = hold_the_thread();
    greedy.send(&b"GET /counted HTTP/1.1\r\nHost: a\r\n\r\n".repeat(REQUESTS));
    bystander.send(b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n");
    held.let_go();
    let answer = bystander.response();
    let (_, count) = answer.rsplit_once("\r\n").expect("a head");
    let count: usize = count.parse().expect("a number");
    assert!(
        count < REQUESTS,
        "all {count} requests of one client came before another one's first"
    );
    greedy.finish();
    assert_eq!(greedy.rest().matches("\r\nServer: ").count(), REQUESTS);
}

#[test]
fn connections_that_ended_leave_nothing_behind() {
    let watch = door().1;
    let mut clients: Vec<Raw> = (0..50).map(|_| Raw::connect()).collect();
    for client in &mut clients {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response();
    }
    assert!(watch.open() >= 50);
    drop(clients);
    let began = Instant::now();
    // Other tests of this binary hold a few of their own.
    while watch.open() > 20 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{} are still open",
            watch.open()
        );
        std::thread::yield_now();
    }
}
