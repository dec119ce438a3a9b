//! Calls of the store: a batch goes in, and each job of it gets its own answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::notice::Notice;
use super::{Lanes, lock};
use crate::app::{Failure, images};
use crate::cache::redis::Filling;
use crate::store::{Change, Deadline, MAX_ROWS, RowId, StoreError};
use crate::worker::queue::{Batch, Job, Kind, Missing, ShoeJob, WriteJob};

/// Who has less time left than this, or a twentieth of what requests have, is not asked for any more.
pub(super) const LEAST_TIME: Duration = Duration::from_millis(100);

/// What a call found for one of its questions.
type Part<A> = Result<A, Arc<StoreError>>;

impl Lanes {
    /// Answers those whose time is all but over. A call has as long as the oldest in it: after a stall everybody else would lose
    /// theirs by one, and a COMMIT that is begun with too little left comes to nobody knows what.
    pub(super) fn turn_late_away(&self, batch: Batch) -> Batch {
        match batch {
            Batch::Shoes(jobs) => Batch::Shoes(self.in_time(jobs)),
            Batch::Rows(jobs) => Batch::Rows(self.in_time(jobs)),
            Batch::Pings(jobs) => Batch::Pings(self.in_time(jobs)),
            Batch::Writes(jobs) => Batch::Writes(self.in_time(jobs)),
            Batch::Lookups(jobs) => Batch::Lookups(jobs),
        }
    }

    fn in_time<Q, A: Clone>(&self, jobs: Vec<Job<Q, A>>) -> Vec<Job<Q, A>> {
        let least = LEAST_TIME.min(self.request_timeout / 20);
        let (jobs, late): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|job| job.deadline.left() >= least);
        if !late.is_empty() {
            let failure = Failure::Store(Arc::new(StoreError::TimedOut));
            self.wake_with(late, Err(failure));
        }
        jobs
    }

    /// Answers a batch; what Redis is to be filled with.
    pub(super) fn perform(&self, number: usize, batch: Batch) -> Vec<Filling> {
        match batch {
            Batch::Lookups(jobs) => self.wake_with(jobs, Err(Failure::Overloaded)),
            Batch::Shoes(jobs) => return self.load(jobs),
            Batch::Rows(jobs) => {
                let Some(deadline) = jobs.first().map(|job| job.deadline) else {
                    return Vec::new();
                };
                let ids: Vec<RowId> = jobs.iter().map(|job| job.question.clone()).collect();
                let begun = Instant::now();
                let found = self.timed(Kind::Rows, ids.len(), || {
                    self.each_or_all(&ids, &|ids| self.find_rows(ids, deadline))
                });
                self.deal(asked_of_store(jobs, begun), found);
            }
            Batch::Pings(jobs) => {
                let Some(deadline) = jobs.first().map(|job| job.deadline) else {
                    return Vec::new();
                };
                let begun = Instant::now();
                let pong = self.guard(|| self.heed(self.store.ping(deadline)));
                self.wake_with(asked_of_store(jobs, begun), pong);
            }
            Batch::Writes(jobs) => self.write(number, jobs),
        }
        Vec::new()
    }

    /// Asks for all together. When what is wrong may be one row's doing (of another type, damaged), the halves are asked by
    /// themselves, then those of the half that fails, and so on: the row fails its own askers and not everybody who came along.
    /// When both halves fail it is not about a row.
    pub(super) fn each_or_all<K, A>(
        &self,
        keys: &[K],
        ask: &impl Fn(&[K]) -> Result<Vec<A>, StoreError>,
    ) -> Result<Vec<Part<A>>, StoreError> {
        let mut error = match ask(keys) {
            Ok(found) => return Ok(found.into_iter().map(Ok).collect()),
            Err(error) => error,
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut bad = keys;
        while bad.len() > 1 && may_be_a_row(&error) {
            let halves = bad.split_at(bad.len() / 2);
            match (ask(halves.0), ask(halves.1)) {
                (Ok(first), Ok(second)) => {
                    before.extend(first);
                    before.extend(second);
                    bad = &[];
                }
                (Ok(first), Err(why)) => {
                    before.extend(first);
                    (bad, error) = (halves.1, why);
                }
                (Err(why), Ok(second)) => {
                    after.push(second);
                    (bad, error) = (halves.0, why);
                }
                (Err(_), Err(_)) => break,
            }
        }
        if bad.len() == keys.len() {
            return Err(error);
        }
        let error = Arc::new(error);
        let mut parts: Vec<Part<A>> = before.into_iter().map(Ok).collect();
        parts.extend(bad.iter().map(|_| Err(error.clone())));
        parts.extend(after.into_iter().rev().flatten().map(Ok));
        Ok(parts)
    }

    /// Answers each job with its part of what was found, in order; or all with the failure.
    fn deal<Q, A: Clone>(&self, jobs: Vec<Job<Q, A>>, found: Result<Vec<Part<A>>, Failure>) {
        match found {
            Ok(found) => self.wake(
                jobs.into_iter()
                    .zip(found)
                    .flat_map(|(job, part)| job.answer(part.map_err(Failure::Store))),
            ),
            Err(failure) => self.wake_with(jobs, Err(failure)),
        }
    }

    /// Answers all jobs alike.
    fn wake_with<Q, A: Clone>(&self, jobs: Vec<Job<Q, A>>, outcome: Result<A, Failure>) {
        self.wake(jobs.into_iter().flat_map(|job| job.answer(outcome.clone())));
    }

    /// Runs a call and notes how long it took, if it was answered.
    fn timed<A>(
        &self,
        kind: Kind,
        count: usize,
        call: impl FnOnce() -> Result<A, StoreError>,
    ) -> Result<A, Failure> {
        let begun = Instant::now();
        let found = self.guard(call);
        if found.is_ok() {
            let mut queues = lock(&self.queues);
            queues.took(kind, count, begun.elapsed());
            // Of changes each has its own outcome.
            if kind != Kind::Writes {
                queues.breaker.note(true);
            }
        }
        found
    }

    /// Answers a batch of shoes from the store; what Redis is to be filled with.
    fn load(&self, jobs: Vec<ShoeJob>) -> Vec<Filling> {
        let Some(deadline) = jobs.first().map(|job| job.deadline) else {
            return Vec::new();
        };
        let shoe_ids: Vec<i32> = jobs.iter().map(|job| job.question.shoe_id).collect();
        let begun = Instant::now();
        // What Redis is filled with may not be older than the lease on it: a replica may be behind what other hosts wrote.
        let kept = jobs.iter().any(|job| {
            let Missing { shoe_id, lookup } = &job.question;
            lookup.as_ref().is_some_and(|lookup| lookup.fills(*shoe_id))
        });
        let loaded = self.timed(Kind::Shoes, shoe_ids.len(), || {
            self.each_or_all(&shoe_ids, &|ids| self.load_shoes(ids, kept, deadline))
        });
        let loaded: Result<Vec<Part<Bytes>>, Failure> =
            loaded.map(|parts| parts.into_iter().map(Result::flatten).collect());
        let fills = match &loaded {
            Ok(loaded) => answers_to_lookups(&jobs, loaded),
            Err(_) => Vec::new(),
        };
        // Whoever waits does so for the store alone.
        self.deal(asked_of_store(jobs, begun), loaded);
        fills
    }

    fn find_rows(
        &self,
        ids: &[RowId],
        deadline: Deadline,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let rows = self.heed(self.store.rows(ids, deadline))?;
        Ok(rows
            .iter()
            .map(|row| row.as_ref().map(|row| Bytes::from(images::render_row(row))))
            .collect())
    }

    fn load_shoes(
        &self,
        shoe_ids: &[i32],
        kept: bool,
        deadline: Deadline,
    ) -> Result<Vec<Part<Bytes>>, StoreError> {
        let found = self.heed(match kept {
            true => self.store.shoes_as_of_now(shoe_ids, deadline),
            false => self.store.shoes(shoe_ids, deadline),
        })?;
        let answer = |(shoe_id, rows): (&i32, &Vec<_>)| match rows.len() > MAX_ROWS {
            true => Err(Arc::new(StoreError::TooManyRows(*shoe_id))),
            false => Ok(Bytes::from(images::render_rows(rows))),
        };
        Ok(shoe_ids.iter().zip(&found).map(answer).collect())
    }

    /// Makes a batch of changes, each with its own outcome.
    fn write(&self, number: usize, mut jobs: Vec<WriteJob>) {
        let Some(deadline) = jobs.first().map(|job| job.deadline) else {
            return;
        };
        let changes: Vec<Change> = jobs.iter().map(|job| job.question.clone()).collect();
        let notice = Notice::of(self, number, &jobs);
        let begun = Instant::now();
        let made = self.timed(Kind::Writes, changes.len(), || {
            Ok(self.store.change(&changes, &notice, deadline))
        });
        notice.tell();
        let (took, redis) = (begun.elapsed(), notice.redis_took());
        for job in &mut jobs {
            job.spent.redis += redis;
            job.spent.sql += took.saturating_sub(redis);
        }
        match made {
            Ok(outcomes) => {
                for outcome in &outcomes {
                    self.note(outcome.as_ref().map(drop).map_err(|error| &**error));
                }
                let outcomes = outcomes
                    .into_iter()
                    .map(|outcome| outcome.map_err(Failure::Store));
                self.wake(
                    jobs.into_iter()
                        .zip(outcomes)
                        .flat_map(|(job, outcome)| job.answer(outcome)),
                );
            }
            Err(failure) => self.wake_with(jobs, Err(failure)),
        }
    }

    /// Runs a batch's work. A panic in it costs this batch and not the lane; the panic hook has logged it.
    fn guard<A>(&self, work: impl FnOnce() -> Result<A, StoreError>) -> Result<A, Failure> {
        catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| {
                Err(StoreError::Failed(
                    "a lane panicked; the log has the message".to_owned(),
                ))
            })
            .map_err(|error| Failure::Store(Arc::new(error)))
    }
}

/// The jobs of a call of the store that began then, and has ended.
fn asked_of_store<Q, A>(mut jobs: Vec<Job<Q, A>>, begun: Instant) -> Vec<Job<Q, A>> {
    let took = begun.elapsed();
    jobs.iter_mut().for_each(|job| job.spent.sql += took);
    jobs
}

/// What Redis is filled with: the answers to those whose lookups missed.
fn answers_to_lookups(jobs: &[ShoeJob], loaded: &[Part<Bytes>]) -> Vec<Filling> {
    let answered = jobs.iter().map(|job| &job.question).zip(loaded);
    answered
        .filter_map(|(missing, json)| {
            let lookup = missing.lookup.clone()?;
            Some((lookup, missing.shoe_id, json.as_ref().ok()?.clone()))
        })
        .collect()
}

/// Whether an error may be about one row of those that were asked for.
fn may_be_a_row(error: &StoreError) -> bool {
    matches!(error, StoreError::Schema(_) | StoreError::Failed(_))
}
