//! Behind a proxy: whose word is taken about the client, as the access log shows it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde_json::Value;

use crate::support::haproxy::HaProxy;
use crate::support::http::{Client, Request};
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

/// An address of this host that no proxy of the tests has.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// A server that listens on a proxied address and on a plain one, in this order.
fn proxied(backend: &Backend) -> (Noted, Canvas) {
    let canvas = backend.canvas().workers(2).args([
        "--allow-anonymous-writes",
        "--listen",
        "proxy+127.0.0.1:0,127.0.0.1:0",
    ]);
    Noted::by(backend, canvas)
}

#[track_caller]
fn serve(canvas: Canvas) -> Server {
    let mut server = canvas.launch_as_it_is();
    server.wait_until_ready();
    server
}

#[test]
fn haproxy_introduces_its_clients_in_both_versions_of_the_proxy_protocol() {
    let backend = Backend::sqlite();
    let (noted, canvas) = proxied(&backend);
    let server = serve(canvas);
    for version in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options unique-id,crc32c",
    ] {
        let haproxy = HaProxy::before(server.address(), version, &["unique-id-format %ID"]);
        let mut client = Client::connect_from(CLIENT, haproxy.address()).expect("a connection");
        for number in 0..3 {
            let target = format!("/{}/{number}", version.replace(' ', "/"));
            client.get(&target).expect("an answer").expect(404);
            assert_eq!(noted.client_of(&target), "127.0.0.9", "{version}");
        }
    }
    // The plain address beside it takes no header and needs none.
    let mut direct = Client::connect(server.addresses()[1]).expect("a connection");
    direct.get("/direct").expect("an answer").expect(404);
    assert_eq!(noted.client_of("/direct"), "127.0.0.1");
}

/// HAProxy's checks are LOCAL connections, which belong to HAProxy; clients get through only once one has succeeded.
#[test]
fn haproxy_checks_the_server_on_its_own_behalf() {
    let backend = Backend::sqlite();
    let (noted, canvas) = proxied(&backend);
    let server = serve(canvas);
    let check = [
        "option httpchk",
        "http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host check",
    ];
    let options = "send-proxy-v2 check check-send-proxy inter 100ms";
    let haproxy = HaProxy::before(server.address(), options, &check);
    assert_eq!(noted.client_of("/readyz"), "127.0.0.1");
    let mut client = Client::connect_from(CLIENT, haproxy.address()).expect("a connection");
    client.get("/after").expect("an answer").expect(404);
    assert_eq!(noted.client_of("/after"), "127.0.0.9");
}

/// The fields are judged by whom the PROXY header names, not by who connects.
#[test]
fn haproxy_s_fields_and_header_work_together() {
    let backend = Backend::sqlite();
    let (noted, canvas) = proxied(&backend);
    let server = serve(canvas.args(["--trusted-proxies", "127.0.0.1"]));
    let [proxied, plain] = *server.addresses() else {
        panic!("two addresses");
    };
    let forged = |target: &str| Request::new("GET", target).header("X-Forwarded-For", "6.6.6.6");
    let ask = |haproxy: &HaProxy, source: IpAddr, target: &str| {
        let mut client = Client::connect_from(source, haproxy.address()).expect("a connection");
        client.call(&forged(target)).expect("an answer").expect(404);
        noted.client_of(target)
    };
    // Only the field, which HAProxy adds to the client's own.
    let haproxy = HaProxy::before(plain, "", &["option forwardfor"]);
    assert_eq!(ask(&haproxy, CLIENT, "/field"), "127.0.0.9");
    // Only the header: its client is not trusted, whatever field it sends; one that is trusted is believed.
    let haproxy = HaProxy::before(proxied, "send-proxy-v2", &[]);
    assert_eq!(ask(&haproxy, CLIENT, "/header"), "127.0.0.9");
    let trusted = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(ask(&haproxy, trusted, "/both"), "6.6.6.6");
}

#[test]
fn a_client_keeps_its_address_over_a_rest_and_a_reload_changes_what_is_spoken() {
    let backend = Backend::sqlite();
    let (noted, canvas) = Noted::by(&backend, backend.canvas().workers(1));
    let port = crate::support::process::free_port();
    let write = |mark: &str| {
        backend.dir.write(
            "config.toml",
            &format!("allow_anonymous_writes = true\nlisten = \"{mark}127.0.0.1:{port}\"\n"),
        )
    };
    let server = serve(canvas.arg("--config").arg(write("proxy+")));
    let mut client = server.connect();
    client
        .send_raw(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n")
        .expect("sent");
    client.get("/first").expect("an answer").expect(404);
    // After a second without a request it gives its coroutine back.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    client.get("/second").expect("an answer").expect(404);
    assert_eq!(noted.client_of("/first"), "192.0.2.7");
    assert_eq!(noted.client_of("/second"), "192.0.2.7");
    let mut stranger = server.connect();
    stranger
        .send_raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .expect("sent");
    assert!(stranger.is_closed(), "it did not say whose it is");

    // An idle client would keep the old worker until it asks again.
    drop(client);
    write("");
    server.reload(1);
    server.get("/plain").expect(404);
    assert_eq!(noted.client_of("/plain"), "127.0.0.1");
}

#[test]
fn a_proxied_address_on_loopback_lets_nobody_write_by_accident() {
    let dir = crate::support::Dir::new();
    Canvas::new(dir.path())
        .args(["--listen", "proxy+127.0.0.1:0"])
        .run()
        .expect(100)
        .naming(&["proxy+127.0.0.1:0", "--write-token-file"]);
}
