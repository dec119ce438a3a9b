//! Each limit has a counter of its own, and no counter is lost with its worker: the master tells the sums when it stops.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use crate::support::http::{Client, Request};
use crate::support::shoes::{create, list_target};
use crate::support::{Backend, PATIENCE, Server, wait_until};

/// The master's last line as a table.
fn told_at_the_end(mut server: Server) -> BTreeMap<String, u64> {
    server.signal(Signal::SIGTERM);
    server.wait_for_exit();
    let line = server.wait_for_line("master: stopped after ");
    let (_, counts) = line.rsplit_once(" after ").expect("the pattern");
    counts
        .split(", ")
        .map(|pair| pair.split_once(' ').expect("a name and a number"))
        .map(|(name, count)| (name.to_owned(), count.parse().expect("a number")))
        .collect()
}

/// Sends these bytes on a new connection; the status of the answer, once the server has closed.
fn send(server: &Server, bytes: &[u8]) -> u16 {
    let mut client = server.connect();
    client.send_raw(bytes).expect("a connection");
    let status = client.receive(true).expect("an answer").status;
    assert!(client.ends());
    status
}

#[test]
fn every_limit_is_counted_by_itself_and_survives_its_worker() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--head-timeout", "200ms", "--keepalive-timeout", "400ms"])
        .args(["--max-request-line", "256", "--max-head", "1KiB"])
        .args(["--max-fields", "4", "--max-body", "1KiB"])
        .start();
    let host = "Host: a\r\n";
    let refused = |name: &str, status: u16, bytes: String| {
        assert_eq!(send(&server, bytes.as_bytes()), status, "{name}");
    };
    let path = "x".repeat(300);
    refused(
        "request_line_too_long",
        414,
        format!("GET /{path} HTTP/1.1\r\n{host}\r\n"),
    );
    let long = "y".repeat(1100);
    refused(
        "head_too_large",
        431,
        format!("GET / HTTP/1.1\r\n{host}X: {long}\r\n\r\n"),
    );
    let fields = "X: 1\r\n".repeat(4);
    for _ in 0..2 {
        refused(
            "too_many_fields",
            431,
            format!("GET / HTTP/1.1\r\n{host}{fields}\r\n"),
        );
    }
    let post = format!("POST /api/images HTTP/1.1\r\n{host}Content-Type: application/json\r\n");
    refused(
        "body_too_large",
        413,
        format!("{post}Content-Length: 1025\r\n\r\n"),
    );
    // A reload in between: the counts are the server's, not the worker's.
    server.reload(1);
    refused("head time-out", 408, format!("GET / HTTP/1.1\r\n{host}"));
    refused(
        "body time-out",
        408,
        format!("{post}Content-Length: 9\r\n\r\n{{"),
    );
    refused("bare_lf", 400, format!("GET / HTTP/1.1\n{host}\r\n"));
    assert!(server.connect().ends(), "an idle connection is closed");
    server.get("/healthz").expect(200);
    server.get("/nowhere").expect(404);

    let told = told_at_the_end(server);
    for (name, count) in [
        ("refused_request_line_too_long", 1),
        ("refused_head_too_large", 1),
        ("refused_too_many_fields", 2),
        ("refused_body_too_large", 1),
        ("refused_bare_lf", 1),
        ("head_timeouts", 1),
        ("body_timeouts", 1),
        ("answers_2xx", 1),
        ("answers_4xx", 9),
    ] {
        assert_eq!(told.get(name), Some(&count), "{name} in {told:?}");
    }
    // Clients that keep their connection are idle in the end as well.
    assert!(told["idle_timeouts"] >= 1, "{told:?}");
    assert!(
        told["connections"] >= 11 && told["requests"] >= 4,
        "{told:?}"
    );
    assert!(!told.contains_key("panics"), "{told:?}");
}

/// That there is nothing is an answer like any other, and the worker's own cache has it.
#[test]
fn an_empty_answer_is_a_hit() {
    let backend = Backend::sqlite();
    let server = backend.canvas().workers(1).args(["--l1-ttl", "1h"]).start();
    for _ in 0..11 {
        assert_eq!(server.get(&list_target(7)).expect(200).text(), "[]");
    }
    let told = told_at_the_end(server);
    assert_eq!(told.get("l1_misses"), Some(&1), "{told:?}");
    assert_eq!(told.get("l1_hits"), Some(&10), "{told:?}");
}

#[test]
fn a_client_that_does_not_read_its_answers_is_counted() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--write-timeout", "200ms", "--min-body-rate", "1048576"])
        .start();
    let large = "z".repeat(250);
    for _ in 0..40 {
        create(
            &server,
            7,
            &[("img1", &large), ("img2", &large), ("img3", &large)],
        );
    }
    // It asks on and on and reads nothing, until the server hangs up on it.
    let request = Request::new("GET", &list_target(7)).bytes();
    let mut client = server.connect();
    while client.send_raw(&request).is_ok() {}
    server.get("/healthz").expect(200);
    let told = told_at_the_end(server);
    assert_eq!(told.get("write_timeouts"), Some(&1), "{told:?}");
}

#[test]
fn connections_beyond_the_limit_are_counted_as_turned_away() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--max-connections", "2"])
        .start();
    let mut kept: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    for client in &mut kept {
        client.get("/healthz").expect("an answer").expect(200);
    }
    for _ in 0..3 {
        let mut late = server.connect();
        let answer = late.receive(true).expect("an answer").expect(503);
        assert!(answer.header("retry-after").is_some());
    }
    drop(kept);
    wait_until(PATIENCE, "room for a client", || {
        let mut client = server.connect();
        client
            .get("/healthz")
            .is_ok_and(|answer| answer.status == 200)
    });
    let told = told_at_the_end(server);
    assert!(told["turned_away"] >= 3, "{told:?}");
    assert_eq!(told.get("answers_2xx"), Some(&3), "{told:?}");
}

#[test]
fn a_connection_without_its_proxy_header_is_counted() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--listen", "proxy+127.0.0.1:0", "--allow-anonymous-writes"])
        .launch();
    let line = server.wait_for_line("ready: ");
    let (_, port) = line
        .split_once("proxy+http://127.0.0.1:")
        .expect("an address");
    let port: u16 = port
        .split(|byte: char| !byte.is_ascii_digit())
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port");
    let mut client = Client::connect(([127, 0, 0, 1], port).into()).expect("a connection");
    client
        .send_raw(&Request::new("GET", "/healthz").bytes())
        .expect("a connection");
    assert!(client.is_closed());
    let told = told_at_the_end(server);
    assert_eq!(told.get("unintroduced"), Some(&1), "{told:?}");
    assert!(!told.contains_key("requests"), "{told:?}");
}
