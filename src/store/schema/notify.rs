//! The triggers that tell of each change of the table (LISTEN and NOTIFY), for servers that run with `--database-notify`.

use super::postgres::call;
use crate::store::{Session, StoreError};

/// The channel, one a database.
pub const NOTIFY_CHANNEL: &str = "canvas_cluster_shoe_images";

/// A statement that changes more shoes than this is told of as a change of everything: the queue of notices is shared by all
/// databases of a server, and bounded.
const MOST_NAMED: u32 = 100;

/// Creates the triggers, or makes those of an earlier version ours; true if there were none. The caller holds the lock.
///
/// # Errors
/// [`StoreError::Refused`] if we may not.
pub(super) fn ensure_triggers(session: &mut Session) -> Result<bool, StoreError> {
    call(session, async |client| {
        let known = "SELECT count(*) FROM pg_catalog.pg_trigger t \
                     JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
                     WHERE t.tgrelid = 'shoe_images'::regclass AND p.proname = 'shoe_images_notify'";
        let known: i64 = client.query_one(known, &[]).await?.try_get(0)?;
        client.batch_execute(&triggers()).await?;
        Ok(known == 0)
    })
}

/// Once a statement and not once a row: a million rows make one call.
fn triggers() -> String {
    let shoes_of = |tables: &str| {
        format!(
            "SELECT array_agg(shoe_id) INTO shoes FROM (SELECT DISTINCT shoe_id FROM ({tables}) AS rows \
             WHERE shoe_id IS NOT NULL LIMIT {MOST_NAMED} + 1) AS named;"
        )
    };
    let (inserted, deleted) = (
        "SELECT shoe_id FROM rows_after",
        "SELECT shoe_id FROM rows_before",
    );
    let updated = format!("{inserted} UNION ALL {deleted}");
    let mut sql = format!(
        "BEGIN;
CREATE OR REPLACE FUNCTION shoe_images_notify() RETURNS trigger LANGUAGE plpgsql AS $notify$
DECLARE
    shoes int[];
    shoe int;
BEGIN
    IF TG_OP = 'INSERT' THEN {}
    ELSIF TG_OP = 'DELETE' THEN {}
    ELSIF TG_OP = 'UPDATE' THEN {}
    END IF;
    IF TG_OP = 'TRUNCATE' OR cardinality(shoes) > {MOST_NAMED} THEN
        PERFORM pg_notify('{NOTIFY_CHANNEL}', '*');
    ELSIF shoes IS NOT NULL THEN
        FOREACH shoe IN ARRAY shoes LOOP
            PERFORM pg_notify('{NOTIFY_CHANNEL}', shoe::text);
        END LOOP;
    END IF;
    RETURN NULL;
END $notify$;\n",
        shoes_of(inserted),
        shoes_of(deleted),
        shoes_of(&updated),
    );
    for (event, tables) in [
        ("INSERT", "REFERENCING NEW TABLE AS rows_after"),
        ("DELETE", "REFERENCING OLD TABLE AS rows_before"),
        (
            "UPDATE",
            "REFERENCING OLD TABLE AS rows_before NEW TABLE AS rows_after",
        ),
        ("TRUNCATE", ""),
    ] {
        let name = format!("shoe_images_notify_{}", event.to_lowercase());
        sql += &format!(
            "DROP TRIGGER IF EXISTS {name} ON shoe_images;
CREATE TRIGGER {name} AFTER {event} ON shoe_images {tables} FOR EACH STATEMENT EXECUTE FUNCTION shoe_images_notify();\n"
        );
    }
    sql + "COMMIT;"
}
