//! When a lane begins to take jobs. Pure: moments are arguments. Kept with the queues, under their lock.
//!
//! A lane needs a session of the database, and to open one takes the database longer than a dozen queries do. A worker that begins
//! with all of them has whoever is served meanwhile wait for a processor, at each reload and for each worker; so it begins with
//! one, which takes along whatever waits. The others join one after another at leisure, or at once when those that are there
//! don't do: when all of them are at something, and a job waits nevertheless.

use std::time::{Duration, Instant};

/// How far apart lanes join unasked.
const LEISURE: Duration = Duration::from_secs(1);

/// How long a job waits, while every lane is at something, before one more joins: longer than a call takes usually, so that
/// the first of the lanes would have come back and taken it along.
const OVERDUE: Duration = Duration::from_millis(2);

/// The lanes that have joined.
#[derive(Debug)]
pub struct Muster {
    born: Instant,
    /// Those that wait for something to do.
    idle: usize,
    /// One that has not joined has been told to look at what waits.
    alerted: bool,
}

impl Muster {
    pub fn new(now: Instant) -> Self {
        Muster {
            born: now,
            idle: 0,
            alerted: false,
        }
    }

    /// A lane that has joined begins to wait.
    pub fn rest(&mut self) {
        self.idle += 1;
    }

    /// It waits no more.
    pub fn rise(&mut self) {
        self.idle -= 1;
    }

    /// Whether one that has not joined is to be told that something is due. It then looks by [`Muster::joins_in`].
    pub fn alert(&mut self) -> bool {
        self.idle == 0 && !std::mem::replace(&mut self.alerted, true)
    }

    /// How long a lane that has not joined waits before it looks again; zero: it joins now. `due` is since when the oldest job
    /// waits for which a call may begin.
    pub fn joins_in(&mut self, number: usize, due: Option<Instant>, now: Instant) -> Duration {
        let unasked = LEISURE.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let at_leisure = unasked.saturating_sub(now.saturating_duration_since(self.born));
        let asked = due.filter(|_| self.idle == 0).map(|since| {
            let waited = now.saturating_duration_since(since);
            OVERDUE.saturating_sub(waited)
        });
        let wait = asked.map_or(at_leisure, |asked| asked.min(at_leisure));
        // Nobody looks any more, or looks at another time than was asked for.
        if asked.is_none() || wait.is_zero() {
            self.alerted = false;
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_joins_at_once_and_the_others_one_by_one() {
        let born = Instant::now();
        let mut muster = Muster::new(born);
        muster.rest();
        assert_eq!(muster.joins_in(0, None, born), Duration::ZERO);
        assert_eq!(muster.joins_in(1, None, born), LEISURE);
        assert_eq!(muster.joins_in(3, None, born + LEISURE), 2 * LEISURE);
        assert_eq!(muster.joins_in(3, None, born + 3 * LEISURE), Duration::ZERO);
        assert!(muster.joins_in(usize::MAX, None, born) > 1000 * LEISURE);
    }

    #[test]
    fn who_is_free_takes_what_is_due_and_nobody_joins() {
        let born = Instant::now();
        let mut muster = Muster::new(born);
        muster.rest();
        assert!(!muster.alert());
        let later = born + 2 * OVERDUE;
        assert!(muster.joins_in(1, Some(born), later) > OVERDUE);
    }

    #[test]
    fn one_joins_for_what_waits_while_all_others_are_busy() {
        let born = Instant::now();
        let mut muster = Muster::new(born);
        muster.rest();
        muster.rise();
        assert!(muster.alert());
        assert!(!muster.alert(), "one is enough");
        assert_eq!(muster.joins_in(1, Some(born), born), OVERDUE);
        assert!(!muster.alert(), "it still looks");
        assert_eq!(
            muster.joins_in(1, Some(born), born + OVERDUE),
            Duration::ZERO
        );
        assert!(muster.alert(), "the next may be needed too");
        // What was due has been taken along meanwhile.
        assert!(muster.joins_in(2, None, born + OVERDUE) > OVERDUE);
        assert!(muster.alert());
    }
}
