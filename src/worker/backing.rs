//! The service's view of what answers it: the worker's own cache, flights that are under way already, and the lanes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::flights::Flights;
use super::lanes::Lanes;
use super::queue::{Outcome, Queues};
use super::waiter::Pending;
use crate::app::manners::Page;
use crate::app::{Backend, Failure};
use crate::cache::l1::{Found, L1, Stamp};
use crate::http::context::Context;
use crate::http::watch::Watch;
use crate::scoreboard::Row;
use crate::scoreboard::counters::Counter;
use crate::store::{Change, Draft, IdKind, RowId, ShoeImages, StoreError};

/// The backend of a worker.
pub struct Backing {
    pub lanes: Arc<Lanes>,
    pub watch: Arc<Watch>,
    pub l1: Arc<L1<Arc<Page>>>,
    pub flights: Flights<Bytes>,
    pub tally: Row,
    /// Whether the database is told whose writes it carries out.
    pub trace_sql: bool,
}

impl Backing {
    /// A shoe's rows from beyond the worker's own cache, and the stamp to keep them under: for who asked, not for who joined
    /// another's question, which is older. `stamp` was loaded before; without one nothing is shared.
    fn fetch(
        &self,
        shoe_id: i32,
        stamp: Option<Stamp>,
        context: &Context,
    ) -> Result<(Bytes, Option<Stamp>), Failure> {
        let Some(stamp) = stamp else {
            let pending = self.lanes.ask_shoe(shoe_id)?;
            return Ok((await_answer(pending, context)?, None));
        };
        if let Some(pending) = self.flights.join(shoe_id, stamp) {
            let (joined, flight) = (Instant::now(), pending.0.clone());
            let answer = pending.wait();
            context.spend(flight.spent().last(joined.elapsed()));
            return Ok((answer?, None));
        }
        let pending = self.lanes.ask_shoe(shoe_id)?;
        let waiter = pending.0.clone();
        self.flights.begin(shoe_id, stamp, &pending);
        let answer = await_answer(pending, context);
        self.flights.end(shoe_id, &waiter);
        Ok((answer?, Some(stamp)))
    }

    /// Makes a change.
    fn change<A: Outcome>(&self, change: Change, context: &Context) -> Result<A, Failure> {
        let trace = context.trace().filter(|_| self.trace_sql);
        let trace = trace.map(|trace| Box::new(*trace));
        let changed = await_answer(self.lanes.ask_change(change, trace)?, context)?;
        A::of(changed).ok_or_else(|| {
            let why = "the store answered to another question".to_owned();
            Failure::Store(Arc::new(StoreError::Failed(why)))
        })
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

/// Waits for an answer, and notes what it took.
fn await_answer<A: Clone>(pending: Pending<A>, context: &Context) -> Result<A, Failure> {
    let waiter = pending.0.clone();
    let answer = pending.wait();
    context.spend(waiter.spent());
    answer
}

impl Backend for Backing {
    fn ids(&self) -> IdKind {
        self.lanes.ids()
    }

    fn shoe(
        &self,
        shoe_id: i32,
        page: &dyn Fn(Bytes) -> Page,
        context: &Context,
    ) -> Result<Arc<Page>, Failure> {
        let asked = self.watch.now();
        let stamp = match self.l1.find(shoe_id, asked) {
            Found::Answer(page) => {
                self.tally.count(Counter::L1Hits);
                return Ok(page);
            }
            Found::Nothing(stamp) => stamp,
        };
        self.tally.count(Counter::L1Misses);
        context.concern(shoe_id);
        let (rows, stamp) = match self.fetch(shoe_id, stamp, context) {
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

    fn row(&self, id: &RowId, context: &Context) -> Result<Option<Bytes>, Failure> {
        await_answer(self.lanes.ask(id.clone(), Queues::push_row)?, context)
    }

    fn insert(&self, draft: Draft, context: &Context) -> Result<ShoeImages, Failure> {
        context.concern(draft.shoe_id);
        self.change(Change::Insert(draft), context)
    }

    fn replace(
        &self,
        id: &RowId,
        draft: Draft,
        context: &Context,
    ) -> Result<Option<ShoeImages>, Failure> {
        context.concern(draft.shoe_id);
        self.change(Change::Replace(id.clone(), draft), context)
    }

    fn delete(&self, id: &RowId, context: &Context) -> Result<bool, Failure> {
        self.change(Change::Delete(id.clone()), context)
    }

    fn ready(&self, context: &Context) -> Result<(), Failure> {
        await_answer(self.lanes.ask((), Queues::push_ping)?, context)
    }

    fn draining(&self) -> bool {
        self.watch.end_is_near()
    }
}
