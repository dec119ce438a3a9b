//! A plan, what the world outside knows of its workers, and what the plan must never do, whatever happens. Each event that
//! is fed is followed by all checks.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What the world knows of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Starting,
    Serving,
    /// It was told to finish.
    Leaving,
    Aborted,
    Killed,
}

#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub slot: usize,
    pub generation: u64,
    pub life: Life,
}

impl Known {
    /// Whether it serves, or is on its way there.
    fn is_meant_to_serve(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Serving)
    }
}

/// Fails with what was broken.
pub type Verdict = Result<(), String>;

macro_rules! must {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

#[derive(Clone)]
pub struct Watched {
    pub plan: Plan,
    pub now: Instant,
    /// Those that live.
    pub workers: BTreeMap<WorkerId, Known>,
    /// The configuration that serves, by number; the highest that there was; and the one before, while the others follow.
    pub generation: u64,
    newest: u64,
    before: Option<u64>,
    /// The configuration that is taken back, and how many slots it wanted.
    failed: Option<(u64, usize)>,
    /// How many slots a reload that is under way will leave.
    reload: Option<usize>,
    /// How many slots each configuration wants, or wanted: what its workers divide the sockets by.
    wants: BTreeMap<u64, usize>,
    /// How many sockets listen: as many as there were ever slots, since none is given up with its slot.
    sockets: usize,
    /// Every slot served when the reload began, and nobody has died or hung since but who was told to leave.
    calm: bool,
    /// Those of before leave, since the configuration that was taken back is kept after all.
    kept: bool,
    degraded: BTreeSet<usize>,
    pub announced: bool,
    pub stopping: bool,
    /// Whether the plan has left, and as failed.
    pub exited: Option<bool>,
    /// Every kind of action that was ever asked for, by name.
    pub seen: BTreeSet<String>,
}

impl Watched {
    pub fn start(slots: usize) -> Result<Self, String> {
        let mut watched = Watched {
            plan: Plan::new(slots, PATIENCE),
            now: Instant::now(),
            workers: BTreeMap::new(),
            generation: 1,
            newest: 1,
            before: None,
            failed: None,
            reload: None,
            wants: BTreeMap::from([(1, slots)]),
            sockets: slots,
            calm: false,
            kept: false,
            degraded: BTreeSet::new(),
            announced: false,
            stopping: false,
            exited: None,
            seen: BTreeSet::new(),
        };
        watched.feed(Event::Start)?;
        Ok(watched)
    }

    /// Those of which this is true.
    pub fn those(&self, is: impl Fn(Life) -> bool) -> Vec<WorkerId> {
        let known = self.workers.iter().filter(|(_, known)| is(known.life));
        known.map(|(worker, _)| *worker).collect()
    }

    /// Whether the master would begin a reload now: one after the other, and none once it stops.
    pub fn takes_a_reload(&self) -> bool {
        !self.plan.is_rolling() && !self.stopping
    }

    pub fn feed(&mut self, event: Event) -> Verdict {
        match event {
            Event::Ready(worker) => {
                // One that was killed meanwhile may have said so before.
                if let Some(known) = self.workers.get_mut(&worker)
                    && known.life == Life::Starting
                {
                    known.life = Life::Serving;
                }
            }
            Event::Died(worker) => {
                let known = self.workers.remove(&worker);
                self.calm &= known.is_none_or(|known| known.life == Life::Leaving);
            }
            Event::Reload { slots } => {
                self.calm = (0..self.plan.wanted()).all(|slot| self.is_served(slot));
                self.reload = Some(slots);
                self.wants.insert(self.newest + 1, slots);
            }
            Event::Stop | Event::Abort => {
                self.stopping = true;
                (self.reload, self.failed) = (None, None);
            }
            Event::Start | Event::Tick | Event::Worn(_) | Event::Hung(_) => {}
        }
        for action in self.plan.on(event, self.now) {
            must!(self.exited.is_none(), "{action:?} after the end");
            self.perform(action)?;
            let name = format!("{action:?}");
            let kind = name.split([' ', '(']).next().unwrap_or_default();
            self.seen.insert(kind.to_owned());
        }
        self.kept = false;
        self.check()
    }

    /// The next image of the program goes on where this one stands, and reloads.
    pub fn upgrade(&mut self) -> Verdict {
        let Some(standing) = self.plan.standing() else {
            return Ok(());
        };
        let text = serde_json::to_string(&standing).expect("a text");
        let read = serde_json::from_str(&text).expect("what was written");
        self.plan = Plan::adopt(&read, PATIENCE, self.now);
        must!(
            self.plan.standing() == Some(standing),
            "it was handed over as {:?}",
            self.plan.standing()
        );
        self.feed(Event::Reload {
            slots: self.plan.wanted(),
        })
    }

    /// Lets time pass until something is due.
    pub fn wait(&mut self) -> Verdict {
        self.now = self.plan.next_due().unwrap_or(self.now);
        self.feed(Event::Tick)
    }

    /// Everybody does what he was told, and those that start get ready if they can, until nothing is left to be done or
    /// the plan has left.
    pub fn rest(&mut self, gets_ready: impl Fn(&Known) -> bool) -> Verdict {
        const ENOUGH: usize = 2000;
        for _ in 0..ENOUGH {
            let told = self.those(|life| !matches!(life, Life::Starting | Life::Serving));
            let able = |(worker, known): (&WorkerId, &Known)| {
                (known.life == Life::Starting && gets_ready(known)).then_some(*worker)
            };
            let next = told.first().map(|worker| Event::Died(*worker));
            let next = next.or_else(|| self.workers.iter().find_map(able).map(Event::Ready));
            match next {
                _ if self.exited.is_some() => return Ok(()),
                Some(event) => self.feed(event)?,
                None if self.plan.next_due().is_none() => return Ok(()),
                None => self.wait()?,
            }
        }
        Err(format!("no rest after {ENOUGH} steps: {:?}", self.plan))
    }

    /// After a rest: all slots serve the newest configuration, or all is over.
    pub fn check_rest(&self) -> Verdict {
        if self.stopping || self.exited.is_some() {
            must!(self.exited.is_some(), "it never ends: {:?}", self.plan);
            return Ok(());
        }
        must!(!self.plan.is_rolling(), "it rolls on: {:?}", self.plan);
        must!(self.plan.ready() == self.plan.wanted(), "{:?}", self.plan);
        must!(self.workers.len() == self.plan.wanted(), "{:?}", self.plan);
        must!(self.announced, "it was never announced: {:?}", self.plan);
        must!(self.degraded.is_empty(), "well, and not said to be");
        let old = self
            .workers
            .values()
            .find(|known| known.generation != self.generation);
        must!(
            old.is_none(),
            "{old:?} serves, not generation {}",
            self.generation
        );
        Ok(())
    }

    /// How many slots there are, or will be after the reload.
    fn slots(&self) -> usize {
        self.reload.unwrap_or(self.plan.wanted())
    }

    fn living(&mut self, worker: WorkerId) -> Result<&mut Known, String> {
        let known = self.workers.get_mut(&worker);
        known.ok_or_else(|| format!("{worker:?} is dead"))
    }

    fn perform(&mut self, action: Action) -> Verdict {
        match action {
            Action::Spawn {
                worker,
                slot,
                candidate,
            } => {
                must!(!self.stopping, "{action:?} although it stops");
                must!(slot < self.slots().max(self.plan.wanted()), "{action:?}");
                let generation = match candidate {
                    true => self.newest + 1,
                    false => self.generation,
                };
                if candidate {
                    let slots = self.reload.ok_or("a candidate, and no reload")?;
                    let new = (slots > self.plan.wanted()).then(|| self.plan.wanted());
                    must!(slot == new.unwrap_or(0), "{action:?}");
                    let tried = self.workers.values();
                    let mut tried = tried.filter(|known| known.generation == generation);
                    must!(tried.next().is_none(), "two candidates");
                }
                let known = Known {
                    slot,
                    generation,
                    life: Life::Starting,
                };
                let before = self.workers.insert(worker, known);
                must!(before.is_none(), "{worker:?} twice");
            }
            Action::Retire(worker) => self.retire(worker)?,
            Action::StopAll => must!(self.stopping, "{action:?} unasked"),
            // This world's patience has no delay: see tests.rs for one that has.
            Action::Delay | Action::Unready(_) => {
                return Err(format!("{action:?} without a delay"));
            }
            Action::Stop(worker) => {
                must!(self.stopping, "{action:?} unasked");
                let known = self.living(worker)?;
                must!(known.life != Life::Killed, "{action:?} of {known:?}");
                known.life = Life::Leaving;
            }
            Action::Abort(worker) => {
                let known = self.living(worker)?;
                let may = matches!(known.life, Life::Serving | Life::Leaving);
                must!(may, "{action:?} of {known:?}");
                known.life = Life::Aborted;
                self.calm = false;
            }
            Action::Kill(worker) => {
                let known = self.living(worker)?;
                must!(known.life != Life::Killed, "{worker:?} is killed twice");
                let meant = known.is_meant_to_serve();
                known.life = Life::Killed;
                self.calm &= !meant;
            }
            Action::Forsake(worker) => {
                let known = self.living(worker)?;
                must!(known.life == Life::Killed, "{action:?} of {known:?}");
                self.workers.remove(&worker);
            }
            Action::Degraded { slot } => must!(self.degraded.insert(slot), "{action:?} twice"),
            Action::Recovered { slot } => must!(self.degraded.remove(&slot), "{action:?} unsaid"),
            Action::Announce => {
                must!(!self.announced, "announced twice");
                let dark = (0..self.plan.wanted()).find(|slot| !self.is_served(*slot));
                must!(dark.is_none(), "announced, and {dark:?} does not serve");
                self.announced = true;
            }
            Action::Adopt => {
                let new = self
                    .workers
                    .values()
                    .filter(|known| known.generation > self.newest && known.life == Life::Serving);
                must!(
                    self.reload.is_some() && new.count() == 1,
                    "adopted unproven"
                );
                self.newest += 1;
                self.before = Some(std::mem::replace(&mut self.generation, self.newest));
            }
            Action::TakeBack => {
                let slots = self.reload.replace(self.plan.wanted());
                let (before, slots) = self
                    .before
                    .take()
                    .zip(slots)
                    .ok_or("taken back, and there is nothing before")?;
                self.failed = Some((std::mem::replace(&mut self.generation, before), slots));
            }
            Action::Keep => {
                let old = self.workers.values().find(|known| {
                    known.life == Life::Serving && known.generation == self.generation
                });
                must!(old.is_none(), "{old:?} serves, and is given up");
                let (failed, slots) = self.failed.take().ok_or("kept, and nothing has failed")?;
                must!(slots == self.plan.wanted(), "{slots} slots were wanted");
                self.generation = failed;
                self.kept = true;
                self.reload = None;
                self.sockets = self.sockets.max(slots);
            }
            Action::Reloaded => {
                let is_old = |known: &&Known| {
                    known.is_meant_to_serve() && known.generation != self.generation
                };
                let old = self.workers.values().find(is_old);
                must!(old.is_none(), "reloaded, and {old:?} goes on");
                let slots = self.reload.take();
                self.before = None;
                must!(slots == Some(self.plan.wanted()), "{slots:?}");
                self.sockets = self.sockets.max(self.plan.wanted());
                // What there was to be said of slots that go is over.
                self.degraded.retain(|slot| *slot < self.plan.wanted());
            }
            Action::RejectReload => {
                must!(self.reload.take().is_some(), "{action:?} unasked");
                self.failed = None;
                let new = self
                    .workers
                    .values()
                    .find(|known| known.is_meant_to_serve() && known.generation != self.generation);
                must!(new.is_none(), "rejected, and {new:?} goes on");
            }
            Action::Exit { failed } => {
                match failed {
                    true => {
                        let serves = self.those(|life| life == Life::Serving);
                        must!(!self.announced, "given up after it has served");
                        must!(serves.is_empty(), "given up although {serves:?} serve");
                    }
                    false => {
                        must!(self.stopping, "left unasked");
                        must!(
                            self.workers.is_empty(),
                            "left {:?} behind",
                            self.workers.keys()
                        );
                    }
                }
                self.exited = Some(failed);
            }
        }
        Ok(())
    }

    /// Only the successor in its own slot relieves a worker; one whose slot goes, or that a reload is taken back from, needs
    /// somebody who serves the right configuration in a slot that stays. Nobody needs one that does not serve yet, when its
    /// configuration goes.
    fn retire(&mut self, worker: WorkerId) -> Verdict {
        let slots = self.slots();
        let known = *self.living(worker)?;
        must!(known.is_meant_to_serve(), "{known:?} is told again");
        let goes = self.failed.is_some() || self.kept;
        let relieves = |(other, by): (&WorkerId, &Known)| {
            by.life == Life::Serving
                && match known.slot < slots && !goes {
                    // The one that tries a new configuration may be older than who has come back meanwhile.
                    true => {
                        by.slot == known.slot
                            && (*other > worker || by.generation > known.generation)
                    }
                    false => by.slot < slots && by.generation == self.generation,
                }
        };
        must!(
            (goes && known.life == Life::Starting) || self.workers.iter().any(relieves),
            "{worker:?} retires from slot {} and nobody has relieved it: {:?}",
            known.slot,
            self.workers
        );
        let before = self.attended();
        self.living(worker)?.life = Life::Leaving;
        // Where there were once more slots than either configuration wants, a socket may have to wait for a worker that comes later.
        let all = self.wants[&known.generation].max(self.wants[&self.generation]) >= self.sockets;
        if self.calm && all && !goes {
            let after = self.attended();
            must!(
                before.is_subset(&after),
                "{known:?} retires, and of the sockets {before:?} only {after:?} are served: {:?}",
                self.workers
            );
        }
        Ok(())
    }

    /// The sockets that a worker serves: each serves those of its number modulo how many slots its configuration wants.
    fn attended(&self) -> BTreeSet<usize> {
        let serves = |socket: &usize| {
            self.workers.values().any(|known| {
                let slots = self.wants[&known.generation];
                known.life == Life::Serving && socket % slots == known.slot
            })
        };
        (0..self.sockets).filter(serves).collect()
    }

    fn is_served(&self, slot: usize) -> bool {
        let mut workers = self.workers.values();
        workers.any(|known| known.slot == slot && known.life == Life::Serving)
    }

    /// What is true after every event.
    fn check(&self) -> Verdict {
        if self.exited.is_some() {
            return Ok(());
        }
        let plans: BTreeSet<WorkerId> = self.plan.workers().map(|worker| worker.id).collect();
        let there: BTreeSet<WorkerId> = self.workers.keys().copied().collect();
        must!(
            plans == there,
            "it knows {plans:?}, and there are {there:?}"
        );

        let generations: BTreeSet<u64> = self
            .workers
            .values()
            .map(|known| known.generation)
            .collect();
        must!(generations.len() <= 2, "{generations:?} live at once");

        // The master would never sleep.
        let due = self.plan.next_due();
        must!(due.is_none_or(|at| at > self.now), "due in the past");

        let wanted = self.plan.wanted();
        let mut meant = BTreeMap::<usize, usize>::new();
        for known in self
            .workers
            .values()
            .filter(|known| known.is_meant_to_serve())
        {
            *meant.entry(known.slot).or_default() += 1;
        }
        let crowded = meant.iter().find(|(_, count)| **count > 2);
        must!(crowded.is_none(), "{crowded:?} serve one slot");
        // Slots that have two are being replaced, and those that the reload adds come in the same way.
        let replaced = meant.iter().filter(|(slot, count)| {
            let comes = **slot >= wanted && !self.is_served(**slot);
            **count == 2 || comes
        });
        let (replaced, most) = (replaced.count(), (self.slots() / 10).max(1));
        must!(
            replaced <= most,
            "{replaced} slots of {} are replaced at once",
            self.slots()
        );

        // Nobody serves, and yet somebody could: not for long.
        let dark = !self.stopping && self.those(|life| life == Life::Serving).is_empty();
        let patient = self.plan.slots.iter().take(wanted).find(|slot| {
            let most = BACKOFF_FIRST * (1 << slot.failed_boots.min(DEGRADED_AFTER));
            slot.failed_boots < DEGRADED_AFTER
                && slot.retry_at.is_some_and(|at| at > self.now + most)
        });
        must!(!dark || patient.is_none(), "nobody serves, and {patient:?}");

        // Nobody is forgotten.
        let lonely = |slot: &usize| !self.workers.values().any(|known| known.slot == *slot);
        let lonely = (0..wanted.min(self.slots())).find(lonely);
        must!(
            self.stopping || lonely.is_none() || due.is_some(),
            "slot {lonely:?} is forgotten"
        );
        Ok(())
    }
}
