//! The table in SQLite. Creation happens in one transaction that holds the write lock, so processes that
//! race see either nothing or all of it.

use std::io;
use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{Column, INDEX, Migrated, differences, judge};
use crate::store::StoreError;
use crate::store::sqlite::{connect, create_folder, create_private, store_error};

/// SQLite gives `integer primary key` its 64-bit row number; `autoincrement` keeps it from using the id of
/// a deleted row again, as PostgreSQL's serial does.
const CREATE_TABLE: &str = "CREATE TABLE shoe_images (
    id integer PRIMARY KEY AUTOINCREMENT,
    shoe_id int,
    img1 varchar(255), img2 varchar(255), img3 varchar(255), img4 varchar(255),
    img5 varchar(255), img6 varchar(255), img7 varchar(255),
    vid1 varchar(255), vid2 varchar(255)
)";

/// [`super::migrate`] for a file, which is created if it is missing.
pub(crate) fn migrate_file(path: &Path) -> Result<Migrated, StoreError> {
    let explain = |error: io::Error| StoreError::Refused(format!("{}: {error}", path.display()));
    create_folder(path).map_err(explain)?;
    match create_private(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(explain(error)),
        Ok(_) | Err(_) => {}
    }
    let mut connection = connect(path)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| store_error(&error, path))?;
    let migrated = migrate_connection(&transaction, path)?;
    transaction
        .commit()
        .map_err(|error| store_error(&error, path))?;
    Ok(migrated)
}

/// [`super::migrate`] inside a transaction of the caller's.
pub(crate) fn migrate_connection(
    transaction: &Transaction<'_>,
    path: &Path,
) -> Result<Migrated, StoreError> {
    let explain = |error: rusqlite::Error| store_error(&error, path);
    let found = columns(transaction).map_err(explain)?;
    let mut migrated = Migrated::default();
    if found.is_empty() {
        transaction.execute_batch(CREATE_TABLE).map_err(explain)?;
        migrated.table = true;
    } else {
        judge(differences(&found, is_integer, is_text))?;
    }
    if !has_index(transaction).map_err(explain)? {
        transaction
            .execute_batch(&format!("CREATE INDEX {INDEX} ON shoe_images (shoe_id)"))
            .map_err(explain)?;
        migrated.index = true;
    }
    Ok(migrated)
}

/// The table's columns; none if there is no such table.
fn columns(connection: &Connection) -> rusqlite::Result<Vec<Column>> {
    let mut query = connection
        .prepare("SELECT lower(name), lower(type), \"notnull\", dflt_value IS NOT NULL, pk FROM pragma_table_info('shoe_images')")?;
    let column = |row: &rusqlite::Row<'_>| {
        let type_name: String = row.get(1)?;
        // `INTEGER PRIMARY KEY` is the row number under another name, and numbers itself (rowid tables).
        let row_number = row.get::<_, i64>(4)? > 0 && type_name == "integer";
        Ok(Column {
            name: row.get(0)?,
            type_name,
            not_null: row.get(2)?,
            fills_itself: row.get::<_, bool>(3)? || row_number,
        })
    };
    query.query_map([], column)?.collect()
}

/// SQLite's rules of affinity (<https://www.sqlite.org/datatype3.html#determination_of_column_affinity>).
fn is_integer(column: &Column) -> bool {
    column.type_name.contains("int")
}

fn is_text(column: &Column) -> bool {
    let name = column.type_name.as_str();
    !name.contains("int")
        && ["char", "clob", "text"]
            .iter()
            .any(|word| name.contains(word))
}

/// Whether an index that covers all rows begins with `shoe_id`, by whatever name.
fn has_index(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_index_list('shoe_images') AS i, pragma_index_info(i.name) AS c
         WHERE i.partial = 0 AND c.seqno = 0 AND lower(c.name) = 'shoe_id')",
        [],
        |row| row.get(0),
    )
}
