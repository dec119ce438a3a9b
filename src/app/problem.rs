//! RFC 9457 problem documents: one row a problem, stable `type`s, and the field that is wrong by name.

use std::fmt;

use serde::Serialize;

use super::Failure;
use crate::http::response::Response;
use crate::store::{MAX_ROWS, StoreError};

/// A kind of problem: what stays the same each time it occurs.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The end of the `type` URI reference, `/problems/{slug}`. Never changes once released.
    slug: &'static str,
    status: u16,
    title: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $slug:literal, $status:literal, $title:literal;)*) => {
        $(pub const $name: Kind = Kind { slug: $slug, status: $status, title: $title };)*
        /// Every kind there is.
        pub const KINDS: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    MISSING_FIELD = "missing-field", 400, "A required field is missing";
    REPEATED_FIELD = "repeated-field", 400, "A field is given more than once";
    UNKNOWN_FIELD = "unknown-field", 400, "A field is not known";
    INVALID_FIELD = "invalid-field", 400, "A field has a value that it cannot have";
    INVALID_JSON = "invalid-json", 400, "The body is not the JSON that was expected";
    BAD_REQUEST = "bad-request", 400, "The request is not well-formed";
    NO_CREDENTIALS = "no-credentials", 401, "Writing needs a bearer token";
    WRONG_CREDENTIALS = "wrong-credentials", 403, "The bearer token is not the right one";
    NO_SUCH_PATH = "no-such-path", 404, "Nothing lives at this path";
    NO_SUCH_ROW = "no-such-row", 404, "There is no row with this id";
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "The method does not apply to this path";
    TIMEOUT = "request-timeout", 408, "The request did not arrive in time";
    BODY_TOO_LARGE = "body-too-large", 413, "The body is too large";
    URI_TOO_LONG = "uri-too-long", 414, "The request line is too long";
    NOT_JSON = "unsupported-media-type", 415, "The body must be application/json";
    EXPECTATION_FAILED = "expectation-failed", 417, "The expectation is not one that can be met";
    HEAD_TOO_LARGE = "head-too-large", 431, "The header fields are too large or too many";
    INTERNAL = "internal", 500, "The server made a mistake";
    TOO_MANY_ROWS = "too-many-rows", 500, "The shoe has more rows than are answered";
    NOT_IMPLEMENTED = "not-implemented", 501, "The server does not know this";
    OVERLOADED = "overloaded", 503, "The server has more to do than it can";
    STORE_UNAVAILABLE = "store-unavailable", 503, "The database does not answer";
    STORE_REFUSES = "store-refuses", 503, "The database takes no writes now";
    OUTCOME_UNKNOWN = "outcome-unknown", 503, "It is not known whether the write happened";
    DRAINING = "draining", 503, "The server is about to stop";
    VERSION_NOT_SUPPORTED = "version-not-supported", 505, "Only HTTP/1.0 and HTTP/1.1 are spoken here";
}

/// The document, in the order that RFC 9457 tells it.
#[derive(Serialize)]
struct Document<'a> {
    r#type: fmt::Arguments<'a>,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

/// How long a client should wait before it tries again, in seconds.
pub(super) const RETRY_AFTER: &str = "1";

impl Kind {
    /// The end of its `type`.
    pub fn slug(&self) -> &'static str {
        self.slug
    }

    /// The status of its answers.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The same each time it occurs.
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// The problem with what is special about this occurrence.
    pub fn detail(&'static self, detail: &str) -> Response {
        self.document(None, detail)
    }

    /// The problem with the field that it is about; `detail` continues the sentence that begins with its name.
    pub fn field(&'static self, field: &str, detail: &str) -> Response {
        self.document(Some(field), &format!("{field} {detail}"))
    }

    /// The problem with the field that it is about, and a detail that stands by itself.
    pub fn detail_of(&'static self, field: &str, detail: &str) -> Response {
        self.document(Some(field), detail)
    }

    fn document(&'static self, field: Option<&str>, detail: &str) -> Response {
        // A struct of numbers and strings always serialises.
        let document = serde_json::to_vec(&Document {
            r#type: format_args!("/problems/{}", self.slug),
            title: self.title,
            status: self.status,
            detail,
            field,
        })
        .unwrap_or_default();
        let response = Response::new(self.status)
            .body("application/problem+json", document)
            .header("Cache-Control", "no-store");
        match self.status {
            503 => response.header("Retry-After", RETRY_AFTER),
            _ => response,
        }
    }
}

/// The problem for a status that the connection decided on by itself.
pub fn of_status(status: u16, detail: &str) -> Response {
    let kind = match status {
        408 => &TIMEOUT,
        413 => &BODY_TOO_LARGE,
        414 => &URI_TOO_LONG,
        417 => &EXPECTATION_FAILED,
        431 => &HEAD_TOO_LARGE,
        500 => &INTERNAL,
        501 => &NOT_IMPLEMENTED,
        503 => &OVERLOADED,
        505 => &VERSION_NOT_SUPPORTED,
        _ => &BAD_REQUEST,
    };
    kind.detail(detail)
}

/// The problem for a failure below. What the database said stays in the log: it may name hosts and users.
pub fn of_failure(failure: &Failure) -> Response {
    match failure {
        Failure::Overloaded => OVERLOADED.detail("too many requests are waiting for the database"),
        Failure::Store(error) => match &**error {
            StoreError::Unavailable(_) => STORE_UNAVAILABLE.detail("no connection to the database could be had"),
            StoreError::TimedOut => STORE_UNAVAILABLE.detail("the database did not answer in time"),
            StoreError::Schema(_) => STORE_UNAVAILABLE.detail("the database has no usable table shoe_images"),
            StoreError::Refused(_) => STORE_REFUSES.detail("it is full, read-only or locked; nothing was changed"),
            StoreError::OutcomeUnknown(_) => OUTCOME_UNKNOWN
                .detail("the connection to the database was lost during the commit; read before writing again"),
            StoreError::TooManyRows(_) => TOO_MANY_ROWS
                .detail(&format!("it has more than {MAX_ROWS}; each is still at /api/images/{{id}}, and may be deleted there")),
            StoreError::Failed(_) => INTERNAL.detail("the database answered with an error; nothing was changed"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_unique_and_statuses_are_errors() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!((400..600).contains(&kind.status), "{kind:?}");
            assert!(
                KINDS[..index].iter().all(|other| other.slug != kind.slug),
                "{kind:?}"
            );
        }
    }
}
