//! What is asked of Redis, by a lane of its own, and what of it is left for the store.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::{Lanes, lock};
use crate::scoreboard::counters::Counter;
use crate::worker::queue::{Kind, LookupJob, Missing};

impl Lanes {
    /// The life of the lane that asks Redis. It answers what Redis has, and queues the rest for the store.
    pub(super) fn look_up(&self) {
        let mut refused = Vec::new();
        loop {
            let mut queues = lock(&self.queues);
            while !queues.lookups_are_due(Instant::now()) {
                queues = self
                    .looking
                    .wait(queues)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let begun = Instant::now();
            let batch = queues.take_lookups(begun, &mut refused);
            drop(queues);
            self.wake(refused.drain(..));
            let count = batch.len();
            self.look_up_batch(batch);
            let mut queues = lock(&self.queues);
            queues.took(Kind::Lookups, count, begun.elapsed());
            queues.ended(Kind::Lookups);
        }
    }

    pub(super) fn look_up_batch(&self, mut jobs: Vec<LookupJob>) {
        let begun = Instant::now();
        let shoe_ids: Vec<i32> = jobs.iter().map(|job| job.question).collect();
        let lookup = catch_unwind(AssertUnwindSafe(|| {
            let room = |missing| lock(&self.queues).room_for_missing(Instant::now(), missing);
            self.redis
                .as_ref()
                .map(|redis| redis.fetch(&shoe_ids, room))
        }));
        let took = begun.elapsed();
        jobs.iter_mut().for_each(|job| job.spent.redis += took);
        // Without an answer from Redis the store has it all.
        let mut lookup = lookup.unwrap_or_default();
        let found = match &mut lookup {
            Some(lookup) => std::mem::take(&mut lookup.found),
            None => vec![None; jobs.len()],
        };
        let lookup = lookup.map(Arc::new);
        let hits = found.iter().filter(|json| json.is_some()).count();
        self.row.add(Counter::RedisHits, hits as u64);
        self.row
            .add(Counter::RedisMisses, (jobs.len() - hits) as u64);
        let mut woken = Vec::new();
        let mut missing = Vec::new();
        for (job, json) in jobs.into_iter().zip(found) {
            match json {
                Some(json) => woken.extend(job.answer(Ok(json))),
                None => missing.push(job),
            }
        }
        if !missing.is_empty() {
            let now = Instant::now();
            let mut queues = lock(&self.queues);
            for job in missing {
                let lookup = lookup.clone();
                let job = job.turn_into(now, |shoe_id| Missing { shoe_id, lookup });
                woken.extend(queues.push_missing(job));
            }
            self.call_lane(queues);
        }
        self.wake(woken.into_iter());
    }
}
