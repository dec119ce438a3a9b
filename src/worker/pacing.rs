//! When a lane may begin a call. Pure: moments are arguments. Used by the queues, one for each kind of job.
//!
//! Every call costs the same half a dozen switches between threads and processes, whether it answers one job or thirty. A
//! free lane that takes each job as it comes makes many small calls at once, which keep the processors busy with that; one that
//! waits a little makes a few large ones. So while a call is out that began a moment ago, what comes meanwhile waits for its
//! end and goes along with the next. A call that takes longer holds nobody up: then another lane begins one.

use std::time::{Duration, Instant};

/// How far apart calls begin while others are out: what a database on the same host takes for a small one, twice over. A
/// job waits for at most as long before the next one's arrival has it taken along, or until a call ends.
const APART: Duration = Duration::from_micros(250);

/// The calls of one kind that are out.
#[derive(Debug, Default)]
pub struct Pacing {
    out: usize,
    /// When the last of them began; `None` if it took all that one call takes, so that the next may begin at once.
    began: Option<Instant>,
}

impl Pacing {
    /// Whether a call may begin, beside `most - 1` others at most.
    pub fn may_begin(&self, now: Instant, most: usize) -> bool {
        let apart = |began| now.saturating_duration_since(began) >= APART;
        self.out == 0 || (self.out < most && self.began.is_none_or(apart))
    }

    /// Notes that one begins; `full` if it takes all that one call takes.
    pub fn begin(&mut self, now: Instant, full: bool) {
        self.out += 1;
        self.began = (!full).then_some(now);
    }

    /// Notes that one has ended.
    pub fn end(&mut self) {
        self.out = self.out.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_begins_at_once_when_none_is_out_and_apart_from_those_that_are() {
        let (mut pacing, mut now) = (Pacing::default(), Instant::now());
        for _ in 0..3 {
            assert!(pacing.may_begin(now, 4));
            pacing.begin(now, false);
            assert!(!pacing.may_begin(now, 4), "two at once");
            pacing.end();
        }
        for out in 0..4 {
            assert!(pacing.may_begin(now, 4), "{out} are out");
            pacing.begin(now, false);
            now += APART;
        }
        assert!(!pacing.may_begin(now, 4), "more than lanes");
        pacing.end();
        assert!(pacing.may_begin(now, 4), "one has ended");
    }

    #[test]
    fn after_a_full_call_the_next_may_begin_at_once() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        pacing.begin(now, true);
        assert!(pacing.may_begin(now, 2));
        pacing.begin(now, false);
        assert!(!pacing.may_begin(now, 3));
    }

    #[test]
    fn one_at_a_time_is_one_at_a_time() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        pacing.begin(now, true);
        assert!(!pacing.may_begin(now + APART, 1));
        pacing.end();
        assert!(pacing.may_begin(now, 1));
    }
}
