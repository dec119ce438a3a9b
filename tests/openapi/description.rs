//! Reads the OpenAPI document for the tests: what it declares, and whether an answer is as declared, to the last header.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use crate::support::http::Response;

/// What HTTP itself has every answer carry, as the document's introduction says. (RFC 9110: date, server, framing.)
const EVERYWHERE: [&str; 6] = [
    "date",
    "server",
    "content-length",
    "content-type",
    "connection",
    "x-content-type-options",
];

const PROBLEM: &str = "application/problem+json";

pub struct Description {
    pub document: Value,
}

/// A method and a path of the document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub method: String,
    pub path: String,
}

/// What an operation may be answered with: a status, and for a problem its type. A HEAD has no content to tell it by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub operation: Operation,
    pub status: u16,
    pub kind: Option<String>,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { method, path } = &self.operation;
        write!(f, "{method} {path}: {}", self.status)?;
        match &self.kind {
            Some(kind) => write!(f, " {kind}"),
            None => Ok(()),
        }
    }
}

impl Operation {
    pub fn new(method: &str, path: &str) -> Self {
        Operation {
            method: method.into(),
            path: path.into(),
        }
    }

    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// A request target that is fine by itself.
    pub fn target(&self) -> String {
        match self.path.as_str() {
            "/api/images/" if matches!(self.method.as_str(), "GET" | "HEAD") => {
                "/api/images/?shoe_id=7".into()
            }
            "/" => "/?shoe_id=7".into(),
            path => path.replace("{id}", "1").replace("{shoe_id}", "7"),
        }
    }
}

impl Description {
    pub fn new(document: Value) -> Self {
        Description { document }
    }

    pub fn operations(&self) -> Vec<Operation> {
        let paths = self.document["paths"].as_object().expect("paths");
        let methods = |(path, item): (&String, &Value)| {
            let members = item.as_object().expect("a path item").keys();
            members
                .filter(|name| *name != "parameters")
                .map(|method| Operation::new(&method.to_uppercase(), path))
                .collect::<Vec<_>>()
        };
        paths.iter().flat_map(methods).collect()
    }

    /// The operation's own part of the document.
    pub fn part(&self, operation: &Operation) -> &Value {
        &self.document["paths"][&operation.path][operation.method.to_lowercase()]
    }

    /// What the value is, or refers to.
    pub fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        let Some(reference) = value["$ref"].as_str() else {
            return value;
        };
        let pointer = reference.strip_prefix('#').expect("a reference within");
        self.document
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    /// Every answer that the document declares. What `default` stands for has no status to ask for.
    pub fn claims(&self) -> BTreeSet<Claim> {
        let mut claims = BTreeSet::new();
        for operation in self.operations() {
            let responses = self.part(&operation)["responses"].as_object().unwrap();
            for (status, response) in responses.iter().filter(|(status, _)| *status != "default") {
                let kinds = match operation.is_head() {
                    true => BTreeSet::from([None]),
                    false => self.kinds(self.resolve(response)),
                };
                claims.extend(kinds.into_iter().map(|kind| Claim {
                    operation: operation.clone(),
                    status: status.parse().expect("a status"),
                    kind,
                }));
            }
        }
        claims
    }

    /// The problem types that a response may have, and `None` for content that is no problem, or where there is none.
    fn kinds(&self, response: &Value) -> BTreeSet<Option<String>> {
        let Some(contents) = response["content"].as_object() else {
            return BTreeSet::from([None]);
        };
        let mut kinds = BTreeSet::new();
        for (media_type, content) in contents {
            if media_type != PROBLEM {
                kinds.insert(None);
                continue;
            }
            let schema = &content["schema"];
            let choices = match schema["oneOf"].as_array() {
                Some(choices) => choices.iter().collect(),
                None => vec![schema],
            };
            let kind = |choice| self.resolve(choice)["properties"]["type"]["const"].as_str();
            kinds.extend(
                choices
                    .into_iter()
                    .map(|choice| Some(kind(choice).expect("the type of a problem").to_owned())),
            );
        }
        kinds
    }

    /// Checks an answer against what the operation declares, and says which of its claims it was.
    #[track_caller]
    pub fn check(&self, operation: &Operation, answer: &Response) -> Claim {
        let name = format!("{} {}", operation.method, operation.path);
        let declared = &self.part(operation)["responses"][answer.status.to_string()];
        assert!(!declared.is_null(), "{name} does not declare: {answer}");
        self.check_response(&name, self.resolve(declared), answer, operation.is_head());
        let problem = answer.header("content-type") == Some(PROBLEM) && !operation.is_head();
        Claim {
            operation: operation.clone(),
            status: answer.status,
            kind: problem.then(|| answer.json()["type"].as_str().expect("a type").to_owned()),
        }
    }

    #[track_caller]
    pub fn check_response(&self, name: &str, declared: &Value, answer: &Response, is_head: bool) {
        self.check_headers(name, declared, answer);
        let Some(contents) = declared["content"].as_object() else {
            let silent = answer.body.is_empty() && answer.header("content-type").is_none();
            assert!(silent, "{name}: no content is declared, but: {answer}");
            return;
        };
        let media_type = answer.header("content-type").unwrap_or_default();
        let content = contents
            .get(media_type)
            .unwrap_or_else(|| panic!("{name}: the content type of {answer}"));
        if is_head {
            assert!(answer.body.is_empty(), "{name}: content for a HEAD");
            return;
        }
        let value = match media_type.ends_with("json") {
            true => answer.json(),
            false => json!(answer.text()),
        };
        self.check_value(name, &content["schema"], &value);
        if media_type == PROBLEM {
            let known = &self.document["components"]["schemas"]["Problem"]["properties"];
            for member in value.as_object().expect("an object").keys() {
                assert!(!known[member].is_null(), "{name}: {member} in {answer}");
            }
        }
    }

    #[track_caller]
    fn check_headers(&self, name: &str, declared: &Value, answer: &Response) {
        let declared: Vec<(&str, &Value)> = declared["headers"]
            .as_object()
            .expect("headers")
            .iter()
            .map(|(header, value)| (header.as_str(), self.resolve(value)))
            .collect();
        for (header, value) in &declared {
            match answer.header(&header.to_lowercase()) {
                Some(found) => {
                    self.check_value(
                        &format!("{name}, {header}"),
                        &value["schema"],
                        &json!(found),
                    );
                }
                None => assert!(value["required"] != true, "{name}: no {header} in {answer}"),
            }
        }
        for (header, _) in &answer.headers {
            let known = declared
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(header));
            assert!(
                known || EVERYWHERE.contains(&header.as_str()),
                "{name} does not declare {header}: {answer}"
            );
        }
    }

    /// Whether a value is of a schema of the document.
    pub fn admits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        // References are looked up from the top, so the components come along.
        let mut alone = schema.clone();
        alone["components"] = self.document["components"].clone();
        let validator = jsonschema::draft202012::new(&alone).expect("a schema");
        let wrong: Vec<String> = validator
            .iter_errors(value)
            .map(|error| error.to_string())
            .collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(wrong.join("; ")),
        }
    }

    #[track_caller]
    pub fn check_value(&self, name: &str, schema: &Value, value: &Value) {
        if let Err(wrong) = self.admits(schema, value) {
            panic!("{name}: {value} is not as declared: {wrong}");
        }
    }
}
