//! Seeing to Redis' return, and paying debts: a write that could not reach Redis may have left an old answer there, and nobody told the other hosts. A new
//! epoch makes all answers of before worthless, and a message makes every host forget what it keeps. Whoever of this host
//! reaches Redis first does both. That is a thread of each worker's own, the clerk: lanes would have to wait for a Redis that is
//! away, and would ask one that refuses again and again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;
use std::{io, thread};

use redis::RedisResult;

use super::breaker::Breaker;
use super::invalidations;
use super::link::{IO_TIMEOUT, Link, describe, is_away};
use super::servers::Servers;
use crate::scoreboard::Scoreboard;
use crate::store::Deadline;

/// How long to leave Redis alone after it failed.
const PAUSE: Duration = Duration::from_millis(250);

/// How long at most after it has refused, which it will do again: twice as long each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// Begins an epoch, and tells everybody of it. One that can't be stored, since there is no memory left, is made up for by having
/// none: the next reader begins one. KEYS: the epoch's key. ARGV: the epoch, the channel, the message.
const SETTLE: &str = "local set = redis.pcall('SET', KEYS[1], ARGV[1]) \
    if type(set) == 'table' and set.err then redis.call('DEL', KEYS[1]) end \
    redis.call('PUBLISH', ARGV[2], ARGV[3])";

/// The workers of a host see a debt at about the same time; the first of them is enough.
const SPREAD: u64 = 100;

/// What this host owes, and to whom.
pub(super) struct Debts {
    pub(super) servers: Arc<Servers>,
    pub(super) channel: String,
    pub(super) epoch_key: String,
    pub(super) scoreboard: Scoreboard,
    pub(super) breaker: Arc<Breaker>,
}

impl Debts {
    /// Begins a new epoch if a write is owed, so that no value of before is believed by anyone, and tells all hosts.
    ///
    /// # Errors
    /// Redis did not answer, or refused. The debt stays.
    pub(super) fn settle(&self, link: &mut Link) -> RedisResult<()> {
        let Some(debt) = self.scoreboard.redis_debt() else {
            return Ok(());
        };
        let mut command = redis::cmd("EVAL");
        command
            .arg(SETTLE)
            .arg(1)
            .arg(&self.epoch_key)
            .arg(link.new_epoch())
            .arg(&self.channel)
            .arg(invalidations::message_of_everything(&self.scoreboard));
        link.ask::<()>(&command, Deadline::after(IO_TIMEOUT))?;
        // Another worker may have found another master meanwhile: that owes anew, with a number above this one.
        self.scoreboard.settle_redis(debt);
        log::info!(
            "redis: began a new epoch, since a write could not reach it earlier, or reached another one: the cache starts empty"
        );
        Ok(())
    }

    /// Starts the thread that, each time that it is unparked, tries to reach Redis until nothing is owed and lanes may ask
    /// again.
    ///
    /// # Errors
    /// The kernel has no thread left for us.
    pub(super) fn start_clerk(self: &Arc<Self>) -> io::Result<Thread> {
        let debts = self.clone();
        let clerk = thread::Builder::new()
            .name("debts".to_owned())
            .spawn(move || {
                loop {
                    thread::park();
                    thread::sleep(Duration::from_millis(
                        RandomState::new().hash_one(0_u8) % SPREAD,
                    ));
                    debts.settle_at_last();
                }
            })?;
        Ok(clerk.thread().clone())
    }

    fn settle_at_last(&self) {
        let mut pause = PAUSE;
        // Once in any case: whoever called may know of another master, where this host's writes are not marked yet.
        loop {
            let settled =
                Link::new(&self.servers, &self.breaker, self.scoreboard).and_then(|mut link| {
                    self.try_to_write(&mut link)?;
                    self.settle(&mut link)
                });
            match settled {
                Ok(()) => {
                    self.breaker.close();
                    if self.scoreboard.redis_debt().is_none() {
                        return;
                    }
                }
                Err(error) => {
                    log::debug!("redis: still not available: {}", describe(&error));
                    if is_away(&error) {
                        pause = PAUSE;
                    } else {
                        self.breaker.complain(&describe(&error));
                        pause = LONGEST_PAUSE.min(pause * 2);
                    }
                    thread::sleep(pause);
                }
            }
        }
    }

    /// Whether it is one that takes writes, be it that it refuses this one for want of memory: a replica, or one that is not up
    /// yet, answers too.
    fn try_to_write(&self, link: &mut Link) -> RedisResult<()> {
        let mut command = redis::cmd("SET");
        command
            .arg(format!("{}:probe", self.epoch_key))
            .arg("")
            .arg("PX")
            .arg(1);
        match link.ask::<()>(&command, Deadline::after(IO_TIMEOUT)) {
            Err(error) if !is_away(&error) => Ok(()),
            written => written,
        }
    }
}
