//! A private Redis Cluster: three masters and a replica of each, maybe over TLS. Its user may do what README says and nothing else.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::backend::Backend;
use super::postgres::Postgres;
use super::process::free_port;
use super::redis::connect;
use super::wait::{PATIENCE, wait_until};
use super::workshop::{PASSWORD, Program, Workshop};

/// README's line for the user of the servers.
pub const ACL: &str = "~canvas-cluster:* &canvas-cluster:* -@all +ping +info +mget +get +set +del +eval +publish +subscribe +cluster|nodes +asking";

/// How many servers there are.
const COUNT: usize = 6;

/// Milliseconds that a server may be silent before another one takes its place: more than a busy machine keeps one from running.
const NODE_TIMEOUT: u32 = 1500;

pub struct Cluster {
    workshop: Workshop,
    servers: Vec<Program>,
}

/// A server, as another one sees it.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its place among the servers.
    pub server: usize,
    id: String,
    pub is_master: bool,
    /// Whose replica it is.
    of: String,
    slots: Vec<(u16, u16)>,
}

impl Node {
    pub fn has(&self, slot: u16) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|(from, to)| (*from..=*to).contains(&slot))
    }
}

impl Cluster {
    pub fn start() -> Self {
        Cluster::start_with(false)
    }

    pub fn over_tls() -> Self {
        Cluster::start_with(true)
    }

    /// The one that those tests share that break nothing.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Cluster::start)
    }

    fn start_with(tls: bool) -> Self {
        let workshop = Workshop::new(tls);
        let servers = (0..COUNT).map(|number| {
            let mut config = format!(
                "requirepass {PASSWORD}\nmasterauth {PASSWORD}\nuser canvas on >pw {ACL}\nsave \"\"\nrepl-diskless-sync-delay 0\n\
                 cluster-enabled yes\ncluster-port {}\ncluster-node-timeout {NODE_TIMEOUT}\ncluster-replica-validity-factor 0\ncluster-allow-replica-migration no\n",
                free_port()
            );
            if tls {
                config.push_str("tls-cluster yes\n");
            }
            workshop.run(&format!("server{number}"), &config, false)
        });
        let servers: Vec<Program> = servers.collect();
        let mut create = workshop.cli();
        create.args(["--cluster", "create"]);
        for server in &servers {
            create.arg(format!("127.0.0.1:{}", server.port));
        }
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let created = create.output().expect("redis-cli");
        let said = String::from_utf8_lossy(&created.stdout);
        assert!(created.status.success(), "no cluster: {said}");
        let cluster = Cluster { workshop, servers };
        cluster.wait_until_whole();
        cluster
    }

    /// A database of its own, and a part of the cluster that no other test has.
    pub fn backend(&self) -> Backend {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut backend = Backend::on(Postgres::shared(), None);
        backend.migrate();
        backend.redis_url = Some(self.url());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        backend.redis_prefix = Some(format!("canvas-cluster:{number}:"));
        backend
    }

    /// Names some of the servers.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.servers[..COUNT / 2]
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect();
        let (scheme, root) = self.workshop.scheme();
        format!("{scheme}+cluster://canvas:pw@{}?{root}", hosts.join(","))
    }

    /// All servers, as one of them that is well sees them.
    pub fn nodes(&self, by: usize) -> Vec<Node> {
        let words = ["CLUSTER", "NODES"];
        let text = self.ask(by, &words).expect("a server that answers");
        // The answer's words without its lines: each begins with an id and an address.
        let words: Vec<&str> = text.split_whitespace().collect();
        let starts: Vec<usize> = (1..words.len())
            .filter(|at| words[*at].contains('@'))
            .collect();
        let ends = starts.iter().skip(1).map(|start| start - 1);
        let lines = starts.iter().zip(ends.chain([words.len()]));
        lines
            .map(|(start, end)| {
                let line = &words[start - 1..end];
                let port = line[1].split(['@', ':']).nth(1).expect("a port");
                let of_port = |server: &Program| server.port.to_string() == port;
                let range = |word: &&str| {
                    let (from, to) = word.split_once('-').unwrap_or((word, word));
                    Some((from.parse().ok()?, to.parse().ok()?))
                };
                Node {
                    server: self.servers.iter().position(of_port).expect("one of ours"),
                    id: line[0].to_owned(),
                    is_master: line[2].split(',').any(|flag| flag == "master"),
                    of: line[3].to_owned(),
                    slots: line[8..].iter().filter_map(range).collect(),
                }
            })
            .collect()
    }

    /// Who serves a slot, as one that is well sees it.
    pub fn master_of(&self, slot: u16, by: usize) -> usize {
        let nodes = self.nodes(by);
        let master = nodes.iter().find(|node| node.has(slot));
        master.expect("somebody who serves it").server
    }

    /// The replica of a master. One that was a master and has just come back may not be it yet.
    pub fn replica_of(&self, master: usize) -> usize {
        let mut found = None;
        wait_until(PATIENCE, "the master to have a replica", || {
            let nodes = self.nodes(master);
            let own = nodes.iter().find(|node| node.server == master);
            let id = &own.expect("itself").id;
            let replica = nodes.iter().find(|node| node.of == *id);
            found = replica.map(|replica| replica.server);
            found.is_some()
        });
        found.expect("a replica")
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

    /// Has a replica take its master's place, which goes on as its replica.
    pub fn promote(&self, replica: usize) {
        let answer = self.ask(replica, &["CLUSTER", "FAILOVER"]);
        assert!(
            answer.is_some_and(|answer| answer.contains("OK")),
            "no failover"
        );
        wait_until(PATIENCE, "the replica to be the master", || {
            self.is_master(replica, replica)
        });
    }

    pub fn is_master(&self, server: usize, by: usize) -> bool {
        let mut nodes = self.nodes(by).into_iter();
        nodes.any(|node| node.server == server && node.is_master && !node.slots.is_empty())
    }

    /// Has a replica go on with what it has, without hearing of its master.
    pub fn cut_off(&self, replica: usize) {
        self.ask(replica, &["CONFIG", "SET", "masterauth", "wrong"]);
        self.ask(replica, &["CLIENT", "KILL", "TYPE", "master"]);
        wait_until(PATIENCE, "the replica to be alone", || {
            let info = self.ask(replica, &["INFO", "replication"]);
            info.is_some_and(|info| info.contains("master_link_status:down"))
        });
    }

    /// Has masters answer while some slots are nobody's.
    pub fn do_in_part(&self) {
        for server in 0..COUNT {
            let words = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
            assert_eq!(self.ask(server, &words).as_deref(), Some("OK "));
        }
    }

    /// Until all that are well know of each other, and the replicas follow.
    pub fn wait_until_whole(&self) {
        for server in 0..COUNT {
            wait_until(PATIENCE, "the cluster to be whole", || {
                let state = self.ask(server, &["CLUSTER", "INFO"]);
                let info = self.ask(server, &["INFO", "replication"]);
                state.is_some_and(|state| {
                    state.contains("cluster_state:ok") && state.contains("cluster_known_nodes:6")
                }) && info.is_some_and(|info| {
                    info.contains("role:master") || info.contains("master_link_status:up")
                })
            });
        }
    }

    /// Moves so many slots from one master to another, the lowest first, while both serve.
    pub fn reshard(&self, from: usize, to: usize, slots: u16) {
        let nodes = self.nodes(from);
        let id_of = |server| {
            let node = nodes.iter().find(|node| node.server == server);
            node.expect("one of ours").id.clone()
        };
        let mut command = self.workshop.cli();
        command
            .args(["--cluster", "reshard"])
            .arg(format!("127.0.0.1:{}", self.servers[from].port))
            .args(["--cluster-from", &id_of(from), "--cluster-to", &id_of(to)])
            .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"]);
        let output = command.output().expect("redis-cli");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "not moved: {said}");
    }

    /// Begins to move a slot, and leaves it so: the keys are moved by [`Cluster::migrate`].
    pub fn open_slot(&self, slot: u16, from: usize, to: usize) {
        let nodes = self.nodes(from);
        let slot = slot.to_string();
        for (server, state, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
            let other = nodes.iter().find(|node| node.server == other);
            let id = &other.expect("one of ours").id;
            let answer = self.ask(server, &["CLUSTER", "SETSLOT", &slot, state, id]);
            assert_eq!(answer.as_deref(), Some("OK "));
        }
    }

    pub fn migrate(&self, key: &str, from: usize, to: usize) {
        let port = self.servers[to].port.to_string();
        let words = [
            "MIGRATE",
            "127.0.0.1",
            &port,
            key,
            "0",
            "5000",
            "AUTH",
            PASSWORD,
        ];
        assert_eq!(self.ask(from, &words).as_deref(), Some("OK "));
    }

    /// Ends the move of a slot.
    pub fn close_slot(&self, slot: u16, from: usize, to: usize) {
        let nodes = self.nodes(from);
        let id = &nodes
            .iter()
            .find(|node| node.server == to)
            .expect("one of ours")
            .id;
        for server in [to, from] {
            let words = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", id];
            assert_eq!(self.ask(server, &words).as_deref(), Some("OK "));
        }
    }

    pub fn slot_of(&self, key: &str) -> u16 {
        let slot = self.ask(0, &["CLUSTER", "KEYSLOT", key]);
        slot.expect("an answer").trim().parse().expect("a slot")
    }

    /// What a server has under a key, be its slot another one's.
    pub fn value_at(&self, server: usize, key: &str) -> Option<String> {
        let mut connection = self.connect(server);
        let mut pipe = redis::pipe();
        pipe.cmd("ASKING").ignore().cmd("GET").arg(key);
        let value: redis::RedisResult<(Option<String>,)> = pipe.query(&mut connection);
        value.ok().and_then(|(value,)| value)
    }

    /// The keys of one server, its own or its master's, that begin so.
    pub fn keys(&self, server: usize, prefix: &str) -> Vec<String> {
        let mut connection = self.connect(server);
        let pattern = format!("{prefix}*");
        let keys = redis::cmd("KEYS").arg(pattern).query(&mut connection);
        keys.expect("keys")
    }

    /// A value that one server holds, be it a replica.
    pub fn copy_at(&self, server: usize, key: &str) -> Option<String> {
        let mut connection = self.connect(server);
        redis::cmd("READONLY")
            .exec(&mut connection)
            .expect("READONLY");
        let value = redis::cmd("GET").arg(key).query(&mut connection);
        value.unwrap_or(None)
    }

    fn connect(&self, server: usize) -> redis::Connection {
        let port = self.servers[server].port;
        connect(&format!("redis://:{PASSWORD}@127.0.0.1:{port}")).expect("the test's Redis")
    }

    pub fn ask(&self, server: usize, words: &[&str]) -> Option<String> {
        self.workshop.ask(self.servers[server].port, words)
    }
}

/// Runs a body on the shared cluster.
pub fn on_a_cluster(body: fn(&Backend)) {
    body(&Cluster::shared().backend());
}
