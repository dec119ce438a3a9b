//! How much may wait for the database, and how much one call asks of it. Pure: moments are arguments, and nothing here
//! waits, counts threads or knows a job. Used by the queues, one pair of these for each kind of job.
//!
//! A bare bound on a queue's length is wrong at both ends: too long for a slow database, where the last in line wait
//! past their deadline, and too short for a fast one that a burst meets. So the bound follows the *time* that jobs wait,
//! as CoDel has it (RFC 8289): while the oldest job waits less than a target, or not for long more, everything is let
//! in. A queue that stands (every look for as long as a burst may last found its oldest job above the target) is more than the
//! database can do. From then on only as much may wait as it does in the target's time; the rest is refused on arrival
//! and not after a wait, for clients of HTTP don't slow down when one of their requests is dropped.

use std::time::{Duration, Instant};

/// The most jobs that one call answers.
pub const BATCH: usize = 128;

/// The fewest that a call is cut down to.
const SMALLEST_BATCH: usize = 8;

/// The most jobs of a kind that may wait, whatever the delay.
pub const LONGEST: usize = 4096;

/// The wait that is no reason to refuse anything.
const TARGET: Duration = Duration::from_millis(20);

/// For how long the wait must be above the target before anything is refused. CoDel's 100 ms are the time that its senders take to
/// notice; nobody slows down here, so this only tells a burst from more than goes, and who waits meanwhile is to be answered within 100 ms.
const BURST: Duration = Duration::from_millis(60);

/// How long nothing must have been refused before everything is let in again.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often the rate at which jobs leave is measured anew while some are refused.
const WINDOW: Duration = Duration::from_millis(50);

/// Decides who is let in.
#[derive(Debug, Default)]
pub struct Shedder {
    /// Since when each look found the oldest job above the target, and how many jobs were taken since.
    standing: Option<(Instant, usize)>,
    /// How many jobs a call took at the last look.
    batch: usize,
    shedding: Option<Shedding>,
}

/// What is known while some are refused.
#[derive(Debug)]
struct Shedding {
    /// Jobs a second that leave the queue.
    rate: f64,
    window: Instant,
    taken: usize,
    last_refusal: Instant,
}

impl Shedding {
    /// How many may wait: what leaves in the target's time, and a full batch in any case, or calls would get
    /// smaller than what the database does best.
    fn room(&self, batch: usize) -> usize {
        ((self.rate * TARGET.as_secs_f64()) as usize).clamp(batch, LONGEST)
    }
}

impl Shedder {
    /// Whether one more job may join `waiting` others, of which one call takes `batch`.
    pub fn admits(&mut self, now: Instant, waiting: usize, batch: usize) -> bool {
        self.calm_down(now);
        match &mut self.shedding {
            None => waiting < LONGEST,
            Some(shedding) if waiting < shedding.room(batch) => true,
            Some(shedding) => {
                shedding.last_refusal = now;
                false
            }
        }
    }

    /// Looks at the queue before jobs are taken: the oldest of `waiting` has waited for `waited`. The number of the
    /// oldest jobs that are to be refused, which is more than none only when a queue is first found to stand.
    pub fn look(&mut self, now: Instant, waited: Duration, waiting: usize, batch: usize) -> usize {
        self.calm_down(now);
        // Where calls take more than before, what stood may go now.
        let grown = std::mem::replace(&mut self.batch, batch) < batch;
        // What one call takes as a whole does not stand, however long the call before it took.
        if waited < TARGET || waiting <= batch || grown {
            self.standing = None;
            return 0;
        }
        let (since, taken) = *self.standing.get_or_insert((now, 0));
        let stood = now.saturating_duration_since(since);
        if self.shedding.is_some() || stood < BURST {
            return 0;
        }
        let shedding = self.shedding.insert(Shedding {
            rate: taken as f64 / stood.as_secs_f64(),
            window: now,
            taken: 0,
            last_refusal: now,
        });
        waiting.saturating_sub(shedding.room(batch))
    }

    /// Notes that a call took `count` jobs.
    pub fn took(&mut self, now: Instant, count: usize) {
        if let Some((_, taken)) = &mut self.standing {
            *taken += count;
        }
        let Some(shedding) = &mut self.shedding else {
            return;
        };
        shedding.taken += count;
        let elapsed = now.saturating_duration_since(shedding.window);
        if elapsed >= WINDOW {
            let measured = shedding.taken as f64 / elapsed.as_secs_f64();
            shedding.rate = (shedding.rate + measured) / 2.0;
            shedding.window = now;
            shedding.taken = 0;
        }
    }

    /// Whether some are refused.
    #[cfg(test)]
    pub fn is_shedding(&self) -> bool {
        self.shedding.is_some()
    }

    /// Lets everything in again once nothing was refused for an interval.
    fn calm_down(&mut self, now: Instant) {
        let calm =
            |shedding: &Shedding| now.saturating_duration_since(shedding.last_refusal) >= INTERVAL;
        if self.shedding.as_ref().is_some_and(calm) {
            self.shedding = None;
            self.standing = None;
        }
    }
}

/// How long a full batch should take at most: what is asked along with others waits for all of them.
const LONG: Duration = Duration::from_millis(25);

/// What part of the time batches of half the size may take, or too much is lost by halving them.
const WORTH: f64 = 0.57;

/// What a call takes before anything is known of the database: few enough for one that needs milliseconds for each job to be
/// in time, and three good calls away from the most.
const FIRST_BATCH: usize = 16;

/// Full batches that are looked at before the size changes; fewer if they take the time of so many long ones, and one while no size
/// has been too large yet.
const SAMPLES: u32 = 4;

/// How long a size is left alone after another one gained nothing; doubled each time, up to the longest.
const FIRST_HOLD: Duration = Duration::from_secs(1);
const LONGEST_HOLD: Duration = Duration::from_secs(16);

/// Decides how many jobs one call takes. Where each job costs (pages that must be read from a disk), a large batch holds
/// all of its jobs up and a smaller one does as much in the same time. Where the call costs (a database far away), only
/// large ones do much. Which of both it is shows when the size of a batch is halved or doubled: the larger one is worth it unless the
/// smaller one takes little more than half of its time.
#[derive(Debug)]
pub struct BatchSize {
    limit: usize,
    /// No size has been too large yet.
    climbs: bool,
    samples: u32,
    sum: Duration,
    trial: Option<Trial>,
    /// Where a full batch takes too long, a larger one is tried next: the last one that was larger gained something, or one that
    /// was smaller nothing.
    upwards: bool,
    hold: Duration,
    held_until: Option<Instant>,
}

/// Another size is looked at.
#[derive(Debug)]
struct Trial {
    /// The size before, and the mean time of its batches.
    from: usize,
    mean: Duration,
}

impl Default for BatchSize {
    fn default() -> Self {
        BatchSize {
            limit: FIRST_BATCH,
            climbs: true,
            samples: 0,
            sum: Duration::ZERO,
            trial: None,
            upwards: false,
            hold: FIRST_HOLD,
            held_until: None,
        }
    }
}

impl BatchSize {
    /// The most jobs that a call may take now, from 8 to [`BATCH`].
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Notes that a call of `count` jobs took this long.
    pub fn note(&mut self, now: Instant, count: usize, took: Duration) {
        // A smaller one tells nothing of full ones, and a larger one began before the size changed.
        if count != self.limit {
            return;
        }
        self.samples += 1;
        self.sum += took;
        if self.samples < SAMPLES && self.sum < LONG * SAMPLES && !self.climbs {
            return;
        }
        let mean = self.sum / self.samples;
        (self.samples, self.sum) = (0, Duration::ZERO);
        let mut held = self.held_until.is_some_and(|until| now < until);
        let mut came_down = false;
        if let Some(before) = self.trial.take() {
            let went_up = before.from < self.limit;
            let gains = match went_up {
                true => before.mean > mean.mul_f64(WORTH),
                false => mean <= before.mean.mul_f64(WORTH),
            };
            self.upwards = went_up == gains;
            if !gains {
                self.limit = before.from;
                self.climbs = false;
                self.held_until = Some(now + self.hold);
                self.hold = LONGEST_HOLD.min(self.hold * 2);
                return;
            }
            self.hold = FIRST_HOLD;
            if !went_up {
                // That the larger one is not worth it is known by now; a still smaller one may gain as much again.
                self.held_until = Some(now + self.hold);
                (held, came_down) = (false, true);
            }
        }
        let larger = (self.limit * 2).min(BATCH);
        let smaller = (self.limit / 2).max(SMALLEST_BATCH);
        if mean < LONG / 3 {
            self.limit = larger;
        } else if !held && mean > LONG && !self.upwards && smaller < self.limit {
            self.climbs = false;
            self.try_out(smaller, mean);
        } else if !held && !came_down && larger > self.limit {
            self.try_out(larger, mean);
        } else {
            self.climbs = false;
        }
    }

    fn try_out(&mut self, size: usize, mean: Duration) {
        self.trial = Some(Trial {
            from: self.limit,
            mean,
        });
        self.limit = size;
    }
}

#[cfg(test)]
mod tests;
