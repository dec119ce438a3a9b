//! What caches are told of a write.

use std::cell::{Cell, RefCell};
use std::thread;
use std::time::{Duration, Instant};

use super::Lanes;
use crate::http::trace::TraceParent;
use crate::sabotage::{self, Fault};
use crate::scoreboard::Intent;
use crate::store::{Fence, Position};
use crate::worker::queue::WriteJob;

/// How long a write that is broken on purpose waits where it does harm.
const DAWDLE: Duration = Duration::from_millis(20);

/// Tells every cache of the writes of one call: before each commit that it may come, and before its answer that it may
/// have.
pub(super) struct Notice<'l> {
    lanes: &'l Lanes,
    number: usize,
    begun: RefCell<Option<(Vec<i32>, Intent)>>,
    /// Of the requests whose writes they are, as far as the database is to know.
    traces: Vec<TraceParent>,
    /// The time that Redis took so far.
    redis: Cell<Duration>,
    /// The store has said how far it was written, of what is begun.
    placed: Cell<bool>,
}

impl Fence for Notice<'_> {
    fn raise(&self, shoe_ids: &[i32]) {
        // Of several transactions in one call, the one before this has ended.
        self.tell();
        if let Some(redis) = &self.lanes.redis {
            let begun = Instant::now();
            redis.raise(shoe_ids);
            self.redis.set(self.redis.get() + begun.elapsed());
        }
        let intent = self.lanes.row.intend(self.number, shoe_ids);
        if sabotage::commits(Fault::MoveBeforeCommit) {
            drop(intent);
            thread::sleep(DAWDLE);
            return;
        }
        *self.begun.borrow_mut() = Some((shoe_ids.to_vec(), intent));
    }

    /// Other hosts, too, may have replicas.
    fn wants_place(&self) -> bool {
        self.lanes.redis.is_some() || self.lanes.store.has_replicas()
    }

    fn committed(&self, position: Position) {
        let written = self.lanes.scoreboard.written();
        written.note(position.timeline, position.lsn);
        self.placed.set(true);
    }

    fn traceparents(&self) -> Vec<&str> {
        self.traces.iter().map(TraceParent::as_str).collect()
    }
}

impl<'l> Notice<'l> {
    /// Of a call that this lane makes for these jobs.
    pub(super) fn of(lanes: &'l Lanes, number: usize, jobs: &[WriteJob]) -> Self {
        let traces = jobs.iter().filter_map(|job| job.trace.as_deref().copied());
        Notice {
            lanes,
            number,
            begun: RefCell::default(),
            traces: traces.collect(),
            redis: Cell::default(),
            placed: Cell::default(),
        }
    }

    /// How long Redis took to be told.
    pub(super) fn redis_took(&self) -> Duration {
        self.redis.get()
    }

    /// Whatever came of the write: also one that failed in its commit may have happened.
    pub(super) fn tell(&self) {
        let Some((shoe_ids, intent)) = self.begun.take() else {
            return;
        };
        // Before anybody is told: who asks anew must ask for this, too.
        if !self.placed.take() {
            self.lanes.scoreboard.written().doubt();
        }
        // Redis first: what is asked of it between the two must be too old already.
        if let Some(redis) = &self.lanes.redis {
            let begun = Instant::now();
            redis.publish(&shoe_ids);
            self.redis.set(self.redis.get() + begun.elapsed());
        }
        drop(intent);
    }
}
