//! Seeding SQLite: one prepared statement in one transaction, so that a seed happens whole or not at all.
//! Pages that don't fit the cache spill to the write-ahead log, so memory stays bounded. Other writers wait,
//! or are refused at their deadline, until it is done; readers are not disturbed.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{Mode, Phase, Progress, SeedError, Summary, last_of};
use crate::store::Draft;
use crate::store::schema::{INDEX, migrate_connection, migrate_file};
use crate::store::sqlite::{INSERT, connect, store_error};

/// Rows between two reports.
const REPORT_ROWS: u32 = 5_000;
/// How long another writer may keep us waiting.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Loads shoes that `make` makes of their numbers.
pub(super) fn run(
    path: &Path,
    rows: u32,
    mode: Mode,
    make: impl Fn(i32) -> Draft,
    progress: impl Fn(Progress),
) -> Result<Summary, SeedError> {
    let begun = Instant::now();
    let explain = |error: rusqlite::Error| SeedError::Store(store_error(&error, path));
    migrate_file(path)?;
    let mut connection = connect(path)?;
    connection.busy_timeout(LOCK_PATIENCE).map_err(explain)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(explain)?;
    // Once more under the lock: the table may have been dropped in between.
    migrate_connection(&transaction, path)?;

    let report = |phase, done: u32| {
        progress(Progress {
            phase,
            done: done.into(),
            rows: rows.into(),
        })
    };
    let there = count(&transaction).map_err(explain)?;
    match mode {
        Mode::Fill if there > 0 => return Err(SeedError::NotEmpty { rows: there }),
        Mode::Truncate if there > 0 => {
            report(Phase::Cleaning, 0);
            truncate(&transaction).map_err(explain)?;
        }
        Mode::Fill | Mode::Append | Mode::Truncate => {}
    }
    let empty = there == 0 || mode == Mode::Truncate;
    let last_shoe = transaction
        .query_row(
            "SELECT max(0, coalesce(max(shoe_id), 0)) FROM shoe_images",
            [],
            |row| row.get(0),
        )
        .map_err(explain)?;
    let last = last_of(last_shoe, rows)?;
    let first_shoe_id = last.wrapping_sub_unsigned(rows).wrapping_add(1);
    if empty {
        transaction
            .execute_batch(&format!("DROP INDEX IF EXISTS {INDEX}"))
            .map_err(explain)?;
    }

    let loading = Instant::now();
    for n in 0..rows {
        if n % REPORT_ROWS == 0 {
            report(Phase::Loading, n);
        }
        insert(&transaction, make(first_shoe_id.wrapping_add_unsigned(n))).map_err(explain)?;
    }
    report(Phase::Loading, rows);
    let loading = loading.elapsed();
    if transaction.last_insert_rowid() > i32::MAX.into() {
        return Err(SeedError::TooMany);
    }

    report(Phase::Indexing, rows);
    migrate_connection(&transaction, path)?;
    transaction.commit().map_err(explain)?;
    // The log may be as long as the file by now. A reader can keep it so; that is no failure.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    Ok(Summary {
        rows,
        first_shoe_id,
        swept: 0,
        loading,
        total: begun.elapsed(),
    })
}

fn count(connection: &Connection) -> rusqlite::Result<u64> {
    let count: i64 =
        connection.query_row("SELECT count(*) FROM shoe_images", [], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

fn truncate(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch("DELETE FROM shoe_images")?;
    // A table without AUTOINCREMENT has no such entry, and may have no such table.
    let numbered = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence')";
    if transaction.query_row(numbered, [], |row| row.get(0))? {
        transaction.execute(
            "DELETE FROM sqlite_sequence WHERE lower(name) = 'shoe_images'",
            [],
        )?;
    }
    Ok(())
}

fn insert(transaction: &Transaction<'_>, Draft { shoe_id, media }: Draft) -> rusqlite::Result<()> {
    transaction.prepare_cached(INSERT)?.execute(params![
        shoe_id, media[0], media[1], media[2], media[3], media[4], media[5], media[6], media[7],
        media[8]
    ])?;
    Ok(())
}
