//! The document as a page: `gather` brings together what belongs together, and `web/templates/docs.html` sets it. What any
//! request may be answered with is told once, and so is each problem, each shape of a body, and each header.

mod gather;

use std::fmt;

use askama::Template;

use self::gather::Reader;
use super::model::OpenApi;

/// Why there is no page.
#[derive(Debug)]
pub enum Flaw {
    /// The document is not what `model` knows.
    Json(serde_json::Error),
    /// Something refers to what is not there.
    Missing(String),
    Template(askama::Error),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Json(error) => write!(f, "the document can't be read: {error}"),
            Flaw::Missing(name) => write!(f, "the document has no {name}"),
            Flaw::Template(error) => write!(f, "the page can't be set: {error}"),
        }
    }
}

impl std::error::Error for Flaw {}

/// Makes the page.
///
/// # Errors
/// A document that is not what `model` knows, or refers to what it does not have.
pub fn render(document: &str) -> Result<String, Flaw> {
    let document: OpenApi = serde_json::from_str(document).map_err(Flaw::Json)?;
    let page = Docs::of(&document)?;
    page.render().map_err(Flaw::Template)
}

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs<'d> {
    title: &'d str,
    version: &'d str,
    license: &'d str,
    summary: &'d str,
    about: Vec<Text<'d>>,
    security: Vec<Text<'d>>,
    groups: Vec<Group<'d>>,
    /// What every operation may be answered with.
    shared: Vec<Answer<'d>>,
    problems: Vec<Problem<'d>>,
    shapes: Vec<Shape<'d>>,
    headers: Vec<Header<'d>>,
}

struct Group<'d> {
    name: &'d str,
    about: Text<'d>,
    /// For the contents.
    places: Vec<Place<'d>>,
    operations: Vec<Section<'d>>,
}

/// A path, and where its methods are told.
struct Place<'d> {
    path: &'d str,
    methods: Vec<Link<String>>,
}

/// An operation.
struct Section<'d> {
    anchor: String,
    method: String,
    path: &'d str,
    summary: &'d str,
    about: Option<Text<'d>>,
    /// Whether it may take a token.
    secured: bool,
    /// Where the operation is that this one is told like: that of GET for HEAD.
    like: Option<String>,
    parameters: Vec<Field<'d>>,
    body: Option<Body<'d>>,
    command: String,
    /// What the command brings: a status and content.
    example: Option<(&'d str, String)>,
    answers: Vec<Answer<'d>>,
}

/// A parameter.
struct Field<'d> {
    name: &'d str,
    place: &'d str,
    required: bool,
    takes: String,
    about: Text<'d>,
    example: String,
}

struct Body<'d> {
    about: Text<'d>,
    contents: Vec<Content<'d>>,
}

struct Answer<'d> {
    status: &'d str,
    about: Text<'d>,
    contents: Vec<Content<'d>>,
    /// The headers that it always has.
    headers: Vec<Link<&'d str>>,
}

/// What a body may be: one of these shapes, or problems, of this type.
struct Content<'d> {
    media_type: &'d str,
    shapes: Vec<Link<&'d str>>,
}

/// A name, and where on the page it is explained.
struct Link<N> {
    name: N,
    anchor: String,
}

struct Problem<'d> {
    anchor: String,
    kind: String,
    status: String,
    title: &'d str,
    about: Text<'d>,
    example: String,
}

/// The shape of a body, or of a part of one.
struct Shape<'d> {
    anchor: String,
    title: &'d str,
    about: Option<Text<'d>>,
    takes: String,
    members: Vec<Member<'d>>,
    examples: Vec<String>,
}

/// Members of an object that are told alike.
struct Member<'d> {
    names: Vec<&'d str>,
    required: bool,
    takes: String,
    about: Option<Text<'d>>,
}

struct Header<'d> {
    anchor: String,
    name: &'d str,
    about: Text<'d>,
    example: String,
}

/// A sentence or two, in which names of code stand between backticks.
#[derive(Template)]
#[template(
    ext = "html",
    source = "{% for span in spans %}{% if span.code %}<code>{{ span.text }}</code>{% else %}{{ span.text }}{% endif %}{% endfor %}"
)]
struct Text<'d> {
    spans: Vec<Span<'d>>,
}

struct Span<'d> {
    text: &'d str,
    code: bool,
}

fn text(source: &str) -> Text<'_> {
    let spans = source.split('`').enumerate();
    Text {
        spans: spans
            .map(|(index, text)| Span {
                text,
                code: index % 2 == 1,
            })
            .collect(),
    }
}

impl<'d> Docs<'d> {
    fn of(document: &'d OpenApi) -> Result<Self, Flaw> {
        let reader = Reader::of(document);
        let info = &document.info;
        let shared = reader.shared();
        let groups = document.tags.iter().map(|tag| {
            let operations = reader.sections(&tag.name, &shared)?;
            Ok(Group {
                name: &tag.name,
                about: text(&tag.description),
                places: places(&operations),
                operations,
            })
        });
        let schemes = document.components.security_schemes.values();
        Ok(Docs {
            title: &info.title,
            version: &info.version,
            license: &info.license.name,
            summary: &info.summary,
            about: info.description.split("\n\n").map(text).collect(),
            security: schemes.map(|scheme| text(&scheme.description)).collect(),
            groups: groups.collect::<Result<_, _>>()?,
            shared: shared
                .iter()
                .map(|(status, to)| reader.answer(status, to))
                .collect::<Result<_, _>>()?,
            problems: reader.problems(),
            shapes: reader.shapes()?,
            headers: reader.headers(),
        })
    }
}

/// The paths of operations that stand path by path.
fn places<'d>(operations: &[Section<'d>]) -> Vec<Place<'d>> {
    let place = |same: &[Section<'d>]| {
        let methods = same.iter().map(|operation| Link {
            name: operation.method.clone(),
            anchor: operation.anchor.clone(),
        });
        Some(Place {
            path: same.first()?.path,
            methods: methods.collect(),
        })
    };
    operations
        .chunk_by(|one, next| one.path == next.path)
        .filter_map(place)
        .collect()
}

/// A name in the page: `get-api-images-id`.
fn anchor(parts: &[&str]) -> String {
    let mut anchor = String::new();
    for letter in parts.join("-").chars() {
        match letter.is_ascii_alphanumeric() {
            true => anchor.push(letter.to_ascii_lowercase()),
            false if !anchor.ends_with('-') => anchor.push('-'),
            false => {}
        }
    }
    anchor.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_plain() {
        assert_eq!(anchor(&["get", "/api/images/"]), "get-api-images");
        assert_eq!(anchor(&["put", "/api/images/{id}"]), "put-api-images-id");
        assert_eq!(anchor(&["header", "ETag"]), "header-etag");
    }

    #[test]
    fn code_stands_between_backticks_and_is_no_markup() {
        let set = text("`<b>` is & stays").render().expect("a text");
        assert!(
            set.starts_with("<code>&#60;b&#62;</code> is &#38; stays"),
            "{set}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_document_is_told() {
        assert!(matches!(render("{"), Err(Flaw::Json(_))));
        let odd = r##"{"info":{"title":"","version":"","summary":"","description":"","license":{"name":""}},
            "tags":[{"name":"a","description":""}],
            "paths":{"/":{"parameters":[],"get":{"tags":["a"],"summary":"","responses":{"200":{"$ref":"#/x/Lost"}}}}},
            "components":{"securitySchemes":{},"parameters":{},"headers":{},"responses":{},"schemas":{}}}"##;
        assert!(matches!(render(odd), Err(Flaw::Missing(name)) if name == "#/x/Lost"));
    }
}
