//! Connections that begin with a PROXY header: read in whatever pieces it comes, demanded, bounded in time, and once.

use std::time::{Duration, Instant};

use crate::support::{HEAD, Raw, door, expected, proxied_door};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n";

/// PROXY, TCP over IPv4, twelve bytes of addresses and three of an extension.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x07\xc0\0\x02\x01\x12\x67\0\x50\x04\0\0";

/// LOCAL, without addresses: a health check of the proxy's own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

fn answer() -> String {
    expected("200 OK", "GET /x []", false)
}

#[test]
fn what_follows_the_header_is_the_first_request() {
    for header in [V1, V2, LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut raw = Raw::connect_to(proxied_door());
        raw.send(&[header, REQUEST, REQUEST].concat());
        assert_eq!(raw.response(), answer());
        assert_eq!(raw.response(), answer());
        raw.send(REQUEST);
        assert_eq!(raw.response(), answer());
        raw.finish();
        assert_eq!(raw.rest(), "");
    }
}

/// Each byte in a segment of its own: the next is sent when the kernel has sent the last.
#[test]
fn a_header_may_come_byte_by_byte_and_in_any_two_pieces() {
    for header in [V1, V2] {
        let mut dripped = Raw::connect_to(proxied_door());
        for byte in [header, REQUEST].concat() {
            dripped.send(&[byte]);
        }
        assert_eq!(dripped.response(), answer());
        let whole = [header, REQUEST].concat();
        for cut in 1..=header.len() {
            let mut raw = Raw::connect_to(proxied_door());
            raw.send(&whole[..cut]);
            // Another connection's answer: the thread has been at the first piece by then.
            let mut other = Raw::connect();
            other.send(REQUEST);
            assert_eq!(other.response(), answer());
            raw.send(&whole[cut..]);
            assert_eq!(raw.response(), answer(), "cut at {cut}");
        }
    }
}

#[test]
fn a_connection_without_a_header_is_closed_without_a_word() {
    let garbage = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    for bytes in [
        REQUEST,
        b"PROXY TCP4 192.0.2.7 192.0.2.1 4711\r\n",
        &garbage,
        b"\r\n\r\n\0\r\nQUIT\n\x31",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ] {
        let began = Instant::now();
        let mut raw = Raw::connect_to(proxied_door());
        raw.try_send(bytes);
        // Unread bytes make it a reset.
        assert_eq!(raw.drain_after(Duration::ZERO), 0, "{bytes:?}");
        assert!(began.elapsed() < HEAD, "at once, not at a deadline");
    }
}

/// A second header is no request; and a listener that is not declared takes none.
#[test]
fn a_header_is_taken_once_and_only_where_it_is_declared() {
    let mut raw = Raw::connect_to(proxied_door());
    raw.send(&[V1, V1].concat());
    raw.finish();
    assert!(raw.rest().starts_with("HTTP/1.1 400 "));
    for header in [V1, V2] {
        let mut raw = Raw::connect_to(door().0);
        raw.send(header);
        raw.finish();
        assert!(raw.rest().starts_with("HTTP/1.1 400 "));
    }
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for_longer_than_a_head() {
    let began = Instant::now();
    let mut silent = Raw::connect_to(proxied_door());
    let mut slow = Raw::connect_to(proxied_door());
    slow.send(&V1[..20]);
    assert_eq!(silent.rest(), "");
    assert_eq!(slow.rest(), "");
    // The clock of the door ticks every 20 ms.
    assert!(began.elapsed() + Duration::from_millis(200) >= HEAD);
}

#[test]
fn a_connection_that_comes_back_from_the_lobby_needs_no_second_header() {
    for header in [V1, V2, LOCAL] {
        let mut raw = Raw::connect_to(proxied_door());
        raw.send(header);
        // Long enough for it to be in the lobby, before its first request and after.
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(1500));
            raw.send(REQUEST);
            assert_eq!(raw.response(), answer());
        }
    }
}
