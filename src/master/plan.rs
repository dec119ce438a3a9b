//! What the master does about what happens: pure decisions, no clock, no process, no socket. The master feeds it
//! events and performs the actions that come back.
//!
//! A slot has at most one worker that is meant to serve (`current`), one that is about to replace it
//! (`successor`) and any number that finish (`retired`). A reload gives each slot a successor, one slot at a
//! time; the old worker retires only when the new one has reported that it serves.

use std::time::{Duration, Instant};

/// The first pause before a slot's worker is replaced again, after an immediate replacement did not live.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest such pause.
const BACKOFF_MOST: Duration = Duration::from_secs(30);

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
    /// SIGKILL.
    Kill(WorkerId),
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
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting { until: Instant },
    Ready { since: Instant },
    Retiring { until: Instant },
    Killed,
}

#[derive(Debug, Default)]
struct Slot {
    current: Option<Worker>,
    successor: Option<Worker>,
    retired: Vec<Worker>,
    /// Deaths in a row without a healthy life in between.
    deaths: u32,
    /// When to try again; `None` is at once.
    retry_at: Option<Instant>,
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.current.is_none() && self.successor.is_none() && self.retired.is_empty()
    }
}

/// A reload that is under way.
#[derive(Debug, Clone, Copy)]
struct Roll {
    /// The slot that gets its successor now.
    slot: usize,
    /// How many slots there will be.
    slots: usize,
    /// No worker of the new configuration has got ready yet.
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
            next_worker: 0,
        }
    }

    /// Takes over another patience, with a new configuration.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Whether a reload is under way, so that another one has to wait: never more than two generations live.
    pub fn is_rolling(&self) -> bool {
        self.roll.is_some() || self.slots.iter().any(|slot| !slot.retired.is_empty())
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
            State::Starting { until } | State::Retiring { until } => Some(until),
            State::Ready { .. } | State::Killed => None,
        });
        let retries = self
            .slots
            .iter()
            .filter(|slot| slot.current.is_none())
            .filter_map(|slot| slot.retry_at);
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
        for slot in &mut self.slots {
            if let Some(worker) = slot.current.as_mut().filter(|worker| worker.id == id) {
                if let State::Starting { .. } = worker.state {
                    worker.state = State::Ready { since: now };
                }
            } else if slot
                .successor
                .as_ref()
                .is_some_and(|worker| worker.id == id)
            {
                slot.deaths = 0;
                slot.retry_at = None;
                if let Some(old) = slot.current.take() {
                    retire(slot, old, until, actions);
                }
                slot.current = slot.successor.take().map(|worker| Worker {
                    state: State::Ready { since: now },
                    ..worker
                });
                if let Some(roll) = &mut self.roll {
                    roll.slot += 1;
                    if std::mem::replace(&mut roll.canary, false) {
                        actions.push(Action::Adopt);
                    }
                }
            }
        }
    }

    fn on_died(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        for slot in &mut self.slots {
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
                    back_off(slot, now);
                }
            } else if let Some(worker) = slot.current.take_if(|worker| worker.id == id) {
                if let State::Ready { since } = worker.state
                    && now.saturating_duration_since(since) >= HEALTHY_AFTER
                {
                    slot.deaths = 0;
                }
                back_off(slot, now);
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
            slot: 0,
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
                self.spawn_missing(now, actions);
                let serves = |slot: &Slot| {
                    slot.current
                        .as_ref()
                        .is_some_and(|worker| matches!(worker.state, State::Ready { .. }))
                };
                if self.phase == Phase::Starting && self.slots[..self.wanted].iter().all(serves) {
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
                if let State::Starting { until } | State::Retiring { until } = worker.state
                    && until <= now
                {
                    worker.state = State::Killed;
                    actions.push(Action::Kill(worker.id));
                }
            }
        }
    }

    fn pursue_roll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(roll) = &self.roll else { return };
        let Roll {
            slot,
            slots,
            canary,
        } = *roll;
        if slot < slots {
            let due = self.slots[slot].retry_at.is_none_or(|at| at <= now);
            if self.slots[slot].successor.is_none() && due {
                let worker = self.start_worker(now);
                actions.push(Action::Spawn {
                    worker: worker.id,
                    slot,
                    candidate: canary,
                });
                self.slots[slot].successor = Some(worker);
            }
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

    /// Fills the slots that should have a worker and have none.
    fn spawn_missing(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // A reload leaves out the slot whose successor is on its way, and those that it is about to drop.
        let (rolled, beyond) = self
            .roll
            .as_ref()
            .map_or((usize::MAX, usize::MAX), |roll| (roll.slot, roll.slots));
        for index in 0..self.wanted.min(beyond) {
            let slot = &self.slots[index];
            let due = slot.retry_at.is_none_or(|at| at <= now);
            if slot.current.is_none() && due && index != rolled {
                let worker = self.start_worker(now);
                actions.push(Action::Spawn {
                    worker: worker.id,
                    slot: index,
                    candidate: false,
                });
                self.slots[index].current = Some(worker);
            }
        }
    }

    fn start_worker(&mut self, now: Instant) -> Worker {
        self.next_worker += 1;
        Worker {
            id: WorkerId(self.next_worker),
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
        State::Retiring { .. } | State::Killed => {}
    }
    slot.retired.push(worker);
}

/// The first death is answered at once; the ones that follow wait twice as long each time.
fn back_off(slot: &mut Slot, now: Instant) {
    let pause = match slot.deaths {
        0 => None,
        deaths => Some(
            BACKOFF_FIRST
                .saturating_mul(1 << (deaths - 1).min(16))
                .min(BACKOFF_MOST),
        ),
    };
    slot.deaths = slot.deaths.saturating_add(1);
    slot.retry_at = pause.map(|pause| now + pause);
}

#[cfg(test)]
mod tests;
