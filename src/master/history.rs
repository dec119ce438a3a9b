//! The changes of the past, as many as are told.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::ctl::message::{self, Change, What};
use crate::scoreboard::published;

/// How many changes are remembered.
const MOST_CHANGES: usize = published::MOST_CHANGES;

/// The changes that are over, oldest first.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct History(VecDeque<Change>);

impl History {
    /// The changes, the oldest first.
    pub fn oldest_first(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// The changes, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Change> {
        self.0.iter().rev()
    }

    /// Notes one that is over.
    pub fn note(&mut self, change: Change) {
        if self.0.len() == MOST_CHANGES {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// What the last change was and why it was not done, if it was not.
    pub fn trouble(&self) -> Option<String> {
        let last = self.0.back()?;
        let what = match last.what {
            What::Reload => "reload",
            What::Upgrade => "upgrade",
            What::Scale => "change of the number of workers",
        };
        let result = match last.result {
            message::Result::Done => return None,
            message::Result::Refused => "refused",
            message::Result::Failed => "failed",
        };
        let why = last.why.as_deref().unwrap_or_default();
        Some(format!("last {what} {result}: {why}"))
    }
}
