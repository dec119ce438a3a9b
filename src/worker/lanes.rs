//! Lanes: the OS threads that do all blocking work. A coroutine puts a job into the queue and parks; a lane takes
//! everything of one kind that waits, answers it with one query, and hands the whole batch of answers to the
//! scheduler with one wake-up.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use may::coroutine::{self, Coroutine};

use super::last_words;
use super::queue::{Batch, Job, Pending, Queues, UnderWay, WriteJob};
use crate::app::manners::Page;
use crate::app::{Backend, Failure, images};
use crate::cache::l1::{Found, L1};
use crate::cache::redis::RedisCache;
use crate::http::watch::Watch;
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{Intent, Row};
use crate::store::{Deadline, Draft, Fence, ShoeImages, Store, StoreError};

/// How long past its deadline a lane may come back with its own, better answer.
const STUCK_AFTER: Duration = Duration::from_millis(250);

/// How often a store that stays down is said to be so.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The queue, the answers on their way back, and what the lanes work with.
pub struct Lanes {
    queues: Mutex<Queues>,
    waiting: Condvar,
    /// What each lane is at.
    under_way: Mutex<Vec<Option<UnderWay>>>,
    /// Coroutines whose answers are there.
    answered: Mutex<Vec<Coroutine>>,
    /// The coroutine that wakes them, once it runs.
    porter: OnceLock<Coroutine>,
    store: Arc<dyn Store>,
    redis: Option<RedisCache>,
    /// Where each lane notes what it is about to commit.
    row: Row,
    request_timeout: Duration,
    /// When the store was last said to be in trouble; `None` while it is well.
    trouble: Mutex<Option<Instant>>,
}

/// A poisoned lock is one whose holder panicked; what these locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    /// Lanes over a store and, maybe, Redis. Nothing runs before [`Lanes::start`].
    pub fn new(
        store: Arc<dyn Store>,
        redis: Option<RedisCache>,
        row: Row,
        request_timeout: Duration,
    ) -> Self {
        Lanes {
            queues: Mutex::default(),
            waiting: Condvar::new(),
            under_way: Mutex::default(),
            answered: Mutex::default(),
            porter: OnceLock::new(),
            store,
            redis,
            row,
            request_timeout,
            trouble: Mutex::default(),
        }
    }

    /// Starts `count` lane threads.
    ///
    /// # Errors
    /// The kernel has no thread left for us.
    pub fn start(self: &Arc<Self>, count: usize) -> io::Result<()> {
        lock(&self.under_way).resize_with(count, || None);
        for number in 0..count {
            let lanes = self.clone();
            thread::Builder::new()
                .name(format!("lane-{number}"))
                .spawn(move || {
                    if let Err(error) = last_words::make_room() {
                        log::warn!(
                            "worker: a lane will leave no backtrace when it aborts: {error}"
                        );
                    }
                    lanes.run(number);
                })?;
        }
        Ok(())
    }

    /// Wakes the coroutines whose answers are there, for ever. Runs on a coroutine itself, so that each of those
    /// wake-ups is local to the scheduler's thread and only the porter's own crosses threads.
    pub fn carry(&self) {
        let _ = self.porter.set(coroutine::current());
        loop {
            let answered = std::mem::take(&mut *lock(&self.answered));
            if answered.is_empty() {
                coroutine::park();
            }
            answered.iter().for_each(Coroutine::unpark);
        }
    }

    /// Answers what has waited past its deadline: in the queue, or in a lane that is stuck in a call (a disk that
    /// hangs knows no time-out). Called by the worker's tick.
    pub fn expire(&self) {
        let mut late = lock(&self.queues).expire();
        for slot in lock(&self.under_way).iter_mut() {
            if let Some(batch) = slot.take_if(|batch| batch.deadline.passed_by() > STUCK_AFTER) {
                late.extend(batch.abandon());
            }
        }
        self.wake(late.into_iter());
    }

    fn ask<Q, A>(
        &self,
        question: Q,
        push: fn(&mut Queues, Job<Q, A>) -> Result<(), Failure>,
    ) -> Result<A, Failure> {
        let (job, pending): (_, Pending<A>) = Job::new(question, self.request_timeout);
        push(&mut lock(&self.queues), job)?;
        self.waiting.notify_one();
        pending.wait()
    }

    fn wake(&self, coroutines: impl Iterator<Item = Coroutine>) {
        // Collected first: the jobs' answers are given while nobody holds the lock.
        let coroutines: Vec<Coroutine> = coroutines.collect();
        if coroutines.is_empty() {
            return;
        }
        let first = {
            let mut answered = lock(&self.answered);
            let first = answered.is_empty();
            answered.extend(coroutines);
            first
        };
        if first && let Some(porter) = self.porter.get() {
            porter.unpark();
        }
    }

    /// One lane's life.
    fn run(&self, number: usize) {
        loop {
            let mut queues = lock(&self.queues);
            while queues.is_empty() {
                queues = self
                    .waiting
                    .wait(queues)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let batch = queues.take();
            drop(queues);
            if let Some(batch) = batch {
                lock(&self.under_way)[number] = batch.under_way();
                self.perform(number, batch);
                lock(&self.under_way)[number] = None;
            }
        }
    }

    fn perform(&self, number: usize, batch: Batch) {
        match batch {
            Batch::Shoes(jobs) => self.read(jobs, |keys, deadline| self.find_shoes(keys, deadline)),
            Batch::Rows(jobs) => self.read(jobs, |ids, deadline| self.find_rows(ids, deadline)),
            Batch::Pings(jobs) => {
                let Some(deadline) = jobs.first().map(|job| job.deadline) else {
                    return;
                };
                let pong = self.guard(|| self.heed(self.store.ping(deadline)));
                self.wake(jobs.into_iter().filter_map(|job| job.answer(pong.clone())));
            }
            Batch::Writes(jobs) => {
                self.wake(jobs.into_iter().filter_map(|job| self.write(number, job)));
            }
        }
    }

    /// Answers a batch of reads with one call; `find` answers its keys in their order.
    fn read<A>(
        &self,
        jobs: Vec<Job<i32, A>>,
        find: impl Fn(&[i32], Deadline) -> Result<Vec<A>, StoreError>,
    ) {
        let Some(deadline) = jobs.first().map(|job| job.deadline) else {
            return;
        };
        let keys: Vec<i32> = jobs.iter().map(|job| job.question).collect();
        match self.guard(|| find(&keys, deadline)) {
            Ok(found) => self.wake(
                jobs.into_iter()
                    .zip(found)
                    .filter_map(|(job, answer)| job.answer(Ok(answer))),
            ),
            Err(failure) => self.wake(
                jobs.into_iter()
                    .filter_map(|job| job.answer(Err(failure.clone()))),
            ),
        }
    }

    fn find_rows(&self, ids: &[i32], deadline: Deadline) -> Result<Vec<Option<Bytes>>, StoreError> {
        let rows = self.heed(self.store.rows(ids, deadline))?;
        Ok(rows
            .iter()
            .map(|row| row.as_ref().map(|row| Bytes::from(images::render_row(row))))
            .collect())
    }

    /// The JSON of each shoe, from Redis or else from the store, which then fills Redis.
    fn find_shoes(&self, keys: &[i32], deadline: Deadline) -> Result<Vec<Bytes>, StoreError> {
        let Some(redis) = &self.redis else {
            return self.load_shoes(keys, deadline);
        };
        let lookup = redis.fetch(keys);
        let missing: Vec<i32> = keys
            .iter()
            .zip(&lookup.found)
            .filter(|(_, json)| json.is_none())
            .map(|(key, _)| *key)
            .collect();
        if missing.is_empty() {
            return Ok(lookup.found.into_iter().flatten().collect());
        }
        let loaded = self.load_shoes(&missing, deadline)?;
        redis.fill(&lookup, &missing, &loaded);
        let mut loaded = loaded.into_iter();
        Ok(lookup
            .found
            .into_iter()
            .filter_map(|json| json.or_else(|| loaded.next()))
            .collect())
    }

    fn load_shoes(&self, keys: &[i32], deadline: Deadline) -> Result<Vec<Bytes>, StoreError> {
        let found = self.heed(self.store.shoes(keys, deadline))?;
        Ok(found
            .iter()
            .map(|rows| Bytes::from(images::render_rows(rows)))
            .collect())
    }

    fn write(&self, number: usize, job: WriteJob) -> Option<Coroutine> {
        if job.deadline().passed() {
            return job.fail(Failure::Store(Arc::new(StoreError::TimedOut)));
        }
        let notice = Notice {
            lanes: self,
            number,
            begun: RefCell::default(),
        };
        match job {
            WriteJob::Insert(job) => {
                let outcome = self
                    .guard(|| self.heed(self.store.insert(&job.question, &notice, job.deadline)));
                notice.tell();
                job.answer(outcome)
            }
            WriteJob::Replace(job) => {
                let (id, draft) = &job.question;
                let outcome =
                    self.guard(|| self.heed(self.store.replace(*id, draft, &notice, job.deadline)));
                notice.tell();
                job.answer(outcome)
            }
            WriteJob::Delete(job) => {
                let outcome = self
                    .guard(|| self.heed(self.store.delete(job.question, &notice, job.deadline)));
                notice.tell();
                job.answer(outcome)
            }
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

    /// Says once that the store is in trouble, and once that it is well again.
    fn heed<A>(&self, result: Result<A, StoreError>) -> Result<A, StoreError> {
        let mut trouble = lock(&self.trouble);
        match &result {
            Ok(_) if trouble.take().is_some() => log::info!("store: answers again"),
            Ok(_) => {}
            // The store itself says when it is cut off and when it is back.
            Err(StoreError::Unavailable(_)) => {}
            Err(error @ StoreError::Failed(_)) => log::error!("store: {error}"),
            Err(error) if trouble.is_none_or(|said| said.elapsed() > SAY_AGAIN) => {
                *trouble = Some(Instant::now());
                log::warn!("store: {error}; requests that need it get 503 until it answers again");
            }
            Err(_) => {}
        }
        drop(trouble);
        result
    }
}

/// Tells every cache of one write: before its commit that it may come, and before its answer that it may have.
struct Notice<'l> {
    lanes: &'l Lanes,
    number: usize,
    begun: RefCell<Option<(Vec<i32>, Intent)>>,
}

impl Fence for Notice<'_> {
    fn raise(&self, shoe_ids: &[i32]) {
        if let Some(redis) = &self.lanes.redis {
            redis.raise(shoe_ids);
        }
        let intent = self.lanes.row.intend(self.number, shoe_ids);
        *self.begun.borrow_mut() = Some((shoe_ids.to_vec(), intent));
    }
}

impl Notice<'_> {
    /// Whatever came of the write: also one that failed in its commit may have happened.
    fn tell(self) {
        let Some((shoe_ids, intent)) = self.begun.into_inner() else {
            return;
        };
        drop(intent);
        if let Some(redis) = &self.lanes.redis {
            redis.publish(&shoe_ids);
        }
    }
}

/// The service's view of the lanes, and of the worker that they belong to.
pub struct Backing {
    pub lanes: Arc<Lanes>,
    pub watch: Arc<Watch>,
    pub l1: L1<Arc<Page>>,
    pub tally: Row,
}

impl Backend for Backing {
    fn shoe(&self, shoe_id: i32, page: &dyn Fn(Bytes) -> Page) -> Result<Arc<Page>, Failure> {
        let stamp = match self.l1.find(shoe_id, self.watch.now()) {
            Found::Answer(page) => {
                self.tally.count(Counter::L1Hits);
                return Ok(page);
            }
            Found::Nothing(stamp) => stamp,
        };
        self.tally.count(Counter::L1Misses);
        let page = Arc::new(page(self.lanes.ask(shoe_id, Queues::push_shoe)?));
        if let Some(stamp) = stamp {
            let now = self.watch.now();
            self.l1.keep(shoe_id, page.clone(), page.size(), stamp, now);
        }
        Ok(page)
    }

    fn row(&self, id: i32) -> Result<Option<Bytes>, Failure> {
        self.lanes.ask(id, Queues::push_row)
    }

    fn insert(&self, draft: Draft) -> Result<ShoeImages, Failure> {
        self.lanes.ask(draft, Queues::push_insert)
    }

    fn replace(&self, id: i32, draft: Draft) -> Result<Option<ShoeImages>, Failure> {
        self.lanes.ask((id, draft), Queues::push_replace)
    }

    fn delete(&self, id: i32) -> Result<bool, Failure> {
        self.lanes.ask(id, Queues::push_delete)
    }

    fn ready(&self) -> Result<(), Failure> {
        self.lanes.ask((), Queues::push_ping)
    }

    fn draining(&self) -> bool {
        self.watch.draining()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::scoreboard::Scoreboard;
    use crate::sys;

    /// A store whose every call hangs until the test lets it go, as on a disk that does not answer.
    struct Hung(Mutex<mpsc::Receiver<()>>);

    impl Hung {
        fn hang<A>(&self) -> Result<A, StoreError> {
            let _ = lock(&self.0).recv();
            Err(StoreError::Failed("let go".to_owned()))
        }
    }

    impl Store for Hung {
        fn shoes(&self, _: &[i32], _: Deadline) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
            self.hang()
        }
        fn rows(&self, _: &[i32], _: Deadline) -> Result<Vec<Option<ShoeImages>>, StoreError> {
            self.hang()
        }
        fn insert(&self, _: &Draft, _: &dyn Fence, _: Deadline) -> Result<ShoeImages, StoreError> {
            self.hang()
        }
        fn replace(
            &self,
            _: i32,
            _: &Draft,
            _: &dyn Fence,
            _: Deadline,
        ) -> Result<Option<ShoeImages>, StoreError> {
            self.hang()
        }
        fn delete(&self, _: i32, _: &dyn Fence, _: Deadline) -> Result<bool, StoreError> {
            self.hang()
        }
        fn ping(&self, _: Deadline) -> Result<(), StoreError> {
            self.hang()
        }
    }

    /// A disk once took twenty seconds for an fsync, and PUTs with a time-out of two had no answer for as long.
    #[test]
    fn a_request_is_answered_in_time_although_its_lane_is_stuck() {
        may::config().set_workers(1).set_worker_pin(false);
        let (let_go, hung) = mpsc::channel();
        let lanes = Arc::new(Lanes::new(
            Arc::new(Hung(Mutex::new(hung))),
            None,
            Scoreboard::new().expect("shared memory").row(0),
            Duration::from_millis(50),
        ));
        lanes.start(1).expect("a lane");
        let porter = lanes.clone();
        sys::start_first_coroutine(move || porter.carry()).expect("a coroutine");
        let (answers, answered) = mpsc::channel();
        for write in [true, false] {
            let (lanes, answers) = (lanes.clone(), answers.clone());
            let ask = move || {
                let failure = match write {
                    true => lanes.ask(7, Queues::push_delete).map(drop),
                    false => lanes.ask(7, Queues::push_row).map(drop),
                };
                answers.send(failure).expect("the test listens");
            };
            sys::start_first_coroutine(ask).expect("a coroutine");
        }
        let failures: Vec<_> = (0..2)
            .map(|_| {
                loop {
                    lanes.expire();
                    match answered.recv_timeout(Duration::from_millis(10)) {
                        Ok(answer) => break answer.expect_err("the store never answers"),
                        Err(mpsc::RecvTimeoutError::Timeout) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
            .collect();
        for failure in failures {
            assert!(
                matches!(&failure, Failure::Store(error)
                    if matches!(**error, StoreError::TimedOut | StoreError::OutcomeUnknown(_))),
                "{failure:?}"
            );
        }
        drop(let_go);
    }
}
