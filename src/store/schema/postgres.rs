//! The table in PostgreSQL. One migration at a time, by an advisory lock; an index that is missing on a table
//! with rows is built without stopping writers.

use std::time::Duration;

use tokio_postgres::Client;

use super::notify::ensure_triggers;
use super::{Column, INDEX, Migrated, differences, judge};
use crate::store::url::PostgresUrl;
use crate::store::{Deadline, Session, StoreError, connect_postgres, postgres_error, take_lock};

/// Long enough for an index on a very large table.
pub(crate) const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How long another tool may keep us waiting.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

const CREATE_TABLE: &str = "CREATE TABLE shoe_images (
    id serial PRIMARY KEY,
    shoe_id int,
    img1 varchar(255), img2 varchar(255), img3 varchar(255), img4 varchar(255),
    img5 varchar(255), img6 varchar(255), img7 varchar(255),
    vid1 varchar(255), vid2 varchar(255)
)";

/// The names that only fit a table by way of folding, so that a quoted `"Shoe_Images"` can be told of.
const SELECT_TABLE: &str = "SELECT pg_catalog.to_regclass('shoe_images')::oid,
    (SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c
     WHERE lower(c.relname) = 'shoe_images' AND c.relname <> 'shoe_images' AND c.relkind IN ('r', 'p')
       AND pg_catalog.pg_table_is_visible(c.oid) LIMIT 1)";

const SELECT_COLUMNS: &str =
    "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.atthasdef OR a.attidentity <> '' FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const SELECT_KIND: &str = "SELECT c.relkind::text, EXISTS (SELECT 1 FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND a.attname = 'id')
    FROM pg_catalog.pg_class c WHERE c.oid = $1";

/// Indexes that begin with `shoe_id` and cover all rows: their name and whether they are usable.
const SELECT_INDEXES: &str = "SELECT c.relname::text, i.indisvalid FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = $1 AND i.indpred IS NULL AND a.attname = 'shoe_id'";

/// [`super::migrate`] for PostgreSQL.
pub(super) fn migrate(url: &PostgresUrl, notify: bool) -> Result<Migrated, StoreError> {
    let mut session = connect_postgres(url)?;
    take_lock(&mut session, LOCK_PATIENCE)?;
    let table = ensure_table(&mut session)?;
    let index = ensure_index(&mut session, !table)?;
    let notify = match notify {
        true => Some(ensure_triggers(&mut session)?),
        false => None,
    };
    Ok(Migrated {
        table,
        index,
        notify,
    })
}

/// Creates the table if it is missing, else checks it; true if it was created. The caller holds the lock.
pub(crate) fn ensure_table(session: &mut Session) -> Result<bool, StoreError> {
    let (table, quoted) = call(session, async |client| {
        let row = client.query_one(SELECT_TABLE, &[]).await?;
        Ok((
            row.try_get::<_, Option<u32>>(0)?,
            row.try_get::<_, Option<String>>(1)?,
        ))
    })?;
    match (table, quoted) {
        (Some(table), _) => {
            verify(session, table)?;
            Ok(false)
        }
        (None, Some(quoted)) => Err(StoreError::Schema(format!(
            "there is a table {quoted}, whose name was created in quotes; ALTER TABLE {quoted} RENAME TO shoe_images"
        ))),
        (None, None) => {
            call(session, async |client| {
                client.batch_execute(CREATE_TABLE).await
            })?;
            Ok(true)
        }
    }
}

fn verify(session: &mut Session, table: u32) -> Result<(), StoreError> {
    let (kind, unique, found) = call(session, async |client| {
        let row = client.query_one(SELECT_KIND, &[&table]).await?;
        let mut found = Vec::new();
        for row in client.query(SELECT_COLUMNS, &[&table]).await? {
            found.push(Column {
                name: row.try_get(0)?,
                type_name: row.try_get(1)?,
                not_null: row.try_get(2)?,
                fills_itself: row.try_get(3)?,
            });
        }
        Ok((
            row.try_get::<_, String>(0)?,
            row.try_get::<_, bool>(1)?,
            found,
        ))
    })?;
    let mut wrong = differences(&found, |column| column.type_name == "integer", is_text);
    if !matches!(kind.as_str(), "r" | "p") {
        wrong.insert(0, "it is no table but a view or the like".to_owned());
    } else if !unique {
        wrong.push("column id has no primary key or unique index".to_owned());
    }
    judge(wrong)
}

fn is_text(column: &Column) -> bool {
    let name = column.type_name.as_str();
    let limit = name
        .strip_prefix("character varying(")
        .and_then(|rest| rest.strip_suffix(')'));
    matches!(name, "text" | "character varying")
        || limit
            .and_then(|limit| limit.parse::<u32>().ok())
            .is_some_and(|limit| limit >= 255)
}

/// Creates the index on `shoe_id` if no usable one is there; true if it was created. `online` takes longer
/// and lets writers go on meanwhile. The caller holds the lock.
pub(crate) fn ensure_index(session: &mut Session, online: bool) -> Result<bool, StoreError> {
    let (indexes, plain) = call(session, async |client| {
        let table = "SELECT oid, relkind::text FROM pg_catalog.pg_class WHERE oid = 'shoe_images'::regclass";
        let table = client.query_one(table, &[]).await?;
        let (table, kind): (u32, String) = (table.try_get(0)?, table.try_get(1)?);
        let mut indexes: Vec<(String, bool)> = Vec::new();
        for row in client.query(SELECT_INDEXES, &[&table]).await? {
            indexes.push((row.try_get(0)?, row.try_get(1)?));
        }
        Ok((indexes, kind == "r"))
    })?;
    if indexes.iter().any(|(_, valid)| *valid) {
        return Ok(false);
    }
    // An index of our name that is not valid is what an interrupted CREATE INDEX CONCURRENTLY leaves.
    if indexes.iter().any(|(name, _)| name == INDEX) {
        call(session, async |client| {
            client.batch_execute(&format!("DROP INDEX {INDEX}")).await
        })?;
    }
    // PostgreSQL can't build the index of a partitioned table online.
    let how = if online && plain { "CONCURRENTLY" } else { "" };
    let create = format!("CREATE INDEX {how} {INDEX} ON shoe_images (shoe_id)");
    call(session, async |client| client.batch_execute(&create).await)?;
    Ok(true)
}

/// One step of a tool, which may take as long as it takes.
pub(crate) fn call<T>(
    session: &mut Session,
    work: impl AsyncFnOnce(&Client) -> Result<T, postgres::Error>,
) -> Result<T, StoreError> {
    session
        .run(Deadline::after(PATIENCE), async |client, _| {
            work(client).await
        })
        .map_err(postgres_error)
}
