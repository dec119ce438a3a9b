//! Whether the host's limits allow what is configured: what the server needs at worst, and what is raised or told when
//! there is less.

use std::io;
use std::path::Path;

use super::listeners::BACKLOG;
use crate::config::Config;
use crate::tune::{self, Change, Finding, Host, Needs, OpenFiles};
use crate::worker::needs::{self, TURNED_AWAY};

/// Descriptors of the master besides its listeners and what it shares with each worker.
const MASTER_DESCRIPTORS: u64 = 32;

/// Descriptors that the master holds for a worker: its channel, and another one's while it is replaced.
const MASTER_DESCRIPTORS_A_WORKER: u64 = 4;

/// Connections of a lane to its database, or to Redis: its own, and the one before it, whose port rests a minute.
const CONNECTIONS_A_LANE: u64 = 2;

/// Raises what is too low for this configuration: the limit on open files, which is this process's own, always, and
/// sysctls, which are the host's, if the configuration lets it and the kernel does. Logs a line for each change, and one
/// for each limit that is still too low. None of them keeps the server from serving less.
pub fn fit(config: &Config) {
    let needs = needs_of(config);
    let before = host(&needs);
    if config.tune_host {
        let (changes, failures) = tune::raise_sysctls(&needs, &before);
        for Change { name, from, to } in changes {
            log::info!("master: raised {name} from {from} to {to}, which this configuration needs");
        }
        for (name, error) in failures {
            log::debug!("master: {name} can't be raised: {error}");
        }
    }
    // Once more: a higher fs.nr_open lets the limit on open files rise further.
    for complaint in tune::complaints(&needs, &host(&needs)) {
        log::warn!("master: {complaint}");
    }
}

/// How the host's limits compare with what this configuration needs. Changes nothing but this process's own limit on
/// open files, which shows how far it goes.
pub fn check(config: &Config) -> Vec<Finding> {
    let needs = needs_of(config);
    tune::check(&needs, &host(&needs))
}

/// Raises the host's sysctls that are too low for this configuration, whatever its own switch says: what has changed,
/// and what could not be and why.
pub fn apply(config: &Config) -> (Vec<Change>, Vec<(&'static str, io::Error)>) {
    let needs = needs_of(config);
    tune::raise_sysctls(&needs, &host(&needs))
}

fn host(needs: &Needs) -> Host {
    let open_files = match tune::raise_open_files(needs.descriptors) {
        Ok(limit) => {
            if limit.now > limit.before {
                let OpenFiles { before, now } = limit;
                log::info!("master: raised the limit on open files from {before} to {now}");
            }
            Some(limit.now)
        }
        Err(error) => {
            log::warn!("the limit on open files can't be raised: {error}");
            None
        }
    };
    Host::new(Path::new("/"), open_files)
}

/// What a configuration needs of the host.
pub fn needs_of(config: &Config) -> Needs {
    let workers = config.workers.count() as u64;
    let addresses = config.listen.len() as u64;
    let servers = 1 + config.database_read_urls.len() as u64;
    // Each worker holds the listeners of all. After a reload with fewer workers there are more; what may then be lacking
    // is within what a worker is given.
    let worker = needs::needs(config, workers * addresses);
    let master = MASTER_DESCRIPTORS + workers * (addresses + MASTER_DESCRIPTORS_A_WORKER);
    Needs {
        workers,
        connections: config.limits.max_connections as u64,
        descriptors: worker.descriptors().max(master),
        other_descriptors: worker.other_descriptors + TURNED_AWAY as u64,
        mappings: worker.mappings,
        other_mappings: worker.other_mappings,
        backlog: BACKLOG as u64,
        outgoing: workers * config.lanes as u64 * CONNECTIONS_A_LANE * servers,
    }
}
