//! The database in CouchDB, and the design document whose view is its index. Each step may meet another process at the same one:
//! whoever is second finds it done.

use std::time::Duration;

use ureq::http::Method;

use super::Migrated;
use crate::store::couchdb::{
    CallError, Client, DESIGN, Document, MAP, Question, VIEW, add_view, design,
};
use crate::store::url::CouchUrl;
use crate::store::{Deadline, PoolOptions, StoreError};

/// How long a step that costs nothing may take.
const STEP_PATIENCE: Duration = Duration::from_secs(30);

/// Long enough for an index on a very large database.
const INDEX_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// How often a design document is looked at that others change.
const TRIES: u32 = 10;

/// [`super::migrate`] for CouchDB.
pub(super) fn migrate(url: &CouchUrl) -> Result<Migrated, StoreError> {
    let client = Client::open(url, PoolOptions::default())?;
    let migrated = ensure_database(&client)?;
    build_index(&client)?;
    Ok(migrated)
}

/// Creates the database and the view where they are missing, and checks an existing view. The view may still have to be built.
pub(crate) fn ensure_database(client: &Client) -> Result<Migrated, StoreError> {
    let create = Question {
        method: Method::PUT,
        path: "",
        body: None,
    };
    let table = match client.read(&Question::get(""), soon()) {
        Ok(_) => false,
        Err(error) if error.status() == Some(404) => match client.write(&create, soon()) {
            Ok(_) => true,
            // Somebody else was faster.
            Err(error) if error.status() == Some(412) => false,
            Err(error) => return Err(error.into_store_error()),
        },
        Err(error) => return Err(error.into_store_error()),
    };
    for _ in 0..TRIES {
        if let Some(index) = ensure_view(client)? {
            return Ok(Migrated {
                table,
                index,
                notify: None,
            });
        }
    }
    Err(StoreError::Refused(format!(
        "the document {DESIGN} was changed by others {TRIES} times between reading and writing it"
    )))
}

/// Whether the view was created; `None` if somebody else wrote the design document meanwhile.
fn ensure_view(client: &Client) -> Result<Option<bool>, StoreError> {
    let found = client.read(&Question::get(DESIGN), soon());
    let mut document: Document = match found.and_then(|answer| answer.json()) {
        Ok(document) => document,
        Err(error) if error.status() == Some(404) => Document::new(),
        Err(error) => return Err(error.into_store_error()),
    };
    if document.is_empty() {
        document = design();
    } else {
        let view = document.get("views").and_then(|views| views.get(VIEW));
        match view.map(|view| view.get("map").and_then(|map| map.as_str()) == Some(MAP)) {
            Some(true) => return Ok(Some(false)),
            Some(false) => {
                return Err(StoreError::Schema(format!(
                    "{DESIGN} has a view {VIEW} of another definition, which is left as it is; delete that view"
                )));
            }
            None => add_view(&mut document),
        }
    }
    let put = Question::with(Method::PUT, DESIGN, &document)?;
    match client.write(&put, soon()) {
        Ok(_) => Ok(Some(true)),
        Err(error) if error.status() == Some(409) => Ok(None),
        Err(CallError::Refused(refusal)) if matches!(refusal.status, 401 | 403) => {
            Err(StoreError::Refused(format!(
                "{refusal}; only an administrator of the database may write {DESIGN}"
            )))
        }
        Err(error) => Err(error.into_store_error()),
    }
}

/// Asks the view once, for which it has to be built.
pub(crate) fn build_index(client: &Client) -> Result<(), StoreError> {
    let path = format!("{DESIGN}/_view/{VIEW}?limit=1");
    let built = client.read(&Question::get(&path), Deadline::after(INDEX_PATIENCE));
    built.map(drop).map_err(CallError::into_store_error)
}

fn soon() -> Deadline {
    Deadline::after(STEP_PATIENCE)
}
