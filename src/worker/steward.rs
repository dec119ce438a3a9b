//! A worker's main thread: it takes the master's orders, drives the clock, and sees to it that the worker leaves when it is
//! told to, when its master is gone, or when it has done enough.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use super::accept::{Close, Gate};
use super::control::{Channel, Heard, Heir, Leave, Order, Report};
use super::desk::Desk;
use super::handoff::Handoff;
use super::usage::{Usage, resident};
use crate::config::Config;
use crate::http::access::AccessLog;
use crate::http::watch::Watch;
use crate::scoreboard::Row;
use crate::scoreboard::counters::Counter;

/// How often deadlines are looked at: the grain of every timeout of a connection.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// When the server stops, how long an idle client may still send the request that it may have on its way.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// What a worker whose master is gone has to finish what is in flight.
const ORPHAN_GRACE: Duration = Duration::from_millis(1500);

/// When a worker whose master is gone is gone too: within two seconds, and its end takes some time.
const ORPHAN_END: Duration = Duration::from_millis(1900);

/// How long a worker that leaves waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The same for one whose master has been gone for so long.
fn last_lines(orphaned: Option<Duration>) -> Duration {
    orphaned.map_or(LAST_LINES, |since| {
        LAST_LINES.min(ORPHAN_END.saturating_sub(since))
    })
}

/// The thread that is not the scheduler's: drives the clock, hears the master, and ends when everything in flight is done.
pub struct Steward<'w> {
    pub channel: &'w Channel,
    pub signals: &'w SignalFd,
    pub gate: &'w Gate,
    pub watch: &'w Watch,
    /// How long the master has to relieve this worker once a signal tells it to finish, and how long it then has to do so.
    pub drain_timeout: Duration,
    /// What idle clients have to close their connections themselves, once the server has waited as long for balancers.
    pub drain_delay: Duration,
    pub wear: Wear,
    pub usage: Usage,
    pub handoff: Handoff,
    pub desk: Option<Arc<Desk>>,
    pub access: Option<Arc<AccessLog>>,
}

impl Steward<'_> {
    /// Serves the master until everything is done. Answers with the time that is left for the last lines of the log.
    ///
    /// # Errors
    /// Those of poll(2), and of the channel while the master lives.
    pub fn obey(mut self) -> io::Result<Duration> {
        let mut leaving: Option<Leaving> = None;
        let mut orphaned: Option<Instant> = None;
        // When this worker leaves by itself, since a signal has told it to and the master has not relieved it.
        let mut alone_at: Option<Instant> = None;
        loop {
            self.wait(orphaned.is_some())?;
            self.usage.show();
            let signalled = matches!(self.signals.read_signal(), Ok(Some(_)));
            if signalled && leaving.is_none() && alone_at.is_none() {
                // Not at once: its listeners are to have somebody, and where master and workers are told together, the
                // master's order to stop says what becomes of the queues.
                alone_at = Some(Instant::now() + self.drain_timeout);
                // A master that is gone is heard of below.
                let _ = self.channel.report(Report::Told);
            }
            match self.channel.hear_order() {
                Heard::Message(Order::Reopen) => self.reopen(),
                Heard::Message(Order::Unready) => self.watch.announce_end(),
                Heard::Message(Order::HandOn(Heir(way))) => self.handoff.give(way),
                Heard::Message(Order::Leave(how)) => leaving = Some(self.leave(how)),
                Heard::End if orphaned.is_none() => {
                    log::warn!("worker: the master is gone; finishing what is in flight");
                    orphaned = Some(Instant::now());
                    let within = ORPHAN_GRACE;
                    let waited = false;
                    leaving = Some(self.leave(Leave::Stop { within, waited }));
                }
                Heard::Nothing | Heard::End => {}
            }
            if leaving.is_none() && alone_at.is_some_and(|at| at <= Instant::now()) {
                let within = self.drain_timeout;
                let sweep = false;
                leaving = Some(self.leave(Leave::Retire { within, sweep }));
            }
            self.gate.wake_clock();
            let Some(leaving) = &mut leaving else {
                if self.wear.is_through() {
                    self.channel.report(Report::Worn)?;
                }
                continue;
            };
            let last_lines = || last_lines(orphaned.map(|since| since.elapsed()));
            if self.gate.is_closed() && self.watch.open() == 0 {
                return Ok(last_lines());
            }
            if leaving.is_over(self.watch) {
                log::warn!(
                    "worker: {} connections did not finish in time and are closed",
                    self.watch.open()
                );
                return Ok(last_lines());
            }
        }
    }

    /// Waits for a signal, an order, or the next tick.
    fn wait(&self, orphaned: bool) -> io::Result<()> {
        let listen = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![listen(self.signals.as_fd())];
        // The channel of a master that is gone would be readable for ever.
        if !orphaned {
            fds.push(listen(self.channel.as_fd()));
        }
        let tick = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, tick) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn reopen(&self) {
        if let Some(log) = &self.access {
            log.reopen();
        }
    }

    fn leave(&self, how: Leave) -> Leaving {
        match (&self.desk, how) {
            (Some(desk), Leave::Retire { .. }) => desk.close(),
            (Some(desk), Leave::Stop { .. }) => desk.finish(),
            (None, _) => {}
        }
        Leaving::begin(how, self.drain_delay, self.gate, self.watch)
    }
}

/// How much a worker may do before another one takes its place: the net under leaks.
pub struct Wear {
    row: Row,
    /// What the row had counted before this worker.
    before: u64,
    requests: Option<u64>,
    /// Resident memory, in bytes.
    rss: Option<u64>,
    looked: Instant,
    told: bool,
}

/// How often a worker looks at its memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Wear {
    /// The wear of the worker of this slot, which has done nothing yet.
    pub fn new(slot: usize, config: &Config, row: Row) -> Self {
        let (slots, luck) = (config.workers.count(), luck());
        let own = |limit: u64| own_limit(limit, slot, slots, luck);
        Wear {
            row,
            before: row.counted(Counter::Requests),
            requests: Some(config.max_requests)
                .filter(|most| *most > 0)
                .map(|most| own(most as u64)),
            rss: Some(config.max_worker_rss)
                .filter(|most| *most > 0)
                .map(|most| own(most as u64)),
            looked: Instant::now(),
            told: false,
        }
    }

    /// Whether a limit is reached; says so once.
    fn is_through(&mut self) -> bool {
        if self.told {
            return false;
        }
        let requests = self.row.counted(Counter::Requests) - self.before;
        self.told = self.requests.is_some_and(|most| requests >= most) || self.is_too_large();
        self.told
    }

    fn is_too_large(&mut self) -> bool {
        let Some(most) = self.rss else { return false };
        if self.looked.elapsed() < LOOK_EVERY {
            return false;
        }
        self.looked = Instant::now();
        resident().is_some_and(|bytes| bytes >= most)
    }
}

/// What a limit is for the worker of this slot, up to a tenth lower: workers that start together must not wear out together.
/// Each slot has a part of that tenth, and `luck` says where in it, so that neither the lives of a slot nor hosts that are
/// alike keep step.
fn own_limit(limit: u64, slot: usize, slots: usize, luck: u32) -> u64 {
    let place = (slot % slots) as f64 + f64::from(luck) / (f64::from(u32::MAX) + 1.0);
    limit - (limit as f64 / 10.0 * place / slots as f64) as u64
}

/// A number of this process's own.
fn luck() -> u32 {
    // The keys differ from host to host, the pid from process to process: a fork inherits the keys.
    RandomState::new().hash_one(std::process::id()) as u32
}

/// How a worker leaves.
struct Leaving {
    until: Instant,
    evict_at: Instant,
}

impl Leaving {
    fn begin(how: Leave, drain_delay: Duration, gate: &Gate, watch: &Watch) -> Self {
        watch.drain();
        let now = Instant::now();
        match how {
            Leave::Retire { within, sweep } => {
                gate.close(match sweep {
                    true => Close::WhenEmpty,
                    false => Close::AtOnce,
                });
                Leaving {
                    until: now + within,
                    evict_at: now + within,
                }
            }
            Leave::Stop { within, waited } => {
                gate.close(Close::WhenEmpty);
                // A close that crosses a POST loses it, for a balancer may not send it twice. One that leaves connections idle
                // for less than the delay has closed them itself by then.
                let grace = match waited {
                    true => IDLE_GRACE.max(drain_delay),
                    false => IDLE_GRACE,
                };
                Leaving {
                    until: now + within,
                    evict_at: now + grace.min(within),
                }
            }
        }
    }

    /// Evicts the idle when their time has come; answers whether everybody's has.
    fn is_over(&mut self, watch: &Watch) -> bool {
        let now = Instant::now();
        if now >= self.evict_at {
            watch.evict_idle();
        }
        // Two ticks for the evicted to leave by themselves.
        now >= self.until + TICK * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_differ_by_slot_and_by_process_and_are_at_most_a_tenth_lower() {
        let lowest = own_limit(1000, 3, 4, u32::MAX);
        assert_eq!((own_limit(1000, 0, 4, 0), lowest), (1000, 901));
        for slot in 0..3 {
            let least = own_limit(1000, slot, 4, u32::MAX);
            assert!(least > own_limit(1000, slot + 1, 4, 0), "slot {slot}");
        }
        // One worker alone, again and again.
        let lives = [0, 1 << 30, 1 << 31, 3 << 30].map(|luck| own_limit(1000, 0, 1, luck));
        assert_eq!(lives, [1000, 975, 950, 925]);
        assert_eq!(own_limit(1, 0, 1, u32::MAX), 1);
        assert_eq!(own_limit(u64::MAX, 1024, 1, 0), u64::MAX);
    }

    /// A slow disk once added its whole second to the two.
    #[test]
    fn the_last_lines_of_an_orphan_fit_into_its_two_seconds() {
        assert_eq!(last_lines(None), LAST_LINES);
        assert_eq!(last_lines(Some(Duration::ZERO)), LAST_LINES);
        // Its grace, two ticks for the evicted, and the one in which that is noticed.
        let longest = ORPHAN_GRACE + TICK * 3;
        let end = longest + last_lines(Some(longest));
        assert!(end < Duration::from_secs(2), "{end:?}");
        assert_eq!(last_lines(Some(Duration::from_secs(9))), Duration::ZERO);
    }
}
