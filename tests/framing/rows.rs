//! What a vector goes through: it is fed whole, cut in two at every byte, byte by byte, with a follower behind it,
//! and to the second parser.

use crate::drive::{Message, Reading, read, read_every_way};
use crate::naive;
use canvas_cluster::http::head::Refusal;
use canvas_cluster::http::limits::Limits;

const FOLLOWER: &str = "GET /next HTTP/1.1\r\nHost: next\r\n\r\n";

/// Checks that `bytes` are one message, and which: `method target host keep|close framing content`.
#[track_caller]
pub fn accept(bytes: impl AsRef<[u8]>, wanted: &str) {
    let bytes = bytes.as_ref();
    let reading = check(bytes);
    assert_eq!(reading.refusal, None, "{}", bytes.escape_ascii());
    let said: Vec<String> = reading.messages.iter().map(summary).collect();
    assert_eq!(said, [wanted], "{}", bytes.escape_ascii());

    let pipelined = [bytes, FOLLOWER.as_bytes()].concat();
    let followed = check(&pipelined);
    let said: Vec<String> = followed.messages.iter().map(summary).collect();
    assert_eq!(
        said,
        [wanted, "GET /next next keep none"],
        "{}",
        bytes.escape_ascii()
    );
}

/// Checks that `bytes` are refused, and that a follower does not change why.
#[track_caller]
pub fn refuse(bytes: impl AsRef<[u8]>, wanted: Refusal) {
    let bytes = bytes.as_ref();
    let reading = check(bytes);
    assert_eq!(
        (reading.messages.len(), reading.refusal),
        (0, Some(wanted)),
        "{}",
        bytes.escape_ascii()
    );
    let pipelined = [bytes, FOLLOWER.as_bytes()].concat();
    assert_eq!(
        check(&pipelined).refusal,
        Some(wanted),
        "followed: {}",
        bytes.escape_ascii()
    );
}

/// Checks that `bytes` are the beginning of a message.
#[track_caller]
pub fn wait(bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    let reading = check(bytes);
    assert_eq!(
        (reading.messages.len(), reading.refusal),
        (0, None),
        "{}",
        bytes.escape_ascii()
    );
}

#[track_caller]
fn check(bytes: &[u8]) -> Reading {
    let limits = Limits::default();
    let whole = read_every_way(bytes, bytes.len() as u64, &limits);
    if bytes.len() < 2000 {
        for cut in 1..bytes.len() {
            let (front, back) = bytes.split_at(cut);
            assert_eq!(
                read([front, back], &limits),
                whole,
                "cut at {cut}: {}",
                bytes.escape_ascii()
            );
        }
    }
    naive::agree(&whole, bytes);
    whole
}

fn summary(message: &Message) -> String {
    let Message {
        method,
        target,
        host,
        framing,
        ..
    } = message;
    let mut words = vec![
        method.clone(),
        target.clone(),
        host.clone().unwrap_or("-".to_owned()),
    ];
    words.push(if message.keep_alive { "keep" } else { "close" }.to_owned());
    words.push(framing.clone());
    words.extend(message.expect_continue.then(|| "expects".to_owned()));
    words.extend(
        (!message.content.is_empty())
            .then(|| String::from_utf8_lossy(&message.content).into_owned()),
    );
    words.join(" ")
}

pub fn with_line(line: &str) -> String {
    format!("{line}\r\nHost: h\r\n\r\n")
}

pub fn with_field(field: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n")
}

pub fn with_body(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}")
}

pub fn chunked(body: &str) -> String {
    with_body("Transfer-Encoding: chunked", body)
}
