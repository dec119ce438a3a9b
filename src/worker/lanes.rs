//! Lanes: the OS threads that do all blocking work. A coroutine puts a job into the queue and parks; a lane takes
//! everything of one kind that waits, answers it with one query, and hands the whole batch of answers to the
//! scheduler with one wake-up.

use std::cell::{Cell, RefCell};
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
use super::queue::{Batch, Job, Kind, LookupJob, Missing, Queues, ShoeJob, UnderWay, WriteJob};
use super::share::Share;
use super::waiter::Pending;
use crate::app::{Failure, images};
use crate::cache::redis::{Filling, RedisCache};
use crate::http::trace::TraceParent;
use crate::sabotage::{self, Fault};
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{Intent, Row, Scoreboard};
use crate::store::{
    Change, Changed, Deadline, Fence, IdKind, MAX_ROWS, Position, RowId, Store, StoreError,
};

/// How long a worker that starts may take to connect to its database before it serves without.
const WARM_UP: Duration = Duration::from_millis(500);

/// Who has less time left than this, or a twentieth of what requests have, is not asked for any more.
const LEAST_TIME: Duration = Duration::from_millis(100);

/// How long past its deadline a lane may come back with its own, better answer.
const STUCK_AFTER: Duration = Duration::from_millis(250);

/// How long a probe may take: what a healthy database answers in a fraction of.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a lane for which the database has no connection looks whether it has one now.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How often a store that stays down is said to be so.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// How long a write that is broken on purpose waits where it does harm.
const DAWDLE: Duration = Duration::from_millis(20);

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

    /// Answers those whose time is all but over. A call has as long as the oldest in it: after a stall everybody else would lose
    /// theirs by one, and a COMMIT that is begun with too little left comes to nobody knows what.
    fn turn_late_away(&self, batch: Batch) -> Batch {
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
    fn perform(&self, number: usize, batch: Batch) -> Vec<Filling> {
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
    fn each_or_all<K, A>(
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

    /// The life of the lane that asks Redis. It answers what Redis has, and queues the rest for the store.
    fn look_up(&self) {
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

    fn look_up_batch(&self, mut jobs: Vec<LookupJob>) {
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
        let notice = Notice {
            lanes: self,
            number,
            begun: RefCell::default(),
            traces: jobs
                .iter()
                .filter_map(|job| job.trace.as_deref().copied())
                .collect(),
            redis: Cell::default(),
            placed: Cell::default(),
        };
        let begun = Instant::now();
        let made = self.timed(Kind::Writes, changes.len(), || {
            Ok(self.store.change(&changes, &notice, deadline))
        });
        notice.tell();
        let (took, redis) = (begun.elapsed(), notice.redis.get());
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

/// A number from 0 to 1.
fn dice() -> f64 {
    // A fresh RandomState hashes with fresh keys.
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}

/// Whether an error may be about one row of those that were asked for.
fn may_be_a_row(error: &StoreError) -> bool {
    matches!(error, StoreError::Schema(_) | StoreError::Failed(_))
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

/// What a call found for one of its questions.
type Part<A> = Result<A, Arc<StoreError>>;

/// Tells every cache of the writes of one call: before each commit that it may come, and before its answer that it may
/// have.
struct Notice<'l> {
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

impl Notice<'_> {
    /// Whatever came of the write: also one that failed in its commit may have happened.
    fn tell(&self) {
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

#[cfg(test)]
mod tests;
