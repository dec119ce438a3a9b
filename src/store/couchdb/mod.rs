//! The CouchDB store: a document a row, over HTTP. Made by [`super::open`]; nothing is connected before the first call.
//!
//! CouchDB has no transactions. A document is changed by who names its last revision (`_rev`), and whoever names an older one is
//! refused and begins anew: so no write is lost to another one. New documents get their ids (UUIDs of version 7, in the order in
//! which they are made) from us and not from the server, so that, when the answer to a write is lost, a look tells whether it
//! happened. What that can't tell is said to be of unknown outcome, and nothing is written a second time.

mod client;
mod document;
mod error;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use ureq::http::Method;
use uuid::Uuid;

pub(crate) use self::client::{Client, Question};
pub(crate) use self::document::{
    DESIGN, Document, MAP, VIEW, ViewAnswer, Written, add_view, design, new,
};
use self::document::{Documents, Found, Posted};
pub(crate) use self::error::{CallError, Unwritten};
use super::url::CouchUrl;
use super::{
    Change, Changed, Deadline, Draft, Fence, Grouping, IdKind, PAGE_ROWS, PoolOptions, RowId,
    ShoeImages, Store, StoreError, TextId, batch,
};

/// How often a write is tried to whose document others write at the same time. Each time somebody else got on.
const WRITE_TRIES: u32 = 50;

/// A store over one CouchDB database.
pub(super) struct CouchStore {
    client: Client,
}

impl CouchStore {
    pub(super) fn open(url: &CouchUrl, options: PoolOptions) -> Result<Self, StoreError> {
        Ok(CouchStore {
            client: Client::open(url, options)?,
        })
    }

    /// The documents with these ids, each once. Of one that is gone there is its last revision, of one that never was nothing.
    fn documents(
        &self,
        ids: &[&str],
        deadline: Deadline,
    ) -> Result<HashMap<String, Found>, StoreError> {
        let question = Question::with(
            Method::POST,
            "/_all_docs?include_docs=true",
            &json!({ "keys": ids }),
        )?;
        let found: Documents = self
            .client
            .read(&question, deadline)
            .and_then(|answer| answer.json())
            .map_err(CallError::into_store_error)?;
        for row in &found.rows {
            if let Some(error) = row.error.as_ref().filter(|error| *error != "not_found") {
                return Err(StoreError::Refused(format!(
                    "of the document {:?} CouchDB says {error:?}",
                    row.key
                )));
            }
        }
        Ok(found
            .rows
            .into_iter()
            .map(|row| (row.key.clone(), row))
            .collect())
    }

    /// New rows, each with its own outcome. `drafts` are checked.
    fn insert_all(
        &self,
        drafts: &[&Draft],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Vec<Result<ShoeImages, Arc<StoreError>>> {
        let shoe_ids: Vec<i32> = drafts.iter().map(|draft| draft.shoe_id).collect();
        if !deadline.passed() {
            fence.raise(&batch::distinct(&shoe_ids));
        }
        if deadline.passed() {
            let late = Arc::new(StoreError::TimedOut);
            return drafts.iter().map(|_| Err(late.clone())).collect();
        }
        let ids: Vec<String> = drafts
            .iter()
            .map(|_| Uuid::now_v7().simple().to_string())
            .collect();
        let documents: Vec<Document> = ids
            .iter()
            .zip(drafts)
            .map(|(id, draft)| document::new(id, draft))
            .collect();
        let written = match post(&self.client, &documents, deadline) {
            Ok(written) => written,
            Err(Unwritten::Certainly(error)) => {
                let error = Arc::new(error);
                return drafts.iter().map(|_| Err(error.clone())).collect();
            }
            Err(Unwritten::Perhaps(why)) => {
                let unknown = |_| Written::Unknown(why.clone());
                drafts.iter().map(unknown).collect()
            }
        };
        let doubtful: Vec<&str> = ids
            .iter()
            .zip(&written)
            .filter(|(_, written)| matches!(written, Written::Unknown(_) | Written::Conflict))
            .map(|(id, _)| id.as_str())
            .collect();
        // Nobody else makes documents of these ids: what is there, or was, is ours.
        let there = match doubtful.is_empty() {
            true => HashMap::new(),
            false => self.documents(&doubtful, deadline).unwrap_or_default(),
        };
        let is_there = |id: &str| there.get(id).is_some_and(|found| found.value.is_some());
        let outcome = |((id, draft), written): ((&String, &&Draft), Written)| match written {
            Written::Stored => stored(id, draft),
            Written::Not(error) => Err(Arc::new(error)),
            Written::Conflict | Written::Unknown(_) if is_there(id) => stored(id, draft),
            Written::Conflict => Err(Arc::new(StoreError::OutcomeUnknown(format!(
                "CouchDB says that the new id {id} is taken, and does not show its document"
            )))),
            Written::Unknown(why) | Written::Doubtful(why) => {
                Err(Arc::new(StoreError::OutcomeUnknown(why)))
            }
        };
        ids.iter().zip(drafts).zip(written).map(outcome).collect()
    }

    /// Reads a document, changes it and writes it back, again and again while others are faster. `change` makes the document that
    /// is to be written of the one that there is, and tells which shoes that touches. False if there is no such document.
    fn rewrite(
        &self,
        id: &RowId,
        fence: &dyn Fence,
        deadline: Deadline,
        change: impl Fn(&Document) -> Result<(Document, Vec<i32>), StoreError>,
    ) -> Result<bool, StoreError> {
        let Some(id) = id.text() else {
            return Ok(false);
        };
        for _ in 0..WRITE_TRIES {
            let mut found = self.documents(&[id], deadline)?;
            let Some(old) = found.remove(id).and_then(|found| found.doc) else {
                return Ok(false);
            };
            let (new, shoe_ids) = change(&old)?;
            // Anew each time: another one may have moved the row to another shoe.
            fence.raise(&batch::distinct(&shoe_ids));
            if deadline.passed() {
                return Err(StoreError::TimedOut);
            }
            if self.write_over(id, &old, new, deadline)? {
                return Ok(true);
            }
        }
        Err(StoreError::Refused(format!(
            "the document {id} was changed by others {WRITE_TRIES} times between reading and writing it"
        )))
    }

    /// Whether the document was written; false if somebody else's revision came first.
    fn write_over(
        &self,
        id: &str,
        old: &Document,
        new: Document,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let new = [new];
        let written = match post(&self.client, &new, deadline) {
            Ok(mut written) => written.pop(),
            Err(Unwritten::Certainly(error)) => return Err(error),
            Err(Unwritten::Perhaps(why)) => Some(Written::Unknown(why)),
        };
        match written {
            Some(Written::Stored) => Ok(true),
            Some(Written::Conflict) => Ok(false),
            Some(Written::Not(error)) => Err(error),
            Some(Written::Unknown(why)) => self.settle(id, old, &new[0], why, deadline),
            Some(Written::Doubtful(why)) => Err(StoreError::OutcomeUnknown(why)),
            None => Err(StoreError::OutcomeUnknown(
                "CouchDB's answer is empty".to_owned(),
            )),
        }
    }

    /// Finds out what became of a write whose answer is lost. A revision has one place in the line of them, so whose is in the
    /// place of ours tells it. If nobody's is, the write may still be on its way.
    fn settle(
        &self,
        id: &str,
        old: &Document,
        new: &Document,
        why: String,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let unknown = || StoreError::OutcomeUnknown(why.clone());
        let mut found = self.documents(&[id], deadline).map_err(|_| unknown())?;
        let found = found.remove(id).ok_or_else(unknown)?;
        let place = |rev: &str| document::generation(rev);
        let ours = place(document::text(old, "_rev")).map(|before| before + 1);
        let revision = found.value.as_ref().ok_or_else(unknown)?;
        if ours.is_none() || place(&revision.rev) != ours {
            return Err(unknown());
        }
        let is_deletion = new.get("_deleted") == Some(&Value::Bool(true));
        Ok(match &found.doc {
            None => revision.deleted && is_deletion,
            // The same by somebody else is as good.
            Some(doc) => !is_deletion && document::is_same_row(doc, new),
        })
    }
}

/// Writes documents, each with its own outcome and none waiting for another; or says why all of them have the same.
pub(crate) fn post(
    client: &Client,
    documents: &[Document],
    deadline: Deadline,
) -> Result<Vec<Written>, Unwritten> {
    let question = Question::with(Method::POST, "/_bulk_docs", &json!({ "docs": documents }))
        .map_err(Unwritten::Certainly)?;
    let answered = client.write(&question, deadline).and_then(|answer| {
        let posted: Vec<Posted> = answer.json()?;
        Ok((answer.status, posted))
    });
    let (status, posted) = answered.map_err(CallError::of_a_write)?;
    let any_accepted = posted.iter().any(|posted| posted.accepted);
    let by_id: HashMap<&str, &Posted> = posted
        .iter()
        .map(|posted| (posted.id.as_str(), posted))
        .collect();
    let outcome = |document: &Document| match by_id.get(document::text(document, "_id")) {
        Some(posted) => posted.written(status, any_accepted),
        None => Written::Unknown("CouchDB's answer does not mention the document".to_owned()),
    };
    Ok(documents.iter().map(outcome).collect())
}

fn stored(id: &str, draft: &Draft) -> Result<ShoeImages, Arc<StoreError>> {
    let id = TextId::parse(id)
        .ok_or_else(|| Arc::new(StoreError::Failed(format!("{id:?} can't be an id"))))?;
    Ok(ShoeImages {
        id: id.into(),
        shoe_id: Some(draft.shoe_id),
        media: draft.media.clone(),
    })
}

impl Store for CouchStore {
    fn ids(&self) -> IdKind {
        IdKind::Text
    }

    fn shoes(
        &self,
        shoe_ids: &[i32],
        deadline: Deadline,
    ) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        if shoe_ids.is_empty() {
            return Ok(Vec::new());
        }
        // The index is brought up to date before it answers, so it shows every write that was acknowledged before.
        let path = format!("{DESIGN}/_view/{VIEW}?limit={PAGE_ROWS}");
        let rows = batch::in_pages(&batch::distinct(shoe_ids), |keys| {
            let question = Question::with(Method::POST, &path, &json!({ "keys": keys }))?;
            let answer = self.client.read(&question, deadline);
            let answer = answer.and_then(|answer| answer.json::<ViewAnswer>());
            answer.map_err(CallError::into_store_error)?.into_rows()
        })?;
        Ok(batch::by_shoe(shoe_ids, rows))
    }

    fn rows(
        &self,
        ids: &[RowId],
        deadline: Deadline,
    ) -> Result<Vec<Option<ShoeImages>>, StoreError> {
        let mut texts: Vec<&str> = ids.iter().filter_map(RowId::text).collect();
        texts.sort_unstable();
        texts.dedup();
        if texts.is_empty() {
            return Ok(vec![None; ids.len()]);
        }
        let found = self.documents(&texts, deadline)?;
        let rows = found.into_values().filter_map(|found| found.doc);
        let rows: Result<Vec<_>, _> = rows.map(document::row).collect();
        Ok(batch::by_id(ids, rows?))
    }

    fn insert(
        &self,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<ShoeImages, StoreError> {
        draft.check()?;
        let outcome = self.insert_all(&[draft], fence, deadline).pop();
        outcome
            .unwrap_or_else(|| Err(StoreError::Failed("nothing was stored".to_owned()).into()))
            .map_err(alone)
    }

    fn replace(
        &self,
        id: &RowId,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<Option<ShoeImages>, StoreError> {
        draft.check()?;
        let replaced = self.rewrite(id, fence, deadline, |old| {
            let mut new = old.clone();
            document::fill(&mut new, draft);
            let shoe_ids = document::shoe_of(old)?.into_iter().chain([draft.shoe_id]);
            Ok((new, shoe_ids.collect()))
        })?;
        Ok(replaced.then(|| ShoeImages {
            id: id.clone(),
            shoe_id: Some(draft.shoe_id),
            media: draft.media.clone(),
        }))
    }

    fn delete(
        &self,
        id: &RowId,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        self.rewrite(id, fence, deadline, |old| {
            let mut new = Document::new();
            for member in ["_id", "_rev"] {
                new.insert(member.to_owned(), document::text(old, member).into());
            }
            new.insert("_deleted".to_owned(), true.into());
            Ok((new, document::shoe_of(old)?.into_iter().collect()))
        })
    }

    /// New rows go together; none of them waits for what becomes of another one.
    fn change(
        &self,
        changes: &[Change],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Vec<Result<Changed, Arc<StoreError>>> {
        let drafts: Vec<&Draft> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Insert(draft) if draft.check().is_ok() => Some(draft),
                _ => None,
            })
            .collect();
        if drafts.len() < 2 || drafts.len() < changes.len() {
            return self.change_one_by_one(changes, fence, deadline);
        }
        let outcomes = self.insert_all(&drafts, fence, deadline).into_iter();
        outcomes
            .map(|outcome| outcome.map(Changed::Inserted))
            .collect()
    }

    fn grouping(&self) -> Grouping {
        Grouping::Inserts
    }

    fn ping(&self, deadline: Deadline) -> Result<(), StoreError> {
        let path = format!("{DESIGN}/_view/{VIEW}?limit=0&update=false");
        let pong = self.client.read(&Question::get(&path), deadline);
        if matches!(pong, Err(CallError::TimedOut { .. })) {
            // A network that has forgotten one connection has forgotten those beside it too.
            self.client.forget_connections();
        }
        pong.map(drop).map_err(CallError::into_store_error)
    }
}

/// The error of a write that shares it with no other one.
fn alone(error: Arc<StoreError>) -> StoreError {
    Arc::try_unwrap(error).unwrap_or_else(|shared| StoreError::Failed(shared.to_string()))
}
