//! The way to a server: tries the servers of a URL in turn, each with as much TLS as `sslmode` wants, and
//! sets the session up. Called by the pool's threads and by the tools; bounded in time.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config as pg;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::notices::Heard;
use super::session::{CallError, Session, text};
use crate::store::Deadline;
use crate::store::url::{ChannelBinding, Host, PostgresUrl, Server, SslMode, TargetSession};

/// A session that holds a transaction open for longer than this was left by a process that hangs; the
/// server ends it, and with it its locks. A COMMIT that comes later finds nothing to commit.
pub(crate) const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);

/// The longest that TCP may take to connect: long enough for one lost SYN (sent again after a second), short enough that a
/// network that swallowed more of them holds nobody up after it is back.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often a connection is tried again that was cut before it was of use.
const TRIES_AFTER_A_CUT: usize = 3;

/// For how long a server that was silent is tried after the others.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// Which servers have let a whole time-out pass, and when.
#[derive(Debug, Default)]
pub(crate) struct Silence(Mutex<Vec<(usize, Instant)>>);

impl Silence {
    fn note(&self, server: usize) {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|(known, _)| *known != server);
        silent.push((server, Instant::now()));
    }

    /// It has spoken. Otherwise one that was slow once would come after one that is down.
    fn forget(&self, server: usize) {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|(known, _)| *known != server);
    }

    fn lately(&self, server: usize) -> bool {
        let silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        silent
            .iter()
            .any(|(known, since)| *known == server && since.elapsed() < SILENT_FOR)
    }
}

/// How to reach the database of a URL.
pub(crate) struct Connector {
    pub(crate) url: PostgresUrl,
    pub(crate) tls: MakeRustlsConnect,
    /// The longest that one server may take.
    pub(crate) timeout: Duration,
    /// The longest that the server may work on one statement; zero: as long as it takes.
    pub(crate) statement_timeout: Duration,
    /// Where to note how many connections the server lets in.
    pub(crate) room: Arc<AtomicU32>,
    /// Which servers, by number, swallowed an attempt lately.
    pub(crate) silent: Silence,
    /// Where notices go, of sessions that are to hear them.
    pub(super) heard: Option<Heard>,
    /// A pooler is between, which gives each transaction a session of the server's that others have had: nothing may be set or
    /// prepared for longer.
    pub(super) pooled: bool,
}

impl Connector {
    /// Opens one session.
    ///
    /// # Errors
    /// A text that names each server and why it did not take us; it holds no password.
    pub(crate) fn connect(&self) -> Result<Session, String> {
        let mut servers: Vec<(usize, &Server)> = self.url.servers.iter().enumerate().collect();
        if self.url.load_balance {
            servers.sort_by_cached_key(|_| RandomState::new().hash_one(0_u8));
        }
        // One that swallows packets comes last for a while, or each attempt would wait for it first.
        servers.sort_by_key(|(number, _)| self.silent.lately(*number));
        let passes: &[TargetSession] = match self.url.target_session_attrs {
            TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
            TargetSession::Any => &[TargetSession::Any],
            TargetSession::ReadWrite => &[TargetSession::ReadWrite],
            TargetSession::ReadOnly => &[TargetSession::ReadOnly],
            TargetSession::Primary => &[TargetSession::Primary],
            TargetSession::Standby => &[TargetSession::Standby],
        };
        let mut refusals: Vec<String> = Vec::new();
        for wanted in passes {
            refusals.clear();
            for (number, server) in &servers {
                let begun = Instant::now();
                match self.connect_to(server, *wanted) {
                    Ok(session) => {
                        self.silent.forget(*number);
                        return Ok(session);
                    }
                    Err(why) if begun.elapsed() >= self.timeout.min(CONNECT_TIMEOUT) => {
                        self.silent.note(*number);
                        refusals.push(format!("{server}: {why}"));
                    }
                    Err(why) => refusals.push(format!("{server}: {why}")),
                }
            }
        }
        Err(refusals.join("; "))
    }

    /// Tries one server, with and without TLS as the mode allows.
    fn connect_to(&self, server: &Server, wanted: TargetSession) -> Result<Session, String> {
        // libpq's order: `allow` and `prefer` try their second choice when the first is turned down.
        let modes: &[pg::SslMode] = match (&server.host, self.url.sslmode) {
            (Host::Unix(_), _) | (_, SslMode::Disable) => &[pg::SslMode::Disable],
            (_, SslMode::Allow) => &[pg::SslMode::Disable, pg::SslMode::Require],
            (_, SslMode::Prefer) => &[pg::SslMode::Prefer, pg::SslMode::Disable],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => {
                &[pg::SslMode::Require]
            }
        };
        let deadline = Deadline::after(self.timeout);
        let mut first_refusal = None;
        for mode in modes {
            let attempt = || self.attempt(self.config(server, *mode), wanted, deadline);
            // What cut one connection before it was of use, a failover or a firewall, cuts the next ones rarely; and a
            // failure here would keep all lanes out for a while.
            let mut outcome = attempt();
            for _ in 0..TRIES_AFTER_A_CUT {
                match &outcome {
                    Err(refusal) if refusal.was_cut && !deadline.passed() => outcome = attempt(),
                    _ => break,
                }
            }
            match outcome {
                Ok(session) => return Ok(session),
                Err(refusal) => {
                    let final_word = !refusal.other_mode_may_help || deadline.passed();
                    let first = first_refusal.get_or_insert(refusal.why);
                    if final_word {
                        return Err(std::mem::take(first));
                    }
                }
            }
        }
        Err(first_refusal.unwrap_or_default())
    }

    fn attempt(
        &self,
        config: tokio_postgres::Config,
        wanted: TargetSession,
        deadline: Deadline,
    ) -> Result<Session, Refusal> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Refusal::last(format!("no event loop for the connection: {error}")))?;
        let connecting = runtime.block_on(async {
            tokio::time::timeout(deadline.left(), config.connect(self.tls.clone())).await
        });
        let mut session = match connecting {
            Ok(Ok(halves)) => {
                Session::new(runtime, halves, config, self.heard.clone(), self.pooled)
            }
            Ok(Err(error)) => {
                close(runtime);
                return Err(Refusal::from_server(&error));
            }
            Err(_) => {
                close(runtime);
                let waited = self.timeout.as_millis();
                return Err(Refusal::last(format!(
                    "it did not let us in within {waited} ms"
                )));
            }
        };
        let hello = self.hello();
        session
            .run(deadline, async |client, _| {
                if !self.pooled {
                    let answer = client.simple_query(&hello).await?;
                    self.note_room(&answer);
                }
                is_wanted(client, wanted).await
            })
            .map_err(|error| Refusal::from_call(&error))?
            .map_err(Refusal::last)?;
        Ok(session)
    }

    /// Remembers how many connections the server lets in, its role's and database's limits considered.
    fn note_room(&self, answer: &[SimpleQueryMessage]) {
        let room = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u32>().ok(),
            _ => None,
        });
        if let Some(room) = room {
            self.room.store(room.max(1), Ordering::Relaxed);
        }
    }

    /// The settings of each session, and a question in the same round trip: how many connections there are for clients
    /// like us. Slots are reserved for superusers, and since PostgreSQL 16 for a role; -1 is no limit.
    fn hello(&self) -> String {
        format!(
            "SET client_min_messages = warning; SET idle_in_transaction_session_timeout = {}; \
             SET statement_timeout = {}; \
             SELECT least( \
                 pg_catalog.current_setting('max_connections')::int \
                 - coalesce(pg_catalog.current_setting('superuser_reserved_connections', true)::int, 0) \
                 - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0), \
                 (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user), \
                 (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database()))",
            IDLE_IN_TRANSACTION.as_millis(),
            self.statement_timeout.as_millis()
        )
    }

    /// What a transaction sets for itself where a session can't.
    pub(super) fn settings_of_transaction(&self) -> String {
        match self.pooled {
            true => format!(
                "SET LOCAL client_min_messages = warning; \
                 SET LOCAL idle_in_transaction_session_timeout = {}; ",
                IDLE_IN_TRANSACTION.as_millis()
            ),
            false => String::new(),
        }
    }

    /// How a read begins that needs a transaction: for its time limit, and so that all of it is asked of one server. Each of its
    /// statements sees what was committed before it.
    pub(super) fn begin_of_read(&self, deadline: Deadline) -> Option<String> {
        self.pooled.then(|| {
            let limit = deadline.left().as_millis().max(1);
            format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = {limit}"
            )
        })
    }

    fn config(&self, server: &Server, mode: pg::SslMode) -> tokio_postgres::Config {
        let url = &self.url;
        let mut config = tokio_postgres::Config::new();
        match &server.host {
            Host::Tcp(name) => config.host(name),
            Host::Unix(dir) => config.host_path(dir),
        };
        if let Some(address) = server.address {
            config.hostaddr(address);
        }
        config
            .port(server.port)
            .ssl_mode(mode)
            .application_name(&url.application_name)
            .connect_timeout(self.timeout.min(CONNECT_TIMEOUT))
            .keepalives(url.keepalives)
            .keepalives_idle(url.keepalives_idle)
            .keepalives_interval(url.keepalives_interval)
            .keepalives_retries(url.keepalives_count)
            .tcp_user_timeout(url.tcp_user_timeout)
            .channel_binding(match url.channel_binding {
                ChannelBinding::Disable => pg::ChannelBinding::Disable,
                ChannelBinding::Prefer => pg::ChannelBinding::Prefer,
                ChannelBinding::Require => pg::ChannelBinding::Require,
            });
        if let Some(user) = &url.user {
            config.user(user);
        }
        if let Some(password) = &url.password {
            config.password(password.expose());
        }
        if let Some(dbname) = &url.dbname {
            config.dbname(dbname);
        }
        if let Some(options) = &url.options {
            config.options(options);
        }
        config
    }
}

/// Drops a runtime without waiting for a name look-up that it may have under way.
fn close(runtime: Runtime) {
    runtime.shutdown_background();
}

/// Why a server did not take us.
struct Refusal {
    why: String,
    /// It may take us with TLS if this was without, and the other way round.
    other_mode_may_help: bool,
    /// It had taken the connection, which broke.
    was_cut: bool,
}

impl Refusal {
    fn last(why: String) -> Self {
        Refusal {
            why,
            other_mode_may_help: false,
            was_cut: false,
        }
    }

    fn from_call(error: &CallError) -> Self {
        Refusal {
            was_cut: matches!(error, CallError::Lost(_)),
            ..Refusal::last(super::error::call_text(error))
        }
    }

    fn from_server(error: &postgres::Error) -> Self {
        // A failed handshake, or pg_hba.conf that has no line for this kind of connection (28000).
        let tls = error.to_string().contains("TLS");
        let no_entry =
            error.code() == Some(&postgres::error::SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        let broken = error.source().and_then(|source| source.downcast_ref());
        let was_cut = broken.is_some_and(|error: &io::Error| {
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
            )
        });
        Refusal {
            why: text(error),
            other_mode_may_help: tls || no_entry,
            was_cut: was_cut || error.is_closed(),
        }
    }
}

/// Whether a server is what `target_session_attrs` asks for; the inner error says what it is instead.
async fn is_wanted(
    client: &Client,
    wanted: TargetSession,
) -> Result<Result<(), String>, postgres::Error> {
    if wanted == TargetSession::Any {
        return Ok(Ok(()));
    }
    let query = "SELECT pg_catalog.pg_is_in_recovery()::text, pg_catalog.current_setting('transaction_read_only')";
    let answer = client.simple_query(query).await?;
    let (standby, read_only) = answer
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((row.get(0) == Some("true"), row.get(1) == Some("on")))
            }
            _ => None,
        })
        .unwrap_or_default();
    let fits = match wanted {
        TargetSession::Any | TargetSession::PreferStandby => true,
        TargetSession::ReadWrite => !read_only,
        TargetSession::ReadOnly => read_only,
        TargetSession::Primary => !standby,
        TargetSession::Standby => standby,
    };
    Ok(match fits {
        true => Ok(()),
        false if standby => Err("it is a standby".to_owned()),
        false if read_only => Err("it is read-only".to_owned()),
        false => Err("it is a primary that takes writes".to_owned()),
    })
}
