//! Every request of the list is sent whole, split at every byte, and with a follower behind it: the answers are the
//! same bytes each time, and a follower is answered exactly when the connection goes on.

use crate::support::{Raw, exchange, expected};

/// A request, its answer, and whether the connection ends with it.
struct Vector {
    request: String,
    status: &'static str,
    content: String,
    close: bool,
}

fn ok(request: &str, content: &str) -> Vector {
    Vector {
        request: request.to_owned(),
        status: "200 OK",
        content: content.to_owned(),
        close: false,
    }
}

fn last(request: &str, content: &str) -> Vector {
    Vector {
        close: true,
        ..ok(request, content)
    }
}

fn vectors() -> Vec<Vector> {
    let longest = "b".repeat(65536);
    vec![
        ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / []"),
        ok(
            "\r\n\r\nGET /x?y=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /x []",
        ),
        ok("GET http://a:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x []"),
        ok(
            "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "POST /p [hello]",
        ),
        ok(
            "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
            "POST /p [hello]",
        ),
        ok(
            "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "POST /p []",
        ),
        ok(
            "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=\"y\"\r\nlo\r\n0\r\nT: v\r\n\r\n",
            "POST /p [hello]",
        ),
        // A body that nobody asked for is consumed and is no request.
        ok(
            "GET /g HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\nGET /x HTTP/1.1\r\n\r",
            "GET /g [GET /x HTTP/1.1\r\n\r]",
        ),
        Vector {
            request: "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
                .to_owned(),
            status: "403 Forbidden",
            content: "no".to_owned(),
            close: false,
        },
        last(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET / []",
        ),
        last("GET / HTTP/1.0\r\n\r\n", "GET / []"),
        ok(
            &format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n{longest}"),
            &format!("POST /p [{longest}]"),
        ),
    ]
}

const FOLLOWER: &str = "GET /follower HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn follower_answer() -> String {
    expected("200 OK", "GET /follower []", true)
}

#[test]
fn sent_whole_with_a_follower_each_gets_its_answer() {
    for vector in vectors() {
        let answer = expected(vector.status, &vector.content, vector.close);
        let wanted = match vector.close {
            true => answer,
            false => answer + &follower_answer(),
        };
        let shown = &vector.request[..vector.request.len().min(80)];
        assert_eq!(
            exchange((vector.request.clone() + FOLLOWER).as_bytes()),
            wanted,
            "{shown:?}"
        );
    }
}

#[test]
fn split_at_any_byte_the_answer_is_the_same() {
    let mut bystander = Raw::connect();
    for vector in vectors().iter().filter(|vector| vector.request.len() < 300) {
        let answer = expected(vector.status, &vector.content, vector.close);
        let bytes = vector.request.as_bytes();
        for cut in 1..bytes.len() {
            let mut raw = Raw::connect();
            raw.send(&bytes[..cut]);
            // One thread serves all connections in the order of their events: once the bystander has its answer,
            // the first part has been read, and the kernel can't glue the second one to it.
            bystander.send(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
            bystander.response();
            raw.send(&bytes[cut..]);
            assert_eq!(raw.response(), answer, "{:?} cut at {cut}", vector.request);
        }
    }
}

#[test]
fn a_hundred_requests_in_one_write_are_answered_in_order() {
    let mut requests = String::new();
    let mut answers = String::new();
    for number in 0..100 {
        requests += &format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        answers += &expected("200 OK", &format!("GET /{number} []"), false);
    }
    assert_eq!(
        exchange((requests + FOLLOWER).as_bytes()),
        answers + &follower_answer()
    );
}

#[test]
fn what_can_not_be_framed_is_answered_and_then_closed() {
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400 "),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 "),
        ("GET / HTTP/1.1\nHost: a\n\n", "400 "),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400 "),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "400 "),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "400 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
            "400 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "400 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "400 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
            "400 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "501 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n",
            "413 ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\nContent-Length: 1\r\n\r\nx",
            "417 ",
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 "),
        ("GET /\r\n", "505 "),
    ] {
        let answer = exchange((request.to_owned() + FOLLOWER).as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request:?}: {answer}"
        );
        assert_eq!(
            answer.matches("\r\nServer: ").count(),
            1,
            "one answer and no more to {request:?}: {answer}"
        );
        assert!(
            answer.contains("\r\nConnection: close\r\n"),
            "{request:?}: {answer}"
        );
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    assert!(exchange(long.as_bytes()).starts_with("HTTP/1.1 414 "));
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(17000)
    );
    assert!(exchange(large.as_bytes()).starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64));
    assert!(exchange(many.as_bytes()).starts_with("HTTP/1.1 431 "));
}

#[test]
fn a_client_that_asks_before_it_sends_is_told_to_go_on_or_why_not() {
    let mut raw = Raw::connect();
    raw.send(b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(raw.response(), "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send(b"hello");
    assert_eq!(raw.response(), expected("200 OK", "POST /p [hello]", false));

    raw.send(
        b"POST /refused HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(
        raw.rest(),
        expected("403 Forbidden", "no", true),
        "refused before the body, and closed"
    );

    let mut raw = Raw::connect();
    raw.send(
        b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n",
    );
    assert!(raw.rest().starts_with("HTTP/1.1 413 "));
}

#[test]
fn an_answer_reaches_a_client_that_is_still_sending() {
    // More than the socket buffers take, all of it refused: a reset would lose the answer.
    let mut raw = Raw::connect();
    raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    raw.send(&vec![b'x'; 100_000]);
    assert!(raw.rest().starts_with("HTTP/1.1 413 "));
}

#[test]
fn head_is_answered_without_content() {
    let answer = exchange(b"HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(
        answer.contains("\r\nContent-Length: 10\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[test]
fn http_1_0_stays_only_if_it_asks_to() {
    let mut raw = Raw::connect();
    raw.send(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(raw.response().contains("\r\nConnection: keep-alive\r\n"));
    raw.send(b"GET /2 HTTP/1.0\r\n\r\n");
    assert_eq!(raw.rest(), expected("200 OK", "GET /2 []", true));
}
