//! What the master tells its workers of the server, through the scoreboard, for whoever asks one of them.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Master;
use super::plan::Doing;
use crate::ctl::message::{self, Change, What};
use crate::scoreboard::published::{
    ChangeKind, MOST_CHANGES, Outcome, PastChange, Post, Published, ServerState, WorkerState,
};

impl Master {
    /// Tells what there is, if anything has changed.
    pub(super) fn publish(&mut self) {
        let now = self.picture();
        if self.published.as_ref() != Some(&now) {
            self.scoreboard.publish(&now);
            self.published = Some(now);
        }
    }

    fn picture(&self) -> Published {
        let degraded: Vec<usize> = self.plan.degraded().collect();
        let processes = self
            .plan
            .workers_now()
            .filter_map(|(id, generation, doing)| {
                let child = self.children.get(&id)?;
                Some(Post {
                    slot: child.slot,
                    pid: Some(child.pid.as_raw()),
                    state: match doing {
                        Doing::Starting if degraded.contains(&child.slot) => WorkerState::Degraded,
                        Doing::Starting => WorkerState::Starting,
                        Doing::Ready => WorkerState::Ready,
                        Doing::Retiring => WorkerState::Draining,
                        Doing::Aborting | Doing::Killed => WorkerState::Aborting,
                    },
                    generation,
                    started_ms: child.started_ms,
                    row: child.row,
                })
            });
        let vacant = self.plan.vacant().map(|slot| Post {
            slot,
            pid: None,
            state: match degraded.contains(&slot) {
                true => WorkerState::Degraded,
                false => WorkerState::BackingOff,
            },
            generation: self.plan.generation(),
            started_ms: 0,
            row: None,
        });
        let mut posts: Vec<Post> = processes.chain(vacant).collect();
        posts.sort_by_key(|post| (post.slot, post.started_ms, post.pid));
        let changes = self.history.newest_first().take(MOST_CHANGES);
        Published {
            pid: std::process::id().cast_signed(),
            state: match () {
                () if self.plan.is_leaving() => ServerState::Stopping,
                () if self.upgrade.is_under_way() || self.upgraded_from.is_some() => {
                    ServerState::Upgrading
                }
                () if self.plan.is_starting() => ServerState::Running,
                () if self.plan.is_rolling() || self.change.preparation.is_some() => {
                    ServerState::Reloading
                }
                () => ServerState::Running,
            },
            wanted: self.plan.wanted(),
            ready: self.plan.ready(),
            generation: self.generation,
            started_ms: self.started_ms,
            change_counts: self.change_counts,
            changes: changes.map(past).collect(),
            posts,
        }
    }

    /// Counts a change that is over.
    pub(super) fn count_change(&mut self, what: What, result: message::Result) {
        self.change_counts[kind_of(what) as usize][outcome_of(result) as usize] += 1;
    }
}

fn past(change: &Change) -> PastChange {
    PastChange {
        at_ms: change.at_ms.max(change.at * 1000),
        kind: kind_of(change.what),
        outcome: outcome_of(change.result),
        generation: change.generation,
        took_ms: change.took_ms,
        why: change.why.clone().unwrap_or_default(),
    }
}

fn kind_of(what: What) -> ChangeKind {
    match what {
        What::Reload => ChangeKind::Reload,
        What::Upgrade => ChangeKind::Upgrade,
        What::Scale => ChangeKind::Scale,
    }
}

fn outcome_of(result: message::Result) -> Outcome {
    match result {
        message::Result::Done => Outcome::Done,
        message::Result::Refused | message::Result::Failed => Outcome::Failed,
    }
}

/// The time of day, in Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}
