//! What happens at every tick, on the scheduler's thread: the heart beats, deadlines pass, who waits for room tries again,
//! siblings without a worker are stood in for, and memory that a crowd has left goes back to the kernel.

use std::sync::Arc;

use super::accept::{Gate, Siblings};
use super::balance::Balance;
use super::desk::Desk;
use super::lanes::Lanes;
use crate::http::lobby::Lobby;
use crate::http::service::Service;
use crate::http::watch::Watch;
use crate::logging;
use crate::sabotage;
use crate::scoreboard::{self, Row, Scoreboard};
use crate::sys;

/// A crowd: fewer connections than this leave nothing that is worth the walk through the heap.
const CROWD: usize = 2048;

/// After so many ticks without anybody leaving, nobody is: half a second.
const STILL: u32 = 5;

/// Everything that has deadlines or waits for room.
pub struct Clock<S> {
    pub watch: Arc<Watch>,
    pub lobby: Arc<Lobby>,
    pub lanes: Arc<Lanes>,
    pub gate: Arc<Gate>,
    pub siblings: Arc<Siblings<S>>,
    pub balance: Arc<Balance>,
    pub desk: Option<Arc<Desk>>,
    pub scoreboard: Scoreboard,
    /// The worker's row of it.
    pub row: Row,
    pub slot: usize,
    /// The marks of the sockets that this worker accepts from.
    pub attended: Vec<usize>,
}

impl<S: Service> Clock<S> {
    /// Ticks for ever, each time that the gate wakes it. Runs on a coroutine.
    pub fn run(&self) {
        self.gate.set_clock(may::coroutine::current());
        self.beat();
        let mut tide = Tide::default();
        loop {
            may::coroutine::park();
            sabotage::stop_loop();
            self.siblings.tick(&self.gate, self.beat());
            self.watch.tick();
            self.lobby.tick();
            self.lanes.expire();
            self.gate.tick();
            self.balance.tick();
            logging::settle();
            if let Some(desk) = &self.desk {
                desk.tick();
            }
            if tide.ebbs(self.watch.on_coroutines()) {
                sys::trim_heap();
            }
        }
    }

    /// Says that this loop moves, and that somebody looks after its sockets; the moment.
    fn beat(&self) -> u64 {
        let now = scoreboard::moment();
        self.row.beat(now);
        if self.gate.is_open() {
            self.scoreboard.occupy(self.slot, self.row);
            for mark in &self.attended {
                self.scoreboard.attend(*mark, now);
            }
        }
        now
    }
}

/// How many connections had a coroutine at most since the heap was last trimmed. What each of them had on the heap (4 KiB
/// to read into, foremost) lies between what others still have, and the allocator keeps such pages for ever.
#[derive(Debug, Default)]
struct Tide {
    high: usize,
    last: usize,
    /// For how many ticks in a row nobody has left.
    still: u32,
}

impl Tide {
    /// Whether a crowd has gone: most of what was there at the highest, and for now no more are leaving. Each goes once, so a
    /// moment in which the rest of it only waits for the CPU must not be taken for its end.
    fn ebbs(&mut self, now: usize) -> bool {
        self.still = match now >= self.last {
            true => self.still.saturating_add(1),
            false => 0,
        };
        self.last = now;
        let gone = self.high >= CROWD && now <= self.high / 4 && self.still >= STILL;
        self.high = if gone { now } else { self.high.max(now) };
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks at which a crowd has gone, of those that saw so many.
    fn ebbs(counts: &[usize]) -> Vec<usize> {
        let mut tide = Tide::default();
        let gone = counts.iter().map(|now| tide.ebbs(*now));
        let gone: Vec<bool> = gone.collect();
        (0..gone.len()).filter(|tick| gone[*tick]).collect()
    }

    #[test]
    fn a_crowd_goes_once_and_a_small_one_never() {
        assert!(ebbs(&[0, 2000, 0, 10, 10, 10, 10, 10, 10, 10]).is_empty());
        // Still leaving, then gone; and nothing is left to go.
        let crowd = [8000, 3000, 2000, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0];
        assert_eq!(ebbs(&crowd), [8]);
        // A quarter that stays is no crowd that has not gone.
        assert!(ebbs(&[2048, 513, 513, 513, 513, 513, 513, 513]).is_empty());
        assert_eq!(ebbs(&[2048, 512, 512, 512, 512, 512, 512, 512]), [6]);
    }

    /// Which left all that the rest of it had on the heap, 6 MiB of 6,000 connections.
    #[test]
    fn a_crowd_that_pauses_while_it_leaves_has_not_gone() {
        let crowd = [6000, 1400, 1400, 1401, 700, 700, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(ebbs(&crowd), [11]);
    }
}
