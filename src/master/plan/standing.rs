//! What a plan knows, as one image of the program hands it to the next: the new one goes on with the workers that there
//! are.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::slot::{Slot, State, Worker};
use super::{Patience, Phase, Plan, WorkerId};

/// A plan between two images of the program. No successor starts and no worker leaves in it, so each slot has one at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether every slot has served at some time.
    announced: bool,
    wanted: usize,
    generation: u64,
    next_worker: u64,
    slots: Vec<SlotStanding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SlotStanding {
    deaths: u32,
    failed_boots: u32,
    worker: Option<WorkerStanding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WorkerStanding {
    id: u64,
    generation: u64,
    ready: bool,
    worn: bool,
}

impl Standing {
    /// The number of the configuration that serves.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many slots should have a worker.
    pub fn wanted(&self) -> usize {
        self.wanted
    }
}

impl Plan {
    /// What there is to hand over. None while a worker is being replaced, leaves or is ended: that is soon over, and better
    /// waited for.
    pub fn standing(&self) -> Option<Standing> {
        let mut slots = Vec::new();
        for slot in &self.slots {
            let worker = match &slot.current {
                Some(worker) => Some(WorkerStanding {
                    id: worker.id.0,
                    generation: worker.generation,
                    ready: match worker.state {
                        State::Ready { .. } => true,
                        State::Starting { .. } => false,
                        State::Retiring { .. } | State::Aborting { .. } | State::Killed { .. } => {
                            return None;
                        }
                    },
                    worn: worker.worn,
                }),
                None => None,
            };
            slots.push(SlotStanding {
                deaths: slot.deaths,
                failed_boots: slot.failed_boots,
                worker,
            });
        }
        let calm = !self.is_rolling() && !self.is_leaving();
        calm.then_some(Standing {
            announced: self.phase == Phase::Running,
            wanted: self.wanted,
            generation: self.generation,
            next_worker: self.next_worker,
            slots,
        })
    }

    /// Goes on where another plan stood. Workers that were starting have their whole time again, and so have those that serve
    /// to prove themselves healthy.
    pub fn adopt(standing: &Standing, patience: Patience, now: Instant) -> Self {
        let adopt_worker = |worker: &WorkerStanding| Worker {
            id: WorkerId(worker.id),
            generation: worker.generation,
            worn: worker.worn,
            served: worker.ready,
            state: match worker.ready {
                true => State::Ready { since: now },
                false => State::Starting {
                    until: now + patience.boot,
                },
            },
        };
        let adopt_slot = |slot: &SlotStanding| Slot {
            current: slot.worker.as_ref().map(adopt_worker),
            deaths: slot.deaths,
            failed_boots: slot.failed_boots,
            ..Slot::default()
        };
        let mut slots: Vec<Slot> = standing.slots.iter().map(adopt_slot).collect();
        slots.resize_with(slots.len().max(standing.wanted), Slot::default);
        Plan {
            phase: match standing.announced {
                true => Phase::Running,
                false => Phase::Starting,
            },
            patience,
            wanted: standing.wanted,
            has_served: standing.announced || slots.iter().any(Slot::serves),
            slots,
            roll: None,
            stop_at: None,
            has_waited: false,
            change_waits: false,
            generation: standing.generation,
            newest: standing.generation,
            next_worker: standing.next_worker,
        }
    }
}
