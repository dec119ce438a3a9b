//! Lanes against stores that hang, refuse and count.

mod redis;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use super::calls::LEAST_TIME;
use super::*;
use crate::scoreboard::Scoreboard;
use crate::store::{Draft, Fence, Grouping, IdKind, Room, RowId, ShoeImages};
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
    fn ids(&self) -> IdKind {
        IdKind::Number
    }
    fn shoes(&self, _: &[i32], _: Deadline) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        self.hang()
    }
    fn rows(&self, _: &[RowId], _: Deadline) -> Result<Vec<Option<ShoeImages>>, StoreError> {
        self.hang()
    }
    fn insert(&self, _: &Draft, _: &dyn Fence, _: Deadline) -> Result<ShoeImages, StoreError> {
        self.hang()
    }
    fn replace(
        &self,
        _: &RowId,
        _: &Draft,
        _: &dyn Fence,
        _: Deadline,
    ) -> Result<Option<ShoeImages>, StoreError> {
        self.hang()
    }
    fn delete(&self, _: &RowId, _: &dyn Fence, _: Deadline) -> Result<bool, StoreError> {
        self.hang()
    }
    fn ping(&self, _: Deadline) -> Result<(), StoreError> {
        self.hang()
    }
    fn grouping(&self) -> Grouping {
        Grouping::All
    }
}

/// Lanes over a store, their porter and their ringer started.
fn start(store: Arc<dyn Store>, lanes: usize, patience: Duration) -> Arc<Lanes> {
    may::config().set_workers(1).set_worker_pin(false);
    let share = Share {
        lanes,
        workers: 1,
        others: 0,
        speaks: false,
    };
    let board = Scoreboard::new().expect("shared memory");
    let row = board.row(0);
    let started = Arc::new(Lanes::new(store, None, board, row, patience, share));
    started.start(lanes).expect("lanes");
    let (porter, ringer) = (started.clone(), started.clone());
    sys::start_first_coroutine(move || porter.carry()).expect("a coroutine");
    sys::start_first_coroutine(move || ringer.ring()).expect("a coroutine");
    started
}

/// Does this on a coroutine of its own; where its result will be.
fn on_coroutine<A: Send + 'static>(work: impl FnOnce() -> A + Send + 'static) -> mpsc::Receiver<A> {
    let (answers, answered) = mpsc::channel();
    sys::start_first_coroutine(move || answers.send(work()).expect("the test listens"))
        .expect("a coroutine");
    answered
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A disk once took twenty seconds for an fsync, and PUTs with a time-out of two had no answer for as long.
#[test]
fn a_request_is_answered_in_time_although_its_lane_is_stuck() {
    let (let_go, hung) = mpsc::channel();
    let store = Arc::new(Hung(Mutex::new(hung)));
    let lanes = start(store, 1, Duration::from_millis(50));
    let asked = [true, false].map(|write| {
        let lanes = lanes.clone();
        on_coroutine(move || match write {
            true => lanes
                .ask_change(Change::Delete(7.into()), None)
                .and_then(Pending::wait)
                .map(drop),
            false => lanes
                .ask(7.into(), Queues::push_row)
                .and_then(Pending::wait)
                .map(drop),
        })
    });
    let failures: Vec<_> = asked
        .iter()
        .map(|answered| {
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

/// A store that may be away, that says how many connections it has, and that holds each call up until it is let go.
#[derive(Default)]
struct Scripted {
    away: AtomicBool,
    /// What each call for shoes was asked, and each group of changes.
    asked: Mutex<Vec<Vec<i32>>>,
    gate: Mutex<Option<mpsc::Receiver<()>>>,
    /// As the gate, for changes alone.
    writes: Mutex<Option<mpsc::Receiver<()>>>,
    /// There are connections for everybody.
    plenty: AtomicBool,
}

impl Scripted {
    fn answer<A>(&self, asked: &[i32], answer: A) -> Result<A, StoreError> {
        if let Some(gate) = &*lock(&self.gate) {
            let _ = gate.recv_timeout(PATIENCE);
        }
        lock(&self.asked).push(asked.to_vec());
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("it is away".to_owned())),
            false => Ok(answer),
        }
    }
}

impl Store for Scripted {
    fn ids(&self) -> IdKind {
        IdKind::Number
    }
    fn shoes(&self, ids: &[i32], _: Deadline) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        self.answer(ids, vec![Vec::new(); ids.len()])
    }
    fn rows(&self, ids: &[RowId], _: Deadline) -> Result<Vec<Option<ShoeImages>>, StoreError> {
        let numbers: Vec<i32> = ids.iter().filter_map(RowId::number).collect();
        self.answer(&numbers, vec![None; ids.len()])
    }
    fn insert(&self, _: &Draft, _: &dyn Fence, _: Deadline) -> Result<ShoeImages, StoreError> {
        Err(StoreError::Failed("never asked for".to_owned()))
    }
    fn replace(
        &self,
        _: &RowId,
        _: &Draft,
        _: &dyn Fence,
        _: Deadline,
    ) -> Result<Option<ShoeImages>, StoreError> {
        Err(StoreError::Failed("never asked for".to_owned()))
    }
    fn delete(&self, _: &RowId, _: &dyn Fence, _: Deadline) -> Result<bool, StoreError> {
        Err(StoreError::Failed("never asked for".to_owned()))
    }
    fn change(
        &self,
        changes: &[Change],
        _: &dyn Fence,
        _: Deadline,
    ) -> Vec<Result<Changed, Arc<StoreError>>> {
        let ids: Vec<i32> = changes
            .iter()
            .map(|change| match change {
                Change::Delete(id) | Change::Replace(id, _) => id.number().expect("a number"),
                Change::Insert(_) => 0,
            })
            .collect();
        if let Some(gate) = &*lock(&self.writes) {
            let _ = gate.recv_timeout(PATIENCE);
        }
        let _ = self.answer(&ids, ());
        // Odd ones are refused.
        let outcome = |id: i32| match id % 2 {
            0 => Ok(Changed::Deleted(true)),
            _ => Err(Arc::new(StoreError::Refused(format!("not {id}")))),
        };
        ids.into_iter().map(outcome).collect()
    }
    fn ping(&self, _: Deadline) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("it is away".to_owned())),
            false => Ok(()),
        }
    }
    fn grouping(&self) -> Grouping {
        Grouping::All
    }
    fn room(&self) -> Room {
        match self.plenty.load(Ordering::SeqCst) {
            true => Room::Ample,
            false => Room::Connections(2),
        }
    }
}

/// How many lanes are at a call.
fn busy(lanes: &Lanes) -> usize {
    let at_a_call = |at: &&At| matches!(at, At::Call(_));
    lock(&lanes.under_way).iter().filter(at_a_call).count()
}

/// Waits until something holds.
fn until(condition: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up);
        thread::yield_now();
    }
}

fn row_of(lanes: &Arc<Lanes>, id: i32) -> mpsc::Receiver<Result<Option<Bytes>, Failure>> {
    let lanes = lanes.clone();
    on_coroutine(move || {
        lanes
            .ask(id.into(), Queues::push_row)
            .and_then(Pending::wait)
    })
}

#[test]
fn a_store_that_is_away_is_left_alone_until_a_probe_finds_it() {
    let store = Arc::new(Scripted::default());
    let lanes = start(store.clone(), 4, PATIENCE);
    let ask = |id| {
        row_of(&lanes, id)
            .recv_timeout(PATIENCE)
            .expect("an answer")
    };
    ask(1).expect("it is there");
    store.away.store(true, Ordering::SeqCst);
    ask(2).expect_err("it is away");
    // The probe that follows opens the breaker.
    let give_up = Instant::now() + PATIENCE;
    while lock(&lanes.queues).breaker.refusal().is_none() {
        assert!(Instant::now() < give_up, "the breaker never opens");
        thread::yield_now();
    }
    let asked = lock(&store.asked).len();
    for id in 3..100 {
        ask(id).expect_err("it is away");
    }
    assert_eq!(lock(&store.asked).len(), asked, "it was not left alone");
    store.away.store(false, Ordering::SeqCst);
    let give_up = Instant::now() + PATIENCE;
    while ask(100).is_err() {
        assert!(Instant::now() < give_up, "nobody probes");
    }
}

#[test]
fn what_waits_when_the_store_goes_away_is_not_left_waiting() {
    let store = Arc::new(Scripted::default());
    let (let_go, gate) = mpsc::channel();
    *lock(&store.gate) = Some(gate);
    let lanes = start(store.clone(), 1, PATIENCE * 10);
    let first = row_of(&lanes, 1);
    let others: Vec<_> = (2..9).map(|id| row_of(&lanes, id)).collect();
    store.away.store(true, Ordering::SeqCst);
    let_go.send(()).expect("the lane waits");
    // One call may have taken more than the first; from then on the gate is open and no other call is made.
    first
        .recv_timeout(PATIENCE)
        .expect("an answer")
        .expect_err("it is away");
    for other in others {
        other
            .recv_timeout(PATIENCE)
            .expect("an answer")
            .expect_err("it is away");
    }
    assert_eq!(lock(&store.asked).len(), 1);
}

#[test]
fn changes_that_wait_are_made_together_each_with_its_outcome() {
    let store = Arc::new(Scripted::default());
    let (let_go, gate) = mpsc::channel();
    *lock(&store.gate) = Some(gate);
    let lanes = start(store.clone(), 1, PATIENCE);
    let delete = |id: i32| {
        let lanes = lanes.clone();
        on_coroutine(move || {
            lanes
                .ask_change(Change::Delete(id.into()), None)
                .and_then(Pending::wait)
                .map(|changed| changed == Changed::Deleted(true))
        })
    };
    let first = delete(0);
    // While the lane is at the first, the others gather.
    until(|| busy(&lanes) == 1);
    let others: Vec<_> = (1..=6).map(|id| (id, delete(id))).collect();
    until(|| lock(&lanes.queues).waiting_writes() == others.len());
    drop(let_go);
    assert!(
        first
            .recv_timeout(PATIENCE)
            .expect("an answer")
            .expect("made")
    );
    for (id, other) in others {
        match other.recv_timeout(PATIENCE).expect("an answer") {
            Ok(deleted) => assert!(deleted && id % 2 == 0, "{id}"),
            Err(Failure::Store(error)) => {
                assert!(id % 2 == 1 && error.to_string().contains(&format!("not {id}")));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(*lock(&store.asked), [vec![0], vec![1, 2, 3, 4, 5, 6]]);
}

#[test]
fn a_worker_uses_no_more_lanes_than_there_are_connections_for() {
    let store = Arc::new(Scripted::default());
    let (_let_go, gate) = mpsc::channel();
    let lanes = start(store.clone(), 4, PATIENCE);
    // Two connections, for the old generation and the new one.
    row_of(&lanes, 1)
        .recv_timeout(PATIENCE)
        .expect("an answer")
        .expect("it is there");
    *lock(&store.gate) = Some(gate);
    let _asked: Vec<_> = (2..6).map(|id| row_of(&lanes, id)).collect();
    let give_up = Instant::now() + PATIENCE;
    while busy(&lanes) == 0 {
        assert!(Instant::now() < give_up);
        thread::yield_now();
    }
    assert_eq!((busy(&lanes), lanes.allowed.load(Ordering::SeqCst)), (1, 1));
}

fn shoe_of(lanes: &Arc<Lanes>, id: i32) -> mpsc::Receiver<Result<Bytes, Failure>> {
    let lanes = lanes.clone();
    on_coroutine(move || lanes.ask_shoe(id).and_then(Pending::wait))
}

/// Every lane that is free took each job as it came, so that a dozen clients who ask at once had several calls made.
#[test]
fn what_comes_while_a_call_is_out_goes_along_with_the_next() {
    let store = Arc::new(Scripted::default());
    let (let_go, gate) = mpsc::channel();
    *lock(&store.gate) = Some(gate);
    let lanes = start(store.clone(), 1, PATIENCE);
    let first = shoe_of(&lanes, 0);
    until(|| busy(&lanes) == 1);
    let others: Vec<_> = (1..=12).map(|id| shoe_of(&lanes, id)).collect();
    until(|| lock(&lanes.queues).waiting_shoes() == others.len());
    drop(let_go);
    for answered in [first].iter().chain(&others) {
        answered
            .recv_timeout(PATIENCE)
            .expect("an answer")
            .expect("it is there");
    }
    let mut asked = lock(&store.asked).clone();
    asked[1].sort_unstable();
    assert_eq!(asked, [vec![0], (1..=12).collect()]);
}

/// Four PUTs that waited for one lock kept every lane, and no read was answered meanwhile.
#[test]
fn writes_that_hang_leave_a_lane_for_reads() {
    let store = Arc::new(Scripted::default());
    store.plenty.store(true, Ordering::SeqCst);
    let lanes = start(store.clone(), 4, PATIENCE);
    shoe_of(&lanes, 0)
        .recv_timeout(PATIENCE)
        .expect("an answer")
        .expect("it is there");
    until(|| busy(&lanes) == 0);
    let (let_go, gate) = mpsc::channel();
    *lock(&store.writes) = Some(gate);
    let delete = |id: i32| {
        let lanes = lanes.clone();
        on_coroutine(move || {
            lanes
                .ask_change(Change::Delete(id.into()), None)
                .and_then(Pending::wait)
                .map(|changed| changed == Changed::Deleted(true))
        })
    };
    let mut writes = vec![delete(2)];
    until(|| busy(&lanes) == 1);
    writes.extend((2..=6).map(|id| delete(2 * id)));
    until(|| lock(&lanes.queues).waiting_writes() == 5);
    for id in 1..20 {
        shoe_of(&lanes, id)
            .recv_timeout(PATIENCE)
            .expect("reads are not held up")
            .expect("it is there");
    }
    until(|| busy(&lanes) == 1);
    drop(let_go);
    for write in writes {
        assert!(
            write
                .recv_timeout(PATIENCE)
                .expect("an answer")
                .expect("made")
        );
    }
}

/// With every lane stuck in a disk that hangs, each request used to wait for its whole time.
#[test]
fn when_every_lane_is_stuck_requests_are_refused_at_once() {
    let (let_go, hung) = mpsc::channel();
    let store = Arc::new(Hung(Mutex::new(hung)));
    let lanes = start(store, 1, Duration::from_millis(50));
    let stuck = shoe_of(&lanes, 1);
    until(|| {
        lanes.expire();
        stuck.try_recv().is_ok()
    });
    assert!(lock(&lanes.queues).breaker.refusal().is_some());
    shoe_of(&lanes, 2)
        .recv_timeout(PATIENCE)
        .expect("an answer")
        .expect_err("it hangs");
    drop(let_go);
    // The lane is back, and its probe finds a store that answers: badly, but it does.
    until(|| lock(&lanes.queues).breaker.refusal().is_none());
}

/// A row of another type once failed everybody whose shoe was asked for along with its own.
#[test]
fn a_row_that_can_not_be_read_fails_its_own_askers() {
    let share = Share {
        lanes: 1,
        workers: 1,
        others: 0,
        speaks: false,
    };
    let board = Scoreboard::new().expect("shared memory");
    let row = board.row(0);
    let lanes = Lanes::new(
        Arc::new(Scripted::default()),
        None,
        board,
        row,
        PATIENCE,
        share,
    );
    let calls = std::cell::Cell::new(0);
    let ask = |keys: &[i32], bad: fn(i32) -> bool| {
        calls.set(0);
        lanes.each_or_all(keys, &|keys| {
            calls.set(calls.get() + 1);
            match keys.iter().any(|key| bad(*key)) {
                true => Err(StoreError::Failed("a row".to_owned())),
                false => Ok(keys.to_vec()),
            }
        })
    };
    let keys: Vec<i32> = (0..128).collect();
    let parts = ask(&keys, |key| key == 77).expect("it is about a row");
    let answered: Vec<i32> = parts.iter().flatten().copied().collect();
    let others: Vec<i32> = keys.iter().copied().filter(|key| *key != 77).collect();
    assert_eq!((parts.len(), answered), (keys.len(), others));
    assert!(parts[77].is_err() && calls.get() <= 15, "{}", calls.get());
    // What is wrong with all of them is told to all, and not asked for each.
    assert!(ask(&keys, |_| true).is_err());
    assert!(calls.get() <= 15, "{}", calls.get());
}

/// After a stall the oldest of a batch has next to no time left, which is all that a call has: everybody who came along lost
/// theirs, and a COMMIT that was begun so late came to nobody knew what.
#[test]
fn who_is_all_but_late_takes_no_time_from_the_others() {
    let store = Arc::new(Scripted::default());
    let share = Share {
        lanes: 1,
        workers: 1,
        others: 0,
        speaks: false,
    };
    may::config().set_workers(1).set_worker_pin(false);
    let board = Scoreboard::new().expect("shared memory");
    let row = board.row(0);
    let lanes = Arc::new(Lanes::new(store.clone(), None, board, row, PATIENCE, share));
    lock(&lanes.under_way).push(At::Rest);
    let porter = lanes.clone();
    sys::start_first_coroutine(move || porter.carry()).expect("a coroutine");
    let ask = |id: i32, patience: Duration| {
        let lanes = lanes.clone();
        let (told, queued) = mpsc::channel();
        let answered = on_coroutine(move || {
            let (job, pending) = Job::new(Change::Delete(id.into()), patience);
            lock(&lanes.queues).push_write(job).expect("room");
            told.send(()).expect("the test listens");
            pending.wait()
        });
        queued.recv_timeout(PATIENCE).expect("a job in the queue");
        answered
    };
    let carry_out = || {
        let mut refused = Vec::new();
        let batch =
            lock(&lanes.queues).take(Instant::now(), Kind::Writes, Grouping::All, &mut refused);
        lanes.wake(refused.into_iter());
        lanes.carry_out(0, batch);
    };
    // Who has less than a call is worth: not asked for, whether it is late by now or not.
    let late = ask(2, LEAST_TIME / 2);
    let in_time = ask(4, PATIENCE);
    carry_out();
    let failure = late.recv_timeout(PATIENCE).expect("an answer");
    assert!(
        matches!(&failure, Err(Failure::Store(error)) if matches!(**error, StoreError::TimedOut)),
        "nothing was done, and nothing is unknown: {failure:?}"
    );
    in_time
        .recv_timeout(PATIENCE)
        .expect("an answer")
        .expect("it had time");
    assert_eq!(*lock(&store.asked), [[4]]);
    // Alone, it has no call at all.
    let late = ask(6, LEAST_TIME / 2);
    carry_out();
    assert!(late.recv_timeout(PATIENCE).expect("an answer").is_err());
    assert_eq!(*lock(&store.asked), [[4]]);
}
