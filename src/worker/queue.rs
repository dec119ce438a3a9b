//! The queues between coroutines and lanes: jobs by kind, typed so that a question can only get its own answer, each kind
//! with its own bound on how much may wait and how much one call takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use may::coroutine::{self, Coroutine};

use super::breaker::Breaker;
use super::muster::Muster;
use super::overload::{BatchSize, Shedder};
use super::pacing::Pacing;
use super::waiter::{Abandon, Pending, Waiter};
use crate::app::Failure;
use crate::cache::redis::Lookup;
use crate::http::context::Spent;
use crate::http::trace::TraceParent;
use crate::scoreboard::Row;
use crate::scoreboard::counters::Counter;
use crate::store::{Change, Changed, Deadline, Grouping, RowId, ShoeImages, StoreError};

/// A question, and the coroutines that wait for its answer.
pub struct Job<Q, A> {
    /// When it joined its queue.
    since: Instant,
    pub question: Q,
    pub deadline: Deadline,
    /// What it has taken so far.
    pub spent: Spent,
    /// The trace that it belongs to, if the database is to know. Boxed: few do.
    pub trace: Option<Box<TraceParent>>,
    waiter: Arc<Waiter<A>>,
}

/// A shoe to be looked up in Redis.
pub type LookupJob = Job<i32, Bytes>;
pub type RowJob = Job<RowId, Option<Bytes>>;
pub type PingJob = Job<(), ()>;
pub type WriteJob = Job<Change, Changed>;

/// A shoe to be asked of the store, after Redis had nothing.
pub type ShoeJob = Job<Missing, Bytes>;

/// What a lane asks the store for.
pub struct Missing {
    pub shoe_id: i32,
    /// What Redis said, if there is one: the right to fill it.
    pub lookup: Option<Arc<Lookup>>,
}

/// Jobs of one kind, to be answered with one call.
pub enum Batch {
    Lookups(Vec<LookupJob>),
    Shoes(Vec<ShoeJob>),
    Rows(Vec<RowJob>),
    Pings(Vec<PingJob>),
    Writes(Vec<WriteJob>),
}

/// The kinds of batches, each with its own experience of what answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Lookups,
    Shoes,
    Rows,
    Pings,
    Writes,
}

/// What a lane is at, for the worker's tick.
pub struct UnderWay {
    pub deadline: Deadline,
    /// What to answer when the lane does not come back in time.
    failure: Failure,
    /// Who wait, and what they have taken before the call began.
    waiters: Vec<(Arc<dyn Abandon>, Spent)>,
    begun: Instant,
}

impl UnderWay {
    /// Answers all who have no answer yet; they are to be woken.
    pub fn abandon(&self) -> Vec<Coroutine> {
        let sql = self.begun.elapsed();
        self.waiters
            .iter()
            .flat_map(|(waiter, spent)| {
                waiter.abandon(self.failure.clone(), Spent { sql, ..*spent })
            })
            .collect()
    }
}

impl Batch {
    pub fn kind(&self) -> Kind {
        match self {
            Batch::Lookups(_) => Kind::Lookups,
            Batch::Shoes(_) => Kind::Shoes,
            Batch::Rows(_) => Kind::Rows,
            Batch::Pings(_) => Kind::Pings,
            Batch::Writes(_) => Kind::Writes,
        }
    }

    /// The batch as the worker's tick needs to know it; `None` for an empty one.
    pub fn under_way(&self) -> Option<UnderWay> {
        type Waiters = Vec<(Arc<dyn Abandon>, Spent)>;
        fn of<Q, A: Clone + Send + 'static>(jobs: &[Job<Q, A>]) -> Option<(Deadline, Waiters)> {
            let waiter =
                |job: &Job<Q, A>| -> (Arc<dyn Abandon>, Spent) { (job.waiter.clone(), job.spent) };
            Some((jobs.first()?.deadline, jobs.iter().map(waiter).collect()))
        }
        let stuck = "the database did not come back from a call".to_owned();
        let (found, failure) = match self {
            // Redis has deadlines of its own.
            Batch::Lookups(_) => return None,
            Batch::Shoes(jobs) => (of(jobs), StoreError::TimedOut),
            Batch::Rows(jobs) => (of(jobs), StoreError::TimedOut),
            Batch::Pings(jobs) => (of(jobs), StoreError::TimedOut),
            // It may be stuck in its COMMIT.
            Batch::Writes(jobs) => (of(jobs), StoreError::OutcomeUnknown(stuck)),
        };
        let (deadline, waiters) = found?;
        Some(UnderWay {
            deadline,
            failure: Failure::Store(Arc::new(failure)),
            waiters,
            begun: Instant::now(),
        })
    }
}

impl<Q, A: Clone> Job<Q, A> {
    /// A job of the coroutine that calls this.
    pub fn new(question: Q, patience: Duration) -> (Self, Pending<A>) {
        let now = Instant::now();
        let waiter = Arc::new(Waiter::of(coroutine::current()));
        let job = Job {
            since: now,
            question,
            deadline: Deadline::at(now + patience),
            spent: Spent::default(),
            trace: None,
            waiter: waiter.clone(),
        };
        (job, Pending(waiter))
    }

    /// Leaves the answer for the coroutines, which are then to be woken; none if the tick was faster.
    #[must_use]
    pub fn answer(self, outcome: Result<A, Failure>) -> Vec<Coroutine> {
        self.waiter.give(outcome, self.spent)
    }

    /// Answers it before its turn has come.
    #[must_use]
    fn refuse(mut self, now: Instant, failure: Failure) -> Vec<Coroutine> {
        self.leave_queue(now);
        self.answer(Err(failure))
    }

    /// Its turn has come.
    fn leave_queue(&mut self, now: Instant) {
        self.spent.queue += now.saturating_duration_since(self.since);
    }

    /// The same job with another question, in another queue from now on.
    pub fn turn_into<R>(self, now: Instant, question: impl FnOnce(Q) -> R) -> Job<R, A> {
        Job {
            since: now,
            question: question(self.question),
            deadline: self.deadline,
            spent: self.spent,
            trace: self.trace,
            waiter: self.waiter,
        }
    }
}

/// The jobs of one kind, in order of arrival.
struct Line<Q, A> {
    jobs: VecDeque<Job<Q, A>>,
    shedder: Shedder,
    batch: BatchSize,
    pacing: Pacing,
}

impl<Q, A> Default for Line<Q, A> {
    fn default() -> Self {
        Line {
            jobs: VecDeque::new(),
            shedder: Shedder::default(),
            batch: BatchSize::default(),
            pacing: Pacing::default(),
        }
    }
}

impl<Q, A: Clone> Line<Q, A> {
    fn push(&mut self, job: Job<Q, A>, tally: &Tally) -> Result<(), (Failure, Job<Q, A>)> {
        let batch = self.batch.limit();
        if !self.shedder.admits(job.since, self.jobs.len(), batch) {
            tally.shed(1);
            return Err((Failure::Overloaded, job));
        }
        self.jobs.push_back(job);
        Ok(())
    }

    fn oldest(&self) -> Option<Instant> {
        self.jobs.front().map(|job| job.since)
    }

    /// The oldest job, if a call for it may begin now beside `most` others at most.
    fn due(&self, now: Instant, most: usize) -> Option<Instant> {
        self.oldest().filter(|_| self.pacing.may_begin(now, most))
    }

    /// The next batch, of the first jobs for which `fits` holds and one at least; refuses what there is no time for.
    fn take(
        &mut self,
        now: Instant,
        fits: impl Fn(&Q) -> bool,
        tally: &Tally,
        refused: &mut Vec<Coroutine>,
    ) -> Vec<Job<Q, A>> {
        let batch = self.batch.limit();
        let waited = self
            .oldest()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let too_many = self.shedder.look(now, waited, self.jobs.len(), batch);
        tally.shed(too_many);
        for job in self.jobs.drain(..too_many) {
            refused.extend(job.refuse(now, Failure::Overloaded));
        }
        let count = self
            .jobs
            .iter()
            .take(batch)
            .take_while(|job| fits(&job.question))
            .count()
            .max(1)
            .min(self.jobs.len());
        self.shedder.took(now, count);
        self.pacing.begin(now, count >= batch);
        let mut taken: Vec<_> = self.jobs.drain(..count).collect();
        taken.iter_mut().for_each(|job| job.leave_queue(now));
        tally.taken(
            taken
                .iter()
                .map(|job| now.saturating_duration_since(job.since)),
        );
        taken
    }

    /// Takes out what has waited past its deadline and answers it; all of it if `everything`.
    fn fail(&mut self, everything: bool, failure: &Failure, woken: &mut Vec<Coroutine>) {
        // In order of deadlines, too: all requests have the same patience.
        while let Some(job) = self.jobs.front()
            && (everything || job.deadline.passed())
        {
            woken.extend(
                self.jobs
                    .pop_front()
                    .map(|job| job.refuse(Instant::now(), failure.clone()))
                    .unwrap_or_default(),
            );
        }
    }
}

/// Where is counted what becomes of jobs; nowhere in tests. Used under the lock of the queues alone.
#[derive(Default)]
struct Tally(Option<Row>);

impl Tally {
    /// So many were refused, for too many wait.
    fn shed(&self, count: usize) {
        if let Some(row) = &self.0
            && count > 0
        {
            row.add(Counter::Shed, count as u64);
        }
    }

    /// A batch is taken of jobs that have waited so long.
    fn taken(&self, waits: impl ExactSizeIterator<Item = Duration>) {
        let Some(row) = self.0.as_ref().filter(|_| waits.len() > 0) else {
            return;
        };
        row.count(Counter::LaneBatches);
        waits.for_each(|waited| row.note_queue_delay(waited));
    }
}

/// All that waits, whether it makes sense to wait, and who is there to do it.
pub struct Queues {
    lookups: Line<i32, Bytes>,
    shoes: Line<Missing, Bytes>,
    rows: Line<RowId, Option<Bytes>>,
    pings: Line<(), ()>,
    writes: Line<Change, Changed>,
    tally: Tally,
    pub breaker: Breaker,
    pub muster: Muster,
}

impl Default for Queues {
    fn default() -> Self {
        Queues {
            lookups: Line::default(),
            shoes: Line::default(),
            rows: Line::default(),
            pings: Line::default(),
            writes: Line::default(),
            tally: Tally::default(),
            breaker: Breaker::default(),
            muster: Muster::new(Instant::now()),
        }
    }
}

/// A job that was refused on arrival is dropped: its coroutine has not parked yet, and gets the failure right away.
fn refused<J>((failure, _): (Failure, J)) -> Failure {
    failure
}

impl Queues {
    /// Empty queues, whose jobs are counted in this row.
    pub fn counted_in(row: Row) -> Self {
        Queues {
            tally: Tally(Some(row)),
            ..Queues::default()
        }
    }

    /// Nothing that needs the database waits while there is none.
    fn check_breaker(&self) -> Result<(), Failure> {
        match self.breaker.refusal() {
            Some(why) => Err(Failure::Store(why)),
            None => Ok(()),
        }
    }

    /// A shoe that Redis is asked for first. It may be answered although the database is away, or has too much to do.
    pub fn push_lookup(&mut self, job: LookupJob) -> Result<(), Failure> {
        self.lookups.push(job, &self.tally).map_err(refused)
    }

    /// How many of so many shoes would not be refused, if they were pushed now.
    pub fn room_for_missing(&mut self, now: Instant, count: usize) -> usize {
        if self.breaker.refusal().is_some() {
            return 0;
        }
        let (waiting, batch) = (self.shoes.jobs.len(), self.shoes.batch.limit());
        (waiting..waiting + count)
            .take_while(|waiting| self.shoes.shedder.admits(now, *waiting, batch))
            .count()
    }

    /// A shoe that only the store has. Its coroutines are parked or about to, so a refusal is their answer.
    #[must_use]
    pub fn push_missing(&mut self, job: ShoeJob) -> Vec<Coroutine> {
        let outcome = match self.check_breaker() {
            Ok(()) => self.shoes.push(job, &self.tally),
            Err(failure) => Err((failure, job)),
        };
        match outcome {
            Ok(()) => Vec::new(),
            Err((failure, job)) => job.answer(Err(failure)),
        }
    }

    pub fn push_shoe(&mut self, job: LookupJob) -> Result<(), Failure> {
        self.check_breaker()?;
        let now = job.since;
        let missing = |shoe_id| Missing {
            shoe_id,
            lookup: None,
        };
        self.shoes
            .push(job.turn_into(now, missing), &self.tally)
            .map_err(refused)
    }

    pub fn push_row(&mut self, job: RowJob) -> Result<(), Failure> {
        self.check_breaker()?;
        self.rows.push(job, &self.tally).map_err(refused)
    }

    pub fn push_ping(&mut self, job: PingJob) -> Result<(), Failure> {
        self.check_breaker()?;
        self.pings.push(job, &self.tally).map_err(refused)
    }

    pub fn push_write(&mut self, job: WriteJob) -> Result<(), Failure> {
        self.check_breaker()?;
        self.writes.push(job, &self.tally).map_err(refused)
    }

    /// What waits for Redis, up to one batch. `refused` gets whom there is no time for.
    pub fn take_lookups(&mut self, now: Instant, refused: &mut Vec<Coroutine>) -> Vec<LookupJob> {
        self.lookups.take(now, |_| true, &self.tally, refused)
    }

    /// Whether the lane that asks Redis has something to do.
    pub fn lookups_are_due(&self, now: Instant) -> bool {
        self.lookups.due(now, 1).is_some()
    }

    /// What the store is to be asked next, if a call may begin now: the kind whose oldest job waits longest, and since when that
    /// waits. `lanes` is how many may ask.
    pub fn due(&self, now: Instant, grouping: Grouping, lanes: usize) -> Option<(Instant, Kind)> {
        // Writes that wait for a lock leave one lane for reads. Where one commit takes all of them, two would wait for each other.
        let writers = match grouping {
            Grouping::All => 1,
            Grouping::Inserts => lanes.saturating_sub(1).max(1),
        };
        let kinds = [
            (self.shoes.due(now, lanes), Kind::Shoes),
            (self.rows.due(now, lanes), Kind::Rows),
            (self.pings.due(now, lanes), Kind::Pings),
            (self.writes.due(now, writers), Kind::Writes),
        ];
        let waiting = kinds
            .into_iter()
            .filter_map(|(oldest, kind)| Some((oldest?, kind)));
        waiting.min_by_key(|(oldest, _)| *oldest)
    }

    /// The next batch for the store, of a kind that is due. Whoever takes it says so by [`Queues::ended`] when the call has ended.
    /// `refused` gets whom there is no time for.
    pub fn take(
        &mut self,
        now: Instant,
        kind: Kind,
        grouping: Grouping,
        refused: &mut Vec<Coroutine>,
    ) -> Batch {
        let any = |_: &_| true;
        let tally = &self.tally;
        match kind {
            Kind::Lookups => Batch::Lookups(self.lookups.take(now, |_| true, tally, refused)),
            Kind::Shoes => Batch::Shoes(self.shoes.take(now, |_| true, tally, refused)),
            Kind::Rows => Batch::Rows(self.rows.take(now, any, tally, refused)),
            Kind::Pings => Batch::Pings(self.pings.take(now, |()| true, tally, refused)),
            Kind::Writes => {
                let together = |change: &Change| grouping.takes(change);
                Batch::Writes(self.writes.take(now, together, tally, refused))
            }
        }
    }

    /// Notes that the call for a batch has ended, however it did.
    pub fn ended(&mut self, kind: Kind) {
        match kind {
            Kind::Lookups => self.lookups.pacing.end(),
            Kind::Shoes => self.shoes.pacing.end(),
            Kind::Rows => self.rows.pacing.end(),
            Kind::Pings => self.pings.pacing.end(),
            Kind::Writes => self.writes.pacing.end(),
        }
    }

    /// Notes how long a call took that was answered.
    pub fn took(&mut self, kind: Kind, count: usize, took: Duration) {
        let batch = match kind {
            Kind::Lookups => &mut self.lookups.batch,
            Kind::Shoes => &mut self.shoes.batch,
            Kind::Rows => &mut self.rows.batch,
            Kind::Pings => &mut self.pings.batch,
            Kind::Writes => &mut self.writes.batch,
        };
        batch.note(Instant::now(), count, took);
    }

    /// How many shoes wait for the store.
    #[cfg(test)]
    pub fn waiting_shoes(&self) -> usize {
        self.shoes.jobs.len()
    }

    /// How many writes wait.
    #[cfg(test)]
    pub fn waiting_writes(&self) -> usize {
        self.writes.jobs.len()
    }

    /// Takes out what has waited past its deadline and answers it.
    pub fn expire(&mut self) -> Vec<Coroutine> {
        let failure = Failure::Store(Arc::new(StoreError::TimedOut));
        let mut woken = Vec::new();
        self.lookups.fail(false, &failure, &mut woken);
        self.fail(false, &failure, &mut woken);
        woken
    }

    /// Takes out everything that needs the store and answers it with the reason for which there is none.
    pub fn give_up(&mut self, why: &Failure) -> Vec<Coroutine> {
        let mut woken = Vec::new();
        self.fail(true, why, &mut woken);
        woken
    }

    fn fail(&mut self, everything: bool, failure: &Failure, woken: &mut Vec<Coroutine>) {
        self.shoes.fail(everything, failure, woken);
        self.rows.fail(everything, failure, woken);
        self.pings.fail(everything, failure, woken);
        self.writes.fail(everything, failure, woken);
    }
}

/// What a write is answered with, taken out of what the store says of writes of any kind.
pub trait Outcome: Sized {
    /// `None` if it is another kind's.
    fn of(changed: Changed) -> Option<Self>;
}

/// A new row.
impl Outcome for ShoeImages {
    fn of(changed: Changed) -> Option<Self> {
        match changed {
            Changed::Inserted(row) => Some(row),
            Changed::Replaced(_) | Changed::Deleted(_) => None,
        }
    }
}

/// A replaced row.
impl Outcome for Option<ShoeImages> {
    fn of(changed: Changed) -> Option<Self> {
        match changed {
            Changed::Replaced(row) => Some(row),
            Changed::Inserted(_) | Changed::Deleted(_) => None,
        }
    }
}

/// Whether a row was deleted.
impl Outcome for bool {
    fn of(changed: Changed) -> Option<Self> {
        match changed {
            Changed::Deleted(deleted) => Some(deleted),
            Changed::Inserted(_) | Changed::Replaced(_) => None,
        }
    }
}
