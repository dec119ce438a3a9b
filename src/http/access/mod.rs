//! The access log: one line a request, off the way of requests. A connection writes its line into a bounded buffer
//! ([`AccessLog::record`], never waiting for anybody); a thread of the worker takes what has gathered
//! ([`AccessLog::take`]) and knows where it goes. When that thread can't keep up, lines are dropped and counted.

mod line;
mod visit;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::line::{Entry, LONGEST};
pub use self::visit::Visit;
use crate::config::AccessFormat;

/// What one batch may hold, in bytes. One gathers while another is written, so a worker spends twice this at most.
pub const BATCH: usize = 512 * 1024;

/// How long lines gather before they are written, unless half a batch is there earlier.
const GATHER: Duration = Duration::from_millis(100);

/// The lines of a worker on their way out.
pub struct AccessLog {
    format: AccessFormat,
    gathered: Mutex<Gathered>,
    changed: Condvar,
}

struct Gathered {
    /// Whole lines. Its capacity is [`BATCH`] and never grows.
    lines: Vec<u8>,
    dropped: u64,
    reopen: bool,
    closed: bool,
}

/// What [`AccessLog::take`] found beside the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many lines there was no room for since the last time.
    pub dropped: u64,
    /// The file is to be opened again before these lines are written.
    pub reopen: bool,
    /// No more will come.
    pub closed: bool,
}

impl AccessLog {
    pub fn new(format: AccessFormat) -> Self {
        AccessLog {
            format,
            gathered: Mutex::new(Gathered {
                lines: Vec::with_capacity(BATCH),
                dropped: 0,
                reopen: false,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Held for as long as a line takes to be written or two buffers to be exchanged, never over a wait or a write.
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, or counts it as dropped when there is no room.
    pub fn record(&self, entry: &Entry<'_>) {
        let mut gathered = self.lock();
        if gathered.lines.len() + LONGEST > BATCH {
            gathered.dropped += 1;
            return;
        }
        let before = gathered.lines.len();
        entry.write(self.format, &mut gathered.lines);
        let after = gathered.lines.len();
        drop(gathered);
        // The taker sleeps while there is nothing, and then once more while lines gather: two wake-ups a batch.
        let half = BATCH / 2;
        if before == 0 || (before < half && after >= half) {
            self.changed.notify_one();
        }
    }

    /// Waits for lines, lets more of them gather, and exchanges them for `into`, which must be empty and should have
    /// the capacity [`BATCH`]. For the one thread that writes them.
    pub fn take(&self, into: &mut Vec<u8>) -> Taken {
        let idle = |gathered: &mut Gathered| {
            gathered.lines.is_empty() && !gathered.reopen && !gathered.closed
        };
        let few = |gathered: &mut Gathered| {
            gathered.lines.len() < BATCH / 2 && !gathered.reopen && !gathered.closed
        };
        let gathered = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut gathered, _) = self
            .changed
            .wait_timeout_while(gathered, GATHER, few)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut gathered.lines, into);
        Taken {
            dropped: std::mem::take(&mut gathered.dropped),
            reopen: std::mem::take(&mut gathered.reopen),
            closed: gathered.closed,
        }
    }

    /// Has the file opened again under its name before the next lines are written, for who has moved it away.
    pub fn reopen(&self) {
        self.lock().reopen = true;
        self.changed.notify_one();
    }

    /// No more will come: what is there is written at once.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::SystemTime;

    use super::*;

    fn entry<'a>(id: &'a str) -> Entry<'a> {
        Entry {
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            time: SystemTime::UNIX_EPOCH,
            request_line: None,
            status: 400,
            sent: 0,
            referer: None,
            user_agent: None,
            duration: Duration::ZERO,
            request_id: id,
            trace_id: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_memory_stays_bounded() {
        let log = AccessLog::new(AccessFormat::Combined);
        let mut recorded = 0;
        while log.lock().dropped < 3 {
            log.record(&entry("x"));
            recorded += 1;
        }
        let mut batch = Vec::with_capacity(BATCH);
        let taken = log.take(&mut batch);
        assert_eq!(taken.dropped, 3);
        assert!(batch.len() > BATCH - 2 * LONGEST && batch.ends_with(b"\n"));
        assert_eq!(
            batch.iter().filter(|byte| **byte == b'\n').count(),
            recorded - 3
        );
        assert!(batch.capacity() <= BATCH && log.lock().lines.capacity() <= BATCH);
        batch.clear();
        log.record(&entry("y"));
        log.close();
        let taken = log.take(&mut batch);
        assert!(taken.closed && taken.dropped == 0 && !batch.is_empty());
    }

    #[test]
    fn the_taker_hears_of_lines_of_reopening_and_of_the_end() {
        let log = AccessLog::new(AccessFormat::Json);
        std::thread::scope(|scope| {
            let (report, reports) = std::sync::mpsc::channel();
            let log = &log;
            scope.spawn(move || {
                loop {
                    let mut batch = Vec::with_capacity(BATCH);
                    let taken = log.take(&mut batch);
                    report.send((batch.len(), taken)).expect("the test listens");
                    if taken.closed {
                        return;
                    }
                }
            });
            log.record(&entry("x"));
            let (length, taken) = reports.recv().expect("lines");
            assert!(length > 0 && !taken.reopen && !taken.closed);
            log.reopen();
            let (length, taken) = reports.recv().expect("the order");
            assert!(length == 0 && taken.reopen && !taken.closed);
            log.close();
            let (length, taken) = reports.recv().expect("the end");
            assert!(length == 0 && !taken.reopen && taken.closed);
        });
    }
}
