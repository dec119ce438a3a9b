//! Private PostgreSQL clusters: one shared by the tests that only use it, and one of its own for each test that
//! stops, kills or freezes it. Connections need a password, so that tests can look for leaks of it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use nix::sys::signal::Signal;

use super::dir::{Dir, make_folder};
use super::process::{end, find_program, free_port, guarded, signal, spawn, wait_for_exit};
use super::wait::{PATIENCE, comes_true, wait_until};

/// The role that owns every test's database. Its password needs percent-encoding in a URL.
pub const ROLE: &str = "canvas";
pub const PASSWORD: &str = "pg/p@ss w0rd:Zebra7";
pub const PASSWORD_ENCODED: &str = "pg%2Fp%40ss%20w0rd%3AZebra7";

const SUPERUSER: &str = "postgres";
const SUPERUSER_PASSWORD: &str = "superuser-of-a-test";

pub struct Postgres {
    /// The folder of a private cluster; the shared one's is deleted by its janitor.
    _dir: Option<Dir>,
    data: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
}

/// An empty database of its own for one test.
pub struct Database {
    pub name: String,
    port: u16,
}

impl Postgres {
    /// The cluster that all tests of this binary share. Never stop it.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = make_folder("postgres").keep();
            let mut janitor = hire_janitor(&folder);
            let postgres = Postgres::create(None, folder.join("data"));
            let pid = postgres
                .server
                .lock()
                .unwrap()
                .as_ref()
                .expect("just started")
                .id();
            writeln!(janitor, "{pid}").expect("the janitor listens");
            // The pipe stays open as long as this process lives.
            std::mem::forget(janitor);
            postgres
        })
    }

    /// A cluster of the test's own, started.
    pub fn private() -> Self {
        let dir = Dir::new();
        let data = dir.join("data");
        Postgres::create(Some(dir), data)
    }

    fn create(dir: Option<Dir>, data: PathBuf) -> Self {
        initialize(&data);
        let postgres = Postgres::start_new(dir, data);
        postgres.administer(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"));
        postgres
    }

    /// Starts what is in a data folder on a port of its own.
    fn start_new(dir: Option<Dir>, data: PathBuf) -> Self {
        let mut postgres = Postgres {
            _dir: dir,
            data,
            port: 0,
            server: Mutex::new(None),
        };
        // Another process may take the port between our look and the start.
        let started = (0..5).any(|_| {
            postgres.port = free_port();
            postgres.try_start()
        });
        assert!(
            started,
            "PostgreSQL does not start; its log:\n{}",
            postgres.log()
        );
        postgres
    }

    /// A standby of this private cluster: a copy that follows it on a port of its own, and can be read and not written.
    pub fn standby(&self) -> Self {
        let others = self.followers();
        let dir = Dir::new();
        let data = dir.join("data");
        give_to_server(dir.path());
        let mut command = guarded(
            program("pg_basebackup"),
            Signal::SIGKILL,
            unprivileged_user(),
        );
        command
            .args(["--checkpoint=fast", "--no-sync", "--wal-method=stream"])
            .args(["--write-recovery-conf", "--pgdata"])
            .arg(&data)
            .arg("--dbname")
            .arg(format!(
                "host=127.0.0.1 port={} user={SUPERUSER} password={SUPERUSER_PASSWORD}",
                self.port
            ));
        run(command, "pg_basebackup");
        let standby = Postgres::start_new(Some(dir), data);
        wait_until(PATIENCE, "the standby to follow", || {
            self.followers() > others
        });
        standby
    }

    /// How many standbys stream from this one.
    pub fn followers(&self) -> i64 {
        let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let row = self.database_of_all().query_one(query, &[]);
        row.expect("a row").get(0)
    }

    /// Has this standby follow another primary of the same history.
    pub fn follow(&self, primary: &Postgres) {
        let others = primary.followers();
        self.administer(&format!(
            "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port={} user={SUPERUSER} password={SUPERUSER_PASSWORD}';
             SELECT pg_reload_conf()",
            primary.port
        ));
        wait_until(PATIENCE, "the standby to follow the new primary", || {
            primary.followers() > others
        });
    }

    /// Has a standby replay nothing from now on, whatever it receives.
    pub fn pause_replay(&self) {
        self.administer("SELECT pg_wal_replay_pause()");
        wait_until(PATIENCE, "the replay to be paused", || {
            let query = "SELECT pg_get_wal_replay_pause_state() = 'paused'";
            let row = self.database_of_all().query_one(query, &[]);
            row.expect("a row").get(0)
        });
    }

    pub fn resume_replay(&self) {
        self.administer("SELECT pg_wal_replay_resume()");
    }

    /// Makes a standby the primary, and waits until it is.
    pub fn promote(&self) {
        self.administer("SELECT pg_promote(true, 30)");
        wait_until(PATIENCE, "the standby to be promoted", || {
            let mut connection = self.database_of_all();
            let row = connection.query_one("SELECT pg_is_in_recovery()", &[]);
            !row.expect("a row").get::<_, bool>(0)
        });
    }

    /// Runs statements as the superuser, each in a transaction of its own.
    #[track_caller]
    pub fn administer(&self, statements: &str) {
        let mut connection = self.database_of_all();
        for statement in statements.split(';') {
            connection.batch_execute(statement).expect("a statement");
        }
    }

    fn database_of_all(&self) -> postgres::Client {
        self.connect(SUPERUSER, SUPERUSER_PASSWORD, "postgres")
            .expect("a connection to our own cluster")
    }

    /// What this cluster has of a database of another.
    pub fn copy_of(&self, database: &Database) -> Database {
        Database {
            name: database.name.clone(),
            port: self.port,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the stopped cluster again, on the same port, and waits until it answers.
    pub fn start(&self) {
        // After a SIGKILL the old backends hold the shared memory until they notice, and a start fails meanwhile.
        wait_until(PATIENCE, "PostgreSQL to start again", || self.try_start());
    }

    /// Stops it as `pg_ctl stop -m fast`: connections are cut, transactions rolled back.
    pub fn stop(&self) {
        let mut server = self.server.lock().unwrap();
        let child = server.as_mut().expect("a running cluster");
        signal(child.id() as i32, Signal::SIGINT);
        wait_for_exit(child, PATIENCE, "PostgreSQL");
        *server = None;
    }

    pub fn kill(&self) {
        let mut server = self.server.lock().unwrap();
        end(server.as_mut().expect("a running cluster"));
        *server = None;
    }

    /// Freezes the cluster and every backend: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Makes an empty database owned by [`ROLE`].
    pub fn database(&self) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("canvas_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.administer(&format!("CREATE DATABASE {name} OWNER {ROLE}"));
        Database {
            name,
            port: self.port,
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.data.with_file_name("postgres.log")
    }

    fn try_start(&self) -> bool {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log_path())
            .expect("a log file");
        // SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for the clients.
        let mut command = guarded(program("postgres"), Signal::SIGINT, unprivileged_user());
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut child = spawn(command).expect("PostgreSQL's program");
        let mut gone = false;
        let answers = comes_true(PATIENCE, || {
            gone = child
                .try_wait()
                .expect("waiting for our own child")
                .is_some();
            gone || self
                .connect(SUPERUSER, SUPERUSER_PASSWORD, "postgres")
                .is_ok()
        });
        if gone || !answers {
            end(&mut child);
            return false;
        }
        *self.server.lock().unwrap() = Some(child);
        true
    }

    fn connect(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<postgres::Client, postgres::Error> {
        connect(self.port, user, password, database)
    }

    fn signal_all(&self, which: Signal) {
        let server = self.server.lock().unwrap();
        let postmaster = server.as_ref().expect("a running cluster").id() as i32;
        // The postmaster first: it starts no new backend while the others are being stopped.
        signal(postmaster, which);
        for backend in super::process::children(postmaster) {
            signal(backend, which);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(child) = self
            .server
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            // Immediate shutdown reaches the backends too; a frozen one needs SIGCONT to hear it.
            let postmaster = child.id() as i32;
            for pid in super::process::children(postmaster)
                .into_iter()
                .chain([postmaster])
            {
                signal(pid, Signal::SIGCONT);
            }
            signal(postmaster, Signal::SIGQUIT);
            if !comes_true(PATIENCE, || {
                matches!(child.try_wait(), Ok(Some(_)) | Err(_))
            }) {
                end(child);
            }
        }
        if thread::panicking() {
            eprintln!("PostgreSQL's log:\n{}", self.log());
        }
    }
}

impl Database {
    /// The URL that a person would give, password included.
    pub fn url(&self) -> String {
        self.url_with(PASSWORD_ENCODED)
    }

    pub fn url_with(&self, password: &str) -> String {
        format!(
            "postgres://{ROLE}:{password}@127.0.0.1:{}/{}",
            self.port, self.name
        )
    }

    pub fn connect(&self) -> postgres::Client {
        connect(self.port, ROLE, PASSWORD, &self.name).expect("a connection to the test's database")
    }
}

fn connect(
    port: u16,
    user: &str,
    password: &str,
    database: &str,
) -> Result<postgres::Client, postgres::Error> {
    postgres::Config::new()
        .host("127.0.0.1")
        .port(port)
        .user(user)
        .password(password)
        .dbname(database)
        .connect_timeout(PATIENCE)
        .connect(postgres::NoTls)
}

fn initialize(data: &Path) {
    let folder = data.parent().expect("a folder of its own");
    let password = folder.join("superuser.password");
    std::fs::write(&password, SUPERUSER_PASSWORD).expect("a password file");
    give_to_server(folder);
    let mut command = guarded(program("initdb"), Signal::SIGKILL, unprivileged_user());
    command
        .arg("-D")
        .arg(data)
        .args([
            "-U",
            SUPERUSER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ])
        .arg(format!("--pwfile={}", password.display()));
    run(command, "initdb");
    // Nothing here must survive a power cut; 400 connections let many workers in; shared memory in the folder
    // is deleted with it, whatever killed the server.
    let settings = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 400\n\
                    shared_buffers = 16MB\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
                    autovacuum = off\ndynamic_shared_memory_type = mmap\nlogging_collector = off\n\
                    log_line_prefix = '%m [%p] %d '\n";
    File::options()
        .append(true)
        .open(data.join("postgresql.conf"))
        .and_then(|mut file| file.write_all(settings.as_bytes()))
        .expect("postgresql.conf");
}

/// Runs one of PostgreSQL's tools to its end.
fn run(mut command: Command, name: &str) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = spawn(command)
        .and_then(|child| child.wait_with_output())
        .expect("a tool of PostgreSQL's");
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Lets the server's user write to a folder.
pub fn give_to_server(folder: &Path) {
    if let Some(user) = unprivileged_user() {
        let owner = nix::unistd::User::from_name(user)
            .expect("the user table")
            .expect("a known user");
        nix::unistd::chown(folder, Some(owner.uid), Some(owner.gid)).expect("chown as root");
    }
}

fn program(name: &str) -> PathBuf {
    find_program(name, "/usr/lib/postgresql")
}

/// PostgreSQL refuses to run as root; its package brings a user for it.
pub fn unprivileged_user() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let known = |name: &&str| matches!(nix::unistd::User::from_name(name), Ok(Some(_)));
    Some(
        ["postgres", "nobody"]
            .into_iter()
            .find(known)
            .expect("a user that is not root"),
    )
}

/// Statics are never dropped, so the shared cluster's folder is left to a process that waits for the end of
/// ours (its standard input closes) and of PostgreSQL (whose number it reads, and which its guard ends), and
/// then cleans up.
fn hire_janitor(folder: &Path) -> ChildStdin {
    use std::os::unix::process::CommandExt;
    let script =
        "read pid; cat; [ -z \"$pid\" ] || tail --pid=\"$pid\" -f /dev/null; rm -rf -- \"$1\"";
    let mut janitor = Command::new("sh");
    janitor
        .args(["-c", script, "janitor"])
        .arg(folder)
        .process_group(0);
    let started = janitor
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    started.expect("a shell").stdin.take().expect("it is piped")
}
