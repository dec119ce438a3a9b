//! Behind a proxy: whose word is taken about the client, as the access log shows it.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::http::Request;
use crate::support::{Backend, Canvas, PATIENCE, Server, wait_until};

/// A server's access log in JSON.
struct Noted(PathBuf);

impl Noted {
    fn by(backend: &Backend, canvas: Canvas) -> (Noted, Canvas) {
        let log = backend.dir.join("access.json");
        let canvas = canvas
            .args(["--access-log-format", "json", "--access-log"])
            .arg(&log);
        (Noted(log), canvas)
    }

    /// The client of the request for this target, once it is noted.
    #[track_caller]
    fn client_of(&self, target: &str) -> String {
        let mut client = None;
        wait_until(PATIENCE, &format!("{target} in the access log"), || {
            let text = std::fs::read_to_string(&self.0).expect("the access log");
            let objects = text.lines().map(|line| {
                serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e} in {line}"))
            });
            let mut noted = objects.filter(|object| object["target"] == target);
            client = noted.next().map(|object| object["client"].clone());
            client.is_some()
        });
        let client = client.expect("just found");
        client.as_str().expect("a string").to_owned()
    }
}

/// Asks with one field, and answers with the client that was noted.
#[track_caller]
fn asked_with(server: &Server, noted: &Noted, target: &str, name: &str, value: &str) -> String {
    server.call(&Request::new("GET", target).header(name, value));
    noted.client_of(target)
}

#[test]
fn a_trusted_proxy_is_believed_about_its_client() {
    let backend = Backend::sqlite();
    let (noted, canvas) = Noted::by(&backend, backend.canvas());
    let server = canvas
        .workers(1)
        .args(["--trusted-proxies", "10.0.0.0/8,127.0.0.1"])
        .start();
    let with =
        |target: &str, name: &str, value: &str| asked_with(&server, &noted, target, name, value);
    assert_eq!(
        with("/1", "X-Forwarded-For", "6.6.6.6, 192.0.2.7, 10.1.1.1"),
        "192.0.2.7"
    );
    assert_eq!(
        with("/2", "Forwarded", "for=\"[2001:db8::7]:4711\";proto=https"),
        "2001:db8::7"
    );
    assert_eq!(with("/3", "X-Forwarded-For", "nonsense"), "127.0.0.1");
    assert_eq!(with("/4", "X-Real-IP", "192.0.2.7"), "127.0.0.1");
}

#[test]
fn nobody_else_is() {
    let backend = Backend::sqlite();
    for (target, trusted) in [("/none", None), ("/others", Some("10.0.0.0/8"))] {
        let canvas = backend.canvas().workers(1);
        let canvas = match trusted {
            Some(networks) => canvas.args(["--trusted-proxies", networks]),
            None => canvas,
        };
        let (noted, canvas) = Noted::by(&backend, canvas);
        let server = canvas.start();
        for name in ["X-Forwarded-For", "Forwarded"] {
            let target = format!("{target}/{name}");
            assert_eq!(
                asked_with(&server, &noted, &target, name, "for=192.0.2.7"),
                "127.0.0.1"
            );
            let target = format!("{target}/bare");
            assert_eq!(
                asked_with(&server, &noted, &target, name, "192.0.2.7"),
                "127.0.0.1"
            );
        }
    }
}
