//! The service: what each URL means. It knows HTTP's messages and asks a [`Backend`] for shoes; where those come
//! from (cache, lanes, database) is not its business.

pub mod art;
pub mod assets;
mod coding;
mod content;
pub mod document;
pub mod extras;
pub mod images;
pub mod manners;
mod media_type;
pub mod page;
pub mod problem;
mod range;
pub mod routes;

use std::sync::Arc;

use bytes::Bytes;

use self::manners::Page;
use crate::http::context::Context;
use crate::store::{Draft, IdKind, RowId, ShoeImages, StoreError};

/// What the service needs from below. Calls wait (a coroutine parks) until the answer or the request's deadline, and note in the
/// request's context what they have waited for.
pub trait Backend: Send + Sync + 'static {
    /// Which ids its rows have.
    fn ids(&self) -> IdKind;
    /// The page of a shoe, which `page` makes of its rows as a JSON array when there is none yet.
    fn shoe(
        &self,
        shoe_id: i32,
        page: &dyn Fn(Bytes) -> Page,
        context: &Context,
    ) -> Result<Arc<Page>, Failure>;
    /// The row as a JSON object.
    fn row(&self, id: &RowId, context: &Context) -> Result<Option<Bytes>, Failure>;
    /// Stores a row; answered after the commit.
    fn insert(&self, draft: Draft, context: &Context) -> Result<ShoeImages, Failure>;
    /// Replaces a row; `None` where there is none.
    fn replace(
        &self,
        id: &RowId,
        draft: Draft,
        context: &Context,
    ) -> Result<Option<ShoeImages>, Failure>;
    /// Deletes a row; `false` where there was none.
    fn delete(&self, id: &RowId, context: &Context) -> Result<bool, Failure>;
    /// Whether a read could be answered now.
    fn ready(&self, context: &Context) -> Result<(), Failure>;
    /// Whether this worker has been told to finish.
    fn draining(&self) -> bool;
}

/// Why the backend gave no answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The store said no; shared, since one query answers many requests.
    Store(Arc<StoreError>),
    /// More is waiting than can be answered in time: try again shortly.
    Overloaded,
}
