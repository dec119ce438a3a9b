//! The settings table: one row per setting. From a row come the flag, the environment variable, the key of the
//! file, `--help`, the README table, the man page and the example file. To add a setting, add a row here, a field
//! to `Values` and one to `Config`.

use std::time::Duration;

use super::MOST_WORKERS;
use super::kind::{Kind, Scheme};
use super::settings::{Group, Preset, Setting};

const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// All settings, group by group, in the order of help.
pub(super) static SETTINGS: &[Setting] = &[
    Setting {
        key: "config",
        value_name: "[-]FILE",
        default: Preset::None {
            means: "no file",
            example: "/etc/canvas-cluster/canvas-cluster.toml",
        },
        group: Group::Process,
        help: "Read settings from this TOML file, and again on SIGHUP; with - before its path it may be missing",
        kind: Kind::Path {
            field: |v| &mut v.config,
        },
    },
    Setting {
        key: "workers",
        value_name: "N|auto",
        default: Preset::Value("auto"),
        group: Group::Process,
        help: "Worker processes; auto is one per CPU that affinity and control group let the process use",
        kind: Kind::Workers {
            range: 1..=MOST_WORKERS,
            field: |v| &mut v.workers,
        },
    },
    Setting {
        key: "listen",
        value_name: "[proxy+]ADDR:PORT",
        default: Preset::Value("127.0.0.1:1121"),
        group: Group::Process,
        help: "Address to accept connections on, IPv6 in brackets, port 0 for any free one; with proxy+ before it each connection must begin with a PROXY protocol header; repeat it, or separate by commas, for more",
        kind: Kind::Listen {
            field: |v| &mut v.listen,
        },
    },
    Setting {
        key: "trusted_proxies",
        value_name: "NETWORK",
        default: Preset::None {
            means: "none",
            example: "10.0.0.0/8",
        },
        group: Group::Process,
        help: "Network (CIDR) or address of proxies that are believed when X-Forwarded-For or Forwarded says for whom they ask; repeat it, or separate by commas, for more",
        kind: Kind::Networks {
            field: |v| &mut v.trusted_proxies,
        },
    },
    Setting {
        key: "state_dir",
        value_name: "DIR",
        default: Preset::None {
            means: "$STATE_DIRECTORY, else $XDG_DATA_HOME/canvas-cluster, else $HOME/.local/share/canvas-cluster, else /var/lib/canvas-cluster",
            example: "/var/lib/canvas-cluster",
        },
        group: Group::Process,
        help: "Folder for what must outlive a restart, such as the embedded database",
        kind: Kind::Path {
            field: |v| &mut v.state_dir,
        },
    },
    Setting {
        key: "user",
        value_name: "NAME",
        default: Preset::None {
            means: "the one who starts the server",
            example: "www-data",
        },
        group: Group::Process,
        help: "User as whom workers run, with its groups; takes a start as root",
        kind: Kind::Name {
            of: "user",
            field: |v| &mut v.user,
        },
    },
    Setting {
        key: "group",
        value_name: "NAME",
        default: Preset::None {
            means: "the user's own",
            example: "www-data",
        },
        group: Group::Process,
        help: "Group of the user's that workers run as, instead of its own",
        kind: Kind::Name {
            of: "group",
            field: |v| &mut v.group,
        },
    },
    Setting {
        key: "control_socket",
        value_name: "FILE|none",
        default: Preset::None {
            means: "control.sock in $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/canvas-cluster, else in /run/canvas-cluster",
            example: "/run/canvas-cluster/control.sock",
        },
        group: Group::Process,
        help: "Unix socket on which the master takes the commands of `canvas-cluster ctl`, for its own user and root alone",
        kind: Kind::ControlSocket {
            field: |v| &mut v.control_socket,
        },
    },
    Setting {
        key: "admin",
        value_name: "ADDR:PORT|unix:FILE|none",
        default: Preset::None {
            means: "the Unix socket admin.sock beside the control socket, none if that is none",
            example: "127.0.0.1:1122",
        },
        group: Group::Process,
        help: "Where metrics, status and the live page are served, off the public addresses: an address of loopback, or a Unix socket for root and the workers' user alone",
        kind: Kind::Admin {
            field: |v| &mut v.admin,
        },
    },
    Setting {
        key: "allow_remote_admin",
        value_name: "true|false",
        default: Preset::Value("false"),
        group: Group::Process,
        help: "Let --admin be an address that other hosts reach: whoever does so reads the metrics and the status, without a token",
        kind: Kind::Switch {
            field: |v| &mut v.allow_remote_admin,
        },
    },
    Setting {
        key: "log_level",
        value_name: "LEVEL",
        default: Preset::Value("info"),
        group: Group::Process,
        help: "The least important messages to log: error, warn, info or debug",
        kind: Kind::LogLevel {
            field: |v| &mut v.log_level,
        },
    },
    Setting {
        key: "log_format",
        value_name: "FORMAT",
        default: Preset::Value("auto"),
        group: Group::Process,
        help: "How the log on standard error is written: text, logfmt or json; auto is text on a terminal and in systemd's journal, else logfmt",
        kind: Kind::LogFormat {
            field: |v| &mut v.log_format,
        },
    },
    Setting {
        key: "slow_request",
        value_name: "TIME",
        default: Preset::Value("500ms"),
        group: Group::Process,
        help: "Time to the answer of a request, once that has arrived, from which on it is told in the log, with what each layer took; 0s for none",
        kind: Kind::Time {
            range: Duration::ZERO..=TEN_MINUTES,
            field: |v| &mut v.slow_request,
        },
    },
    Setting {
        key: "access_log",
        value_name: "FILE|-|none",
        default: Preset::Value("none"),
        group: Group::Process,
        help: "File to which a line is appended for each request; - is standard output",
        kind: Kind::AccessLog {
            field: |v| &mut v.access_log,
        },
    },
    Setting {
        key: "access_log_format",
        value_name: "FORMAT",
        default: Preset::Value("combined"),
        group: Group::Process,
        help: "How the access log is written: combined (as Apache and nginx do, and microseconds and request id behind it) or json",
        kind: Kind::AccessFormat {
            field: |v| &mut v.access_log_format,
        },
    },
    Setting {
        key: "boot_timeout",
        value_name: "TIME",
        default: Preset::Value("30s"),
        group: Group::Process,
        help: "Time a new worker has to become ready before it counts as failed",
        kind: Kind::Time {
            range: SECOND..=HOUR,
            field: |v| &mut v.boot_timeout,
        },
    },
    Setting {
        key: "drain_timeout",
        value_name: "TIME",
        default: Preset::Value("30s"),
        group: Group::Process,
        help: "Time a leaving worker has to finish the requests in flight before it is killed",
        kind: Kind::Time {
            range: SECOND..=HOUR,
            field: |v| &mut v.drain_timeout,
        },
    },
    Setting {
        key: "drain_delay",
        value_name: "TIME",
        default: Preset::Value("0s"),
        group: Group::Process,
        help: "Time from TERM, when /readyz begins to fail, until anything closes, so that balancers have noticed; idle connections have as long again to be closed by the balancer; at most drain_timeout",
        kind: Kind::Time {
            range: Duration::ZERO..=HOUR,
            field: |v| &mut v.drain_delay,
        },
    },
    Setting {
        key: "roll_pause",
        value_name: "TIME",
        default: Preset::Value("1s"),
        group: Group::Process,
        help: "Time that the workers which a change of all has started serve before it starts the next ones, a tenth of them at a time; 0 to hurry",
        kind: Kind::Time {
            range: Duration::ZERO..=TEN_MINUTES,
            field: |v| &mut v.roll_pause,
        },
    },
    Setting {
        key: "hang_timeout",
        value_name: "TIME",
        default: Preset::Value("10s"),
        group: Group::Process,
        help: "Time a worker's loop may stand still before the worker is ended and replaced",
        kind: Kind::Time {
            range: SECOND..=TEN_MINUTES,
            field: |v| &mut v.hang_timeout,
        },
    },
    Setting {
        key: "max_requests",
        value_name: "N",
        default: Preset::Value("0"),
        group: Group::Process,
        help: "Requests after which a worker is replaced by a fresh one, up to a tenth fewer in some slots; 0 for never",
        kind: Kind::Count {
            of: "requests",
            range: 0..=1_000_000_000_000,
            field: |v| &mut v.max_requests,
        },
    },
    Setting {
        key: "max_worker_rss",
        value_name: "SIZE",
        default: Preset::Value("0"),
        group: Group::Process,
        help: "Resident memory at which a worker is replaced by a fresh one, up to a tenth less in some slots; 0 for never",
        kind: Kind::Size {
            range: 0..=1024 * 1024 * MIB,
            field: |v| &mut v.max_worker_rss,
        },
    },
    Setting {
        key: "tune_host",
        value_name: "true|false",
        default: Preset::Value("true"),
        group: Group::Process,
        help: "Raise sysctls of the host that are too low for this configuration, at the start and at a reload, where that is permitted; none is ever lowered; with =false they are only told",
        kind: Kind::Switch {
            field: |v| &mut v.tune_host,
        },
    },
    Setting {
        key: "seccomp",
        value_name: "true|false",
        default: Preset::Value("true"),
        group: Group::Process,
        help: "Refuse workers the system calls that they never need, such as execve and ptrace, by a seccomp filter; with =false they have all",
        kind: Kind::Switch {
            field: |v| &mut v.seccomp,
        },
    },
    Setting {
        key: "database_url",
        value_name: "URL",
        default: Preset::None {
            means: "an SQLite file in the state directory",
            example: "postgres://canvas@db.example.com/shoes?sslmode=verify-full",
        },
        group: Group::Database,
        help: "The database: sqlite:PATH, postgres://… or couchdb://…; a password in it is better kept in --database-url-file",
        kind: Kind::Url {
            scheme: Scheme::Database,
            field: |v| &mut v.database_url,
        },
    },
    Setting {
        key: "database_url_file",
        value_name: "FILE",
        default: Preset::None {
            means: "no file",
            example: "/etc/canvas-cluster/database-url",
        },
        group: Group::Database,
        help: "File that holds the whole database URL, not readable by others",
        kind: Kind::SecretFile {
            of: "a database URL",
            field: |v| &mut v.database_url_file,
        },
    },
    Setting {
        key: "database_read_url",
        value_name: "URL",
        default: Preset::None {
            means: "none: the primary answers all",
            example: "postgres://canvas@replica.example.com/shoes?sslmode=verify-full",
        },
        group: Group::Database,
        help: "A PostgreSQL replica to read from while it is close behind, one server each; repeat it, or separate by spaces, for more; a password in it is better kept in --database-read-url-file",
        kind: Kind::Urls {
            field: |v| &mut v.database_read_url,
        },
    },
    Setting {
        key: "database_read_url_file",
        value_name: "FILE",
        default: Preset::None {
            means: "no file",
            example: "/etc/canvas-cluster/database-read-url",
        },
        group: Group::Database,
        help: "File that holds the URLs of all replicas, one a line, not readable by others",
        kind: Kind::SecretFile {
            of: "URLs of databases",
            field: |v| &mut v.database_read_url_file,
        },
    },
    Setting {
        key: "max_replica_lag",
        value_name: "TIME",
        default: Preset::Value("1s"),
        group: Group::Database,
        help: "How far a replica may be behind the primary and be read from; whatever this host has written or heard of it must have in any case",
        kind: Kind::Time {
            range: Duration::from_millis(100)..=TEN_MINUTES,
            field: |v| &mut v.max_replica_lag,
        },
    },
    Setting {
        key: "database_pooler",
        value_name: "true|false",
        default: Preset::Value("false"),
        group: Group::Database,
        help: "The URLs of the database lead to a pooler in transaction mode, such as PgBouncer: nothing is prepared or set for longer than a transaction; migrate, seed and --database-notify need the server itself",
        kind: Kind::Switch {
            field: |v| &mut v.database_pooler,
        },
    },
    Setting {
        key: "database_notify",
        value_name: "true|false",
        default: Preset::Value("false"),
        group: Group::Database,
        help: "Hear at once of writes made past this server, from the triggers that migrate --with-notify makes in PostgreSQL; one more connection per worker",
        kind: Kind::Switch {
            field: |v| &mut v.database_notify,
        },
    },
    Setting {
        key: "trace_sql",
        value_name: "true|false",
        default: Preset::Value("false"),
        group: Group::Database,
        help: "Have PostgreSQL show the W3C traceparent of the requests whose writes it carries out, in application_name and in a comment of BEGIN",
        kind: Kind::Switch {
            field: |v| &mut v.trace_sql,
        },
    },
    Setting {
        key: "lanes",
        value_name: "N",
        default: Preset::Value("4"),
        group: Group::Database,
        help: "Blocking threads per worker, each with one database connection",
        kind: Kind::Count {
            of: "lanes",
            range: 1..=64,
            field: |v| &mut v.lanes,
        },
    },
    Setting {
        key: "request_timeout",
        value_name: "TIME",
        default: Preset::Value("2s"),
        group: Group::Database,
        help: "Time a request may wait for database and Redis before it is answered 503",
        kind: Kind::Time {
            range: Duration::from_millis(10)..=Duration::from_secs(300),
            field: |v| &mut v.request_timeout,
        },
    },
    Setting {
        key: "l1_bytes",
        value_name: "SIZE",
        default: Preset::Value("64MiB"),
        group: Group::Cache,
        help: "Memory for finished answers in each worker; 0 keeps none",
        kind: Kind::Size {
            range: 0..=64 * 1024 * MIB,
            field: |v| &mut v.l1_bytes,
        },
    },
    Setting {
        key: "l1_ttl",
        value_name: "TIME",
        default: Preset::Value("5s"),
        group: Group::Cache,
        help: "Time a worker may keep an answer: how long a write goes unseen that was made past this server, or on another host without Redis",
        kind: Kind::Time {
            range: TENTH..=HOUR,
            field: |v| &mut v.l1_ttl,
        },
    },
    Setting {
        key: "redis_url",
        value_name: "URL",
        default: Preset::None {
            means: "no Redis",
            example: "redis://127.0.0.1:6379/0",
        },
        group: Group::Redis,
        help: "The shared cache: redis://, redis+sentinel:// or redis+cluster://, with rediss for TLS, or redis+unix://; a password in it is better kept in --redis-url-file",
        kind: Kind::Url {
            scheme: Scheme::Redis,
            field: |v| &mut v.redis_url,
        },
    },
    Setting {
        key: "redis_url_file",
        value_name: "FILE",
        default: Preset::None {
            means: "no file",
            example: "/etc/canvas-cluster/redis-url",
        },
        group: Group::Redis,
        help: "File that holds the whole Redis URL, not readable by others",
        kind: Kind::SecretFile {
            of: "a Redis URL",
            field: |v| &mut v.redis_url_file,
        },
    },
    Setting {
        key: "redis_prefix",
        value_name: "TEXT",
        default: Preset::Value("canvas-cluster:"),
        group: Group::Redis,
        help: "What every key in Redis starts with; hosts that share a cache share the prefix",
        kind: Kind::Prefix {
            field: |v| &mut v.redis_prefix,
        },
    },
    Setting {
        key: "redis_ttl",
        value_name: "TIME",
        default: Preset::Value("1h"),
        group: Group::Redis,
        help: "Time an answer stays in Redis",
        kind: Kind::Time {
            range: SECOND..=Duration::from_secs(30 * 86_400),
            field: |v| &mut v.redis_ttl,
        },
    },
    Setting {
        key: "write_token_file",
        value_name: "FILE",
        default: Preset::None {
            means: "no token: writes work only while every listen address is loopback",
            example: "/etc/canvas-cluster/write-token",
        },
        group: Group::Writes,
        help: "File that holds the token which POST, PUT and DELETE must show (Authorization: Bearer …), not readable by others",
        kind: Kind::SecretFile {
            of: "a write token",
            field: |v| &mut v.write_token_file,
        },
    },
    Setting {
        key: "allow_anonymous_writes",
        value_name: "BOOL",
        default: Preset::Value("false"),
        group: Group::Writes,
        help: "Let everyone who reaches a listen address write, without a token",
        kind: Kind::Switch {
            field: |v| &mut v.allow_anonymous_writes,
        },
    },
    Setting {
        key: "cache_max_age",
        value_name: "TIME",
        default: Preset::Value("0s"),
        group: Group::Responses,
        help: "Time for which a cache (a browser's, a CDN's) may answer GETs of shoes and rows without asking; 0s makes it ask each time, by ETag",
        kind: Kind::Time {
            range: Duration::ZERO..=Duration::from_secs(365 * 24 * 3600),
            field: |v| &mut v.cache_max_age,
        },
    },
    Setting {
        key: "cors_origins",
        value_name: "ORIGIN",
        default: Preset::None {
            means: "none",
            example: "https://shop.example",
        },
        group: Group::Responses,
        help: "Web origin whose scripts may read answers and send writes, such as https://shop.example, or * for all; repeat it, or separate by commas, for more",
        kind: Kind::Origins {
            field: |v| &mut v.cors_origins,
        },
    },
    Setting {
        key: "server_timing",
        value_name: "WHICH",
        default: Preset::Value("never"),
        group: Group::Responses,
        help: "Which answers say in Server-Timing where their time went: never, asked (those to requests with X-Server-Timing: 1) or always; also for scripts of --cors-origins",
        kind: Kind::ServerTiming {
            field: |v| &mut v.server_timing,
        },
    },
    Setting {
        key: "api_docs",
        value_name: "WHERE",
        default: Preset::Value("public"),
        group: Group::Responses,
        help: "Where /openapi.json and /docs, which describe the API, are served: public (beside the API), admin (on the admin listener alone) or none",
        kind: Kind::ApiDocs {
            field: |v| &mut v.api_docs,
        },
    },
    Setting {
        key: "frame_ancestors",
        value_name: "ORIGIN|self|none|*",
        default: Preset::Value("self"),
        group: Group::Responses,
        help: "Web origin whose pages may embed the product page, self for pages of this server, * for all, or none; repeat it, or separate by commas, for more",
        kind: Kind::Ancestors {
            field: |v| &mut v.frame_ancestors,
        },
    },
    Setting {
        key: "static_dir",
        value_name: "DIR",
        default: Preset::None {
            means: "none",
            example: "/srv/canvas-cluster",
        },
        group: Group::Responses,
        help: "Folder whose files are served at the root, after all other paths; workers read it when they start (16 MiB a file and 64 MiB in all), so a change takes a reload",
        kind: Kind::Path {
            field: |v| &mut v.static_dir,
        },
    },
    Setting {
        key: "loaderio_token",
        value_name: "TOKEN",
        default: Preset::None {
            means: "none",
            example: "loaderio-0123456789abcdef0123456789abcdef",
        },
        group: Group::Responses,
        help: "Token by which loader.io knows that it may test this host, served where it looks for it",
        kind: Kind::LoaderioToken {
            field: |v| &mut v.loaderio_token,
        },
    },
    Setting {
        key: "max_request_line",
        value_name: "SIZE",
        default: Preset::Value("8KiB"),
        group: Group::Limits,
        help: "Longest request line; a longer one is answered 414",
        kind: Kind::Size {
            range: 256..=32 * KIB,
            field: |v| &mut v.limits.max_request_line,
        },
    },
    Setting {
        key: "max_head",
        value_name: "SIZE",
        default: Preset::Value("16KiB"),
        group: Group::Limits,
        help: "Largest head of a request, request line included; a larger one is answered 431",
        kind: Kind::Size {
            range: KIB..=64 * KIB,
            field: |v| &mut v.limits.max_head,
        },
    },
    Setting {
        key: "max_fields",
        value_name: "N",
        default: Preset::Value("64"),
        group: Group::Limits,
        help: "Most fields in a head; more are answered 431",
        kind: Kind::Count {
            of: "fields",
            range: 1..=128,
            field: |v| &mut v.limits.max_fields,
        },
    },
    Setting {
        key: "max_body",
        value_name: "SIZE",
        default: Preset::Value("64KiB"),
        group: Group::Limits,
        help: "Largest body of a request; a larger one is answered 413",
        kind: Kind::Size {
            range: KIB..=MIB,
            field: |v| &mut v.limits.max_body,
        },
    },
    Setting {
        key: "head_timeout",
        value_name: "TIME",
        default: Preset::Value("10s"),
        group: Group::Limits,
        help: "Time from the first byte of a request to the end of its head; then 408",
        kind: Kind::Time {
            range: TENTH..=TEN_MINUTES,
            field: |v| &mut v.limits.head_timeout,
        },
    },
    Setting {
        key: "min_body_rate",
        value_name: "N",
        default: Preset::Value("256"),
        group: Group::Limits,
        help: "Fewest bytes a second, on average, at which a body may arrive, or a response be taken; a slower body is answered 408",
        kind: Kind::Count {
            of: "bytes a second",
            range: 1..=MIB,
            field: |v| &mut v.limits.min_body_rate,
        },
    },
    Setting {
        key: "keepalive_timeout",
        value_name: "TIME",
        default: Preset::Value("75s"),
        group: Group::Limits,
        help: "Time an idle connection is kept for its next request",
        kind: Kind::Time {
            range: TENTH..=HOUR,
            field: |v| &mut v.limits.keepalive_timeout,
        },
    },
    Setting {
        key: "write_timeout",
        value_name: "TIME",
        default: Preset::Value("30s"),
        group: Group::Limits,
        help: "Time a client may take nothing of its response, or less than min_body_rate allows; then the connection is closed",
        kind: Kind::Time {
            range: TENTH..=TEN_MINUTES,
            field: |v| &mut v.limits.write_timeout,
        },
    },
    Setting {
        key: "max_connections",
        value_name: "N",
        default: Preset::Value("20000"),
        group: Group::Limits,
        help: "Most open connections per worker; one more is answered 503 and closed",
        kind: Kind::Count {
            of: "connections",
            range: 1..=1_000_000,
            field: |v| &mut v.limits.max_connections,
        },
    },
];
