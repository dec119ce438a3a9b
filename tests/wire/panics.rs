//! A panic in a handler costs its connection and nothing else.

use crate::support::{Raw, expected};

#[test]
fn a_panic_is_answered_500_and_closes_only_its_connection() {
    let mut bystander = Raw::connect();
    bystander.send(b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        bystander.response(),
        expected("200 OK", "GET /before []", false)
    );
    for path in ["/panic/admit", "/panic/answer"] {
        let mut raw = Raw::connect();
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(
            raw.rest(),
            expected("500 Internal Server Error", "fault", true),
            "{path}"
        );
    }
    bystander.send(b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        bystander.response(),
        expected("200 OK", "GET /after []", false)
    );
}
