//! The table `shoe_images`, and what stands for it in CouchDB: created where it is missing, compared with what we need where it exists. Used
//! by `canvas-cluster migrate`, by `seed` and by the demo database.
//!
//! An existing table is never altered. It may have more columns than ours, in any order, as long as rows
//! can be stored without filling them.

pub(crate) mod couchdb;
mod notify;
pub(crate) mod postgres;
mod sqlite;

use super::url::DatabaseUrl;
use super::{MEDIA_COLUMNS, StoreError};

pub(crate) use self::notify::NOTIFY_CHANNEL;
pub(crate) use self::sqlite::{migrate_connection, migrate_file};

/// The index that answers `WHERE shoe_id = …`, by the name PostgreSQL would give it itself.
pub(crate) const INDEX: &str = "shoe_images_shoe_id_idx";

/// What a migration did; all false if there was nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Migrated {
    /// The table was created; in CouchDB the database.
    pub table: bool,
    /// The index on `shoe_id` was created; in CouchDB the view.
    pub index: bool,
    /// The triggers that tell of changes were created; none if they were not asked for.
    pub notify: Option<bool>,
}

/// Creates the table and its index on `shoe_id` where they are missing, and checks an existing table. May
/// be repeated, and run by several processes at once. A missing SQLite file is created (mode 0600). With `notify`
/// triggers tell of each change (NOTIFY), which takes PostgreSQL.
///
/// # Errors
/// [`StoreError::Schema`] with every difference if a table of another shape is there; it is left as it is.
/// [`StoreError::Refused`] if we may not create, or if another migration or seed is at work for longer than
/// half a minute.
pub fn migrate(url: &DatabaseUrl, notify: bool) -> Result<Migrated, StoreError> {
    match url {
        DatabaseUrl::Sqlite(_) if notify => Err(StoreError::Refused(
            "SQLite can't tell other processes of changes: --with-notify is for PostgreSQL"
                .to_owned(),
        )),
        DatabaseUrl::Sqlite(path) => migrate_file(path),
        DatabaseUrl::Postgres(url) => postgres::migrate(url, notify),
        DatabaseUrl::CouchDb(_) if notify => Err(StoreError::Refused(
            "CouchDB runs no triggers: --with-notify is for PostgreSQL".to_owned(),
        )),
        DatabaseUrl::CouchDb(url) => couchdb::migrate(url),
    }
}

/// A column as it was found.
struct Column {
    name: String,
    /// The type in the database's words.
    type_name: String,
    not_null: bool,
    /// It has a default, or the database fills it in some other way.
    fills_itself: bool,
}

/// How the columns differ from what we need, in words; empty if they will do. `is_integer` and `is_text`
/// judge a type: 32-bit integers, and texts of at least 255 characters.
fn differences(
    found: &[Column],
    is_integer: impl Fn(&Column) -> bool,
    is_text: impl Fn(&Column) -> bool,
) -> Vec<String> {
    let mut differences = Vec::new();
    for name in ["id", "shoe_id"].into_iter().chain(MEDIA_COLUMNS) {
        let Some(column) = found.iter().find(|column| column.name == name) else {
            differences.push(format!("column {name} is missing"));
            continue;
        };
        let number = matches!(name, "id" | "shoe_id");
        if number && !is_integer(column) {
            differences.push(format!(
                "column {name} is {}, not integer",
                column.type_name
            ));
        }
        if !number && !is_text(column) {
            differences.push(format!(
                "column {name} is {}, not varchar(255)",
                column.type_name
            ));
        }
        if !number && column.not_null {
            differences.push(format!("column {name} is NOT NULL, but a shoe may lack it"));
        }
        if name == "id" && !column.fills_itself {
            differences.push("column id has no default, so it can't number new rows".to_owned());
        }
    }
    for column in found {
        let known = matches!(column.name.as_str(), "id" | "shoe_id")
            || MEDIA_COLUMNS.contains(&column.name.as_str());
        if !known && column.not_null && !column.fills_itself {
            differences.push(format!(
                "column {} is NOT NULL without a default, so no row can be stored",
                column.name
            ));
        }
    }
    differences
}

/// The verdict on an existing table.
fn judge(differences: Vec<String>) -> Result<(), StoreError> {
    match differences.is_empty() {
        true => Ok(()),
        false => Err(StoreError::Schema(format!(
            "it exists with another shape: {}",
            differences.join("; ")
        ))),
    }
}
