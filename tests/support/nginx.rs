//! A private nginx in front of servers under test, with `nginx/nginx.conf` itself: only addresses and paths are others.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::dir::Dir;
use super::process::{end, free_port, guarded, spawn};
use super::wait::{PATIENCE, comes_true};

const CONFIGURATION: &str = include_str!("../../nginx/nginx.conf");

pub struct Nginx {
    child: Child,
    address: SocketAddr,
    /// Holds its configuration and logs.
    dir: Dir,
}

/// Replaces what is there exactly once.
#[track_caller]
pub fn replace_one(text: &str, what: &str, by: &str) -> String {
    assert_eq!(text.matches(what).count(), 1, "`{what}` in a configuration");
    text.replace(what, by)
}

/// Puts servers into the place of those that a configuration names: each line is `before ADDRESS after`.
#[track_caller]
pub fn replace_servers(text: &str, servers: &[SocketAddr]) -> String {
    let examples = ["10.0.0.11:1121", "10.0.0.12:1121", "10.0.0.13:1121"];
    assert_eq!(examples.len(), servers.len(), "one for each in the file");
    let pairs = examples.iter().zip(servers);
    pairs.fold(text.to_owned(), |text, (example, server)| {
        assert!(text.contains(example), "{example} in a configuration");
        text.replace(example, &server.to_string())
    })
}

impl Nginx {
    /// Starts it before three servers, with so much patience for their answers; `None` is the file's own.
    pub fn before(servers: &[SocketAddr], patience: Option<&str>) -> Nginx {
        let dir = Dir::new();
        for _ in 0..5 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let path = dir.path().display().to_string();
            let mut text = replace_servers(CONFIGURATION, servers);
            if let Some(patience) = patience {
                let longer = format!("proxy_read_timeout {patience};");
                text = replace_one(&text, "proxy_read_timeout 5s;", &longer);
            }
            for (what, by) in [
                ("user www-data;", "user root;".to_owned()),
                ("/run/nginx.pid", format!("{path}/nginx.pid")),
                ("/var/log/nginx/error.log", format!("{path}/error.log")),
                ("/var/log/nginx/access.log", format!("{path}/access.log")),
                ("listen 80 ", format!("listen {address} ")),
                (
                    "http {\n",
                    format!(
                        "http {{\n    client_body_temp_path {path}/body;\n    proxy_temp_path {path}/proxy;\n    fastcgi_temp_path {path}/fastcgi;\n    uwsgi_temp_path {path}/uwsgi;\n    scgi_temp_path {path}/scgi;\n"
                    ),
                ),
            ] {
                text = replace_one(&text, what, &by);
            }
            let file = dir.write("nginx.conf", &text);
            let tested = Command::new(program())
                .arg("-t")
                .arg("-c")
                .arg(&file)
                .output()
                .expect("nginx's program");
            assert!(
                tested.status.success(),
                "nginx -t: {}",
                String::from_utf8_lossy(&tested.stderr)
            );
            let mut command = guarded(program(), Signal::SIGTERM, None);
            command
                .arg("-c")
                .arg(&file)
                .args(["-g", "daemon off;"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = spawn(command).expect("nginx's program");
            let mut gone = false;
            let listens = comes_true(PATIENCE, || {
                gone = child.try_wait().expect("our own child").is_some();
                gone || TcpStream::connect(address).is_ok()
            });
            if listens && !gone {
                return Nginx {
                    child,
                    address,
                    dir,
                };
            }
            end(&mut child);
        }
        panic!("nginx does not start: {}", dir.path().display());
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has complained of so far.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(self.dir.join("error.log")).expect("nginx's log")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked.
        super::process::signal(self.child.id() as i32, Signal::SIGTERM);
        comes_true(PATIENCE, || {
            self.child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        end(&mut self.child);
    }
}

/// Debian has it in /usr/sbin, which PATH does not always name.
fn program() -> &'static str {
    match std::path::Path::new("/usr/sbin/nginx").is_file() {
        true => "/usr/sbin/nginx",
        false => "nginx",
    }
}
