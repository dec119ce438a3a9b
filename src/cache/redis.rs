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
//! In a cluster all this holds for each shard by itself (`shards`): a shard has its own epoch, process and debts, and a batch is split by
//! them, asked at once, and gathered by one deadline. What a master lost, or what moved, concerns its shards and no others.
//!
//! Redis is optional at every moment: when it fails, reads are misses and a breaker keeps lanes from waiting on it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use redis::{FromRedisValue, RedisResult};

use super::breaker::Breaker;
use super::debts::Debts;
use super::event_loop::IO_TIMEOUT;
use super::invalidations;
use super::link::{Connector, Link, Quiet};
pub use super::lookups::{Filling, Lookup};
use super::peer::{Ask, describe, is_away, is_elsewhere};
use super::scripts::{FORGET, MARK, TOMBSTONE};
use super::servers::Servers;
use super::shards::{Number, Shards};
use super::subscriptions;
use super::trust::Trust;
use crate::sabotage::{self, Fault};
use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::Buckets;
use crate::store::{Deadline, Fence};

/// How long a tombstone outlives the last moment at which its write may begin to commit: longer than the database keeps a
/// transaction whose COMMIT is held up on its way.
const TOMBSTONE_MARGIN: Duration = Duration::from_secs(12);

/// How long Redis has even where requests have less: enough to connect. Who never lets it be reached in time would look for it again
/// and again.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// The cache: a pool of connections, its breaker and the key names.
pub struct RedisCache {
    pool: r2d2::Pool<Connector>,
    servers: Arc<Servers>,
    pub(super) shards: Arc<Shards>,
    channel: String,
    pub(super) ttl: Duration,
    tombstone_life: Duration,
    /// How long a request may wait for Redis at a time.
    pub(super) patience: Duration,
    pub(super) scoreboard: Scoreboard,
    debts: Arc<Debts>,
    breaker: Arc<Breaker>,
    /// The thread that sees to what is owed, and to Redis' return; once it is started.
    clerk: OnceLock<Thread>,
    /// What the leases of this process begin with, and how many there have been.
    pub(super) leases: (String, AtomicU64),
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
        let channel = invalidations::channel(prefix);
        let shards = Arc::new(match servers.is_cluster() {
            true => Shards::of_cluster(prefix),
            false => Shards::of_one(prefix),
        });
        let debts = Debts {
            servers: servers.clone(),
            channel: channel.clone(),
            shards: shards.clone(),
            scoreboard,
            breaker: breaker.clone(),
        };
        let own = RandomState::new().hash_one(std::process::id());
        Ok(RedisCache {
            pool,
            servers,
            channel,
            shards,
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

    /// A script's call over the keys of these shoes, which are of one shard.
    pub(super) fn script(
        &self,
        script: &str,
        number: Number,
        shoe_ids: impl ExactSizeIterator<Item = i32>,
    ) -> Ask {
        let shard = self.shards.get(number);
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(shoe_ids.len());
        for shoe_id in shoe_ids {
            command.arg(shard.key(shoe_id));
        }
        Ask {
            buckets: shard.buckets,
            command,
            follows: false,
        }
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
        subscriptions::listen(
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
        let mark = |number, shoe_ids: Vec<i32>| {
            let message = invalidations::message(&self.scoreboard, &shoe_ids);
            let mut ask = self.tombstones(number, &shoe_ids);
            ask.command.arg(&self.channel).arg(message);
            ask
        };
        // Told to all once Redis is back.
        self.tell(shoe_ids, mark);
    }

    /// Sees to it that what Redis holds of these shoes is not believed: somebody wrote to them past this server, as is
    /// known only now.
    pub fn forget(&self, shoe_ids: &[i32]) {
        self.tell(shoe_ids, |number, shoe_ids| {
            self.script(FORGET, number, shoe_ids.into_iter())
        });
    }

    /// The call that marks these shoes' keys.
    fn tombstones(&self, number: Number, shoe_ids: &[i32]) -> Ask {
        let marked = match sabotage::commits(Fault::NoTombstone) {
            true => &[],
            false => shoe_ids,
        };
        let mut ask = self.script(MARK, number, marked.iter().copied());
        ask.command
            .arg(TOMBSTONE)
            .arg(self.tombstone_life.as_millis() as u64);
        ask
    }

    /// Says something of these shoes to all shards that have any of them, and owes what was not heard.
    fn tell(&self, shoe_ids: &[i32], say: impl Fn(Number, Vec<i32>) -> Ask) {
        if shoe_ids.is_empty() {
            return;
        }
        let groups = self.shards.group_for_marks(shoe_ids);
        let asks = groups.into_iter().map(|(number, shoe_ids)| Ask {
            follows: self.servers.is_cluster(),
            ..say(number, shoe_ids)
        });
        let asks: Vec<Ask> = asks.collect();
        let heard = self.ask_all::<()>(&asks, Deadline::after(self.patience));
        let unheard = asks.iter().zip(heard).filter(|(_, heard)| heard.is_none());
        let owed = unheard.fold(Buckets::NONE, |all, (ask, _)| all.and(ask.buckets));
        self.scoreboard.marks().owe(owed);
    }

    /// One exchange of several commands. `None` for those as in [`RedisCache::judge`].
    pub(super) fn ask_all<T: FromRedisValue>(
        &self,
        asks: &[Ask],
        deadline: Deadline,
    ) -> Vec<Option<T>> {
        let Some(mut link) = self.link(asks, deadline) else {
            return asks.iter().map(|_| None).collect();
        };
        let answers = link.ask_all(asks, deadline);
        let answers = asks.iter().zip(answers);
        answers
            .map(|(ask, answer)| self.judge(&link, ask.buckets, answer))
            .collect()
    }

    /// A connection for these commands. `None` if Redis is away for all of them, as far as is known.
    pub(super) fn link(
        &self,
        asks: &[Ask],
        deadline: Deadline,
    ) -> Option<r2d2::PooledConnection<Connector>> {
        let buckets = asks.iter().map(|ask| ask.buckets);
        let buckets = buckets.fold(Buckets::NONE, Buckets::and);
        loop {
            if self.breaker.down().contain(buckets) {
                return None;
            }
            let openings = self.breaker.openings();
            match self.pool.get_timeout(deadline.left()) {
                Ok(link) if link.openings != self.breaker.openings() => {
                    // Begun before Redis was away: the pool drops it.
                }
                Ok(link) if link.is_current(Buckets::ALL) => return Some(link),
                // The pool drops it, too.
                Ok(_) => self.servers.doubt(),
                Err(error) => {
                    self.leave_alone(openings, Buckets::ALL, &error.to_string());
                    return None;
                }
            }
        }
    }

    /// What a command came to; a failure opens the breaker. `None` if Redis was never asked, said no, or may have carried it out without
    /// our hearing of it.
    pub(super) fn judge<T>(
        &self,
        link: &Link,
        buckets: Buckets,
        answer: RedisResult<T>,
    ) -> Option<T> {
        match answer {
            Ok(value) if link.is_current(buckets) => Some(value),
            // Somebody found another master meanwhile. What was said to this one may be lost.
            Ok(_) => None,
            Err(error) if is_elsewhere(&error) => {
                log::debug!("redis: {}", describe(&error));
                self.servers.doubt();
                None
            }
            // An answer, even a refusal (out of memory, say), means that Redis is there.
            Err(error) if !is_away(&error) => {
                self.breaker.complain(&describe(&error));
                None
            }
            Err(error) => {
                let failed = link.neighbours(buckets);
                self.leave_alone(link.openings, failed, &describe(&error));
                None
            }
        }
    }

    /// From now on nobody asks Redis for these buckets, until the clerk has reached it.
    fn leave_alone(&self, openings: u64, buckets: Buckets, why: &str) {
        if self.breaker.open(openings, buckets, why) {
            self.call_clerk();
        }
    }

    pub(super) fn call_clerk(&self) {
        if let Some(clerk) = self.clerk.get() {
            clerk.unpark();
        }
    }
}

impl Fence for RedisCache {
    fn raise(&self, shoe_ids: &[i32]) {
        self.tell(shoe_ids, |number, shoe_ids| {
            self.tombstones(number, &shoe_ids)
        });
    }
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
}
