//! Redis as a cache of each shoe's JSON. Called from lane threads, for every call blocks (shortly).
//!
//! Never stale, on one host, by these rules, which `tests/model` proves:
//! 1. A writer puts a *tombstone* on the shoe's key before it commits, and once more after it; both expire.
//! 2. Who misses a key takes a *lease* on it before it asks the store, and fills only what still holds that lease. There is
//!    none over a tombstone, and a tombstone ends the one that is there, so no fill can outlive a write, however long it
//!    was held up. A key that Redis evicts takes the lease with it: that costs a fill, and nothing else.
//! 3. Every value carries the *epoch* it was filled under, a word kept in Redis and read along with each batch. A
//!    value of another epoch is a miss, so one SET empties the cache for every host. Epochs are never used twice: an
//!    evicted one makes nothing old valid again. An epoch names the process of Redis that it began in: one that came back
//!    with an older state, or a replica that was behind when it took over, is not believed.
//! 4. A writer that can't set a tombstone notes a *debt* in the scoreboard. While there is a debt nobody on the host
//!    reads Redis; a thread of each worker, the clerk, begins a new epoch and settles.
//!
//! Redis is optional at every moment: when it fails, reads are misses and a breaker keeps lanes from waiting on it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Cmd, RedisResult};

use super::breaker::Breaker;
use super::debts::Debts;
use super::invalidations;
use super::l1::Trust;
use super::link::{Connector, IO_TIMEOUT, Link, Quiet, describe, is_away};
use super::servers::Servers;
use crate::sabotage::{self, Fault};
use crate::scoreboard::Scoreboard;
use crate::store::{Deadline, Fence};

/// The age beyond which a read may no longer fill the cache.
const LEASE_LIFE: Duration = Duration::from_secs(4);

/// How long a tombstone outlives the last moment at which its write may begin to commit: longer than the database keeps a
/// transaction whose COMMIT is held up on its way.
const TOMBSTONE_MARGIN: Duration = Duration::from_secs(12);

/// How long Redis has even where requests have less: enough to connect. Who never lets it be reached in time would look for it again
/// and again.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// The shape of the cached values; part of every key, so that a new shape never reads an old one.
const FORMAT: &str = "v1";

/// What no filled value looks like: those start with their epoch and a colon.
const TOMBSTONE: &[u8] = b"-";

/// Puts a lease on each key that holds neither a tombstone, nor another's lease, nor a value of the epoch; answers with 1 for
/// each that it got. KEYS: the keys. ARGV: the lease, the epoch with its colon, milliseconds to live.
const LEASE: &str = "local got = {} for i, key in ipairs(KEYS) do \
    local v = redis.pcall('GET', key) \
    if type(v) == 'string' and (v == '-' or string.sub(v, 1, 1) == '~' or string.sub(v, 1, #ARGV[2]) == ARGV[2]) \
    then got[i] = 0 else redis.call('SET', key, ARGV[1], 'PX', ARGV[3]) got[i] = 1 end end return got";

/// Fills each key that still holds its lease. KEYS: the keys. ARGV, three for each key: the lease, milliseconds to live, the
/// value.
const FILL: &str = "for i, key in ipairs(KEYS) do local at = 3 * i - 2 \
    if redis.pcall('GET', key) == ARGV[at] then redis.call('SET', key, ARGV[at + 2], 'PX', ARGV[at + 1]) end end";

/// Puts a tombstone on each key, and then publishes a message if there is one. KEYS: the keys. ARGV: the tombstone, milliseconds
/// to live, the channel and the message.
const MARK: &str = "for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end \
    if ARGV[3] then redis.call('PUBLISH', ARGV[3], ARGV[4]) end";

/// Begins an epoch if the one that it follows is still there. KEYS: the epoch's key. ARGV: the old one, empty for none, and
/// the new one.
const BEGIN: &str =
    "if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end";

/// Drops each key, but for tombstones: those are of writes that may not have committed yet.
const FORGET: &str = "for _, key in ipairs(KEYS) do if redis.pcall('GET', key) ~= '-' then redis.call('DEL', key) end end";

/// A batch of answers from Redis, and what is needed to fill what was missing.
pub struct Lookup {
    /// Element `i` answers key `i` of the batch.
    pub found: Vec<Option<Bytes>>,
    ticket: Option<Ticket>,
}

/// What the store answered of a shoe that a lookup missed.
pub type Filling = (Arc<Lookup>, i32, Bytes);

impl Lookup {
    /// Whether the store's answer for this shoe will be filled in. It must be as new as the lease, or an older one would stay.
    pub fn fills(&self, shoe_id: i32) -> bool {
        let leased = |ticket: &Ticket| ticket.shoe_ids.binary_search(&shoe_id).is_ok();
        self.ticket.as_ref().is_some_and(leased)
    }
}

/// The right to fill, as of the moment before the store was asked.
struct Ticket {
    epoch: Vec<u8>,
    lease: String,
    begun: Instant,
    /// The shoes on whose keys the lease is, in ascending order.
    shoe_ids: Vec<i32>,
}

/// The cache: a pool of connections, its breaker and the key names.
pub struct RedisCache {
    pool: r2d2::Pool<Connector>,
    servers: Arc<Servers>,
    prefix: String,
    channel: String,
    epoch_key: String,
    ttl: Duration,
    tombstone_life: Duration,
    /// How long a request may wait for Redis at a time.
    patience: Duration,
    scoreboard: Scoreboard,
    debts: Arc<Debts>,
    breaker: Arc<Breaker>,
    /// The thread that sees to what is owed, and to Redis' return; once it is started.
    clerk: OnceLock<Thread>,
    /// What the leases of this process begin with, and how many there have been.
    leases: (String, AtomicU64),
}

impl RedisCache {
    /// Prepares the cache; connects to nothing yet. `connections` is the most that it will hold, one for each
    /// lane is enough. `request_timeout` bounds the time from a tombstone to its commit, and half of it the wait for Redis.
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
        let servers = Arc::new(Servers::new(url)?);
        let breaker = Arc::new(Breaker::default());
        let pool = r2d2::Pool::builder()
            .max_size(connections)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(IO_TIMEOUT)
            .error_handler(Box::new(Quiet))
            .build_unchecked(Connector {
                servers: servers.clone(),
                breaker: breaker.clone(),
                scoreboard,
            });
        let (channel, epoch_key) = (invalidations::channel(prefix), format!("{prefix}epoch"));
        let debts = Debts {
            servers: servers.clone(),
            channel: channel.clone(),
            epoch_key: epoch_key.clone(),
            scoreboard,
            breaker: breaker.clone(),
        };
        let own = RandomState::new().hash_one(std::process::id());
        Ok(RedisCache {
            pool,
            servers,
            channel,
            prefix: format!("{prefix}shoe:{FORMAT}:"),
            epoch_key,
            ttl,
            tombstone_life: request_timeout + TOMBSTONE_MARGIN,
            // Who finds it silent must still have time for the store.
            patience: (request_timeout / 2).clamp(LEAST_PATIENCE, IO_TIMEOUT),
            scoreboard,
            debts: Arc::new(debts),
            breaker,
            clerk: OnceLock::new(),
            leases: (format!("~{own:016x}-"), AtomicU64::new(0)),
        })
    }

    fn key(&self, shoe_id: i32) -> String {
        format!("{}{shoe_id}", self.prefix)
    }

    /// Looks a batch up, and takes leases on what is missing: on the first of them, as many as `room` says of so many that the
    /// store will be asked for. Never fails: what can't be had is missing.
    pub fn fetch(&self, shoe_ids: &[i32], room: impl FnOnce(usize) -> usize) -> Lookup {
        let begun = Instant::now();
        let nothing = || Lookup {
            found: vec![None; shoe_ids.len()],
            ticket: None,
        };
        if self.scoreboard.redis_debt().is_some() {
            // The clerk settles it, and by itself: a Redis that refuses would be asked by every batch otherwise.
            self.call_clerk();
            return nothing();
        }
        // One for all that a lookup asks.
        let deadline = Deadline::after(self.patience);
        let answer = self.attempt(deadline, |link| {
            let mut command = redis::cmd("MGET");
            command.arg(&self.epoch_key);
            for shoe_id in shoe_ids {
                command.arg(self.key(*shoe_id));
            }
            let mut values: Vec<Option<Vec<u8>>> = link.ask(&command, deadline)?;
            let epoch = values.first_mut().and_then(Option::take);
            match epoch {
                Some(epoch) if link.began(&epoch) => Ok(Some((epoch, values))),
                old => self
                    .begin_epoch(link, &old.unwrap_or_default(), deadline)
                    .map(|()| None),
            }
        });
        // A debt made while the batch was under way may concern one of its keys: then believe nothing of it. The debts of
        // those who have another table aren't seen.
        let believed = answer
            .flatten()
            .filter(|_| !self.scoreboard.is_divided() && self.scoreboard.redis_debt().is_none())
            .filter(|(_, values)| values.len() == shoe_ids.len() + 1);
        let Some((epoch, values)) = believed else {
            return nothing();
        };
        let found: Vec<Option<Bytes>> = values
            .into_iter()
            .skip(1)
            .map(|value| value.and_then(|value| open(value, &epoch)))
            .collect();
        let mut missing: Vec<i32> = shoe_ids
            .iter()
            .zip(&found)
            .filter(|(_, value)| value.is_none())
            .map(|(shoe_id, _)| *shoe_id)
            .collect();
        // A lease on what nobody asks the store for would only keep others from it.
        missing.truncate(room(missing.len()));
        // A key that is asked for twice would find its own lease in its way.
        missing.sort_unstable();
        missing.dedup();
        let ticket = self.lease(epoch, missing, begun, deadline);
        Lookup { found, ticket }
    }

    /// Takes leases, as far as they are to be had.
    fn lease(
        &self,
        epoch: Vec<u8>,
        missing: Vec<i32>,
        begun: Instant,
        deadline: Deadline,
    ) -> Option<Ticket> {
        if missing.is_empty() {
            return None;
        }
        let number = self.leases.1.fetch_add(1, Ordering::Relaxed);
        let lease = format!("{}{number}", self.leases.0);
        let mut command = self.script(LEASE, &missing);
        command
            .arg(&lease)
            .arg([&epoch[..], b":"].concat())
            .arg(LEASE_LIFE.as_millis() as u64);
        let got: Vec<u8> = self.attempt(deadline, |link| link.ask(&command, deadline))?;
        let shoe_ids: Vec<i32> = missing
            .into_iter()
            .zip(got)
            .filter(|(_, got)| *got == 1)
            .map(|(shoe_id, _)| shoe_id)
            .collect();
        (!shoe_ids.is_empty()).then_some(Ticket {
            epoch,
            lease,
            begun,
            shoe_ids,
        })
    }

    /// A script's call over the keys of these shoes.
    fn script(&self, script: &str, shoe_ids: &[i32]) -> redis::Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(shoe_ids.len());
        for shoe_id in shoe_ids {
            command.arg(self.key(*shoe_id));
        }
        command
    }

    /// Gives a Redis that has no epoch (a new one, or one that evicted it), or that of another process, its own. Of several
    /// that try one wins.
    fn begin_epoch(&self, link: &mut Link, old: &[u8], deadline: Deadline) -> RedisResult<()> {
        let mut command = redis::cmd("EVAL");
        command
            .arg(BEGIN)
            .arg(1)
            .arg(&self.epoch_key)
            .arg(old)
            .arg(link.new_epoch());
        link.ask(&command, deadline)
    }

    /// Fills what lookups missed with what the store answered since, each answer with its lookup: all in one command, since a Redis
    /// that falls silent would be waited for once for each.
    pub fn fill(&self, answers: &[Filling]) {
        // What missed together may be answered apart, or in part: each answer counts for itself.
        let leased = answers.iter().filter_map(|(lookup, shoe_id, value)| {
            let ticket = lookup.ticket.as_ref()?;
            ticket.shoe_ids.binary_search(shoe_id).ok()?;
            // Counted from the question: nothing in Redis is older than it may get.
            let left = self.ttl.checked_sub(ticket.begun.elapsed())?;
            Some((*shoe_id, ticket, left, value))
        });
        let leased: Vec<_> = leased.collect();
        if leased.is_empty() {
            return;
        }
        let keys: Vec<i32> = leased.iter().map(|(shoe_id, ..)| *shoe_id).collect();
        let mut command = self.script(FILL, &keys);
        for (_, ticket, left, value) in leased {
            command
                .arg(&ticket.lease)
                .arg(left.as_millis().max(1) as u64)
                .arg([&ticket.epoch[..], b":", &value[..]].concat());
        }
        // One that is held up on its way finds its lease gone.
        let _ = self.tell(&command);
    }

    /// Starts to hear of the writes of other hosts, and gives `trust` while it does; and to settle what this host owes.
    ///
    /// # Errors
    /// The kernel has no thread left for us.
    pub fn listen(&self, trust: Arc<Trust>) -> io::Result<()> {
        let clerk = self.debts.start_clerk()?;
        // Set once: this is called once.
        let _ = self.clerk.set(clerk.clone());
        let (breaker, messenger) = (self.breaker.clone(), clerk.clone());
        self.servers.watch(move || {
            // Links of before lead to a master of before.
            breaker.retire();
            messenger.unpark();
        })?;
        invalidations::listen(
            self.servers.clone(),
            &self.channel,
            self.scoreboard,
            trust,
            clerk,
        )
    }

    /// Tells other hosts that the answers of these shoes are old, and marks their keys once more: Redis may have dropped a
    /// tombstone since, or not have got it, and an answer of before may be there now. Called after the commit, before this
    /// host's generations move and before it is acknowledged.
    pub fn publish(&self, shoe_ids: &[i32]) {
        if shoe_ids.is_empty() {
            return;
        }
        let mut command = self.tombstones(shoe_ids);
        command
            .arg(&self.channel)
            .arg(invalidations::message(&self.scoreboard, shoe_ids));
        // Told to all once Redis is back.
        if self.tell(&command).is_none() {
            self.scoreboard.owe_redis();
        }
    }

    /// Sees to it that what Redis holds of these shoes is not believed: somebody wrote to them past this server, as is
    /// known only now.
    pub fn forget(&self, shoe_ids: &[i32]) {
        if self.tell(&self.script(FORGET, shoe_ids)).is_none() {
            self.scoreboard.owe_redis();
        }
    }

    /// The call that marks these shoes' keys.
    fn tombstones(&self, shoe_ids: &[i32]) -> redis::Cmd {
        let marked = match sabotage::commits(Fault::NoTombstone) {
            true => &[],
            false => shoe_ids,
        };
        let mut command = self.script(MARK, marked);
        command
            .arg(TOMBSTONE)
            .arg(self.tombstone_life.as_millis() as u64);
        command
    }

    /// One command whose answer says nothing but that it was carried out. `None` as in [`RedisCache::attempt`].
    fn tell(&self, command: &Cmd) -> Option<()> {
        let deadline = Deadline::after(self.patience);
        self.attempt(deadline, |link| link.ask(command, deadline))
    }

    /// Runs one exchange unless the breaker is open; a failure opens it. `None` if Redis was never asked, said no, or may
    /// have carried the commands out without our hearing of it.
    fn attempt<T>(
        &self,
        deadline: Deadline,
        exchange: impl FnOnce(&mut Link) -> RedisResult<T>,
    ) -> Option<T> {
        let mut link = loop {
            if self.breaker.is_open() {
                return None;
            }
            let openings = self.breaker.openings();
            match self.pool.get_timeout(deadline.left()) {
                Ok(link) if link.openings != self.breaker.openings() => {
                    // Begun before Redis was away: the pool drops it.
                }
                Ok(link) if link.is_current() => break link,
                // The pool drops it, too.
                Ok(_) => self.servers.doubt(),
                Err(error) => {
                    self.leave_alone(openings, &error.to_string());
                    return None;
                }
            }
        };
        match exchange(&mut link) {
            Ok(value) if link.is_current() => Some(value),
            // Somebody found another master meanwhile. What was said to this one may be lost.
            Ok(_) => None,
            // An answer, even a refusal (out of memory, say), means that Redis is there.
            Err(error) if !is_away(&error) => {
                self.breaker.complain(&describe(&error));
                None
            }
            Err(error) => {
                self.leave_alone(link.openings, &describe(&error));
                None
            }
        }
    }

    /// From now on nobody asks Redis, until the clerk has reached it.
    fn leave_alone(&self, openings: u64, why: &str) {
        if self.breaker.open(openings, why) {
            self.call_clerk();
        }
    }

    fn call_clerk(&self) {
        if let Some(clerk) = self.clerk.get() {
            clerk.unpark();
        }
    }
}

impl Fence for RedisCache {
    fn raise(&self, shoe_ids: &[i32]) {
        if shoe_ids.is_empty() {
            return;
        }
        if self.tell(&self.tombstones(shoe_ids)).is_none() {
            self.scoreboard.owe_redis();
        }
    }
}

/// A value as stored is `epoch:json`; anything else is a tombstone, a lease or another epoch's, which is a miss.
fn open(mut value: Vec<u8>, epoch: &[u8]) -> Option<Bytes> {
    if !value.starts_with(epoch) || value.get(epoch.len()) != Some(&b':') {
        return None;
    }
    value.drain(..=epoch.len());
    Some(Bytes::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::IDLE_IN_TRANSACTION;

    /// A COMMIT that came late, within the database's patience, once found its tombstones gone, and a reader in between had
    /// filled the older value for good.
    #[test]
    fn a_tombstone_outlives_every_commit_that_may_come_late() {
        let board = Scoreboard::new().expect("shared memory");
        let (ttl, hasty) = (Duration::from_secs(60), Duration::from_millis(1));
        let cache = RedisCache::new("redis://localhost", "", ttl, 1, hasty, board).expect("a URL");
        assert!(cache.tombstone_life > IDLE_IN_TRANSACTION);
    }

    #[test]
    fn only_a_value_of_this_epoch_opens() {
        assert_eq!(
            open(b"3:[1]".to_vec(), b"3"),
            Some(Bytes::from_static(b"[1]"))
        );
        for other in [
            &b"2:[1]"[..],
            b"33:[1]",
            b"3",
            b"",
            b"[1:2]",
            b"~3:",
            TOMBSTONE,
        ] {
            assert_eq!(open(other.to_vec(), b"3"), None);
        }
    }
}
