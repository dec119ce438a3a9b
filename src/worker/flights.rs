//! Single flight: of the coroutines that ask for the same shoe at the same time, one asks and the others wait along.
//!
//! A read may only join a flight that can't answer with a value from before a write that was acknowledged before the read
//! began. The flight's stamp (the key's generation, and the period in which other hosts are heard) was loaded before
//! anything was asked; every acknowledged write moves it first. So a read that finds the same stamp loses
//! nothing by joining, and one that finds another starts a flight of its own, which later reads join.
//!
//! While other hosts are not heard their writes move nothing, but this host's do. Then a flight is joined while it is young:
//! an answer may be as old as its flight, and 500 ms is what the guarantee gives a host that lost its subscription. If nobody
//! joined, a Redis that is lost would send every request for what is hot to the database.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::waiter::{Pending, Waiter};
use crate::cache::l1::Stamp;

/// The flights of a worker, by shoe. Only the scheduler's thread comes here, so the lock is never contended.
pub struct Flights<A> {
    under_way: Mutex<HashMap<i32, Flight<A>>>,
    /// How old a flight may be to be joined: what is left of its deadline must be worth waiting for.
    joinable_for: Duration,
    /// The same while other hosts are not heard.
    joinable_unheard: Duration,
}

/// How old a flight may be to be joined while other hosts are not heard: well within what the guarantee gives them.
const YOUNG: Duration = Duration::from_millis(250);

struct Flight<A> {
    stamp: Stamp,
    since: Instant,
    waiter: Arc<Waiter<A>>,
}

impl<A: Clone> Flights<A> {
    /// `patience` is a request's.
    pub fn new(patience: Duration) -> Self {
        Flights {
            under_way: Mutex::default(),
            joinable_for: patience / 2,
            joinable_unheard: YOUNG.min(patience / 2),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Flight<A>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the calling coroutine wait along with a flight that its stamp allows it to join, if there is one.
    pub fn join(&self, shoe_id: i32, stamp: Stamp) -> Option<Pending<A>> {
        let flights = self.lock();
        let flight = flights.get(&shoe_id)?;
        let joinable_for = match stamp.hears_others() {
            true => self.joinable_for,
            false => self.joinable_unheard,
        };
        (flight.stamp == stamp && flight.since.elapsed() < joinable_for)
            .then(|| flight.waiter.join())
    }

    /// Announces a flight, asked for after its stamp was loaded. It takes the place of one that could not be joined.
    pub fn begin(&self, shoe_id: i32, stamp: Stamp, pending: &Pending<A>) {
        let flight = Flight {
            stamp,
            since: Instant::now(),
            waiter: pending.0.clone(),
        };
        self.lock().insert(shoe_id, flight);
    }

    /// Ends the flight that was announced with this waiter, unless another has its place. Whoever began it must call
    /// this.
    pub fn end(&self, shoe_id: i32, waiter: &Arc<Waiter<A>>) {
        let mut flights = self.lock();
        if flights
            .get(&shoe_id)
            .is_some_and(|flight| Arc::ptr_eq(&flight.waiter, waiter))
        {
            flights.remove(&shoe_id);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use may::coroutine;

    use super::*;
    use crate::cache::l1::{Found, L1};
    use crate::cache::trust::Trust;
    use crate::http::context::Spent;
    use crate::scoreboard::Scoreboard;
    use crate::scoreboard::buckets::Buckets;
    use crate::sys;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn stamp(l1: &L1<u32>, shoe_id: i32) -> Stamp {
        match l1.find(shoe_id, 0) {
            Found::Nothing(Some(stamp)) => stamp,
            other => panic!("{other:?} is no stamp"),
        }
    }

    /// The whole rule, on a coroutine: whoever has the same stamp joins, and nobody joins after a write was acknowledged.
    #[test]
    fn a_read_joins_a_flight_unless_a_write_was_acknowledged_since_it_began() {
        may::config().set_workers(1).set_worker_pin(false);
        let (done, ended) = mpsc::channel();
        sys::start_first_coroutine(move || {
            let board = Scoreboard::new().expect("shared memory");
            let trust = Arc::new(Trust::always());
            let l1 = L1::<u32>::new(0, PATIENCE, board.generations(), trust.clone());
            let flights = Flights::<u32>::new(PATIENCE);
            let first = Pending(Arc::new(Waiter::of(coroutine::current())));
            assert!(flights.join(7, stamp(&l1, 7)).is_none(), "there is none");
            flights.begin(7, stamp(&l1, 7), &first);
            let joined = flights.join(7, stamp(&l1, 7)).expect("the same flight");
            assert!(flights.join(8, stamp(&l1, 8)).is_none(), "of another shoe");

            drop(board.row(0).intend(0, &[7]));
            assert!(
                flights.join(7, stamp(&l1, 7)).is_none(),
                "it may not see the write"
            );
            let second = Pending(Arc::new(Waiter::of(coroutine::current())));
            flights.begin(7, stamp(&l1, 7), &second);
            let late = flights.join(7, stamp(&l1, 7)).expect("the newer flight");

            // What other hosts wrote went unheard for a while.
            trust.suspend(Buckets::ALL);
            trust.begin(Buckets::ALL);
            assert!(flights.join(7, stamp(&l1, 7)).is_none());

            assert_eq!(
                first.0.give(Ok(1), Spent::default()).len(),
                2,
                "both are to be woken"
            );
            assert_eq!(second.0.give(Ok(2), Spent::default()).len(), 2);
            assert!(
                second.0.give(Ok(3), Spent::default()).is_empty(),
                "answered already"
            );
            assert_eq!((joined.wait().ok(), late.wait().ok()), (Some(1), Some(2)));

            flights.end(7, &first.0);
            assert_eq!(flights.count(), 1, "another has its place");
            flights.end(7, &second.0);
            assert_eq!(flights.count(), 0);
            done.send(()).expect("the test listens");
        })
        .expect("a coroutine");
        ended
            .recv_timeout(PATIENCE)
            .expect("no panic on the coroutine");
    }

    #[test]
    fn a_flight_that_has_little_time_left_is_not_joined() {
        may::config().set_workers(1).set_worker_pin(false);
        let (done, ended) = mpsc::channel();
        sys::start_first_coroutine(move || {
            let board = Scoreboard::new().expect("shared memory");
            let trust = Arc::new(Trust::always());
            let l1 = L1::<u32>::new(0, PATIENCE, board.generations(), trust);
            let flights = Flights::<u32>::new(Duration::ZERO);
            let first = Pending(Arc::new(Waiter::of(coroutine::current())));
            flights.begin(7, stamp(&l1, 7), &first);
            done.send(flights.join(7, stamp(&l1, 7)).is_none())
                .expect("the test listens");
        })
        .expect("a coroutine");
        assert!(
            ended
                .recv_timeout(PATIENCE)
                .expect("no panic on the coroutine")
        );
    }

    /// Redis once died under a load of a few hot shoes: each of their requests asked the database, and most were refused.
    #[test]
    fn while_other_hosts_are_not_heard_a_young_flight_is_joined_unless_this_host_wrote() {
        may::config().set_workers(1).set_worker_pin(false);
        let (done, ended) = mpsc::channel();
        sys::start_first_coroutine(move || {
            let board = Scoreboard::new().expect("shared memory");
            let trust = Arc::new(Trust::not_yet());
            let l1 = L1::<u32>::new(0, PATIENCE, board.generations(), trust.clone());
            let flights_of = |joinable_unheard| Flights::<u32> {
                joinable_unheard,
                ..Flights::new(PATIENCE)
            };
            let (flights, old) = (flights_of(PATIENCE), flights_of(Duration::ZERO));
            let first = Pending(Arc::new(Waiter::of(coroutine::current())));
            for flights in [&flights, &old] {
                flights.begin(7, stamp(&l1, 7), &first);
            }
            assert!(flights.join(7, stamp(&l1, 7)).is_some());
            assert!(old.join(7, stamp(&l1, 7)).is_none(), "it is too old");

            drop(board.row(0).intend(0, &[7]));
            assert!(
                flights.join(7, stamp(&l1, 7)).is_none(),
                "of before a write"
            );
            flights.begin(7, stamp(&l1, 7), &first);
            assert!(flights.join(7, stamp(&l1, 7)).is_some());
            trust.begin(Buckets::ALL);
            assert!(
                flights.join(7, stamp(&l1, 7)).is_none(),
                "others may have written"
            );
            done.send(()).expect("the test listens");
        })
        .expect("a coroutine");
        ended
            .recv_timeout(PATIENCE)
            .expect("no panic on the coroutine");
    }
}
