//! The plan against fate: whatever happens in whatever order, to few slots and to many.

use proptest::prelude::*;

use super::world::{Life, Watched};
use super::*;

/// What may befall the plan; numbers choose among the workers that live.
#[derive(Debug, Clone)]
enum Fate {
    Ready(usize),
    /// All that start get ready.
    AllReady,
    Death(usize),
    Worn(usize),
    Hung(usize),
    Reload(usize),
    Upgrade,
    Time(u64),
    /// Time passes until something is due: a worker that is not ready by then never will be.
    Due,
    /// The report of one that was killed meanwhile.
    LateReady(usize),
    Stop,
    Abort,
}

/// Up to forty slots: a tenth of them is more than one only from twenty on.
fn slots() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 1_usize..6, 1 => 6_usize..=40]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        24 => any::<usize>().prop_map(Fate::Ready),
        8 => Just(Fate::AllReady),
        12 => any::<usize>().prop_map(Fate::Death),
        4 => any::<usize>().prop_map(Fate::Worn),
        4 => any::<usize>().prop_map(Fate::Hung),
        8 => slots().prop_map(Fate::Reload),
        4 => Just(Fate::Upgrade),
        12 => (0_u64..40_000).prop_map(Fate::Time),
        8 => Just(Fate::Due),
        2 => any::<usize>().prop_map(Fate::LateReady),
        1 => prop_oneof![Just(Fate::Stop), Just(Fate::Abort)],
    ]
}

fn choose(workers: &[WorkerId], number: usize) -> Option<WorkerId> {
    workers.get(number % workers.len().max(1)).copied()
}

/// Has this happen, if it can.
fn befall(watched: &mut Watched, fate: &Fate) -> Result<(), String> {
    let among = |watched: &Watched, number: &usize, is: fn(Life) -> bool| {
        choose(&watched.those(is), *number)
    };
    let event = match fate {
        Fate::Ready(which) => {
            among(watched, which, |life| life == Life::Starting).map(Event::Ready)
        }
        Fate::AllReady => {
            for worker in watched.those(|life| life == Life::Starting) {
                watched.feed(Event::Ready(worker))?;
            }
            None
        }
        Fate::Death(which) => among(watched, which, |_| true).map(Event::Died),
        Fate::Worn(which) => among(watched, which, |life| life == Life::Serving).map(Event::Worn),
        Fate::Hung(which) => among(watched, which, |life| {
            matches!(life, Life::Serving | Life::Leaving)
        })
        .map(Event::Hung),
        Fate::LateReady(which) => {
            among(watched, which, |life| life == Life::Killed).map(Event::Ready)
        }
        Fate::Reload(slots) => watched
            .takes_a_reload()
            .then_some(Event::Reload { slots: *slots }),
        Fate::Upgrade => return watched.upgrade(),
        Fate::Time(milliseconds) => {
            watched.now += Duration::from_millis(*milliseconds);
            Some(Event::Tick)
        }
        Fate::Due => return watched.wait(),
        Fate::Stop => Some(Event::Stop),
        Fate::Abort => Some(Event::Abort),
    };
    event.map_or(Ok(()), |event| watched.feed(event))
}

/// A plan that all this has befallen, unless it has left before.
fn befallen(slots: usize, fates: &[Fate]) -> Result<Watched, String> {
    let mut watched = Watched::start(slots)?;
    for fate in fates {
        if watched.exited.is_some() {
            break;
        }
        befall(&mut watched, fate)?;
    }
    Ok(watched)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Nobody is left without a server, and once fate rests all slots serve the newest configuration, or all is over.
    #[test]
    fn all_ends_well(slots in slots(), fates in prop::collection::vec(fate(), 0..100)) {
        let mut watched = befallen(slots, &fates).map_err(TestCaseError::fail)?;
        watched.rest(|_| true).map_err(TestCaseError::fail)?;
        watched.check_rest().map_err(TestCaseError::fail)?;
    }

    /// A configuration whose first worker is never ready is taken back, and the workers are the same as before.
    #[test]
    fn a_canary_that_is_never_ready_changes_nothing(
        slots in slots(), wanted in slots(), fates in prop::collection::vec(fate(), 0..40),
    ) {
        let mut watched = befallen(slots, &fates).map_err(TestCaseError::fail)?;
        watched.rest(|_| true).map_err(TestCaseError::fail)?;
        if watched.takes_a_reload() && watched.exited.is_none() {
            let (before, generation) = (watched.those(|_| true), watched.generation);
            watched.feed(Event::Reload { slots: wanted }).map_err(TestCaseError::fail)?;
            prop_assert!(watched.plan.is_rolling());
            watched.rest(|known| known.generation == generation).map_err(TestCaseError::fail)?;
            watched.check_rest().map_err(TestCaseError::fail)?;
            prop_assert_eq!(watched.those(|_| true), before);
            prop_assert_eq!(watched.generation, generation);
        }
    }
}
