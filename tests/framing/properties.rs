//! Streams made up from the grammar and then damaged: however they are cut they are read alike, and never
//! differently from the second parser.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::drive::{read, read_every_way};
use crate::naive;
use canvas_cluster::http::limits::Limits;

const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "BREW", "get", "", "G(T",
];
const TARGETS: &[&str] = &[
    "/",
    "/api/images/?shoe_id=1",
    "*",
    "/?",
    "http://a.example/x?y",
    "https://[::1]:8",
    "h:443",
    "http://u@h/",
    "/%2e#f",
    "x",
    "",
];
const VERSIONS: &[&str] = &["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", "http/1.1"];
const FIELDS: &[&str] = &[
    "Host: h",
    "host:\t[::1]:80 ",
    "Host: a, b",
    "Host:",
    "Content-Length: 3",
    "Content-Length: 3, 3",
    "content-length: 03",
    "Content-Length: +3",
    "Content-Length: 18446744073709551616",
    "Transfer-Encoding: chunked",
    "transfer-encoding:\tChunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding:",
    "Transfer-Encoding : chunked",
    "Connection: close",
    "Connection: keep-alive, x",
    "Expect: 100-continue",
    "Expect: more",
    "X: y",
    "X:",
    "X : y",
    " folded",
    "Authorization: Basic eA==",
    "Content-Type: application/json",
    "Origin: null",
    "Cookie: \u{e9}",
    "Upgrade: h2c",
    "no colon",
];
const SOUND_TARGETS: &[&str] = &[
    "/",
    "/api/images/?shoe_id=1",
    "/?",
    "http://a.example/x?y",
    "https://[::1]:8",
];
const SOUND_FIELDS: &[&str] = &[
    "Connection: close",
    "Connection: keep-alive, x",
    "Expect: 100-continue",
    "X: y",
    "X:",
    "Cookie: \u{e9}",
    "User-Agent: a b",
    "accept:\t*/* ",
];
const SHARDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"5",
    b"f",
    b"+",
    b"\x0b",
    b"\xff",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1",
    b"chunked",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: h\r\n",
];

/// A request that must be accepted, and its content.
fn sound() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let line = (
        select(&["GET", "HEAD", "POST", "DELETE", "OPTIONS", "BREW"][..]),
        select(SOUND_TARGETS),
    );
    let framed = prop_oneof![
        Just(("HTTP/1.1", None, Vec::new(), Vec::new())),
        content().prop_map(|c| (
            "HTTP/1.0",
            Some(format!("Content-Length: {}", c.len())),
            c.clone(),
            c
        )),
        encoded().prop_map(|(c, wire)| (
            "HTTP/1.1",
            Some("Transfer-Encoding: chunked".to_owned()),
            c,
            wire
        )),
    ];
    (line, vec(select(SOUND_FIELDS), 0..8), framed).prop_map(
        |((method, target), fields, framed)| {
            let (version, framing, content, body) = framed;
            let mut lines = vec![format!("{method} {target} {version}"), "Host: h".to_owned()];
            lines.extend(fields.into_iter().map(str::to_owned).chain(framing));
            (
                [lines.join("\r\n").as_bytes(), b"\r\n\r\n", &body].concat(),
                content,
            )
        },
    )
}

/// A request of parts that need not fit together.
fn odd() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![content(), encoded().prop_map(|(_, wire)| wire)];
    (
        select(METHODS),
        select(TARGETS),
        select(VERSIONS),
        vec(select(FIELDS), 0..6),
        body,
    )
        .prop_map(|(method, target, version, fields, body)| {
            let lines = [
                vec![format!("{method} {target} {version}").as_str()],
                fields,
            ]
            .concat()
            .join("\r\n");
            [lines.as_bytes(), b"\r\n\r\n", &body].concat()
        })
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

/// Content and one way to send it in chunks, with extensions and trailers.
fn encoded() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let extension = select(&["", "", "", ";x", " ;x=\"y\"", "\t;a=b;c"][..]);
    let chunk = (
        vec(any::<u8>(), 1..20),
        0..4usize,
        any::<bool>(),
        extension.clone(),
    );
    let trailers = vec(
        select(&["X: y\r\n", "Y:\r\n", "Content-Length: 7\r\n"][..]),
        0..3,
    );
    (vec(chunk, 0..6), extension, trailers).prop_map(|(chunks, last, trailers)| {
        let (mut content, mut wire) = (Vec::new(), Vec::new());
        for (data, zeros, upper, extension) in chunks {
            let size = if upper {
                format!("{:X}", data.len())
            } else {
                format!("{:x}", data.len())
            };
            wire.extend_from_slice(
                format!("{}{size}{extension}\r\n", "0".repeat(zeros)).as_bytes(),
            );
            wire.extend_from_slice(&data);
            wire.extend_from_slice(b"\r\n");
            content.extend_from_slice(&data);
        }
        wire.extend_from_slice(format!("0{last}\r\n{}\r\n", trailers.concat()).as_bytes());
        (content, wire)
    })
}

/// One to three requests one after the other, with a few bytes put in, taken out or repeated.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let requests = vec(
        prop_oneof![3 => sound().prop_map(|(wire, _)| wire), 1 => odd()],
        1..4,
    );
    let damage = vec(
        (
            any::<Index>(),
            0..8usize,
            prop_oneof![Just(None), select(SHARDS).prop_map(Some)],
        ),
        0..3,
    );
    (requests, damage).prop_map(|(requests, damage)| {
        let mut bytes = requests.concat();
        for (place, width, shard) in damage {
            let at = place.index(bytes.len() + 1);
            let gone: Range<usize> = at..(at + width).min(bytes.len());
            match shard {
                Some(shard) if width < 4 => drop(bytes.splice(at..at, shard.iter().copied())),
                Some(shard) => drop(bytes.splice(gone, shard.iter().copied())),
                None => drop(bytes.drain(gone)),
            }
        }
        bytes
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let tight = (10..60usize, 40..200usize, 1..6usize, 0..60usize, 0..20usize);
    let tight = tight.prop_map(
        |(request_line, head, fields, body, chunk_overhead)| Limits {
            request_line,
            head,
            fields,
            body,
            chunk_overhead,
        },
    );
    prop_oneof![3 => Just(Limits::default()), 1 => tight]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_reads_alike_and_as_the_naive_parser_does(bytes in stream(), limits in limits(), seed: u64) {
        let reading = read_every_way(&bytes, seed, &limits);
        naive::agree(&reading, &bytes);
    }

    #[test]
    fn sound_requests_are_accepted(requests in vec(sound(), 1..4), seed: u64) {
        let (wires, contents): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let bytes = wires.concat();
        let reading = read_every_way(&bytes, seed, &Limits::default());
        naive::agree(&reading, &bytes);
        prop_assert_eq!(reading.refusal, None);
        prop_assert_eq!(reading.messages.iter().map(|message| message.content.clone()).collect::<Vec<_>>(), contents);
        prop_assert_eq!(reading.messages.iter().map(|message| message.size).sum::<usize>(), bytes.len());
    }

    #[test]
    fn chunks_decode_to_what_was_encoded((content, wire) in encoded(), seed: u64) {
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = [head, &wire[..], b"GET"].concat();
        let reading = read_every_way(&bytes, seed, &Limits::default());
        prop_assert_eq!(reading.refusal, None);
        prop_assert_eq!(&reading.messages[0].content, &content);
        prop_assert_eq!(reading.messages[0].size, bytes.len() - 3);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300), seed: u64) {
        let reading = read_every_way(&bytes, seed, &Limits::default());
        naive::agree(&reading, &bytes);
        let head = [b"GET / HTTP/1.1\r\nHost: h\r\n", &bytes[..], b"\r\n\r\n"].concat();
        naive::agree(&read([&head[..]], &Limits::default()), &head);
    }
}
