//! The mark of an unfinished seed, a local document (which no replication copies and no query shows), and the removal of rows.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::Method;
use uuid::Uuid;

use super::patience;
use crate::store::StoreError;
use crate::store::couchdb::{CallError, Client, Document, Question, Unwritten, Written, post};

/// How often a seed that lives says so.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// How long a mark stays as it is until its seed is taken for dead.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

const MARK: &str = "/_local/canvas-cluster-seed";

/// Documents that are looked at, and removed, in one request.
const PAGE: usize = 1000;

/// How often all rows are removed while others make new ones.
const PASSES: u32 = 5;

/// The ids of a seed: of one UUID, with the number of the row in the place of its last four bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base(u128);

impl Base {
    pub(super) fn id(self, row: u32) -> String {
        let id = self.0 & !u128::from(u32::MAX) | u128::from(row);
        Uuid::from_u128(id).simple().to_string()
    }
}

/// A seed's own mark.
pub(super) struct Mark {
    base: Base,
    stored: Stored,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Stored {
    #[serde(rename = "_rev", skip_serializing_if = "Option::is_none")]
    rev: Option<String>,
    first_id: String,
    last_id: String,
    beats: u64,
}

#[derive(Deserialize)]
struct Put {
    rev: String,
}

impl Mark {
    /// # Errors
    /// [`StoreError::Refused`] if another seed was faster.
    pub(super) fn set(client: &Client) -> Result<Self, StoreError> {
        let base = Base(Uuid::now_v7().as_u128());
        let mut mark = Mark {
            base,
            stored: Stored {
                rev: None,
                first_id: base.id(0),
                last_id: base.id(u32::MAX),
                beats: 0,
            },
        };
        mark.put(client)?;
        Ok(mark)
    }

    pub(super) fn base(&self) -> Base {
        self.base
    }

    /// Says that this seed lives.
    pub(super) fn beat(&mut self, client: &Client) -> Result<(), StoreError> {
        self.stored.beats += 1;
        self.put(client)
    }

    fn put(&mut self, client: &Client) -> Result<(), StoreError> {
        let put = Question::with(Method::PUT, MARK, &self.stored)?;
        let answer = client.write(&put, patience());
        match answer.and_then(|answer| answer.json::<Put>()) {
            Ok(put) => {
                self.stored.rev = Some(put.rev);
                Ok(())
            }
            Err(error) if error.status() == Some(409) => Err(at_work()),
            Err(error) => Err(error.into_store_error()),
        }
    }

    pub(super) fn remove_rows(
        &self,
        client: &Client,
        report: impl Fn(),
    ) -> Result<u64, StoreError> {
        remove_range(
            client,
            Some((&self.stored.first_id, &self.stored.last_id)),
            report,
        )
    }

    pub(super) fn clear(&self, client: &Client) -> Result<(), StoreError> {
        clear(client, &self.stored)
    }
}

fn at_work() -> StoreError {
    StoreError::Refused(
        "another seed is at work in this database; wait until it is done".to_owned(),
    )
}

fn read(client: &Client) -> Result<Option<Stored>, StoreError> {
    let answer = client.read(&Question::get(MARK), patience());
    match answer.and_then(|answer| answer.json()) {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error.into_store_error()),
    }
}

fn clear(client: &Client, stored: &Stored) -> Result<(), StoreError> {
    let path = format!("{MARK}?rev={}", stored.rev.as_deref().unwrap_or_default());
    let delete = Question {
        method: Method::DELETE,
        path: &path,
        body: None,
    };
    match client.write(&delete, patience()) {
        Ok(_) => Ok(()),
        Err(error) if error.status() == Some(404) => Ok(()),
        Err(error) => Err(error.into_store_error()),
    }
}

/// Removes the rows of an interrupted seed, and its mark; answers how many there were.
///
/// # Errors
/// [`StoreError::Refused`] if that seed is at work still.
pub(super) fn sweep(client: &Client, report: impl Fn()) -> Result<u64, StoreError> {
    let Some(stored) = read(client)? else {
        return Ok(0);
    };
    let looked = Instant::now();
    while looked.elapsed() < DEAD_AFTER {
        thread::sleep(LOOK);
        match read(client)? {
            None => return Ok(0),
            Some(now) if now != stored => return Err(at_work()),
            Some(_) => {}
        }
    }
    report();
    let range = (stored.first_id.as_str(), stored.last_id.as_str());
    let swept = remove_range(client, Some(range), report)?;
    clear(client, &stored)?;
    Ok(swept)
}

#[derive(Deserialize)]
struct Info {
    doc_count: u64,
}

/// How many rows there are: all documents but those of designs.
pub(super) fn count(client: &Client) -> Result<u64, StoreError> {
    let info: Info = client
        .read(&Question::get(""), patience())
        .and_then(|answer| answer.json())
        .map_err(CallError::into_store_error)?;
    let designs = page(client, "startkey=%22_design%2F%22&endkey=%22_design0%22")?;
    Ok(info.doc_count.saturating_sub(designs.len() as u64))
}

/// Removes all rows, but no design document.
pub(super) fn remove_all(client: &Client, report: impl Fn()) -> Result<(), StoreError> {
    for _ in 0..PASSES {
        remove_range(client, None, &report)?;
        if count(client)? == 0 {
            return Ok(());
        }
    }
    Err(StoreError::Refused(format!(
        "there are new rows each of {PASSES} times that all were removed; stop what makes them first"
    )))
}

#[derive(Deserialize)]
struct Page {
    rows: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    value: Revision,
}

#[derive(Deserialize)]
struct Revision {
    rev: String,
}

fn page(client: &Client, query: &str) -> Result<Vec<Listed>, StoreError> {
    let path = format!("/_all_docs?{query}");
    let answer = client.read(&Question::get(&path), patience());
    let page: Page = answer
        .and_then(|answer| answer.json())
        .map_err(CallError::into_store_error)?;
    Ok(page.rows)
}

/// Removes the documents with ids from the first to the last, or all but designs; answers how many. Their revisions stay, as what
/// CouchDB replicates of a deletion.
fn remove_range(
    client: &Client,
    range: Option<(&str, &str)>,
    report: impl Fn(),
) -> Result<u64, StoreError> {
    let key = |id: &str| {
        let text = Value::from(id).to_string();
        percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let end = range.map_or_else(String::new, |(_, last)| format!("&endkey={}", key(last)));
    let mut start = range.map_or_else(String::new, |(first, _)| {
        format!("&startkey={}", key(first))
    });
    let mut removed = 0;
    loop {
        report();
        let listed = page(client, &format!("limit={PAGE}{start}{end}"))?;
        let Some(last) = listed.last() else {
            return Ok(removed);
        };
        // Its successor in the order of bytes, which is that of ids. What stays of a page, designs, is not looked at again.
        start = format!("&startkey={}", key(&format!("{}\0", last.id)));
        let dead: Vec<Document> = listed.iter().filter_map(gravestone).collect();
        let written = post(client, &dead, patience()).map_err(|unwritten| match unwritten {
            Unwritten::Certainly(error) => error,
            Unwritten::Perhaps(why) => StoreError::Unavailable(why),
        })?;
        for outcome in written {
            match outcome {
                Written::Stored => removed += 1,
                // Changed by others meanwhile: not for us to remove.
                Written::Conflict => {}
                Written::Not(error) => return Err(error),
                Written::Unknown(why) | Written::Doubtful(why) => {
                    return Err(StoreError::Unavailable(why));
                }
            }
        }
    }
}

fn gravestone(listed: &Listed) -> Option<Document> {
    if listed.id.starts_with("_design/") {
        return None;
    }
    let dead = json!({ "_id": listed.id, "_rev": listed.value.rev, "_deleted": true });
    dead.as_object().cloned()
}
