//! Rows of `shoe_images` as the API shows them, and the calls that make and change them.

use std::fmt;

use serde_json::{Value, json};

use super::http::{Request, Response};
use super::server::Server;

/// The media members in the order of the schema and of the answers.
pub const MEDIA: [&str; 9] = [
    "img1", "img2", "img3", "img4", "img5", "img6", "img7", "vid1", "vid2",
];

/// The `id` of a row: what its store makes. Passed about by value, so a text is never freed; a test makes few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    Number(i64),
    Text(&'static str),
}

impl Id {
    /// As it stands in JSON.
    pub fn json(self) -> Value {
        match self {
            Id::Number(number) => json!(number),
            Id::Text(text) => json!(text),
        }
    }

    /// One of the same kind that no row has, if it is the last one that was made.
    pub fn another(self) -> Id {
        match self {
            Id::Number(number) => Id::Number(number + 1),
            Id::Text(text) => Id::Text(format!("{}x", &text[1..]).leak()),
        }
    }
}

/// As it stands in a path.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Number(number) => number.fmt(f),
            Id::Text(text) => text.fmt(f),
        }
    }
}

impl From<i64> for Id {
    fn from(number: i64) -> Self {
        Id::Number(number)
    }
}

/// The exact bytes of a row: members in the schema's order, no whitespace, null where nothing is.
pub fn row(id: impl Into<Id>, shoe_id: i64, media: &[(&str, &str)]) -> String {
    let id = id.into().json();
    let mut text = format!(r#"{{"id":{id},"shoe_id":{shoe_id}"#);
    for name in MEDIA {
        let value = media
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| json!(value));
        text.push_str(&format!(r#","{name}":{}"#, value.unwrap_or(Value::Null)));
    }
    text.push('}');
    text
}

/// The body of a POST or PUT.
pub fn draft(shoe_id: i64, media: &[(&str, &str)]) -> String {
    let mut members = serde_json::Map::new();
    members.insert("shoe_id".into(), json!(shoe_id));
    members.extend(
        media
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value))),
    );
    Value::Object(members).to_string()
}

pub fn post(body: impl Into<Vec<u8>>) -> Request {
    Request::new("POST", "/api/images/").json(body)
}

pub fn put(id: impl Into<Id>, body: impl Into<Vec<u8>>) -> Request {
    let id = id.into();
    Request::new("PUT", &format!("/api/images/{id}")).json(body)
}

pub fn delete(id: impl Into<Id>) -> Request {
    let id = id.into();
    Request::new("DELETE", &format!("/api/images/{id}"))
}

pub fn list_target(shoe_id: i64) -> String {
    format!("/api/images/?shoe_id={shoe_id}")
}

/// The `id` of the row in an answer.
#[track_caller]
pub fn id_of(response: &Response) -> Id {
    match &response.json()["id"] {
        Value::String(text) => Id::Text(text.clone().leak()),
        id => Id::Number(id.as_i64().unwrap_or_else(|| panic!("no id: {response}"))),
    }
}

/// Stores a row and answers with its id.
#[track_caller]
pub fn create(server: &Server, shoe_id: i64, media: &[(&str, &str)]) -> Id {
    id_of(&server.call(&post(draft(shoe_id, media))).expect(201))
}

/// Stores a row of this shoe on a server that wants a token.
#[track_caller]
pub fn create_with_token(server: &Server, shoe_id: i64, token: &str) -> Id {
    let request = post(draft(shoe_id, &[])).header("Authorization", &format!("Bearer {token}"));
    id_of(&server.call(&request).expect(201))
}
