//! Lanes: the OS threads that do all blocking work. A coroutine puts a job into the queue and parks; a lane takes
//! everything of one kind that waits, answers it with one query, and hands the whole batch of answers to the
//! scheduler with one wake-up. What a batch asks of the store is in [`calls`], what of Redis in [`lookups`].

mod calls;
mod lookups;
mod notice;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use may::coroutine::{self, Coroutine};

use super::last_words;
use super::queue::{Batch, Job, Kind, Queues, UnderWay};
use super::share::Share;
use super::waiter::Pending;
use crate::app::Failure;
use crate::cache::redis::RedisCache;
use crate::http::trace::TraceParent;
use crate::scoreboard::{Row, Scoreboard};
use crate::store::{Change, Changed, Deadline, IdKind, Store, StoreError};

/// How long a worker that starts may take to connect to its database before it serves without.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long past its deadline a lane may come back with its own, better answer.
const STUCK_AFTER: Duration = Duration::from_millis(250);

/// How long a probe may take: what a healthy database answers in a fraction of.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a lane for which the database has no connection looks whether it has one now.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How often a store that stays down is said to be so.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The queue, the answers on their way back, and what the lanes work with.
pub struct Lanes {
    queues: Mutex<Queues>,
    /// For the lanes that ask the store.
    waiting: Condvar,
    /// For the lane that asks Redis.
    looking: Condvar,
    /// For lanes that are not needed yet.
    joining: Condvar,
    /// For lanes that the database has no connection for.
    spare: Condvar,
    /// How many lanes the database has a connection for.
    allowed: AtomicUsize,
    share: Share,
    /// What each lane is at.
    under_way: Mutex<Vec<At>>,
    /// Coroutines whose answers are there.
    answered: Mutex<Vec<Coroutine>>,
    /// The coroutine that wakes them, once it runs.
    porter: OnceLock<Coroutine>,
    /// The coroutine that rings the lanes, once it runs, and whether it is about to.
    ringer: OnceLock<Coroutine>,
    ringing: AtomicBool,
    store: Arc<dyn Store>,
    redis: Option<Arc<RedisCache>>,
    scoreboard: Scoreboard,
    /// Where each lane notes what it is about to commit.
    row: Row,
    request_timeout: Duration,
    /// When the store was last said to be in trouble; `None` while it is well.
    trouble: Mutex<Option<Instant>>,
}

/// What a lane is at.
#[derive(Default)]
enum At {
    /// Nothing that anybody waits for.
    #[default]
    Rest,
    Call(UnderWay),
    /// A call that did not come back in time: whoever waited for it has been answered.
    Stuck,
}

/// What a lane does next.
enum Task {
    Batch(Batch),
    /// Find out whether the database is there.
    Probe,
}

/// A poisoned lock is one whose holder panicked; what these locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    /// Lanes over a store and, maybe, Redis. Nothing runs before [`Lanes::start`].
    pub fn new(
        store: Arc<dyn Store>,
        redis: Option<Arc<RedisCache>>,
        scoreboard: Scoreboard,
        row: Row,
        request_timeout: Duration,
        share: Share,
    ) -> Self {
        // Until the database says how many it has, one connection is enough to ask.
        let allowed = share.lanes_for(store.room()).unwrap_or(1);
        store.limit(allowed);
        Lanes {
            queues: Mutex::new(Queues::counted_in(row)),
            waiting: Condvar::new(),
            looking: Condvar::new(),
            joining: Condvar::new(),
            spare: Condvar::new(),
            allowed: AtomicUsize::new(allowed),
            share,
            under_way: Mutex::default(),
            answered: Mutex::default(),
            porter: OnceLock::new(),
            ringer: OnceLock::new(),
            ringing: AtomicBool::new(false),
            store,
            redis,
            scoreboard,
            row,
            request_timeout,
            trouble: Mutex::default(),
        }
    }

    /// Starts `count` lane threads for the store, and one for Redis if there is one: what Redis has must not wait behind
    /// what the database takes its time for.
    ///
    /// # Errors
    /// The kernel has no thread left for us.
    pub fn start(self: &Arc<Self>, count: usize) -> io::Result<()> {
        lock(&self.under_way).resize_with(count, At::default);
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
        if self.redis.is_some() {
            let lanes = self.clone();
            thread::Builder::new()
                .name("lane-redis".to_owned())
                .spawn(move || lanes.look_up())?;
        }
        Ok(())
    }

    /// Opens the connection of the first lane before there is a request to wait for it: the first ones of a new worker would be slow
    /// otherwise, at each reload. A database that is away is waited for a moment only.
    pub fn warm_up(&self) {
        self.store.warm_up(1, Deadline::after(WARM_UP));
        self.learn_share();
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

    /// Rings a lane once for all the jobs that one look at the kernel's events has brought, for ever. Runs on a coroutine: one that
    /// is woken while events are served comes after them. Ringing at the first job would have a lane take that one alone.
    pub fn ring(&self) {
        let _ = self.ringer.set(coroutine::current());
        loop {
            while !self.ringing.swap(false, Ordering::Relaxed) {
                coroutine::park();
            }
            let queues = lock(&self.queues);
            let look_up = queues.lookups_are_due(Instant::now());
            self.call_lane(queues);
            if look_up {
                self.looking.notify_one();
            }
        }
    }

    /// Since when the oldest job waits for which a call may begin, and of what kind it is.
    fn due(&self, queues: &Queues, now: Instant) -> Option<(Instant, Kind)> {
        let lanes = self.allowed.load(Ordering::Relaxed);
        queues.due(now, self.store.grouping(), lanes)
    }

    /// Wakes a lane that is free, if there is something to do: one that finds nothing costs as much as a job. If none is free, one
    /// that has not joined sees whether it should.
    fn call_lane(&self, mut queues: MutexGuard<'_, Queues>) {
        if self.due(&queues, Instant::now()).is_none() {
            return;
        }
        let more = queues.muster.alert();
        drop(queues);
        match more {
            true => self.joining.notify_one(),
            false => self.waiting.notify_one(),
        }
    }

    fn ring_soon(&self) {
        if !self.ringing.swap(true, Ordering::Relaxed)
            && let Some(ringer) = self.ringer.get()
        {
            ringer.unpark();
        }
    }

    /// Answers what has waited past its deadline: in the queue, or in a lane that is stuck in a call (a disk that
    /// hangs knows no time-out). When every lane is stuck, nobody is there to find that out by a probe, and whoever comes is
    /// refused at once until one of them returns. Called by the worker's tick.
    pub fn expire(&self) {
        let mut late = lock(&self.queues).expire();
        let allowed = self.allowed.load(Ordering::Relaxed);
        let mut stuck = 0;
        for at in lock(&self.under_way).iter_mut() {
            if let At::Call(batch) = at
                && batch.deadline.passed_by() > STUCK_AFTER
            {
                late.extend(batch.abandon());
                *at = At::Stuck;
            }
            stuck += usize::from(matches!(at, At::Stuck));
        }
        let mut queues = lock(&self.queues);
        if stuck >= allowed {
            let why = Arc::new(StoreError::TimedOut);
            queues.breaker.open(why.clone(), Instant::now());
            late.extend(queues.give_up(&Failure::Store(why)));
        }
        // Whoever came while a call had just begun, and nobody after them, waits for its end no longer than this.
        self.call_lane(queues);
        self.wake(late.into_iter());
    }

    /// Which ids the rows of the store have.
    pub fn ids(&self) -> IdKind {
        self.store.ids()
    }

    /// Queues a question of the coroutine that calls this.
    ///
    /// # Errors
    /// The queue is full or stands, or the database is away.
    pub fn ask<Q, A: Clone>(
        &self,
        question: Q,
        push: fn(&mut Queues, Job<Q, A>) -> Result<(), Failure>,
    ) -> Result<Pending<A>, Failure> {
        let (job, pending) = Job::new(question, self.request_timeout);
        push(&mut lock(&self.queues), job)?;
        self.ring_soon();
        Ok(pending)
    }

    /// Queues the question for a shoe's rows: for Redis if there is one.
    ///
    /// # Errors
    /// As [`Lanes::ask`].
    pub fn ask_shoe(&self, shoe_id: i32) -> Result<Pending<Bytes>, Failure> {
        if self.redis.is_none() {
            return self.ask(shoe_id, Queues::push_shoe);
        }
        let (job, pending) = Job::new(shoe_id, self.request_timeout);
        lock(&self.queues).push_lookup(job)?;
        self.ring_soon();
        Ok(pending)
    }

    /// Queues a change; `trace` is what the database is to know of who makes it.
    ///
    /// # Errors
    /// As [`Lanes::ask`].
    pub fn ask_change(
        &self,
        change: Change,
        trace: Option<Box<TraceParent>>,
    ) -> Result<Pending<Changed>, Failure> {
        let (mut job, pending) = Job::new(change, self.request_timeout);
        job.trace = trace;
        lock(&self.queues).push_write(job)?;
        self.ring_soon();
        Ok(pending)
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
        self.join(number);
        loop {
            self.wait_for_share(number);
            match self.next_task() {
                Task::Probe => self.probe(),
                Task::Batch(batch) => self.carry_out(number, batch),
            }
        }
    }

    /// Answers a batch, and then does what nobody waits for.
    fn carry_out(&self, number: usize, batch: Batch) {
        let kind = batch.kind();
        let batch = self.turn_late_away(batch);
        if let Some(under_way) = batch.under_way() {
            lock(&self.under_way)[number] = At::Call(under_way);
        }
        let fills = self.perform(number, batch);
        lock(&self.under_way)[number] = At::Rest;
        let mut queues = lock(&self.queues);
        queues.ended(kind);
        if fills.is_empty() {
            return;
        }
        // What waited for the end of this call is another lane's.
        self.call_lane(queues);
        if let Some(redis) = &self.redis {
            // A panic costs a fill and not the lane, as in `guard`.
            let _ = catch_unwind(AssertUnwindSafe(|| redis.fill(&fills)));
        }
    }

    /// Holds a lane back until it is time to join, or those that have joined don't do.
    fn join(&self, number: usize) {
        loop {
            self.wait_for_share(number);
            let mut queues = lock(&self.queues);
            let now = Instant::now();
            let due = self.due(&queues, now).map(|(since, _)| since);
            let wait = queues.muster.joins_in(number, due, now);
            if wait.is_zero() {
                return;
            }
            drop(self.joining.wait_timeout(queues, wait));
        }
    }

    /// Holds a lane back while the database has no connection for it.
    fn wait_for_share(&self, number: usize) {
        while number >= self.allowed.load(Ordering::Relaxed) {
            let queues = lock(&self.queues);
            drop(self.spare.wait_timeout(queues, LOOK_AGAIN));
        }
    }

    /// Learns how many connections the database has for us, once it has been reached.
    fn learn_share(&self) {
        let Some(lanes) = self.share.lanes_for(self.store.room()) else {
            return;
        };
        self.store.limit(lanes);
        if self.allowed.swap(lanes, Ordering::Relaxed) != lanes {
            self.share.tell(self.store.room());
            self.spare.notify_all();
            self.waiting.notify_all();
        }
    }

    fn next_task(&self) -> Task {
        let mut refused = Vec::new();
        let mut queues = lock(&self.queues);
        loop {
            let now = Instant::now();
            if queues.breaker.claim_probe(now) {
                return Task::Probe;
            }
            if let Some((_, kind)) = self.due(&queues, now) {
                let batch = queues.take(now, kind, self.store.grouping(), &mut refused);
                // What this call does not take is another lane's, if that may begin one.
                self.call_lane(queues);
                self.wake(refused.into_iter());
                return Task::Batch(batch);
            }
            queues.muster.rest();
            queues = match queues.breaker.until_probe(now) {
                Some(pause) => {
                    let (queues, _) = self
                        .waiting
                        .wait_timeout(queues, pause)
                        .unwrap_or_else(PoisonError::into_inner);
                    queues
                }
                None => self
                    .waiting
                    .wait(queues)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            queues.muster.rise();
        }
    }

    /// Asks the database something small. When it does not answer either, whoever waits for it is told so.
    fn probe(&self) {
        let deadline = Deadline::after(PROBE_TIMEOUT.min(self.request_timeout));
        let pong = catch_unwind(AssertUnwindSafe(|| self.store.ping(deadline)));
        let outcome = match pong {
            Ok(Err(error)) if is_away(&error) => Err(Arc::new(error)),
            // Any other word is an answer.
            _ => Ok(()),
        };
        let mut queues = lock(&self.queues);
        queues.breaker.probed(Instant::now(), outcome, dice());
        let woken = match queues.breaker.refusal() {
            Some(why) => queues.give_up(&Failure::Store(why)),
            None => Vec::new(),
        };
        drop(queues);
        self.wake(woken.into_iter());
        // One of the others waits for the next probe.
        self.waiting.notify_one();
    }

    fn heed<A>(&self, result: Result<A, StoreError>) -> Result<A, StoreError> {
        self.note(result.as_ref().map(drop));
        result
    }

    /// Draws conclusions from how a call ended: for the breaker, and for the log, which says once that the store is in trouble
    /// and once that it is well again.
    fn note(&self, result: Result<(), &StoreError>) {
        match result {
            Ok(()) => self.learn_share(),
            Err(error) if is_away(error) => {
                lock(&self.queues).breaker.note(false);
                self.waiting.notify_one();
            }
            Err(_) => {}
        }
        let mut trouble = lock(&self.trouble);
        match result {
            Ok(()) if trouble.take().is_some() => log::info!("store: answers again"),
            Ok(()) => {}
            // The store itself says when it is cut off and when it is back.
            Err(StoreError::Unavailable(_)) => {}
            Err(error @ StoreError::Failed(_)) => log::error!("store: {error}"),
            Err(error) if trouble.is_none_or(|said| said.elapsed() > SAY_AGAIN) => {
                *trouble = Some(Instant::now());
                log::warn!("store: {error}; requests that need it get 503 until it answers again");
            }
            Err(_) => {}
        }
    }
}

/// A number from 0 to 1.
fn dice() -> f64 {
    // A fresh RandomState hashes with fresh keys.
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}

/// Whether an error may mean that the database is away: no answer came.
fn is_away(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_) | StoreError::TimedOut | StoreError::OutcomeUnknown(_) => true,
        StoreError::Schema(_)
        | StoreError::Refused(_)
        | StoreError::TooManyRows(_)
        | StoreError::Failed(_) => false,
    }
}

#[cfg(test)]
mod tests;
