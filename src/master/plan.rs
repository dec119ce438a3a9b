//! What the master does about what happens: pure decisions, no clock, no process, no socket. The master feeds it
//! events and performs the actions that come back.
//!
//! A slot has at most one worker that is meant to serve (`current`), one that is about to replace it
//! (`successor`) and any number that finish (`retired`). A reload gives each slot a successor, a tenth of the slots at
//! a time, and so does a worker that asks to be relieved; the old worker retires only when the new one has reported
//! that it serves. A reload whose workers don't get ready in a slot is taken back in the others.

mod back;
mod pursuit;
mod slot;
mod standing;

use std::time::{Duration, Instant};

pub use self::slot::Doing;
use self::slot::{DEGRADED_AFTER, Slot, State, Worker};
pub use self::standing::Standing;

/// How long a hung worker has to die of SIGABRT, before SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// A worker that lived this long owes nothing to the deaths before it.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// A first generation with this many deaths and not one worker that got ready will never be.
const HOPELESS_AFTER: u32 = 5;

/// How much longer than its drain a worker gets before it is killed.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// How long a worker that was killed has to be dead. The kernel holds one longer that sleeps uninterruptibly, as on a disk that does
/// not answer.
const BURIAL: Duration = Duration::from_secs(5);

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
    /// The server is about to stop: have this one say so where it is asked whether it is ready.
    Unready(WorkerId),
    /// All of them say so now, and everything is served on until the delay is over.
    Delay,
    /// Let this one finish, for the server stops.
    Stop(WorkerId),
    /// SIGABRT: it hangs, and its end should leave a trace.
    Abort(WorkerId),
    /// SIGKILL.
    Kill(WorkerId),
    /// It was killed and does not die: go on without it.
    Forsake(WorkerId),
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
    /// A slot's workers don't get ready with the new configuration: the one before it is the one again, and comes back to
    /// the slots that the new one has reached.
    TakeBack,
    /// With the one before it they don't get ready either, and nobody serves it any more: the new one stays after all.
    Keep,
    /// The new configuration serves nowhere, be it that its first worker did not get ready or that it was taken back: forget
    /// it.
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
    /// From being told to stop until stopping: the time that balancers have to notice. Zero for none.
    pub delay: Duration,
    /// How long the workers that a reload has started serve before it starts the next ones.
    pub pause: Duration,
}

/// A reload that is under way.
#[derive(Debug, Clone, Copy)]
struct Roll {
    /// How many slots there will be.
    slots: usize,
    step: Step,
    /// Workers in a row that did not get ready, in whatever slots.
    failures: u32,
    /// Until then no other slot follows, for one has only just done so.
    pauses_until: Option<Instant>,
}

impl Roll {
    fn to(slots: usize, step: Step) -> Self {
        Roll {
            slots,
            step,
            failures: 0,
            pauses_until: None,
        }
    }

    /// Notes a worker that did not get ready; true if it was one too many. Those of several slots that fail together count
    /// for about one.
    fn fails(&mut self) -> bool {
        self.failures += 1;
        self.failures as usize >= DEGRADED_AFTER as usize - 1 + pursuit::at_a_time(self.slots)
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// No worker of the new configuration has got ready yet: a slot tries it alone, the first one that is new if there is one.
    Canary,
    /// It serves, and the other slots follow. What served before has the number `before`.
    Rest { before: u64 },
    /// It has failed in a slot, and is taken back in the others. It has the number `failed`, and wanted so many slots.
    Back { failed: u64, slots: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Stopping,
}

/// The state of the whole server, as the master has to know it.
#[derive(Debug, Clone)]
pub struct Plan {
    phase: Phase,
    patience: Patience,
    /// How many slots should have a worker; those behind them empty themselves.
    wanted: usize,
    slots: Vec<Slot>,
    roll: Option<Roll>,
    /// When the server stops, since it was told to and waits for balancers to notice.
    stop_at: Option<Instant>,
    /// That time has passed, and nobody has hurried it.
    has_waited: bool,
    /// Some worker has served at some time.
    has_served: bool,
    /// A change waits for calm: workers that asked to be relieved are not replaced meanwhile.
    change_waits: bool,
    /// The number of the configuration that serves.
    generation: u64,
    /// The highest number that a configuration has had: one that was taken back does not leave its own to the next.
    newest: u64,
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
            stop_at: None,
            has_waited: false,
            has_served: false,
            change_waits: false,
            generation: 1,
            newest: 1,
            next_worker: 0,
        }
    }

    /// How long stopping takes at most, with time to spare for the last steps.
    pub fn longest_stop(&self) -> Duration {
        let delay = match self.is_stopping() {
            true => Duration::ZERO,
            false => self.patience.delay,
        };
        delay + self.patience.drain + 2 * KILL_GRACE + BURIAL
    }

    /// Takes over another patience, with a new configuration.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Says whether a change waits until nobody is being replaced. It will replace all workers, those that are worn too; and
    /// where workers wear out faster than they leave, there would be no calm for it.
    pub fn let_change_wait(&mut self, waits: bool) {
        self.change_waits = waits;
    }

    /// Whether a reload is under way, so that another one has to wait: never more than two generations live.
    pub fn is_rolling(&self) -> bool {
        let moves = |slot: &Slot| slot.successor.is_some() || !slot.retired.is_empty();
        self.roll.is_some() || self.slots.iter().any(moves)
    }

    /// The number of the configuration that serves.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many slots should have a worker.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// The slots whose workers don't get ready, which has been said.
    pub fn degraded(&self) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().enumerate().take(self.wanted);
        slots
            .filter(|(_, slot)| slot.failed_boots >= DEGRADED_AFTER)
            .map(|(index, _)| index)
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
                State::Killed { .. } => Doing::Killed,
            };
            (worker.id, worker.generation, doing)
        })
    }

    /// The slots that should have a worker, and wait for one.
    pub fn vacant(&self) -> impl Iterator<Item = usize> {
        let most = match self.is_stopping() {
            true => 0,
            false => self.wanted,
        };
        let slots = self.slots.iter().enumerate().take(most);
        slots
            .filter(|(_, slot)| slot.current.is_none() && slot.successor.is_none())
            .map(|(index, _)| index)
    }

    /// Whether some slot has never served.
    pub fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    pub fn is_stopping(&self) -> bool {
        self.phase == Phase::Stopping
    }

    /// Whether it stops, or will once the delay is over: no change is begun any more.
    pub fn is_leaving(&self) -> bool {
        self.is_stopping() || self.stop_at.is_some()
    }

    /// Whether the whole delay passed before it stopped.
    pub fn has_waited(&self) -> bool {
        self.has_waited
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
            Event::Stop => self.on_told_to_stop(now, &mut actions),
            Event::Abort => self.on_abort(now, &mut actions),
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
            State::Starting { until }
            | State::Retiring { until }
            | State::Aborting { until }
            | State::Killed { until } => Some(until),
            State::Ready { .. } => None,
        });
        let retries = self.slots.iter().filter_map(|slot| slot.retry_at);
        let pause = self.roll.and_then(|roll| roll.pauses_until);
        deadlines
            .chain(retries)
            .chain(self.stop_at)
            .chain(pause)
            .min()
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
                    worker.served = true;
                    self.has_served = true;
                    slot.note_boot(index, actions);
                }
            } else if slot.successor.as_ref().is_some_and(|worker| {
                // One whose boot took too long is dead in a moment, although it may have said this before.
                worker.id == id && matches!(worker.state, State::Starting { .. })
            }) {
                self.has_served = true;
                slot.note_boot(index, actions);
                slot.deaths = 0;
                slot.retry_at = None;
                if let Some(old) = slot.current.take() {
                    slot.retire(old, until, actions);
                }
                slot.current = slot.successor.take().map(|worker| Worker {
                    state: State::Ready { since: now },
                    served: true,
                    ..worker
                });
                let newer = slot
                    .current
                    .as_ref()
                    .is_some_and(|worker| worker.generation > self.newest);
                let Some(roll) = &mut self.roll else { continue };
                // Progress; a worker that merely comes back is none.
                roll.failures = 0;
                // One that was to relieve a worn worker proves nothing of a configuration that came later.
                if newer && let Step::Canary = roll.step {
                    roll.step = Step::Rest {
                        before: self.generation,
                    };
                    self.newest += 1;
                    self.generation = self.newest;
                    actions.push(Action::Adopt);
                }
                // What is taken back is not wanted anywhere any more.
                roll.pauses_until = match roll.step {
                    Step::Rest { .. } => Some(now + self.patience.pause),
                    Step::Canary | Step::Back { .. } => None,
                };
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
        let mut failed = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.retired.retain(|worker| worker.id != id);
            if slot
                .successor
                .as_ref()
                .is_some_and(|worker| worker.id == id)
            {
                let gone = slot.successor.take();
                let tried = gone.is_some_and(|worker| worker.generation > self.newest);
                match self.roll.map(|roll| roll.step) {
                    Some(Step::Canary) if tried => {
                        self.roll = None;
                        actions.push(Action::RejectReload);
                        continue;
                    }
                    // It is not the slot that does badly, but the reload.
                    Some(Step::Rest { .. } | Step::Back { .. }) => {
                        slot.failed = true;
                        failed = Some(index);
                    }
                    Some(Step::Canary) | None => slot.note_failed_boot(index, actions),
                }
                slot.back_off(index, salt, now);
            } else if let Some(worker) = slot.current.take_if(|worker| worker.id == id) {
                match worker.state {
                    State::Ready { since }
                        if now.saturating_duration_since(since) >= HEALTHY_AFTER =>
                    {
                        slot.deaths = 0;
                    }
                    _ if !worker.served => {
                        slot.note_failed_boot(index, actions);
                        if worker.generation == self.generation && !slot.spared {
                            slot.failed = true;
                            failed = Some(index);
                        }
                    }
                    _ => {}
                }
                slot.back_off(index, salt, now);
            }
        }
        if let Some(slot) = failed
            && self.roll.as_mut().is_some_and(Roll::fails)
        {
            self.give_up(slot, now, actions);
        }
        let deaths: u32 = self.slots.iter().map(|slot| slot.deaths).sum();
        let hopeless = self.phase == Phase::Starting && !self.has_served;
        if hopeless && deaths >= HOPELESS_AFTER {
            self.on_abort(now, actions);
            actions.push(Action::Exit { failed: true });
        }
    }

    fn on_reload(&mut self, slots: usize) {
        if self.phase == Phase::Stopping {
            return;
        }
        self.slots
            .resize_with(self.slots.len().max(slots), Slot::default);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.failed = false;
            slot.spared = index < self.wanted && slot.current.is_none();
        }
        self.roll = Some(Roll::to(slots, Step::Canary));
    }

    fn on_told_to_stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // Where nobody has served yet there is nobody that a balancer could send anything to.
        let delays = self.has_served && !self.patience.delay.is_zero();
        if self.phase == Phase::Stopping {
            // A second request to stop is one to hurry.
            self.on_abort(now, actions);
        } else if delays && self.stop_at.is_none() {
            self.stop_at = Some(now + self.patience.delay);
            actions.push(Action::Delay);
            actions.extend(self.workers().map(|worker| Action::Unready(worker.id)));
        } else {
            self.stop(now, actions);
        }
    }

    /// Stops, if the delay is over.
    fn end_delay(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.stop_at.is_some_and(|at| at <= now) {
            self.has_waited = true;
            self.stop(now, actions);
        }
    }

    fn stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping;
        self.stop_at = None;
        self.roll = None;
        actions.push(Action::StopAll);
        let until = now + self.patience.drain + KILL_GRACE;
        for slot in &mut self.slots {
            let serving = slot.current.take().into_iter().chain(slot.successor.take());
            for mut worker in serving {
                match worker.state {
                    State::Starting { .. } | State::Ready { .. } | State::Retiring { .. } => {
                        worker.state = State::Retiring { until };
                    }
                    // It hangs, and hears nothing: what was to end it soon still does.
                    State::Aborting { .. } | State::Killed { .. } => {}
                }
                slot.retired.push(worker);
            }
            // Those that retire already are told too: what is idle on them need not wait any longer.
            for worker in &slot.retired {
                if let State::Retiring { .. } = worker.state {
                    actions.push(Action::Stop(worker.id));
                }
            }
        }
    }

    fn on_abort(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let until = now + BURIAL;
        self.phase = Phase::Stopping;
        self.stop_at = None;
        self.roll = None;
        for slot in &mut self.slots {
            let serving = slot.current.take().into_iter().chain(slot.successor.take());
            slot.retired.extend(serving);
            for worker in &mut slot.retired {
                if !matches!(worker.state, State::Killed { .. }) {
                    worker.state = State::Killed { until };
                    actions.push(Action::Kill(worker.id));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
