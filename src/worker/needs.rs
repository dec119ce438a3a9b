//! What a worker takes of the host at worst, for the master to compare with what there is.

pub use super::accept::TURNED_AWAY;
use super::desk;
use crate::config::redis_url::{self, Topology};
use crate::config::{Admin, Config};

/// Descriptors of a lane: its database connection with its event loop (four), or SQLite's three files and a journal, and its
/// connection to Redis with its event loop (four); twice, for one that is replaced while it is still open.
const DESCRIPTORS_A_LANE: u64 = 16;

/// Descriptors of a connection to PostgreSQL with its event loop, twice, as above.
const DESCRIPTORS_A_CONNECTION: u64 = 8;

/// Descriptors of a lane for each master of a cluster besides the first, twice, as above.
const DESCRIPTORS_A_MASTER: u64 = 2;

/// Those of a subscription and of who asks which server serves what, for each server of a cluster, twice, as above.
const OTHERS_A_MASTER: u64 = 4;

/// As few masters a cluster has at least, whatever its URL names.
const FEWEST_MASTERS: u64 = 3;

/// Descriptors besides connections, listeners and lanes: standard ones, the scoreboard, the master's channel, signals,
/// the epolls and events of runtime, lobby and clock, and files that are read in passing.
const OTHER_DESCRIPTORS: u64 = 64;

/// Mappings besides stacks: the binary and its libraries, the allocator's heaps, large buffers.
const OTHER_MAPPINGS: u64 = 1024;

/// Mappings of a lane: its thread's stack and guard, a heap of its own, SQLite's shared memory.
const MAPPINGS_A_LANE: u64 = 16;

/// A coroutine's stack and its guard page.
const MAPPINGS_A_CONNECTION: u64 = 2;

/// What one worker takes with all its connections open and busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerNeeds {
    /// Descriptors that are connections, those included that only hear that there is no room.
    pub connections: u64,
    pub other_descriptors: u64,
    pub mappings: u64,
    pub other_mappings: u64,
}

impl WorkerNeeds {
    /// All descriptors.
    pub fn descriptors(&self) -> u64 {
        self.connections + self.other_descriptors
    }
}

/// What a worker of this configuration takes; `listeners` are the sockets that it holds.
pub fn needs(config: &Config, listeners: u64) -> WorkerNeeds {
    let connections = (config.limits.max_connections + TURNED_AWAY) as u64;
    // One more asks Redis.
    let lanes = config.lanes as u64 + u64::from(config.redis.is_some());
    // One for each lane and one to look at it, and one more to the primary.
    let replicas = config.database_read_urls.len() as u64;
    let to_replicas = replicas * (config.lanes as u64 + 1) + replicas.min(1);
    let masters = masters(config);
    let to_masters = lanes * masters.saturating_sub(1) * DESCRIPTORS_A_MASTER;
    let admin = match config.admin {
        Admin::Off => 0,
        Admin::Usual(_) | Admin::At(_) => 1 + desk::MOST as u64,
    };
    // A bell for each.
    let workers = config.workers.count() as u64;
    // Each listener has a coroutine too.
    let coroutines = listeners + admin;
    let other_mappings = OTHER_MAPPINGS
        + (lanes + replicas + 1) * MAPPINGS_A_LANE
        + coroutines * MAPPINGS_A_CONNECTION;
    WorkerNeeds {
        connections,
        other_descriptors: OTHER_DESCRIPTORS
            + lanes * DESCRIPTORS_A_LANE
            + to_replicas * DESCRIPTORS_A_CONNECTION
            + to_masters
            + masters * OTHERS_A_MASTER
            + listeners
            + workers
            + admin,
        mappings: connections * MAPPINGS_A_CONNECTION + other_mappings,
        other_mappings,
    }
}

/// How many masters the Redis Cluster of this configuration has, as far as its URL tells; none if there is no cluster.
fn masters(config: &Config) -> u64 {
    let url = config.redis.as_ref();
    let url = url.and_then(|redis| redis_url::parse(redis.url.expose()).ok());
    match url {
        Some(url) if matches!(url.topology, Topology::Cluster) => {
            FEWEST_MASTERS.max(url.addresses.len() as u64)
        }
        _ => 0,
    }
}

/// How many connections a worker takes: what is configured, or what its limit on open files has room for beside all else
/// that it opens, if that is less; one at least. `listeners` are the sockets that it holds.
pub fn connections_that_fit(config: &Config, listeners: u64, open_files: u64) -> usize {
    let others = needs(config, listeners).other_descriptors + TURNED_AWAY as u64;
    let room = open_files.saturating_sub(others).max(1);
    usize::try_from(room).map_or(config.limits.max_connections, |room| {
        room.min(config.limits.max_connections)
    })
}
