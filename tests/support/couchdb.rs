//! Private servers that speak CouchDB's protocol, behind a password. CouchDB is in no Debian; PouchDB's server from npm stands in for
//! it (`tests/couchdb`). One in memory is shared by the tests that only use it; a test that breaks it starts its own, in a folder.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use ureq::http::Request;

use super::dir::Dir;
use super::process::{end, find_program, free_port, guarded, signal, spawn};
use super::wait::{PATIENCE, comes_true, wait_until};

pub const USER: &str = "shop";
pub const PASSWORD: &str = "couch/p@ss:Zebra7";
pub const PASSWORD_ENCODED: &str = "couch%2Fp%40ss%3AZebra7";

const SECOND: Duration = Duration::from_secs(1);

pub struct CouchDb {
    /// `None` for the shared one, which needs no files.
    dir: Option<Dir>,
    /// The files of a certificate and its key.
    tls: Option<(PathBuf, PathBuf)>,
    port: u16,
    server: Mutex<Option<Child>>,
}

/// A database that no other test has. It need not be there yet.
pub struct CouchDatabase {
    pub name: String,
    port: u16,
}

impl CouchDb {
    /// The server that all tests of this binary share. Never stop it, nor have it commit a fault.
    pub fn shared() -> &'static CouchDb {
        static SHARED: OnceLock<CouchDb> = OnceLock::new();
        SHARED.get_or_init(|| CouchDb::create(None, None))
    }

    /// A server of the test's own, started.
    pub fn private() -> Self {
        CouchDb::create(Some(Dir::new()), None)
    }

    /// One that speaks TLS, with a certificate and its key.
    pub fn with_tls(certificate: &Path, key: &Path) -> Self {
        CouchDb::create(None, Some((certificate.to_owned(), key.to_owned())))
    }

    fn create(dir: Option<Dir>, tls: Option<(PathBuf, PathBuf)>) -> Self {
        let mut couchdb = CouchDb {
            dir,
            tls,
            port: 0,
            server: Mutex::new(None),
        };
        let started = (0..5).any(|_| {
            couchdb.port = free_port();
            couchdb.try_start()
        });
        assert!(started, "CouchDB's stand-in does not start");
        couchdb
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn database(&self) -> CouchDatabase {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        CouchDatabase {
            name: format!("shoes_{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            port: self.port,
        }
    }

    /// Starts the killed server again on the same port, with what it had.
    pub fn start(&self) {
        wait_until(2 * PATIENCE, "CouchDB's stand-in to start again", || {
            self.try_start()
        });
    }

    pub fn kill(&self) {
        let mut server = self.server.lock().unwrap();
        end(server.as_mut().expect("a running server"));
        *server = None;
    }

    /// Keeps the connections open and answers nothing.
    pub fn freeze(&self) {
        signal(self.pid(), Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        signal(self.pid(), Signal::SIGCONT);
    }

    /// Has the next write meet one of the faults of `tests/couchdb/server.js`.
    #[track_caller]
    pub fn fault(&self, name: &str) {
        let (status, said) = ask(self.port, "PUT", "/_fault", name);
        assert_eq!(status, 201, "{said}");
    }

    /// Whether the fault has happened.
    pub fn is_past_fault(&self) -> bool {
        ask(self.port, "GET", "/_seen", "").1["fault"].is_null()
    }

    /// The requests for databases so far.
    pub fn served(&self) -> u64 {
        let seen = ask(self.port, "GET", "/_seen", "").1;
        seen["served"].as_u64().expect("a number")
    }

    fn pid(&self) -> i32 {
        let server = self.server.lock().unwrap();
        server.as_ref().expect("a running server").id() as i32
    }

    fn try_start(&self) -> bool {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/couchdb");
        assert!(
            folder.join("node_modules/express-pouchdb").is_dir(),
            "what stands in for CouchDB is not installed: `tests/run test` does it, or (cd tests/couchdb && npm ci --ignore-scripts)"
        );
        let mut command = guarded(program(), Signal::SIGKILL, None);
        command.arg(folder.join("server.js"));
        let log = self.dir.as_ref().map(|dir| {
            let data = dir.join("couchdb");
            std::fs::create_dir_all(&data).expect("a folder");
            command.arg(data);
            let log = dir.join("couchdb.log");
            let log = File::options().append(true).create(true).open(log);
            Stdio::from(log.expect("a log"))
        });
        if let Some((certificate, key)) = &self.tls {
            command.env("CERT", certificate).env("KEY", key);
        }
        command
            .env("USER", USER)
            .env("PASSWORD", PASSWORD)
            .env("PORT", self.port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap_or_else(Stdio::inherit));
        let mut child = spawn(command).expect("Node.js");
        let mut gone = false;
        let answers = comes_true(PATIENCE, || {
            let ended = child.try_wait().expect("waiting for our own child");
            gone = ended.is_some();
            gone || match self.tls {
                Some(_) => TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
                None => try_to_ask(self.port, "GET", "/_seen", "", SECOND).is_ok(),
            }
        });
        if gone || !answers {
            end(&mut child);
            return false;
        }
        *self.server.lock().unwrap() = Some(child);
        true
    }
}

impl Drop for CouchDb {
    fn drop(&mut self) {
        let server = self.server.get_mut();
        if let Some(child) = server.unwrap_or_else(|poisoned| poisoned.into_inner()) {
            end(child);
        }
    }
}

impl CouchDatabase {
    /// The URL with the password in it.
    pub fn url(&self) -> String {
        self.url_with(PASSWORD_ENCODED)
    }

    pub fn url_with(&self, password: &str) -> String {
        let (port, name) = (self.port, &self.name);
        format!("couchdb://{USER}:{password}@127.0.0.1:{port}/{name}")
    }

    /// Asks past the server: status and answer. `path` is below the database, and begins with a slash unless it is empty.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        ask(self.port, method, &format!("/{}{path}", self.name), body)
    }

    /// Stores a document past the server, new or not.
    #[track_caller]
    pub fn put(&self, id: &str, document: &Value) {
        let mut document = document.clone();
        if let (200, there) = self.ask("GET", &format!("/{id}"), "") {
            document["_rev"] = there["_rev"].clone();
        }
        let (status, said) = self.ask("PUT", &format!("/{id}"), &document.to_string());
        assert_eq!(status, 201, "{said}");
    }

    /// A document as it is, with the revisions of others that lost against it, if there are any.
    #[track_caller]
    pub fn document(&self, id: &str) -> Value {
        let (status, document) = self.ask("GET", &format!("/{id}?conflicts=true"), "");
        assert_eq!(status, 200, "{document}");
        document
    }

    /// How many rows there are.
    #[track_caller]
    pub fn count(&self) -> i64 {
        let (status, all) = self.ask("GET", "/_all_docs", "");
        assert_eq!(status, 200, "{all}");
        let rows = all["rows"].as_array().expect("rows").iter();
        let is_row = |row: &&Value| !row["id"].as_str().expect("an id").starts_with("_design/");
        rows.filter(is_row).count() as i64
    }
}

#[track_caller]
fn ask(port: u16, method: &str, path: &str, body: &str) -> (u16, Value) {
    try_to_ask(port, method, path, body, PATIENCE).expect("an answer of CouchDB's stand-in")
}

fn try_to_ask(
    port: u16,
    method: &str,
    path: &str,
    body: &str,
    patience: Duration,
) -> Result<(u16, Value), ureq::Error> {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let authorization = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let request = Request::builder()
        .method(method)
        .uri(format!("http://127.0.0.1:{port}{path}"))
        .header("Authorization", format!("Basic {authorization}"))
        .header("Content-Type", "application/json");
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(patience));
    let agent = config.build().new_agent();
    let mut response = match body {
        "" => agent.run(request.body(())?)?,
        body => agent.run(request.body(body)?)?,
    };
    let text = response.body_mut().read_to_string()?;
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
    Ok((response.status().as_u16(), answer))
}

fn program() -> PathBuf {
    find_program("node", "/usr/lib/nodejs")
}
