//! Redis as a cache of each shoe's JSON. Called from lane threads, for every call blocks (shortly).
//!
//! Never stale, on one host, by four rules:
//! 1. A writer puts a *tombstone* on the shoe's key before it commits, and leaves it to expire.
//! 2. A fill covers no tombstone, and one whose read began more than [`FILL_LIFE`] ago is not written, so a slow
//!    fill can't outlive the tombstone that would have stopped it.
//! 3. Every value carries the *epoch* it was filled under, a word kept in Redis and read along with each batch. A
//!    value of another epoch is a miss, so one SET empties the cache for every host. Epochs are never used twice: an
//!    evicted one makes nothing old valid again.
//! 4. A writer that can't set its tombstone notes a debt in the scoreboard before it commits. While there is a debt
//!    nobody on the host reads Redis; whoever reaches it first begins a new epoch and settles.
//!
//! Redis is optional at every moment: when it fails, reads are misses and a breaker keeps lanes from waiting on it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis::{Client, Connection, RedisError, RedisResult};

use super::invalidations;
use super::l1::Trust;
use crate::scoreboard::Scoreboard;
use crate::store::Fence;

/// The age beyond which a read may no longer fill the cache.
const FILL_LIFE: Duration = Duration::from_secs(4);

/// By how much a tombstone outlives the oldest fill that could carry the value before its write.
const TOMBSTONE_MARGIN: Duration = Duration::from_secs(4);

/// How long one exchange with Redis may take. It is a cache on the same network: slower than this is down.
const IO_TIMEOUT: Duration = Duration::from_millis(250);

/// How long to leave Redis alone after it failed.
const BREAK: Duration = Duration::from_millis(250);

/// How often a Redis that keeps refusing is said to.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The shape of the cached values; part of every key, so that a new shape never reads an old one.
const FORMAT: &str = "v1";

/// What no filled value looks like: those start with their epoch and a colon.
const TOMBSTONE: &[u8] = b"-";

/// Fills a key unless a tombstone or a value of the same epoch is there; what else is there is dead.
/// KEYS: the key. ARGV: the epoch with its colon, the JSON, seconds to live.
const FILL: &str = "local v = redis.pcall('GET', KEYS[1]) \
    if type(v) ~= 'string' or (v ~= '-' and string.sub(v, 1, #ARGV[1]) ~= ARGV[1]) then \
    redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'EX', ARGV[3]) end";

/// A batch of answers from Redis, and what is needed to fill what was missing.
pub struct Lookup {
    /// Element `i` answers key `i` of the batch.
    pub found: Vec<Option<Bytes>>,
    fill: Option<FillTicket>,
}

/// The right to fill, as of the moment before the store was asked.
struct FillTicket {
    epoch: Vec<u8>,
    until: Instant,
}

/// The cache: a pool of connections, its breaker and the key names.
pub struct RedisCache {
    pool: r2d2::Pool<Connector>,
    client: Client,
    prefix: String,
    channel: String,
    epoch_key: String,
    ttl: Duration,
    tombstone_life: Duration,
    scoreboard: Scoreboard,
    breaker: Breaker,
}

/// Why an exchange gave no answer.
enum Missed {
    /// Redis was never asked, or said no.
    NotSent,
    /// It may have carried the commands out, now or (held up in a buffer) later.
    Unknown,
}

/// r2d2's manager for Redis with deadlines: the one that the redis crate brings connects without any.
struct Connector(Client);

impl r2d2::ManageConnection for Connector {
    type Connection = Connection;
    type Error = RedisError;

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.0.get_connection_with_timeout(IO_TIMEOUT)?;
        connection.set_read_timeout(Some(IO_TIMEOUT))?;
        connection.set_write_timeout(Some(IO_TIMEOUT))?;
        Ok(connection)
    }

    fn is_valid(&self, connection: &mut Connection) -> RedisResult<()> {
        redis::cmd("PING").query(connection)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        use redis::ConnectionLike;
        !connection.is_open()
    }
}

/// r2d2 reports every failed connection attempt; the breaker already says it once.
#[derive(Debug)]
struct Quiet;

impl r2d2::HandleError<RedisError> for Quiet {
    fn handle_error(&self, error: RedisError) {
        log::debug!("redis: a connection attempt failed: {}", describe(&error));
    }
}

impl RedisCache {
    /// Prepares the cache; connects to nothing yet. `connections` is the most that it will hold, one for each
    /// lane is enough. `request_timeout` bounds the time from a tombstone to its commit.
    ///
    /// # Errors
    /// The URL is not one that the redis crate takes; the text does not hold it.
    pub fn new(
        url: &str,
        prefix: &str,
        ttl: Duration,
        connections: u32,
        request_timeout: Duration,
        scoreboard: Scoreboard,
    ) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| describe(&error))?;
        let pool = r2d2::Pool::builder()
            .max_size(connections)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(IO_TIMEOUT)
            .error_handler(Box::new(Quiet))
            .build_unchecked(Connector(client.clone()));
        Ok(RedisCache {
            pool,
            client,
            channel: invalidations::channel(prefix),
            prefix: format!("{prefix}shoe:{FORMAT}:"),
            epoch_key: format!("{prefix}epoch"),
            ttl,
            tombstone_life: request_timeout + FILL_LIFE + TOMBSTONE_MARGIN,
            scoreboard,
            breaker: Breaker::default(),
        })
    }

    fn key(&self, shoe_id: i32) -> String {
        format!("{}{shoe_id}", self.prefix)
    }

    /// Looks a batch up. Never fails: what can't be had is missing.
    pub fn fetch(&self, shoe_ids: &[i32]) -> Lookup {
        let begun = Instant::now();
        let answer = self.attempt(|connection| {
            self.settle(connection)?;
            let mut command = redis::cmd("MGET");
            command.arg(&self.epoch_key);
            for shoe_id in shoe_ids {
                command.arg(self.key(*shoe_id));
            }
            command.query::<Vec<Option<Vec<u8>>>>(connection)
        });
        // A debt made while the batch was under way may concern one of its keys: then believe nothing of it. The debts of
        // those who have another table aren't seen.
        let believed = answer
            .ok()
            .filter(|_| !self.scoreboard.is_divided() && self.scoreboard.redis_debt().is_none());
        let Some(mut values) = believed.filter(|values| values.len() == shoe_ids.len() + 1) else {
            return Lookup {
                found: vec![None; shoe_ids.len()],
                fill: None,
            };
        };
        let Some(epoch) = values[0].take() else {
            self.begin_first_epoch();
            return Lookup {
                found: vec![None; shoe_ids.len()],
                fill: None,
            };
        };
        let found = values
            .into_iter()
            .skip(1)
            .map(|value| value.and_then(|value| open(value, &epoch)))
            .collect();
        Lookup {
            found,
            fill: Some(FillTicket {
                epoch,
                until: begun + FILL_LIFE,
            }),
        }
    }

    /// Gives a Redis that has no epoch (a new one, or one that evicted it) its first. Of several that try one wins.
    fn begin_first_epoch(&self) {
        let begun = self.attempt(|connection| {
            redis::cmd("SET")
                .arg(&self.epoch_key)
                .arg(new_epoch())
                .arg("NX")
                .query::<()>(connection)
        });
        if begun.is_err() {
            log::debug!("redis: no epoch could be begun; the next request tries again");
        }
    }

    /// Fills what the lookup missed with what the store answered since, in one round trip.
    pub fn fill(&self, lookup: &Lookup, shoe_ids: &[i32], values: &[Bytes]) {
        let Some(ticket) = &lookup.fill else { return };
        let filled = self.attempt(|connection| {
            let mut pipeline = redis::pipe();
            let epoch = [&ticket.epoch[..], b":"].concat();
            for (shoe_id, value) in shoe_ids.iter().zip(values) {
                pipeline
                    .cmd("EVAL")
                    .arg(FILL)
                    .arg(1)
                    .arg(self.key(*shoe_id))
                    .arg(&epoch)
                    .arg(&value[..])
                    .arg(self.ttl.as_secs().max(1))
                    .ignore();
            }
            if Instant::now() >= ticket.until {
                return Ok(());
            }
            pipeline.query::<()>(connection)
        });
        // A fill held up on its way may land after the tombstone that was to stop it is gone; under a new epoch
        // it can do no harm.
        if let Err(Missed::Unknown) = filled {
            self.scoreboard.owe_redis();
        }
    }

    /// Starts to hear of the writes of other hosts, and gives `trust` while it does.
    ///
    /// # Errors
    /// The kernel has no thread left for us.
    pub fn listen(&self, trust: Arc<Trust>) -> io::Result<()> {
        invalidations::listen(self.client.clone(), &self.channel, self.scoreboard, trust)
    }

    /// Tells other hosts that the answers of these shoes are old. Called after the commit, before it is acknowledged.
    pub fn publish(&self, shoe_ids: &[i32]) {
        if shoe_ids.is_empty() {
            return;
        }
        let told = self.attempt(|connection| {
            redis::cmd("PUBLISH")
                .arg(&self.channel)
                .arg(invalidations::message(&self.scoreboard, shoe_ids))
                .query::<()>(connection)
        });
        // Told to all once Redis is back.
        if told.is_err() {
            self.scoreboard.owe_redis();
        }
    }

    /// Begins a new epoch if a write is owed, so that no value of before is believed by anyone.
    fn settle(&self, connection: &mut Connection) -> RedisResult<()> {
        if let Some(debt) = self.scoreboard.redis_debt() {
            // The writes that are owed could not tell other hosts, either.
            redis::pipe()
                .cmd("SET")
                .arg(&self.epoch_key)
                .arg(new_epoch())
                .ignore()
                .cmd("PUBLISH")
                .arg(&self.channel)
                .arg(invalidations::message_of_everything(&self.scoreboard))
                .ignore()
                .query::<()>(connection)?;
            self.scoreboard.settle_redis(debt);
            log::info!(
                "redis: began a new epoch, since a write could not reach it earlier: the cache starts empty"
            );
        }
        Ok(())
    }

    /// Runs one exchange unless the breaker is open; a failure opens it.
    fn attempt<T>(
        &self,
        exchange: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, Missed> {
        if self.breaker.is_open() {
            return Err(Missed::NotSent);
        }
        let mut connection = match self.pool.get() {
            Ok(connection) => connection,
            Err(error) => {
                self.breaker.open(&error.to_string());
                return Err(Missed::NotSent);
            }
        };
        match exchange(&mut connection) {
            Ok(value) => {
                self.breaker.close();
                Ok(value)
            }
            // An answer, even a refusal (out of memory, read-only), means that Redis is there and that nothing is
            // on its way any more.
            Err(error) if !error.is_io_error() && !error.is_connection_dropped() => {
                self.breaker.complain(&describe(&error));
                Err(Missed::NotSent)
            }
            Err(error) => {
                self.breaker.open(&describe(&error));
                Err(Missed::Unknown)
            }
        }
    }
}

impl Fence for RedisCache {
    fn raise(&self, shoe_ids: &[i32]) {
        if shoe_ids.is_empty() {
            return;
        }
        let raised = self.attempt(|connection| {
            let mut pipeline = redis::pipe();
            for shoe_id in shoe_ids {
                pipeline
                    .cmd("SET")
                    .arg(self.key(*shoe_id))
                    .arg(TOMBSTONE)
                    .arg("PX")
                    .arg(self.tombstone_life.as_millis() as u64)
                    .ignore();
            }
            pipeline.query::<()>(connection)
        });
        if raised.is_err() {
            self.scoreboard.owe_redis();
        }
    }
}

/// A value as stored is `epoch:json`; anything else is a tombstone or another epoch's, which is a miss.
fn open(mut value: Vec<u8>, epoch: &[u8]) -> Option<Bytes> {
    if !value.starts_with(epoch) || value.get(epoch.len()) != Some(&b':') {
        return None;
    }
    value.drain(..=epoch.len());
    Some(Bytes::from(value))
}

/// A word that has never been an epoch: the time, and 64 random bits for hosts that begin one in the same moment.
fn new_epoch() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!("{now:x}{:016x}", RandomState::new().hash_one(now))
}

/// What went wrong, without anything of the connection's URL: the crate's detail may quote the server's words, which
/// never hold a password, and the kind.
pub(super) fn describe(error: &RedisError) -> String {
    match error.detail() {
        Some(detail) => format!("{} ({detail})", error.category()),
        None => error.category().to_owned(),
    }
}

/// Leaves a failing Redis alone for [`BREAK`] at a time, and says each change once.
struct Breaker {
    start: Instant,
    /// Milliseconds since `start` until which nobody tries.
    until: AtomicU64,
    down: AtomicBool,
    /// Milliseconds since `start` before which a refusal is not said again.
    quiet_until: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            start: Instant::now(),
            until: AtomicU64::new(0),
            down: AtomicBool::new(false),
            quiet_until: AtomicU64::new(0),
        }
    }
}

impl Breaker {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Open is: don't try. When its time is over one caller is let through to probe, and the others wait on.
    fn is_open(&self) -> bool {
        if !self.down.load(Ordering::Relaxed) {
            return false;
        }
        let until = self.until.load(Ordering::Relaxed);
        let now = self.now();
        now < until
            || self
                .until
                .compare_exchange(
                    until,
                    now + BREAK.as_millis() as u64,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_err()
    }

    fn open(&self, why: &str) {
        self.until
            .store(self.now() + BREAK.as_millis() as u64, Ordering::Relaxed);
        if !self.down.swap(true, Ordering::Relaxed) {
            log::warn!(
                "redis: not available, so requests go to the database until it is back: {why}"
            );
        }
    }

    /// Says that Redis refuses, once a minute.
    fn complain(&self, why: &str) {
        let now = self.now();
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        let next = now + COMPLAIN_EVERY.as_millis() as u64;
        if quiet_until <= now
            && self
                .quiet_until
                .compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            log::warn!("redis: refuses a command, so the database answers instead: {why}");
        }
    }

    fn close(&self) {
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            log::info!("redis: available again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_value_of_this_epoch_opens() {
        assert_eq!(
            open(b"3:[1]".to_vec(), b"3"),
            Some(Bytes::from_static(b"[1]"))
        );
        for other in [&b"2:[1]"[..], b"33:[1]", b"3", b"", b"[1:2]", TOMBSTONE] {
            assert_eq!(open(other.to_vec(), b"3"), None);
        }
        assert_ne!(new_epoch(), new_epoch());
    }

    #[test]
    fn an_open_breaker_lets_one_probe_through_after_its_time() {
        let breaker = Breaker::default();
        assert!(!breaker.is_open());
        breaker.open("test");
        assert!(breaker.is_open());
        breaker.until.store(0, Ordering::Relaxed);
        assert!(!breaker.is_open(), "the first caller probes");
        assert!(breaker.is_open(), "the next one waits for its outcome");
        breaker.close();
        assert!(!breaker.is_open());
    }
}
