//! Database URLs: `sqlite:PATH`, `postgres://…` and `couchdb://…`, parsed once into types that can't be wrong. The
//! command line, the configuration and every tool name a database with a [`DatabaseUrl`]. A password
//! lives in a [`Secret`] and nowhere else: neither `Display`, `Debug` nor an error text shows it.

mod couchdb;
mod parse;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use self::couchdb::{COUCHDB_PORT, COUCHDBS_PORT, CouchUrl};
use crate::config::Secret;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Where PostgreSQL listens when a URL names no port.
pub const POSTGRES_PORT: u16 = 5432;

/// The host of a URL that names none: the socket folder of Debian's PostgreSQL, as its libpq has it.
pub const POSTGRES_SOCKET_DIR: &str = "/var/run/postgresql";

/// Which database to use and how to reach it. `Display` is a URL without its password.
#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    /// One SQLite file, relative to the working directory unless absolute.
    Sqlite(PathBuf),
    /// One or more PostgreSQL servers that hold the same database.
    Postgres(Box<PostgresUrl>),
    /// One database of a CouchDB server.
    CouchDb(Box<CouchUrl>),
}

impl DatabaseUrl {
    /// Parses `sqlite:PATH`, `sqlite:///ABSOLUTE/PATH`, `postgres://…`, `postgresql://…`, libpq's
    /// `host=… dbname=…` form, `couchdb://…` or `couchdbs://…`.
    ///
    /// # Errors
    /// [`UrlError`] names the part that is wrong. It never holds the password, nor a piece of the text
    /// that could be one.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        parse::parse(text)
    }

    /// Adds a password (from a file, a credential, `PGPASSWORD`) to a URL that holds none of its own.
    #[must_use]
    pub fn or_password(mut self, password: Option<Secret>) -> Self {
        let own = match &mut self {
            DatabaseUrl::Sqlite(_) => return self,
            DatabaseUrl::Postgres(postgres) => &mut postgres.password,
            DatabaseUrl::CouchDb(couchdb) => &mut couchdb.password,
        };
        if own.is_none() {
            *own = password;
        }
        self
    }

    /// Whether the URL itself holds a password, which `ps` would show if it came from the command line.
    pub fn holds_password(&self) -> bool {
        match self {
            DatabaseUrl::Sqlite(_) => false,
            DatabaseUrl::Postgres(postgres) => postgres.password.is_some(),
            DatabaseUrl::CouchDb(couchdb) => couchdb.password.is_some(),
        }
    }
}

impl std::str::FromStr for DatabaseUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        DatabaseUrl::parse(text)
    }
}

/// The parameters of a PostgreSQL connection, named as libpq names them
/// (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>).
#[derive(Debug, Clone)]
pub struct PostgresUrl {
    /// Tried in order until one takes us; never empty.
    pub servers: Vec<Server>,
    /// `None`: the operating system's user.
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// `None`: the name of the user.
    pub dbname: Option<String>,
    pub sslmode: SslMode,
    pub sslrootcert: RootCert,
    /// PEM file of our certificate and its chain.
    pub sslcert: Option<PathBuf>,
    /// PEM file of the key to `sslcert`.
    pub sslkey: Option<PathBuf>,
    /// The longest that one server may take to let us in, from the first packet to the first query.
    pub connect_timeout: Option<Duration>,
    pub application_name: String,
    /// Command-line options for the server process, such as `-c search_path=shop`.
    pub options: Option<String>,
    pub target_session_attrs: TargetSession,
    pub channel_binding: ChannelBinding,
    /// Try the servers in random order rather than in that of the URL.
    pub load_balance: bool,
    pub keepalives: bool,
    /// Idle time after which TCP asks whether the server is still there.
    pub keepalives_idle: Duration,
    pub keepalives_interval: Duration,
    pub keepalives_count: u32,
    /// The longest that sent bytes may stay unacknowledged before TCP gives the connection up.
    pub tcp_user_timeout: Duration,
}

/// What connections are called in pg_stat_activity, unless the URL names them.
const SERVER_NAME: &str = "canvas-cluster";

impl PostgresUrl {
    /// Tells the connections of a worker apart in pg_stat_activity, unless the URL gives them a name of its own.
    pub fn name_worker(&mut self, slot: usize) {
        if self.application_name == SERVER_NAME {
            self.application_name = format!("{SERVER_NAME}/{slot}");
        }
    }
}

/// One server of a [`PostgresUrl`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub host: Host,
    /// Connect to this address; the host is then only the name that the certificate must bear.
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// A server's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Tcp(String),
    /// The folder of a Unix-domain socket. TLS does not apply to it, whatever `sslmode` says.
    Unix(PathBuf),
}

/// How much TLS a connection must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only if the server takes us in no other way.
    Allow,
    /// TLS if the server speaks it.
    Prefer,
    /// TLS always; the certificate is not looked at unless `sslrootcert` is given (as in libpq).
    Require,
    /// TLS with a certificate from a trusted authority, whatever its name.
    VerifyCa,
    /// TLS with a trusted certificate that bears the host's name.
    VerifyFull,
}

impl SslMode {
    /// The word as it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// Which authorities are trusted to sign the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// Nothing said: the system's, when the mode asks for any.
    Unset,
    /// `sslrootcert=system`: the system's, which makes `verify-full` the default mode.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// What a server must be for us to stay with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

/// Whether the password exchange is bound to the TLS channel (SCRAM-SHA-256-PLUS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// Why a text is not a database URL, in words for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlError(String);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UrlError {}

/// RFC 3986's unreserved characters stay as they are.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            DatabaseUrl::Postgres(postgres) => postgres.fmt(f),
            DatabaseUrl::CouchDb(couchdb) => couchdb.fmt(f),
        }
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = &self.user {
            write!(f, "{}", utf8_percent_encode(user, ESCAPED))?;
        }
        if self.password.is_some() {
            f.write_str(":***")?;
        }
        if self.user.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        for (i, server) in self.servers.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            server.fmt(f)?;
        }
        if let Some(dbname) = &self.dbname {
            write!(f, "/{}", utf8_percent_encode(dbname, ESCAPED))?;
        }
        if self.sslmode != SslMode::Prefer {
            write!(f, "?sslmode={}", self.sslmode.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]")?,
            Host::Tcp(name) => f.write_str(name)?,
            Host::Unix(dir) => {
                write!(
                    f,
                    "{}",
                    utf8_percent_encode(&dir.to_string_lossy(), ESCAPED)
                )?;
            }
        }
        if self.port != POSTGRES_PORT {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}
