//! The queue between coroutines and lanes: jobs by kind, typed so that a question can only get its own answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use may::coroutine::{self, Coroutine};

use crate::app::Failure;
use crate::store::{Deadline, Draft, ShoeImages, StoreError};

/// The most jobs that one query answers.
const BATCH: usize = 128;

/// The most jobs that may wait; one more is refused at once rather than queued to death.
const LONGEST: usize = 4096;

/// A question, and the coroutine that waits for its answer.
pub struct Job<Q, A> {
    arrival: u64,
    pub question: Q,
    pub deadline: Deadline,
    waiter: Arc<Waiter<A>>,
}

/// A parked coroutine and the place for its answer.
struct Waiter<A> {
    answer: Mutex<Answer<A>>,
    coroutine: Coroutine,
}

/// Who answers first wins: the lane, or the worker's tick when the lane is stuck.
enum Answer<A> {
    Awaited,
    Given(Result<A, Failure>),
    Taken,
}

impl<A> Waiter<A> {
    /// Leaves the answer for the coroutine, which is then to be woken; `None` if it has one already.
    fn give(&self, outcome: Result<A, Failure>) -> Option<Coroutine> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*answer, Answer::Awaited) {
            return None;
        }
        *answer = Answer::Given(outcome);
        Some(self.coroutine.clone())
    }

    fn take(&self) -> Option<Result<A, Failure>> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*answer, Answer::Given(_)) {
            return None;
        }
        match std::mem::replace(&mut *answer, Answer::Taken) {
            Answer::Given(outcome) => Some(outcome),
            Answer::Awaited | Answer::Taken => None,
        }
    }
}

/// A waiter of any kind, to be told that its lane is stuck.
pub trait Abandon: Send + Sync {
    /// Answers with a failure, unless there is an answer already.
    fn abandon(&self, failure: Failure) -> Option<Coroutine>;
}

impl<A: Send> Abandon for Waiter<A> {
    fn abandon(&self, failure: Failure) -> Option<Coroutine> {
        self.give(Err(failure))
    }
}

/// What the asking coroutine holds on to.
pub struct Pending<A>(Arc<Waiter<A>>);

pub type ShoeJob = Job<i32, Bytes>;
pub type RowJob = Job<i32, Option<Bytes>>;
pub type PingJob = Job<(), ()>;

pub enum WriteJob {
    Insert(Job<Draft, ShoeImages>),
    Replace(Job<(i32, Draft), Option<ShoeImages>>),
    Delete(Job<i32, bool>),
}

/// Jobs of one kind, to be answered with one query; writes come one at a time.
pub enum Batch {
    Shoes(Vec<ShoeJob>),
    Rows(Vec<RowJob>),
    Pings(Vec<PingJob>),
    Writes(Vec<WriteJob>),
}

/// What a lane is at, for the worker's tick.
pub struct UnderWay {
    pub deadline: Deadline,
    /// What to answer when the lane does not come back in time.
    failure: Failure,
    waiters: Vec<Arc<dyn Abandon>>,
}

impl UnderWay {
    /// Answers all who have no answer yet; they are to be woken.
    pub fn abandon(&self) -> Vec<Coroutine> {
        self.waiters
            .iter()
            .filter_map(|waiter| waiter.abandon(self.failure.clone()))
            .collect()
    }
}

impl Batch {
    /// The batch as the worker's tick needs to know it; `None` for an empty one.
    pub fn under_way(&self) -> Option<UnderWay> {
        fn of<Q, A: Send + 'static>(
            jobs: &[Job<Q, A>],
        ) -> Option<(Deadline, Vec<Arc<dyn Abandon>>)> {
            Some((
                jobs.first()?.deadline,
                jobs.iter().map(Job::waiter).collect(),
            ))
        }
        let stuck = "the database did not come back from a call".to_owned();
        let (found, failure) = match self {
            Batch::Shoes(jobs) => (of(jobs), StoreError::TimedOut),
            Batch::Rows(jobs) => (of(jobs), StoreError::TimedOut),
            Batch::Pings(jobs) => (of(jobs), StoreError::TimedOut),
            Batch::Writes(jobs) => {
                let waiters = jobs.iter().map(WriteJob::waiter).collect();
                let found = jobs.first().map(|job| (job.deadline(), waiters));
                // It may be stuck in its COMMIT.
                (found, StoreError::OutcomeUnknown(stuck))
            }
        };
        let (deadline, waiters) = found?;
        Some(UnderWay {
            deadline,
            failure: Failure::Store(Arc::new(failure)),
            waiters,
        })
    }
}

/// Each queue is in order of arrival, and so of deadline: all requests have the same patience.
#[derive(Default)]
pub struct Queues {
    shoes: VecDeque<ShoeJob>,
    rows: VecDeque<RowJob>,
    pings: VecDeque<PingJob>,
    writes: VecDeque<WriteJob>,
    arrivals: u64,
}

impl<Q, A> Job<Q, A> {
    /// A job of the coroutine that calls this.
    pub fn new(question: Q, patience: Duration) -> (Self, Pending<A>) {
        let waiter = Arc::new(Waiter {
            answer: Mutex::new(Answer::Awaited),
            coroutine: coroutine::current(),
        });
        let job = Job {
            arrival: 0,
            question,
            deadline: Deadline::after(patience),
            waiter: waiter.clone(),
        };
        (job, Pending(waiter))
    }

    /// Leaves the answer for the coroutine, which is then to be woken; `None` if the tick was faster.
    #[must_use]
    pub fn answer(self, outcome: Result<A, Failure>) -> Option<Coroutine> {
        self.waiter.give(outcome)
    }
}

impl<Q, A: Send + 'static> Job<Q, A> {
    /// The waiter alone, for the worker's tick.
    pub fn waiter(&self) -> Arc<dyn Abandon> {
        self.waiter.clone()
    }
}

impl<A> Pending<A> {
    /// Parks until the answer is there. Every job is answered: lanes hold its deadline, and the worker's tick
    /// answers those that no lane came to.
    pub fn wait(self) -> Result<A, Failure> {
        loop {
            if let Some(outcome) = self.0.take() {
                return outcome;
            }
            coroutine::park();
        }
    }
}

impl WriteJob {
    fn arrival(&self) -> u64 {
        match self {
            WriteJob::Insert(job) => job.arrival,
            WriteJob::Replace(job) => job.arrival,
            WriteJob::Delete(job) => job.arrival,
        }
    }

    pub fn deadline(&self) -> Deadline {
        match self {
            WriteJob::Insert(job) => job.deadline,
            WriteJob::Replace(job) => job.deadline,
            WriteJob::Delete(job) => job.deadline,
        }
    }

    /// The waiter alone, for the worker's tick.
    pub fn waiter(&self) -> Arc<dyn Abandon> {
        match self {
            WriteJob::Insert(job) => job.waiter(),
            WriteJob::Replace(job) => job.waiter(),
            WriteJob::Delete(job) => job.waiter(),
        }
    }

    /// Answers with a failure, whatever was asked.
    #[must_use]
    pub fn fail(self, failure: Failure) -> Option<Coroutine> {
        match self {
            WriteJob::Insert(job) => job.answer(Err(failure)),
            WriteJob::Replace(job) => job.answer(Err(failure)),
            WriteJob::Delete(job) => job.answer(Err(failure)),
        }
    }
}

impl Queues {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.shoes.len() + self.rows.len() + self.pings.len() + self.writes.len()
    }

    /// A place in line, or none when the line is too long.
    fn arrive(&mut self) -> Result<u64, Failure> {
        if self.len() >= LONGEST {
            return Err(Failure::Overloaded);
        }
        self.arrivals += 1;
        Ok(self.arrivals)
    }

    pub fn push_shoe(&mut self, job: ShoeJob) -> Result<(), Failure> {
        let arrival = self.arrive()?;
        self.shoes.push_back(Job { arrival, ..job });
        Ok(())
    }

    pub fn push_row(&mut self, job: RowJob) -> Result<(), Failure> {
        let arrival = self.arrive()?;
        self.rows.push_back(Job { arrival, ..job });
        Ok(())
    }

    pub fn push_ping(&mut self, job: PingJob) -> Result<(), Failure> {
        let arrival = self.arrive()?;
        self.pings.push_back(Job { arrival, ..job });
        Ok(())
    }

    pub fn push_insert(&mut self, job: Job<Draft, ShoeImages>) -> Result<(), Failure> {
        let arrival = self.arrive()?;
        self.writes
            .push_back(WriteJob::Insert(Job { arrival, ..job }));
        Ok(())
    }

    pub fn push_replace(
        &mut self,
        job: Job<(i32, Draft), Option<ShoeImages>>,
    ) -> Result<(), Failure> {
        let arrival = self.arrive()?;
        self.writes
            .push_back(WriteJob::Replace(Job { arrival, ..job }));
        Ok(())
    }

    pub fn push_delete(&mut self, job: Job<i32, bool>) -> Result<(), Failure> {
        let arrival = self.arrive()?;
        self.writes
            .push_back(WriteJob::Delete(Job { arrival, ..job }));
        Ok(())
    }

    /// The next batch: of the kind whose oldest job waits longest.
    pub fn take(&mut self) -> Option<Batch> {
        fn first<Q, A>(queue: &VecDeque<Job<Q, A>>) -> u64 {
            queue.front().map_or(u64::MAX, |job| job.arrival)
        }
        fn front<J>(queue: &mut VecDeque<J>) -> Vec<J> {
            let count = queue.len().min(BATCH);
            queue.drain(..count).collect()
        }
        let write = self.writes.front().map_or(u64::MAX, WriteJob::arrival);
        let (shoe, row, ping) = (first(&self.shoes), first(&self.rows), first(&self.pings));
        match write.min(shoe).min(row).min(ping) {
            u64::MAX => None,
            oldest if oldest == shoe => Some(Batch::Shoes(front(&mut self.shoes))),
            oldest if oldest == row => Some(Batch::Rows(front(&mut self.rows))),
            oldest if oldest == ping => Some(Batch::Pings(front(&mut self.pings))),
            _ => Some(Batch::Writes(self.writes.drain(..1).collect())),
        }
    }

    /// Takes out what has waited past its deadline and answers it.
    pub fn expire(&mut self) -> Vec<Coroutine> {
        fn late<Q, A>(
            queue: &mut VecDeque<Job<Q, A>>,
            failure: &Failure,
            woken: &mut Vec<Coroutine>,
        ) {
            while queue.front().is_some_and(|job| job.deadline.passed()) {
                woken.extend(
                    queue
                        .pop_front()
                        .and_then(|job| job.answer(Err(failure.clone()))),
                );
            }
        }
        let failure = Failure::Store(Arc::new(StoreError::TimedOut));
        let mut woken = Vec::new();
        late(&mut self.shoes, &failure, &mut woken);
        late(&mut self.rows, &failure, &mut woken);
        late(&mut self.pings, &failure, &mut woken);
        while self
            .writes
            .front()
            .is_some_and(|job| job.deadline().passed())
        {
            woken.extend(
                self.writes
                    .pop_front()
                    .and_then(|job| job.fail(failure.clone())),
            );
        }
        woken
    }
}
