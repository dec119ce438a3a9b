//! The service's view of what answers it: the worker's own cache, flights that are under way already, and the lanes.

use std::sync::Arc;

use bytes::Bytes;

use super::flights::Flights;
use super::lanes::Lanes;
use super::queue::Queues;
use crate::app::manners::Page;
use crate::app::{Backend, Failure};
use crate::cache::l1::{Found, L1, Stamp};
use crate::http::watch::Watch;
use crate::scoreboard::Row;
use crate::scoreboard::counters::Counter;
use crate::store::{Change, Draft, ShoeImages, StoreError};

/// The backend of a worker.
pub struct Backing {
    pub lanes: Arc<Lanes>,
    pub watch: Arc<Watch>,
    pub l1: L1<Arc<Page>>,
    pub flights: Flights<Bytes>,
    pub tally: Row,
}

impl Backing {
    /// A shoe's rows from beyond the worker's own cache, and the stamp to keep them under: for who asked, not for who joined
    /// another's question, which is older. `stamp` was loaded before; without one nothing is shared.
    fn fetch(&self, shoe_id: i32, stamp: Option<Stamp>) -> Result<(Bytes, Option<Stamp>), Failure> {
        let Some(stamp) = stamp else {
            return Ok((self.lanes.ask_shoe(shoe_id)?.wait()?, None));
        };
        if let Some(pending) = self.flights.join(shoe_id, stamp) {
            return Ok((pending.wait()?, None));
        }
        let pending = self.lanes.ask_shoe(shoe_id)?;
        let waiter = pending.0.clone();
        self.flights.begin(shoe_id, stamp, &pending);
        let answer = pending.wait();
        self.flights.end(shoe_id, &waiter);
        Ok((answer?, Some(stamp)))
    }

    /// The answer while the database gives none: what was kept, if its time has not been over for long.
    fn outlast(&self, shoe_id: i32, failure: Failure) -> Result<Arc<Page>, Failure> {
        let away = matches!(&failure, Failure::Store(error)
            if matches!(**error, StoreError::Unavailable(_) | StoreError::TimedOut));
        // A database that has too much to do is there, and who asks again has its answer.
        let late = away.then(|| self.l1.find_late(shoe_id, self.watch.now()));
        late.flatten().ok_or(failure)
    }
}

impl Backend for Backing {
    fn shoe(&self, shoe_id: i32, page: &dyn Fn(Bytes) -> Page) -> Result<Arc<Page>, Failure> {
        let asked = self.watch.now();
        let stamp = match self.l1.find(shoe_id, asked) {
            Found::Answer(page) => {
                self.tally.count(Counter::L1Hits);
                return Ok(page);
            }
            Found::Nothing(stamp) => stamp,
        };
        self.tally.count(Counter::L1Misses);
        let (rows, stamp) = match self.fetch(shoe_id, stamp) {
            Ok(found) => found,
            Err(failure) => return self.outlast(shoe_id, failure),
        };
        let page = Arc::new(page(rows));
        if let Some(stamp) = stamp {
            self.l1
                .keep(shoe_id, page.clone(), page.size(), stamp, asked);
        }
        Ok(page)
    }

    fn row(&self, id: i32) -> Result<Option<Bytes>, Failure> {
        self.lanes.ask(id, Queues::push_row)?.wait()
    }

    fn insert(&self, draft: Draft) -> Result<ShoeImages, Failure> {
        self.lanes.change(Change::Insert(draft))
    }

    fn replace(&self, id: i32, draft: Draft) -> Result<Option<ShoeImages>, Failure> {
        self.lanes.change(Change::Replace(id, draft))
    }

    fn delete(&self, id: i32) -> Result<bool, Failure> {
        self.lanes.change(Change::Delete(id))
    }

    fn ready(&self) -> Result<(), Failure> {
        self.lanes.ask((), Queues::push_ping)?.wait()
    }

    fn draining(&self) -> bool {
        self.watch.draining()
    }
}
