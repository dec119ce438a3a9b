//! The values of all settings while they are being read, before they are checked against each other and become
//! a `Config`. Filled by `kind`, row by row.

use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;
use super::{
    AccessFormat, AccessTarget, Admin, ApiDocs, ControlSocket, LimitsConfig, Listen, LogFormat,
    ServerTiming,
};

/// The values read so far, one field per row: well-formed each, but not yet checked against each other.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) config: Option<PathBuf>,
    pub(super) workers: Option<usize>,
    pub(super) listen: Vec<Listen>,
    pub(super) trusted_proxies: Vec<ipnet::IpNet>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    /// The usual places are filled in later: they depend on the environment.
    pub(super) control_socket: ControlSocket,
    /// Here too.
    pub(super) admin: Admin,
    pub(super) allow_remote_admin: bool,
    pub(super) log_level: log::LevelFilter,
    pub(super) log_format: LogFormat,
    pub(super) slow_request: Duration,
    pub(super) trace_sql: bool,
    pub(super) server_timing: ServerTiming,
    pub(super) access_log: Option<AccessTarget>,
    pub(super) access_log_format: AccessFormat,
    pub(super) boot_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) drain_delay: Duration,
    pub(super) hang_timeout: Duration,
    pub(super) max_requests: usize,
    pub(super) max_worker_rss: usize,
    pub(super) tune_host: bool,
    pub(super) seccomp: bool,
    pub(super) database_notify: bool,
    pub(super) database_url: Option<Secret>,
    pub(super) database_url_file: Option<PathBuf>,
    pub(super) database_read_url: Option<Secret>,
    pub(super) database_read_url_file: Option<PathBuf>,
    pub(super) max_replica_lag: Duration,
    pub(super) database_pooler: bool,
    pub(super) lanes: usize,
    pub(super) request_timeout: Duration,
    pub(super) l1_bytes: usize,
    pub(super) l1_ttl: Duration,
    pub(super) redis_url: Option<Secret>,
    pub(super) redis_url_file: Option<PathBuf>,
    pub(super) redis_prefix: String,
    pub(super) redis_ttl: Duration,
    pub(super) write_token_file: Option<PathBuf>,
    pub(super) allow_anonymous_writes: bool,
    pub(super) cache_max_age: Duration,
    pub(super) cors_origins: Vec<String>,
    pub(super) api_docs: ApiDocs,
    pub(super) frame_ancestors: Vec<String>,
    pub(super) static_dir: Option<PathBuf>,
    pub(super) loaderio_token: Option<String>,
    pub(super) limits: LimitsConfig,
}

impl Values {
    /// Nothing read yet; the defaults of the table are read into it first.
    pub(super) fn blank() -> Self {
        Values {
            config: None,
            workers: None,
            listen: Vec::new(),
            trusted_proxies: Vec::new(),
            state_dir: None,
            user: None,
            group: None,
            control_socket: ControlSocket::Usual(Vec::new()),
            admin: Admin::Usual(Vec::new()),
            allow_remote_admin: false,
            log_level: log::LevelFilter::Off,
            log_format: LogFormat::Auto,
            slow_request: Duration::ZERO,
            trace_sql: false,
            server_timing: ServerTiming::Never,
            access_log: None,
            access_log_format: AccessFormat::Combined,
            boot_timeout: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            drain_delay: Duration::ZERO,
            hang_timeout: Duration::ZERO,
            max_requests: 0,
            max_worker_rss: 0,
            tune_host: false,
            seccomp: false,
            database_notify: false,
            database_url: None,
            database_url_file: None,
            database_read_url: None,
            database_read_url_file: None,
            max_replica_lag: Duration::ZERO,
            database_pooler: false,
            lanes: 0,
            request_timeout: Duration::ZERO,
            l1_bytes: 0,
            l1_ttl: Duration::ZERO,
            redis_url: None,
            redis_url_file: None,
            redis_prefix: String::new(),
            redis_ttl: Duration::ZERO,
            write_token_file: None,
            allow_anonymous_writes: false,
            cache_max_age: Duration::ZERO,
            cors_origins: Vec::new(),
            api_docs: ApiDocs::Public,
            frame_ancestors: Vec::new(),
            static_dir: None,
            loaderio_token: None,
            limits: LimitsConfig::blank(),
        }
    }
}
