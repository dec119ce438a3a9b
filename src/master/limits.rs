//! Whether the host's limits allow what is configured: what the server needs at worst, and what is told when there is
//! less.

use std::path::Path;

use super::listeners::BACKLOG;
use crate::config::Config;
use crate::tune::{self, Host, Needs};
use crate::worker::needs;

/// Descriptors of the master besides its listeners and what it shares with each worker.
const MASTER_DESCRIPTORS: u64 = 32;

/// Descriptors that the master holds for a worker: its channel, and another one's while it is replaced.
const MASTER_DESCRIPTORS_A_WORKER: u64 = 4;

/// Raises the limit on open files as far as it goes, and says of each limit that is too low for this configuration what
/// is needed, what happens beyond it and what to do, in one line. Empty where all is well.
pub fn complaints(config: &Config) -> Vec<String> {
    let (open_files, failure) = match tune::raise_open_files() {
        Ok(limit) => (Some(limit), None),
        Err(error) => (None, Some(error)),
    };
    failure
        .map(|error| format!("the limit on open files can't be raised: {error}"))
        .into_iter()
        .chain(tune::complaints(
            &needs_of(config),
            &Host::read(Path::new("/"), open_files),
        ))
        .collect()
}

fn needs_of(config: &Config) -> Needs {
    let workers = config.workers.count() as u64;
    let addresses = config.listen.len() as u64;
    // Each worker holds the listeners of all. After a reload with fewer workers there are more; what may then be lacking
    // is within what a worker is given.
    let worker = needs::needs(config, workers * addresses);
    let master = MASTER_DESCRIPTORS + workers * (addresses + MASTER_DESCRIPTORS_A_WORKER);
    Needs {
        workers,
        connections: config.limits.max_connections as u64,
        descriptors: (worker.connections + worker.other_descriptors).max(master),
        other_descriptors: worker.other_descriptors,
        mappings: worker.mappings,
        other_mappings: worker.other_mappings,
        backlog: BACKLOG as u64,
    }
}
