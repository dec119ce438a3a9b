//! The access log: what a line says, that it can't be forged, that none is lost or mixed, and that nobody waits for it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::http::Request;
use crate::support::shoes::{draft, list_target, post};
use crate::support::{Backend, Client, PATIENCE, wait_until};

/// The lines of a log once it has this many.
#[track_caller]
fn lines(log: &Path, count: usize) -> Vec<String> {
    let read = || std::fs::read_to_string(log).expect("the access log");
    wait_until(
        PATIENCE,
        &format!("{count} lines in the access log"),
        || read().lines().count() >= count,
    );
    let text = read();
    assert!(text.ends_with('\n'), "a line without its end: {text:?}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

fn objects(log: &Path, count: usize) -> Vec<Value> {
    let parse = |line: String| {
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    };
    lines(log, count).into_iter().map(parse).collect()
}

/// Takes the address and the time off a combined line, having looked at them, and answers with what is between them
/// and the duration, and the id.
#[track_caller]
fn told(line: &str) -> (&str, &str) {
    let rest = line.strip_prefix("127.0.0.1 - - [").expect("the client");
    let (time, rest) = rest.split_once("] ").expect("a time");
    let shape: String = time
        .chars()
        .map(|c| match c {
            '0'..='9' => '9',
            'A'..='Z' => 'X',
            'a'..='z' => 'x',
            other => other,
        })
        .collect();
    assert_eq!(shape, "99/Xxx/9999:99:99:99 +9999");
    let (rest, id) = rest.rsplit_once(' ').expect("an id");
    let (rest, duration) = rest.rsplit_once(' ').expect("a duration");
    let _: u64 = duration.parse().expect("microseconds");
    (rest, id)
}

#[test]
fn each_request_has_a_line_and_those_that_were_refused_have_one_too() {
    let backend = Backend::sqlite();
    let log = backend.dir.join("access.log");
    let server = backend
        .canvas()
        .workers(1)
        .args(["--head-timeout", "300ms"])
        .arg("--access-log")
        .arg(&log)
        .start();
    let mut seen = 0;
    let mut line_of = |what: &dyn Fn(&mut Client)| {
        what(&mut server.connect());
        seen += 1;
        lines(&log, seen).pop().expect("a line")
    };
    let shoe = list_target(7);

    let got = line_of(&|client| {
        let request = Request::new("GET", &shoe)
            .header("User-Agent", "test/1")
            .header("Referer", "https://shop.example/7")
            .header("X-Request-Id", "mine-1");
        client.call(&request).expect("an answer").expect(200);
    });
    assert_eq!(
        told(&got),
        (
            format!("\"GET {shoe} HTTP/1.1\" 200 2 \"https://shop.example/7\" \"test/1\"").as_str(),
            "mine-1"
        )
    );
    let headed = line_of(&|client| {
        let answer = client.call(&Request::new("HEAD", &shoe));
        answer.expect("an answer").expect(200);
    });
    let (what, id) = told(&headed);
    assert_eq!(what, format!("\"HEAD {shoe} HTTP/1.1\" 200 0 \"-\" \"-\""));
    assert_eq!(id.len(), 16, "made, since the client sent none");

    let answered = std::cell::RefCell::new(String::new());
    let missing = line_of(&|client| {
        let answer = client.get("/nowhere").expect("an answer").expect(404);
        *answered.borrow_mut() = answer.header("x-request-id").expect("an id").to_owned();
    });
    let (what, id) = told(&missing);
    assert!(what.starts_with("\"GET /nowhere HTTP/1.1\" 404 "), "{what}");
    assert_eq!(
        id,
        *answered.borrow(),
        "the log and the client know the same id"
    );

    // Of a refused request only a valid first line is shown.
    for (bytes, shown) in [
        (
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "\"GET / HTTP/1.1\" 400 ",
        ),
        (
            "Authorization: Bearer secret-canary\r\n\r\n".to_owned(),
            "\"-\" 400 ",
        ),
        (
            "GET http://u:secret-canary@h/ HTTP/1.1\r\n\r\n".to_owned(),
            "\"-\" 400 ",
        ),
        (format!("GET /{}", "x".repeat(9000)), "\"-\" 414 "),
        (
            format!("GET /big HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)),
            "\"GET /big HTTP/1.1\" 431 ",
        ),
        (
            "GET /slow HTTP/1.1\r\nHost: h\r\n".to_owned(),
            "\"GET /slow HTTP/1.1\" 408 ",
        ),
        ("GE".to_owned(), "\"-\" 408 "),
    ] {
        let line = line_of(&|client| {
            client.send_raw(bytes.as_bytes()).expect("sent");
            client.receive(true).expect("a refusal");
        });
        let (what, _) = told(&line);
        assert!(
            what.starts_with(shown) && what.ends_with(" \"-\" \"-\""),
            "{what} is not {shown}"
        );
        assert!(!line.contains("canary"), "{line}");
    }
}

#[test]
fn json_lines_are_objects_that_no_client_can_forge() {
    let backend = Backend::sqlite();
    let log = backend.dir.join("access.json");
    let token = backend.dir.write("token", "canary-canary-canary");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("our own file");
    let server = backend
        .canvas()
        .workers(2)
        .args(["--access-log-format", "json", "--access-log"])
        .arg(&log)
        .arg("--write-token-file")
        .arg(&token)
        .start();
    let request = post(draft(7, &[]))
        .header("Authorization", "Bearer canary-canary-canary")
        .header("User-Agent", "a\",\"status\":999,\"x\":\"\\\t\u{9b}")
        .header("X-Request-Id", "not\"sane");
    let answer = server.call(&request).expect(201);
    let mut raw = server.connect();
    raw.send_raw(b"GET /healthz HTTP/1.1\r\nHost: h\r\nReferer: \xff\xfe\r\n\r\n")
        .expect("sent");
    raw.receive(true).expect("an answer").expect(200);
    let objects = objects(&log, 2);
    let find = |target: &str| {
        let found = objects.iter().find(|object| object["target"] == target);
        found.unwrap_or_else(|| panic!("no {target} in {objects:?}"))
    };
    let written = find("/api/images/");
    assert_eq!(written["status"], 201);
    assert_eq!(written["method"], "POST");
    assert_eq!(written["version"], "HTTP/1.1");
    assert_eq!(written["client"], "127.0.0.1");
    assert_eq!(written["sent"], answer.body.len());
    assert_eq!(
        written["user_agent"],
        "a\",\"status\":999,\"x\":\"\\\t\u{9b}"
    );
    assert_eq!(
        written["request_id"].as_str(),
        answer.header("x-request-id")
    );
    let pid = written["pid"].as_i64().expect("a number");
    assert!(
        server
            .workers()
            .contains(&i32::try_from(pid).expect("a pid"))
    );
    assert!(written["duration_us"].is_u64());
    let time = written["time"].as_str().expect("a time");
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    assert_eq!(find("/healthz")["referer"], "\u{fffd}\u{fffd}");
    let text = std::fs::read_to_string(&log).expect("the log");
    assert!(!text.contains("canary"), "a secret in the log: {text}");
}

/// Sends `each` requests on each of a few connections at once, with ids that tell them apart.
fn ask_from_many(server: &crate::support::Server, each: usize) -> usize {
    const CLIENTS: usize = 8;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut connection = server.connect();
                for number in 0..each {
                    let request = Request::new("GET", "/healthz")
                        .header("User-Agent", &"\u{e9}".repeat(300))
                        .header("X-Request-Id", &format!("{client}-{number}"));
                    let answer = connection.call(&request).expect("an answer");
                    answer.expect(200);
                }
            });
        }
    });
    CLIENTS * each
}

fn assert_all_there(objects: &[Value], count: usize) {
    let ids: std::collections::BTreeSet<&str> = objects
        .iter()
        .filter_map(|object| object["request_id"].as_str())
        .collect();
    assert_eq!(ids.len(), count);
    let workers: std::collections::BTreeSet<i64> = objects
        .iter()
        .filter_map(|object| object["pid"].as_i64())
        .collect();
    assert!(
        workers.len() > 1,
        "only one worker has written: {workers:?}"
    );
}

#[test]
fn lines_of_several_workers_never_mix() {
    let backend = Backend::sqlite();
    let log = backend.dir.join("access.json");
    let server = backend
        .canvas()
        .workers(4)
        .args(["--access-log-format", "json", "--access-log"])
        .arg(&log)
        .start();
    let count = ask_from_many(&server, 250);
    server.stop();
    assert_all_there(&objects(&log, count), count);
}

/// The last requests are answered while the server stops, and each worker leaves right after its own: sooner than lines
/// are written otherwise.
#[test]
fn the_last_lines_are_written_before_a_worker_leaves() {
    let backend = Backend::sqlite();
    let log = backend.dir.join("access.log");
    let mut server = backend
        .canvas()
        .workers(4)
        .arg("--access-log")
        .arg(&log)
        .start();
    let mut clients = server.one_client_per_worker();
    for (_, client) in &mut clients {
        client
            .send_raw(b"GET /last HTTP/1.1\r\nHost: h\r\n")
            .expect("sent");
    }
    server.wait_until_read(clients.iter().map(|(_, client)| client));
    server.signal(Signal::SIGTERM);
    // From then on each worker only waits for its one request.
    wait_until(PATIENCE, "the listeners to be closed", || {
        Client::connect(server.address()).is_err()
    });
    for (_, client) in &mut clients {
        client.send_raw(b"\r\n").expect("sent");
        client.receive(true).expect("an answer").expect(404);
    }
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let text = std::fs::read_to_string(&log).expect("the log");
    assert_eq!(text.matches("\"GET /last HTTP/1.1\" 404 ").count(), 4);
}

#[test]
fn standard_output_can_be_a_pipe_that_workers_share() {
    let backend = Backend::sqlite();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let server = backend
        .canvas()
        .workers(4)
        .args(["--access-log-format", "json", "--access-log", "-"])
        .stdout(writer)
        .start();
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        let mut reader = reader;
        reader.read_to_string(&mut text).expect("UTF-8");
        text
    });
    let count = ask_from_many(&server, 100);
    server.stop();
    let text = text.join().expect("the reader");
    let objects: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}")))
        .collect();
    assert_eq!(objects.len(), count);
    assert_all_there(&objects, count);
}

/// Whoever reads the pipe has stopped: requests are answered all the same, and what was lost is told once it reads again.
#[test]
fn a_log_that_nobody_takes_delays_no_request_and_what_is_lost_is_counted() {
    const REQUESTS: usize = 1000;
    let backend = Backend::sqlite();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let server = backend
        .canvas()
        .workers(1)
        .args(["--access-log", "-"])
        .stdout(writer)
        .start();
    let mut client = server.connect();
    // Each line is as long as lines get: beyond the pipe's 64 KiB and the worker's 1 MiB there is no room.
    let request = Request::new("GET", &format!("/{}", "x".repeat(2000)))
        .header("User-Agent", &"\u{e9}".repeat(400))
        .header("Referer", &"\u{e9}".repeat(400));
    for _ in 0..REQUESTS {
        client.call(&request).expect("an answer").expect(404);
    }
    let drained = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("the pipe");
        String::from_utf8(bytes).expect("ASCII")
    });
    let complaint = server.wait_for_line("lines are lost");
    assert!(complaint.contains("WARN"), "{complaint}");
    server.get("/healthz").expect(200);
    let lost: usize = complaint
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .expect("a number");
    server.stop();
    let text = drained.join().expect("the reader");
    assert!(text.lines().all(|line| line.len() < 4096));
    assert_eq!(text.lines().count() + lost, REQUESTS + 1);
}

#[test]
fn a_reload_opens_the_file_again() {
    let backend = Backend::sqlite();
    let log = backend.dir.join("access.log");
    let server = backend
        .canvas()
        .workers(2)
        .arg("--access-log")
        .arg(&log)
        .start();
    server.get("/before").expect(404);
    lines(&log, 1);
    let rotated = backend.dir.join("access.log.1");
    std::fs::rename(&log, &rotated).expect("moved");
    server.reload(2);
    server.get("/after").expect(404);
    assert!(lines(&log, 1)[0].contains("\"GET /after "));
    assert!(lines(&rotated, 1)[0].contains("\"GET /before "));
    use std::os::unix::fs::PermissionsExt;
    let mode = log.metadata().expect("the log").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}: it holds addresses of people");
}

/// As logrotate does: moved away first, signalled then.
#[test]
fn usr1_opens_the_file_again_and_changes_no_worker() {
    let backend = Backend::sqlite();
    let log = backend.dir.join("access.log");
    let moved = backend.dir.join("access.log.1");
    let server = backend
        .canvas()
        .workers(2)
        .arg("--access-log")
        .arg(&log)
        .start();
    let workers = server.workers();
    server.get("/healthz").expect(200);
    lines(&log, 1);
    std::fs::rename(&log, &moved).expect("our own file");
    server.signal(Signal::SIGUSR1);
    // Both workers open it when they hear of it, which is before their next lines.
    wait_until(PATIENCE, "a new file", || log.exists());
    let asked = ask_from_many(&server, 5);
    wait_until(PATIENCE, "the lines in both files", || {
        let count = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().count()
        };
        count(&log) > 0 && count(&log) + count(&moved) == asked + 1
    });
    assert_eq!(server.workers(), workers);
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--access-log", "/dev/full"])
        .start();
    server.get("/healthz").expect(200);
    let complaint = server.wait_for_line("access log: 1 lines are lost");
    assert!(complaint.contains("No space left"), "{complaint}");
    server.get("/healthz").expect(200);
}

#[test]
fn a_log_that_cannot_be_opened_is_told_at_the_start() {
    let backend = Backend::sqlite();
    let nowhere = backend.dir.join("no/such/folder/access.log");
    let mut server = backend
        .canvas()
        .workers(1)
        .arg("--access-log")
        .arg(&nowhere)
        .launch();
    let line = server.wait_for_line("can't open the access log");
    assert!(line.contains("no/such/folder"), "{line}");
    assert_eq!(server.wait_for_exit().code(), Some(111));
}

#[test]
fn without_the_setting_nothing_is_written() {
    let backend = Backend::sqlite();
    let out = backend.dir.join("stdout");
    let server = backend
        .canvas()
        .workers(1)
        .stdout(File::create(&out).expect("a file"))
        .start();
    server.get("/healthz").expect(200);
    server.stop();
    assert_eq!(std::fs::read(&out).expect("the file"), b"");
}

/// The database answers one write with an error: the server's own log names the request as the client knows it.
#[test]
fn an_error_of_one_request_is_logged_with_its_id() {
    let backend = Backend::sqlite();
    backend.execute(
        "CREATE TRIGGER no BEFORE INSERT ON shoe_images BEGIN SELECT RAISE(ABORT, 'on purpose'); END",
    );
    let mut server = backend.serve(1);
    server.allow("on purpose");
    let request = post(draft(7, &[])).header("X-Request-Id", "the-one");
    let answer = server.call(&request).expect(500);
    assert_eq!(answer.header("x-request-id"), Some("the-one"));
    let line = server.wait_for_line("request the-one: ");
    assert!(line.contains("on purpose"), "{line}");
    server.stop_with(Signal::SIGTERM);
}
