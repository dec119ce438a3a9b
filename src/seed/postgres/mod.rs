//! Seeding PostgreSQL: binary COPY over several connections at once.
//!
//! The order of things, so that a crash at any point leaves a state that the next seed can read:
//! 1. Take the tools' lock; create or check the table; remove what an interrupted seed has left.
//! 2. In one transaction that keeps writers out for a moment: reserve a block of ids from the sequence, drop
//!    our index if the table is empty, and write the *mark* into the table's comment: "these ids are being
//!    seeded". Writers that come later get ids after the block, so the mark names exactly our rows.
//! 3. Load the block in chunks, each its own COPY and transaction, spread over the connections.
//! 4. Build the index, gather statistics, put the table's own comment back: the mark is gone, the seed done.
//!
//! A seed that finds a mark deletes the rows of its block (or truncates, if there are no others) and goes on.
//! Deleting rather than finishing: a mark can't tell which of a dead seed's chunks are in.

mod copy;
mod mark;

use std::time::{Duration, Instant};

use self::copy::{load, open_pool};
use self::mark::{Mark, comment, set_comment, sweep};
use super::{Mode, Phase, Progress, SeedError, Summary, last_of};
use crate::store::schema::INDEX;
use crate::store::schema::postgres::{call, ensure_index, ensure_table};
use crate::store::url::PostgresUrl;
use crate::store::{Session, StoreError, connect_postgres, take_lock};

/// How long another tool may keep us waiting.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The rows to be: `rows` of them, numbered from these on.
#[derive(Clone, Copy)]
struct Block {
    first_id: i32,
    first_shoe_id: i32,
    rows: u32,
    /// The table was empty when the block was reserved.
    alone: bool,
}

pub(super) fn run(
    url: &PostgresUrl,
    rows: u32,
    mode: Mode,
    streams: u32,
    progress: impl Fn(Progress),
) -> Result<Summary, SeedError> {
    let begun = Instant::now();
    let report = |phase, done| {
        progress(Progress {
            phase,
            done,
            rows: rows.into(),
        })
    };
    let mut session = connect_postgres(url)?;
    take_lock(&mut session, LOCK_PATIENCE)?;
    ensure_table(&mut session)?;
    let swept = sweep(&mut session, || report(Phase::Cleaning, 0))?;
    if mode == Mode::Fill {
        let there: i64 = call(&mut session, async |client| {
            client
                .query_one("SELECT count(*) FROM shoe_images", &[])
                .await?
                .try_get(0)
        })?;
        if there > 0 {
            ensure_index(&mut session, true)?;
            return Err(SeedError::NotEmpty {
                rows: there.unsigned_abs(),
            });
        }
    }
    if mode == Mode::Truncate {
        report(Phase::Cleaning, 0);
    }
    let (block, comment) = reserve(&mut session, rows, mode)?;

    let loading = Instant::now();
    let loaded = open_pool(url, &session, streams)
        .and_then(|pool| load(&pool, block, streams, |done| report(Phase::Loading, done)));
    if let Err(error) = loaded {
        // What can't be tidied up now, with the server gone or full, the next seed tidies up.
        let _ = sweep(&mut session, || report(Phase::Cleaning, 0))
            .and_then(|_| ensure_index(&mut session, true));
        return Err(error.into());
    }
    let loading = loading.elapsed();

    report(Phase::Indexing, rows.into());
    ensure_index(&mut session, !block.alone)?;
    call(&mut session, async |client| {
        client.batch_execute("ANALYZE shoe_images").await
    })?;
    call(&mut session, async |client| {
        set_comment(client, comment.as_deref()).await
    })?;
    Ok(Summary {
        rows,
        first_shoe_id: block.first_shoe_id,
        swept,
        loading,
        total: begun.elapsed(),
    })
}

/// Step 2. Answers with the block and the table's own comment.
fn reserve(
    session: &mut Session,
    rows: u32,
    mode: Mode,
) -> Result<(Block, Option<String>), SeedError> {
    let found = call(session, async |client| {
        client.batch_execute("BEGIN").await?;
        match mode {
            // Inserting writers take their id under a lock that this one excludes.
            Mode::Fill | Mode::Append => {
                client
                    .batch_execute("LOCK TABLE shoe_images IN SHARE ROW EXCLUSIVE MODE")
                    .await?;
            }
            Mode::Truncate => {
                client
                    .batch_execute("TRUNCATE shoe_images RESTART IDENTITY")
                    .await?
            }
        }
        let sequence = "SELECT pg_catalog.pg_get_serial_sequence('shoe_images', 'id')";
        let sequence: Option<String> = client.query_one(sequence, &[]).await?.try_get(0)?;
        let Some(sequence) = sequence else {
            return Ok(None);
        };
        let numbers = format!(
            "SELECT (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {sequence}),
                coalesce(max(id), 0)::int8, greatest(coalesce(max(shoe_id), 0), 0)::int8 FROM shoe_images"
        );
        let row = client.query_one(&numbers, &[]).await?;
        let (called, id, shoe): (i64, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Some((sequence, called.max(id).max(0), id, shoe)))
    })?;
    let Some((sequence, last_id, greatest_id, last_shoe)) = found else {
        let why = "column id has no sequence of its own (serial or identity) to take numbers from";
        return Err(SeedError::Store(StoreError::Schema(why.to_owned())));
    };
    // The transaction dies with the session if the numbers don't fit.
    let (end_id, end_shoe) = (last_of(last_id, rows)?, last_of(last_shoe, rows)?);
    let block = Block {
        first_id: end_id.wrapping_sub_unsigned(rows).wrapping_add(1),
        first_shoe_id: end_shoe.wrapping_sub_unsigned(rows).wrapping_add(1),
        rows,
        alone: greatest_id == 0,
    };
    let own = call(session, async |client| {
        let own = comment(client).await?;
        let mark = Mark {
            first_id: block.first_id,
            last_id: end_id,
            comment: own.clone(),
        };
        if rows > 0 {
            client
                .execute(
                    "SELECT pg_catalog.setval($1::text::regclass, $2)",
                    &[&sequence, &i64::from(end_id)],
                )
                .await?;
        }
        if block.alone {
            client
                .batch_execute(&format!("DROP INDEX IF EXISTS {INDEX}"))
                .await?;
        }
        set_comment(client, Some(&mark.text())).await?;
        client.batch_execute("COMMIT").await?;
        Ok(own)
    })?;
    Ok((block, own))
}
