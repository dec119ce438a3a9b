//! Accepting: one coroutine a listener, which starts one a connection, and pauses when there is no room.

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{io, mem};

use may::coroutine::{self, Coroutine};
use may::io::{CoIo, WaitIo, WaitIoWaker};

use super::Inherited;
use super::balance::Balance;
use super::steward::TICK;
use crate::http::connection::{self, Arrival, Door};
use crate::http::lobby::Lobby;
use crate::http::service::Service;
use crate::scoreboard::Scoreboard;
use crate::scoreboard::counters::Counter;
use crate::sys;

/// How many connections beyond the limit may be hearing that there is no room. Those after them wait unaccepted.
pub const TURNED_AWAY: usize = 64;

/// A shortage is told at most this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How many connections in a row are accepted, and begun, before everything else has its turn: a flood of new ones
/// must not hold the thread while their queue is filled as fast as it is emptied.
const TURN: u32 = 32;

/// A worker says at every tick that it attends to its listeners: longer than this many milliseconds without is a tick and a
/// half.
const UNATTENDED: u64 = 150;

/// Within so many milliseconds somebody is to look into a queue: README's promise. A sibling notices at its next tick.
const LOOKED_INTO: u64 = 250;
const _: () = assert!(UNATTENDED + TICK.as_millis() as u64 <= LOOKED_INTO);

/// How to stop accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Others serve the listener too: leave what waits in its queue to them.
    AtOnce = 1,
    /// Nobody else will: serve what waits first.
    WhenEmpty = 2,
}

/// What all acceptors of a worker obey, and the way to wake them and the clock.
pub struct Gate {
    max_connections: usize,
    /// 0 is open, else a [`Close`].
    closing: AtomicU8,
    accepting: AtomicUsize,
    wakers: Mutex<Vec<WaitIoWaker>>,
    /// Acceptors that wait for room, until the next tick.
    paused: Mutex<Vec<Coroutine>>,
    /// Acceptors that leave what waits to a sibling, until that has taken some, or until the next tick or connection.
    deferring: Mutex<Vec<WaitIoWaker>>,
    /// When a shortage was last told.
    told: Mutex<Option<Instant>>,
    clock: OnceLock<Coroutine>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    pub fn new(max_connections: usize) -> Self {
        Gate {
            max_connections,
            closing: AtomicU8::new(0),
            accepting: AtomicUsize::new(0),
            wakers: Mutex::default(),
            paused: Mutex::default(),
            deferring: Mutex::default(),
            told: Mutex::default(),
            clock: OnceLock::new(),
        }
    }

    /// The coroutine that ticks; to be set once, before the first tick.
    pub fn set_clock(&self, clock: Coroutine) {
        let _ = self.clock.set(clock);
    }

    /// Lets the clock tick. Called by the control thread.
    pub fn wake_clock(&self) {
        if let Some(clock) = self.clock.get() {
            clock.unpark();
        }
    }

    /// From the next tick on nothing more is accepted.
    pub fn close(&self, how: Close) {
        self.closing.fetch_max(how as u8, Ordering::Relaxed);
    }

    /// Whether this worker accepts what comes to its own listeners.
    pub fn is_open(&self) -> bool {
        self.closing.load(Ordering::Relaxed) == 0
    }

    /// Whether every acceptor has left.
    pub fn is_closed(&self) -> bool {
        self.closing.load(Ordering::Relaxed) != 0 && self.accepting.load(Ordering::Acquire) == 0
    }

    /// Wakes acceptors that have something to see: room may be there again, or the gate closes.
    pub fn tick(&self) {
        for coroutine in mem::take(&mut *lock(&self.paused)) {
            coroutine.unpark();
        }
        // A sibling that was rung may have died since: then what waits is ours after all.
        self.resume();
        if self.closing.load(Ordering::Relaxed) != 0 {
            for waker in mem::take(&mut *lock(&self.wakers)) {
                waker.wakeup();
            }
        }
    }

    /// Has the acceptors that left what waits to a sibling look again. Called on the scheduler's thread.
    pub fn resume(&self) {
        for waker in mem::take(&mut *lock(&self.deferring)) {
            waker.wakeup();
        }
    }

    fn is_closing(&self, how: Close) -> bool {
        self.closing.load(Ordering::Relaxed) == how as u8
    }

    /// Something has run out: trying again at once would only burn the CPU.
    fn tell_want(&self, of: &str, error: &io::Error) {
        let now = Instant::now();
        if lock(&self.told).is_none_or(|last| now.duration_since(last) >= TELL_EVERY) {
            *lock(&self.told) = Some(now);
            log::warn!(
                "worker: no {of} for a connection ({error}): new ones wait until others are done; the master's first \
                 lines say which limit is too low"
            );
        }
    }

    fn pause(&self) {
        lock(&self.paused).push(coroutine::current());
        coroutine::park();
    }
}

/// Accepts from one listener until the gate closes. Reports once, when connections will be taken from now on.
pub fn run<S: Service>(
    listener: &Inherited,
    balance: &Balance,
    gate: &Gate,
    door: &Arc<Door<S>>,
    started: &mpsc::Sender<io::Result<()>>,
) {
    gate.accepting.fetch_add(1, Ordering::Relaxed);
    // The master and the other workers hold this listener too, so closing it here does not take it out of the
    // scheduler's epoll(7): only the runtime does, and only while the descriptor is open. Lent, not given, it is.
    // Left in, the next connection's event would point to memory that is no longer the runtime's.
    match CoIo::new(listener.socket.as_fd()) {
        Ok(readiness) => {
            lock(&gate.wakers).push(readiness.waker());
            // The receiver lives until all have reported.
            let _ = started.send(Ok(()));
            accept_all(listener, &readiness, balance, gate, door);
        }
        Err(error) => drop(started.send(Err(error.into()))),
    }
    gate.accepting.fetch_sub(1, Ordering::Release);
}

/// Gives connections that come back from the lobby a coroutine again, for ever.
pub fn readmit<S: Service>(gate: &Gate, lobby: &Lobby, door: &Arc<Door<S>>) {
    lobby.attend(|stream, arrival, deadline| {
        if let Err(error) = board(stream, arrival, deadline, door) {
            gate.tell_want("stack", &error);
            gate.pause();
        }
    });
}

/// Starts a connection's coroutine. Without a stack it waits in the lobby until `deadline` (on the watch's clock), which
/// tries again once the connection has something to read; without a lobby it is closed.
pub fn board<S: Service>(
    stream: TcpStream,
    arrival: Arrival,
    deadline: u64,
    door: &Arc<Door<S>>,
) -> io::Result<()> {
    let mut boarding = Boarding {
        stream: Some(stream),
        arrival,
        deadline,
        door: door.clone(),
    };
    sys::start_coroutine(move || {
        if let Some(stream) = boarding.stream.take() {
            connection::serve(stream, boarding.arrival, &boarding.door);
        }
    })
}

/// A connection on its way to a coroutine. A start that fails drops it, and that is the only way back.
struct Boarding<S: Service> {
    stream: Option<TcpStream>,
    arrival: Arrival,
    deadline: u64,
    door: Arc<Door<S>>,
}

impl<S: Service> Drop for Boarding<S> {
    fn drop(&mut self) {
        if let (Some(stream), Some(lobby)) = (self.stream.take(), &self.door.lobby) {
            lobby.seat(stream, self.arrival, self.deadline);
        }
    }
}

fn accept_all<S: Service>(
    listener: &Inherited,
    readiness: &impl WaitIo,
    balance: &Balance,
    gate: &Gate,
    door: &Arc<Door<S>>,
) {
    let mut streak = 0;
    while !gate.is_closing(Close::AtOnce) {
        if streak == TURN {
            door.turnstile.pass();
            streak = 0;
        }
        if gate.is_open() && balance.defers() {
            lock(&gate.deferring).push(readiness.waker());
            readiness.wait_io();
            streak = 0;
            continue;
        }
        match accept_one(listener, gate, door) {
            Accepted::One => streak += 1,
            Accepted::None if gate.is_closing(Close::WhenEmpty) => return,
            Accepted::None => {
                readiness.wait_io();
                streak = 0;
            }
            Accepted::NoRoom => gate.pause(),
        }
    }
}

/// What a look into a listener's queue gave.
enum Accepted {
    One,
    None,
    /// Something has run out; trying again at once would only burn the CPU.
    NoRoom,
}

fn accept_one<S: Service>(listener: &Inherited, gate: &Gate, door: &Arc<Door<S>>) -> Accepted {
    let no_room = |of, error| {
        door.tally.count(Counter::AcceptPauses);
        gate.tell_want(of, &error);
        Accepted::NoRoom
    };
    let open = door.watch.open();
    if open >= gate.max_connections + TURNED_AWAY {
        door.tally.count(Counter::AcceptPauses);
        return Accepted::NoRoom;
    }
    let stream = match listener.socket.accept() {
        Ok((stream, _)) => stream,
        Err(error) => {
            return match error.kind() {
                // A listener for a slot that is yet to come does not listen.
                io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput => Accepted::None,
                // accept(2): errors of the connection, not of the listener.
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => Accepted::One,
                _ => no_room("descriptor", error),
            };
        }
    };
    let started = match open < gate.max_connections {
        true => {
            door.tally.count(Counter::Connections);
            let idle = door.patience.idle.as_millis() as u64;
            board(stream, listener.arrival(), door.watch.now() + idle, door)
        }
        false => {
            door.tally.count(Counter::TurnedAway);
            let door = door.clone();
            sys::start_coroutine(move || connection::turn_away(stream, &door))
        }
    };
    match started {
        Ok(()) => Accepted::One,
        Err(error) => no_room("stack", error),
    }
}

/// The listeners of other slots, for those that have too much to do and those that do nothing. While one of them has no worker, or one that hangs, whoever notices takes from its
/// queue, so that nobody waits there for a boot, a back-off or a hang time-out.
pub struct Siblings<S> {
    /// Until the worker leaves.
    listeners: Mutex<Vec<Inherited>>,
    slots: usize,
    scoreboard: Scoreboard,
    door: Arc<Door<S>>,
}

impl<S: Service> Siblings<S> {
    /// `slots` is how many slots there are, this worker's included.
    pub fn new(
        listeners: Vec<Inherited>,
        slots: usize,
        scoreboard: Scoreboard,
        door: Arc<Door<S>>,
    ) -> Self {
        Siblings {
            listeners: Mutex::new(listeners),
            slots,
            scoreboard,
            door,
        }
    }

    /// Accepts what waits where nobody has looked for a while. Called by every tick, on the scheduler's thread.
    pub fn tick(&self, gate: &Gate, now: u64) {
        let mut listeners = lock(&self.listeners);
        for listener in listeners.iter() {
            let last = self.scoreboard.last_attended(listener.mark);
            if now.saturating_sub(last) > UNATTENDED {
                self.take(listener, gate, || true);
            }
        }
        // Held on to, they would stay open after all who serve them have left. Those of an address that goes are attended to by
        // fewer and fewer, and this worker may be the last to know them.
        if !gate.is_open() {
            for listener in listeners.iter() {
                while gate.is_closing(Close::WhenEmpty)
                    && self.take(listener, gate, || true) == TURN as usize
                {}
            }
            listeners.clear();
        }
    }

    /// Accepts what waits with siblings that have more connections than this worker: one of them has rung. Answers with the
    /// slots of those that it has relieved, who may go on now.
    pub fn relieve(&self, gate: &Gate) -> Vec<usize> {
        let mut relieved = Vec::new();
        if !gate.is_open() {
            return relieved;
        }
        for listener in lock(&self.listeners).iter() {
            let slot = listener.number % self.slots;
            if let Some(theirs) = self.scoreboard.worker_of(slot) {
                let own = &self.door.tally;
                if self.take(listener, gate, || own.open() + 1 < theirs.open()) > 0 {
                    relieved.push(slot);
                }
            }
        }
        relieved
    }

    /// Takes from a queue while `more` says so, and answers with how many it took. What is left after a turn is the next
    /// tick's, which has more to do now.
    fn take(&self, listener: &Inherited, gate: &Gate, more: impl Fn() -> bool) -> usize {
        (0..TURN)
            .take_while(|_| {
                more() && matches!(accept_one(listener, gate, &self.door), Accepted::One)
            })
            .count()
    }
}
