//! One connection to Redis, whose every exchange ends by its deadline, and which process it leads to.
//!
//! Why not `redis::Connection`: its time-outs are those of single system calls, so a Redis, or a network, that lets a byte
//! through now and then holds a lane for as long as it likes. As with `store::postgres::session`, the thread that asks runs
//! the crate's asynchronous connection and a timer, and whichever is first ends the exchange.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::breaker::Breaker;
use super::servers::Servers;
use crate::scoreboard::Scoreboard;
use crate::store::Deadline;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult};
use tokio::runtime::{Builder, Runtime};
use xxhash_rust::xxh3::xxh3_64;

/// How long one exchange with Redis may take, whatever it consists of. It is a cache on the same network: slower than this is
/// down.
pub(super) const IO_TIMEOUT: Duration = Duration::from_millis(250);

/// What stands between an epoch's own part and the process that it began in.
const OF: char = '@';

/// How much of a process's name an epoch carries: 64 bits in hexadecimal.
const RUN_LENGTH: usize = 16;

/// What a connection's bytes move on, while the thread that waits for them is here.
pub(super) struct EventLoop(Option<Runtime>);

impl EventLoop {
    /// # Errors
    /// The kernel has no descriptors left for us.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(EventLoop(Some(runtime)))
    }

    /// Runs an exchange to its end or to the deadline, whichever is first, however its bytes come.
    ///
    /// # Errors
    /// Those of the exchange; a time-out of ours is one of the connection's.
    pub(super) fn run<T>(
        &self,
        deadline: Deadline,
        exchange: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let Some(runtime) = &self.0 else {
            return Err(io::Error::from(ErrorKind::NotConnected).into());
        };
        runtime.block_on(async {
            match tokio::time::timeout(deadline.left(), exchange).await {
                Ok(outcome) => outcome,
                Err(_) => Err(io::Error::from(ErrorKind::TimedOut).into()),
            }
        })
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A name look-up may still be under way in a thread of the runtime: don't wait for it.
            runtime.shutdown_background();
        }
    }
}

/// A connection, and the process of Redis that it leads to: one that restarts has no connections of before.
pub(super) struct Link {
    connection: MultiplexedConnection,
    events: EventLoop,
    /// Whether an exchange was left before its end, or found nobody there, or somebody who speaks no Redis.
    broken: bool,
    /// The beginning of the `run_id` of INFO; empty where INFO is not to be had.
    run: String,
    /// How often the breaker had opened when it was begun.
    pub(super) openings: u64,
    scoreboard: Scoreboard,
}

impl Link {
    /// Connects, by the deadline of one exchange, and has this host's writes marked there from now on.
    ///
    /// # Errors
    /// Redis does not answer in time, or refuses us.
    pub(super) fn new(
        servers: &Servers,
        breaker: &Breaker,
        scoreboard: Scoreboard,
    ) -> RedisResult<Self> {
        let openings = breaker.openings();
        let deadline = Deadline::after(IO_TIMEOUT);
        let events = EventLoop::new()?;
        let connection = events.run(deadline, servers.connect())?;
        let mut link = Link {
            connection,
            events,
            broken: false,
            run: String::new(),
            openings,
            scoreboard,
        };
        match link.ask::<String>(redis::cmd("INFO").arg("server"), deadline) {
            Ok(info) => link.run = run_of(&info),
            // An access list may keep it from us. A master that may become another one must say who it is.
            Err(error) if !is_away(&error) && !servers.may_change() => {}
            Err(error) => return Err(error),
        }
        if scoreboard.move_to_redis(link.number()) {
            log::debug!("redis: it is another process than before");
        }
        Ok(link)
    }

    /// A number that stands for the process.
    fn number(&self) -> u64 {
        xxh3_64(self.run.as_bytes()).max(1)
    }

    /// Whether it leads to the process in which this host's writes are marked. Another one may be a master no longer, or be the next.
    pub(super) fn is_current(&self) -> bool {
        self.scoreboard.is_redis(self.number())
    }

    /// One command and its answer.
    ///
    /// # Errors
    /// Redis refused, or the connection was lost, or the deadline came first.
    pub(super) fn ask<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        deadline: Deadline,
    ) -> RedisResult<T> {
        let answer = self
            .events
            .run(deadline, command.query_async(&mut self.connection));
        self.broken |= answer
            .as_ref()
            .is_err_and(|error| is_away(error) || error.is_unrecoverable_error());
        answer
    }

    /// A word that has never been an epoch: the time, 64 random bits for hosts that begin one in the same moment, and
    /// where it began.
    pub(super) fn new_epoch(&self) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let dice = RandomState::new().hash_one(now);
        format!("{now:x}{dice:016x}{OF}{}", self.run)
    }

    /// Whether this epoch began in the process of this connection.
    pub(super) fn began(&self, epoch: &[u8]) -> bool {
        let run = epoch.rsplit(|byte| *byte == OF as u8).next();
        epoch.contains(&(OF as u8)) && run == Some(self.run.as_bytes())
    }
}

fn run_of(info: &str) -> String {
    let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    let letters = run.unwrap_or_default().chars();
    letters
        .filter(char::is_ascii_alphanumeric)
        .take(RUN_LENGTH)
        .collect()
}

/// r2d2's manager for Redis with deadlines: the one that the redis crate brings connects without any.
pub(super) struct Connector {
    pub(super) servers: Arc<Servers>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) scoreboard: Scoreboard,
}

impl r2d2::ManageConnection for Connector {
    type Connection = Link;
    type Error = RedisError;

    fn connect(&self) -> RedisResult<Link> {
        Link::new(&self.servers, &self.breaker, self.scoreboard)
    }

    fn is_valid(&self, link: &mut Link) -> RedisResult<()> {
        link.ask(&redis::cmd("PING"), Deadline::after(IO_TIMEOUT))
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.broken || link.openings != self.breaker.openings() || !link.is_current()
    }
}

/// r2d2 reports every failed connection attempt; the breaker already says it once.
#[derive(Debug)]
pub(super) struct Quiet;

impl r2d2::HandleError<RedisError> for Quiet {
    fn handle_error(&self, error: RedisError) {
        log::debug!("redis: a connection attempt failed: {}", describe(&error));
    }
}

/// Whether an error means that this connection leads to nobody who could do what a cache is for: it is broken, or what it
/// leads to is a replica, or not up yet. A new one may lead elsewhere.
pub(super) fn is_away(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN"))
}

/// What went wrong, without anything of the connection's URL: the crate's detail may quote the server's words, which
/// never hold a password, and the kind.
pub(super) fn describe(error: &RedisError) -> String {
    match error.detail() {
        Some(detail) => format!("{} ({detail})", error.category()),
        None => error.category().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_found_in_what_it_says_of_itself() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:2f1c7a90b3d44e55aa66bb77cc88dd99ee00ff11\r\ntcp_port:6379\r\n";
        assert_eq!(run_of(info), "2f1c7a90b3d44e55");
        assert_eq!(run_of(""), "");
    }
}
