//! A table of a test's database that is locked, so that whoever asks for it waits until the test lets go.

use crate::support::postgres::Database;
use crate::support::{PATIENCE, wait_until};

/// As long as it lives, the table is locked.
pub struct Locked {
    locker: postgres::Client,
    watcher: postgres::Client,
}

impl Locked {
    /// Whoever reads or writes it waits.
    pub fn table(database: &Database, table: &str) -> Self {
        Locked::in_mode(database, table, "ACCESS EXCLUSIVE")
    }

    /// Whoever writes it waits.
    pub fn for_writers(database: &Database, table: &str) -> Self {
        Locked::in_mode(database, table, "SHARE")
    }

    fn in_mode(database: &Database, table: &str, mode: &str) -> Self {
        let mut locker = database.connect();
        let lock = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE");
        locker.batch_execute(&lock).expect("a lock");
        Locked {
            locker,
            watcher: database.connect(),
        }
    }

    /// The names (application_name) of the connections that wait for it.
    pub fn waiting(&mut self) -> Vec<String> {
        let query = "SELECT application_name FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock' ORDER BY 1";
        let rows = self.watcher.query(query, &[]).expect("pg_stat_activity");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until so many connections wait for it, and gives their names.
    #[track_caller]
    pub fn wait_for(&mut self, connections: usize) -> Vec<String> {
        let mut names = Vec::new();
        let what = format!("{connections} connections to wait for the lock");
        wait_until(PATIENCE, &what, || {
            names = self.waiting();
            names.len() == connections
        });
        names
    }

    pub fn release(mut self) {
        let given_back = self.locker.batch_execute("ROLLBACK");
        given_back.expect("no lock any more");
    }
}
