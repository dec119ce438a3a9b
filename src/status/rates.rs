//! What happened between two looks at a server: rates, ratios and percentiles. Pure.

use std::collections::BTreeMap;

use super::model::{Histogram, Status, Worker};

/// Two looks at the same server, in the order in which they were taken.
#[derive(Clone, Copy, Debug)]
pub struct Between<'s> {
    before: &'s Status,
    after: &'s Status,
}

/// A percentile of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentile {
    /// Interpolated within its bucket, as Prometheus' `histogram_quantile` does.
    pub micros: f64,
    /// It is in the bucket without an upper bound, and `micros` is that bucket's lower one.
    pub above: bool,
}

impl<'s> Between<'s> {
    /// None if the two are not of one server, or not in order: there is nothing to be learnt from them.
    pub fn of(before: &'s Status, after: &'s Status) -> Option<Self> {
        let same = before.pid == after.pid && before.buckets_us == after.buckets_us;
        (same && before.now_ms < after.now_ms).then_some(Between { before, after })
    }

    /// How long that was, in seconds; above zero.
    pub fn seconds(&self) -> f64 {
        (self.after.now_ms - self.before.now_ms) as f64 / 1000.0
    }

    /// How much a count of the whole server has grown. A server that was upgraded to another layout of its memory may have
    /// less than before; then it is zero.
    pub fn grown(&self, counter: &str) -> u64 {
        grown(&self.before.totals, &self.after.totals, counter)
    }

    /// The same, a second.
    pub fn rate(&self, counter: &str) -> f64 {
        self.grown(counter) as f64 / self.seconds()
    }

    /// Which part of the lookups was answered, 0 to 1; none if there was no lookup. `hits` and `misses` name counters.
    pub fn hit_ratio(&self, hits: &str, misses: &str) -> Option<f64> {
        ratio(self.grown(hits), self.grown(misses))
    }

    /// What came to the histogram of durations.
    pub fn latency(&self) -> Histogram {
        self.after.latency.since(&self.before.latency)
    }

    /// What came to the histogram of waits for a lane.
    pub fn queue_delay(&self) -> Histogram {
        self.after.queue_delay.since(&self.before.queue_delay)
    }

    /// A percentile (0 to 1) of a histogram with this server's buckets.
    pub fn percentile(&self, histogram: &Histogram, part: f64) -> Option<Percentile> {
        percentile(histogram, &self.after.buckets_us, part)
    }

    /// Each worker of the later look, in its order, and what it did meanwhile.
    pub fn workers(&self) -> impl Iterator<Item = Shift<'s>> {
        let (before, seconds) = (self.before, self.seconds());
        self.after.workers.iter().map(move |worker| Shift {
            worker,
            before: before
                .workers
                .iter()
                .find(|other| other.pid == worker.pid && other.slot == worker.slot)
                .filter(|other| other.pid != 0),
            seconds,
        })
    }
}

/// What a worker did between two looks. One that was not there at the first look has done nothing that is known.
#[derive(Clone, Copy, Debug)]
pub struct Shift<'s> {
    pub worker: &'s Worker,
    before: Option<&'s Worker>,
    seconds: f64,
}

impl Shift<'_> {
    /// How much of a count, a second; none if it was not there before.
    pub fn rate(&self, counter: &str) -> Option<f64> {
        let before = self.before?;
        let grown = grown(&before.totals, &self.worker.totals, counter);
        Some(grown as f64 / self.seconds)
    }

    /// The part of one CPU that it used, 1 for a whole one; none if that can't be had.
    pub fn cpu(&self) -> Option<f64> {
        let used = self.worker.cpu_seconds? - self.before?.cpu_seconds?;
        Some((used / self.seconds).max(0.0))
    }

    /// What came to its histogram of durations; none if it was not there before.
    pub fn latency(&self) -> Option<Histogram> {
        Some(self.worker.latency.since(&self.before?.latency))
    }

    /// What came to its histogram of waits for a lane; none if it was not there before.
    pub fn queue_delay(&self) -> Option<Histogram> {
        Some(self.worker.queue_delay.since(&self.before?.queue_delay))
    }

    /// Which part of the lookups was answered, 0 to 1; none if there was none.
    pub fn hit_ratio(&self, hits: &str, misses: &str) -> Option<f64> {
        let before = self.before?;
        let grown = |counter| grown(&before.totals, &self.worker.totals, counter);
        ratio(grown(hits), grown(misses))
    }
}

impl Histogram {
    /// How many there are in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What has come to it since an earlier look at it.
    pub fn since(&self, before: &Histogram) -> Histogram {
        let earlier = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(earlier);
        Histogram {
            counts: counts
                .map(|(now, before)| now.saturating_sub(before))
                .collect(),
            sum_us: self.sum_us.saturating_sub(before.sum_us),
        }
    }
}

fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, counter: &str) -> u64 {
    let of = |totals: &BTreeMap<String, u64>| totals.get(counter).copied().unwrap_or(0);
    of(after).saturating_sub(of(before))
}

fn ratio(hits: u64, misses: u64) -> Option<f64> {
    let all = hits + misses;
    (all > 0).then(|| hits as f64 / all as f64)
}

/// The value below which `part` (0 to 1) of what was counted lies; none if nothing was. Within a bucket all values are taken for
/// equally likely.
pub fn percentile(histogram: &Histogram, bounds: &[u64], part: f64) -> Option<Percentile> {
    let count = histogram.count();
    if count == 0 || histogram.counts.len() != bounds.len() + 1 {
        return None;
    }
    let rank = part.clamp(0.0, 1.0) * count as f64;
    let mut below = 0.0;
    for (at, in_bucket) in histogram.counts.iter().enumerate() {
        let in_bucket = *in_bucket as f64;
        if in_bucket > 0.0 && below + in_bucket >= rank {
            let lower = at.checked_sub(1).map_or(0, |before| bounds[before]) as f64;
            return Some(match bounds.get(at) {
                Some(upper) => Percentile {
                    micros: lower + (*upper as f64 - lower) * (rank - below) / in_bucket,
                    above: false,
                },
                None => Percentile {
                    micros: lower,
                    above: true,
                },
            });
        }
        below += in_bucket;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::model::{ServerState, WorkerState};
    use super::*;

    const BOUNDS: [u64; 3] = [100, 250, 500];

    fn histogram(counts: [u64; 4]) -> Histogram {
        Histogram {
            counts: counts.to_vec(),
            sum_us: counts.iter().sum::<u64>() * 10,
        }
    }

    fn worker(pid: i32, requests: u64, cpu_seconds: Option<f64>) -> Worker {
        Worker {
            slot: 0,
            pid,
            state: WorkerState::Ready,
            generation: 1,
            started_ms: 1,
            heartbeat_age_ms: Some(1),
            cpu_seconds,
            rss_bytes: None,
            connections: 0,
            totals: BTreeMap::from([("requests".to_owned(), requests)]),
            latency: histogram([requests, 0, 0, 0]),
            queue_delay: histogram([0; 4]),
        }
    }

    fn status(now_ms: u64, workers: Vec<Worker>) -> Status {
        let requests = workers.iter().map(|worker| worker.totals["requests"]).sum();
        Status {
            version: String::new(),
            pid: 1,
            now_ms,
            started_ms: 0,
            state: ServerState::Running,
            generation: 1,
            wanted: 1,
            ready: 1,
            buckets_us: BOUNDS.to_vec(),
            totals: BTreeMap::from([("requests".to_owned(), requests)]),
            latency: histogram([requests, 0, 0, 0]),
            queue_delay: histogram([0; 4]),
            workers,
            reloads: Vec::new(),
        }
    }

    fn at(counts: [u64; 4], part: f64) -> Option<(f64, bool)> {
        let found = percentile(&histogram(counts), &BOUNDS, part);
        found.map(|found| (found.micros, found.above))
    }

    #[test]
    fn percentiles_lie_within_their_bucket() {
        assert_eq!(at([0; 4], 0.5), None);
        // All in the first bucket, which begins at zero.
        assert_eq!(at([10, 0, 0, 0], 0.5), Some((50.0, false)));
        assert_eq!(at([10, 0, 0, 0], 1.0), Some((100.0, false)));
        // The fifth of ten is the last of the first bucket, the sixth the first of the second.
        assert_eq!(at([5, 5, 0, 0], 0.5), Some((100.0, false)));
        assert_eq!(at([5, 5, 0, 0], 0.6), Some((130.0, false)));
        // Empty buckets hold no percentile.
        assert_eq!(at([5, 0, 5, 0], 0.6), Some((300.0, false)));
        assert_eq!(at([0, 0, 4, 0], 0.0), Some((250.0, false)));
        // Nobody knows how far above.
        assert_eq!(at([1, 0, 0, 9], 0.99), Some((500.0, true)));
        assert_eq!(at([1, 0, 0, 9], 7.0), Some((500.0, true)));
        // Of other buckets nothing is said.
        assert_eq!(percentile(&histogram([1; 4]), &BOUNDS[1..], 0.5), None);
    }

    #[test]
    fn rates_are_of_what_came_between() {
        let before = status(1000, vec![worker(7, 100, Some(1.0)), worker(8, 5, None)]);
        let after = status(
            3000,
            vec![
                worker(7, 300, Some(2.0)),
                worker(8, 5, None),
                worker(9, 1, Some(0.1)),
            ],
        );
        let between = Between::of(&before, &after).expect("one server");
        assert_eq!(between.seconds(), 2.0);
        assert_eq!(between.grown("requests"), 201);
        assert_eq!(between.rate("requests"), 100.5);
        assert_eq!(between.rate("unheard of"), 0.0);
        assert_eq!(between.latency().counts, [201, 0, 0, 0]);
        let shifts: Vec<_> = between
            .workers()
            .map(|shift| (shift.worker.pid, shift.rate("requests"), shift.cpu()))
            .collect();
        assert_eq!(
            shifts,
            [
                (7, Some(100.0), Some(0.5)),
                (8, Some(0.0), None),
                (9, None, None)
            ]
        );
    }

    #[test]
    fn hit_ratios_need_a_lookup() {
        assert_eq!(ratio(0, 0), None);
        assert_eq!(ratio(3, 1), Some(0.75));
    }

    #[test]
    fn two_servers_or_one_look_tell_nothing() {
        let one = status(1000, Vec::new());
        let mut other = status(2000, Vec::new());
        assert!(Between::of(&one, &one).is_none());
        assert!(Between::of(&other, &one).is_none());
        assert!(Between::of(&one, &other).is_some());
        other.pid = 2;
        assert!(Between::of(&one, &other).is_none());
    }

    #[test]
    fn a_slot_without_a_process_has_done_nothing() {
        let (before, after) = (
            status(1000, vec![worker(0, 0, None)]),
            status(2000, vec![worker(0, 0, None)]),
        );
        let between = Between::of(&before, &after).expect("one server");
        let shift = between.workers().next().expect("one");
        assert_eq!(shift.rate("requests"), None);
        assert_eq!(shift.latency(), None);
    }
}
