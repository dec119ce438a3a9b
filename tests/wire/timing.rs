//! Where the time of a request goes that its client makes slow.

use std::time::{Duration, Instant};

use crate::support::{LOG, Raw, expected};

const PATIENCE: Duration = Duration::from_secs(30);

/// The line of a slow request with this id, once it is there.
fn told(id: &str) -> String {
    let end = Instant::now() + PATIENCE;
    let named = format!(" request_id={id} ");
    loop {
        if let Some(line) = LOG.lines().into_iter().find(|line| line.contains(&named)) {
            return line;
        }
        assert!(Instant::now() < end, "{id} is never told of");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ms(line: &str, layer: &str) -> f64 {
    let field = line.split(' ').find_map(|word| {
        let (key, value) = word.split_once('=')?;
        (key == layer).then(|| value.parse().ok())?
    });
    field.unwrap_or_else(|| panic!("no {layer}: {line}"))
}

#[test]
fn what_a_client_takes_slowly_counts_as_writing() {
    let mut slow = Raw::connect();
    slow.send(
        b"GET /large/late HTTP/1.1\r\nHost: a\r\nX-Request-Id: taken-slowly\r\nConnection: close\r\n\r\n",
    );
    slow.first_byte();
    // The kernel has no room for all of it, so it waits while others are served.
    let begun = Instant::now();
    for _ in 0..20 {
        let mut bystander = Raw::connect();
        bystander.send(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(bystander.response(), expected("200 OK", "GET /b []", false));
    }
    let waited = begun.elapsed().as_secs_f64() * 1000.0;
    slow.rest();
    let line = told("taken-slowly");
    assert!(line.starts_with("WARN http: a slow request "), "{line}");
    assert!(ms(&line, "write_ms") >= waited, "{waited} ms: {line}");
    assert!(ms(&line, "total_ms") >= ms(&line, "write_ms"), "{line}");
    assert!(
        line.contains(" path=/large/late ") && line.contains(" status=200 "),
        "{line}"
    );
}
