//! Seeing to Redis' return, and paying debts: a write that could not reach Redis may have left an old answer there, and nobody told the other hosts. A new
//! epoch makes all answers of before worthless, and a message makes every host forget what it keeps. Whoever of this host
//! reaches Redis first does both. That is a thread of each worker's own, the clerk: lanes would have to wait for a Redis that is
//! away, and would ask one that refuses again and again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};
use std::{io, thread};

use redis::RedisResult;

use super::breaker::Breaker;
use super::event_loop::IO_TIMEOUT;
use super::invalidations;
use super::link::Link;
use super::peer::{Ask, describe, is_away, is_elsewhere};
use super::scripts::SETTLE;
use super::servers::{Servers, away};
use super::shards::Shards;
use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::{BUCKETS, Buckets};
use crate::scoreboard::marks::Debt;
use crate::store::Deadline;

/// How long to leave Redis alone after it failed.
const PAUSE: Duration = Duration::from_millis(250);

/// How long at most after it has refused, which it will do again: twice as long each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// The workers of a host see a debt at about the same time; the first of them is enough.
const SPREAD: u64 = 100;

/// What this host owes, and to whom.
pub(super) struct Debts {
    pub(super) servers: Arc<Servers>,
    pub(super) channel: String,
    pub(super) shards: Arc<Shards>,
    pub(super) scoreboard: Scoreboard,
    pub(super) breaker: Arc<Breaker>,
}

impl Debts {
    /// Begins a new epoch in each shard of these buckets in which a write is owed, so that no value of before is believed by anyone, and
    /// tells all hosts. Answers with the buckets in which nothing is owed any more, as far as it could be seen to.
    ///
    /// # Errors
    /// Of some shard, that Redis did not answer, or refused. Its debt stays.
    fn settle(&self, link: &mut Link, buckets: Buckets) -> (Buckets, RedisResult<()>) {
        let mut owing: Vec<(Debt, Buckets)> = Vec::new();
        let mut asks = Vec::new();
        for shard in self.shards.all() {
            let marks = self.scoreboard.marks();
            let debt = marks.debt(shard.buckets);
            let Some(debt) = debt.filter(|_| buckets.contain(shard.buckets)) else {
                continue;
            };
            let mut command = redis::cmd("EVAL");
            command
                .arg(SETTLE)
                .arg(1)
                .arg(&shard.epoch)
                .arg(link.new_epoch(shard.buckets))
                .arg(&self.channel)
                .arg(invalidations::message_of(&self.scoreboard, shard.buckets));
            asks.push(Ask {
                buckets: shard.buckets,
                command,
                follows: self.servers.is_cluster(),
            });
            owing.push((debt, shard.buckets));
        }
        let answers = link.ask_all::<()>(&asks, Deadline::after(IO_TIMEOUT));
        let (mut settled, mut left) = (Buckets::NONE, buckets);
        let mut outcome = Ok(());
        for ((debt, shard), answer) in owing.into_iter().zip(answers) {
            match answer {
                // Another worker may have found another master meanwhile: that owes anew, and there.
                Ok(()) if link.is_current(shard) => {
                    self.scoreboard.marks().settle(&debt);
                    settled = settled.and(debt.buckets());
                }
                Ok(()) => {}
                Err(error) => {
                    left = left.without(shard);
                    outcome = Err(error);
                }
            }
        }
        match settled.count() {
            0 => {}
            BUCKETS => log::info!(
                "redis: began a new epoch, since a write could not reach it earlier, or reached another one: the cache starts empty"
            ),
            some => log::info!(
                "redis: began a new epoch in {some} of {BUCKETS} buckets, since a write could not reach them earlier, or reached them elsewhere: \
                 that part of the cache starts empty"
            ),
        }
        (left, outcome)
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
            let settled = Link::new(&self.servers, &self.breaker, self.scoreboard, Buckets::NONE)
                .and_then(|mut link| self.see_to(&mut link));
            match settled {
                Ok(()) => {
                    if !self.scoreboard.marks().is_owed(Buckets::ALL) {
                        return;
                    }
                }
                Err(error) => {
                    log::debug!("redis: still not available: {}", describe(&error));
                    if is_away(&error) {
                        pause = PAUSE;
                    } else if is_elsewhere(&error) {
                        self.servers.doubt();
                        pause = PAUSE;
                    } else {
                        self.breaker.complain(&describe(&error));
                        pause = LONGEST_PAUSE.min(pause * 2);
                    }
                    self.pause(pause);
                }
            }
        }
    }

    /// Waits for so long, or until others take writes: it is they who are to be asked now. Who merely calls, as each batch does that finds
    /// something owed, does not cut it short.
    fn pause(&self, how_long: Duration) {
        let (changes, until) = (self.servers.changes(), Instant::now() + how_long);
        while self.servers.changes() == changes {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    /// Settles what is owed to those servers that are there, and has lanes ask them again.
    ///
    /// # Errors
    /// Of a server that is not there, or that refuses.
    fn see_to(&self, link: &mut Link) -> RedisResult<()> {
        let (there, written) = self.try_to_write(link);
        let (there, settled) = self.settle(link, there);
        self.breaker.close(there);
        written.and(settled)?;
        match link.lacks() {
            Some(why) => Err(away(why.to_owned())),
            None => Ok(()),
        }
    }

    /// Which buckets are on servers that take writes, be it that they refuse this one for want of memory: a replica, or one that is
    /// not up yet, answers too.
    fn try_to_write(&self, link: &mut Link) -> (Buckets, RedisResult<()>) {
        let servers: Vec<Buckets> = link.peers().collect();
        let one_of = |buckets: &Buckets| {
            let mut shards = self.shards.all().iter();
            let shard = shards.find(|shard| buckets.contain(shard.buckets))?;
            let mut command = redis::cmd("SET");
            command.arg(shard.probe()).arg("").arg("PX").arg(1);
            Some(Ask {
                buckets: shard.buckets,
                command,
                follows: self.servers.is_cluster(),
            })
        };
        let asks: Vec<Ask> = servers.iter().filter_map(one_of).collect();
        let answers = link.ask_all::<()>(&asks, Deadline::after(IO_TIMEOUT));
        let (mut there, mut outcome) = (Buckets::NONE, Ok(()));
        for (buckets, answer) in servers.into_iter().zip(answers) {
            match answer {
                Err(error) if is_away(&error) || is_elsewhere(&error) => outcome = Err(error),
                _ => there = there.and(buckets),
            }
        }
        (there, outcome)
    }
}
