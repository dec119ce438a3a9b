//! A private HAProxy in front of a server under test: the reference for the PROXY protocol, whose authors wrote it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use super::dir::Dir;
use super::nginx::{replace_one, replace_servers};
use super::process::{end, find_program, free_port, guarded, spawn};
use super::wait::{PATIENCE, comes_true};

const CONFIGURATION: &str = include_str!("../../haproxy/haproxy.cfg");

pub struct HaProxy {
    child: Child,
    address: SocketAddr,
    /// Holds its configuration.
    _dir: Dir,
}

impl HaProxy {
    /// Starts it with `haproxy/haproxy.cfg` itself before three servers: only addresses are others, and its
    /// patience for their answers where that is given.
    pub fn as_documented(servers: &[SocketAddr], patience: Option<&str>) -> Self {
        HaProxy::start(|address| {
            let text = replace_servers(CONFIGURATION, servers);
            let text = replace_one(&text, "bind :80", &format!("bind {address}"));
            let text = replace_one(&text, "maxconn 20000", "maxconn 2000");
            match patience {
                Some(patience) => {
                    let longer = format!("timeout server {patience}");
                    let text = replace_one(&text, "timeout server 5s", &longer);
                    let longer = format!("timeout check {patience}");
                    replace_one(&text, "timeout check 3s", &longer)
                }
                None => text,
            }
        })
    }

    /// Passes HTTP on to `server`, with these options for it (`send-proxy`, …) and these lines more in the section.
    pub fn before(server: SocketAddr, options: &str, lines: &[&str]) -> Self {
        HaProxy::start(|address| {
            format!(
                "global\n    maxconn 200\n\
                 defaults\n    mode http\n    timeout connect 30s\n    timeout client 30s\n    timeout server 30s\n\
                 listen shop\n    bind {address}\n    {}\n    server one {server} {options}\n",
                lines.join("\n    ")
            )
        })
    }

    fn start(configuration: impl Fn(SocketAddr) -> String) -> Self {
        let dir = Dir::new();
        for _ in 0..5 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let config = dir.write("haproxy.cfg", &configuration(address));
            let program = find_program("haproxy", "/usr/local");
            let mut command = guarded(program, Signal::SIGKILL, None);
            command
                .arg("-db")
                .arg("-f")
                .arg(config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = spawn(command).expect("HAProxy's program");
            let mut gone = false;
            let listens = comes_true(PATIENCE, || {
                let status = child.try_wait().expect("waiting for our own child");
                gone = status.is_some();
                gone || TcpStream::connect(address).is_ok()
            });
            if listens && !gone {
                return HaProxy {
                    child,
                    address,
                    _dir: dir,
                };
            }
            end(&mut child);
        }
        panic!("HAProxy does not start: {}", dir.path().display());
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
