//! The store: where shoes live for good. This room holds the words every store speaks (`ShoeImages`,
//! `Draft`, `Store`, `StoreError`) and opens the one that a database URL names. Called from lane threads
//! only, for every call here blocks.
//!
//! The rooms within: `url` reads database URLs, `sqlite`, `postgres` and `couchdb` are the stores, `tls` encrypts the
//! connections of the latter two, `pool` hands connections out and backs off from a server that is down,
//! `schema` creates and checks the table, `batch` deals a query's rows out to those who asked, `row_id` is what rows are
//! known by.

mod batch;
pub(crate) mod couchdb;
mod pool;
mod postgres;
mod row_id;
pub mod schema;
pub mod sqlite;
pub(crate) mod tls;
pub mod url;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::couchdb::CouchStore;
use self::postgres::PostgresStore;
use self::sqlite::SqliteStore;
use self::url::DatabaseUrl;

#[cfg(test)]
pub(crate) use self::postgres::IDLE_IN_TRANSACTION;
pub use self::postgres::notices;
pub(crate) use self::postgres::{
    Session, connect as connect_postgres, refusal as postgres_refusal,
    store_error as postgres_error, take_lock,
};
pub use self::row_id::{IdKind, RowId, TextId};

/// The media columns of `shoe_images`, in the order of the schema and of the JSON: seven pictures, two videos.
pub const MEDIA_COLUMNS: [&str; 9] = [
    "img1", "img2", "img3", "img4", "img5", "img6", "img7", "vid1", "vid2",
];

/// The longest text a media column takes, in characters (`varchar(255)`).
pub const MEDIA_MAX_CHARS: usize = 255;

/// The most rows of one shoe that are answered: a page of everything that somebody once put under one number would be as large as
/// the table, in every cache on its way.
pub const MAX_ROWS: usize = 1000;

/// The most rows that one query answers, in every statement that asks for a batch of shoes; what is missing then is asked for by
/// another one. Above [`MAX_ROWS`], so that each gets on.
const PAGE_ROWS: usize = 4096;

/// The media of one row, in the order of [`MEDIA_COLUMNS`]; `None` is SQL's NULL.
pub type Media = [Option<String>; 9];

/// One row of `shoe_images` as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShoeImages {
    /// The primary key, given by the store.
    pub id: RowId,
    /// The shoe that the row belongs to. The column is nullable, so a row made by others may have none.
    pub shoe_id: Option<i32>,
    pub media: Media,
}

/// A row to be stored: all of it but the id, which the store gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub shoe_id: i32,
    pub media: Media,
}

impl Draft {
    /// What every store can hold, so that none of them takes what another one refuses: no text longer
    /// than [`MEDIA_MAX_CHARS`], none with a NUL character (PostgreSQL has no way to store one).
    ///
    /// # Errors
    /// [`StoreError::Failed`] naming the column.
    pub fn check(&self) -> Result<(), StoreError> {
        for (column, text) in MEDIA_COLUMNS.iter().zip(&self.media) {
            let Some(text) = text else { continue };
            // A byte is never more than a character, so the count is needed for long texts only.
            if text.len() > MEDIA_MAX_CHARS && text.chars().count() > MEDIA_MAX_CHARS {
                let why = format!("{column} is longer than {MEDIA_MAX_CHARS} characters");
                return Err(StoreError::Failed(why));
            }
            if text.contains('\0') {
                return Err(StoreError::Failed(format!(
                    "{column} holds a NUL character"
                )));
            }
        }
        Ok(())
    }
}

/// The moment by which a call must have answered. Passed down to every blocking call, so that the sum of
/// the waits holds it, not each wait alone.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(wait: Duration) -> Self {
        Deadline(Instant::now() + wait)
    }

    pub fn at(moment: Instant) -> Self {
        Deadline(moment)
    }

    /// The time left; zero once it has passed.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// For how long it has passed; zero while it has not.
    pub fn passed_by(&self) -> Duration {
        Instant::now().saturating_duration_since(self.0)
    }

    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }
}

/// How a store holds its connections.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    /// The most connections at one time, at least 1. Connections are opened when they are needed.
    pub max_size: u32,
    /// The longest that one server may take to let us in, unless the URL says otherwise.
    pub connect_timeout: Duration,
    /// The longest that the server may work on one statement (PostgreSQL's `statement_timeout`). It should
    /// not be below the callers' deadlines; it is what ends a statement whose caller has given up.
    pub statement_timeout: Duration,
    /// A pooler in transaction mode is between (PgBouncer): no session is ours for longer than a transaction.
    pub pooled: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            max_size: 4,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            pooled: false,
        }
    }
}

/// Opens the store that the URL names. Nothing is connected yet: a server that is down or a file that is
/// missing shows at the first call, and is used as soon as it is there.
///
/// # Errors
/// [`StoreError::Unavailable`] if a certificate or key file named in the URL can't be read.
pub fn open(url: &DatabaseUrl, pool: PoolOptions) -> Result<Arc<dyn Store>, StoreError> {
    match url {
        DatabaseUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path, pool))),
        DatabaseUrl::Postgres(url) => Ok(Arc::new(PostgresStore::open(url, pool, None)?)),
        DatabaseUrl::CouchDb(url) => Ok(Arc::new(CouchStore::open(url, pool)?)),
    }
}

/// Opens a store over PostgreSQL that reads from replicas, too.
///
/// # Errors
/// As [`open`]; or the kernel has no thread left for us.
pub fn open_with_replicas(
    url: &url::PostgresUrl,
    pool: PoolOptions,
    replicas: ReplicaOptions,
) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(PostgresStore::open(url, pool, Some(replicas))?))
}

/// Prepares to hear of writes that are made past this server; `None` if the database can't tell.
///
/// # Errors
/// As [`open`].
pub fn listen(url: &DatabaseUrl) -> Result<Option<notices::Listener>, StoreError> {
    match url {
        DatabaseUrl::Sqlite(_) | DatabaseUrl::CouchDb(_) => Ok(None),
        DatabaseUrl::Postgres(url) => postgres::listener(url).map(Some),
    }
}

/// A place in the write-ahead log of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which history of the cluster it is in, from 1: each promotion begins a new one. Places of two timelines can't be compared.
    pub timeline: u32,
    /// The log sequence number: how many bytes of log there are before it.
    pub lsn: u64,
}

/// How a store reads from replicas.
pub struct ReplicaOptions {
    /// One server each.
    pub urls: Vec<url::PostgresUrl>,
    /// The longest that one may be behind the primary and be read from.
    pub max_lag: Duration,
    pub progress: Arc<dyn Progress>,
    /// How many connections this process may have with a server that has so much room.
    pub part: Arc<dyn Fn(Room) -> usize + Send + Sync>,
    /// Whether this process says in the log how the replicas are.
    pub speaks: bool,
}

/// How far the database has been written, as the processes of a host know together; and what they tell of replicas.
pub trait Progress: Send + Sync {
    /// What a replica must have replayed to show all that this host has acknowledged or heard of; `None` while that is in doubt.
    fn wanted(&self) -> Option<Position>;

    /// The newest timeline that is known to have been written on; 0 before any is.
    fn timeline(&self) -> u32;

    /// Notes that so much has been written.
    fn note(&self, position: Position);

    /// How many doubts there have been. Read before the primary is asked for its place, and passed to `settle` once that is noted.
    fn doubts(&self) -> u64;

    /// Settles so many doubts.
    fn settle(&self, doubts: u64);

    /// Tells how a replica is, by its number.
    fn tell(&self, replica: usize, sight: ReplicaSight);

    /// Counts what came of asking a replica.
    fn count(&self, outcome: ReadOutcome);
}

/// How a replica was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaSight {
    /// How far it is behind; `None` if that is not known.
    pub lag: Option<Duration>,
    /// Whether it is read from.
    pub used: bool,
}

/// What came of asking a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    Answered,
    /// It had not replayed enough.
    Behind,
    Failed,
}

/// What a write tells others about before its commit becomes visible: `raise` is called inside the
/// transaction, after the store knows every shoe whose answer the commit changes and right before COMMIT.
pub trait Fence {
    /// Marks the cached answers of these shoes as dying. Must not fail: a fence that can't reach a cache
    /// remembers so and sees to it that the cache is not trusted.
    fn raise(&self, shoe_ids: &[i32]);

    /// Whether somebody reads from replicas, to whom it matters how far the log was written: to ask costs each commit a query.
    fn wants_place(&self) -> bool {
        false
    }

    /// Told that the transaction has been committed, and how far the log was written then, if that is wanted. A store that has no log
    /// does not say so, nor one that lost its server before it heard.
    fn committed(&self, position: Position) {
        let _ = position;
    }

    /// The W3C traceparents of the requests whose writes they are, for a database that can show them; empty if it is to show
    /// none, which is what everybody else's writes have.
    fn traceparents(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// A fence for callers that have no cache to guard (tools, tests).
pub struct NoFence;

impl Fence for NoFence {
    fn raise(&self, _shoe_ids: &[i32]) {}
}

/// One write, as it can be grouped with others.
#[derive(Debug, Clone)]
pub enum Change {
    /// See [`Store::insert`].
    Insert(Draft),
    /// See [`Store::replace`].
    Replace(RowId, Draft),
    /// See [`Store::delete`].
    Delete(RowId),
}

/// What came of a [`Change`] of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    Inserted(ShoeImages),
    Replaced(Option<ShoeImages>),
    Deleted(bool),
}

/// Which writes a store does better together than one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// All: one writer at a time is let in anyway, and a commit costs the same for one and for many.
    All,
    /// New rows, which wait for nobody's lock. What changes a row may wait for another session, and those grouped with it
    /// would wait along.
    Inserts,
}

impl Grouping {
    /// Whether a write may share a transaction with others.
    pub fn takes(self, change: &Change) -> bool {
        self == Grouping::All || matches!(change, Change::Insert(_))
    }
}

/// How many connections a store has for this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// As many as are asked for.
    Ample,
    /// The store has not been reached yet.
    Unknown,
    /// What the server lets in, all its clients together.
    Connections(u32),
}

/// A database of shoes. Implementations pool their connections and may be called from many threads.
pub trait Store: Send + Sync {
    /// Which ids the rows have.
    fn ids(&self) -> IdKind;

    /// The rows of each shoe, by id; element `i` answers `shoe_ids[i]`, empty where there are none. Of a shoe that has more than
    /// [`MAX_ROWS`] it is one row more than that, and no more of them are kept. One query for the whole batch, unless its
    /// shoes have thousands of rows. `shoe_ids` may repeat.
    fn shoes(
        &self,
        shoe_ids: &[i32],
        deadline: Deadline,
    ) -> Result<Vec<Vec<ShoeImages>>, StoreError>;

    /// The same, as new as a commit that was made before the call: what is to be kept where others read it.
    fn shoes_as_of_now(
        &self,
        shoe_ids: &[i32],
        deadline: Deadline,
    ) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        self.shoes(shoe_ids, deadline)
    }

    /// Whether some reads are answered by servers that may be behind.
    fn has_replicas(&self) -> bool {
        false
    }

    /// The rows with these ids; element `i` answers `ids[i]`. One query for the whole batch. An id of another kind than the
    /// store's is that of no row, here and below.
    fn rows(
        &self,
        ids: &[RowId],
        deadline: Deadline,
    ) -> Result<Vec<Option<ShoeImages>>, StoreError>;

    /// Stores a new row and answers with it as stored, once it is committed.
    fn insert(
        &self,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<ShoeImages, StoreError>;

    /// Replaces a row whole; `None` if there is no such row. The fence is raised for the old shoe, read in the
    /// same transaction, and for the new one.
    fn replace(
        &self,
        id: &RowId,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<Option<ShoeImages>, StoreError>;

    /// Deletes a row; `false` if there was none.
    fn delete(&self, id: &RowId, fence: &dyn Fence, deadline: Deadline)
    -> Result<bool, StoreError>;

    /// Makes several changes, in one transaction where [`Store::grouping`] takes them, each with its own outcome: one that
    /// is refused takes nothing from the others. Element `i` answers `changes[i]`. The fence is raised for all of
    /// a transaction's shoes at once, and may be raised more than once.
    fn change(
        &self,
        changes: &[Change],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Vec<Result<Changed, Arc<StoreError>>> {
        self.change_one_by_one(changes, fence, deadline)
    }

    /// Makes several changes, each in a transaction of its own.
    fn change_one_by_one(
        &self,
        changes: &[Change],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Vec<Result<Changed, Arc<StoreError>>> {
        let one = |change: &Change| match change {
            Change::Insert(draft) => self.insert(draft, fence, deadline).map(Changed::Inserted),
            Change::Replace(id, draft) => self
                .replace(id, draft, fence, deadline)
                .map(Changed::Replaced),
            Change::Delete(id) => self.delete(id, fence, deadline).map(Changed::Deleted),
        };
        changes
            .iter()
            .map(|change| one(change).map_err(Arc::new))
            .collect()
    }

    /// Which writes share a transaction.
    fn grouping(&self) -> Grouping;

    /// How many connections the store has for us.
    fn room(&self) -> Room {
        Room::Ample
    }

    /// Opens no more than so many connections from now on, nor more than it was opened with. What is in use beyond that is
    /// closed when it is given back.
    fn limit(&self, connections: usize) {
        let _ = connections;
    }

    /// Whether the store could answer a read now: a connection and the table are there.
    fn ping(&self, deadline: Deadline) -> Result<(), StoreError>;

    /// Opens so many connections, as far as that goes by the deadline, so that no request waits for them.
    fn warm_up(&self, connections: usize, deadline: Deadline) {
        let _ = (connections, deadline);
    }
}

/// Why a store could not do what it was asked. Texts never hold a password or a connection URL.
#[derive(Debug)]
pub enum StoreError {
    /// No connection: the server is down, refuses us, or the pool ran dry before the deadline.
    Unavailable(String),
    /// The deadline passed before the answer came; of a write, nothing was committed.
    TimedOut,
    /// The connection was lost during COMMIT, or BEGIN refused: the write may or may not have happened.
    OutcomeUnknown(String),
    /// The table `shoe_images` is missing or has another shape; the remedy is `canvas-cluster migrate`.
    Schema(String),
    /// The store is full, read-only or locked for longer than the deadline; nothing was committed.
    Refused(String),
    /// The shoe has more rows than [`MAX_ROWS`].
    TooManyRows(i32),
    /// Anything else that the database answered; nothing was committed.
    Failed(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Unavailable(why) => write!(f, "the database is not available: {why}"),
            StoreError::TimedOut => write!(f, "the database did not answer in time"),
            StoreError::OutcomeUnknown(why) => {
                write!(
                    f,
                    "the outcome of the write is unknown, for its transaction did not end in order: {why}"
                )
            }
            StoreError::Schema(why) => write!(
                f,
                "the table shoe_images is not usable: {why}; run `canvas-cluster migrate`"
            ),
            StoreError::Refused(why) => write!(f, "the database refuses: {why}"),
            StoreError::TooManyRows(shoe_id) => write!(
                f,
                "shoe {shoe_id} has more than {MAX_ROWS} rows, which is the most that is answered; they are to be had one by one, \
                 by their ids"
            ),
            StoreError::Failed(why) => write!(f, "the database failed: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}
