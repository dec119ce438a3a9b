//! The controllers against a simulated database: time is a number here, so nothing depends on the machine.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What a call costs: so much by itself, and so much for each job in it.
#[derive(Debug, Clone, Copy)]
struct Cost {
    call: Duration,
    job: Duration,
}

impl Cost {
    fn of(self, count: usize) -> Duration {
        self.call + self.job * u32::try_from(count).expect("a batch")
    }
}

/// A database with some lanes in front, and everything that is measured of it.
struct World {
    start: Instant,
    now: Instant,
    cost: Cost,
    /// When each lane is free, and what it is at: the arrivals of its jobs.
    lanes: Vec<(Instant, Vec<Instant>, Instant)>,
    queue: VecDeque<Instant>,
    shedder: Shedder,
    batch: BatchSize,
    /// When each job was answered, and how long after its arrival.
    answered: Vec<(Instant, Duration)>,
    refused_at_once: usize,
    /// How long those had waited that were let in and refused after all.
    refused_late: Vec<Duration>,
}

impl World {
    fn new(lanes: usize, cost: Cost) -> Self {
        let now = Instant::now();
        World {
            start: now,
            now,
            cost,
            lanes: vec![(now, Vec::new(), now); lanes],
            queue: VecDeque::new(),
            shedder: Shedder::default(),
            batch: BatchSize::default(),
            answered: Vec::new(),
            refused_at_once: 0,
            refused_late: Vec::new(),
        }
    }

    /// What it does at most, in jobs a second.
    fn capacity(&self) -> f64 {
        self.lanes.len() as f64 * BATCH as f64 / self.cost.of(BATCH).as_secs_f64()
    }

    /// Offers `rate` jobs a second, evenly, for so long.
    fn offer(&mut self, rate: f64, how_long: Duration) {
        let begun = self.now;
        let gap = Duration::from_secs_f64(1.0 / rate);
        let mut next = begun;
        while next < begun + how_long {
            self.advance(next);
            match self
                .shedder
                .admits(self.now, self.queue.len(), self.batch.limit())
            {
                true => self.queue.push_back(self.now),
                false => self.refused_at_once += 1,
            }
            self.dispatch();
            next += gap;
        }
        self.advance(begun + how_long);
    }

    /// Lets time pass, with batches ending and others beginning on the way.
    fn advance(&mut self, to: Instant) {
        loop {
            let ends = self.lanes.iter().filter(|lane| !lane.1.is_empty());
            let Some(end) = ends.map(|lane| lane.0).min().filter(|end| *end <= to) else {
                break;
            };
            self.now = end;
            for lane in self
                .lanes
                .iter_mut()
                .filter(|lane| lane.0 <= end && !lane.1.is_empty())
            {
                self.batch.note(end, lane.1.len(), end - lane.2);
                let done = lane.1.drain(..).map(|arrival| (end, end - arrival));
                self.answered.extend(done);
            }
            self.dispatch();
        }
        self.now = to;
    }

    fn dispatch(&mut self) {
        let now = self.now;
        for lane in self.lanes.iter_mut().filter(|lane| lane.1.is_empty()) {
            let Some(oldest) = self.queue.front() else {
                return;
            };
            let batch = self.batch.limit();
            let late = self
                .shedder
                .look(now, now - *oldest, self.queue.len(), batch);
            self.refused_late
                .extend(self.queue.drain(..late).map(|arrival| now - arrival));
            let count = self.queue.len().min(batch);
            self.shedder.took(now, count);
            *lane = (
                now + self.cost.of(count),
                self.queue.drain(..count).collect(),
                now,
            );
        }
    }

    /// Answers a second from that moment on.
    fn goodput_since(&self, since: Instant) -> f64 {
        let count = self.answered.iter().filter(|(at, _)| *at >= since).count();
        count as f64 / (self.now - since).as_secs_f64()
    }

    /// The 99th percentile of how long answers since that moment took.
    fn p99_since(&self, since: Instant) -> Duration {
        let mut took: Vec<Duration> = self
            .answered
            .iter()
            .filter(|(at, _)| *at >= since)
            .map(|(_, took)| *took)
            .collect();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

const SECOND: Duration = Duration::from_secs(1);

/// Databases of every shape: fast and slow, where calls cost and where jobs do, behind one lane and many.
const SHAPES: [(usize, u64, u64); 8] = [
    (4, 300, 20),
    (1, 300, 20),
    (4, 5_000, 50),
    (1, 20_000, 0),
    (4, 20_000, 100),
    (1, 0, 1_000),
    (1, 500, 2_000),
    (8, 1_000, 2_000),
];

fn shapes() -> impl Iterator<Item = (usize, Cost)> {
    SHAPES.into_iter().map(|(lanes, call, job)| {
        let (call, job) = (micros(call), micros(job));
        (lanes, Cost { call, job })
    })
}

#[test]
fn at_five_times_the_load_as_much_is_answered_and_in_time() {
    for (lanes, cost) in shapes() {
        let mut world = World::new(lanes, cost);
        let capacity = world.capacity();
        world.offer(capacity * 0.8, SECOND);
        assert_eq!(world.refused_at_once, 0, "{lanes} {cost:?}");
        let begun = world.now;
        world.offer(capacity * 5.0, SECOND * 2);
        // Until it is known that this is no burst all are let in, and they wait the longest.
        let p99 = world.p99_since(begun);
        assert!(
            p99 < Duration::from_millis(100),
            "{lanes} {cost:?}: {p99:?} at first"
        );
        // How many go unanswered on the way there is another matter.
        let settled = world.now;
        let late = world.refused_late.len();
        world.offer(capacity * 5.0, SECOND * 3);
        let (goodput, p99) = (world.goodput_since(settled), world.p99_since(settled));
        assert!(
            goodput >= capacity * 0.9,
            "{lanes} {cost:?}: {goodput} of {capacity}"
        );
        assert!(
            p99 < Duration::from_millis(100),
            "{lanes} {cost:?}: {p99:?}"
        );
        assert_eq!(
            world.refused_late.len(),
            late,
            "{lanes} {cost:?}: refused after a wait"
        );
    }
}

/// As a new worker is, at each reload.
#[test]
fn who_knows_nothing_of_the_database_yet_answers_in_time_too() {
    for (lanes, cost) in shapes() {
        let mut world = World::new(lanes, cost);
        let capacity = world.capacity();
        world.offer(capacity * 5.0, SECOND);
        let goodput = world.goodput_since(world.start);
        let p99 = world.p99_since(world.start);
        println!("{lanes} {cost:?}: p99 {p99:?}, {goodput:.0} a second of {capacity:.0}");
        // One that is far away is found out to be so by calls that take all that time.
        let most = Duration::from_millis(if cost.call < micros(20_000) { 100 } else { 150 });
        assert!(p99 < most, "{lanes} {cost:?}: {p99:?}");
        assert!(
            goodput >= capacity * 0.9,
            "{lanes} {cost:?}: {goodput} of {capacity}"
        );
    }
}

#[test]
fn recovery_is_immediate() {
    for (lanes, cost) in shapes() {
        let mut world = World::new(lanes, cost);
        let capacity = world.capacity();
        world.offer(capacity * 5.0, SECOND);
        assert!(world.shedder.is_shedding());
        // One batch's time drains what waits; from then on nobody is refused.
        world.offer(capacity * 0.5, Duration::from_millis(60));
        let refused = world.refused_at_once;
        world.offer(capacity * 0.5, SECOND);
        assert_eq!(world.refused_at_once, refused, "{lanes} {cost:?}");
        assert!(!world.shedder.is_shedding());
    }
}

#[test]
fn a_burst_and_a_stall_are_no_overload() {
    let mut world = World::new(
        4,
        Cost {
            call: micros(300),
            job: micros(20),
        },
    );
    world.offer(2_000_000.0, Duration::from_millis(1));
    world.offer(100.0, SECOND);
    assert_eq!((world.refused_at_once, world.refused_late.len()), (0, 0));
    // Half a second in which the database does nothing, as at a checkpoint.
    for lane in &mut world.lanes {
        *lane = (world.now + SECOND / 2, vec![world.now], world.now);
    }
    world.offer(2_000.0, SECOND);
    assert_eq!((world.refused_at_once, world.refused_late.len()), (0, 0));
}

#[test]
fn the_queue_is_bounded_however_fast_it_fills() {
    let mut world = World::new(
        1,
        Cost {
            call: SECOND * 100,
            job: Duration::ZERO,
        },
    );
    world.offer(1_000_000.0, Duration::from_millis(10));
    assert_eq!(world.queue.len(), LONGEST);
}

#[test]
fn batches_shrink_where_jobs_cost_and_stay_where_calls_do() {
    let saturated = |call, job| {
        let mut world = World::new(
            1,
            Cost {
                call: micros(call),
                job: micros(job),
            },
        );
        let capacity = world.capacity();
        world.offer(capacity * 2.0, SECOND * 4);
        world
    };
    let by_job = saturated(0, 2_000);
    assert!(by_job.batch.limit() <= 16, "{}", by_job.batch.limit());
    let by_call = saturated(60_000, 0);
    assert!(
        by_call.batch.limit() >= BATCH / 2,
        "{}",
        by_call.batch.limit()
    );
    assert!(by_call.goodput_since(by_call.start + 2 * SECOND) >= by_call.capacity() * 0.9);
    // The disk's pages are in memory now.
    let mut recovered = by_job;
    recovered.cost.job = micros(10);
    recovered.offer(recovered.capacity() * 2.0, SECOND);
    assert_eq!(recovered.batch.limit(), BATCH);
}

proptest! {
    /// Whatever the database is and whatever is offered: nobody is refused while little is asked for, and nothing
    /// that is let in waits for more than the queue's bound allows.
    #[test]
    fn below_its_capacity_nothing_is_refused(
        lanes in 1_usize..9,
        call in 50_u64..20_000,
        job in 0_u64..200,
        load in 0.05_f64..0.7,
    ) {
        let mut world = World::new(lanes, Cost { call: micros(call), job: micros(job) });
        let rate = world.capacity() * load;
        world.offer(rate, SECOND / 2);
        prop_assert_eq!((world.refused_at_once, world.refused_late.len()), (0, 0));
    }

    /// The load may come and go as it likes: a second after it went, everybody is let in.
    #[test]
    fn it_always_calms_down(loads in prop::collection::vec(0.1_f64..6.0, 1..6)) {
        let mut world = World::new(2, Cost { call: micros(4_000), job: micros(100) });
        let capacity = world.capacity();
        for load in loads {
            world.offer(capacity * load, Duration::from_millis(150));
        }
        world.offer(capacity * 0.3, SECOND);
        let refused = world.refused_at_once;
        world.offer(capacity * 0.5, SECOND);
        prop_assert_eq!(world.refused_at_once, refused);
    }
}
