//! Shares of connections. The kernel spreads connections over sockets by a hash, which is uneven for the few long ones of a
//! load balancer. A worker well above its fair share leaves what waits in its queue to the sibling with the fewest, and
//! rings that one's bell. Not while its connections are brief: there are many of them then, which a hash spreads well, and
//! leaving one to a sibling costs as much as a third of serving it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use may::io::{CoIo, WaitIo};
use nix::errno::Errno;

use crate::scoreboard::counters::Counter;
use crate::scoreboard::{self, Row, Scoreboard};

/// By how many connections a worker may exceed the mean, at least; a part of the mean is allowed beside it.
const SLACK: u64 = 2;
const SLACK_PART: u64 = 8;

/// A sibling whose heart has not beaten for so many milliseconds does not count, and is not asked.
const ABSENT: u64 = 500;

/// This worker among its siblings.
pub struct Balance {
    scoreboard: Scoreboard,
    row: Row,
    slot: usize,
    /// One eventfd(2) a slot, shared by all workers: who wants a slot's worker to look around rings it.
    bells: Vec<OwnedFd>,
    /// How many connections had ended at the last tick, and whether they were brief ones until then.
    ended: AtomicU64,
    brief: AtomicBool,
}

impl Balance {
    pub fn new(scoreboard: Scoreboard, row: Row, slot: usize, bells: Vec<OwnedFd>) -> Self {
        Balance {
            scoreboard,
            row,
            slot,
            bells,
            // The row was another worker's before.
            ended: AtomicU64::new(ended(row)),
            brief: AtomicBool::new(false),
        }
    }

    /// Notes what has ended since the last tick. By Little's law connections live for less than a tick when more of them end in
    /// one than are open at a time.
    pub fn tick(&self) {
        let (open, ended) = (self.row.open(), ended(self.row));
        let before = self.ended.swap(ended, Ordering::Relaxed);
        let brief = ended.saturating_sub(before) > open.max(SLACK);
        self.brief.store(brief, Ordering::Relaxed);
    }

    /// Whether this worker should take no more for now. If so, the sibling with the fewest connections has been told.
    pub fn defers(&self) -> bool {
        let own = self.row.open();
        if own < SLACK || self.brief.load(Ordering::Relaxed) {
            return false;
        }
        let now = scoreboard::moment();
        // On the way of every connection, so nothing is allocated.
        let others = (0..self.bells.len())
            .filter(|slot| *slot != self.slot)
            .filter_map(|slot| Some((slot, self.scoreboard.worker_of(slot)?)))
            .filter(|(_, row)| now.saturating_sub(row.last_beat()) < ABSENT)
            .map(|(slot, row)| (slot, row.open()));
        let Some(least) = least_loaded(own, others) else {
            return false;
        };
        self.ring(least)
    }

    /// Has a slot's worker look around; false if it can't be told.
    pub fn ring(&self, slot: usize) -> bool {
        match nix::unistd::write(&self.bells[slot], &1_u64.to_ne_bytes()) {
            // Full is rung already.
            Ok(_) | Err(Errno::EAGAIN) => true,
            Err(error) => {
                log::debug!("worker: slot {slot} can't be rung: {error}");
                false
            }
        }
    }

    /// Calls `look` whenever somebody rings, for ever. Runs on a coroutine.
    ///
    /// # Errors
    /// The bell can't be waited for.
    pub fn attend(&self, look: impl Fn()) -> io::Result<()> {
        let bell = &self.bells[self.slot];
        let ringing = CoIo::new(bell.as_fd()).map_err(io::Error::from)?;
        loop {
            ringing.wait_io();
            // Edges tell of each ring; reading keeps the count from running full. Another worker of the slot may have.
            let _ = nix::unistd::read(bell, &mut [0; 8]);
            look();
        }
    }
}

/// How many connections have ended, of all that had this row.
fn ended(row: Row) -> u64 {
    row.counted(Counter::Connections).saturating_sub(row.open())
}

/// Who should take a connection instead of a worker that has `own`: the one with the fewest, if `own` is well above the
/// mean. `others` are slots and what they have.
fn least_loaded(own: u64, others: impl IntoIterator<Item = (usize, u64)>) -> Option<usize> {
    let (mut least, mut sum, mut count) = (None, own, 1);
    for (slot, open) in others {
        (sum, count) = (sum + open, count + 1);
        if least.is_none_or(|(_, fewest)| open < fewest) {
            least = Some((slot, open));
        }
    }
    let (least, fewest) = least?;
    let mean = sum / count;
    let allowed = mean + SLACK.max(mean / SLACK_PART);
    (own >= allowed && fewest < own).then_some(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_well_above_the_mean_defers_and_to_who_has_fewest() {
        assert_eq!(least_loaded(100, []), None, "nobody is there");
        assert_eq!(least_loaded(16, [(1, 16), (2, 16)]), None);
        assert_eq!(least_loaded(2, [(1, 0)]), None, "a few are no load");
        assert_eq!(least_loaded(3, [(1, 0)]), Some(1));
        assert_eq!(least_loaded(17, [(1, 16), (2, 15), (3, 16)]), None);
        assert_eq!(least_loaded(18, [(1, 16), (2, 14), (3, 16)]), Some(2));
        assert_eq!(least_loaded(1050, [(1, 1000), (2, 950)]), None);
        assert_eq!(least_loaded(1130, [(1, 1000), (2, 870)]), Some(2));
    }

    /// A connection for each request is left to the kernel's hash: to pass each on cost a third of what serving it did.
    #[test]
    fn brief_connections_are_passed_on_to_nobody() {
        let board = Scoreboard::new().expect("shared memory");
        let (own, other) = (board.row(0), board.row(1));
        for (slot, row) in [own, other].into_iter().enumerate() {
            row.beat(scoreboard::moment());
            board.occupy(slot, row);
        }
        let bell = || nix::sys::eventfd::EventFd::new().expect("a bell").into();
        let balance = Balance::new(board, own, 0, vec![bell(), bell()]);
        let has = |accepted: u64, open: u64| {
            for _ in own.counted(Counter::Connections)..accepted {
                own.count(Counter::Connections);
            }
            own.set_open(open);
            balance.tick();
            balance.defers()
        };
        assert!(has(16, 16), "all of them came to one");
        assert!(has(20, 16), "a few go and come");
        assert!(!has(60, 16), "more have come and gone than are there");
        assert!(has(60, 16), "no longer");
        assert!(!has(60, 0), "they have left at once");
    }

    /// However connections arrive, the busiest of four ends at most a quarter above the mean.
    #[test]
    fn sixty_four_connections_end_evenly_even_if_all_come_to_one() {
        let mut open = [0_u64; 4];
        for _ in 0..64 {
            let others = (1..4).map(|slot| (slot, open[slot]));
            open[least_loaded(open[0], others).unwrap_or(0)] += 1;
        }
        assert!(open.iter().all(|count| *count <= 20), "{open:?}");
    }
}
