//! Coroutine stacks: the deepest request leaves most of one free, in a debug build and (tests/run) in a release build,
//! and a worker that gets no more of them lets connections wait.

use std::time::{Duration, Instant};

use crate::support::http::{Client, Request};
use crate::support::process::{cpu_ticks, limit_process, raise_own_limit};
use crate::support::shoes::{create, list_target, post};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

/// A coroutine's stack, and the page below it that nothing may touch, in KiB: worker::STACK_WORDS, generator's guard.
const STACK_KIB: u64 = 128;
const GUARD_KIB: u64 = 4;

/// The most that any request may use of a stack, in KiB. Below it lie what a signal, a library's next version or a
/// machine with larger frames may need.
const DEEPEST_KIB: u64 = STACK_KIB / 2;

/// What each stack of a process has ever held at once, in KiB: the pages that were touched, less the lowest one,
/// where the runtime puts a mark. A kept stack keeps its pages.
fn stacks(pid: i32) -> Vec<u64> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process");
    let mut stacks = Vec::new();
    let mut guard_end = None;
    let mut in_stack = false;
    for line in smaps.lines() {
        if let Some((start, end, access)) = mapping(line) {
            let kib = (end - start) / 1024;
            in_stack = access == "rw-p" && kib == STACK_KIB && guard_end == Some(start);
            guard_end = (access == "---p" && kib == GUARD_KIB).then_some(end);
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| in_stack) {
            let kib: u64 = rss.trim().trim_end_matches(" kB").parse().expect("a size");
            stacks.push(kib.saturating_sub(4));
        }
    }
    stacks
}

/// The first line of a mapping in smaps, `START-END ACCESS …`, see proc_pid_smaps(5).
fn mapping(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?, words.next()?))
}

#[track_caller]
fn assert_shallow(worker: i32) {
    let stacks = stacks(worker);
    // The worker has 16 of them from its start: fewer would mean that this test no longer knows a stack when it sees one.
    assert!(stacks.len() >= 16, "{} stacks in smaps", stacks.len());
    let deepest = stacks.into_iter().max().unwrap_or(0);
    println!("the deepest stack held {deepest} KiB of {STACK_KIB}");
    assert!(
        deepest <= DEEPEST_KIB,
        "a stack held {deepest} KiB of its {STACK_KIB}"
    );
}

/// The largest body that settings allow.
const BODY: usize = 1024 * 1024;

/// JSON that is as deep as a body can be, and the other kinds of large ones.
fn bodies() -> Vec<String> {
    let deep = |open: &str, close: &str, around: usize| {
        let levels = (BODY - around) / (open.len() + close.len());
        format!("{}{}", open.repeat(levels), close.repeat(levels))
    };
    let filled = |before: &str, piece: &str, after: &str| {
        let room = BODY - before.len() - after.len();
        format!("{before}{}{after}", piece.repeat(room / piece.len()))
    };
    let mut bodies = vec![
        filled("", "[", ""),
        filled("", r#"{"a":"#, ""),
        filled("", r#"{"img1":["#, ""),
        deep("[", "]", 0),
        deep(r#"{"a":"#, "}", 1).replacen(":}", ":1}", 1),
        deep(r#"{"a":["#, "]}", 0),
    ];
    for key in ["unknown", "shoe_id", "img1", "vid2", "id"] {
        let before = format!(r#"{{"shoe_id":7,"{key}":"#)
            .replace(r#""shoe_id":7,"shoe_id""#, r#""shoe_id""#);
        for (open, close) in [
            ("[", "]"),
            (r#"{"a":[{"b":"#, "}]}"),
            (r#"[{"img1":"#, "}]"),
        ] {
            let nested = deep(open, close, before.len() + 8).replacen(":}", ":1}", 1);
            bodies.push(format!("{before}{nested}}}"));
        }
        bodies.push(filled(
            &format!("{before}\""),
            "\\u00e9\\ud83d\\ude00\\n",
            "\"}",
        ));
        bodies.push(filled(&before, "9", "}"));
        bodies.push(filled(&format!("{before}0."), "1", "e308}"));
    }
    bodies.push(filled("{\"", "\\u0061", "\":1}"));
    bodies.push(filled("{\"shoe_id\":7", " ", "}"));
    bodies.push(filled("{", "\"shoe_id\":7,", "\"shoe_id\":7}"));
    // What is stored in full: nine media of the longest kind, every character escaped.
    let media: Vec<String> = crate::support::shoes::MEDIA
        .iter()
        .map(|name| format!(r#""{name}":"{}""#, "\\ud83d\\ude00".repeat(255)))
        .collect();
    bodies.push(format!(r#"{{"shoe_id":7,{}}}"#, media.join(",")));
    bodies
}

/// Heads at the limits that the server in this test has: 64 KiB, a request line of 32 KiB, 128 fields.
fn heads() -> Vec<Request> {
    let line = 32 * 1024 - "OPTIONS  HTTP/1.1\r\n".len();
    let long = |before: &str, piece: &str, after: &str| {
        let room = line - before.len() - after.len();
        format!("{before}{}{after}", piece.repeat(room / piece.len()))
    };
    let targets = [
        long("/", "%41", ""),
        long("/api/images/", "%2f", "/"),
        long("/api/images/", "0", "1"),
        long("/api/images/?shoe_id=", "%30", "7"),
        long("/api/images/?", "shoe_id=7&", ""),
        long("/api/images/?", "%73", "=7"),
        long("http://a/api/images/?shoe_id=7&", "+", ""),
        "/api/images/?shoe_id=7".to_owned(),
        "/readyz".to_owned(),
        "/".to_owned(),
        "/admin".to_owned(),
        "/shoes/7".to_owned(),
        "/embed.js".to_owned(),
        "/demo/shoes/7/1.svg".to_owned(),
        long("/?shoe_id=7&embed=1&", "%41=+&", ""),
    ];
    let mut heads = Vec::new();
    for target in &targets {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            heads.push(Request::new(method, target));
            let mut full = Request::new(method, target);
            // Host and Content-Length are two of the 128.
            let room = 64 * 1024 - target.len() - 1024;
            let value = "\"a\",".repeat(room / 120 / 4 - 8);
            for index in 0..120 {
                let name = match index % 4 {
                    0 => "If-None-Match",
                    1 => "Accept",
                    2 => "Cookie",
                    _ => "X-Forwarded-For",
                };
                full = full.header(name, &value);
            }
            heads.push(full.header("Origin", "https://shop.example"));
        }
    }
    heads
}

/// An answer that says what was wrong is as good as a row: neither touches the guard page, nor is a fault.
#[track_caller]
fn survive(server: &Server, request: &Request) {
    let status = server.call(request).status;
    assert!(
        (200..500).contains(&status),
        "{status} for {} {:.60}",
        request.method,
        request.target
    );
}

#[test]
fn the_largest_and_deepest_requests_leave_half_of_a_stack_free() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args([
            "--max-body",
            "1MiB",
            "--max-head",
            "64KiB",
            "--max-request-line",
            "32KiB",
        ])
        .args([
            "--max-fields",
            "128",
            "--cors-origins",
            "https://shop.example",
        ])
        .args(["--log-level", "debug"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    let worker = server.only_worker();
    for body in bodies() {
        survive(&server, &post(body.as_str()));
        survive(
            &server,
            &Request::new("PUT", "/api/images/1").json(body.as_str()),
        );
    }
    let largest = bodies().pop().expect("the last one");
    server.call(&post(largest)).expect(201);
    server.get(&list_target(7)).expect(200);
    for method in ["GET", "DELETE", "OPTIONS", "PATCH"] {
        let nested = "[".repeat(BODY);
        survive(&server, &Request::new(method, "/api/images/2").json(nested));
    }
    for request in heads() {
        survive(&server, &request);
    }
    assert_eq!(server.only_worker(), worker, "a worker died");
    assert_shallow(worker);
}

/// Memory of a process in bytes, as RLIMIT_AS counts it.
fn address_space(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("a VmSize line") * 1024
}

/// The runtime panics when the kernel refuses a stack (`vm.max_map_count`, RLIMIT_AS, overcommitment all say ENOMEM),
/// and that panic once ended the worker. RLIMIT_AS stands in for the count of mappings, which is the whole host's. The
/// allocator has its heap of 64 MiB a thread mapped already, so it is stacks that run out.
#[test]
fn without_stacks_connections_wait_and_others_are_served() {
    const HEAD: &[u8] = b"GET /api/images/?shoe_id=7 HTTP/1.1\r\nHost: a\r\n";
    const CROWD: usize = 600;
    const ROOM: u64 = 64;
    // All that stay in the end, and one more, have a stack each.
    const STAY: usize = ROOM as usize / 3;
    let _machine = alone();
    raise_own_limit(CROWD as u64 + 1000);
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--head-timeout", "5m"])
        .env("RUST_BACKTRACE", "full")
        .start();
    create(&server, 7, &[("img1", "a")]);
    let worker = server.only_worker();
    let mut sleeper = server.connect();
    let mut bystander = server.connect();
    for client in [&mut sleeper, &mut bystander] {
        client.get(&list_target(7)).expect("an answer").expect(200);
    }
    let limit = address_space(worker) + ROOM * (STACK_KIB + GUARD_KIB) * 1024;
    limit_process(worker, &format!("--as={limit}:unlimited"));

    // Half of a head each: busy, and so on a stack.
    let mut crowd: Vec<Client> = (0..CROWD)
        .map(|_| {
            let mut client = server.connect();
            client.send_raw(HEAD).expect("half of a head");
            client
        })
        .collect();
    server.wait_for_line("no stack for a connection");
    let begun = cpu_ticks(worker);
    let window = Duration::from_secs(2);
    let until = Instant::now() + window;
    let mut served = 0;
    while Instant::now() < until {
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

    // Some leave: those who waited get their stacks, and so does one who came back from the lobby.
    let mut last = crowd.split_off(CROWD - STAY);
    crowd.truncate(STAY);
    sleeper.get(&list_target(7)).expect("an answer").expect(200);
    for client in crowd.iter_mut().chain(&mut last) {
        client.send_raw(b"\r\n").expect("the rest of the head");
        client.receive(true).expect("an answer").expect(200);
    }

    // The limit is lifted: as many as like are busy at once again.
    limit_process(worker, "--as=unlimited:unlimited");
    let mut more: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for client in &mut more {
        client.send_raw(HEAD).expect("half of a head");
    }
    server.wait_until_read(&more);
    wait_until(PATIENCE, "a stack for each", || {
        stacks(worker).len() >= CROWD
    });
    for client in &mut more {
        client.send_raw(b"\r\n").expect("the rest of the head");
        client.receive(true).expect("an answer").expect(200);
    }
    assert_eq!(server.only_worker(), worker, "a worker died");
    assert_eq!(server.lines_with("no stack for a connection").len(), 1);
    assert_shallow(worker);
}
