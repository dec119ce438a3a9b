//! Every order of events, in the small: one slot or two, and so many events in a row. What takes longer to come about is
//! where some of them begin.

use std::collections::HashSet;

use super::super::slot::{DEGRADED_AFTER, State, Worker};
use super::world::{Life, Watched};
use super::*;

/// What can happen next: to each worker, and to all.
#[derive(Debug, Clone, Copy)]
enum Step {
    Event(Event),
    Upgrade,
    /// Time passes until something is due.
    Wait,
}

fn steps(watched: &Watched) -> Vec<Step> {
    let mut steps = Vec::new();
    for (worker, known) in &watched.workers {
        let events = match known.life {
            Life::Starting => vec![Event::Ready(*worker)],
            Life::Serving => vec![Event::Worn(*worker), Event::Hung(*worker)],
            Life::Leaving => vec![Event::Hung(*worker)],
            Life::Aborted => vec![],
            // It was ready before, and nobody had heard it yet.
            Life::Killed => vec![Event::Ready(*worker)],
        };
        steps.extend(events.into_iter().map(Step::Event));
        steps.push(Step::Event(Event::Died(*worker)));
    }
    if watched.takes_a_reload() {
        steps.extend([1, 2].map(|slots| Step::Event(Event::Reload { slots })));
    }
    if watched.plan.standing().is_some() {
        steps.push(Step::Upgrade);
    }
    if watched.plan.next_due().is_some() {
        steps.push(Step::Wait);
    }
    steps.extend([Event::Stop, Event::Abort].map(Step::Event));
    steps
}

fn take(watched: &mut Watched, step: Step) -> Result<(), String> {
    match step {
        Step::Event(event) => watched.feed(event),
        Step::Upgrade => watched.upgrade(),
        Step::Wait => watched.wait(),
    }
}

/// What tells two states apart: everything but the workers' numbers, and of moments only which comes first.
fn key(watched: &Watched) -> Vec<u64> {
    let plan = &watched.plan;
    let healthy_at = |worker: &Worker| match worker.state {
        State::Ready { since } => Some(since + HEALTHY_AFTER),
        State::Starting { until }
        | State::Retiring { until }
        | State::Aborting { until }
        | State::Killed { until } => Some(until),
    };
    let mut moments: Vec<Instant> = plan.workers().filter_map(healthy_at).collect();
    moments.extend(plan.slots.iter().filter_map(|slot| slot.retry_at));
    moments.extend(plan.roll.and_then(|roll| roll.pauses_until));
    moments.push(watched.now);
    moments.sort_unstable();
    moments.dedup();
    let rank = |moment: Option<Instant>| match moment {
        Some(moment) => {
            1 + moments.partition_point(|other| *other < moment.max(watched.now)) as u64
        }
        None => 0,
    };
    let about = |worker: Option<&Worker>| match worker {
        Some(worker) => {
            let state = match worker.state {
                State::Starting { .. } => 1,
                State::Ready { .. } => 2,
                State::Retiring { .. } => 3,
                State::Aborting { .. } => 4,
                State::Killed { .. } => 5,
            };
            let generation = plan.newest + 1 - worker.generation;
            [
                state,
                generation,
                2 * u64::from(worker.worn) + u64::from(worker.served),
                rank(healthy_at(worker)),
            ]
        }
        None => [0; 4],
    };
    let mut key = vec![
        plan.phase as u64,
        plan.wanted as u64,
        plan.newest - plan.generation,
        rank(Some(watched.now)),
    ];
    if let Some(roll) = plan.roll {
        let step = match roll.step {
            super::super::Step::Canary => [1, 0, 0],
            super::super::Step::Rest { before } => [2, plan.generation - before, 0],
            super::super::Step::Back { failed, slots } => {
                [3, failed - plan.generation, slots as u64]
            }
        };
        key.extend(step);
        key.extend([
            roll.slots as u64,
            u64::from(roll.failures),
            rank(roll.pauses_until),
        ]);
    }
    for slot in &plan.slots {
        key.extend(about(slot.current.as_ref()));
        key.extend(about(slot.successor.as_ref()));
        key.extend([
            u64::from(slot.deaths),
            u64::from(slot.failed_boots),
            2 * u64::from(slot.failed) + u64::from(slot.spared),
            rank(slot.retry_at),
            slot.retired.len() as u64,
        ]);
        for worker in &slot.retired {
            key.extend(about(Some(worker)));
        }
    }
    key
}

/// Takes a plan through every order of so many events; from each state that it comes to, all must end well once fate
/// rests. Every kind of action must have been asked for, and these as well: it would be no exploration otherwise.
fn explore(start: Watched, depth: usize, and: &[&str]) {
    let slots = start.plan.wanted();
    let mut known = HashSet::from([key(&start)]);
    let mut frontier = vec![(start, Vec::new())];
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..depth {
        let mut next = Vec::new();
        for (state, path) in frontier {
            for step in steps(&state) {
                let mut after: Watched = state.clone();
                let mut path: Vec<Step> = path.clone();
                path.push(step);
                let told = |what: String| panic!("{what}\nafter {path:#?}");
                take(&mut after, step).unwrap_or_else(told);
                if after.exited.is_some() || !known.insert(key(&after)) {
                    continue;
                }
                let mut rested = after.clone();
                let rest = rested.rest(|_| true).and_then(|()| rested.check_rest());
                rest.unwrap_or_else(told);
                seen.append(&mut rested.seen);
                next.push((after, path));
            }
        }
        frontier = next;
    }
    println!(
        "{slots} slots, {depth} events: {} states, {seen:?}",
        known.len()
    );
    let kinds = [
        "Spawn",
        "Retire",
        "StopAll",
        "Stop",
        "Abort",
        "Kill",
        "Forsake",
        "Adopt",
        "Reloaded",
        "RejectReload",
        "Exit",
    ];
    for kind in kinds.iter().chain(and) {
        assert!(seen.contains(*kind), "no {kind} in {seen:?}");
    }
    assert!(known.len() > 1000, "{} states", known.len());
}

#[test]
fn every_order_of_events_ends_well_in_one_slot() {
    let start = Watched::start(1).expect("a good start");
    explore(start, 9, &["Announce"]);
}

#[test]
fn every_order_of_events_ends_well_in_two_slots() {
    let start = Watched::start(2).expect("a good start");
    explore(start, 6, &["Announce"]);
}

/// Two slots serve, and the workers of one have not got ready so often that the next failure makes it degraded.
#[test]
fn every_order_of_events_ends_well_on_the_brink_of_a_degraded_slot() {
    let mut start = Watched::start(2).expect("a good start");
    start.rest(|_| true).expect("all ready");
    let mut fail = || -> Result<(), String> {
        start.feed(Event::Died(WorkerId(1)))?;
        for _ in 1..DEGRADED_AFTER {
            let failing = |start: &Watched| start.those(|life| life == Life::Starting);
            while failing(&start).is_empty() {
                start.wait()?;
            }
            start.feed(Event::Died(failing(&start)[0]))?;
        }
        Ok(())
    };
    fail().expect("so many deaths");
    assert!(!start.seen.contains("Degraded"));
    explore(start, 5, &["Degraded", "Recovered"]);
}

/// Of two slots the first serves a new configuration, and the workers of the second have not got ready with it so often that the
/// next failure takes it back; and then, that of the first does not get ready with the old one either.
#[test]
fn every_order_of_events_ends_well_on_the_brink_of_a_reload_that_is_taken_back() {
    let mut start = Watched::start(2).expect("a good start");
    start.rest(|_| true).expect("all ready");
    let fail = |start: &mut Watched, times: u32| -> Result<(), String> {
        for _ in 0..times {
            let failing = |start: &Watched| start.those(|life| life == Life::Starting);
            while failing(start).is_empty() {
                start.wait()?;
            }
            let failing = failing(start)[0];
            start.feed(Event::Died(failing))?;
        }
        Ok(())
    };
    start
        .feed(Event::Reload { slots: 2 })
        .expect("a candidate starts");
    let canary = start.those(|life| life == Life::Starting)[0];
    start.feed(Event::Ready(canary)).expect("it is adopted");
    let old = start
        .those(|life| life == Life::Leaving)
        .first()
        .copied()
        .expect("it was relieved");
    start.feed(Event::Died(old)).expect("it leaves");
    fail(&mut start, DEGRADED_AFTER - 1).expect("so many failures");
    assert!(!start.seen.contains("TakeBack"));
    explore(start.clone(), 5, &["TakeBack"]);

    fail(&mut start, DEGRADED_AFTER).expect("so many more");
    assert!(start.seen.contains("TakeBack"));
    explore(start, 5, &["TakeBack", "Keep"]);
}
