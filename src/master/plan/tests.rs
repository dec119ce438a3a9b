//! The plan against an obedient world: no process, and a clock that the test moves. Against a world that does what it
//! likes: `properties` has fate choose, `exploration` leaves out no order of events.

mod exploration;
mod properties;
mod world;

use self::world::{Life, Watched};
use super::slot::{BACKOFF_FIRST, BACKOFF_MOST};
use super::*;

const PATIENCE: Patience = Patience {
    boot: Duration::from_secs(10),
    drain: Duration::from_secs(30),
    delay: Duration::ZERO,
    pause: Duration::from_millis(500),
};

/// Where a test is about something else, reloads don't pause.
const HASTY: Patience = Patience {
    pause: Duration::ZERO,
    ..PATIENCE
};

/// A plan, its clock, and what an obedient world would do.
struct World {
    plan: Plan,
    now: Instant,
    alive: Vec<WorkerId>,
    log: Vec<Action>,
}

impl World {
    fn start(slots: usize) -> Self {
        let mut world = World {
            plan: Plan::new(slots, HASTY),
            now: Instant::now(),
            alive: Vec::new(),
            log: Vec::new(),
        };
        world.feed(Event::Start);
        world
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        let actions = self.plan.on(event, self.now);
        for action in &actions {
            if let Action::Spawn { worker, .. } = action {
                self.alive.push(*worker);
            }
        }
        self.log.extend(&actions);
        actions
    }

    fn die(&mut self, worker: WorkerId) -> Vec<Action> {
        self.alive.retain(|alive| *alive != worker);
        self.feed(Event::Died(worker))
    }

    /// Every worker does what it is told until nothing more happens.
    fn settle(&mut self) {
        let mut seen = 0;
        while seen < self.log.len() {
            let action = self.log[seen];
            seen += 1;
            match action {
                Action::Spawn { worker, .. } if self.alive.contains(&worker) => {
                    self.feed(Event::Ready(worker));
                }
                Action::Retire(worker) | Action::Stop(worker) | Action::Kill(worker)
                    if self.alive.contains(&worker) =>
                {
                    self.die(worker);
                }
                _ => {}
            }
        }
        self.log.clear();
    }

    fn vacant(&self) -> Vec<usize> {
        self.plan.vacant().collect()
    }

    fn running(slots: usize) -> Self {
        let mut world = World::start(slots);
        world.settle();
        assert_eq!(world.alive.len(), slots);
        world
    }
}

fn spawned(actions: &[Action]) -> Vec<(WorkerId, usize, bool)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Spawn {
                worker,
                slot,
                candidate,
            } => Some((*worker, *slot, *candidate)),
            _ => None,
        })
        .collect()
}

#[test]
fn it_announces_itself_once_every_slot_serves() {
    let mut world = World::start(2);
    assert!(
        !world
            .feed(Event::Ready(WorkerId(1)))
            .contains(&Action::Announce)
    );
    assert!(
        world
            .feed(Event::Ready(WorkerId(2)))
            .contains(&Action::Announce)
    );
    assert!(world.feed(Event::Tick).is_empty());
}

#[test]
fn a_dead_worker_is_replaced_at_once_and_then_ever_more_slowly() {
    let mut world = World::running(1);
    let first = world.die(WorkerId(1));
    assert_eq!(spawned(&first), [(WorkerId(2), 0, false)]);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let last = *world.alive.last().expect("one lives");
        assert_eq!(spawned(&world.die(last)), [], "not at once");
        let due = world.plan.next_due().expect("a retry is due");
        pauses.push(due - world.now);
        world.now = due;
        assert_eq!(spawned(&world.feed(Event::Tick)).len(), 1);
    }
    for (deaths, pause) in pauses.iter().enumerate() {
        let even = (BACKOFF_FIRST * (1 << deaths)).min(BACKOFF_MOST);
        let (least, most) = (even * 7 / 8, even * 9 / 8);
        assert!(least <= *pause && *pause <= most, "{pauses:?}");
    }
    let last = *world.alive.last().expect("one lives");
    world.feed(Event::Ready(last));
    world.now += HEALTHY_AFTER;
    assert_eq!(
        spawned(&world.die(last)).len(),
        1,
        "a healthy life forgives the deaths before it"
    );
}

/// Two slots whose workers were killed in turn, again and again, were once both in their pauses: nobody served for seconds.
#[test]
fn somebody_serves_however_often_workers_die() {
    let mut world = World::running(2);
    for _ in 0..40 {
        let victim = *world.alive.last().expect("one serves");
        world.die(victim);
        if world.alive.is_empty() {
            let due = world.plan.next_due().expect("a retry is due");
            assert!(due - world.now <= BACKOFF_FIRST, "{:?}", due - world.now);
            world.now = due;
            assert!(!spawned(&world.feed(Event::Tick)).is_empty());
        }
        let starting: Vec<WorkerId> = world.alive.clone();
        for worker in starting {
            world.feed(Event::Ready(worker));
        }
    }
}

#[test]
fn a_first_generation_that_never_gets_ready_ends_the_server() {
    let mut world = World::start(1);
    let mut failed = false;
    for _ in 0..HOPELESS_AFTER {
        let last = *world.alive.last().expect("one lives");
        failed = world.die(last).contains(&Action::Exit { failed: true });
        world.now += BACKOFF_MOST;
        world.feed(Event::Tick);
    }
    assert!(failed);
}

#[test]
fn a_boot_that_hangs_is_killed() {
    let mut world = World::start(1);
    world.now += PATIENCE.boot;
    assert_eq!(world.feed(Event::Tick), [Action::Kill(WorkerId(1))]);
    assert_eq!(world.feed(Event::Tick), [], "once");
}

#[test]
fn a_reload_replaces_slot_by_slot_and_only_by_workers_that_serve() {
    let mut world = World::running(3);
    let mut actions = world.feed(Event::Reload { slots: 3 });
    let mut adopted = 0;
    for slot in 0..3 {
        let [(worker, at, candidate)] = spawned(&actions)[..] else {
            panic!("{actions:?}")
        };
        assert_eq!((at, candidate), (slot, slot == 0));
        assert!(
            !actions
                .iter()
                .any(|action| matches!(action, Action::Retire(old) if old.0 > slot as u64))
        );
        actions = world.feed(Event::Ready(worker));
        assert!(
            actions.contains(&Action::Retire(WorkerId(slot as u64 + 1))),
            "{actions:?}"
        );
        adopted += usize::from(actions.contains(&Action::Adopt));
    }
    assert!(actions.contains(&Action::Reloaded));
    assert_eq!(adopted, 1);
    assert!(world.plan.is_rolling(), "the old generation still lives");
    for old in 1..=3 {
        world.die(WorkerId(old));
    }
    assert!(!world.plan.is_rolling());
    assert_eq!(world.alive.len(), 3);
}

#[test]
fn a_reload_whose_first_worker_dies_changes_nothing() {
    let mut world = World::running(2);
    let canary = spawned(&world.feed(Event::Reload { slots: 4 }))[0].0;
    let actions = world.die(canary);
    assert_eq!(actions, [Action::RejectReload]);
    assert!(!world.plan.is_rolling());
    assert_eq!(world.alive, [WorkerId(1), WorkerId(2)]);
    assert_eq!(world.plan.slots.len(), 2);
}

#[test]
fn a_later_worker_of_a_reload_that_dies_is_tried_again() {
    let mut world = World::running(2);
    let canary = spawned(&world.feed(Event::Reload { slots: 2 }))[0].0;
    let second = spawned(&world.feed(Event::Ready(canary)))[0].0;
    let again = spawned(&world.die(second));
    assert_eq!(again.len(), 1, "at once the first time");
    assert!(
        world
            .feed(Event::Ready(again[0].0))
            .contains(&Action::Reloaded)
    );
}

#[test]
fn slots_come_and_go_with_a_reload() {
    let mut world = World::running(2);
    for slots in [4, 1, 3] {
        world.feed(Event::Reload { slots });
        world.settle();
        assert_eq!(world.alive.len(), slots);
        assert_eq!(world.plan.slots.len(), slots);
        assert!(!world.plan.is_rolling());
    }
}

#[test]
fn a_worker_that_dies_while_its_slot_is_rolled_is_not_replaced_twice() {
    let mut world = World::running(3);
    let canary = spawned(&world.feed(Event::Reload { slots: 3 }))[0].0;
    let [(next, 1, false)] = spawned(&world.feed(Event::Ready(canary)))[..] else {
        panic!("the second slot is next");
    };
    assert_eq!(spawned(&world.die(WorkerId(2))), []);
    assert_eq!(
        spawned(&world.die(WorkerId(3))).len(),
        1,
        "another slot's is"
    );
    world.feed(Event::Ready(next));
    world.settle();
    assert_eq!(world.alive.len(), 3);
}

/// The only worker once died while a new configuration hung in its first worker, and nobody served until that was killed.
#[test]
fn while_a_new_configuration_is_tried_the_old_one_goes_on() {
    for succeeds in [true, false] {
        let mut world = World::running(1);
        let canary = spawned(&world.feed(Event::Reload { slots: 1 }))[0].0;
        let [(again, 0, false)] = spawned(&world.die(WorkerId(1)))[..] else {
            panic!("nobody serves");
        };
        world.feed(Event::Ready(again));
        let actions = match succeeds {
            true => world.feed(Event::Ready(canary)),
            false => world.die(canary),
        };
        let expected = match succeeds {
            true => Action::Retire(again),
            false => Action::RejectReload,
        };
        assert!(actions.contains(&expected), "{actions:?}");
        world.settle();
        assert_eq!((world.alive.len(), world.plan.ready()), (1, 1));
    }
}

/// A worker that was to relieve a worn one got ready after a reload had begun, and passed for its first worker.
#[test]
fn who_relieves_a_worn_worker_proves_no_configuration() {
    for succeeds in [true, false] {
        let mut world = World::running(2);
        let [(relief, 1, false)] = spawned(&world.feed(Event::Worn(WorkerId(2))))[..] else {
            panic!("it is relieved");
        };
        let [(_, 0, true)] = spawned(&world.feed(Event::Reload { slots: 2 }))[..] else {
            panic!("the first slot tries it");
        };
        let actions = match succeeds {
            true => world.feed(Event::Ready(relief)),
            false => world.die(relief),
        };
        let decided = |action: &Action| matches!(action, Action::Adopt | Action::RejectReload);
        assert!(!actions.iter().any(decided), "{actions:?}");
    }
}

#[test]
fn one_death_does_not_end_a_server_that_has_served() {
    let mut world = World::start(2);
    world.feed(Event::Ready(WorkerId(1)));
    let mut starting = WorkerId(2);
    for _ in 0..HOPELESS_AFTER {
        let mut again = spawned(&world.die(starting));
        if again.is_empty() {
            world.now = world.plan.next_due().expect("a retry is due");
            again = spawned(&world.feed(Event::Tick));
        }
        starting = again[0].0;
    }
    let actions = world.die(WorkerId(1));
    assert!(
        !actions.contains(&Action::Exit { failed: true }),
        "{actions:?}"
    );
}

#[test]
fn who_hangs_is_ended_as_soon_when_the_server_stops() {
    let mut world = World::running(1);
    assert_eq!(
        world.feed(Event::Hung(WorkerId(1))),
        [Action::Abort(WorkerId(1))]
    );
    assert_eq!(world.feed(Event::Stop), [Action::StopAll]);
    world.now += ABORT_GRACE;
    assert_eq!(world.feed(Event::Tick), [Action::Kill(WorkerId(1))]);
}

#[test]
fn stopping_lets_all_finish_and_kills_what_does_not() {
    let mut world = World::running(2);
    let actions = world.feed(Event::Stop);
    assert_eq!(
        actions,
        [
            Action::StopAll,
            Action::Stop(WorkerId(1)),
            Action::Stop(WorkerId(2))
        ]
    );
    assert_eq!(world.die(WorkerId(1)), []);
    world.now += PATIENCE.drain + KILL_GRACE;
    assert_eq!(world.feed(Event::Tick), [Action::Kill(WorkerId(2))]);
    assert_eq!(world.die(WorkerId(2)), [Action::Exit { failed: false }]);
}

#[test]
fn a_second_stop_hurries() {
    let mut world = World::running(2);
    world.feed(Event::Stop);
    assert_eq!(
        world.feed(Event::Stop),
        [Action::Kill(WorkerId(1)), Action::Kill(WorkerId(2))]
    );
}

/// A server with a delay, which was told to stop.
fn delaying() -> World {
    let mut world = World::running(2);
    world.plan.set_patience(Patience {
        delay: DELAY,
        ..HASTY
    });
    let told = world.feed(Event::Stop);
    let all = [1, 2].map(|worker| Action::Unready(WorkerId(worker)));
    assert_eq!(told, [Action::Delay, all[0], all[1]]);
    world
}

const DELAY: Duration = Duration::from_secs(10);

#[test]
fn a_delayed_stop_serves_on_until_the_delay_is_over() {
    let mut world = delaying();
    assert!(world.plan.is_leaving() && !world.plan.is_stopping());
    assert!(
        world.plan.standing().is_none(),
        "it would be forgotten by another image"
    );
    assert_eq!(
        world.plan.longest_stop(),
        DELAY + PATIENCE.drain + 2 * KILL_GRACE + BURIAL
    );
    // Who dies is replaced as ever.
    let spawned = spawned(&world.die(WorkerId(1)));
    assert_eq!(spawned, [(WorkerId(3), 0, false)]);
    assert_eq!(world.feed(Event::Ready(WorkerId(3))), []);
    let due = world.plan.next_due().expect("the end of the delay");
    assert_eq!(due - world.now, DELAY);
    world.now = due - Duration::from_millis(1);
    assert_eq!(world.feed(Event::Tick), []);
    world.now = due;
    let stop = [3, 2].map(|worker| Action::Stop(WorkerId(worker)));
    assert_eq!(world.feed(Event::Tick), [Action::StopAll, stop[0], stop[1]]);
    assert!(world.plan.is_stopping() && world.plan.has_waited());
}

#[test]
fn a_second_stop_skips_the_delay_and_a_third_one_hurries() {
    let mut world = delaying();
    let stop = [1, 2].map(|worker| Action::Stop(WorkerId(worker)));
    assert_eq!(world.feed(Event::Stop), [Action::StopAll, stop[0], stop[1]]);
    assert!(!world.plan.has_waited(), "idle clients had no time");
    let kill = [1, 2].map(|worker| Action::Kill(WorkerId(worker)));
    assert_eq!(world.feed(Event::Stop), kill);
    let mut world = delaying();
    assert_eq!(world.feed(Event::Abort), kill);
}

#[test]
fn a_reload_goes_on_while_a_stop_is_delayed_and_ends_with_it() {
    let mut world = World::running(2);
    world.plan.set_patience(Patience {
        delay: DELAY,
        ..HASTY
    });
    world.feed(Event::Reload { slots: 2 });
    let told = world.feed(Event::Stop);
    let all = [1, 3, 2].map(|worker| Action::Unready(WorkerId(worker)));
    assert_eq!(told, [Action::Delay, all[0], all[1], all[2]]);
    world.settle();
    assert!(!world.plan.is_rolling());
    world.feed(Event::Reload { slots: 2 });
    world.now += DELAY;
    let stopped = world.feed(Event::Tick);
    assert_eq!(stopped.first(), Some(&Action::StopAll));
    assert_eq!(spawned(&stopped), []);
    world.settle();
    assert!(world.alive.is_empty());
}

/// No balancer sends anything to a server that has never been ready.
#[test]
fn a_server_that_has_never_served_stops_without_delay() {
    let mut world = World::start(1);
    world.plan.set_patience(Patience {
        delay: DELAY,
        ..HASTY
    });
    assert_eq!(
        world.feed(Event::Stop),
        [Action::StopAll, Action::Stop(WorkerId(1))]
    );
}

#[test]
fn stopping_in_the_middle_of_a_reload_ends_both_generations() {
    let mut world = World::running(2);
    world.feed(Event::Reload { slots: 2 });
    world.feed(Event::Stop);
    world.settle();
    assert!(world.alive.is_empty());
    assert_eq!(
        world.feed(Event::Reload { slots: 2 }),
        [Action::Exit { failed: false }],
        "nothing starts again"
    );
}

#[test]
fn slots_that_die_together_come_back_one_by_one() {
    let mut world = World::running(8);
    for _ in 0..4 {
        for worker in world.alive.clone() {
            world.die(worker);
        }
        while let Some(due) = world.plan.next_due() {
            world.now = due;
            if spawned(&world.feed(Event::Tick)).is_empty() {
                break;
            }
        }
    }
    for worker in world.alive.clone() {
        world.die(worker);
    }
    let retries: std::collections::BTreeSet<_> =
        world.plan.slots.iter().map(|slot| slot.retry_at).collect();
    assert!(retries.len() >= 6, "{retries:?}");
}

#[test]
fn a_slot_that_keeps_dying_is_said_to_be_degraded_once_and_well_again_once() {
    let mut world = World::running(2);
    let said =
        |world: &World, action: Action| world.log.iter().filter(|said| **said == action).count();
    let die = |world: &mut World| {
        let last = *world.alive.last().expect("one lives");
        world.die(last);
        if let Some(due) = world.plan.next_due() {
            world.now = due;
        }
        world.feed(Event::Tick);
    };
    for _ in 0..20 {
        die(&mut world);
    }
    assert_eq!(said(&world, Action::Degraded { slot: 1 }), 1);
    assert_eq!(said(&world, Action::Recovered { slot: 1 }), 0);
    let last = *world.alive.last().expect("one lives");
    world.feed(Event::Ready(last));
    assert_eq!(said(&world, Action::Recovered { slot: 1 }), 1);
}

#[test]
fn a_hung_worker_is_aborted_then_killed_and_replaced_when_it_is_dead() {
    let mut world = World::running(2);
    let actions = world.feed(Event::Hung(WorkerId(1)));
    assert_eq!(actions, [Action::Abort(WorkerId(1))]);
    assert_eq!(world.feed(Event::Hung(WorkerId(1))), [], "once is enough");
    world.now += ABORT_GRACE;
    assert_eq!(world.feed(Event::Tick), [Action::Kill(WorkerId(1))]);
    assert_eq!(spawned(&world.die(WorkerId(1))).len(), 1);
    // One that is still starting has its boot time-out.
    assert_eq!(world.feed(Event::Hung(WorkerId(3))), []);
}

#[test]
fn a_worn_worker_is_relieved_by_one_that_serves() {
    let mut world = World::running(2);
    let relief = spawned(&world.feed(Event::Worn(WorkerId(1))));
    assert_eq!(relief, [(WorkerId(3), 0, false)]);
    assert_eq!(
        spawned(&world.feed(Event::Worn(WorkerId(2)))),
        [],
        "one at a time"
    );
    let actions = world.feed(Event::Ready(WorkerId(3)));
    assert_eq!(actions[0], Action::Retire(WorkerId(1)));
    assert_eq!(
        spawned(&actions),
        [(WorkerId(4), 1, false)],
        "then the next one"
    );
    assert!(world.plan.is_rolling(), "a reload waits for it");
}

#[test]
fn a_reload_replaces_a_tenth_of_the_slots_at_a_time() {
    let mut world = World::running(40);
    let canary = spawned(&world.feed(Event::Reload { slots: 40 }));
    assert_eq!(canary.len(), 1, "the first one alone");
    let next = spawned(&world.feed(Event::Ready(canary[0].0)));
    assert_eq!(next.len(), 4);
    assert_eq!(spawned(&world.feed(Event::Ready(next[2].0))).len(), 1);
    world.settle();
    assert_eq!(world.alive.len(), 40);
    assert!(world.alive.iter().all(|worker| worker.0 > 40));
}

/// Its workers die in their boots, one after another, for a day.
#[test]
fn a_reload_pauses_after_each_step_and_not_after_the_last() {
    let mut world = World::running(3);
    world.plan.set_patience(PATIENCE);
    let actions = world.feed(Event::Reload { slots: 3 });
    let (mut worker, mut slot, _) = spawned(&actions)[0];
    for next in 1..3 {
        let ready = world.now;
        assert_eq!(spawned(&world.feed(Event::Ready(worker))), []);
        world.now += PATIENCE.pause - Duration::from_millis(1);
        assert_eq!(spawned(&world.feed(Event::Tick)), []);
        assert_eq!(world.plan.next_due(), Some(ready + PATIENCE.pause));
        assert!(world.plan.is_rolling());
        world.now += Duration::from_millis(1);
        let actions = world.feed(Event::Tick);
        assert_eq!(spawned(&actions).len(), 1, "{actions:?}");
        (worker, slot, _) = spawned(&actions)[0];
        assert_eq!(slot, next);
        // What has no end yet is waited for by its own deadline.
        assert_eq!(world.plan.next_due(), Some(world.now + PATIENCE.boot));
    }
    assert_eq!(slot, 2);
    assert!(world.feed(Event::Ready(worker)).contains(&Action::Reloaded));
}

#[test]
fn a_slot_whose_worker_dies_while_a_reload_pauses_is_filled_at_once() {
    let mut world = World::running(3);
    world.plan.set_patience(PATIENCE);
    let actions = world.feed(Event::Reload { slots: 3 });
    let (worker, ..) = spawned(&actions)[0];
    let before = world.alive.clone();
    world.feed(Event::Ready(worker));
    // The last of the first three serves the last slot.
    let filled = spawned(&world.die(before[2]));
    assert_eq!(filled.len(), 1);
    assert_eq!((filled[0].1, filled[0].2), (2, false));
    world.feed(Event::Ready(filled[0].0));
    // Only the slot between is left.
    world.now += PATIENCE.pause;
    let next = spawned(&world.feed(Event::Tick));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].1, 1);
    let actions = world.feed(Event::Ready(next[0].0));
    assert!(actions.contains(&Action::Reloaded), "{actions:?}");
}

#[test]
fn a_slot_whose_workers_never_get_ready_is_tried_for_ever_and_told_once() {
    let mut watched = Watched::start(3).expect("a good start");
    watched.rest(|_| true).expect("all ready");
    let end = watched.now + Duration::from_secs(24 * 3600);
    // The world fails this test if it is said twice.
    let mut pass = || -> Result<usize, String> {
        watched.feed(Event::Died(WorkerId(2)))?;
        let mut tries = 0;
        while watched.now < end {
            for worker in watched.those(|life| life == Life::Starting) {
                watched.feed(Event::Died(worker))?;
                tries += 1;
            }
            watched.wait()?;
            assert_eq!(watched.plan.ready(), 2, "the others serve on");
        }
        Ok(tries)
    };
    let tries = pass().expect("a day of failures");
    let most = 24 * 3600 / BACKOFF_MOST.as_secs() as usize * 9 / 8;
    assert!((most / 2..most).contains(&tries), "{tries} tries in a day");
    assert!(watched.seen.contains("Degraded") && !watched.seen.contains("Recovered"));
    watched.rest(|_| true).expect("ready at last");
    watched.check_rest().expect("all well");
    assert!(watched.seen.contains("Recovered"));
}

impl World {
    /// Lets time pass until the next worker is due, if one is.
    fn retry(&mut self) {
        let due = self.plan.slots.iter().filter_map(|slot| slot.retry_at);
        if let Some(due) = due.min() {
            self.now = self.now.max(due);
        }
        self.feed(Event::Tick);
    }
}

/// Lets the newest worker fail until the plan does something beside starting it again; answers with that.
#[track_caller]
fn fail_until_given_up(world: &mut World) -> Vec<Action> {
    for _ in 0..DEGRADED_AFTER {
        let last = *world.alive.last().expect("one lives");
        let actions = world.die(last);
        if actions
            .iter()
            .any(|action| !matches!(action, Action::Spawn { .. }))
        {
            return actions;
        }
        world.retry();
    }
    panic!("it goes on for ever: {:?}", world.log);
}

/// Once the roll waited for such a slot for ever, and every later change for the roll.
#[test]
fn a_reload_that_a_later_slot_can_not_follow_is_taken_back() {
    let mut world = World::running(3);
    let canary = spawned(&world.feed(Event::Reload { slots: 3 }))[0].0;
    assert!(world.feed(Event::Ready(canary)).contains(&Action::Adopt));
    assert_eq!(world.plan.generation(), 2);
    world.die(WorkerId(1));
    let actions = fail_until_given_up(&mut world);
    assert_eq!(actions[0], Action::TakeBack, "{actions:?}");
    assert_eq!(world.plan.generation(), 1);
    let [(back, 0, false)] = spawned(&actions)[..] else {
        panic!("the slot that had it goes back: {actions:?}")
    };
    let actions = world.feed(Event::Ready(back));
    assert_eq!(actions, [Action::Retire(canary), Action::RejectReload]);
    world.die(canary);
    assert_eq!(world.alive, [WorkerId(2), WorkerId(3), back]);
    assert!(!world.plan.is_rolling(), "the next one has its turn");
    // Which has a number of its own.
    world.feed(Event::Reload { slots: 3 });
    world.settle();
    assert_eq!(world.plan.generation(), 3);
    assert_eq!(world.alive.len(), 3);
}

#[test]
fn a_slot_that_can_not_begin_takes_its_reload_back() {
    let mut world = World::running(2);
    let canary = spawned(&world.feed(Event::Reload { slots: 3 }))[0].0;
    let second = spawned(&world.feed(Event::Ready(canary)))[0].0;
    world.die(WorkerId(1));
    // The first slot is not there yet when the second begins to fail.
    let actions = world.feed(Event::Ready(second));
    world.die(WorkerId(2));
    assert_eq!(spawned(&actions).len(), 1);
    assert_eq!(fail_until_given_up(&mut world)[0], Action::TakeBack);
    world.settle();
    assert_eq!((world.alive.len(), world.plan.wanted()), (2, 2));
    assert!(!world.plan.is_rolling());

    let mut world = World::running(3);
    let canary = spawned(&world.feed(Event::Reload { slots: 4 }))[0].0;
    world.feed(Event::Ready(canary));
    world.die(WorkerId(1));
    assert_eq!(fail_until_given_up(&mut world)[0], Action::TakeBack);
    world.settle();
    assert_eq!(world.alive.len(), 3);
    let stayed = [WorkerId(2), WorkerId(3)].map(|worker| world.alive.contains(&worker));
    assert_eq!(stayed, [true; 2], "{:?}", world.alive);
    assert!(!world.alive.contains(&canary));
}

/// The workers that a slot more relieves serve its sockets until it does: those of before had them by turns.
#[test]
fn slots_that_are_new_get_their_workers_before_any_other_is_replaced() {
    let mut world = World::running(2);
    let [(canary, 2, true)] = spawned(&world.feed(Event::Reload { slots: 4 }))[..] else {
        panic!("not the first new slot: {:?}", world.log);
    };
    let actions = world.feed(Event::Ready(canary));
    let [(fourth, 3, false)] = spawned(&actions)[..] else {
        panic!("not the second new slot: {actions:?}");
    };
    assert!(
        !world
            .log
            .iter()
            .any(|action| matches!(action, Action::Retire(_)))
    );
    let actions = world.feed(Event::Ready(fourth));
    let [(first, 0, false)] = spawned(&actions)[..] else {
        panic!("not the first slot: {actions:?}");
    };
    let actions = world.feed(Event::Ready(first));
    assert!(
        actions.contains(&Action::Retire(WorkerId(1))),
        "{actions:?}"
    );
}

#[test]
fn where_the_old_configuration_fails_too_others_serve_or_the_new_one_stays() {
    let mut world = World::running(2);
    let canary = spawned(&world.feed(Event::Reload { slots: 2 }))[0].0;
    world.feed(Event::Ready(canary));
    world.die(WorkerId(1));
    assert_eq!(fail_until_given_up(&mut world)[0], Action::TakeBack);
    // The second slot has never left it: the first one does without.
    let actions = fail_until_given_up(&mut world);
    assert_eq!(actions, [Action::Retire(canary), Action::RejectReload]);

    let mut world = World::running(2);
    let canary = spawned(&world.feed(Event::Reload { slots: 2 }))[0].0;
    world.feed(Event::Ready(canary));
    world.die(WorkerId(1));
    assert_eq!(fail_until_given_up(&mut world)[0], Action::TakeBack);
    world.die(WorkerId(2));
    let mut rest = world.alive.clone();
    rest.retain(|worker| *worker != canary);
    for _ in 0..30 {
        if world.log.contains(&Action::Keep) {
            break;
        }
        if let Some(last) = world.alive.last().filter(|last| **last != canary) {
            let last = *last;
            world.die(last);
        }
        world.retry();
    }
    assert!(world.log.contains(&Action::Keep), "{:?}", world.log);
    assert_eq!(world.plan.generation(), 2);
    world.retry();
    world.settle();
    assert!(world.alive.contains(&canary));
    assert_eq!(world.alive.len(), 2);
    assert!(!world.plan.is_rolling());
}

/// A slot that had no worker before the reload keeps none of the others from it.
#[test]
fn a_slot_that_was_down_before_does_not_hold_a_reload_up() {
    let mut world = World::running(2);
    for _ in 0..8 {
        let last = *world.alive.last().expect("one lives");
        world.die(last);
        world.now += BACKOFF_MOST;
        world.feed(Event::Tick);
    }
    let last = *world.alive.last().expect("one lives");
    world.die(last);
    let canary = spawned(&world.feed(Event::Reload { slots: 2 }))[0].0;
    let actions = world.feed(Event::Ready(canary));
    assert!(actions.contains(&Action::Reloaded), "{actions:?}");
}

#[test]
fn a_boot_that_hangs_counts_as_one_that_fails() {
    let mut world = World::running(2);
    world.die(WorkerId(2));
    for _ in 0..DEGRADED_AFTER {
        while world.plan.slots[1].current.is_none() {
            world.now = world.plan.next_due().expect("a retry");
            world.feed(Event::Tick);
        }
        let last = *world.alive.last().expect("one lives");
        world.now += PATIENCE.boot;
        assert!(world.feed(Event::Tick).contains(&Action::Kill(last)));
        world.die(last);
    }
    assert!(world.log.contains(&Action::Degraded { slot: 1 }));
}

/// Where workers wore out faster than they left, there was always one that was being replaced, and no reload came.
#[test]
fn no_worn_worker_is_relieved_while_a_change_waits_for_calm() {
    let mut world = World::running(3);
    world.feed(Event::Worn(WorkerId(1)));
    world.plan.let_change_wait(true);
    let actions = world.feed(Event::Ready(WorkerId(4)));
    assert_eq!(actions, [Action::Retire(WorkerId(1))]);
    assert_eq!(world.feed(Event::Worn(WorkerId(2))), []);
    world.die(WorkerId(1));
    assert!(!world.plan.is_rolling(), "calm at last");
    world.plan.let_change_wait(false);
    assert_eq!(
        spawned(&world.feed(Event::Tick)),
        [(WorkerId(5), 1, false)],
        "it has not been forgotten"
    );
}

/// The master kept a list of its own, and never told again how workers ended in a slot that had gone and come back.
#[test]
fn a_degraded_slot_that_goes_and_comes_back_is_a_new_one() {
    let mut world = World::running(2);
    while world.plan.degraded().next().is_none() {
        let last = *world.alive.last().expect("one lives");
        world.die(last);
        while world.plan.slots[1].current.is_none() {
            world.retry();
        }
    }
    assert_eq!(world.plan.degraded().collect::<Vec<_>>(), [1]);
    // The next image of the program knows it too.
    let standing = world.plan.standing().expect("nobody is being replaced");
    let adopted = Plan::adopt(&standing, HASTY, world.now);
    assert_eq!(adopted.degraded().collect::<Vec<_>>(), [1]);
    for slots in [1, 2] {
        world.feed(Event::Reload { slots });
        world.settle();
        assert_eq!(world.plan.degraded().count(), 0);
    }
}

#[test]
fn a_slot_is_vacant_while_its_worker_waits_to_be_replaced() {
    let mut world = World::running(2);
    assert_eq!(world.vacant(), [0; 0]);
    // The first death is answered at once, the second one after a pause.
    for pauses in [false, true] {
        let worker = *world.alive.last().expect("two of them");
        world.die(worker);
        assert_eq!(world.vacant().is_empty(), !pauses);
    }
    world.feed(Event::Stop);
    assert_eq!(world.vacant(), [0; 0], "nobody is waited for");
}

/// One that the kernel holds, as on a disk that does not answer, kept its slot dark, each change waiting, and the server from its
/// end, for good.
#[test]
fn who_does_not_die_of_sigkill_is_gone_on_without() {
    let mut world = World::running(2);
    assert_eq!(
        world.feed(Event::Hung(WorkerId(2))),
        [Action::Abort(WorkerId(2))]
    );
    world.now += ABORT_GRACE;
    assert_eq!(world.feed(Event::Tick), [Action::Kill(WorkerId(2))]);
    world.now += BURIAL;
    let actions = world.feed(Event::Tick);
    assert_eq!(actions[0], Action::Forsake(WorkerId(2)));
    assert_eq!(spawned(&actions), [(WorkerId(3), 1, false)]);
    // It dies at last, and that is news to nobody.
    let before = world.plan.workers().count();
    assert_eq!(world.feed(Event::Died(WorkerId(2))), []);
    assert_eq!(world.plan.workers().count(), before);
}

#[test]
fn the_end_waits_a_while_for_who_does_not_die_and_no_longer() {
    let mut world = World::running(1);
    assert_eq!(
        world.feed(Event::Abort),
        [Action::Kill(WorkerId(1))],
        "and it waits"
    );
    world.now += BURIAL;
    assert_eq!(
        world.feed(Event::Tick),
        [Action::Forsake(WorkerId(1)), Action::Exit { failed: false }]
    );
}
