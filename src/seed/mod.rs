//! Seeding: fills a database with generated shoes, a million of them in seconds. Called by `canvas-cluster
//! seed`, by the demo database of a first start, by tests and by benches.
//!
//! A seed that is killed half-way does no harm: in SQLite its one transaction never happened; in PostgreSQL and
//! CouchDB a mark says which rows are its own, and the next seed removes them first (see `postgres` and `couchdb`).

mod bar;
mod couchdb;
mod demo;
mod postgres;
mod sqlite;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::store::url::DatabaseUrl;
use crate::store::{Draft, Media, StoreError};

pub use self::bar::run_with_progress;
pub use self::demo::{Demo, create_demo, demo_shoe};

/// What to do with rows that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refuse to touch a table that has rows.
    Fill,
    /// Keep them, and number the new shoes after the greatest `shoe_id`.
    Append,
    /// Delete them, and number rows and shoes from 1 again.
    Truncate,
}

/// What a seed is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Removing rows: those of an interrupted seed, or all by [`Mode::Truncate`].
    Cleaning,
    Loading,
    /// Building the index and gathering statistics.
    Indexing,
}

/// How far a seed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Rows loaded so far.
    pub done: u64,
    /// Rows to load.
    pub rows: u64,
}

/// What a seed has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub rows: u32,
    /// The new shoes are this one and those that follow it.
    pub first_shoe_id: i32,
    /// Leftover rows of an interrupted seed that were removed first.
    pub swept: u64,
    /// From the first row to the last one.
    pub loading: Duration,
    /// From the call to the end.
    pub total: Duration,
}

/// Why a database could not be seeded.
#[derive(Debug)]
pub enum SeedError {
    /// The table has rows, and the mode is [`Mode::Fill`].
    NotEmpty {
        rows: u64,
    },
    /// The numbers of rows or shoes would pass 2,147,483,647.
    TooMany,
    Store(StoreError),
}

impl fmt::Display for SeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SeedError::NotEmpty { rows } => write!(
                f,
                "the table shoe_images has {rows} rows already; \
                 --append adds to them, --truncate deletes them first"
            ),
            SeedError::TooMany => {
                write!(f, "the ids would pass {}, the greatest there is", i32::MAX)
            }
            SeedError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SeedError {}

impl From<StoreError> for SeedError {
    fn from(error: StoreError) -> Self {
        SeedError::Store(error)
    }
}

/// The shoe with this number, always the same: seven pictures and two videos, but every 16th shoe lacks
/// the second video and every 64th both. With its id, the API's JSON of it is some 470 bytes long.
pub fn generate(shoe_id: i32) -> Draft {
    let url = |name: &str, kind: &str| {
        Some(format!(
            "https://cdn.example.com/{shoe_id:07}/{name}.{kind}"
        ))
    };
    let media: Media = [
        url("img1", "jpg"),
        url("img2", "jpg"),
        url("img3", "jpg"),
        url("img4", "jpg"),
        url("img5", "jpg"),
        url("img6", "jpg"),
        url("img7", "jpg"),
        url("vid1", "mp4").filter(|_| shoe_id % 64 != 0),
        url("vid2", "mp4").filter(|_| shoe_id % 16 != 0),
    ];
    Draft { shoe_id, media }
}

/// Loads `rows` generated shoes into the database, creating the table if it is missing. `streams` is the
/// number of connections that load at once (not for SQLite; at least 1). `progress` is called several
/// times a second, from this thread.
///
/// # Errors
/// [`SeedError`]; the rows of a failed seed are removed, at the latest by the next one.
pub fn run(
    url: &DatabaseUrl,
    rows: u32,
    mode: Mode,
    streams: u32,
    progress: impl Fn(Progress),
) -> Result<Summary, SeedError> {
    match url {
        DatabaseUrl::Sqlite(path) => sqlite::run(path, rows, mode, generate, progress),
        DatabaseUrl::Postgres(url) => postgres::run(url, rows, mode, streams.max(1), progress),
        DatabaseUrl::CouchDb(url) => couchdb::run(url, rows, mode, streams.max(1), progress),
    }
}

/// Fills a new SQLite file, for the demo database.
pub(crate) fn fill_file(path: &Path, rows: u32) -> Result<(), StoreError> {
    match sqlite::run(path, rows, Mode::Fill, demo_shoe, |_| ()) {
        Ok(_) => Ok(()),
        Err(SeedError::Store(error)) => Err(error),
        Err(error) => Err(StoreError::Failed(error.to_string())),
    }
}

/// The greatest of `count` numbers that follow `last`, if it still fits 32 bits.
fn last_of(last: i64, count: u32) -> Result<i32, SeedError> {
    last.checked_add(count.into())
        .and_then(|last| i32::try_from(last).ok())
        .ok_or(SeedError::TooMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_shoe_is_always_the_same_and_fits() {
        let shoe = generate(7);
        assert_eq!(shoe, generate(7));
        assert_eq!(
            shoe.media[0].as_deref(),
            Some("https://cdn.example.com/0000007/img1.jpg")
        );
        assert_eq!(
            shoe.media[8].as_deref(),
            Some("https://cdn.example.com/0000007/vid2.mp4")
        );
        assert!(generate(16).media[8].is_none() && generate(16).media[7].is_some());
        assert!(generate(64).media[7].is_none());
        assert!(generate(i32::MAX).check().is_ok());
    }

    /// The experiment behind this project answered with 467 bytes; ours should be of that size.
    #[test]
    fn a_generated_shoe_is_as_long_as_the_experiments() {
        let columns = crate::store::MEDIA_COLUMNS.iter().zip(generate(7).media);
        let media: Vec<String> = columns
            .map(|(c, m)| format!(r#""{c}":"{}""#, m.unwrap_or_default()))
            .collect();
        let json = format!(r#"[{{"id":7,"shoe_id":7,{}}}]"#, media.join(","));
        assert!(
            (460..=480).contains(&json.len()),
            "{} bytes: {json}",
            json.len()
        );
    }

    #[test]
    fn a_demo_shoe_is_shown_by_this_server_alone() {
        let shoe = demo_shoe(7);
        assert_eq!(shoe.media[0].as_deref(), Some("/demo/shoes/7/1.svg"));
        assert_eq!(shoe.media[6].as_deref(), Some("/demo/shoes/7/7.svg"));
        assert_eq!(shoe.media[8].as_deref(), Some("/demo/clips/2.mp4"));
        let lacks = |shoe_id| demo_shoe(shoe_id).media.map(|media| media.is_none());
        for shoe_id in [1, 16, 64] {
            assert_eq!(
                lacks(shoe_id),
                generate(shoe_id).media.map(|media| media.is_none())
            );
        }
    }

    #[test]
    fn ids_end_at_32_bits() {
        assert!(matches!(last_of(i64::from(i32::MAX) - 5, 5), Ok(i32::MAX)));
        assert!(matches!(
            last_of(i64::from(i32::MAX) - 5, 6),
            Err(SeedError::TooMany)
        ));
        assert!(matches!(last_of(i64::MAX, 1), Err(SeedError::TooMany)));
    }
}
