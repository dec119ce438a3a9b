//! What the master does about what happens: pure decisions, no clock, no process, no socket. The master feeds it
//! events and performs the actions that come back.
//!
//! A slot has at most one worker that is meant to serve (`current`), one that is about to replace it
//! (`successor`) and any number that finish (`retired`). A reload gives each slot a successor, a tenth of the slots at
//! a time, and so does a worker that asks to be relieved; the old worker retires only when the new one has reported
//! that it serves.

mod standing;

use std::time::{Duration, Instant};

pub use self::standing::Standing;

/// The first pause before a slot's worker is replaced again, after an immediate replacement did not live.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest such pause.
const BACKOFF_MOST: Duration = Duration::from_secs(30);

/// By how much a pause may be shorter or longer, so that slots which die together don't come back together: a part of it.
const JITTER: u32 = 4;

/// So many boots in a row that fail make a slot degraded: it is tried on, and no longer talked about.
const DEGRADED_AFTER: u32 = 5;

/// What part of the slots is replaced at a time.
const ROLL_PART: usize = 10;

/// How long a hung worker has to die of SIGABRT, before SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// A worker that lived this long owes nothing to the deaths before it.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// A first generation with this many deaths and not one worker that got ready will never be.
const HOPELESS_AFTER: u32 = 5;

/// How much longer than its drain a worker gets before it is killed.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// A worker process, by the order of its start. Never reused, unlike a pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// What happens to the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The server starts.
    Start,
    /// A worker reports that it serves.
    Ready(WorkerId),
    /// A worker has done enough (requests, memory) and asks to be relieved.
    Worn(WorkerId),
    /// A worker's loop has not moved for the hang time-out.
    Hung(WorkerId),
    /// A worker is dead and reaped, or could not be started at all.
    Died(WorkerId),
    /// A new configuration was read and found good; it wants this many slots.
    Reload { slots: usize },
    /// Stop gracefully.
    Stop,
    /// Stop at once.
    Abort,
    /// Nothing but time passed.
    Tick,
}

/// What the master is to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Fork this worker for the slot: with the configuration that serves, or as the first with the one that is tried.
    Spawn {
        worker: WorkerId,
        slot: usize,
        candidate: bool,
    },
    /// A successor serves: let this one finish.
    Retire(WorkerId),
    /// Close the listeners and let every worker finish.
    StopAll,
    /// Let this one finish, for the server stops.
    Stop(WorkerId),
    /// SIGABRT: it hangs, and its end should leave a trace.
    Abort(WorkerId),
    /// SIGKILL.
    Kill(WorkerId),
    /// The slot's workers don't get ready; it is tried again ever more slowly.
    Degraded { slot: usize },
    /// A degraded slot serves again.
    Recovered { slot: usize },
    /// Every slot serves for the first time.
    Announce,
    /// The new configuration has proved itself in a first worker: from now on it is the one.
    Adopt,
    /// The new configuration serves in every slot.
    Reloaded,
    /// The new configuration's first worker did not get ready: forget it.
    RejectReload,
    /// Leave: gracefully, or because nothing ever got ready.
    Exit { failed: bool },
}

/// How patient the plan is; read anew with each configuration.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From fork to ready.
    pub boot: Duration,
    /// From an order to finish to the end.
    pub drain: Duration,
}

#[derive(Debug)]
struct Worker {
    id: WorkerId,
    /// The configuration that it runs with, by number.
    generation: u64,
    state: State,
    worn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting { until: Instant },
    Ready { since: Instant },
    Retiring { until: Instant },
    Aborting { until: Instant },
    Killed,
}

/// What a worker does, for those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Starting,
    Ready,
    Retiring,
    /// It hangs, and is being ended.
    Aborting,
    Killed,
}

#[derive(Debug, Default)]
struct Slot {
    current: Option<Worker>,
    successor: Option<Worker>,
    retired: Vec<Worker>,
    /// Deaths in a row without a healthy life in between.
    deaths: u32,
    /// Workers in a row that never got ready.
    failed_boots: u32,
    /// When the next worker may be started; `None` is at once.
    retry_at: Option<Instant>,
}

impl Slot {
    fn serves(&self) -> bool {
        let worker = self.current.as_ref();
        worker.is_some_and(|worker| matches!(worker.state, State::Ready { .. }))
    }

    fn is_empty(&self) -> bool {
        self.current.is_none() && self.successor.is_none() && self.retired.is_empty()
    }
}

/// A reload that is under way.
#[derive(Debug, Clone, Copy)]
struct Roll {
    /// How many slots there will be.
    slots: usize,
    /// No worker of the new configuration has got ready yet: the first slot tries it alone.
    canary: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Stopping,
}

/// The state of the whole server, as the master has to know it.
#[derive(Debug)]
pub struct Plan {
    phase: Phase,
    patience: Patience,
    /// How many slots should have a worker; those behind them empty themselves.
    wanted: usize,
    slots: Vec<Slot>,
    roll: Option<Roll>,
    /// The number of the configuration that serves.
    generation: u64,
    next_worker: u64,
}

impl Plan {
    pub fn new(slots: usize, patience: Patience) -> Self {
        Plan {
            phase: Phase::Starting,
            patience,
            wanted: slots,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            roll: None,
            generation: 1,
            next_worker: 0,
        }
    }

    /// Takes over another patience, with a new configuration.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Whether a reload is under way, so that another one has to wait: never more than two generations live.
    pub fn is_rolling(&self) -> bool {
        let moves = |slot: &Slot| slot.successor.is_some() || !slot.retired.is_empty();
        self.roll.is_some() || self.slots.iter().any(moves)
    }

    /// How many slots should have a worker.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// How many workers serve.
    pub fn ready(&self) -> usize {
        self.slots.iter().filter(|slot| slot.serves()).count()
    }

    /// Every worker that is not dead yet, the generation that it runs with, and what it does.
    pub fn workers_now(&self) -> impl Iterator<Item = (WorkerId, u64, Doing)> {
        self.workers().map(|worker| {
            let doing = match worker.state {
                State::Starting { .. } => Doing::Starting,
                State::Ready { .. } => Doing::Ready,
                State::Retiring { .. } => Doing::Retiring,
                State::Aborting { .. } => Doing::Aborting,
                State::Killed => Doing::Killed,
            };
            (worker.id, worker.generation, doing)
        })
    }

    /// Whether some slot has never served.
    pub fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    pub fn is_stopping(&self) -> bool {
        self.phase == Phase::Stopping
    }

    /// Decides.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Start | Event::Tick => {}
            Event::Ready(worker) => self.on_ready(worker, now, &mut actions),
            Event::Worn(worker) => self.on_worn(worker),
            Event::Hung(worker) => self.on_hung(worker, now, &mut actions),
            Event::Died(worker) => self.on_died(worker, now, &mut actions),
            Event::Reload { slots } => self.on_reload(slots),
            Event::Stop => self.on_stop(now, &mut actions),
            Event::Abort => self.on_abort(&mut actions),
        }
        self.pursue(now, &mut actions);
        self.slots.truncate(
            self.slots
                .iter()
                .rposition(|slot| !slot.is_empty())
                .map_or(0, |last| last + 1)
                .max(self.wanted)
                .max(self.roll.map_or(0, |roll| roll.slots)),
        );
        actions
    }

    /// When something is due although nothing happens.
    pub fn next_due(&self) -> Option<Instant> {
        let deadlines = self.workers().filter_map(|worker| match worker.state {
            State::Starting { until } | State::Retiring { until } | State::Aborting { until } => {
                Some(until)
            }
            State::Ready { .. } | State::Killed => None,
        });
        let retries = self.slots.iter().filter_map(|slot| slot.retry_at);
        deadlines.chain(retries).min()
    }

    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.slots.iter().flat_map(|slot| {
            slot.current
                .iter()
                .chain(&slot.successor)
                .chain(&slot.retired)
        })
    }

    fn on_ready(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let until = now + self.patience.drain + KILL_GRACE;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(worker) = slot.current.as_mut().filter(|worker| worker.id == id) {
                if let State::Starting { .. } = worker.state {
                    worker.state = State::Ready { since: now };
                    note_boot(slot, index, actions);
                }
            } else if slot
                .successor
                .as_ref()
                .is_some_and(|worker| worker.id == id)
            {
                note_boot(slot, index, actions);
                slot.deaths = 0;
                slot.retry_at = None;
                if let Some(old) = slot.current.take() {
                    retire(slot, old, until, actions);
                }
                slot.current = slot.successor.take().map(|worker| Worker {
                    state: State::Ready { since: now },
                    ..worker
                });
                if let Some(roll) = &mut self.roll
                    && std::mem::replace(&mut roll.canary, false)
                {
                    self.generation += 1;
                    actions.push(Action::Adopt);
                }
            }
        }
    }

    fn on_worn(&mut self, id: WorkerId) {
        let serving = self
            .slots
            .iter_mut()
            .filter_map(|slot| slot.current.as_mut());
        for worker in serving.filter(|worker| worker.id == id) {
            worker.worn = true;
        }
    }

    fn on_hung(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        for slot in &mut self.slots {
            let workers = slot.current.iter_mut().chain(&mut slot.retired);
            for worker in workers.filter(|worker| worker.id == id) {
                if let State::Ready { .. } | State::Retiring { .. } = worker.state {
                    worker.state = State::Aborting {
                        until: now + ABORT_GRACE,
                    };
                    actions.push(Action::Abort(id));
                }
            }
        }
    }

    fn on_died(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let salt = self.next_worker;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.retired.retain(|worker| worker.id != id);
            if slot
                .successor
                .as_ref()
                .is_some_and(|worker| worker.id == id)
            {
                slot.successor = None;
                if self.roll.as_ref().is_some_and(|roll| roll.canary) {
                    self.roll = None;
                    actions.push(Action::RejectReload);
                } else {
                    note_failed_boot(slot, index, actions);
                    back_off(slot, index, salt, now);
                }
            } else if let Some(worker) = slot.current.take_if(|worker| worker.id == id) {
                match worker.state {
                    State::Ready { since }
                        if now.saturating_duration_since(since) >= HEALTHY_AFTER =>
                    {
                        slot.deaths = 0;
                    }
                    State::Starting { .. } => note_failed_boot(slot, index, actions),
                    _ => {}
                }
                back_off(slot, index, salt, now);
            }
        }
        let deaths: u32 = self.slots.iter().map(|slot| slot.deaths).sum();
        let any_ready = self
            .workers()
            .any(|worker| matches!(worker.state, State::Ready { .. }));
        if self.phase == Phase::Starting && !any_ready && deaths >= HOPELESS_AFTER {
            self.on_abort(actions);
            actions.push(Action::Exit { failed: true });
        }
    }

    fn on_reload(&mut self, slots: usize) {
        if self.phase == Phase::Stopping {
            return;
        }
        self.slots
            .resize_with(self.slots.len().max(slots), Slot::default);
        self.roll = Some(Roll {
            slots,
            canary: true,
        });
    }

    fn on_stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.phase == Phase::Stopping {
            // A second request to stop is one to hurry.
            self.on_abort(actions);
            return;
        }
        self.phase = Phase::Stopping;
        self.roll = None;
        actions.push(Action::StopAll);
        let until = now + self.patience.drain + KILL_GRACE;
        for slot in &mut self.slots {
            let serving = slot.current.take().into_iter().chain(slot.successor.take());
            for mut worker in serving {
                if worker.state != State::Killed {
                    worker.state = State::Retiring { until };
                    actions.push(Action::Stop(worker.id));
                }
                slot.retired.push(worker);
            }
            // Those that retire already are told too: what is idle on them need not wait any longer.
            for worker in &slot.retired {
                if worker.state != State::Killed && !actions.contains(&Action::Stop(worker.id)) {
                    actions.push(Action::Stop(worker.id));
                }
            }
        }
    }

    fn on_abort(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping;
        self.roll = None;
        for slot in &mut self.slots {
            let serving = slot.current.take().into_iter().chain(slot.successor.take());
            slot.retired.extend(serving);
            for worker in &mut slot.retired {
                if worker.state != State::Killed {
                    worker.state = State::Killed;
                    actions.push(Action::Kill(worker.id));
                }
            }
        }
    }

    /// Does what is due by itself: spawns, the next step of a roll, kills, the end.
    fn pursue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.kill_overdue(now, actions);
        for slot in &mut self.slots {
            slot.retry_at.take_if(|at| *at <= now);
        }
        match self.phase {
            Phase::Stopping => {
                let over = self.workers().next().is_none();
                if over
                    && !actions
                        .iter()
                        .any(|action| matches!(action, Action::Exit { .. }))
                {
                    actions.push(Action::Exit { failed: false });
                }
            }
            Phase::Starting | Phase::Running => {
                self.pursue_roll(now, actions);
                self.relieve_worn(now, actions);
                self.spawn_missing(now, actions);
                if self.phase == Phase::Starting && self.ready() >= self.wanted {
                    self.phase = Phase::Running;
                    actions.push(Action::Announce);
                }
            }
        }
    }

    fn kill_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for slot in &mut self.slots {
            let workers = slot
                .current
                .iter_mut()
                .chain(&mut slot.successor)
                .chain(&mut slot.retired);
            for worker in workers {
                if let State::Starting { until }
                | State::Retiring { until }
                | State::Aborting { until } = worker.state
                    && until <= now
                {
                    worker.state = State::Killed;
                    actions.push(Action::Kill(worker.id));
                }
            }
        }
    }

    fn pursue_roll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(Roll { slots, canary }) = self.roll else {
            return;
        };
        if canary {
            if self.slots[0].successor.is_none() && self.slots[0].retry_at.is_none() {
                self.start_successor(0, true, now, actions);
            }
            return;
        }
        let mut room = self.room_for_successors(slots);
        let mut done = true;
        for index in 0..slots {
            let slot = &self.slots[index];
            let behind = match &slot.current {
                Some(worker) => worker.generation < self.generation,
                // One of the slots there were comes back by itself, and with the new configuration.
                None => index >= self.wanted,
            };
            done &= !behind && slot.successor.is_none();
            if behind && slot.successor.is_none() && slot.retry_at.is_none() && room > 0 {
                room -= 1;
                self.start_successor(index, false, now, actions);
            }
        }
        // A slot whose worker has died comes back by itself, be it slowly; but somebody has to serve.
        done &= self.slots[..slots]
            .iter()
            .all(|slot| slot.serves() || slot.deaths > 0);
        if !done || !self.slots[..slots].iter().any(Slot::serves) {
            return;
        }
        // Every slot that stays serves the new configuration: those beyond go, their listeners are others' now.
        let until = now + self.patience.drain + KILL_GRACE;
        for slot in &mut self.slots[slots..] {
            if let Some(worker) = slot.current.take() {
                retire(slot, worker, until, actions);
            }
        }
        self.roll = None;
        self.wanted = slots;
        actions.push(Action::Reloaded);
    }

    /// Gives successors to workers that asked to be relieved, unless a reload does so anyway.
    fn relieve_worn(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.roll.is_some() {
            return;
        }
        let mut room = self.room_for_successors(self.wanted);
        for index in 0..self.wanted {
            let slot = &self.slots[index];
            let worn = slot
                .current
                .as_ref()
                .is_some_and(|worker| worker.worn && matches!(worker.state, State::Ready { .. }));
            let free = slot.successor.is_none() && slot.retired.is_empty();
            if worn && free && slot.retry_at.is_none() && room > 0 {
                room -= 1;
                self.start_successor(index, false, now, actions);
            }
        }
    }

    /// How many more slots may be replaced now.
    fn room_for_successors(&self, slots: usize) -> usize {
        let under_way = self.slots.iter().filter(|slot| slot.successor.is_some());
        (slots / ROLL_PART).max(1).saturating_sub(under_way.count())
    }

    fn start_successor(
        &mut self,
        slot: usize,
        candidate: bool,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let worker = self.start_worker(candidate, now);
        actions.push(Action::Spawn {
            worker: worker.id,
            slot,
            candidate,
        });
        self.slots[slot].successor = Some(worker);
    }

    /// Fills the slots that should have a worker and have none.
    fn spawn_missing(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // A reload leaves out the slot that tries the new configuration, and those that it is about to drop.
        let (trying, beyond) = match self.roll {
            Some(Roll { slots, canary }) => (canary, slots),
            None => (false, usize::MAX),
        };
        for index in 0..self.wanted.min(beyond) {
            let slot = &self.slots[index];
            let left_out = slot.successor.is_some() || (trying && index == 0);
            if slot.current.is_none() && !left_out && slot.retry_at.is_none() {
                let worker = self.start_worker(false, now);
                actions.push(Action::Spawn {
                    worker: worker.id,
                    slot: index,
                    candidate: false,
                });
                self.slots[index].current = Some(worker);
            }
        }
    }

    fn start_worker(&mut self, candidate: bool, now: Instant) -> Worker {
        self.next_worker += 1;
        Worker {
            id: WorkerId(self.next_worker),
            generation: self.generation + u64::from(candidate),
            worn: false,
            state: State::Starting {
                until: now + self.patience.boot,
            },
        }
    }
}

/// Lets a worker finish. One that never got ready has nothing to finish.
fn retire(slot: &mut Slot, mut worker: Worker, until: Instant, actions: &mut Vec<Action>) {
    match worker.state {
        State::Ready { .. } | State::Starting { .. } => {
            worker.state = State::Retiring { until };
            actions.push(Action::Retire(worker.id));
        }
        State::Retiring { .. } | State::Aborting { .. } | State::Killed => {}
    }
    slot.retired.push(worker);
}

fn note_boot(slot: &mut Slot, index: usize, actions: &mut Vec<Action>) {
    if std::mem::take(&mut slot.failed_boots) >= DEGRADED_AFTER {
        actions.push(Action::Recovered { slot: index });
    }
}

fn note_failed_boot(slot: &mut Slot, index: usize, actions: &mut Vec<Action>) {
    slot.failed_boots = slot.failed_boots.saturating_add(1);
    if slot.failed_boots == DEGRADED_AFTER {
        actions.push(Action::Degraded { slot: index });
    }
}

/// The first death is answered at once; the ones that follow wait twice as long each time, more or less.
fn back_off(slot: &mut Slot, index: usize, salt: u64, now: Instant) {
    let pause = match slot.deaths {
        0 => None,
        deaths => Some(
            BACKOFF_FIRST
                .saturating_mul(1 << (deaths - 1).min(16))
                .min(BACKOFF_MOST),
        ),
    };
    slot.deaths = slot.deaths.saturating_add(1);
    slot.retry_at = pause.map(|pause| {
        // Any spread will do, and one made of what the plan knows keeps it pure.
        let spread = (salt ^ index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let part = (pause / JITTER).mul_f64(spread as f64 / f64::from(u32::MAX));
        now + pause - pause / JITTER / 2 + part
    });
}

#[cfg(test)]
mod tests;
