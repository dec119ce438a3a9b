//! Private PostgreSQL servers in temporary folders: on a Unix-domain socket and a free TCP port, gone with
//! the test process however it ends.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, chown};

/// The password of the role `shop`, for which TCP asks. Tests look for it where it must not be.
pub const PASSWORD: &str = "s3cret-p@ss/word";
/// The same, percent-encoded.
pub const PASSWORD_IN_URL: &str = "s3cret-p%40ss%2Fword";

const START_PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropped, it is stopped and its folder removed.
pub struct Server {
    pub folder: PathBuf,
    pub port: u16,
    keeper: Option<Child>,
    temporary: Option<tempfile::TempDir>,
}

impl Server {
    /// The server that tests share who don't harm it; each takes its own database.
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let mut server = Server::start("", "");
            // A static is never dropped: its keeper removes the folder, unless a test has failed.
            let folder = server.temporary.take().expect("a folder of its own").keep();
            let mark = folder.join("remove-at-end");
            fs::write(&mark, "").expect("a mark");
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if fs::remove_file(&mark).is_ok() {
                    eprintln!("the shared server's folder is kept: {}", folder.display());
                }
                report(panic);
            }));
            server
        })
    }

    /// A new server with more lines for `postgresql.conf` and `pg_hba.conf`, the latter in front.
    pub fn start(conf: &str, hba: &str) -> Server {
        Server::start_with(conf, hba, |_| ())
    }

    /// As [`Server::start`]; `prepare` may put files into the data folder first.
    pub fn start_with(conf: &str, hba: &str, prepare: impl FnOnce(&Path)) -> Server {
        let temporary = tempfile::Builder::new()
            .prefix("stores-pg-")
            .tempdir()
            .expect("a folder");
        let folder = temporary.path().to_owned();
        give(&folder);
        let data = folder.join("data");
        let made = as_postgres(&program("initdb"))
            .args([
                "--auth=trust",
                "--no-sync",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = free_port();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_connections = 60\nshared_buffers = 32MB\nlog_line_prefix = '%m [%p] '\n{conf}\n",
            folder.display()
        );
        append(&data.join("postgresql.conf"), &settings);
        let rules =
            format!("{hba}\nlocal all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
        fs::write(data.join("pg_hba.conf"), rules).expect("pg_hba.conf");
        prepare(&data);
        let mut server = Server {
            folder,
            port,
            keeper: None,
            temporary: Some(temporary),
        };
        server.run();
        let role = format!("CREATE ROLE shop SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
        server
            .admin("postgres")
            .batch_execute(&role)
            .expect("a role");
        server
    }

    /// Starts the server process, and waits until it takes connections. A shell keeps it: when the pipe to
    /// the shell closes, because the test is done or was killed, the shell kills the server.
    pub fn run(&mut self) {
        let script = r##"trap "" INT TERM HUP; "$0" -D "$1/data" >>"$1/log" 2>&1 & echo $! >"$1/pid"; cat >/dev/null; kill -QUIT $!; kill -CONT $!; wait $!; test ! -e "$1/remove-at-end" || rm -rf "$1""##;
        let mut shell = as_postgres(Path::new("/bin/sh"));
        shell
            .arg("-c")
            .arg(script)
            .arg(program("postgres"))
            .arg(&self.folder);
        self.keeper = Some(shell.stdin(Stdio::piped()).spawn().expect("a shell"));
        let give_up = Instant::now() + START_PATIENCE;
        while postgres::Client::connect(&self.socket_words("postgres"), postgres::NoTls).is_err() {
            assert!(
                Instant::now() < give_up,
                "no PostgreSQL after {START_PATIENCE:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the server at once, as a crash would.
    pub fn crash(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    /// Stops every process of the server in its tracks; [`Server::thaw`] lets them go on.
    pub fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&self, signal: Signal) {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap();
        let pid = pid.trim();
        let send = |pid: &str| kill(Pid::from_raw(pid.parse().unwrap()), signal);
        send(pid).expect("the postmaster lives");
        // A signal works a little later than it is sent, and the postmaster may fork until then.
        let settle = |pid: &str| {
            let runs = |pid| process(pid, "State:").is_some_and(|state| "RSD".contains(&state));
            while signal == Signal::SIGSTOP && runs(pid) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        settle(pid);
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let child = entry.file_name().to_string_lossy().into_owned();
            if process(&child, "PPid:").as_deref() == Some(pid) {
                let _ = send(&child);
                settle(&child);
            }
        }
    }

    /// A new, empty database.
    pub fn database(&self) -> String {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", LAST.fetch_add(1, Ordering::Relaxed));
        self.admin("postgres")
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .expect("a database");
        name
    }

    /// A plain connection of the test's own.
    pub fn admin(&self, database: &str) -> postgres::Client {
        postgres::Client::connect(&self.socket_words(database), postgres::NoTls)
            .expect("an admin connection")
    }

    fn socket_words(&self, database: &str) -> String {
        format!(
            "host={} port={} user=postgres dbname={database}",
            self.folder.display(),
            self.port
        )
    }

    pub fn socket_url(&self, database: &str) -> String {
        let folder = self.folder.to_string_lossy().replace('/', "%2F");
        format!("postgres://shop@{folder}:{}/{database}", self.port)
    }

    pub fn tcp_url(&self, database: &str) -> String {
        format!(
            "postgres://shop:{PASSWORD_IN_URL}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.thaw();
        }
        self.crash();
        if std::thread::panicking()
            && let Some(folder) = self.temporary.take()
        {
            eprintln!("the server's folder is kept: {}", folder.keep().display());
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port()
}

/// The first word of a line of `/proc/PID/status`; `None` once the process is gone.
fn process(pid: &str, line: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|found| found.strip_prefix(line))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// A program of the newest PostgreSQL that is installed.
fn program(name: &str) -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_string_lossy().parse().ok()?;
            Some((version, entry.path().join("bin").join(name))).filter(|(_, path)| path.exists())
        })
        .collect();
    found.sort();
    match found.pop() {
        Some((_, path)) => path,
        None => PathBuf::from(name),
    }
}

/// PostgreSQL refuses to run as root: whoever is root becomes `postgres` for it.
fn account() -> Option<(Uid, Gid)> {
    if !Uid::effective().is_root() {
        return None;
    }
    let user = User::from_name("postgres")
        .ok()
        .flatten()
        .expect("an account named postgres");
    Some((user.uid, user.gid))
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null());
    if let Some((uid, gid)) = account() {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    command
}

/// Makes a file or folder the server's.
pub fn give(path: &Path) {
    if let Some((uid, gid)) = account() {
        chown(path, Some(uid), Some(gid)).expect("chown");
    }
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(path)
        .expect("a configuration file");
    file.write_all(text.as_bytes()).expect("room for it");
}

/// A relay to a server, which hangs up when it sees a client say `word`, having passed nothing of it on.
pub fn relay_that_dies_at(port: u16, word: &'static [u8]) -> u16 {
    relay(port, move |_, said| {
        !said.windows(word.len()).any(|window| window == word)
    })
}

/// A relay to a server, which hears `other`, of the same length, wherever a client says `word`.
pub fn relay_that_garbles(port: u16, word: &'static [u8], other: &'static [u8]) -> u16 {
    relay(port, move |_, said| {
        let at = said.windows(word.len()).position(|window| window == word);
        if let Some(at) = at {
            said[at..at + word.len()].copy_from_slice(other);
        }
        true
    })
}

/// A relay to a server, which can forget connections as a router does that loses its tables: they stay open, and nothing
/// that is said on them arrives.
pub struct Forgetful {
    pub port: u16,
    /// Connections on which something was said.
    taken: Arc<AtomicUsize>,
    /// Connections of a smaller number are forgotten.
    forgotten: Arc<AtomicUsize>,
}

impl Forgetful {
    pub fn to(port: u16) -> Forgetful {
        let (taken, forgotten) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (known, lost) = (taken.clone(), forgotten.clone());
        let port = relay(port, move |number, _| {
            known.fetch_max(number + 1, Ordering::SeqCst);
            while number < lost.load(Ordering::SeqCst) {
                std::thread::park();
            }
            true
        });
        Forgetful {
            port,
            taken,
            forgotten,
        }
    }

    pub fn forget_all(&self) {
        let taken = self.taken.load(Ordering::SeqCst);
        self.forgotten.store(taken, Ordering::SeqCst);
    }
}

/// A relay to a server, which passes on what `see` makes of what a client says on a connection of this number, and hangs
/// up where that says no.
fn relay(port: u16, see: impl Fn(usize, &mut [u8]) -> bool + Clone + Send + 'static) -> u16 {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            let (mut from_client, mut to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (mut from_server, mut to_client) = (server, client);
            std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
            let see = see.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 8192];
                while let Ok(n @ 1..) = from_client.read(&mut buffer) {
                    if !see(number, &mut buffer[..n]) {
                        break;
                    }
                    if to_server.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                let _ = to_server.shutdown(std::net::Shutdown::Both);
                let _ = from_client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address.port()
}
