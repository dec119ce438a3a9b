//! One connection to Redis with deadlines, and which process it leads to.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::breaker::Breaker;
use redis::{Client, Connection, RedisError, RedisResult};

/// How long one exchange with Redis may take. It is a cache on the same network: slower than this is down.
pub(super) const IO_TIMEOUT: Duration = Duration::from_millis(250);

/// What stands between an epoch's own part and the process that it began in.
const OF: char = '@';

/// How much of a process's name an epoch carries: 64 bits in hexadecimal.
const RUN_LENGTH: usize = 16;

/// A connection, and the process of Redis that it leads to: one that restarts has no connections of before.
pub(super) struct Link {
    pub(super) connection: Connection,
    /// The beginning of the `run_id` of INFO; empty where INFO is not to be had.
    run: String,
    /// How often the breaker had opened when it was begun.
    pub(super) openings: u64,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// Redis does not answer in time, or refuses us.
    pub(super) fn new(client: &Client, breaker: &Breaker) -> RedisResult<Self> {
        let openings = breaker.openings();
        let mut connection = client.get_connection_with_timeout(IO_TIMEOUT)?;
        connection.set_read_timeout(Some(IO_TIMEOUT))?;
        connection.set_write_timeout(Some(IO_TIMEOUT))?;
        let run = match redis::cmd("INFO")
            .arg("server")
            .query::<String>(&mut connection)
        {
            Ok(info) => run_of(&info),
            // An access list may keep it from us.
            Err(error) if !is_away(&error) => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Link {
            connection,
            run,
            openings,
        })
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
    pub(super) client: Client,
    pub(super) breaker: Arc<Breaker>,
}

impl r2d2::ManageConnection for Connector {
    type Connection = Link;
    type Error = RedisError;

    fn connect(&self) -> RedisResult<Link> {
        Link::new(&self.client, &self.breaker)
    }

    fn is_valid(&self, link: &mut Link) -> RedisResult<()> {
        redis::cmd("PING").query(&mut link.connection)
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        use redis::ConnectionLike;
        !link.connection.is_open() || link.openings != self.breaker.openings()
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
