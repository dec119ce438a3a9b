//! What goes with an answer besides its content: validators, cache rules, CORS, and the request's id.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_128;

use crate::http::head::Head;
use crate::http::request_id::RequestId;
use crate::http::response::{LaidOut, Response};

/// How answers are dressed, from the configuration.
#[derive(Debug, Clone)]
pub struct Manners {
    /// `Cache-Control` of what may be kept.
    cache_control: String,
    origins: Vec<String>,
}

/// An answer that may be kept and shown many times.
#[derive(Debug)]
pub struct Page {
    response: LaidOut,
    etag: String,
}

impl Page {
    /// The bytes that it takes.
    pub fn size(&self) -> usize {
        self.response.size() + self.etag.len()
    }

    /// What it shows.
    pub fn content(&self) -> &[u8] {
        self.response.content()
    }
}

/// What of a request's head decides how its answer is dressed. Empty, and free of allocation, for a plain GET.
#[derive(Debug, Default)]
pub struct Asked {
    if_none_match: Option<Box<[u8]>>,
    origin: Option<Box<str>>,
    preflight: bool,
}

impl Asked {
    /// Takes along what the answer will need.
    pub fn of(head: &Head<'_>) -> Self {
        Asked {
            if_none_match: head.if_none_match.map(Into::into),
            origin: head.origin.map(Into::into),
            preflight: head.access_control_request_method.is_some(),
        }
    }

    /// Whether the client has the content with this validator already.
    pub fn knows(&self, etag: &str) -> bool {
        self.if_none_match
            .as_deref()
            .is_some_and(|list| lists(list, etag))
    }
}

impl Manners {
    /// `max_age` is how long caches may answer for us; `origins` may read us from their scripts, `*` for all.
    pub fn new(max_age: Duration, origins: Vec<String>) -> Self {
        let cache_control = match max_age.as_secs() {
            // Kept, but asked about each time (RFC 9111 section 5.2.2.4).
            0 => "no-cache".to_owned(),
            seconds => format!("public, max-age={seconds}"),
        };
        Manners {
            cache_control,
            origins,
        }
    }

    /// Content that may be kept, with its validator.
    pub fn page(&self, content_type: &'static str, body: bytes::Bytes) -> Page {
        self.page_with(content_type, body, &[])
    }

    /// A [`page`](Manners::page) with more fields, which go with its content alone.
    pub fn page_with(
        &self,
        content_type: &'static str,
        body: bytes::Bytes,
        fields: &[(&'static str, &'static str)],
    ) -> Page {
        let etag = etag(&body);
        let mut response = Response::new(200)
            .body(content_type, body)
            .header("ETag", etag.clone())
            .header("Cache-Control", self.cache_control.clone());
        for (name, value) in fields {
            response = response.header(name, *value);
        }
        Page {
            response: response.lay_out(),
            etag,
        }
    }

    /// A page: 200, or 304 to a client that has it already.
    pub fn show(&self, asked: &Asked, page: &Page) -> Response {
        match asked.knows(&page.etag) {
            true => Response::new(304)
                .header("ETag", page.etag.clone())
                .header("Cache-Control", self.cache_control.clone()),
            false => page.response.clone().into(),
        }
    }

    /// Dresses the finished answer. `id` is the request's if it belongs to the answer: to errors and writes.
    pub fn dress(&self, asked: &Asked, response: Response, id: Option<&RequestId>) -> Response {
        let response = self.allow_origin(asked, response);
        match id {
            Some(id) => response.header("X-Request-Id", id.to_string()),
            None => response,
        }
    }

    /// CORS (fetch standard, section 3.2): only for origins that are let in, and told to caches by `Vary`.
    fn allow_origin(&self, asked: &Asked, mut response: Response) -> Response {
        if self.origins.is_empty() {
            return response;
        }
        response = response.header("Vary", "Origin");
        let Some(origin) = &asked.origin else {
            return response;
        };
        if !self
            .origins
            .iter()
            .any(|known| known == "*" || **known == **origin)
        {
            return response;
        }
        response = response
            .header("Access-Control-Allow-Origin", String::from(&**origin))
            .header(
                "Access-Control-Expose-Headers",
                "ETag, Location, X-Request-Id",
            );
        if asked.preflight {
            response = response
                .header(
                    "Access-Control-Allow-Methods",
                    "GET, HEAD, POST, PUT, DELETE",
                )
                .header(
                    "Access-Control-Allow-Headers",
                    "Authorization, Content-Type, If-None-Match, Traceparent, X-Request-Id, X-Server-Timing",
                )
                .header("Access-Control-Max-Age", "600");
        }
        response
    }
}

/// A strong validator: equal content has an equal one, on every worker and host.
pub(super) fn etag(body: &[u8]) -> String {
    format!("\"{:032x}\"", xxh3_128(body))
}

/// Whether an `If-None-Match` lists the tag (RFC 9110 section 13.1.2): by weak comparison, so `W/` is ignored.
pub(super) fn lists(list: &[u8], etag: &str) -> bool {
    list.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_any_list_that_holds_it() {
        let tag = etag(b"[]");
        assert_eq!(tag.len(), 34);
        assert_ne!(tag, etag(b"[ ]"));
        for list in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\" , {tag}"),
            "*".to_owned(),
        ] {
            assert!(lists(list.as_bytes(), &tag), "{list}");
        }
        for list in ["", "\"x\"", &tag[1..33], "W/"] {
            assert!(!lists(list.as_bytes(), &tag), "{list}");
        }
    }
}
