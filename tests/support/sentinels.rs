//! A private group of Redis servers: a master, a replica of it, and three Sentinels; maybe over TLS by a certificate of our own
//! making. Servers and Sentinels have a user each that may do what README says and nothing else.

use super::relay::Relay;
use super::wait::{PATIENCE, wait_until};
use super::workshop::{PASSWORD, Program, Workshop};

const NAME: &str = "shoes";

/// README's line for the user of the servers, and the one for that of the Sentinels.
pub const ACL: &str = "~canvas-cluster:* &canvas-cluster:* -@all +ping +info +role +mget +get +set +del +eval +publish +subscribe";
pub const SENTINEL_ACL: &str = "-@all +sentinel|get-master-addr-by-name +sentinel|master";

pub struct Sentinels {
    workshop: Workshop,
    /// The one that was the master at first, and its replica.
    servers: Vec<Program>,
    sentinels: Vec<Program>,
    /// Between the two servers.
    pub relay: Option<Relay>,
}

impl Sentinels {
    pub fn start() -> Self {
        Sentinels::start_with(false, false)
    }

    pub fn over_tls() -> Self {
        Sentinels::start_with(true, false)
    }

    /// With a relay on the way from the master to its replica.
    pub fn with_relay() -> Self {
        Sentinels::start_with(false, true)
    }

    fn start_with(tls: bool, relay: bool) -> Self {
        let mut group = Sentinels {
            workshop: Workshop::new(tls),
            servers: Vec::new(),
            sentinels: Vec::new(),
            relay: None,
        };
        let auth = format!(
            "requirepass {PASSWORD}\nmasterauth {PASSWORD}\nuser canvas on >pw {ACL}\nsave \"\"\nrepl-diskless-sync-delay 0\n"
        );
        let master = group.workshop.run("server0", &auth, false);
        let source = match relay {
            true => group.relay.insert(Relay::to(master.port)).port(),
            false => master.port,
        };
        let watched = master.port;
        group.servers.push(master);
        let replica = group.workshop.run(
            "server1",
            &format!("{auth}replicaof 127.0.0.1 {source}\n"),
            false,
        );
        group.servers.push(replica);
        wait_until(PATIENCE, "the replica to follow", || {
            group
                .ask(group.servers[1].port, &["INFO", "replication"])
                .is_some_and(|info| info.contains("master_link_status:up"))
        });
        for number in 0..3 {
            let config = format!(
                "requirepass {PASSWORD}\nsentinel sentinel-pass {PASSWORD}\nuser eye on >eye-pw {SENTINEL_ACL}\n\
                 sentinel monitor {NAME} 127.0.0.1 {watched} 2\nsentinel auth-pass {NAME} {PASSWORD}\n\
                 sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 60000\n"
            );
            let sentinel = group
                .workshop
                .run(&format!("sentinel{number}"), &config, true);
            group.sentinels.push(sentinel);
        }
        for sentinel in &group.sentinels {
            wait_until(
                PATIENCE,
                "the Sentinels to know each other and the replica",
                || {
                    let facts = group.ask(sentinel.port, &["SENTINEL", "MASTER", NAME]);
                    facts.is_some_and(|facts| {
                        facts.contains("num-other-sentinels 2 ") && facts.contains("num-slaves 1 ")
                    })
                },
            );
        }
        group
    }

    /// `rediss` and a parameter that names the authority, where it is over TLS.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self
            .sentinels
            .iter()
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
            .collect();
        let (scheme, root) = self.workshop.scheme();
        format!(
            "{scheme}+sentinel://canvas:pw@{}/{NAME}?sentinel_user=eye&sentinel_password=eye-pw&{root}",
            hosts.join(",")
        )
    }

    /// Which of the servers the first Sentinel calls the master.
    pub fn master(&self) -> usize {
        self.master_of(0)
    }

    /// Which one another Sentinel does.
    pub fn master_of(&self, sentinel: usize) -> usize {
        let port = self.sentinels[sentinel].port;
        let named = self
            .ask(port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])
            .expect("a Sentinel that answers");
        let port = named
            .split_whitespace()
            .next_back()
            .expect("a port")
            .to_owned();
        self.servers
            .iter()
            .position(|server| server.port.to_string() == port)
            .expect("one of ours")
    }

    pub fn kill(&self, server: usize) {
        self.servers[server].kill();
    }

    pub fn freeze(&self, server: usize) {
        self.servers[server].freeze();
    }

    pub fn thaw(&self, server: usize) {
        self.servers[server].thaw();
    }

    /// Keeps one of the Sentinels from answering.
    pub fn freeze_a_sentinel(&self) {
        self.sentinels[0].freeze();
    }

    /// Has the Sentinels promote the replica; the old master goes on as one for some seconds.
    pub fn ask_for_failover(&self) {
        // One that has not looked at the replica since it has been one refuses.
        wait_until(PATIENCE, "a Sentinel to begin a failover", || {
            let answer = self.ask(self.sentinels[2].port, &["SENTINEL", "FAILOVER", NAME]);
            answer.is_some_and(|answer| answer.contains("OK"))
        });
    }

    pub fn wait_for_another(&self, before: usize) {
        self.wait_for_another_of(0, before);
    }

    pub fn wait_for_another_of(&self, sentinel: usize, before: usize) {
        wait_until(PATIENCE, "Sentinels to name another master", || {
            self.master_of(sentinel) != before
        });
    }

    /// Until the old master is the new one's replica.
    pub fn wait_until_whole(&self) {
        let replica = 1 - self.master();
        wait_until(PATIENCE, "the old master to be a replica", || {
            let info = self.ask(self.servers[replica].port, &["INFO", "replication"]);
            info.is_some_and(|info| info.contains("master_link_status:up"))
        });
    }

    /// Whether a server's cache holds this text in some value.
    pub fn holds(&self, server: usize, text: &str) -> bool {
        self.workshop.holds(self.servers[server].port, text)
    }

    fn ask(&self, port: u16, words: &[&str]) -> Option<String> {
        self.workshop.ask(port, words)
    }
}
