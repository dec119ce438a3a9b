//! As much of OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.1.html>) as our document uses, in the order in which it
//! stands there. Parameters, headers, answers and named schemas are always components, and everything else refers to them.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Names and what they stand for, in the document's order.
pub type Map<T> = IndexMap<String, T>;

#[derive(Deserialize)]
pub struct OpenApi {
    pub info: Info,
    pub tags: Vec<Tag>,
    pub paths: Map<PathItem>,
    pub components: Components,
}

#[derive(Deserialize)]
pub struct Info {
    pub title: String,
    pub version: String,
    pub summary: String,
    pub description: String,
    pub license: License,
}

#[derive(Deserialize)]
pub struct License {
    pub name: String,
}

#[derive(Deserialize)]
pub struct Tag {
    pub name: String,
    pub description: String,
}

#[derive(Deserialize)]
pub struct PathItem {
    pub parameters: Vec<Reference>,
    /// By method, in lower case.
    #[serde(flatten)]
    pub operations: Map<Operation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    pub tags: Vec<String>,
    pub summary: String,
    pub description: Option<String>,
    #[serde(default)]
    pub parameters: Vec<Reference>,
    pub request_body: Option<RequestBody>,
    /// By status, or `default`.
    pub responses: Map<Reference>,
    #[serde(default)]
    pub security: Vec<Map<Vec<String>>>,
}

/// Where something stands in the document.
#[derive(Deserialize, PartialEq, Eq)]
pub struct Reference {
    #[serde(rename = "$ref")]
    pub to: String,
}

impl Reference {
    /// The component's name: the last part of the pointer.
    pub fn name(&self) -> &str {
        self.to.rsplit('/').next().unwrap_or_default()
    }
}

#[derive(Deserialize)]
pub struct RequestBody {
    pub description: String,
    pub content: Map<MediaType>,
}

#[derive(Deserialize)]
pub struct MediaType {
    pub schema: Schema,
    pub example: Option<Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    pub security_schemes: Map<SecurityScheme>,
    pub parameters: Map<Parameter>,
    pub headers: Map<Header>,
    pub responses: Map<Response>,
    pub schemas: Map<Schema>,
}

#[derive(Deserialize)]
pub struct SecurityScheme {
    pub description: String,
}

#[derive(Deserialize)]
pub struct Parameter {
    pub name: String,
    /// `query`, `path` or `header`.
    #[serde(rename = "in")]
    pub place: String,
    #[serde(default)]
    pub required: bool,
    pub description: String,
    pub schema: Schema,
    pub example: Json,
}

#[derive(Deserialize)]
pub struct Header {
    pub description: String,
    #[serde(default)]
    pub required: bool,
    pub example: Json,
}

#[derive(Deserialize)]
pub struct Response {
    pub description: String,
    pub headers: Map<Reference>,
    #[serde(default)]
    pub content: Map<MediaType>,
}

/// A schema of JSON Schema 2020-12, or a reference to one.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Schema {
    Named(Reference),
    Plain(Box<Plain>),
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct Plain {
    pub title: Option<String>,
    pub description: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<Types>,
    #[serde(rename = "const")]
    pub constant: Option<Json>,
    pub minimum: Option<i64>,
    pub maximum: Option<i64>,
    pub max_length: Option<u32>,
    pub properties: Map<Schema>,
    pub required: Vec<String>,
    pub items: Option<Schema>,
    pub one_of: Vec<Schema>,
    pub all_of: Vec<Schema>,
    pub examples: Vec<Json>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Types {
    One(String),
    Many(Vec<String>),
}

/// A value of JSON whose members stay in order.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
pub enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Json>),
    Object(Map<Json>),
}

impl Json {
    /// On one line.
    pub fn compact(&self) -> String {
        // A value whose keys are strings always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A member a line.
    pub fn spread(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As it stands in a URL, a header or a table: texts without quotes.
    pub fn plain(&self) -> String {
        match self {
            Json::Text(text) => text.clone(),
            other => other.compact(),
        }
    }
}
