//! Turns the text of the configuration file into raw values. Called by `sources`; pure. What the file holds is never
//! quoted, for a line that does not parse may hold a password.

use std::path::Path;

use super::kind::{Kind, show_path};
use super::layers::{Given, Origin};
use super::settings::{Setting, find};
use super::sources::suggest;

/// The values in the file at `path`, whose text is `text`; what is wrong goes to `problems`.
pub(super) fn given(path: &Path, text: &str, problems: &mut Vec<String>) -> Vec<Given> {
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            problems.push(syntax_problem(path, text, &error));
            return Vec::new();
        }
    };
    let mut given = Vec::new();
    for (key, value) in table {
        match find(&key).filter(|setting| setting.in_file()) {
            Some(setting) => match raw(setting, &value) {
                Ok(value) => given.push(Given {
                    setting,
                    origin: Origin::File(path.to_owned()),
                    value: value.into(),
                }),
                Err(why) => problems.push(format!("{} in {}: {why}", setting.key, show_path(path))),
            },
            None => problems.push(unknown_problem(path, &key, &value)),
        }
    }
    given
}

/// The value as a flag would have it. A number may stand for numbers, durations (in seconds) and sizes (in bytes), a
/// boolean for switches, an array for a list; a string may stand for anything.
fn raw(setting: &Setting, value: &toml::Value) -> Result<String, String> {
    let found = match (value, &setting.kind) {
        (toml::Value::String(text), _) => return Ok(text.clone()),
        (
            toml::Value::Integer(number),
            Kind::Count { .. } | Kind::Workers { .. } | Kind::Time { .. } | Kind::Size { .. },
        ) => return Ok(number.to_string()),
        (toml::Value::Boolean(on), Kind::Switch { .. }) => return Ok(on.to_string()),
        (toml::Value::Array(items), kind) if kind.separator().is_some() => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            match texts {
                Some(texts) => return Ok(texts.join(kind.separator().unwrap_or(","))),
                None => "an array of something else than strings",
            }
        }
        (other, _) => with_article(other.type_str()),
    };
    Err(format!("{found} is not {}", setting.kind.takes()))
}

fn with_article(kind: &'static str) -> &'static str {
    match kind {
        "integer" => "an integer",
        "float" => "a float",
        "boolean" => "a boolean",
        "datetime" => "a datetime",
        "array" => "an array",
        _ => "a table",
    }
}

fn unknown_problem(path: &Path, key: &str, value: &toml::Value) -> String {
    let path = show_path(path);
    let bare = key.len() <= 60
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !bare {
        return format!("{path}: a quoted key (hidden) is no setting");
    }
    if find(key).is_some() {
        return format!("{key} in {path}: the name of this very file can't stand in it");
    }
    if value.is_table() {
        return format!(
            "{key} in {path}: no such setting; all settings stand at the top level, none in a [table]"
        );
    }
    format!(
        "{key} in {path}: no such setting{}",
        suggest(key, |setting| setting.key.to_owned())
    )
}

/// Where and what, from the parser's fixed texts. Its `Display` would quote the line.
fn syntax_problem(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    // A place that holds the name of a setting, and nothing else, may be quoted.
    let named = error
        .span()
        .and_then(|span| text.get(span))
        .and_then(find)
        .map(|setting| format!(" `{}`", setting.key))
        .unwrap_or_default();
    format!(
        "{}: line {line}, column {column}: {}{named}",
        show_path(path),
        error.message().replace('\n', ", ")
    )
}
