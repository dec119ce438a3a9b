//! The lock that keeps tools apart: two migrations, or a migration and a seed, never work on one database
//! at a time.
//!
//! It is tried, not waited for: a session that waits inside the server holds a snapshot, and CREATE INDEX
//! CONCURRENTLY in the session that has the lock would wait for that snapshot: a deadlock.

use std::time::Duration;

use super::session::Session;
use super::store_error;
use crate::store::{Deadline, StoreError};

/// "canvas" in ASCII: a number that no other program is likely to lock.
const KEY: i64 = 0x6361_6e76_6173;

/// How long one question to the server may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Takes the lock of the session's database, which the server frees with the session. Waits for another
/// holder for as long as `patience`.
///
/// # Errors
/// [`StoreError::Refused`] if another process keeps it.
pub(crate) fn take_lock(session: &mut Session, patience: Duration) -> Result<(), StoreError> {
    let give_up = Deadline::after(patience);
    loop {
        let taken = session.run(Deadline::after(ANSWER), async |client, _| {
            client
                .query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&KEY])
                .await?
                .try_get(0)
        });
        if taken.map_err(store_error)? {
            return Ok(());
        }
        if give_up.passed() {
            let why = "another `canvas-cluster migrate` or `seed` is at work on this database";
            return Err(StoreError::Refused(why.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
