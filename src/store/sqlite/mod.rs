//! The SQLite store: the embedded default. One file that all workers open; readers never wait (WAL), a
//! writer waits for another one until its deadline. Every commit is on the disk before it is answered
//! (`synchronous=FULL`). Made by [`super::open`].
//!
//! A batch binds its keys as one array (`rarray`): one statement for every size, and in a database of a
//! million rows some 12 us a key, as with `json_each` or a list of parameters; a batch of one has a
//! statement of its own, which is quicker by half.
//!
//! A read is a few B-tree descents in memory-mapped or cached pages and has no deadline of its own:
//! what can make it wait is a disk that hangs, and then no timeout helps.

mod busy;
mod error;
mod file;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};
use r2d2::{ManageConnection, Pool, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::types::Value;
use rusqlite::{
    Connection, ErrorCode, MAIN_DB, OpenFlags, OptionalExtension, Row, Transaction,
    TransactionBehavior, params,
};

pub(crate) use self::error::store_error;
pub(crate) use self::file::{create_folder, create_private};

use super::pool::{self, Gate};
use super::{
    Change, Changed, Deadline, Draft, Fence, Grouping, IdKind, PoolOptions, RowId, ShoeImages,
    Store, StoreError, batch,
};

/// How long a connection that is being set up waits for others to let go of the file.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// A write-ahead log of more bytes than this is begun anew, and one that has been longer is cut.
const LONG_LOG: u64 = 64 * 1024 * 1024;

/// How often its length is looked at, and how long readers are waited for then.
const LOOK_AT_LOG: Duration = Duration::from_secs(1);
const LOG_PATIENCE: Duration = Duration::from_millis(100);

/// The statements, spelled once. Their columns are those of [`row`], in this order.
const SELECT_ONE_SHOE: &str = "SELECT id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2 \
    FROM shoe_images WHERE shoe_id = ?1 ORDER BY id LIMIT 4096";
const SELECT_SHOES: &str = "SELECT id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2 \
    FROM shoe_images WHERE shoe_id IN rarray(?1) ORDER BY shoe_id, id LIMIT 4096";
#[cfg(test)]
pub(super) const STATEMENTS_OF_SHOES: &[&str] = &[SELECT_ONE_SHOE, SELECT_SHOES];
const SELECT_ROWS: &str = "SELECT id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2 \
    FROM shoe_images WHERE id IN rarray(?1)";
const SELECT_SHOE_OF_ROW: &str = "SELECT shoe_id FROM shoe_images WHERE id = ?1";
pub(crate) const INSERT: &str = "INSERT INTO shoe_images \
    (shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
const UPDATE: &str = "UPDATE shoe_images SET shoe_id = ?1, img1 = ?2, img2 = ?3, img3 = ?4, img4 = ?5, \
    img5 = ?6, img6 = ?7, img7 = ?8, vid1 = ?9, vid2 = ?10 WHERE id = ?11";
const DELETE: &str = "DELETE FROM shoe_images WHERE id = ?1";
const PING: &str = "SELECT 1 FROM shoe_images LIMIT 0";

/// Pages kept in memory by each connection, in KiB; the operating system caches the file behind them.
const CACHE_KIB: u32 = 8 * 1024;

/// A store over one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    pool: Pool<Manager>,
    gate: Arc<Gate>,
    /// When the length of the log was last looked at.
    looked: Mutex<Option<Instant>>,
}

impl SqliteStore {
    /// A store over the file at `path`, which must exist by the time of the first call.
    pub fn open(path: &Path, options: PoolOptions) -> Self {
        let gate = Arc::new(Gate::new(format!("the SQLite file {}", path.display())));
        let manager = Manager {
            inner: manager(path),
            path: path.to_owned(),
            gate: gate.clone(),
        };
        SqliteStore {
            path: path.to_owned(),
            pool: pool::build(manager, options.max_size),
            gate,
            looked: Mutex::default(),
        }
    }

    fn checkout(&self, deadline: Deadline) -> Result<PooledConnection<Manager>, StoreError> {
        let connection = pool::checkout(&self.pool, &self.gate, deadline)?;
        busy::be_patient(deadline.left());
        Ok(connection)
    }

    fn explain(&self, error: &rusqlite::Error) -> StoreError {
        store_error(error, &self.path)
    }

    /// Runs `work` in a transaction that holds the write lock from its start, so that what it reads stays
    /// true until the commit. `work` answers with the value and the shoes that the commit touches, or
    /// `None` to roll back.
    fn write<T>(
        &self,
        deadline: Deadline,
        fence: &dyn Fence,
        work: impl FnOnce(&Transaction<'_>) -> Result<Option<(T, Vec<i32>)>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut connection = self.checkout(deadline)?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.explain(&error))?;
        // Dropped, the transaction rolls back: on every early return below.
        let Some((value, shoe_ids)) = work(&transaction)? else {
            return Ok(None);
        };
        fence.raise(&batch::distinct(&shoe_ids));
        if deadline.passed() {
            return Err(StoreError::TimedOut);
        }
        transaction
            .commit()
            .map_err(|error| match self.explain(&error) {
                // The disk failed while the commit was being written: it may or may not be there.
                StoreError::Unavailable(why) => StoreError::OutcomeUnknown(why),
                other => other,
            })?;
        self.shorten_log(&connection);
        Ok(Some(value))
    }

    /// Begins the write-ahead log anew once it is long. SQLite does so by itself when no reader is in its way, which under steady
    /// reads is never: then the log would grow, and each read with it.
    fn shorten_log(&self, connection: &Connection) {
        // Another lane is at it.
        let Ok(mut looked) = self.looked.try_lock() else {
            return;
        };
        if looked.is_some_and(|at| at.elapsed() < LOOK_AT_LOG) {
            return;
        }
        *looked = Some(Instant::now());
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        if std::fs::metadata(log).is_ok_and(|log| log.len() > LONG_LOG) {
            busy::be_patient(LOG_PATIENCE);
            let begun = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
            if let Err(error) = begun {
                log::debug!(
                    "store: the log of {} stays long: {error}",
                    self.path.display()
                );
            }
        }
    }
}

/// The work of each kind of write, inside of a transaction: what to answer and the shoes that it touches, or `None` if there
/// is nothing to commit.
impl SqliteStore {
    fn insert_within(
        &self,
        connection: &Connection,
        draft: &Draft,
    ) -> Result<(ShoeImages, Vec<i32>), StoreError> {
        let media = &draft.media;
        connection
            .prepare_cached(INSERT)
            .and_then(|mut insert| {
                insert.execute(params![
                    draft.shoe_id,
                    media[0],
                    media[1],
                    media[2],
                    media[3],
                    media[4],
                    media[5],
                    media[6],
                    media[7],
                    media[8]
                ])
            })
            .map_err(|error| self.explain(&error))?;
        let id = i32::try_from(connection.last_insert_rowid())
            .map_err(|_| StoreError::Failed("the ids are used up (32 bits)".to_owned()))?;
        Ok((stored(id, draft), vec![draft.shoe_id]))
    }

    fn replace_within(
        &self,
        connection: &Connection,
        id: &RowId,
        draft: &Draft,
    ) -> Result<Option<(ShoeImages, Vec<i32>)>, StoreError> {
        let work = || {
            let Some(id) = id.number() else {
                return Ok(None);
            };
            let Some(old) = shoe_of_row(connection, id)? else {
                return Ok(None);
            };
            let media = &draft.media;
            connection.prepare_cached(UPDATE)?.execute(params![
                draft.shoe_id,
                media[0],
                media[1],
                media[2],
                media[3],
                media[4],
                media[5],
                media[6],
                media[7],
                media[8],
                id
            ])?;
            let shoe_ids = old.into_iter().chain([draft.shoe_id]).collect();
            Ok(Some((stored(id, draft), shoe_ids)))
        };
        work().map_err(|error| self.explain(&error))
    }

    fn delete_within(
        &self,
        connection: &Connection,
        id: &RowId,
    ) -> Result<Option<((), Vec<i32>)>, StoreError> {
        let work = || {
            let Some(id) = id.number() else {
                return Ok(None);
            };
            let Some(old) = shoe_of_row(connection, id)? else {
                return Ok(None);
            };
            connection.prepare_cached(DELETE)?.execute([id])?;
            Ok(Some(((), old.into_iter().collect())))
        };
        work().map_err(|error| self.explain(&error))
    }

    /// One change between its savepoints: what came of it, and the shoes that it touches.
    fn change_within(
        &self,
        connection: &Connection,
        change: &Change,
    ) -> Result<(Changed, Vec<i32>), StoreError> {
        let mark = |sql| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute([]).map(drop)
        };
        let explained = |sql| mark(sql).map_err(|error| self.explain(&error));
        explained("SAVEPOINT one")?;
        let made = match change {
            Change::Insert(draft) => draft.check().and_then(|()| {
                let (row, shoe_ids) = self.insert_within(connection, draft)?;
                Ok((Changed::Inserted(row), shoe_ids))
            }),
            Change::Replace(id, draft) => draft.check().and_then(|()| {
                Ok(match self.replace_within(connection, id, draft)? {
                    Some((row, shoe_ids)) => (Changed::Replaced(Some(row)), shoe_ids),
                    None => (Changed::Replaced(None), Vec::new()),
                })
            }),
            Change::Delete(id) => self
                .delete_within(connection, id)
                .map(|deleted| match deleted {
                    Some(((), shoe_ids)) => (Changed::Deleted(true), shoe_ids),
                    None => (Changed::Deleted(false), Vec::new()),
                }),
        };
        if made.is_err() && !connection.is_autocommit() {
            explained("ROLLBACK TO one")?;
        }
        // After some errors (a full disk) SQLite has rolled the whole transaction back already.
        if !connection.is_autocommit() {
            explained("RELEASE one")?;
        }
        made
    }

    /// Group commit: many changes, one wait for the write lock and one for the disk.
    fn change_together(
        &self,
        changes: &[Change],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Vec<Result<Changed, Arc<StoreError>>> {
        let mut outcomes: Vec<Result<Changed, Arc<StoreError>>> = Vec::with_capacity(changes.len());
        let committed = self.write(deadline, fence, |transaction| {
            let mut touched = Vec::new();
            for change in changes {
                match self.change_within(transaction, change) {
                    Ok((changed, shoe_ids)) => {
                        touched.extend(shoe_ids);
                        outcomes.push(Ok(changed));
                    }
                    // Those before it are gone as well.
                    Err(error) if transaction.is_autocommit() => return Err(error),
                    Err(error) => outcomes.push(Err(Arc::new(error))),
                }
            }
            Ok((!touched.is_empty()).then_some(((), touched)))
        });
        if let Err(error) = committed {
            let error = Arc::new(error);
            // What was refused for a reason of its own keeps it.
            outcomes
                .iter_mut()
                .filter(|outcome| outcome.is_ok())
                .for_each(|outcome| *outcome = Err(error.clone()));
            outcomes.resize_with(changes.len(), || Err(error.clone()));
        }
        outcomes
    }
}

impl Store for SqliteStore {
    fn ids(&self) -> IdKind {
        IdKind::Number
    }

    fn shoes(
        &self,
        shoe_ids: &[i32],
        deadline: Deadline,
    ) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        if shoe_ids.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.checkout(deadline)?;
        let rows = batch::in_pages(&batch::distinct(shoe_ids), |keys| match keys {
            [shoe_id] => select(&connection, SELECT_ONE_SHOE, [shoe_id]),
            keys => select(&connection, SELECT_SHOES, [array(keys)]),
        });
        Ok(batch::by_shoe(
            shoe_ids,
            rows.map_err(|error| self.explain(&error))?,
        ))
    }

    fn rows(
        &self,
        ids: &[RowId],
        deadline: Deadline,
    ) -> Result<Vec<Option<ShoeImages>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.checkout(deadline)?;
        let rows = select(
            &connection,
            SELECT_ROWS,
            [array(&batch::distinct_numbers(ids))],
        );
        Ok(batch::by_id(
            ids,
            rows.map_err(|error| self.explain(&error))?,
        ))
    }

    fn insert(
        &self,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<ShoeImages, StoreError> {
        draft.check()?;
        let stored = self.write(deadline, fence, |transaction| {
            self.insert_within(transaction, draft).map(Some)
        })?;
        stored.ok_or_else(|| StoreError::Failed("the row was not stored".to_owned()))
    }

    fn replace(
        &self,
        id: &RowId,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<Option<ShoeImages>, StoreError> {
        draft.check()?;
        self.write(deadline, fence, |transaction| {
            self.replace_within(transaction, id, draft)
        })
    }

    fn delete(
        &self,
        id: &RowId,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let deleted = self.write(deadline, fence, |transaction| {
            self.delete_within(transaction, id)
        })?;
        Ok(deleted.is_some())
    }

    fn change(
        &self,
        changes: &[Change],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Vec<Result<Changed, Arc<StoreError>>> {
        match changes {
            [] | [_] => self.change_one_by_one(changes, fence, deadline),
            _ => self.change_together(changes, fence, deadline),
        }
    }

    fn grouping(&self) -> Grouping {
        Grouping::All
    }

    fn ping(&self, deadline: Deadline) -> Result<(), StoreError> {
        let connection = self.checkout(deadline)?;
        let answer = connection
            .prepare_cached(PING)
            .and_then(|mut ping| ping.query_row([], |_| Ok(())).optional());
        answer.map(|_| ()).map_err(|error| self.explain(&error))
    }
}

/// Opens connections to an existing file.
struct Manager {
    inner: SqliteConnectionManager,
    path: PathBuf,
    gate: Arc<Gate>,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = error::OpenError;

    fn connect(&self) -> Result<Connection, error::OpenError> {
        self.gate
            .attempt(|| {
                self.inner
                    .connect()
                    .map_err(|error| error::open_text(&error, &self.path))
            })
            .map_err(error::OpenError)
    }

    fn is_valid(&self, _: &mut Connection) -> Result<(), error::OpenError> {
        Ok(())
    }

    /// A connection that is still in a transaction could not roll back: the disk failed under it. One that was opened while the
    /// file could only be read stays so, although it may be written by now.
    fn has_broken(&self, connection: &mut Connection) -> bool {
        // Asked by name: to close a descriptor of the file would drop what locks this process has on it.
        let outlived = connection.is_readonly(MAIN_DB) == Ok(true)
            && access(&self.path, AccessFlags::W_OK).is_ok();
        !connection.is_autocommit() || outlived
    }
}

/// The flags and settings that every connection of this program has. The file is never created here, or
/// a mistyped path would become an empty database.
fn manager(path: &Path) -> SqliteConnectionManager {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    SqliteConnectionManager::file(path)
        .with_flags(flags)
        .with_init(set_up)
}

/// One connection to an existing file, for the tools.
///
/// # Errors
/// [`StoreError`] naming the path.
pub(crate) fn connect(path: &Path) -> Result<Connection, StoreError> {
    manager(path)
        .connect()
        .map_err(|error| match store_error(&error, path) {
            StoreError::Unavailable(_) => StoreError::Unavailable(error::open_text(&error, path)),
            other => other,
        })
}

/// Settings of a connection; WAL is a property of the file, kept from its creation on.
pub(crate) fn set_up(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(busy::wait))?;
    busy::be_patient(BUSY_PATIENCE);
    use_wal(connection)?;
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA journal_size_limit = {LONG_LOG};"
    ))?;
    connection.set_prepared_statement_cache_capacity(16);
    rusqlite::vtab::array::load_module(connection)
}

/// Makes the file a WAL database unless it is one. The switch needs the file alone, and SQLite answers BUSY at once
/// instead of waiting for another connection that is about to do the same, so the waiting is done here.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let give_up = Instant::now() + BUSY_PATIENCE;
    loop {
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        if mode.eq_ignore_ascii_case("wal") {
            return Ok(());
        }
        match connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < give_up =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            switched => return switched,
        }
    }
}

fn select(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<ShoeImages>> {
    connection
        .prepare_cached(sql)?
        .query_map(params, row)?
        .collect()
}

fn array(keys: &[i32]) -> Rc<Vec<Value>> {
    Rc::new(keys.iter().map(|key| Value::from(*key)).collect())
}

fn row(row: &Row<'_>) -> rusqlite::Result<ShoeImages> {
    let mut media = super::Media::default();
    for (i, text) in media.iter_mut().enumerate() {
        *text = row.get(i + 2)?;
    }
    Ok(ShoeImages {
        id: RowId::Number(row.get(0)?),
        shoe_id: row.get(1)?,
        media,
    })
}

/// The outer `None`: no such row; the inner: a row that belongs to no shoe.
fn shoe_of_row(connection: &Connection, id: i32) -> rusqlite::Result<Option<Option<i32>>> {
    connection
        .prepare_cached(SELECT_SHOE_OF_ROW)?
        .query_row([id], |row| row.get(0))
        .optional()
}

fn stored(id: i32, draft: &Draft) -> ShoeImages {
    ShoeImages {
        id: id.into(),
        shoe_id: Some(draft.shoe_id),
        media: draft.media.clone(),
    }
}
