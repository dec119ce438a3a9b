//! What was seen of the server: the looks that the newest one is compared with, and what each of them told. Pure.

use std::collections::VecDeque;

use crate::status::model::{Histogram, Status, Worker};
use crate::status::rates::{self, Between, Percentile, Shift};

/// Percentiles and shares are taken over so long, so that they have enough requests to speak of.
const WINDOW_MS: u64 = 10_000;

/// Looks further apart than this, and than three intervals, are not compared: nobody looked, and an average over that time
/// would look like news.
const GAP_MS: u64 = 5_000;

/// How many looks are kept for charts: one a column of the widest terminal.
const MOST_POINTS: usize = 512;

/// What is shown of all workers together. What can't be said (yet) is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// A second.
    pub requests: Option<f64>,
    /// p50, p99 and p99.9.
    pub latency: [Option<Percentile>; 3],
    /// The part of all answers that are 5xx, 0 to 1.
    pub errors: Option<f64>,
    /// A second.
    pub shed: Option<f64>,
    /// What lanes are waited for, p99.
    pub queue: Option<Percentile>,
    pub connections: Option<f64>,
    /// Hits of all lookups, 0 to 1.
    pub l1: Option<f64>,
    pub redis: Option<f64>,
}

/// A worker and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub worker: Worker,
    /// How long it has lived; none for a slot without a process.
    pub age_ms: Option<u64>,
    /// The part of one CPU.
    pub cpu: Option<f64>,
    /// A second.
    pub requests: Option<f64>,
    pub latency: [Option<Percentile>; 3],
    pub l1: Option<f64>,
    pub queue: Option<Percentile>,
    pub shed: Option<f64>,
    pub failures: Option<f64>,
}

/// The looks of the last WINDOW_MS, and what all looks told.
#[derive(Debug)]
pub struct History {
    gap_ms: u64,
    looks: VecDeque<Status>,
    seen: VecDeque<Seen>,
    lines: Vec<Line>,
}

impl History {
    /// Of looks that should be so far apart.
    pub fn new(interval_ms: u64) -> Self {
        History {
            gap_ms: GAP_MS.max(interval_ms.saturating_mul(3)),
            looks: VecDeque::new(),
            seen: VecDeque::new(),
            lines: Vec::new(),
        }
    }

    /// Takes the newest look.
    pub fn push(&mut self, status: Status) {
        if let Some(last) = self.looks.back() {
            let apart = status.now_ms.checked_sub(last.now_ms);
            let follows = last.started_ms == status.started_ms
                && apart.is_some_and(|apart| apart <= self.gap_ms);
            if !follows {
                self.looks.clear();
            } else if apart == Some(0) {
                // The same moment twice says nothing.
                self.looks.pop_back();
            }
        }
        while self.looks.len() > 1
            && self
                .looks
                .front()
                .is_some_and(|look| status.now_ms - look.now_ms > WINDOW_MS)
        {
            self.looks.pop_front();
        }
        let last = self
            .looks
            .back()
            .and_then(|look| Between::of(look, &status));
        let window = self
            .looks
            .front()
            .and_then(|look| Between::of(look, &status));
        let seen = see(&status, last, window);
        self.lines = lines(&status, last, window);
        if self.seen.len() == MOST_POINTS {
            self.seen.pop_front();
        }
        self.seen.push_back(seen);
        self.looks.push_back(status);
    }

    /// The newest look, if there was one.
    pub fn latest(&self) -> Option<&Status> {
        self.looks.back()
    }

    /// What the newest look told.
    pub fn now(&self) -> Option<&Seen> {
        self.seen.back()
    }

    /// What all looks told, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().rev()
    }

    /// The workers of the newest look.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

fn see(status: &Status, last: Option<Between<'_>>, window: Option<Between<'_>>) -> Seen {
    let connections: u64 = status.workers.iter().map(|worker| worker.connections).sum();
    let mut seen = Seen {
        connections: Some(connections as f64),
        ..Seen::default()
    };
    if let Some(last) = last {
        seen.requests = Some(last.rate("requests"));
        seen.shed = Some(last.rate("shed"));
    }
    if let Some(window) = window {
        let (latency, queue) = (window.latency(), window.queue_delay());
        seen.latency = PARTS.map(|part| window.percentile(&latency, part));
        seen.queue = window.percentile(&queue, P99);
        seen.errors = errors(window);
        seen.l1 = window.hit_ratio("l1_hits", "l1_misses");
        seen.redis = window.hit_ratio("redis_hits", "redis_misses");
    }
    seen
}

/// The percentiles that are shown.
const PARTS: [f64; 3] = [0.5, P99, 0.999];
const P99: f64 = 0.99;

fn errors(window: Between<'_>) -> Option<f64> {
    let others: u64 = ["answers_2xx", "answers_3xx", "answers_4xx"]
        .into_iter()
        .map(|class| window.grown(class))
        .sum();
    let failures = window.grown("answers_5xx");
    let all = failures + others;
    (all > 0).then(|| failures as f64 / all as f64)
}

fn lines(status: &Status, last: Option<Between<'_>>, window: Option<Between<'_>>) -> Vec<Line> {
    let lasts = shifts(last);
    let windows = shifts(window);
    let percentile = |histogram: Option<&Histogram>, part| {
        histogram.and_then(|histogram| rates::percentile(histogram, &status.buckets_us, part))
    };
    let line = |(at, worker): (usize, &Worker)| {
        let last = lasts.get(at);
        // A worker that is younger than the window has only the last interval.
        let window = windows
            .get(at)
            .filter(|shift| shift.latency().is_some())
            .or(last);
        let latency = window.and_then(Shift::latency);
        let queue = window.and_then(Shift::queue_delay);
        Line {
            age_ms: (worker.pid != 0).then(|| status.now_ms.saturating_sub(worker.started_ms)),
            cpu: last.and_then(Shift::cpu),
            requests: last.and_then(|shift| shift.rate("requests")),
            latency: PARTS.map(|part| percentile(latency.as_ref(), part)),
            l1: window.and_then(|shift| shift.hit_ratio("l1_hits", "l1_misses")),
            queue: percentile(queue.as_ref(), P99),
            shed: last.and_then(|shift| shift.rate("shed")),
            failures: last.and_then(|shift| shift.rate("answers_5xx")),
            worker: worker.clone(),
        }
    };
    status.workers.iter().enumerate().map(line).collect()
}

/// Each worker's, in the order of the later look.
fn shifts<'s>(between: Option<Between<'s>>) -> Vec<Shift<'s>> {
    between.map_or_else(Vec::new, |between| between.workers().collect())
}
