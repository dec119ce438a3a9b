//! Deadlines of all connections, kept by one sweep: no timer a read. Each connection notes in its own
//! [`Watched`] when its patience ends; the worker's tick walks the table and wakes whose time is over.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use may::io::WaitIoWaker;
use slab::Slab;

use super::response::DATE_LENGTH;
use crate::scoreboard::Row;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The worker's coarse clock, all its connections, and whether it is about to leave. Shared by the tick and the
/// connections of one scheduler thread, so its locks are never contended; they are never held over a wait.
pub struct Watch {
    start: Instant,
    /// Milliseconds since `start` as of the last tick.
    now: AtomicU64,
    date: Mutex<[u8; DATE_LENGTH]>,
    table: Mutex<Slab<Arc<Watched>>>,
    open: AtomicUsize,
    /// Where siblings see how many are open.
    gauge: Option<Row>,
    draining: AtomicBool,
    end_is_near: AtomicBool,
    evicting: AtomicBool,
}

/// One connection, as the sweep sees it.
pub struct Watched {
    waker: WaitIoWaker,
    /// Milliseconds on the watch's clock.
    deadline: AtomicU64,
    /// Set by the sweep, taken by the connection.
    expired: AtomicBool,
    /// Between two requests, with nothing read and nothing to write.
    idle: AtomicBool,
}

/// A place in the table; given back when the connection ends.
pub struct Registration<'w> {
    watch: &'w Watch,
    key: usize,
    watched: Arc<Watched>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch::new(None)
    }
}

/// A poisoned lock is one whose holder panicked; what these locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// A watch that shows in `gauge`, if there is one, how many connections are open.
    pub fn new(gauge: Option<Row>) -> Self {
        let watch = Watch {
            start: Instant::now(),
            now: AtomicU64::new(0),
            date: Mutex::new([b' '; DATE_LENGTH]),
            table: Mutex::new(Slab::new()),
            open: AtomicUsize::new(0),
            gauge,
            draining: AtomicBool::new(false),
            end_is_near: AtomicBool::new(false),
            evicting: AtomicBool::new(false),
        };
        watch.show();
        watch.tick();
        watch
    }

    fn show(&self) {
        if let Some(row) = &self.gauge {
            row.set_open(self.open() as u64);
        }
    }

    /// Advances the clock and wakes every connection whose deadline has passed.
    pub fn tick(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.now.store(now, Ordering::Relaxed);
        let date = httpdate::fmt_http_date(SystemTime::now());
        if let Ok(date) = <[u8; DATE_LENGTH]>::try_from(date.as_bytes()) {
            *lock(&self.date) = date;
        }
        let evicting = self.evicting();
        for (_, watched) in lock(&self.table).iter() {
            let over = watched.deadline.load(Ordering::Relaxed) <= now;
            if over || (evicting && watched.idle.load(Ordering::Relaxed)) {
                watched.deadline.store(NEVER, Ordering::Relaxed);
                watched.expired.store(true, Ordering::Relaxed);
                watched.waker.wakeup();
            }
        }
    }

    /// The value of `Date`.
    pub fn date(&self) -> [u8; DATE_LENGTH] {
        *lock(&self.date)
    }

    /// Milliseconds on the watch's clock, as of the last tick.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that have a coroutine now: all but those in the lobby.
    pub fn on_coroutines(&self) -> usize {
        lock(&self.table).len()
    }

    /// From now on every response is its connection's last.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whoever asks is told that the server is about to stop; nothing else changes yet.
    pub fn announce_end(&self) {
        self.end_is_near.store(true, Ordering::Relaxed);
    }

    /// Whether that was announced, or has begun.
    pub fn end_is_near(&self) -> bool {
        self.end_is_near.load(Ordering::Relaxed) || self.draining()
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From the next tick on, connections with nothing in flight are closed.
    pub fn evict_idle(&self) {
        self.evicting.store(true, Ordering::Relaxed);
    }

    pub fn evicting(&self) -> bool {
        self.evicting.load(Ordering::Relaxed)
    }

    /// Counts a connection that is open but not in the table: one in the lobby.
    pub fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.show();
    }

    /// Counts it out again.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.show();
    }

    /// Enters a connection.
    pub fn register(&self, waker: WaitIoWaker) -> Registration<'_> {
        let watched = Arc::new(Watched {
            waker,
            deadline: AtomicU64::new(NEVER),
            expired: AtomicBool::new(false),
            idle: AtomicBool::new(false),
        });
        let key = lock(&self.table).insert(watched.clone());
        self.enter();
        Registration {
            watch: self,
            key,
            watched,
        }
    }
}

impl Registration<'_> {
    /// The connection must be done with what it does now after `patience`.
    pub fn within(&self, patience: Duration) {
        self.until(self.watch.now() + patience.as_millis() as u64);
    }

    /// The same, as a moment on the watch's clock.
    pub fn until(&self, deadline: u64) {
        self.watched.expired.store(false, Ordering::Relaxed);
        self.watched.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Milliseconds on the watch's clock.
    pub fn now(&self) -> u64 {
        self.watch.now()
    }

    /// The connection waits for something else than its socket, which has a deadline of its own.
    pub fn rest(&self) {
        self.until(NEVER);
    }

    /// Whether the connection has nothing in flight.
    pub fn idle(&self, idle: bool) {
        self.watched.idle.store(idle, Ordering::Relaxed);
    }

    /// Whether the deadline has passed; answers once.
    pub fn take_expired(&self) -> bool {
        self.watched.expired.load(Ordering::Relaxed)
            && self.watched.expired.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        lock(&self.watch.table).try_remove(self.key);
        self.watch.leave();
    }
}
