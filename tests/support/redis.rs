//! Private Redis servers: in memory only, behind a password, one database number a test. One is shared by the
//! tests that only use it; a test that breaks Redis starts its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use nix::sys::signal::Signal;

use super::dir::Dir;
use super::process::{end, find_program, free_port, guarded, signal, spawn};
use super::wait::{PATIENCE, comes_true, wait_until};

pub const PASSWORD: &str = "redis/p@ss:Giraffe9";
pub const PASSWORD_ENCODED: &str = "redis%2Fp%40ss%3AGiraffe9";

const DATABASES: u32 = 4096;

pub struct Redis {
    /// `None` for the shared one, which needs no files.
    dir: Option<Dir>,
    port: u16,
    server: Mutex<Option<Child>>,
}

impl Redis {
    /// The server that all tests of this binary share. Never stop it.
    pub fn shared() -> &'static Redis {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(|| Redis::create(None))
    }

    /// A server of the test's own, started.
    pub fn private() -> Self {
        Redis::create(Some(Dir::new()))
    }

    fn create(dir: Option<Dir>) -> Self {
        let mut redis = Redis {
            dir,
            port: 0,
            server: Mutex::new(None),
        };
        let started = (0..5).any(|_| {
            redis.port = free_port();
            redis.try_start()
        });
        assert!(started, "Redis does not start");
        redis
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database number that no other test has.
    pub fn url(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        self.url_of(
            NEXT.fetch_add(1, Ordering::Relaxed) % DATABASES,
            PASSWORD_ENCODED,
        )
    }

    pub fn url_of(&self, database: u32, password: &str) -> String {
        format!("redis://:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Starts the stopped server again on the same port: empty, or with what was saved.
    pub fn start(&self) {
        wait_until(PATIENCE, "Redis to start again", || self.try_start());
    }

    pub fn kill(&self) {
        let mut server = self.server.lock().unwrap();
        end(server.as_mut().expect("a running Redis"));
        *server = None;
    }

    /// Keeps the connections open and answers nothing.
    pub fn freeze(&self) {
        signal(self.pid(), Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        signal(self.pid(), Signal::SIGCONT);
    }

    /// Writes what it holds to its folder, from where it has it again when it is started after a kill.
    pub fn save(&self) {
        let mut connection = connect(&self.url_of(0, PASSWORD_ENCODED)).expect("the test's Redis");
        redis::cmd("SAVE").exec(&mut connection).expect("SAVE");
    }

    /// Answers reads and refuses writes, as when it is out of memory or has lost its replicas.
    pub fn refuse_writes(&self) {
        self.demand_replicas(1);
    }

    pub fn accept_writes(&self) {
        self.demand_replicas(0);
    }

    fn demand_replicas(&self, count: u32) {
        self.command(&format!("CONFIG SET min-replicas-to-write {count}"));
    }

    /// Runs a command of words between spaces; its answer.
    pub fn command(&self, words: &str) -> redis::Value {
        let mut connection = connect(&self.url_of(0, PASSWORD_ENCODED)).expect("the test's Redis");
        let (first, words) = words.split_once(' ').expect("some words");
        let (mut command, words) = (redis::cmd(first), words.split(' '));
        for word in words {
            command.arg(word);
        }
        command.query(&mut connection).expect("an answer")
    }

    /// How often a command was called, in scripts too.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.command("INFO commandstats");
        let stats: String = redis::from_redis_value(stats).expect("a text");
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        let count = line.and_then(|line| line.split(',').next());
        count.map_or(0, |count| count.parse().expect("a number"))
    }

    fn pid(&self) -> i32 {
        self.server
            .lock()
            .unwrap()
            .as_ref()
            .expect("a running Redis")
            .id() as i32
    }

    fn try_start(&self) -> bool {
        let log = match &self.dir {
            Some(dir) => Stdio::from(
                File::options()
                    .append(true)
                    .create(true)
                    .open(dir.join("redis.log"))
                    .expect("a log"),
            ),
            None => Stdio::null(),
        };
        let mut command = guarded(program(), Signal::SIGKILL, None);
        command
            .args(["--port", &self.port.to_string()])
            .args([
                "--bind",
                "127.0.0.1",
                "--requirepass",
                PASSWORD,
                "--databases",
                &DATABASES.to_string(),
            ])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(match &self.dir {
                Some(dir) => dir.path().to_owned(),
                None => std::env::temp_dir(),
            })
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        let mut child = spawn(command).expect("Redis' program");
        let mut gone = false;
        let answers = comes_true(PATIENCE, || {
            gone = child
                .try_wait()
                .expect("waiting for our own child")
                .is_some();
            gone || connect(&self.url_of(0, PASSWORD_ENCODED)).is_ok()
        });
        if gone || !answers {
            end(&mut child);
            return false;
        }
        *self.server.lock().unwrap() = Some(child);
        true
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = self
            .server
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            end(child);
        }
    }
}

/// A connection for a test that looks into Redis itself.
pub fn connect(url: &str) -> redis::RedisResult<redis::Connection> {
    let mut connection = redis::Client::open(url)?.get_connection_with_timeout(PATIENCE)?;
    redis::cmd("PING").query::<String>(&mut connection)?;
    Ok(connection)
}

/// The keys of one database.
pub fn keys(url: &str) -> Vec<String> {
    let mut connection = connect(url).expect("the test's Redis");
    redis::cmd("KEYS")
        .arg("*")
        .query(&mut connection)
        .expect("KEYS")
}

/// Whether some value of the database holds this text.
pub fn holds(url: &str, text: &str) -> bool {
    let mut connection = connect(url).expect("the test's Redis");
    keys(url).iter().any(|key| {
        // A key may expire, or be of another type.
        let value: redis::RedisResult<Vec<u8>> = redis::cmd("GET").arg(key).query(&mut connection);
        value.is_ok_and(|value| String::from_utf8_lossy(&value).contains(text))
    })
}

fn program() -> PathBuf {
    find_program("redis-server", "/usr/lib/redis")
}
