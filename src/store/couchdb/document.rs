//! Rows as CouchDB has them: a document each, with `shoe_id` and the media as members, and one design document whose view finds
//! them by shoe. What else others put into a document stays there.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::store::{Draft, MEDIA_COLUMNS, Media, RowId, ShoeImages, StoreError, TextId};

pub(crate) type Document = Map<String, Value>;

/// Where the view is defined, below the database.
pub(crate) const DESIGN: &str = "/_design/canvas-cluster";

/// The view's name in it.
pub(crate) const VIEW: &str = "by_shoe_id";

/// The media go into the index: so one look there answers a shoe, from one state of the database, and nothing else that a document
/// may hold is read or sent. In words that CouchDB's oldest JavaScript engine knows.
pub(crate) const MAP: &str = "function (doc) {\n  if (typeof doc.shoe_id === \"number\") {\n    \
    emit(doc.shoe_id, [doc.img1, doc.img2, doc.img3, doc.img4, doc.img5, doc.img6, doc.img7, doc.vid1, doc.vid2]);\n  }\n}";

/// The design document of a new database.
pub(crate) fn design() -> Document {
    let mut document = Document::new();
    document.insert("language".to_owned(), "javascript".into());
    add_view(&mut document);
    document
}

/// Adds our view to those that a design document has.
pub(crate) fn add_view(design: &mut Document) {
    let views = design.entry("views").or_insert_with(|| json!({}));
    if let Some(views) = views.as_object_mut() {
        views.insert(VIEW.to_owned(), json!({ "map": MAP }));
    }
}

/// Writes a draft into a document, new or not.
pub(crate) fn fill(document: &mut Document, draft: &Draft) {
    document.insert("shoe_id".to_owned(), draft.shoe_id.into());
    for (column, text) in MEDIA_COLUMNS.iter().zip(&draft.media) {
        document.insert((*column).to_owned(), text.as_deref().into());
    }
}

/// A new document of this id.
pub(crate) fn new(id: &str, draft: &Draft) -> Document {
    let mut document = Document::new();
    document.insert("_id".to_owned(), id.into());
    fill(&mut document, draft);
    document
}

/// The member, or an empty text.
pub(super) fn text<'d>(document: &'d Document, member: &str) -> &'d str {
    document
        .get(member)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The number of revisions up to this one: what stands before the dash.
pub(super) fn generation(rev: &str) -> Option<u64> {
    rev.split_once('-')?.0.parse().ok()
}

/// The shoe that a document belongs to, if any.
///
/// # Errors
/// [`StoreError::Schema`] if it is no 32-bit number.
pub(super) fn shoe_of(document: &Document) -> Result<Option<i32>, StoreError> {
    match document.get("shoe_id") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().and_then(whole) {
            Some(shoe_id) => Ok(Some(shoe_id)),
            None => Err(odd(
                text(document, "_id"),
                "its shoe_id is no 32-bit whole number",
            )),
        },
    }
}

/// A document as a row.
///
/// # Errors
/// [`StoreError::Schema`] naming the document and what no row holds.
pub(super) fn row(mut document: Document) -> Result<ShoeImages, StoreError> {
    let id = row_id(text(&document, "_id"))?;
    let shoe_id = shoe_of(&document)?;
    let values = MEDIA_COLUMNS.map(|column| document.remove(column).unwrap_or_default());
    Ok(ShoeImages {
        media: media(text(&document, "_id"), values)?,
        id,
        shoe_id,
    })
}

/// Whether both say the same of a shoe.
pub(super) fn is_same_row(one: &Document, other: &Document) -> bool {
    let same = |column: &&str| one.get(*column) == other.get(*column);
    ["shoe_id"].iter().chain(&MEDIA_COLUMNS).all(same)
}

fn row_id(id: &str) -> Result<RowId, StoreError> {
    TextId::parse(id)
        .map(RowId::from)
        .ok_or_else(|| odd(id, "its _id is none that a path of the API can hold"))
}

fn media(id: &str, values: [Value; 9]) -> Result<Media, StoreError> {
    let mut media = Media::default();
    for ((column, value), text) in MEDIA_COLUMNS.iter().zip(values).zip(&mut media) {
        *text = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            _ => return Err(odd(id, &format!("its {column} is no text"))),
        };
    }
    Ok(media)
}

fn odd(id: &str, why: &str) -> StoreError {
    StoreError::Schema(format!("of the document {id:?} {why}"))
}

fn whole(number: f64) -> Option<i32> {
    let integer = number as i32;
    (f64::from(integer) == number).then_some(integer)
}

/// The answer of a view.
#[derive(Deserialize)]
pub(crate) struct ViewAnswer {
    pub(crate) rows: Vec<ViewRow>,
    /// Parts of a cluster that did not answer.
    #[serde(default)]
    errors: Vec<Value>,
}

#[derive(Deserialize)]
pub(crate) struct ViewRow {
    id: String,
    /// JSON of JavaScript: 7 may be 7.0.
    pub(crate) key: f64,
    value: Value,
}

impl ViewAnswer {
    /// # Errors
    /// [`StoreError::Schema`] if a row is none of ours, [`StoreError::Refused`] if some may be missing.
    pub(super) fn into_rows(self) -> Result<Vec<ShoeImages>, StoreError> {
        if !self.errors.is_empty() {
            return Err(StoreError::Refused(
                "a part of CouchDB's cluster did not answer".to_owned(),
            ));
        }
        let of_view = |row: ViewRow| {
            let values: Option<[Value; 9]> = match row.value {
                Value::Array(values) => values.try_into().ok(),
                _ => None,
            };
            let values = values.ok_or_else(|| {
                StoreError::Schema(format!(
                    "the view {VIEW} of {DESIGN} is not the one that migrate makes"
                ))
            })?;
            Ok(ShoeImages {
                media: media(&row.id, values)?,
                id: row_id(&row.id)?,
                shoe_id: whole(row.key),
            })
        };
        self.rows.into_iter().map(of_view).collect()
    }
}

/// The answer of `_all_docs`.
#[derive(Deserialize)]
pub(super) struct Documents {
    pub(super) rows: Vec<Found>,
}

/// What there is of one id.
#[derive(Deserialize)]
pub(super) struct Found {
    pub(super) key: String,
    /// Nothing and null where there is no such document, or no longer.
    pub(super) doc: Option<Document>,
    pub(super) value: Option<Revision>,
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Revision {
    pub(super) rev: String,
    #[serde(default)]
    pub(super) deleted: bool,
}

/// What became of one document of `_bulk_docs`. They come in any order.
#[derive(Deserialize)]
pub(crate) struct Posted {
    pub(crate) id: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    reason: String,
    /// It was written on fewer copies than a write has to be (CouchDB's quorum), and may be lost with them.
    #[serde(default)]
    pub(crate) accepted: bool,
}

/// What became of the writing of one document.
#[derive(Debug)]
pub(crate) enum Written {
    Stored,
    /// Somebody else's revision came first: nothing was written.
    Conflict,
    /// Nothing was written.
    Not(StoreError),
    /// Nobody has said whether it was written; a look may tell.
    Unknown(String),
    /// It was written and may be lost again, whatever a look shows.
    Doubtful(String),
}

impl Posted {
    /// `status` is that of the whole answer.
    pub(crate) fn written(&self, status: u16, any_accepted: bool) -> Written {
        let why = || match self.reason.is_empty() {
            true => self.error.clone(),
            false => format!("{}: {}", self.error, self.reason),
        };
        match self.error.as_str() {
            // Servers that do not say which one was not written by a quorum mean any of them.
            "" if self.accepted || (status == 202 && !any_accepted) => Written::Doubtful(
                "CouchDB has it on fewer copies than its quorum (202), and may lose it with them"
                    .to_owned(),
            ),
            "" => Written::Stored,
            "conflict" => Written::Conflict,
            "forbidden" | "unauthorized" => Written::Not(StoreError::Refused(why())),
            "bad_request" | "doc_validation" | "document_too_large" | "too_large" => {
                Written::Not(StoreError::Failed(why()))
            }
            // Timeouts of a cluster, crashes: it may be on some copies.
            _ => Written::Unknown(why()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(answer: Value, status: u16) -> Vec<Written> {
        let posted: Vec<Posted> = serde_json::from_value(answer).expect("an answer");
        let any_accepted = posted.iter().any(|posted| posted.accepted);
        let one = |posted: &Posted| posted.written(status, any_accepted);
        posted.iter().map(one).collect()
    }

    /// The forms that CouchDB's manual and its source have.
    #[test]
    fn each_document_of_a_bulk_has_its_own_end() {
        let answer = json!([
            {"ok": true, "id": "a", "rev": "1-x"},
            {"id": "b", "error": "conflict", "reason": "Document update conflict."},
            {"id": "c", "error": "forbidden", "reason": "not on Sundays"},
            {"id": "d", "error": "doc_validation", "reason": "Bad special document member"},
            {"id": "e", "error": "timeout", "reason": "The request timed out."},
        ]);
        let ends = written(answer, 201);
        assert!(matches!(ends[0], Written::Stored));
        assert!(matches!(ends[1], Written::Conflict));
        assert!(
            matches!(&ends[2], Written::Not(StoreError::Refused(why)) if why.contains("Sundays"))
        );
        assert!(matches!(&ends[3], Written::Not(StoreError::Failed(_))));
        assert!(matches!(&ends[4], Written::Unknown(_)));
    }

    #[test]
    fn what_a_quorum_does_not_have_is_doubtful() {
        let one_of_them =
            json!([{"ok": true, "id": "a"}, {"ok": true, "id": "b", "accepted": true}]);
        let ends = written(one_of_them, 202);
        assert!(matches!(ends[..], [Written::Stored, Written::Doubtful(_)]));
        // It does not say which.
        let ends = written(
            json!([{"ok": true, "id": "a"}, {"id": "b", "error": "conflict"}]),
            202,
        );
        assert!(matches!(
            ends[..],
            [Written::Doubtful(_), Written::Conflict]
        ));
    }

    #[test]
    fn numbers_of_javascript_are_shoes_if_they_are_whole() {
        for (number, shoe) in [
            (7.0, Some(7)),
            (-0.0, Some(0)),
            (f64::from(i32::MIN), Some(i32::MIN)),
            (2_147_483_648.0, None),
            (1.5, None),
            (f64::NAN, None),
        ] {
            assert_eq!(whole(number), shoe, "{number}");
        }
        assert_eq!(generation("12-abc"), Some(12));
        assert_eq!(generation("abc"), None);
    }

    #[test]
    fn a_view_of_a_cluster_that_lacks_a_part_is_no_answer() {
        let whole = json!({"total_rows": 1, "offset": 0, "rows": [
            {"id": "a", "key": 7, "value": ["x", null, null, null, null, null, null, null, null]},
        ]});
        let answer: ViewAnswer = serde_json::from_value(whole.clone()).expect("an answer");
        let rows = answer.into_rows().expect("rows");
        assert_eq!(
            (rows[0].shoe_id, rows[0].media[0].as_deref()),
            (Some(7), Some("x"))
        );
        let mut part = whole;
        part["errors"] = json!([{"from": "node2", "reason": "timeout"}]);
        let answer: ViewAnswer = serde_json::from_value(part).expect("an answer");
        assert!(matches!(answer.into_rows(), Err(StoreError::Refused(_))));
    }
}
