//! Private Redis programs by configuration files: servers and Sentinels, maybe over TLS by a certificate of our own making.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::dir::Dir;
use super::process::{end, find_program, free_port, guarded, signal, spawn};
use super::wait::{PATIENCE, wait_until};

/// The administrator's password everywhere.
pub const PASSWORD: &str = "admin-pw-Giraffe9";

/// A program that runs, or was killed.
pub struct Program {
    pub port: u16,
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

    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        end(child.as_mut().expect("a running Redis"));
        *child = None;
    }

    pub fn freeze(&self) {
        signal(self.pid(), Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        signal(self.pid(), Signal::SIGCONT);
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

/// Where they are run.
pub struct Workshop {
    dir: Dir,
    tls: bool,
}

impl Workshop {
    pub fn new(tls: bool) -> Self {
        let workshop = Workshop {
            dir: Dir::new(),
            tls,
        };
        if tls {
            workshop.make_certificates();
        }
        workshop
    }

    /// `rediss` or `redis`, and the parameter that names the authority, if there is one.
    pub fn scheme(&self) -> (&'static str, String) {
        match self.tls {
            true => (
                "rediss",
                format!("sslrootcert={}", self.file("ca.pem").display()),
            ),
            false => ("redis", String::new()),
        }
    }

    /// Whether a server's cache holds this text in some value.
    pub fn holds(&self, port: u16, text: &str) -> bool {
        let keys = self.ask(port, &["KEYS", "*"]).unwrap_or_default();
        keys.split_whitespace().any(|key| {
            self.ask(port, &["GET", key])
                .is_some_and(|value| value.contains(text))
        })
    }

    /// redis-cli, with what it takes to get in.
    pub fn cli(&self) -> std::process::Command {
        let mut command = guarded(find_program("redis-cli", "/usr/bin"), Signal::SIGKILL, None);
        command.args(["-a", PASSWORD, "--no-auth-warning"]);
        if self.tls {
            command
                .arg("--tls")
                .arg("--cacert")
                .arg(self.file("ca.pem"));
        }
        command.stdin(Stdio::null());
        command
    }

    /// A command's answer by redis-cli, its parts behind each other; `None` where nobody answers.
    pub fn ask(&self, port: u16, words: &[&str]) -> Option<String> {
        let mut command = self.cli();
        command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        let output = command.args(words).output().ok()?;
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

    /// Starts one; the configuration says nothing of where it listens.
    pub fn run(&self, name: &str, config: &str, sentinel: bool) -> Program {
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
