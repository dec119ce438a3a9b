//! What is due by itself, whatever has happened: the next step of a reload, workers that are missing or worn, kills, the
//! end.

use std::time::Instant;

use super::slot::{BACKOFF_FIRST, DEGRADED_AFTER, Slot, State, Worker};
use super::{Action, BURIAL, KILL_GRACE, Phase, Plan, Roll, Step, WorkerId};

/// What part of the slots is replaced at a time.
const ROLL_PART: usize = 10;

/// How many of so many slots are replaced at a time.
pub(super) fn at_a_time(slots: usize) -> usize {
    (slots / ROLL_PART).max(1)
}

fn has_exit(actions: &[Action]) -> bool {
    let is_exit = |action: &Action| matches!(action, Action::Exit { .. });
    actions.iter().any(is_exit)
}

impl Plan {
    /// Does what is due by itself: spawns, the next step of a roll, kills, the end.
    pub(super) fn pursue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.end_delay(now, actions);
        self.forsake_immortal(now, actions);
        self.kill_overdue(now, actions);
        for slot in &mut self.slots {
            slot.retry_at.take_if(|at| *at <= now);
        }
        match self.phase {
            Phase::Stopping => {
                let over = self.workers().next().is_none();
                if over && !has_exit(actions) {
                    actions.push(Action::Exit { failed: false });
                }
            }
            Phase::Starting | Phase::Running => {
                self.pursue_roll(now, actions);
                self.relieve_worn(now, actions);
                self.hasten(now);
                self.spawn_missing(now, actions);
                let wanted = &self.slots[..self.wanted];
                if self.phase == Phase::Starting && wanted.iter().all(Slot::serves) {
                    self.phase = Phase::Running;
                    actions.push(Action::Announce);
                }
            }
        }
    }

    /// Takes those for dead that were killed and don't die: nothing of theirs runs any more, and neither the slot nor a reload nor the
    /// end of the server waits for what holds them.
    fn forsake_immortal(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let overdue =
            |worker: &&Worker| matches!(worker.state, State::Killed { until } if until <= now);
        let immortal: Vec<WorkerId> = self
            .workers()
            .filter(overdue)
            .map(|worker| worker.id)
            .collect();
        for id in immortal {
            // The one before it may have been one death too many of a start.
            if has_exit(actions) {
                return;
            }
            actions.push(Action::Forsake(id));
            self.on_died(id, now, actions);
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
                    worker.state = State::Killed {
                        until: now + BURIAL,
                    };
                    actions.push(Action::Kill(worker.id));
                }
            }
        }
    }

    fn pursue_roll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(Roll { slots, step, .. }) = self.roll else {
            return;
        };
        if let Step::Canary = step {
            let slot = self.canary(slots);
            if self.slots[slot].successor.is_none() && self.slots[slot].retry_at.is_none() {
                self.start_successor(slot, true, now, actions);
            }
            return;
        }
        let mut room = match self.roll_pauses(now) {
            true => 0,
            false => self.room_for_successors(slots),
        };
        let mut done = true;
        for index in self.order(slots) {
            let slot = &self.slots[index];
            let behind = match &slot.current {
                Some(worker) => worker.generation != self.generation,
                // One of the slots there were comes back by itself, and with the new configuration.
                None => index >= self.wanted,
            };
            done &= !behind && slot.successor.is_none();
            if behind && slot.successor.is_none() && slot.retry_at.is_none() && room > 0 {
                room -= 1;
                self.start_successor(index, false, now, actions);
            }
        }
        // A slot whose worker has died comes back by itself, be it slowly, unless this configuration keeps it from that; but
        // somebody has to serve.
        done &= self.slots[..slots]
            .iter()
            .all(|slot| slot.serves() || (slot.deaths > 0 && (slot.spared || !slot.failed)));
        let somebody = self.slots[..slots].iter().any(Slot::serves);
        // What is taken back is over even so when there is nobody at all: it must not keep the next reload waiting.
        let nobody = matches!(step, Step::Back { .. }) && self.ready() == 0;
        if !done || !(somebody || nobody) {
            return;
        }
        // Every slot that stays serves the new configuration: those beyond go, their listeners are others' now.
        let until = now + self.patience.drain + KILL_GRACE;
        for slot in &mut self.slots[slots..] {
            if let Some(worker) = slot.current.take() {
                slot.retire(worker, until, actions);
            }
        }
        self.roll = None;
        self.wanted = slots;
        actions.push(match step {
            Step::Back { .. } => Action::RejectReload,
            Step::Canary | Step::Rest { .. } => Action::Reloaded,
        });
    }

    /// The order in which a reload that leaves so many slots gives them a worker of its own. Slots that are new come first: their
    /// sockets may listen from when there were as many before, and of them the workers that are to be replaced serve some that
    /// their successors won't.
    fn order(&self, slots: usize) -> impl Iterator<Item = usize> + use<> {
        (self.wanted..slots).chain(0..self.wanted.min(slots))
    }

    /// The slot whose worker tries the new configuration.
    fn canary(&self, slots: usize) -> usize {
        self.order(slots).next().unwrap_or(0)
    }

    /// Gives successors to workers that asked to be relieved, unless a reload does so anyway, be it soon.
    fn relieve_worn(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.roll.is_some() || self.change_waits {
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

    /// Whether the reload waits before it goes on with the next slots.
    fn roll_pauses(&mut self, now: Instant) -> bool {
        let Some(roll) = &mut self.roll else {
            return false;
        };
        roll.pauses_until.take_if(|until| *until <= now);
        roll.pauses_until.is_some()
    }

    /// How many more slots may be replaced now.
    fn room_for_successors(&self, slots: usize) -> usize {
        let under_way = self.slots.iter().filter(|slot| slot.successor.is_some());
        at_a_time(slots).saturating_sub(under_way.count())
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

    /// While nobody serves, no slot waits for longer than after a second death. A pause is there to keep a slot that does badly
    /// from disturbing the others; when there are no others it only keeps clients waiting. Workers that don't even get ready
    /// are no help, and are waited for as long as there have been such in a row.
    fn hasten(&mut self, now: Instant) {
        if self.slots.iter().any(Slot::serves) {
            return;
        }
        for slot in &mut self.slots[..self.wanted] {
            if slot.failed_boots < DEGRADED_AFTER
                && let Some(at) = &mut slot.retry_at
            {
                *at = (*at).min(now + BACKOFF_FIRST * (1 << slot.failed_boots));
            }
        }
    }

    /// Fills the slots that should have a worker and have none.
    fn spawn_missing(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // A reload leaves out the slots that it is about to drop, and those to which somebody comes anyway; but who tries the new
        // configuration may fail, and until then the old one is all that there is.
        let (canary, beyond) = match self.roll {
            Some(Roll { slots, step, .. }) => {
                let trying = matches!(step, Step::Canary);
                (trying.then(|| self.canary(slots)), slots)
            }
            None => (None, usize::MAX),
        };
        for index in 0..self.wanted.min(beyond) {
            let slot = &self.slots[index];
            let left_out = slot.successor.is_some() && canary != Some(index);
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
            generation: match candidate {
                true => self.newest + 1,
                false => self.generation,
            },
            worn: false,
            served: false,
            state: State::Starting {
                until: now + self.patience.boot,
            },
        }
    }
}
