//! How the replicas are, for whoever tells of the server: two words each, written by the workers that look at them and read by
//! none of those who serve.

use std::time::Duration;

use super::atomic::{AtomicU64, Ordering};

/// The most replicas that are told of.
pub const MOST: usize = 16;

/// The words of all: their number, and two for each.
pub(super) const WORDS: usize = 1 + 2 * MOST;

/// How a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaState {
    /// How far it is behind the primary; `None` while that is not known, or longer than anybody has looked.
    pub lag: Option<Duration>,
    /// Whether it is read from.
    pub used: bool,
}

/// What is told of the replicas.
#[derive(Clone, Copy)]
pub struct Replicas {
    pub(super) words: &'static [AtomicU64],
}

impl Replicas {
    /// Says how many there are.
    pub fn set_count(&self, count: usize) {
        self.words[0].store(count.min(MOST) as u64, Ordering::Relaxed);
    }

    /// Says how one of them is, by its number from 0.
    pub fn set(&self, number: usize, state: ReplicaState) {
        let Some([lag, used]) = self.of(number) else {
            return;
        };
        // 0 is unknown.
        let micros = state.lag.map_or(0, |lag| (lag.as_micros() as u64).max(1));
        lag.store(micros, Ordering::Relaxed);
        used.store(u64::from(state.used), Ordering::Relaxed);
    }

    /// How each of them is.
    pub fn all(&self) -> Vec<ReplicaState> {
        let count = self.words[0].load(Ordering::Relaxed) as usize;
        let states = (0..count.min(MOST)).filter_map(|number| self.of(number));
        states
            .map(|[lag, used]| {
                let micros = lag.load(Ordering::Relaxed);
                ReplicaState {
                    lag: (micros > 0).then(|| Duration::from_micros(micros)),
                    used: used.load(Ordering::Relaxed) != 0,
                }
            })
            .collect()
    }

    fn of(&self, number: usize) -> Option<[&'static AtomicU64; 2]> {
        let at = 1 + 2 * number;
        Some([self.words.get(at)?, self.words.get(at + 1)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scoreboard;
    use super::*;

    #[test]
    fn what_is_told_of_replicas_is_read_as_it_was_said() {
        let board = Scoreboard::new().expect("shared memory");
        assert_eq!(board.replicas().all(), []);
        board.replicas().set_count(2);
        let (near, out) = (
            ReplicaState {
                lag: Some(Duration::from_millis(3)),
                used: true,
            },
            ReplicaState {
                lag: None,
                used: false,
            },
        );
        board.replicas().set(0, near);
        board.replicas().set(1, out);
        board.replicas().set(MOST, near);
        assert_eq!(board.replicas().all(), [near, out]);
    }
}
