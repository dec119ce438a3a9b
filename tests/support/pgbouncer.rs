//! PgBouncer in transaction mode in front of a PostgreSQL: each transaction gets a session that others have had.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use super::backend::Backend;
use super::dir::Dir;
use super::postgres::{
    Database, PASSWORD, PASSWORD_ENCODED, Postgres, ROLE, give_to_server, unprivileged_user,
};
use super::process::{end, find_program, free_port, guarded, spawn};
use super::wait::{PATIENCE, comes_true};

/// Fewer than the workers' lanes, so that they share.
const POOL: u32 = 2;

pub struct PgBouncer {
    dir: Dir,
    port: u16,
    child: Child,
}

impl PgBouncer {
    /// One in front of all databases of the server on this port.
    pub fn before(port: u16) -> Self {
        let dir = Dir::new();
        let quoted = PASSWORD.replace('"', "\"\"");
        let users = dir.join("users.txt");
        std::fs::write(&users, format!("\"{ROLE}\" \"{quoted}\"\n")).expect("a file of users");
        for path in [dir.path(), &users] {
            give_to_server(path);
        }
        // Another process may take the port between our look and the start.
        for _ in 0..5 {
            let own = free_port();
            let ini = dir.join("pgbouncer.ini");
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={port}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\nunix_socket_dir =\n\
                 auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = {POOL}\nmax_client_conn = 400\nserver_reset_query =\n",
                users.display()
            );
            std::fs::write(&ini, text).expect("a configuration");
            let readable = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(&ini, readable).expect("our own file");
            let log = File::create(dir.join("pgbouncer.log")).expect("a log file");
            let mut command = guarded(program(), Signal::SIGKILL, unprivileged_user());
            command
                .arg(&ini)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            let mut child = spawn(command).expect("PgBouncer's program");
            let answers = comes_true(PATIENCE, || {
                let gone = child.try_wait().expect("waiting for our own child");
                gone.is_some() || std::net::TcpStream::connect(("127.0.0.1", own)).is_ok()
            });
            let gone = child.try_wait().expect("waiting for our own child");
            if answers && gone.is_none() {
                return PgBouncer {
                    dir,
                    port: own,
                    child,
                };
            }
            end(&mut child);
        }
        let log = std::fs::read_to_string(dir.join("pgbouncer.log"));
        panic!("PgBouncer does not start: {log:?}");
    }

    /// The URL of a database behind it.
    pub fn url(&self, database: &Database) -> String {
        format!(
            "postgres://{ROLE}:{PASSWORD_ENCODED}@127.0.0.1:{}/{}",
            self.port, database.name
        )
    }
}

/// Runs a test's body over a database of the shared PostgreSQL behind one.
pub fn through(body: impl FnOnce(&Backend)) {
    let mut backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    let database = backend.postgres();
    let pooler = PgBouncer::before(Postgres::shared().port());
    backend.database_url = pooler.url(database);
    backend.pooled = true;
    body(&backend);
}

/// Debian has it in /usr/sbin, which PATH does not always name.
fn program() -> PathBuf {
    match Path::new("/usr/sbin/pgbouncer").is_file() {
        true => "/usr/sbin/pgbouncer".into(),
        false => find_program("pgbouncer", "/usr/local"),
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("pgbouncer.log"));
            eprintln!("PgBouncer's log:\n{}", log.unwrap_or_default());
        }
    }
}
