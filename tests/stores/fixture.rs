//! What every test needs: a migrated database of either kind, drafts, and a fence that remembers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use canvas_cluster::store::url::DatabaseUrl;
use canvas_cluster::store::{
    Deadline, Draft, Fence, IdKind, Media, PoolOptions, RowId, Store, StoreError, TextId, open,
    schema,
};

use super::server::Server;
use super::support::couchdb::CouchDb;

/// A migrated, empty database and a store over it.
pub struct Fixture {
    pub url: DatabaseUrl,
    pub store: Arc<dyn Store>,
    _folder: Option<tempfile::TempDir>,
}

impl Fixture {
    pub fn sqlite() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        let url = DatabaseUrl::Sqlite(folder.path().join("shoes.db"));
        Fixture {
            _folder: Some(folder),
            ..Fixture::at(url)
        }
    }

    pub fn postgres() -> Fixture {
        let server = Server::shared();
        Fixture::at(parse(&server.socket_url(&server.database())))
    }

    pub fn couchdb() -> Fixture {
        Fixture::at(parse(&CouchDb::shared().database().url()))
    }

    pub fn at(url: DatabaseUrl) -> Fixture {
        schema::migrate(&url, false).expect("a migration");
        let store = open(&url, PoolOptions::default()).expect("a store");
        Fixture {
            url,
            store,
            _folder: None,
        }
    }

    /// An id that the store could have given, and has not.
    pub fn absent(&self) -> RowId {
        match self.store.ids() {
            IdKind::Number => i32::MAX.into(),
            IdKind::Text => TextId::parse("absent").expect("an id").into(),
        }
    }

    /// The SQLite file.
    pub fn path(&self) -> PathBuf {
        match &self.url {
            DatabaseUrl::Sqlite(path) => path.clone(),
            DatabaseUrl::Postgres(_) | DatabaseUrl::CouchDb(_) => panic!("not a file"),
        }
    }
}

pub fn parse(url: &str) -> DatabaseUrl {
    DatabaseUrl::parse(url).expect("a database URL")
}

/// A deadline that only a hanging test reaches.
pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// Asks until the store is no longer cut off: after an outage it may hold back for a pause, and the attempt that was
/// under way when the outage ended still fails.
pub fn once_available<A>(mut ask: impl FnMut() -> Result<A, StoreError>) -> A {
    let deadline = soon();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(StoreError::Unavailable(_)) if !deadline.passed() => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn within(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

/// A draft with all its media named after `name`.
pub fn draft(shoe_id: i32, name: &str) -> Draft {
    Draft {
        shoe_id,
        media: std::array::from_fn(|i| Some(format!("{name}-{i}"))),
    }
}

pub fn bare(shoe_id: i32) -> Draft {
    Draft {
        shoe_id,
        media: Media::default(),
    }
}

/// Remembers what it was raised for, and asks a question at that moment.
pub struct Watch<F: Fn(&[i32])> {
    raised: Mutex<Vec<Vec<i32>>>,
    at_raise: F,
}

impl<F: Fn(&[i32])> Watch<F> {
    pub fn new(at_raise: F) -> Self {
        Watch {
            raised: Mutex::default(),
            at_raise,
        }
    }

    /// The shoes of each raise so far.
    pub fn raised(&self) -> Vec<Vec<i32>> {
        self.raised.lock().unwrap().clone()
    }
}

impl<F: Fn(&[i32])> Fence for Watch<F> {
    fn raise(&self, shoe_ids: &[i32]) {
        (self.at_raise)(shoe_ids);
        self.raised.lock().unwrap().push(shoe_ids.to_vec());
    }
}
