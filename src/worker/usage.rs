//! What a worker takes of the host, shown in the scoreboard for whoever asks any of its siblings: CPU time, which is the
//! slot's for good, and memory. Called by the steward's thread.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

use crate::scoreboard::{Row, Scoreboard};

/// How often a worker looks at its memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What this worker has shown.
pub struct Usage {
    scoreboard: Scoreboard,
    row: Row,
    slot: usize,
    /// CPU time, in microseconds.
    shown: u64,
    looked: Option<Instant>,
}

impl Usage {
    pub fn new(scoreboard: Scoreboard, row: Row, slot: usize) -> Self {
        let mut usage = Usage {
            scoreboard,
            row,
            slot,
            shown: 0,
            looked: None,
        };
        usage.show();
        usage
    }

    /// Shows what has come since the last time.
    pub fn show(&mut self) {
        self.show_cpu();
        if self.looked.is_none_or(|last| last.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            self.row.set_resident(resident().unwrap_or(0));
        }
    }

    fn show_cpu(&mut self) {
        let used = cpu_micros().unwrap_or(self.shown);
        let more = used.saturating_sub(self.shown);
        if more > 0 {
            self.scoreboard.add_slot_cpu(self.slot, more);
            self.shown = used;
        }
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.show_cpu();
    }
}

/// The CPU time of this process, user and system, all threads (getrusage(2)).
fn cpu_micros() -> Option<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    u64::try_from(micros).ok()
}

/// The memory of this process that is in RAM, in bytes: the second field of /proc/self/statm (proc(5)).
pub fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_shown_once() {
        let board = Scoreboard::new().expect("shared memory");
        let mut usage = Usage::new(board, board.row(0), 3);
        assert!(board.row(0).resident() > 1 << 20);
        let begun = cpu_micros().expect("getrusage");
        while cpu_micros().expect("getrusage") < begun + 2000 {
            std::hint::black_box(begun);
        }
        usage.show();
        drop(usage);
        let used = cpu_micros().expect("getrusage");
        let shown = board.slot_cpu(3);
        assert!((2000..=used).contains(&shown), "{shown} of {used}");
    }
}
