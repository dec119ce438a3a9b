//! The configuration: one table of settings becomes flags, environment variables, keys of a TOML file, help, README
//! and man page, and a typed [`Config`] that can't be wrong.
//!
//! `main` calls [`parse`] once and [`Sources::load`] to get a [`Config`]; the master loads again on SIGHUP. Parsing has
//! no side effects; loading reads the file, the credentials, the secrets they name, and the CPUs of the host. Imports
//! nothing from the other rooms.
//!
//! Two steps, as in ripgrep: collect raw texts with their origin (`command`, `sources`, `toml_file`), then read
//! them by the table (`settings`, `kind`, `value`, `layers`) and check them against each other (`resolve`).
//!
//! Precedence: flag > environment > systemd credential > file > default. A credential is a file that systemd puts into
//! `$CREDENTIALS_DIRECTORY` for this service alone; `database-url`, `database-read-url`, `redis-url` and `write-token` act as
//! `database_url_file`, `database_read_url_file`, `redis_url_file` and `write_token_file`. An empty variable counts as not given. Variables that
//! Kubernetes sets for a Service named `canvas…` are ignored; any other unknown `CANVAS_…` is refused.

mod account;
mod argv;
mod command;
mod cpus;
pub mod ctl;
mod files;
mod kind;
mod layers;
mod pages;
pub mod redis_url;
mod resolve;
mod secret;
mod settings;
mod sources;
pub mod status;
mod table;
#[cfg(test)]
mod tests;
mod toml_file;
pub mod top;
mod value;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use argv::{args_hold_secret, secret_spans};
pub use command::{Exit, Fill, Mode, SeedOptions, Tune, command, parse};
pub use pages::{example_toml, man_page, readme_table};
pub use secret::{Secret, redact_url};
pub use sources::Sources;

/// The most workers that there can be.
pub const MOST_WORKERS: usize = 1024;

/// The most replicas that are read from.
pub const MOST_REPLICAS: usize = 16;

/// The exit code for wrong usage and a wrong configuration. System failures exit 111.
pub const EXIT_USAGE: u8 = 100;

/// The exit code of `tune --check` when a limit of the host is too low for the configuration.
pub const EXIT_UNMET: u8 = 1;

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub workers: Workers,
    /// At least one address; none twice, except with port 0.
    pub listen: Vec<Listen>,
    /// The proxies whose X-Forwarded-For and Forwarded are believed; IPv4-mapped networks stand as IPv4.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    pub database: Database,
    /// The replicas to read from, each `postgres://…` or `postgresql://…`; at most [`MOST_REPLICAS`].
    pub database_read_urls: Vec<Secret>,
    /// The longest that a replica may be behind and be read from.
    pub max_replica_lag: Duration,
    /// Whether the URLs of the database lead to a pooler in transaction mode.
    pub database_pooler: bool,
    /// Bytes of finished answers that each worker keeps, 0 for none.
    pub l1_bytes: usize,
    /// The age at which a worker asks again, whether it heard of a write or not.
    pub l1_ttl: Duration,
    /// The shared cache, if there is one.
    pub redis: Option<Redis>,
    pub writes: Writes,
    /// The folder for what outlives a restart. It may not exist yet.
    pub state_dir: PathBuf,
    /// Where the master takes commands. Of the usual places the first is the one.
    pub control_socket: ControlSocket,
    /// Where metrics and status are served, if anywhere.
    pub admin: Admin,
    /// Blocking threads per worker, 1 to 64, each with one database connection.
    pub lanes: usize,
    /// Time for a request's calls to database and Redis; at most `drain_timeout`.
    pub request_timeout: Duration,
    /// Time for a leaving worker to finish what is in flight.
    pub drain_timeout: Duration,
    /// From being told to stop until stopping, at most `drain_timeout`.
    pub drain_delay: Duration,
    /// How long a worker that a reload has started serves before the next one is replaced.
    pub roll_pause: Duration,
    /// Time for a new worker to become ready.
    pub boot_timeout: Duration,
    /// Time a worker's loop may stand still.
    pub hang_timeout: Duration,
    /// Requests after which a worker is replaced, 0 for never.
    pub max_requests: usize,
    /// Bytes of resident memory at which a worker is replaced, 0 for never.
    pub max_worker_rss: usize,
    /// Whether limits of the host that are too low are raised at the start, where that is permitted.
    pub tune_host: bool,
    /// Whether workers are refused the system calls that they never need.
    pub seccomp: bool,
    /// Whether workers hear of writes made past them, as the database tells.
    pub database_notify: bool,
    /// As whom workers run; `None` for as whom the server was started.
    pub user: Option<Account>,
    pub log_level: log::LevelFilter,
    pub log_format: LogFormat,
    /// The time for which the server may have a whole request without an answer until that is told in the log, 0 for never.
    pub slow_request: Duration,
    /// Whether the database is told whose writes its transactions are.
    pub trace_sql: bool,
    /// Which answers say where their time went.
    pub server_timing: ServerTiming,
    /// Where each request is noted, if anywhere.
    pub access_log: Option<AccessTarget>,
    pub access_log_format: AccessFormat,
    /// How long caches may answer a GET for us without asking, 0 for never.
    pub cache_max_age: Duration,
    /// The web origins whose scripts may read our answers, `*` for all of them.
    pub cors_origins: Vec<String>,
    /// Where the description of the API is served.
    pub api_docs: ApiDocs,
    /// Whose pages may embed ours: origins and `self`, or `*` or `none` alone.
    pub frame_ancestors: Vec<String>,
    /// The folder whose files are served at the root, if there is one.
    pub static_dir: Option<PathBuf>,
    /// `loaderio-` and hexadecimal digits.
    pub loaderio_token: Option<String>,
    pub limits: LimitsConfig,
    /// What is allowed but unwise, to be logged once; without secrets.
    pub warnings: Vec<String>,
    settings: Vec<(String, String, String)>,
}

impl Config {
    /// Every setting as (key, value in force, origin), in the order of help, without secrets.
    pub fn describe(&self) -> Vec<(String, String, String)> {
        self.settings.clone()
    }
}

/// A user of the host, with the groups of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name, for messages.
    pub name: String,
    pub uid: u32,
    /// The group of its processes.
    pub gid: u32,
    /// The supplementary groups (initgroups(3)), `gid` among them.
    pub groups: Vec<u32>,
}

/// An address to accept connections on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// Each connection begins with a PROXY header: written `proxy+ADDR:PORT`.
    pub proxied: bool,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.proxied { value::PROXIED } else { "" };
        write!(f, "{mark}{}", self.address)
    }
}

/// The number of worker processes, 1 to 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One per CPU that the process may use, counted when the configuration was loaded.
    Auto(usize),
    /// As many as asked for.
    Fixed(usize),
}

impl Workers {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            Workers::Auto(count) | Workers::Fixed(count) => count,
        }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workers::Auto(count) => write!(f, "{count} (auto)"),
            Workers::Fixed(count) => write!(f, "{count}"),
        }
    }
}

/// The Unix socket on which the master takes commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlSocket {
    /// None was named: these are the usual places, the best first. A server that can't have the first does without; a
    /// client asks at each of them.
    Usual(Vec<PathBuf>),
    /// This one was named: it is had, or the server does not start.
    At(PathBuf),
    /// None is wanted.
    Off,
}

/// Where metrics and status are served, apart from the public addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Nothing was said: a Unix socket beside the control socket, at one of these places, the best first. A server that can't
    /// have the first does without; a client asks at each of them.
    Usual(Vec<PathBuf>),
    /// This one was named: it is had, or the server does not start.
    At(AdminAddress),
    /// None is wanted.
    Off,
}

/// An address of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// Written `ADDR:PORT`; port 0 is any free one.
    Tcp(SocketAddr),
    /// Written `unix:PATH`.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Tcp(address) => address.fmt(f),
            AdminAddress::Unix(path) => write!(f, "{}{}", value::UNIX, path.display()),
        }
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessTarget {
    /// Standard output, as the master was given it.
    Stdout,
    /// A file that lines are appended to; made if it isn't there.
    File(PathBuf),
}

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// As Apache and nginx do, with the duration and the request's id behind it.
    Combined,
    /// One JSON object a line.
    Json,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal and for systemd's journal, logfmt elsewhere.
    Auto,
    /// For people.
    Text,
    /// `key=value`, with quotes where they are needed.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Which answers carry `Server-Timing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTiming {
    Never,
    /// Those to requests with `X-Server-Timing: 1`.
    Asked,
    Always,
}

/// Where the description of the API is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiDocs {
    /// Beside the API, to everybody.
    Public,
    /// On the admin listener alone.
    Admin,
    /// Nowhere.
    Nowhere,
}

/// Where the shoes live.
#[derive(Clone, Debug)]
pub enum Database {
    /// No URL was given: an SQLite file in the state directory.
    Embedded { path: PathBuf },
    /// `sqlite:PATH`, `postgres://…`, `postgresql://…`, `couchdb://…` or `couchdbs://…`; only the scheme has been checked.
    Url(Secret),
}

/// The shared cache.
#[derive(Clone, Debug)]
pub struct Redis {
    /// As [`redis_url::parse`] takes it.
    pub url: Secret,
    /// What every key starts with.
    pub prefix: String,
    /// How long an answer stays, at least 1 s.
    pub ttl: Duration,
}

/// Who may write.
#[derive(Clone, Debug)]
pub enum Writes {
    /// Whoever shows this token: 16 to 1024 bytes of visible ASCII.
    Token(Secret),
    /// Whoever can connect, for every listen address is loopback.
    LoopbackOnly,
    /// Whoever can connect, as asked for.
    Anonymous,
}

/// Bounds of one connection (RFC 9112 leaves them to the server).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Longest request line in bytes, 256 to 32 KiB and at most `max_head`; else 414.
    pub max_request_line: usize,
    /// Largest head in bytes, 1 to 64 KiB, request line included; else 431.
    pub max_head: usize,
    /// Most fields in a head, 1 to 128; else 431.
    pub max_fields: usize,
    /// Largest body in bytes, 1 KiB to 1 MiB; else 413.
    pub max_body: usize,
    /// Time to the end of the head; then 408.
    pub head_timeout: Duration,
    /// Fewest bytes a second at which a body may arrive; else 408.
    pub min_body_rate: usize,
    /// Time an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// Time a client may take no byte of its response.
    pub write_timeout: Duration,
    /// Most open connections per worker; else 503.
    pub max_connections: usize,
}

impl LimitsConfig {
    /// Nothing read yet.
    const fn blank() -> Self {
        LimitsConfig {
            max_request_line: 0,
            max_head: 0,
            max_fields: 0,
            max_body: 0,
            head_timeout: Duration::ZERO,
            min_body_rate: 0,
            keepalive_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
            max_connections: 0,
        }
    }
}

/// All that is wrong with a configuration, found in one run. Its text has one line per problem, each with the name of
/// the setting and where it was given, and holds no secret. `main` exits with [`EXIT_USAGE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    /// The problems, at least one.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}
