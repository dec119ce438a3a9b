//! What describes the API: the OpenAPI document, the page that people read, which is made of it, and that page's style
//! sheet. Served by `routes` beside the API, or by an admin listener, as `--api-docs` says. `tests/openapi.rs` holds the
//! document to what the server does.

mod model;
mod page;

use std::sync::{Arc, OnceLock};

use super::manners::{Manners, Page};

/// The document, as it is sent.
const OPENAPI: &str = include_str!("../../web/openapi.json");

/// The style sheet of the page.
const STYLE: &str = include_str!("../../web/docs.css");

/// What the page may load: its style sheet, its icon, and no script.
pub const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The API in OpenAPI 3.1, as JSON.
pub fn openapi() -> &'static [u8] {
    OPENAPI.as_bytes()
}

/// The document as a page of HTML, made at the first call. Takes more stack than a coroutine has to spare, so that
/// must not be on one.
pub fn docs() -> &'static str {
    static DOCS: OnceLock<String> = OnceLock::new();
    DOCS.get_or_init(|| {
        page::render(OPENAPI).expect("the document is a constant, and a test renders it")
    })
}

/// The style sheet that the page names.
pub fn style() -> &'static str {
    STYLE
}

/// All of it ready to be sent, by path. Empty where it is not served.
#[derive(Debug, Default)]
pub struct Documents(Vec<(&'static str, Arc<Page>)>);

impl Documents {
    /// Lays it out, once for all requests. Not on a coroutine: see [`docs`].
    pub fn new(manners: &Manners) -> Self {
        let policy = [("Content-Security-Policy", POLICY)];
        let pages = [
            (
                "/openapi.json",
                manners.page("application/json", openapi().into()),
            ),
            (
                "/docs",
                manners.page_with("text/html; charset=utf-8", docs().into(), &policy),
            ),
            (
                "/docs.css",
                manners.page("text/css; charset=utf-8", style().into()),
            ),
        ];
        let pages = pages.map(|(path, page)| (path, Arc::new(page)));
        Documents(pages.into())
    }

    /// What is at this path, if anything.
    pub fn find(&self, path: &str) -> Option<&Arc<Page>> {
        let found = self.0.iter().find(|(known, _)| *known == path);
        found.map(|(_, page)| page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::problem::KINDS;

    #[test]
    fn the_page_has_each_operation_and_each_problem_once() {
        let page = docs();
        for anchor in [
            "get-api-images",
            "post-api-images",
            "put-api-images-id",
            "delete-api-images-id",
            "get-docs",
        ] {
            let id = format!("id=\"{anchor}\"");
            assert_eq!(page.matches(&id).count(), 1, "{anchor}");
        }
        for kind in KINDS {
            let id = format!("id=\"problem-{}\"", kind.slug());
            assert_eq!(page.matches(&id).count(), 1, "{kind:?}");
        }
    }

    /// A strict policy holds for it, so whatever the policy forbids would be missing.
    #[test]
    fn the_page_has_nothing_that_its_policy_forbids() {
        for forbidden in ["<script", "<style", " style=", " onclick=", "http-equiv"] {
            assert!(!docs().contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn each_link_of_the_page_leads_somewhere() {
        let links = docs().split("href=\"#").skip(1);
        let names = links.filter_map(|rest| rest.split('"').next());
        let mut count = 0;
        for name in names {
            let id = format!("id=\"{name}\"");
            assert_eq!(docs().matches(&id).count(), 1, "#{name}");
            count += 1;
        }
        assert!(count > 50, "{count} links");
    }
}
