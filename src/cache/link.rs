//! One connection to Redis, or one to each master of a cluster, whose every exchange ends by its deadline, and which processes they lead
//! to.
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
use super::servers::{Servers, away};
use crate::config::redis_url::Address;
use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::Buckets;
use crate::store::Deadline;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult};
use tokio::runtime::{Builder, Runtime};
use xxhash_rust::xxh3::xxh3_64;

/// How long one exchange with Redis may take, whatever it consists of. It is a cache on the same network: slower than this is
/// down.
pub(super) const IO_TIMEOUT: Duration = Duration::from_millis(250);

/// How much of an exchange's time the masters of a cluster have to let us in.
const PEERS_PART: f32 = 0.75;

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

    /// Runs several to their ends or to the deadline, in the order in which they are given.
    ///
    /// # Errors
    /// Of each its own; a time-out of ours, where its end did not come first.
    pub(super) fn gather<T>(
        &self,
        deadline: Deadline,
        exchanges: impl Iterator<Item = impl Future<Output = RedisResult<T>>>,
    ) -> Vec<RedisResult<T>> {
        let mut answers = Vec::new();
        let mut pending = FuturesUnordered::new();
        for (place, exchange) in exchanges.enumerate() {
            answers.push(None);
            pending.push(async move { (place, exchange.await) });
        }
        // Its failure is that of those that have no answer.
        let _ = self.run(deadline, async {
            while let Some((place, answer)) = pending.next().await {
                answers[place] = Some(answer);
            }
            Ok(())
        });
        let answers = answers.into_iter();
        answers
            .map(|answer| answer.unwrap_or_else(|| Err(timed_out())))
            .collect()
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
                Err(_) => Err(timed_out()),
            }
        })
    }
}

fn timed_out() -> RedisError {
    io::Error::from(ErrorKind::TimedOut).into()
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A name look-up may still be under way in a thread of the runtime: don't wait for it.
            runtime.shutdown_background();
        }
    }
}

/// A command, and the buckets of the shard whose keys it is about.
pub(super) struct Ask {
    pub(super) buckets: Buckets,
    pub(super) command: Cmd,
    /// Whether it goes after a key that is on its way to another server: what must be known wherever the key is does, and has one
    /// key. Others take such a key for one that is missing.
    pub(super) follows: bool,
}

/// A connection to one server, and the process of Redis that it leads to: one that restarts has no connections of before.
struct Peer {
    address: Address,
    buckets: Buckets,
    connection: MultiplexedConnection,
    /// The beginning of the `run_id` of INFO; empty where INFO is not to be had.
    run: String,
}

impl Peer {
    async fn new(servers: &Servers, address: Address, buckets: Buckets) -> RedisResult<Peer> {
        let mut connection = servers.connect(&address).await?;
        let mut command = redis::cmd("INFO");
        let info: RedisResult<String> = command.arg("server").query_async(&mut connection).await;
        let run = match info {
            Ok(info) => run_of(&info),
            // An access list may keep it from us. A master that may become another one must say who it is.
            Err(error) if !is_away(&error) && !servers.may_change() => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Peer {
            address,
            buckets,
            connection,
            run,
        })
    }

    /// A number that stands for the process.
    fn number(&self) -> u64 {
        xxh3_64(self.run.as_bytes()).max(1)
    }

    async fn ask<T: FromRedisValue>(
        &self,
        ask: &Ask,
        servers: &Servers,
        peers: &[Peer],
    ) -> RedisResult<T> {
        let mut connection = self.connection.clone();
        match ask.command.query_async(&mut connection).await {
            Err(error) if ask.follows && error.code() == Some("ASK") => {
                self.follow(&error, &ask.command, servers, peers).await
            }
            answer => answer,
        }
    }

    /// Goes where the key has gone ahead to. The slot stays here until all its keys have: nothing else is learnt from it.
    async fn follow<T: FromRedisValue>(
        &self,
        error: &RedisError,
        command: &Cmd,
        servers: &Servers,
        peers: &[Peer],
    ) -> RedisResult<T> {
        let place = error.redirect_node().map(|(place, _)| place);
        let address = place.and_then(|place| servers.map().place_of(place, &self.address));
        let Some(address) = address else {
            return Err(away(format!("{} names no server to ask", self.address)));
        };
        let mut connection = match peers.iter().find(|peer| peer.address == address) {
            Some(peer) => peer.connection.clone(),
            None => servers.connect(&address).await?,
        };
        let mut pipe = redis::pipe();
        pipe.cmd("ASKING").ignore().add_command(command.clone());
        let (answer,): (T,) = pipe.query_async(&mut connection).await?;
        Ok(answer)
    }
}

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
            let moved = scoreboard.marks().move_to(peer.buckets, peer.number());
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
                self.scoreboard.marks().are_in(asked, peer.number())
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

/// Whether an error means that this connection leads to nobody who could do what a cache is for: it is broken, or what it
/// leads to is a replica, or not up yet. A new one may lead elsewhere.
pub(super) fn is_away(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || matches!(
            error.code(),
            Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN")
        )
}

/// Whether an error means that the key is in the care of another server of the cluster, or on its way there.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.code(), Some("MOVED" | "ASK" | "TRYAGAIN"))
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
