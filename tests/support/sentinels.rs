//! A private group of Redis servers: a master, a replica of it, and three Sentinels; maybe over TLS by a certificate of our own
//! making. Servers and Sentinels have a user each that may do what README says and nothing else.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::dir::Dir;
use super::process::{end, find_program, free_port, guarded, signal, spawn};
use super::relay::Relay;
use super::wait::{PATIENCE, wait_until};

const NAME: &str = "shoes";
const PASSWORD: &str = "admin-pw-Giraffe9";

/// README's line for the user of the servers, and the one for that of the Sentinels.
pub const ACL: &str = "~canvas-cluster:* &canvas-cluster:* -@all +ping +info +role +mget +get +set +del +eval +publish +subscribe";
pub const SENTINEL_ACL: &str = "-@all +sentinel|get-master-addr-by-name +sentinel|master";

pub struct Sentinels {
    dir: Dir,
    tls: bool,
    /// The one that was the master at first, and its replica.
    servers: Vec<Program>,
    sentinels: Vec<Program>,
    /// Between the two servers.
    pub relay: Option<Relay>,
}

struct Program {
    port: u16,
    child: Mutex<Option<Child>>,
}

impl Program {
    fn pid(&self) -> i32 {
        self.child
            .lock()
            .unwrap()
            .as_ref()
            .expect("a running Redis")
            .id() as i32
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = self
            .child
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            end(child);
        }
    }
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
            dir: Dir::new(),
            tls,
            servers: Vec::new(),
            sentinels: Vec::new(),
            relay: None,
        };
        if tls {
            group.make_certificates();
        }
        let auth = format!(
            "requirepass {PASSWORD}\nmasterauth {PASSWORD}\nuser canvas on >pw {ACL}\nsave \"\"\nrepl-diskless-sync-delay 0\n"
        );
        let master = group.run("server0", &auth, false);
        let source = match relay {
            true => group.relay.insert(Relay::to(master.port)).port(),
            false => master.port,
        };
        let watched = master.port;
        group.servers.push(master);
        let replica = group.run(
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
            let sentinel = group.run(&format!("sentinel{number}"), &config, true);
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
        let (scheme, root) = match self.tls {
            true => (
                "rediss",
                format!("&sslrootcert={}", self.file("ca.pem").display()),
            ),
            false => ("redis", String::new()),
        };
        format!(
            "{scheme}+sentinel://canvas:pw@{}/{NAME}?sentinel_user=eye&sentinel_password=eye-pw{root}",
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
        let mut child = self.servers[server].child.lock().unwrap();
        end(child.as_mut().expect("a running Redis"));
        *child = None;
    }

    pub fn freeze(&self, server: usize) {
        signal(self.servers[server].pid(), Signal::SIGSTOP);
    }

    pub fn thaw(&self, server: usize) {
        signal(self.servers[server].pid(), Signal::SIGCONT);
    }

    /// Keeps one of the Sentinels from answering.
    pub fn freeze_a_sentinel(&self) {
        signal(self.sentinels[0].pid(), Signal::SIGSTOP);
    }

    /// Has the Sentinels promote the replica; the old master goes on as one for some seconds.
    pub fn ask_for_failover(&self) {
        let answer = self.ask(self.sentinels[2].port, &["SENTINEL", "FAILOVER", NAME]);
        assert!(
            answer.is_some_and(|answer| answer.contains("OK")),
            "no failover"
        );
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
        let port = self.servers[server].port;
        let keys = self.ask(port, &["KEYS", "*"]).unwrap_or_default();
        keys.split_whitespace().any(|key| {
            self.ask(port, &["GET", key])
                .is_some_and(|value| value.contains(text))
        })
    }

    /// A command's answer by redis-cli, its parts behind each other; `None` where nobody answers.
    fn ask(&self, port: u16, words: &[&str]) -> Option<String> {
        let mut command = guarded(find_program("redis-cli", "/usr/bin"), Signal::SIGKILL, None);
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-a",
            PASSWORD,
            "--no-auth-warning",
        ]);
        if self.tls {
            command
                .arg("--tls")
                .arg("--cacert")
                .arg(self.file("ca.pem"));
        }
        let output = command.args(words).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success() && !text.is_empty()).then(|| {
            text.split_whitespace()
                .flat_map(|word| [word, " "])
                .collect()
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn make_certificates(&self) {
        let mut params = CertificateParams::new([]).expect("parameters");
        params
            .distinguished_name
            .push(DnType::CommonName, "the test's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        for (name, text) in [
            ("ca.pem", authority.pem()),
            ("server.pem", certificate.pem()),
            ("server.key", key.serialize_pem()),
        ] {
            std::fs::write(self.file(name), text).expect("a file");
        }
    }

    fn run(&self, name: &str, config: &str, sentinel: bool) -> Program {
        for _ in 0..5 {
            let port = free_port();
            let folder = self.file(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            let listen = match self.tls {
                true => format!(
                    "port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n",
                    self.file("server.pem").display(),
                    self.file("server.key").display(),
                    self.file("ca.pem").display()
                ),
                false => format!("port {port}\n"),
            };
            let path = folder.join("redis.conf");
            let text = format!("bind 127.0.0.1\ndir {}\n{listen}{config}", folder.display());
            std::fs::write(&path, text).expect("a file");
            let log = File::create(folder.join("redis.log")).expect("a log");
            let mut command = guarded(
                find_program("redis-server", "/usr/lib/redis"),
                Signal::SIGKILL,
                None,
            );
            command
                .arg(&path)
                .stdin(Stdio::null())
                .stdout(log)
                .stderr(Stdio::null());
            if sentinel {
                command.arg("--sentinel");
            }
            let mut child = spawn(command).expect("Redis' program");
            let mut gone = false;
            wait_until(PATIENCE, "Redis to start", || {
                gone = child
                    .try_wait()
                    .expect("waiting for our own child")
                    .is_some();
                gone || self
                    .ask(port, &["PING"])
                    .is_some_and(|pong| pong.contains("PONG"))
            });
            if !gone {
                return Program {
                    port,
                    child: Mutex::new(Some(child)),
                };
            }
        }
        panic!("Redis does not start: see {}", self.file(name).display());
    }
}
