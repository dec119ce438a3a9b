//! The protocol by which caches are coherent, proven in small worlds: `protocol` is a machine of its steps in a `world`, and
//! a model checker takes it through every order of them; `atomics` takes the scoreboard's own code through every order that the
//! memory model allows. A variant of each that is broken on purpose must be noticed, or the proof proves nothing.

// Once over atomics as they are, and once over weaker ones.
#![allow(clippy::duplicate_mod)]

mod atomics;
mod protocol;
mod world;

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use self::protocol::{FRESH, TOLD};
use self::world::{Broken, World};

/// Only a checker that hangs takes this long.
const PATIENCE: Duration = Duration::from_secs(600);

/// One host without Redis: its workers, and what they share.
fn host() -> World {
    World {
        broken: Broken::Nothing,
        writers: 2,
        readers_here: 2,
        readers_there: 0,
        l1: true,
        flights: false,
        redis: false,
        faults: 3,
        evicts: false,
        restores: false,
        host_dies: false,
    }
}

/// One host with Redis, whose workers keep nothing themselves.
fn shared_cache() -> World {
    World {
        l1: false,
        redis: true,
        evicts: true,
        faults: 2,
        readers_here: 1,
        ..host()
    }
}

/// All caches of one host.
fn both_caches() -> World {
    World {
        l1: true,
        faults: 1,
        ..shared_cache()
    }
}

/// Two hosts that share Redis; the readers of one watch the writers of the other.
fn two_hosts() -> World {
    World {
        writers: 2,
        readers_here: 0,
        readers_there: 1,
        ..both_caches()
    }
}

/// Two hosts, both of which read and fill.
fn two_busy_hosts() -> World {
    World {
        writers: 1,
        readers_here: 1,
        evicts: false,
        ..two_hosts()
    }
}

/// Readers of one worker that wait along with each other.
fn flights() -> World {
    World {
        flights: true,
        ..host()
    }
}

/// Readers of a worker of the other host that do.
fn flights_there() -> World {
    World {
        flights: true,
        readers_there: 2,
        evicts: false,
        ..two_hosts()
    }
}

/// A Redis that comes back with what it held before.
fn restored() -> World {
    World {
        writers: 1,
        restores: true,
        ..both_caches()
    }
}

/// A host that ends whole, and begins again.
fn mortal_host() -> World {
    World {
        host_dies: true,
        evicts: false,
        ..both_caches()
    }
}

#[track_caller]
fn prove(world: World) {
    let (begun, name) = (Instant::now(), format!("{world:?}"));
    let checker = world.checker().timeout(PATIENCE).spawn_bfs().join();
    assert!(
        begun.elapsed() < PATIENCE,
        "too large a world to see it all: {name}"
    );
    checker.assert_properties();
    println!("{} states of {name}", checker.unique_state_count());
}

#[test]
fn one_host_is_coherent() {
    prove(host());
}

#[test]
fn redis_is_coherent_on_the_host_of_the_writers() {
    prove(shared_cache());
    prove(World {
        readers_here: 2,
        writers: 1,
        faults: 1,
        ..shared_cache()
    });
}

#[test]
fn a_host_with_both_caches_is_coherent() {
    prove(both_caches());
    prove(World {
        readers_here: 2,
        writers: 1,
        ..both_caches()
    });
}

#[test]
fn another_host_is_coherent_once_it_is_told_or_passes_its_cache_by() {
    prove(two_hosts());
    prove(two_busy_hosts());
}

#[test]
fn who_joins_a_flight_is_coherent() {
    prove(flights());
    prove(World {
        flights: true,
        readers_here: 2,
        writers: 1,
        ..both_caches()
    });
    prove(World {
        writers: 1,
        ..flights_there()
    });
}

#[test]
fn a_redis_that_is_restored_is_not_believed() {
    prove(restored());
}

#[test]
fn a_write_survives_the_end_of_its_host() {
    prove(mortal_host());
}

/// How the checker sees each of the variants: by an answer that is too old, or by a write of which nobody is told.
#[test]
fn every_broken_variant_is_noticed() {
    let variants = [
        (Broken::MoveBeforeCommit, FRESH, host()),
        (Broken::NoIntent, FRESH, host()),
        (Broken::StampAfterAsking, FRESH, host()),
        (Broken::MoveBeforePublishing, FRESH, both_caches()),
        (Broken::NoTombstone, FRESH, shared_cache()),
        (Broken::NoTombstoneBefore, FRESH, mortal_host()),
        (Broken::NoTombstoneAfter, FRESH, shared_cache()),
        (Broken::FillCovers, FRESH, shared_cache()),
        (Broken::FillWithoutLease, FRESH, shared_cache()),
        (Broken::NoDebt, FRESH, shared_cache()),
        (Broken::DeadOweNothing, TOLD, two_hosts()),
        (Broken::NoBypass, FRESH, two_busy_hosts()),
        (Broken::OldPeriodCounts, FRESH, two_busy_hosts()),
        (Broken::AnyRunBelieved, FRESH, restored()),
        (Broken::JoinAny, FRESH, flights()),
    ];
    for (broken, property, world) in variants {
        // The same world as it is meant to be has no such path: see the tests above.
        let checker = World { broken, ..world }
            .checker()
            .timeout(PATIENCE)
            .finish_when(HasDiscoveries::AnyOf([property].into()))
            .spawn_bfs()
            .join();
        let Some(path) = checker.discovery(property) else {
            panic!("{broken:?} is not noticed");
        };
        println!("{broken:?}: {property}, but: {:?}", path.into_actions());
    }
}
