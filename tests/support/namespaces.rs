//! Hosts on one machine: a network namespace each, with a cable (a veth pair) to the test's own. Takes root; where there is
//! none, callers do with ports of loopback, and say so. All is removed in the end, also when the test fails.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// A host of its own.
pub struct Namespace {
    name: String,
    cable: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

impl Namespace {
    /// Makes one, or tells why it can't.
    pub fn make() -> Result<Namespace, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root makes network namespaces".into());
        }
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 64;
        let process = std::process::id();
        // 198.18.0.0/15 is for tests of networks (RFC 2544), so nobody is in the way.
        let third = (process % 251) as u8;
        let address = |last: u8| Ipv4Addr::new(198, 18, third, number * 4 + last);
        let made = Namespace {
            name: format!("canvas-{process}-{number}"),
            cable: format!("cc{}-{number}", process % 1_000_000),
            here: address(1),
            there: address(2),
        };
        // From here on what is there is removed, whatever fails.
        let Namespace {
            name,
            cable,
            here,
            there,
        } = &made;
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {cable} type veth peer name eth0 netns {name}"
        ))?;
        ip(&format!("address add {here}/30 dev {cable}"))?;
        ip(&format!("link set {cable} up"))?;
        ip(&format!("-n {name} address add {there}/30 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(made)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The test's end of the cable.
    pub fn here(&self) -> IpAddr {
        self.here.into()
    }

    /// The host's end.
    pub fn there(&self) -> IpAddr {
        self.there.into()
    }

    /// From now on nobody hears anything of the host: no answer, no reset, no refusal.
    pub fn cut(&self) {
        self.must(&format!("route add blackhole {}/32", self.here));
    }

    /// Takes that back.
    pub fn heal(&self) {
        self.must(&format!("route del blackhole {}/32", self.here));
    }

    fn must(&self, what: &str) {
        ip(&format!("-n {} {what}", self.name)).expect("the host's routes are ours");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable first: a namespace lives on, nameless, until its last process has ended.
        for what in [
            format!("link del {}", self.cable),
            format!("netns del {}", self.name),
        ] {
            if let Err(why) = ip(&what) {
                eprintln!("left behind: {why}");
            }
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let ended = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(format!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&ended.stderr).trim()
        )),
    }
}
