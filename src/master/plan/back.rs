//! A reload that fails after its first worker has got ready: a slot whose workers don't get ready with the new configuration
//! takes it back in all slots, so that no two configurations serve side by side, and the next reload has its turn.

use std::time::Instant;

use super::{Action, KILL_GRACE, Plan, Roll, Step};

impl Plan {
    /// Draws the consequence of workers that did not get ready too often in the reload that is under way, of this slot at last.
    pub(super) fn give_up(&mut self, slot: usize, now: Instant, actions: &mut Vec<Action>) {
        match self.roll.map(|roll| (roll.slots, roll.step)) {
            Some((slots, Step::Rest { before })) => self.take_back(slots, before, now, actions),
            Some((_, Step::Back { failed, slots })) => {
                if self.serves_with(|generation| generation == self.generation) {
                    self.spare(slot, now, actions);
                } else if self.serves_with(|generation| generation != self.generation) {
                    self.keep(failed, slots, now, actions);
                } else {
                    self.slots[slot].spared = true;
                }
            }
            Some((_, Step::Canary)) | None => {}
        }
    }

    fn serves_with(&self, generation: impl Fn(u64) -> bool) -> bool {
        let mut serving = self.slots.iter().filter(|slot| slot.serves());
        serving.any(|slot| {
            let worker = slot.current.as_ref();
            worker.is_some_and(|worker| generation(worker.generation))
        })
    }

    /// Goes back to the configuration of before, in the slots that have left it.
    fn take_back(&mut self, slots: usize, before: u64, now: Instant, actions: &mut Vec<Action>) {
        let failed = std::mem::replace(&mut self.generation, before);
        self.roll = Some(Roll::to(self.wanted, Step::Back { failed, slots }));
        actions.push(Action::TakeBack);
        self.retire_successors(now, actions);
        for slot in &mut self.slots {
            // What they have failed at is over.
            (slot.failed, slot.deaths, slot.retry_at) = (false, 0, None);
        }
    }

    /// Does without a worker in a slot that won't go back, while others serve.
    fn spare(&mut self, slot: usize, now: Instant, actions: &mut Vec<Action>) {
        let until = now + self.patience.drain + KILL_GRACE;
        if let Some(roll) = &mut self.roll {
            roll.failures = 0;
        }
        let slot = &mut self.slots[slot];
        slot.spared = true;
        if let Some(worker) = slot.current.take() {
            slot.retire(worker, until, actions);
        }
    }

    /// Goes on with the new configuration, since only that is served.
    fn keep(&mut self, failed: u64, slots: usize, now: Instant, actions: &mut Vec<Action>) {
        self.generation = failed;
        self.wanted = slots;
        self.roll = None;
        actions.push(Action::Keep);
        self.retire_successors(now, actions);
        let until = now + self.patience.drain + KILL_GRACE;
        for slot in &mut self.slots {
            let other = |worker: &mut super::Worker| worker.generation != failed;
            if let Some(worker) = slot.current.take_if(other) {
                slot.retire(worker, until, actions);
            }
        }
        let slots = self.slots.len().max(self.wanted);
        self.slots.resize_with(slots, Default::default);
    }

    /// Lets those leave that were about to replace somebody. None of them serves yet.
    fn retire_successors(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let until = now + self.patience.drain + KILL_GRACE;
        for slot in &mut self.slots {
            if let Some(worker) = slot.successor.take() {
                slot.retire(worker, until, actions);
            }
        }
    }
}
