//! How far the database has been written, for the store that reads from replicas: what the workers of the host know together is
//! in the scoreboard.

use crate::sabotage::{self, Fault};
use crate::scoreboard::counters::Counter;
use crate::scoreboard::replicas::ReplicaState;
use crate::scoreboard::{Row, Scoreboard};
use crate::store::{Position, Progress, ReadOutcome, ReplicaSight};

/// What a worker's store knows and tells.
pub struct HostProgress {
    /// That of the worker's database.
    pub scoreboard: Scoreboard,
    /// The worker's own row of it.
    pub row: Row,
}

impl Progress for HostProgress {
    fn wanted(&self) -> Option<Position> {
        let (timeline, lsn) = self.scoreboard.written().wanted()?;
        let lsn = match sabotage::commits(Fault::ForgetWrites) {
            true => 0,
            false => lsn,
        };
        Some(Position { timeline, lsn })
    }

    fn timeline(&self) -> u32 {
        self.scoreboard.written().timeline()
    }

    fn note(&self, position: Position) {
        let written = self.scoreboard.written();
        written.note(position.timeline, position.lsn);
    }

    fn doubts(&self) -> u64 {
        self.scoreboard.written().doubts()
    }

    fn settle(&self, doubts: u64) {
        self.scoreboard.written().settle(doubts);
    }

    fn tell(&self, replica: usize, sight: ReplicaSight) {
        let ReplicaSight { lag, used } = sight;
        self.scoreboard
            .replicas()
            .set(replica, ReplicaState { lag, used });
    }

    fn count(&self, outcome: ReadOutcome) {
        self.row.count(match outcome {
            ReadOutcome::Answered => Counter::ReplicaAnswers,
            ReadOutcome::Behind => Counter::ReplicaBehind,
            ReadOutcome::Failed => Counter::ReplicaFailures,
        });
    }
}
