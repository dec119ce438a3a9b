//! How far a replica is behind, without anybody's clock but our own: the primary is asked again and again how far it has written,
//! and who has replayed that far shows all that was committed when it was asked. Pure: moments are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::position::Replayed;
use crate::store::Position;

/// How many looks at the primary are kept. What is further behind than the oldest of them is so by no known time.
const KEPT: usize = 256;

/// Looks at the primary, the oldest first, all of one timeline of one cluster.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The cluster's identifier, and its timeline.
    of: Option<(i64, u32)>,
    looks: VecDeque<(Instant, u64)>,
}

/// What makes a server one that may be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof {
    /// The timeline that it follows.
    pub(super) timeline: u32,
    /// When it was started: another server, or this one after it was rebuilt, was so at another time.
    pub(super) started: i64,
}

/// What a look at a replica has found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    pub(super) replayed: Replayed,
    pub(super) system: i64,
    pub(super) timeline: u32,
}

/// Why a replica is not read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Out {
    /// It gives no answer, in words.
    Away(String),
    /// The primary was not seen for longer than a replica may be behind.
    Alone,
    /// It takes writes itself.
    Primary,
    /// It is none of this primary's.
    Stranger,
    /// It follows this timeline, or did at its last restart point, and the primary is on another one.
    Timeline(u32, u32),
    /// It is so far behind; `None` if that is longer than anybody has looked.
    Behind(Option<Duration>),
}

impl Looks {
    /// Notes how far the primary had written at a moment not before `asked`.
    pub(super) fn note(&mut self, asked: Instant, system: i64, place: Position) {
        let of = Some((system, place.timeline));
        if self.of != of {
            // Places of two timelines have nothing to do with each other.
            self.looks.clear();
            self.of = of;
        }
        if self.looks.len() == KEPT {
            self.looks.pop_front();
        }
        self.looks.push_back((asked, place.lsn));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.looks.is_empty()
    }

    /// What must have been replayed to show all that was committed `most` ago. `None` if the primary was not seen since then.
    pub(super) fn floor(&self, now: Instant, most: Duration) -> Option<Position> {
        let (_, timeline) = self.of?;
        let recent = |(asked, _): &&(Instant, u64)| now.saturating_duration_since(*asked) <= most;
        let (_, lsn) = self.looks.iter().find(recent)?;
        Some(Position {
            timeline,
            lsn: *lsn,
        })
    }

    /// For how long what has been replayed has not been all: nothing while it is, `None` if that is longer than looks are kept.
    pub(super) fn lag(&self, now: Instant, replayed: u64) -> Option<Duration> {
        let lacking = self.looks.iter().position(|(_, lsn)| *lsn > replayed);
        match lacking {
            None => Some(Duration::ZERO),
            Some(0) => None,
            Some(at) => Some(now.saturating_duration_since(self.looks[at].0)),
        }
    }

    /// Whether a replica may be read from. `most` is the longest that it may be behind.
    pub(super) fn judge(&self, sight: &Sight, now: Instant, most: Duration) -> Result<Proof, Out> {
        let (Some((system, timeline)), Some(floor)) = (self.of, self.floor(now, most)) else {
            return Err(Out::Alone);
        };
        if !sight.replayed.in_recovery {
            return Err(Out::Primary);
        }
        if sight.system != system {
            return Err(Out::Stranger);
        }
        if sight.timeline != timeline {
            return Err(Out::Timeline(sight.timeline, timeline));
        }
        if sight.replayed.lsn < floor.lsn {
            return Err(Out::Behind(self.lag(now, sight.replayed.lsn)));
        }
        Ok(Proof {
            timeline,
            started: sight.replayed.started,
        })
    }
}

impl Proof {
    /// Whether an answer of this server counts that says so of itself.
    pub(super) fn covers(&self, replayed: &Replayed, wanted: Position) -> bool {
        replayed.in_recovery
            && replayed.started == self.started
            && self.timeline == wanted.timeline
            && replayed.lsn >= wanted.lsn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn place(lsn: u64) -> Position {
        Position { timeline: 1, lsn }
    }

    fn replayed(lsn: u64) -> Replayed {
        Replayed {
            in_recovery: true,
            lsn,
            started: 5,
        }
    }

    fn sight(lsn: u64) -> Sight {
        Sight {
            replayed: replayed(lsn),
            system: 9,
            timeline: 1,
        }
    }

    /// Looks a second apart, at places 100, 200, 300, 400.
    fn looks(start: Instant) -> Looks {
        let mut looks = Looks::default();
        for number in 0..4 {
            looks.note(
                start + SECOND * number,
                9,
                place(100 * (u64::from(number) + 1)),
            );
        }
        looks
    }

    #[test]
    fn who_has_replayed_a_look_shows_all_that_was_committed_then() {
        let start = Instant::now();
        let looks = looks(start);
        let now = start + SECOND * 3;
        assert_eq!(looks.floor(now, SECOND), Some(place(300)));
        assert_eq!(looks.floor(now, SECOND * 2), Some(place(200)));
        assert_eq!(looks.floor(now, Duration::ZERO), Some(place(400)));
        // The primary was not seen since.
        assert_eq!(looks.floor(now + SECOND * 2, SECOND), None);
        assert_eq!(looks.lag(now, 400), Some(Duration::ZERO));
        assert_eq!(looks.lag(now, 999), Some(Duration::ZERO));
        assert_eq!(looks.lag(now, 399), Some(Duration::ZERO));
        assert_eq!(looks.lag(now + SECOND, 399), Some(SECOND));
        assert_eq!(looks.lag(now, 299), Some(SECOND));
        assert_eq!(looks.lag(now, 100), Some(SECOND * 2));
        assert_eq!(looks.lag(now, 99), None, "longer than anybody has looked");
    }

    #[test]
    fn a_replica_is_read_from_if_it_is_one_of_this_primary_and_near() {
        let start = Instant::now();
        let looks = looks(start);
        let now = start + SECOND * 3;
        let judge = |sight: &Sight| looks.judge(sight, now, SECOND);
        let proof = Proof {
            timeline: 1,
            started: 5,
        };
        assert_eq!(judge(&sight(300)), Ok(proof));
        assert_eq!(judge(&sight(299)), Err(Out::Behind(Some(SECOND))));
        assert_eq!(judge(&sight(1)), Err(Out::Behind(None)));
        let mut promoted = sight(400);
        promoted.replayed.in_recovery = false;
        assert_eq!(judge(&promoted), Err(Out::Primary));
        let stranger = Sight {
            system: 8,
            ..sight(400)
        };
        assert_eq!(judge(&stranger), Err(Out::Stranger));
        let elsewhere = Sight {
            timeline: 2,
            ..sight(400)
        };
        assert_eq!(judge(&elsewhere), Err(Out::Timeline(2, 1)));
        let late = looks.judge(&sight(400), now + SECOND * 2, SECOND);
        assert_eq!(late, Err(Out::Alone));
        assert_eq!(
            Looks::default().judge(&sight(400), now, SECOND),
            Err(Out::Alone)
        );
    }

    #[test]
    fn looks_at_another_timeline_say_nothing_of_this_one() {
        let start = Instant::now();
        let mut looks = looks(start);
        let promoted = Position {
            timeline: 2,
            lsn: 250,
        };
        looks.note(start + SECOND * 3, 9, promoted);
        let now = start + SECOND * 3;
        assert_eq!(looks.floor(now, SECOND * 9), Some(promoted));
        // It had more of the old primary's than the one that was promoted: another history.
        assert_eq!(
            looks.judge(&sight(400), now, SECOND),
            Err(Out::Timeline(1, 2))
        );
    }

    #[test]
    fn an_answer_counts_by_what_its_own_server_says() {
        let proof = Proof {
            timeline: 1,
            started: 5,
        };
        assert!(proof.covers(&replayed(100), place(100)));
        assert!(!proof.covers(&replayed(99), place(100)));
        let later = Position {
            timeline: 2,
            lsn: 1,
        };
        assert!(!proof.covers(&replayed(100), later));
        let restarted = Replayed {
            started: 6,
            ..replayed(100)
        };
        assert!(!proof.covers(&restarted, place(1)));
        let promoted = Replayed {
            in_recovery: false,
            ..replayed(100)
        };
        assert!(!proof.covers(&promoted, place(1)));
    }

    #[test]
    fn old_looks_are_forgotten() {
        let start = Instant::now();
        let mut looks = Looks::default();
        for number in 0..2 * KEPT as u32 {
            looks.note(start + SECOND * number, 9, place(u64::from(number)));
        }
        assert_eq!(looks.looks.len(), KEPT);
        assert!(!looks.is_empty());
    }
}
