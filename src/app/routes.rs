//! The whole URL space in one match, and what is decided from a request's head alone: path, method, query,
//! credentials and content type. A body is read only for a request that passed.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::document::Documents;
use super::manners::{Asked, Manners, Page};
use super::page::{self, Site};
use super::problem::{self, Kind};
use super::{Backend, Failure, images};
use crate::http::context::Context;
use crate::http::head::{Head, Method, Target};
use crate::http::request_id::RequestId;
use crate::http::response::Response;
use crate::http::service::Service;
use crate::http::target;
use crate::store::{Draft, IdKind, RowId, StoreError, TextId};

const JSON: &str = "application/json";

/// Who may write.
#[derive(Clone)]
pub enum WriteRule {
    /// Everybody: every listen address is loopback, or the operator said so.
    Anyone,
    /// Who shows this bearer token (RFC 6750).
    Bearer(Arc<str>),
}

/// The service over a backend.
pub struct App<B> {
    backend: B,
    writes: WriteRule,
    manners: Manners,
    documents: Documents,
    site: Site,
}

/// An admitted request: what to do, and how its answer is to be dressed.
#[derive(Debug)]
pub struct Admitted {
    call: Call,
    asked: Asked,
}

/// A request that passed everything its head could fail: what is left to do.
#[derive(Debug)]
pub enum Call {
    Shoe(i32),
    Row(RowId),
    Insert,
    Replace(RowId),
    Delete(RowId),
    Alive,
    Ready,
    Document(Arc<Page>),
    Allow(&'static str),
    Page(page::Call),
}

/// A place in the URL space, before the method is looked at.
enum Place<'d> {
    Images,
    Row(RowId),
    Healthz,
    Readyz,
    Document(&'d Arc<Page>),
    /// All that is not the API's.
    Page(page::Place),
}

impl Place<'_> {
    /// The methods that apply here, as `Allow` lists them.
    fn allow(&self) -> &'static str {
        match self {
            Place::Images => "GET, HEAD, POST, OPTIONS",
            Place::Row(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
            Place::Healthz | Place::Readyz | Place::Document(_) | Place::Page(_) => {
                "GET, HEAD, OPTIONS"
            }
        }
    }
}

impl<B: Backend> App<B> {
    pub fn new(backend: B, writes: WriteRule, manners: Manners) -> Self {
        App {
            backend,
            writes,
            manners,
            documents: Documents::default(),
            site: Site::default(),
        }
    }

    /// Serves what describes the API, too.
    pub fn describe(mut self) -> Self {
        self.documents = Documents::new(&self.manners);
        self
    }

    /// With this site around the API, instead of the one that nothing is configured for.
    pub fn with_site(self, site: Site) -> Self {
        App { site, ..self }
    }

    fn place(&self, path: &str) -> Result<Place<'_>, Box<Response>> {
        let nowhere = || {
            Box::new(problem::NO_SUCH_PATH.detail("see the README for the paths that there are"))
        };
        match path {
            "/api/images" | "/api/images/" => return Ok(Place::Images),
            "/healthz" => return Ok(Place::Healthz),
            "/readyz" => return Ok(Place::Readyz),
            _ => {}
        }
        if let Some(page) = self.documents.find(path) {
            return Ok(Place::Document(page));
        }
        let path = target::path(path).map_err(|error| match error.status() {
            404 => nowhere(),
            _ => Box::new(problem::BAD_REQUEST.detail(error.reason())),
        })?;
        let Some(id) = path.strip_prefix("/api/images/") else {
            return self.site.place(&path).map(Place::Page).ok_or_else(nowhere);
        };
        let row = match self.backend.ids() {
            IdKind::Number => parse_i32(id).ok().map(RowId::Number),
            IdKind::Text => TextId::parse(id).map(RowId::Text),
        };
        match row {
            Some(id) => Ok(Place::Row(id)),
            None if id.contains('/') => Err(nowhere()),
            None => Err(Box::new(
                problem::NO_SUCH_ROW.field("id", "is not the id of any row"),
            )),
        }
    }

    fn authorise(&self, head: &Head<'_>) -> Result<(), Box<Response>> {
        let WriteRule::Bearer(token) = &self.writes else {
            return Ok(());
        };
        let challenge = |kind: &'static Kind, detail| {
            Box::new(
                kind.detail(detail)
                    .header("WWW-Authenticate", "Bearer realm=\"canvas-cluster\""),
            )
        };
        let shown = head.authorization.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            let token = token.trim_start_matches(' ');
            // A token68 (RFC 9110 section 11.2) has no spaces; what has some is no credentials at all.
            let whole = !token.is_empty() && !token.contains([' ', '\t']);
            (scheme.eq_ignore_ascii_case("bearer") && whole).then_some(token)
        });
        match shown {
            None => Err(challenge(
                &problem::NO_CREDENTIALS,
                "send `Authorization: Bearer` and the write token",
            )),
            Some(shown) if bool::from(shown.as_bytes().ct_eq(token.as_bytes())) => Ok(()),
            Some(_) => Err(Box::new(
                problem::WRONG_CREDENTIALS.detail("this token may not write"),
            )),
        }
    }

    fn perform(
        &self,
        call: Call,
        asked: &Asked,
        body: &[u8],
        context: &Context,
    ) -> Result<Response, Failure> {
        Ok(match call {
            Call::Shoe(shoe_id) => {
                let page = self
                    .backend
                    .shoe(shoe_id, &|json| self.shoe_page(json), context)?;
                self.manners.show(asked, &page)
            }
            Call::Row(id) => match self.backend.row(&id, context)? {
                Some(json) => self.manners.show(asked, &self.manners.page(JSON, json)),
                None => no_row(&id),
            },
            Call::Insert => match read(body, None) {
                Ok(draft) => {
                    let row = self.backend.insert(draft, context)?;
                    Response::new(201)
                        .body(JSON, images::render_row(&row))
                        .header("Location", format!("/api/images/{}", row.id))
                }
                Err(response) => *response,
            },
            Call::Replace(id) => match read(body, Some(&id)) {
                Ok(draft) => match self.backend.replace(&id, draft, context)? {
                    Some(row) => Response::new(200).body(JSON, images::render_row(&row)),
                    None => no_row(&id),
                },
                Err(response) => *response,
            },
            Call::Delete(id) => match self.backend.delete(&id, context)? {
                true => Response::new(204),
                false => no_row(&id),
            },
            Call::Alive => Response::new(200).body(JSON, "{\"status\":\"alive\"}"),
            Call::Ready if self.backend.draining() => {
                problem::DRAINING.detail("send new requests elsewhere")
            }
            Call::Ready => {
                self.backend.ready(context)?;
                Response::new(200).body(JSON, "{\"status\":\"ready\"}")
            }
            Call::Document(page) => self.manners.show(asked, &page),
            Call::Allow(methods) => Response::new(204).header("Allow", methods),
            Call::Page(call) => self.site.answer(call, asked, &self.manners, |shoe_id| {
                self.backend
                    .shoe(shoe_id, &|json| self.shoe_page(json), context)
            })?,
        })
    }
}

impl<B: Backend> App<B> {
    /// A shoe's rows as they are answered and kept.
    pub fn shoe_page(&self, json: Bytes) -> Page {
        self.manners.page(JSON, json)
    }

    /// Decides from the head what is to be done.
    fn route(&self, head: &Head<'_>) -> Result<Call, Box<Response>> {
        let (path, query) = match head.target {
            Target::Path { path, query } => (path, query),
            Target::Asterisk => return Ok(Call::Allow("GET, HEAD, POST, PUT, DELETE, OPTIONS")),
            Target::Authority => {
                return Err(Box::new(
                    problem::NOT_IMPLEMENTED.detail("this server opens no tunnels"),
                ));
            }
        };
        let place = self.place(path)?;
        let call = match (&place, head.method) {
            (_, Method::Options) => return Ok(Call::Allow(place.allow())),
            (Place::Images, Method::Get | Method::Head) => {
                return Ok(Call::Shoe(shoe_id_of(query)?));
            }
            (Place::Row(id), Method::Get | Method::Head) => Call::Row(id.clone()),
            (Place::Healthz, Method::Get | Method::Head) => Call::Alive,
            (Place::Readyz, Method::Get | Method::Head) => Call::Ready,
            (Place::Document(page), Method::Get | Method::Head) => Call::Document(Arc::clone(page)),
            (Place::Page(place), Method::Get | Method::Head) => {
                return Ok(Call::Page(self.site.call(place, query, head)));
            }
            (Place::Images, Method::Post) => Call::Insert,
            (Place::Row(id), Method::Put) => Call::Replace(id.clone()),
            (Place::Row(id), Method::Delete) => Call::Delete(id.clone()),
            // RFC 9110 section 9.1: 501 for a method that is not known at all, 405 for one that is not allowed here.
            (_, Method::Other(_)) => {
                let refusal =
                    problem::NOT_IMPLEMENTED.detail("this server does not know the method");
                return Err(Box::new(refusal));
            }
            _ => {
                let allow = place.allow();
                let refusal =
                    problem::METHOD_NOT_ALLOWED.detail("see Allow for the methods that do");
                return Err(Box::new(refusal.header("Allow", allow)));
            }
        };
        if call.writes() {
            self.authorise(head)?;
        }
        if let Call::Insert | Call::Replace(_) = call
            && !head.content_type.is_some_and(is_json)
        {
            return Err(Box::new(
                problem::NOT_JSON.detail("send `Content-Type: application/json`"),
            ));
        }
        no_fields(query)?;
        Ok(call)
    }
}

impl<B: Backend> Service for App<B> {
    type Call = Admitted;

    fn admit(&self, head: &Head<'_>, id: &RequestId) -> Result<Admitted, Box<Response>> {
        let asked = Asked::of(head);
        match self.route(head) {
            Ok(call) => Ok(Admitted { call, asked }),
            Err(response) => Err(Box::new(self.manners.dress(&asked, *response, Some(id)))),
        }
    }

    fn answer(&self, admitted: Admitted, body: &[u8], context: &Context) -> Response {
        let Admitted { call, asked } = admitted;
        let writes = call.writes();
        let seen = matches!(call, Call::Page(_));
        let done = self.perform(call, &asked, body, context);
        let response = done.unwrap_or_else(|failure| {
            tell(&failure, context);
            match seen {
                true => self.site.failed(&failure),
                false => problem::of_failure(&failure),
            }
        });
        let named = writes || response.status() >= 400;
        let id = named.then_some(&context.id);
        self.manners.dress(&asked, response, id)
    }

    fn refuse(&self, status: u16, why: &str, id: &RequestId) -> Response {
        self.manners
            .dress(&Asked::default(), problem::of_status(status, why), Some(id))
    }

    fn fault(&self, id: &RequestId) -> Response {
        let why = "the request could not be finished; the log has the reason";
        self.manners
            .dress(&Asked::default(), problem::INTERNAL.detail(why), Some(id))
    }
}

impl Call {
    fn writes(&self) -> bool {
        matches!(self, Call::Insert | Call::Replace(_) | Call::Delete(_))
    }
}

/// Names the requests that somebody may ask about: those that the database answered with an error, or with too much, and writes of
/// which nobody knows whether they happened. Outages concern all requests, and are told once by the lanes.
fn tell(failure: &Failure, context: &Context) {
    if let Failure::Store(error) = failure
        && let StoreError::Failed(_) | StoreError::OutcomeUnknown(_) | StoreError::TooManyRows(_) =
            **error
    {
        log::warn!(
            request_id = context.id.as_str(),
            trace_id = context.trace_id();
            "app: request {}: {error}", context.id
        );
    }
}

fn no_row(id: &RowId) -> Response {
    problem::NO_SUCH_ROW.detail(&format!("no row has the id {id}"))
}

fn read(body: &[u8], id: Option<&RowId>) -> Result<Draft, Box<Response>> {
    images::read_draft(body, id).map_err(|error| {
        use images::BodyError;
        Box::new(match error {
            BodyError::Syntax(why) => problem::INVALID_JSON.detail(&why),
            BodyError::Missing(field) => problem::MISSING_FIELD.field(field, "is missing"),
            BodyError::Repeated(field) => {
                problem::REPEATED_FIELD.field(field, "stands in the body twice")
            }
            BodyError::Unknown(field) => {
                problem::UNKNOWN_FIELD.field(&field, "is no field of a row")
            }
            BodyError::Invalid(field, why) => problem::INVALID_FIELD.field(field, &why),
        })
    })
}

/// The one `shoe_id` of a query, and nothing else in it.
fn shoe_id_of(query: Option<&str>) -> Result<i32, Box<Response>> {
    let mut found = None;
    // Divided here, so that a value that doesn't decode can be told by its name.
    for raw in query.unwrap_or_default().split('&') {
        let (name, value) = match target::query_pairs(raw).next() {
            None => continue,
            Some(Ok(pair)) => pair,
            Some(Err(error)) if raw.starts_with("shoe_id=") => {
                return Err(Box::new(
                    problem::INVALID_FIELD.detail_of("shoe_id", error.reason()),
                ));
            }
            Some(Err(error)) => return Err(bad_query(error)),
        };
        if name != "shoe_id" {
            return Err(unknown_parameter(name));
        }
        if found.replace(value).is_some() {
            return Err(Box::new(
                problem::REPEATED_FIELD.field("shoe_id", "stands in the query twice"),
            ));
        }
    }
    let missing = || Box::new(problem::MISSING_FIELD.field("shoe_id", "is missing from the query"));
    parse_i32(&found.ok_or_else(missing)?).map_err(|error| {
        let why = match error {
            NotI32::NoNumber => "must be an integer",
            NotI32::OutOfRange => images::OUT_OF_RANGE,
        };
        Box::new(problem::INVALID_FIELD.field("shoe_id", why))
    })
}

fn no_fields(query: Option<&str>) -> Result<(), Box<Response>> {
    match target::query_pairs(query.unwrap_or_default()).next() {
        None => Ok(()),
        Some(Ok((name, _))) => Err(unknown_parameter(name)),
        Some(Err(error)) => Err(bad_query(error)),
    }
}

fn unknown_parameter(name: Cow<'_, str>) -> Box<Response> {
    let name: String = name.chars().take(64).collect();
    Box::new(problem::UNKNOWN_FIELD.field(&name, "is no parameter of this path"))
}

fn bad_query(error: target::TargetError) -> Box<Response> {
    Box::new(problem::BAD_REQUEST.detail(error.reason()))
}

pub(super) enum NotI32 {
    NoNumber,
    OutOfRange,
}

/// Digits with an optional minus; nothing that only a lenient parser takes (`+7`, ` 7`, `7.0`).
pub(super) fn parse_i32(text: &str) -> Result<i32, NotI32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotI32::NoNumber);
    }
    text.parse().map_err(|_| NotI32::OutOfRange)
}

/// `application/json`, with any parameters but a charset other than UTF-8 (RFC 8259 knows no charset).
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    media_type.eq_ignore_ascii_case(JSON)
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        })
}

#[cfg(test)]
mod tests;
