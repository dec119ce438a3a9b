//! What the page needs of the document, looked up in it.

use super::super::model::{Json, Map, MediaType, OpenApi, Operation, Parameter, PathItem, Plain};
use super::super::model::{Reference, Response, Schema, Types};
use super::{Answer, Body, Content, Field, Flaw, Header, Link, Member, Problem, Section, Shape};
use super::{anchor, text};

/// Where the commands of the page look for the server: its default address.
const SERVER: &str = "http://127.0.0.1:1121";

/// The answer to whatever is not told, which stands beside no operation.
const DEFAULT: &str = "default";

/// Looks things up in the document.
#[derive(Clone, Copy)]
pub(super) struct Reader<'d> {
    document: &'d OpenApi,
}

impl<'d> Reader<'d> {
    pub(super) fn of(document: &'d OpenApi) -> Self {
        Reader { document }
    }

    fn operations(self) -> impl Iterator<Item = (&'d str, &'d PathItem, &'d str, &'d Operation)> {
        self.document.paths.iter().flat_map(|(path, item)| {
            let methods = item.operations.iter();
            methods
                .map(move |(method, operation)| (path.as_str(), item, method.as_str(), operation))
        })
    }

    /// What stands beside every operation in the same way.
    pub(super) fn shared(self) -> Vec<(&'d str, &'d Reference)> {
        let Some((.., first)) = self.operations().next() else {
            return Vec::new();
        };
        let everywhere = |status: &String, to: &Reference| {
            self.operations()
                .all(|(.., operation)| operation.responses.get(status) == Some(to))
        };
        first
            .responses
            .iter()
            .filter(|(status, to)| everywhere(status, to))
            .map(|(status, to)| (status.as_str(), to))
            .collect()
    }

    pub(super) fn sections(
        self,
        tag: &str,
        shared: &[(&'d str, &'d Reference)],
    ) -> Result<Vec<Section<'d>>, Flaw> {
        self.operations()
            .filter(|(.., operation)| operation.tags.iter().any(|known| known == tag))
            .map(|(path, item, method, operation)| {
                self.section(path, item, method, operation, shared)
            })
            .collect()
    }

    fn section(
        self,
        path: &'d str,
        item: &'d PathItem,
        method: &'d str,
        operation: &'d Operation,
        shared: &[(&'d str, &'d Reference)],
    ) -> Result<Section<'d>, Flaw> {
        let references = item.parameters.iter().chain(&operation.parameters);
        let parameters: Vec<&Parameter> = references
            .map(|to| find(&self.document.components.parameters, to))
            .collect::<Result<_, _>>()?;
        let like = (method == "head" && item.operations.contains_key("get"))
            .then(|| anchor(&["get", path]));
        let answers = operation.responses.iter().filter(|(status, to)| {
            *status != DEFAULT
                && !shared
                    .iter()
                    .any(|(told, same)| told == status && same == to)
        });
        Ok(Section {
            anchor: anchor(&[method, path]),
            method: method.to_ascii_uppercase(),
            path,
            summary: &operation.summary,
            about: operation.description.as_deref().map(text),
            secured: !operation.security.is_empty(),
            command: command(method, path, operation, &parameters),
            parameters: parameters.into_iter().map(|it| self.field(it)).collect(),
            body: operation.request_body.as_ref().map(|body| Body {
                about: text(&body.description),
                contents: self.contents(&body.content),
            }),
            example: match like {
                Some(_) => None,
                None => self.example(operation)?,
            },
            answers: answers
                .map(|(status, to)| self.answer(status, to))
                .collect::<Result<_, _>>()?,
            like,
        })
    }

    /// The content of the answer when all goes well.
    fn example(self, operation: &'d Operation) -> Result<Option<(&'d str, String)>, Flaw> {
        let well = operation
            .responses
            .iter()
            .find(|(status, _)| status.starts_with('2'));
        let Some((status, to)) = well else {
            return Ok(None);
        };
        let response = find(&self.document.components.responses, to)?;
        let content = response.content.values().next();
        let example = content.and_then(|content| content.example.as_ref());
        Ok(example.map(|example| (status.as_str(), example.spread())))
    }

    pub(super) fn answer(self, status: &'d str, to: &Reference) -> Result<Answer<'d>, Flaw> {
        let response = find(&self.document.components.responses, to)?;
        Ok(Answer {
            status: if status == DEFAULT { "other" } else { status },
            about: text(&response.description),
            contents: self.contents(&response.content),
            headers: self.always(response)?,
        })
    }

    fn always(self, response: &'d Response) -> Result<Vec<Link<&'d str>>, Flaw> {
        let mut links = Vec::new();
        for (name, to) in &response.headers {
            if find(&self.document.components.headers, to)?.required {
                links.push(Link {
                    name: name.as_str(),
                    anchor: anchor(&["header", to.name()]),
                });
            }
        }
        Ok(links)
    }

    fn contents(self, contents: &'d Map<MediaType>) -> Vec<Content<'d>> {
        let contents = contents.iter();
        contents
            .map(|(media_type, content)| Content {
                media_type,
                shapes: self.links(content),
            })
            .collect()
    }

    /// The named shapes of some content: one, or one of several problems.
    fn links(self, content: &'d MediaType) -> Vec<Link<&'d str>> {
        match &content.schema {
            Schema::Plain(plain) => plain.one_of.iter().filter_map(|s| self.link(s)).collect(),
            schema => self.link(schema).into_iter().collect(),
        }
    }

    fn link(self, schema: &'d Schema) -> Option<Link<&'d str>> {
        let Schema::Named(to) = schema else {
            return None;
        };
        let plain = self.plain(schema)?;
        let name = match problem_slug(plain) {
            Some(slug) => slug,
            None => plain.title.as_deref()?,
        };
        let anchor = match problem_slug(plain) {
            Some(slug) => anchor(&["problem", slug]),
            None => anchor(&["shape", to.name()]),
        };
        Some(Link { name, anchor })
    }

    fn plain(self, schema: &'d Schema) -> Option<&'d Plain> {
        match schema {
            Schema::Plain(plain) => Some(plain),
            Schema::Named(to) => match self.document.components.schemas.get(to.name())? {
                Schema::Plain(plain) => Some(plain),
                _ => None,
            },
        }
    }

    pub(super) fn problems(self) -> Vec<Problem<'d>> {
        let schemas = self.document.components.schemas.values();
        let problem = |plain: &'d Plain| {
            let slug = problem_slug(plain)?;
            Some(Problem {
                anchor: anchor(&["problem", slug]),
                kind: constant(plain, "type")?.plain(),
                status: constant(plain, "status")?.plain(),
                title: plain.title.as_deref()?,
                about: text(plain.description.as_deref()?),
                example: plain.examples.first()?.spread(),
            })
        };
        schemas
            .filter_map(|schema| self.plain(schema))
            .filter_map(problem)
            .collect()
    }

    /// Every named shape that is no problem of its own.
    pub(super) fn shapes(self) -> Result<Vec<Shape<'d>>, Flaw> {
        let mut shapes = Vec::new();
        for (name, schema) in &self.document.components.schemas {
            let plain = self
                .plain(schema)
                .ok_or_else(|| Flaw::Missing(format!("shape of its own for {name}")))?;
            if problem_slug(plain).is_some() {
                continue;
            }
            shapes.push(Shape {
                anchor: anchor(&["shape", name]),
                title: plain.title.as_deref().unwrap_or(name),
                about: plain.description.as_deref().map(text),
                takes: self.takes(plain),
                members: self.members(plain),
                examples: plain.examples.iter().map(Json::spread).collect(),
            });
        }
        Ok(shapes)
    }

    fn members(self, object: &'d Plain) -> Vec<Member<'d>> {
        let mut members: Vec<Member<'d>> = Vec::new();
        let mut last: Option<&Reference> = None;
        for (name, schema) in &object.properties {
            let named = match schema {
                Schema::Named(to) => Some(to),
                _ => None,
            };
            // What has the same shape as its neighbour needs no row of its own.
            if let (Some(one), Some(other), Some(member)) = (named, last, members.last_mut())
                && one == other
            {
                member.names.push(name);
                continue;
            }
            last = named;
            let plain = self.plain(schema);
            members.push(Member {
                names: vec![name],
                required: object.required.contains(name),
                takes: plain.map_or_else(String::new, |plain| self.takes(plain)),
                about: plain
                    .and_then(|plain| plain.description.as_deref())
                    .map(text),
            });
        }
        members
    }

    fn field(self, parameter: &'d Parameter) -> Field<'d> {
        let plain = self.plain(&parameter.schema);
        Field {
            name: &parameter.name,
            place: &parameter.place,
            required: parameter.required,
            takes: plain.map_or_else(String::new, |plain| self.takes(plain)),
            about: text(&parameter.description),
            example: parameter.example.plain(),
        }
    }

    /// What a value must be, in words.
    fn takes(self, plain: &'d Plain) -> String {
        let choices = plain.one_of.iter().filter_map(|choice| self.plain(choice));
        let choices: Vec<String> = choices.map(|choice| self.takes(choice)).collect();
        if !choices.is_empty() {
            return choices.join("; or ");
        }
        if let Some(constant) = &plain.constant {
            return format!("always {}", constant.plain());
        }
        let mut takes = match &plain.kind {
            Some(Types::One(kind)) => kind.clone(),
            Some(Types::Many(kinds)) => kinds.join(" or "),
            None => String::new(),
        };
        if let Some(items) = plain.items.as_ref().and_then(|items| self.plain(items))
            && let Some(title) = &items.title
        {
            takes += &format!(" of {title}");
        }
        if let (Some(from), Some(to)) = (plain.minimum, plain.maximum) {
            takes += &format!(", {from} to {to}");
        }
        if let Some(longest) = plain.max_length {
            takes += &format!(", at most {longest} characters");
        }
        takes
    }

    /// Each header that an answer may have, under the name that it has there.
    pub(super) fn headers(self) -> Vec<Header<'d>> {
        let components = &self.document.components;
        let name_of = |component: &str| {
            let mut headers = components.responses.values().flat_map(|it| &it.headers);
            headers.find(|(_, to)| to.name() == component)
        };
        let headers = components.headers.iter().filter_map(|(component, header)| {
            let (name, _) = name_of(component)?;
            Some(Header {
                anchor: anchor(&["header", component]),
                name,
                about: text(&header.description),
                example: header.example.plain(),
            })
        });
        headers.collect()
    }
}

/// The end of a problem's `type`, if the schema is that of one.
fn problem_slug(plain: &Plain) -> Option<&str> {
    match constant(plain, "type")? {
        Json::Text(kind) => kind.strip_prefix("/problems/"),
        _ => None,
    }
}

/// The one value that a member of an object can have.
fn constant<'d>(object: &'d Plain, member: &str) -> Option<&'d Json> {
    match object.properties.get(member)? {
        Schema::Plain(plain) => plain.constant.as_ref(),
        _ => None,
    }
}

/// The call of curl that makes the request of the document's examples.
fn command(method: &str, path: &str, operation: &Operation, parameters: &[&Parameter]) -> String {
    let mut target = path.to_owned();
    let mut query = Vec::new();
    for parameter in parameters {
        match parameter.place.as_str() {
            "path" => {
                let name = format!("{{{}}}", parameter.name);
                target = target.replace(&name, &parameter.example.plain());
            }
            "query" if parameter.required => {
                query.push(format!("{}={}", parameter.name, parameter.example.plain()));
            }
            _ => {}
        }
    }
    if !query.is_empty() {
        target = format!("{target}?{}", query.join("&"));
    }
    let mut command = match method {
        "get" => "curl -i".to_owned(),
        "head" => "curl -I".to_owned(),
        method => format!("curl -i -X {}", method.to_ascii_uppercase()),
    };
    command += &format!(" {}", quoted(&format!("{SERVER}{target}")));
    let body = operation
        .request_body
        .as_ref()
        .and_then(|body| body.content.first());
    if let Some((media_type, content)) = body
        && let Some(example) = &content.example
    {
        command += &format!(
            " \\\n     -H {} \\\n     -d {}",
            quoted(&format!("Content-Type: {media_type}")),
            quoted(&example.compact())
        );
    }
    command
}

/// For a shell, which takes it as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn find<'d, T>(components: &'d Map<T>, to: &Reference) -> Result<&'d T, Flaw> {
    let found = components.get(to.name());
    found.ok_or_else(|| Flaw::Missing(to.to.clone()))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_takes_a_word_as_it_is() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
