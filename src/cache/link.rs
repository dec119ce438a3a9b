//! Connections to one server, or to each master of a cluster, that are used together. Called by the lanes, by way of a pool, and by the
//! clerk of the debts.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{FromRedisValue, RedisError, RedisResult};

use super::breaker::Breaker;
use super::event_loop::{EventLoop, IO_TIMEOUT};
use super::peer::{Ask, Peer, describe, is_away};
use super::servers::{Servers, away};
use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::Buckets;
use crate::store::Deadline;

/// How much of an exchange's time the masters of a cluster have to let us in.
const PEERS_PART: f32 = 0.75;

/// What stands between an epoch's own part and the process that it began in.
const OF: char = '@';

/// Connections to all servers that take writes, but for those that are away.
pub(super) struct Link {
    servers: Arc<Servers>,
    peers: Vec<Peer>,
    /// The buckets that no peer has, and why.
    lacking: Vec<(Buckets, String)>,
    events: EventLoop,
    /// Whether an exchange was left before its end, or found nobody there, or somebody who speaks no Redis.
    broken: bool,
    /// How often the breaker had opened when it was begun.
    pub(super) openings: u64,
    /// How often who takes writes had changed.
    changes: u64,
    scoreboard: Scoreboard,
}

impl Link {
    /// Connects, by the deadline of one exchange, to all servers but those of the buckets to `avoid`, and has this host's writes marked
    /// there from now on.
    ///
    /// # Errors
    /// None of them answers in time, or lets us in.
    pub(super) fn new(
        servers: &Arc<Servers>,
        breaker: &Breaker,
        scoreboard: Scoreboard,
        avoid: Buckets,
    ) -> RedisResult<Self> {
        let openings = breaker.openings();
        let deadline = Deadline::after(IO_TIMEOUT);
        let events = EventLoop::new()?;
        let places = events.run(deadline, servers.places())?;
        let mut lacking = Vec::new();
        let mut nowhere = Buckets::ALL;
        let mut asked = Vec::new();
        for (address, buckets) in places.servers {
            nowhere = nowhere.without(buckets);
            match avoid.contain(buckets) {
                true => lacking.push((buckets, format!("{address} did not answer"))),
                false => asked.push((address, buckets)),
            }
        }
        if !nowhere.is_empty() {
            let why = "no server of the cluster serves their slots";
            lacking.push((nowhere, why.to_owned()));
        }
        let connecting = asked
            .iter()
            .map(|(address, buckets)| Peer::new(servers, address.clone(), *buckets));
        // Who asks for the link waits as long: those that answered must not be lost with one that does not.
        let deadline = match servers.is_cluster() {
            true => Deadline::after(deadline.left().mul_f32(PEERS_PART)),
            false => deadline,
        };
        let connected = events.gather(deadline, connecting);
        let mut peers = Vec::new();
        let mut failure = None;
        for ((address, buckets), peer) in asked.iter().zip(connected) {
            match peer {
                Ok(peer) => peers.push(peer),
                Err(error) => {
                    lacking.push((*buckets, format!("{address}: {}", describe(&error))));
                    failure = Some(error);
                }
            }
        }
        if peers.is_empty() {
            let why = lacking.into_iter().next().map(|(_, why)| why);
            return Err(failure.unwrap_or_else(|| away(why.unwrap_or_default())));
        }
        for peer in &peers {
            let moved = scoreboard.marks().move_to(peer.buckets, peer.number);
            if !moved.is_empty() {
                log::debug!("redis: {} is another process than before", peer.address);
            }
        }
        Ok(Link {
            servers: servers.clone(),
            peers,
            lacking,
            events,
            broken: false,
            openings,
            changes: places.changes,
            scoreboard,
        })
    }

    fn peer(&self, buckets: Buckets) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.buckets.contain(buckets))
    }

    /// The buckets of the server that has these.
    pub(super) fn neighbours(&self, buckets: Buckets) -> Buckets {
        let lacking = || {
            let lacking = self.lacking.iter().map(|(lacking, _)| *lacking);
            lacking.into_iter().find(|lacking| lacking.contain(buckets))
        };
        let peer = self.peer(buckets).map(|peer| peer.buckets);
        peer.or_else(lacking).unwrap_or(buckets)
    }

    /// Each server's buckets.
    pub(super) fn peers(&self) -> impl Iterator<Item = Buckets> {
        self.peers.iter().map(|peer| peer.buckets)
    }

    /// Why some bucket can't be reached, if any.
    pub(super) fn lacks(&self) -> Option<&str> {
        self.lacking.first().map(|(_, why)| &**why)
    }

    /// Whether it leads to the processes in which this host's writes in these buckets are marked, as far as it leads anywhere.
    /// Another one may be a master no longer, or be the next.
    pub(super) fn is_current(&self, buckets: Buckets) -> bool {
        self.changes == self.servers.changes()
            && self.peers.iter().all(|peer| {
                let asked = peer.buckets.common(buckets);
                self.scoreboard.marks().are_in(asked, peer.number)
            })
    }

    /// Several commands at once, each with its own answer, all by one deadline.
    ///
    /// # Errors
    /// For each: Redis refused, or the connection was lost, or the deadline came first.
    pub(super) fn ask_all<T: FromRedisValue>(
        &mut self,
        asks: &[Ask],
        deadline: Deadline,
    ) -> Vec<RedisResult<T>> {
        let this = &*self;
        let asking = asks.iter().map(|ask| async move {
            match this.peer(ask.buckets) {
                Some(peer) => peer.ask(ask, &this.servers, &this.peers).await,
                None => Err(away(this.why_not(ask.buckets).to_owned())),
            }
        });
        let answers = this.events.gather(deadline, asking);
        // A server that was away before is no news of the connections that there are.
        let was_asked = |(ask, _): &(&Ask, _)| self.peer(ask.buckets).is_some();
        let is_broken = |(_, answer): (&Ask, &RedisResult<T>)| {
            answer
                .as_ref()
                .is_err_and(|error| is_away(error) || error.is_unrecoverable_error())
        };
        self.broken |= asks.iter().zip(&answers).filter(was_asked).any(is_broken);
        answers
    }

    fn why_not(&self, buckets: Buckets) -> &str {
        let of_these = |(lacking, _): &&(Buckets, String)| lacking.meet(buckets);
        let lacking = self.lacking.iter().find(of_these);
        lacking.map_or("it is not known where they are", |(_, why)| why)
    }

    /// A word that has never been an epoch: the time, 64 random bits for hosts that begin one in the same moment, and
    /// the process in which it begins, that of these buckets.
    pub(super) fn new_epoch(&self, buckets: Buckets) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let dice = RandomState::new().hash_one(now);
        let run = self.peer(buckets).map_or("", |peer| &peer.run);
        format!("{now:x}{dice:016x}{OF}{run}")
    }

    /// Whether this epoch began in the process that these buckets are in.
    pub(super) fn began(&self, buckets: Buckets, epoch: &[u8]) -> bool {
        let run = epoch.rsplit(|byte| *byte == OF as u8).next();
        let here = self.peer(buckets).map(|peer| peer.run.as_bytes());
        epoch.contains(&(OF as u8)) && here.is_some() && run == here
    }
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
        Link::new(
            &self.servers,
            &self.breaker,
            self.scoreboard,
            self.breaker.down(),
        )
    }

    /// Never asked, since connections are not tested when they are taken out: the next exchange finds out as well.
    fn is_valid(&self, _: &mut Link) -> RedisResult<()> {
        Ok(())
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.broken || link.openings != self.breaker.openings() || !link.is_current(Buckets::ALL)
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
