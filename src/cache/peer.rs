//! A connection to one server, and which process of Redis that is; what is asked of it, and what its refusals mean.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult};
use xxhash_rust::xxh3::xxh3_64;

use super::servers::{Servers, away};
use crate::config::redis_url::Address;
use crate::scoreboard::buckets::Buckets;

/// A command, and the buckets of the shard whose keys it is about.
pub(super) struct Ask {
    pub(super) buckets: Buckets,
    pub(super) command: Cmd,
    /// Whether it goes after a key that is on its way to another server: what must be known wherever the key is does, and has one
    /// key. Others take such a key for one that is missing.
    pub(super) follows: bool,
}

/// A connection to one server, and the process of Redis that it leads to: one that restarts has no connections of before.
pub(super) struct Peer {
    pub(super) address: Address,
    pub(super) buckets: Buckets,
    connection: MultiplexedConnection,
    /// What [`run_of`] makes of INFO; empty where that is not to be had.
    pub(super) run: String,
    /// A number that stands for it.
    pub(super) number: u64,
}

impl Peer {
    /// Connects, and asks which process it is.
    ///
    /// # Errors
    /// The server is away, or refuses us.
    pub(super) async fn new(
        servers: &Servers,
        address: Address,
        buckets: Buckets,
    ) -> RedisResult<Peer> {
        let mut connection = servers.connect(&address).await?;
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("server");
        pipe.cmd("INFO").arg("replication");
        let info: RedisResult<(String, String)> = pipe.query_async(&mut connection).await;
        let run = match info {
            Ok((server, replication)) => run_of(&server, &replication),
            // An access list may keep it from us. A master that may become another one must say who it is.
            Err(error) if !is_away(&error) && !servers.may_change() => String::new(),
            Err(error) => return Err(error),
        };
        let number = xxh3_64(run.as_bytes()).max(1);
        Ok(Peer {
            address,
            buckets,
            connection,
            run,
            number,
        })
    }

    /// One command and its answer. `peers` are those besides which are connected.
    ///
    /// # Errors
    /// Redis refused, or the connection was lost.
    pub(super) async fn ask<T: FromRedisValue>(
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

/// A word of 16 letters that stands for a process and what it holds: its `run_id`, and the `master_replid` that it began when it was
/// promoted. One that was a replica in between holds what another master had, and is not what it was. Empty without a `run_id`.
fn run_of(server: &str, replication: &str) -> String {
    let find = |info: &str, name: &str| {
        let found = info.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_default().to_owned()
    };
    let run = find(server, "run_id:");
    match run.is_empty() {
        true => run,
        false => {
            let history = find(replication, "master_replid:");
            format!("{:016x}", xxh3_64(format!("{run} {history}").as_bytes()))
        }
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
        let server =
            "# Server\r\nredis_version:7.0.15\r\nrun_id:2f1c7a90b3d44e55aa66\r\ntcp_port:6379\r\n";
        let replication = "# Replication\r\nrole:master\r\nmaster_replid:77cc88dd99ee\r\n";
        let run = run_of(server, replication);
        assert_eq!((run.len(), run_of(server, replication)), (16, run.clone()));
        assert_ne!(run, run_of(server, &replication.replace("77cc", "78cc")));
        assert_ne!(run, run_of(&server.replace("2f1c", "2f1d"), replication));
        assert_eq!(run_of("", replication), "");
    }
}
