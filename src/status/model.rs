//! What `/status.json` says, as types: the admin listener writes it, `canvas-cluster status` and `canvas-cluster top` read it.
//!
//! Counts are sums since the server's first start, and never go back: whoever wants a rate or a percentile takes two of them
//! and looks at what came between ([`super::rates`]). Times are Unix milliseconds, durations say their unit in their name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::scoreboard::published::{ChangeKind, Outcome, ServerState, WorkerState};

/// How a server is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// The master's.
    pub pid: i32,
    /// When this was written.
    pub now_ms: u64,
    /// When the server was first started; reloads and upgrades change nothing.
    pub started_ms: u64,
    pub state: ServerState,
    /// The number of the configuration that serves, from 1.
    pub generation: u64,
    /// How many workers there should be, and how many of them serve.
    pub wanted: u64,
    pub ready: u64,
    /// The upper bounds of all histograms' buckets, in ascending order. A histogram has one count more, for what is above.
    pub buckets_us: Vec<u64>,
    /// What all workers that ever were have counted, by name.
    pub totals: BTreeMap<String, u64>,
    /// From a request's first bytes until its answer was ready to leave.
    pub latency: Histogram,
    /// What a question to Redis or the database waited for a lane to take it.
    pub queue_delay: Histogram,
    /// Every worker process that lives, and every slot that should have one and has none, by slot and age.
    pub workers: Vec<Worker>,
    /// The last changes, the newest first.
    pub reloads: Vec<Change>,
}

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// One a bucket and one for what is above the last bound; not cumulative.
    pub counts: Vec<u64>,
    pub sum_us: u64,
}

/// A worker process, or a slot that waits for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub slot: u64,
    /// 0 while the slot has no process.
    pub pid: i32,
    pub state: WorkerState,
    /// The configuration that it runs with.
    pub generation: u64,
    /// 0 while the slot has no process.
    pub started_ms: u64,
    /// How long ago its loop last said that it moves; none before it serves.
    pub heartbeat_age_ms: Option<u64>,
    /// CPU time of the process, all threads; none if it can't be had.
    pub cpu_seconds: Option<f64>,
    /// Its memory that is in RAM; none if it can't be had.
    pub rss_bytes: Option<u64>,
    /// Connections open now.
    pub connections: u64,
    /// The counts of its row, in which workers that are gone may have counted before it.
    pub totals: BTreeMap<String, u64>,
    pub latency: Histogram,
    pub queue_delay: Histogram,
}

/// A reload, an upgrade, or a change of the number of workers, that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When it was over.
    pub at_ms: u64,
    pub kind: ChangeKind,
    pub outcome: Outcome,
    /// The generation that served when it was over.
    pub generation: u64,
    /// Of an upgrade: since the new program took over.
    pub took_ms: u64,
    /// Why it was not done, the first 240 bytes; empty if it was.
    pub why: String,
}

/// The document that the live page and `top` were written for.
#[cfg(test)]
pub(super) const DOCUMENT: &str = r#"{
    "version": "0.1.0", "pid": 1, "now_ms": 5000, "started_ms": 1000, "state": "running", "generation": 3,
    "wanted": 2, "ready": 1, "buckets_us": [100, 250],
    "totals": {"requests": 7}, "latency": {"counts": [5, 1, 1], "sum_us": 900}, "queue_delay": {"counts": [0, 0, 0], "sum_us": 0},
    "workers": [
        {"slot": 0, "pid": 2, "state": "ready", "generation": 3, "started_ms": 1500, "heartbeat_age_ms": 12,
         "cpu_seconds": 1.25, "rss_bytes": 4096, "connections": 12, "totals": {"requests": 7},
         "latency": {"counts": [5, 1, 1], "sum_us": 900}, "queue_delay": {"counts": [0, 0, 0], "sum_us": 0}},
        {"slot": 1, "pid": 0, "state": "backing_off", "generation": 3, "started_ms": 0, "heartbeat_age_ms": null,
         "cpu_seconds": null, "rss_bytes": null, "connections": 0, "totals": {},
         "latency": {"counts": [0, 0, 0], "sum_us": 0}, "queue_delay": {"counts": [0, 0, 0], "sum_us": 0}}],
    "reloads": [{"at_ms": 4000, "kind": "reload", "outcome": "failed", "generation": 3, "took_ms": 120, "why": "no"}]
}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_read_and_written_as_it_stands() {
        let status: Status = serde_json::from_str(DOCUMENT).expect("it has every field");
        assert_eq!(status.workers[0].cpu_seconds, Some(1.25));
        assert_eq!(status.workers[1].state, WorkerState::BackingOff);
        assert_eq!(status.reloads[0].outcome, Outcome::Failed);
        let again = serde_json::to_value(&status).expect("JSON");
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).expect("JSON");
        assert_eq!(again, document);
    }
}
