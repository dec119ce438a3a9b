//! The product page and what belongs to it: the part of the URL space that people see. Called by the routes, for every path
//! that is not the API's. Which answers there are stands here; what they look like stands in web/.

mod policy;
mod rows;
mod templates;

use std::sync::Arc;

use askama::Template;
use bytes::Bytes;

use self::policy::Policy;
use self::templates::{Editor, Front, Product, Unavailable, Unknown};
use super::content::{Cached, Content};
use super::extras::Extras;
use super::manners::{self, Asked, Manners, Page};
use super::routes::parse_i32;
use super::{Failure, art, assets, media_type, problem};
use crate::http::head::Head;
use crate::http::response::Response;
use crate::http::target;
use crate::store::StoreError;

const HTML: &str = "text/html; charset=utf-8";

/// The shoes that the front page shows.
const SHOWN: std::ops::RangeInclusive<i32> = 1..=12;

/// The views of a shoe that are drawn.
const VIEWS: std::ops::RangeInclusive<u8> = 1..=7;

/// What crawlers are told: they may look at everything. What they should not list says so itself.
const ROBOTS: &str = "User-agent: *\nAllow: /\n";

/// What people see, as it is configured.
#[derive(Debug)]
pub struct Site {
    policy: Policy,
    extras: Extras,
}

/// A place of this part of the URL space. All of them are only read.
#[derive(Debug)]
pub enum Place {
    /// `/`: the front page or, as the query says, a product page.
    Root,
    /// `/shoes/N`; `None` where N is no number.
    Shoe(Option<i32>),
    Editor,
    Drawing {
        shoe_id: i32,
        view: u8,
    },
    /// Content that is there already.
    Content(Box<Content>),
}

/// A request for a page that is left to be answered.
#[derive(Debug)]
pub enum Call {
    Product {
        shoe_id: i32,
        embedded: bool,
    },
    /// What was asked for is not the number of any shoe.
    NoNumber,
    Front,
    Editor,
    Drawing {
        shoe_id: i32,
        view: u8,
    },
    /// The answer itself.
    Answer(Box<Response>),
}

impl Site {
    /// `ancestors` are the pages that may embed the product page, as `--frame-ancestors` names them.
    pub fn new(ancestors: &[String], extras: Extras) -> Self {
        Site {
            policy: Policy::new(ancestors),
            extras,
        }
    }

    /// What lives at a decoded path, if anything does. The operator's files come after all that has a place of its own, and
    /// before what is only better than nothing.
    pub fn place(&self, path: &str) -> Option<Place> {
        own_place(path)
            .or_else(|| self.extras.find(path).cloned().map(ready))
            .or_else(|| spare_place(path))
    }

    /// What a GET or HEAD of a place asks for. A query that means nothing here is passed by: links to shops carry many.
    pub fn call(&self, place: &Place, query: Option<&str>, head: &Head<'_>) -> Call {
        let parameters = Parameters::read(query.unwrap_or_default());
        match *place {
            Place::Content(ref content) => Call::Answer(Box::new(content.answer(head))),
            Place::Drawing { shoe_id, view } => Call::Drawing { shoe_id, view },
            Place::Editor => Call::Editor,
            Place::Shoe(shoe_id) => parameters.product(shoe_id),
            Place::Root => match parameters.shoe_id {
                None => Call::Front,
                Some(Asking::For(shoe_id)) => parameters.product(Some(shoe_id)),
                Some(Asking::Nothing) => Call::NoNumber,
            },
        }
    }

    /// Answers. `shoe` gives a shoe's rows as the API would.
    ///
    /// # Errors
    /// The backend gave no answer: see [`Site::failed`].
    pub fn answer(
        &self,
        call: Call,
        asked: &Asked,
        manners: &Manners,
        shoe: impl FnOnce(i32) -> Result<Arc<Page>, Failure>,
    ) -> Result<Response, Failure> {
        let shared = &self.policy.shared;
        match call {
            Call::Product { shoe_id, embedded } => {
                let rows = rows::read(shoe(shoe_id)?.content()).map_err(|why| {
                    let why = format!(
                        "what the cache holds of shoe {shoe_id} is no array of rows: {why}"
                    );
                    Failure::Store(Arc::new(StoreError::Failed(why)))
                })?;
                if rows.is_empty() {
                    return self.unknown(404, Some(shoe_id));
                }
                let product = Product::of(shoe_id, rows::show(rows), embedded);
                Ok(protect(
                    manners.show(asked, &manners.page(HTML, render(&product)?)),
                    shared,
                ))
            }
            Call::NoNumber => self.unknown(400, None),
            Call::Front => {
                let front = Front {
                    shoes: SHOWN.collect(),
                };
                Ok(protect(
                    manners.show(asked, &manners.page(HTML, render(&front)?)),
                    shared,
                ))
            }
            Call::Editor => {
                let page = manners.page(HTML, render(&Editor {})?);
                // Nobody's frame: what is clicked here changes data.
                let response = protect(manners.show(asked, &page), &self.policy.alone);
                Ok(response.header("X-Robots-Tag", "noindex"))
            }
            Call::Drawing { shoe_id, view } => Ok(drawn(asked, art::draw(shoe_id, view))),
            Call::Answer(response) => Ok(*response),
        }
    }

    fn unknown(&self, status: u16, shoe_id: Option<i32>) -> Result<Response, Failure> {
        let response = Response::new(status).body(HTML, render(&Unknown { shoe_id })?);
        Ok(protect(response, &self.policy.shared).header("Cache-Control", "no-cache"))
    }

    /// What people see where a page could not be made.
    pub fn failed(&self, failure: &Failure) -> Response {
        let problem = problem::of_failure(failure);
        let status = problem.status();
        let Ok(page) = render(&Unavailable {}) else {
            return problem;
        };
        let response = protect(Response::new(status).body(HTML, page), &self.policy.shared)
            .header("Cache-Control", "no-store");
        match status {
            503 => response.header("Retry-After", problem::RETRY_AFTER),
            _ => response,
        }
    }
}

impl Default for Site {
    /// Embedded by pages of its own origin only, and without files of the operator's.
    fn default() -> Self {
        Site::new(&["self".to_owned()], Extras::default())
    }
}

/// What of a query means something on a page.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    shoe_id: Option<Asking>,
    embedded: bool,
}

/// What `shoe_id` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    For(i32),
    /// It is no number, or stands there twice.
    Nothing,
}

impl Parameters {
    fn read(query: &str) -> Self {
        let mut parameters = Parameters::default();
        for raw in query.split('&') {
            match target::query_pairs(raw).next() {
                Some(Ok((name, value))) if name == "shoe_id" => {
                    let asking = number_of(&value).map_or(Asking::Nothing, Asking::For);
                    parameters.shoe_id = match parameters.shoe_id {
                        None => Some(asking),
                        Some(_) => Some(Asking::Nothing),
                    };
                }
                // A number that does not decode is none.
                Some(Err(_)) if raw.starts_with("shoe_id=") => {
                    parameters.shoe_id = Some(Asking::Nothing);
                }
                Some(Ok((name, value))) if name == "embed" => parameters.embedded = value == "1",
                Some(_) | None => {}
            }
        }
        parameters
    }

    fn product(&self, shoe_id: Option<i32>) -> Call {
        match shoe_id {
            Some(shoe_id) => Call::Product {
                shoe_id,
                embedded: self.embedded,
            },
            None => Call::NoNumber,
        }
    }
}

fn own_place(path: &str) -> Option<Place> {
    match path {
        "/" => return Some(Place::Root),
        "/admin" | "/admin/" => return Some(Place::Editor),
        // Its name is in other people's pages, so it can't change with its content.
        "/embed.js" => return asset("embed.js", Cached::Hour),
        _ => {}
    }
    if let Some(number) = path.strip_prefix("/shoes/") {
        let number = number.strip_suffix('/').unwrap_or(number);
        return (!number.contains('/')).then(|| Place::Shoe(number_of(number)));
    }
    if path.starts_with("/assets/") {
        return assets::at(assets::ASSETS, path).map(|asset| ready(asset.content(Cached::Forever)));
    }
    let demo = path.strip_prefix("/demo/")?;
    match demo.strip_prefix("shoes/") {
        Some(drawn) => drawing(drawn),
        // The rows of the demo catalogue name them, whatever is in them.
        None if demo.starts_with("clips/") => asset(demo, Cached::Month),
        None => None,
    }
}

fn spare_place(path: &str) -> Option<Place> {
    match path {
        "/favicon.ico" => asset("favicon.svg", Cached::Month),
        "/robots.txt" => Some(ready(Content {
            content_type: media_type::of(path).name,
            cached: Cached::Month,
            tag: "robots".into(),
            modified: None,
            identity: Bytes::from_static(ROBOTS.as_bytes()),
            brotli: None,
            gzip: None,
        })),
        _ => None,
    }
}

fn asset(name: &str, cached: Cached) -> Option<Place> {
    assets::named(assets::ASSETS, name).map(|asset| ready(asset.content(cached)))
}

fn ready(content: Content) -> Place {
    Place::Content(Box::new(content))
}

/// `N/VIEW.svg`
fn drawing(path: &str) -> Option<Place> {
    let (shoe_id, view) = path.strip_suffix(".svg")?.split_once('/')?;
    let shoe_id = number_of(shoe_id)?;
    let view = u8::try_from(number_of(view)?).ok()?;
    VIEWS
        .contains(&view)
        .then_some(Place::Drawing { shoe_id, view })
}

fn number_of(text: &str) -> Option<i32> {
    parse_i32(text).ok()
}

fn render(template: &impl Template) -> Result<Bytes, Failure> {
    let rendered = template.render().map(Bytes::from);
    rendered.map_err(|why| {
        let why = format!("a page can't be rendered: {why}");
        Failure::Store(Arc::new(StoreError::Failed(why)))
    })
}

/// A page, and what it may load (see [`Policy`]).
fn protect(page: Response, policy: &str) -> Response {
    page.header("Content-Security-Policy", policy.to_owned())
        .header("Referrer-Policy", "strict-origin-when-cross-origin")
        .header("Cross-Origin-Opener-Policy", "same-origin")
}

/// A picture that the server has drawn: always the same one, until another version of the program draws better.
fn drawn(asked: &Asked, picture: String) -> Response {
    let tag = manners::etag(picture.as_bytes());
    let response = match asked.knows(&tag) {
        true => Response::new(304),
        false => Response::new(200).body("image/svg+xml", picture),
    };
    response
        .header("ETag", tag)
        .header("Cache-Control", Cached::Month.rule())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_for_what_means_something() {
        let read = |query: &str| {
            let parameters = Parameters::read(query);
            (parameters.shoe_id, parameters.embedded)
        };
        let seven = Some(Asking::For(7));
        let nothing = Some(Asking::Nothing);
        for (query, wanted) in [
            ("", (None, false)),
            ("utm_source=x&%zz&=", (None, false)),
            ("shoe_id=7", (seven, false)),
            ("shoe_id=%37&embed=1", (seven, true)),
            ("utm=x&embed=0&shoe_id=7&%", (seven, false)),
            ("shoe_id=", (nothing, false)),
            ("shoe_id=seven&embed=1", (nothing, true)),
            ("shoe_id=7.0", (nothing, false)),
            ("shoe_id=+7", (nothing, false)),
            ("shoe_id=%", (nothing, false)),
            ("shoe_id=2147483648", (nothing, false)),
            ("shoe_id=7&shoe_id=7", (nothing, false)),
            ("shoe_id=-7", (Some(Asking::For(-7)), false)),
        ] {
            assert_eq!(read(query), wanted, "{query}");
        }
    }

    #[test]
    fn paths_lead_to_places() {
        let site = Site::default();
        let place = |path: &str| site.place(path).map(|place| format!("{place:?}"));
        for (path, wanted) in [
            ("/", "Root"),
            ("/shoes/7", "Shoe(Some(7))"),
            ("/shoes/7/", "Shoe(Some(7))"),
            ("/shoes/-7", "Shoe(Some(-7))"),
            ("/shoes/seven", "Shoe(None)"),
            ("/shoes/", "Shoe(None)"),
            ("/admin", "Editor"),
            ("/demo/shoes/7/1.svg", "Drawing { shoe_id: 7, view: 1 }"),
            ("/demo/shoes/-1/7.svg", "Drawing { shoe_id: -1, view: 7 }"),
        ] {
            assert_eq!(place(path).as_deref(), Some(wanted), "{path}");
        }
        for path in [
            "/shoes",
            "/shoes/7/8",
            "/nowhere",
            "/admin/x",
            "/assets/",
            "/assets/none",
            "/demo/",
            "/demo/shoes/7/0.svg",
            "/demo/shoes/7/8.svg",
            "/demo/shoes/7/257.svg",
            "/demo/shoes/7/1.png",
            "/demo/shoes/x/1.svg",
            "/demo/shoes/7/1/1.svg",
            "/demo/clips/none.mp4",
            "/demo/page.css",
            "/api/imagesx",
        ] {
            assert_eq!(place(path), None, "{path}");
        }
        for path in ["/robots.txt", "/favicon.ico", "/embed.js"] {
            assert!(
                matches!(site.place(path), Some(Place::Content(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn a_robots_txt_of_the_operators_takes_the_place_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["robots.txt", "admin", "embed.js"] {
            std::fs::write(folder.path().join(name), "mine").unwrap();
        }
        let extras = Extras::load(folder.path()).unwrap().extras;
        let site = Site::new(&["self".to_owned()], extras);
        let is_mine = |path: &str| match site.place(path) {
            Some(Place::Content(content)) => &content.identity[..] == b"mine",
            _ => false,
        };
        assert!(is_mine("/robots.txt") && !is_mine("/admin") && !is_mine("/embed.js"));
    }

    #[test]
    fn strangers_text_is_text() {
        let shown = rows::Shown {
            pictures: vec!["https://a/\"><script>alert(1)</script>'".to_owned()],
            clips: vec!["/x\" onerror=\"alert(1)".to_owned()],
        };
        for embedded in [true, false] {
            let product = Product::of(7, shown.clone(), embedded);
            let page = product.render().unwrap();
            assert!(!page.contains("<script>alert"), "{page}");
            assert!(!page.contains("\" onerror="), "{page}");
        }
    }

    /// The policy forbids them, so a template that has one has a page that looks broken.
    #[test]
    fn no_page_holds_styles_or_scripts_of_its_own() {
        let shown = || rows::Shown {
            pictures: vec!["/a".to_owned(); 3],
            clips: vec!["/b".to_owned(), "/demo/clips/1.mp4".to_owned()],
        };
        let pages = [
            Product::of(7, shown(), false).render(),
            Product::of(7, shown(), true).render(),
            Product::of(7, rows::Shown::default(), false).render(),
            Unknown { shoe_id: Some(7) }.render(),
            Unknown { shoe_id: None }.render(),
            Front { shoes: vec![1] }.render(),
            Editor {}.render(),
            Unavailable {}.render(),
        ];
        for page in pages {
            let page = page.expect("a page");
            assert!(page.starts_with("<!doctype html>"), "{page}");
            assert!(
                !page.contains("<style") && !page.contains(" style="),
                "{page}"
            );
            for script in page.split("<script").skip(1) {
                let tag = script.split('>').next().unwrap_or_default();
                assert!(tag.contains(" src="), "{tag}");
            }
            let handlers = page
                .split(' ')
                .filter(|word| word.starts_with("on") && word.contains('='));
            assert_eq!(handlers.count(), 0, "{page}");
        }
    }
}
