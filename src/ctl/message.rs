//! What the master answers on the control socket: one line of JSON. The request is [`crate::config::ctl::CtlCommand`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The longest request, its line break included. A longer one is refused.
pub const REQUEST_LIMIT: usize = 4096;

/// The longest answer that a client takes: some 200 bytes for each worker process that may live at once.
pub const ANSWER_LIMIT: usize = 4 << 20;

/// The answer; `outcome` says which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Answer {
    Status(Box<Status>),
    /// It will be done; nobody waits for it.
    Accepted,
    /// It is done: so many workers serve, of this generation.
    Done {
        generation: u64,
        workers: usize,
        /// If it was an upgrade.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upgrade: Option<Upgraded>,
    },
    /// Nothing was tried, for the request or the configuration is wrong.
    Refused {
        why: String,
    },
    /// It was tried in vain; what served before still does.
    Failed {
        why: String,
    },
}

/// The versions of the program that an upgrade went from and to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    pub from: String,
    pub to: String,
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// The master's.
    pub pid: i32,
    pub phase: Phase,
    /// The number of the configuration that serves, from 1.
    pub generation: u64,
    pub uptime_seconds: u64,
    /// Where it listens, as in the line that says that it is ready.
    pub addresses: Vec<String>,
    /// How many workers there should be, and how many of them serve.
    pub wanted: usize,
    pub ready: usize,
    /// The slots whose workers don't get ready, again and again.
    #[serde(default)]
    pub degraded: Vec<usize>,
    /// Every worker process that lives, by slot and age.
    pub workers: Vec<Worker>,
    /// What all workers that ever were have counted, without what never happened.
    pub totals: BTreeMap<String, u64>,
    /// The last reloads, upgrades and changes of the number of workers, oldest first.
    pub changes: Vec<Change>,
}

/// What a server is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not every slot has served yet.
    Starting,
    Serving,
    /// Workers are being replaced, or finish after that.
    Reloading,
    Stopping,
}

/// A worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub slot: usize,
    pub pid: i32,
    pub state: State,
    /// The configuration that it runs with.
    pub generation: u64,
    pub age_seconds: u64,
    /// What this process has counted.
    pub requests: u64,
    pub connections: u64,
    /// How long ago its loop last said that it moves; none before it serves.
    pub silent_ms: Option<u64>,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Starting,
    Ready,
    /// It finishes what it has.
    Retiring,
    /// Its loop stands still, and it is being ended.
    Hung,
    /// It did not do in time what it should, and dies.
    Killed,
}

/// A reload, an upgrade, or a change of the number of workers, that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub what: What,
    pub result: Result,
    /// Why it was not done.
    pub why: Option<String>,
    /// The generation that served when it was over, and its workers.
    pub generation: u64,
    pub workers: usize,
    /// When it was over, in seconds since 1970 (UTC).
    pub at: u64,
    /// The same in milliseconds; 0 in what a version has told that knows seconds alone.
    #[serde(default)]
    pub at_ms: u64,
    /// How long it took; of an upgrade, since the new program took over.
    #[serde(default)]
    pub took_ms: u64,
}

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Reload,
    Upgrade,
    Scale,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Result {
    Done,
    Refused,
    Failed,
}
