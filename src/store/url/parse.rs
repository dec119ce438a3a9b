//! The reading of database URLs, in each of their forms.
//!
//! A piece of the text is echoed in an error only where it can't be part of a password: parameter names
//! after a well-formed authority, and values of parameters that are known and are no secret.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::words::Words;
use super::{DatabaseUrl, PostgresUrl, Secret, UrlError, couchdb};

const FORMS: &str = "sqlite:PATH, sqlite:///ABSOLUTE/PATH, postgres://USER@HOST/DATABASE or couchdb://USER@HOST/DATABASE";
pub(super) const ENCODE_HINT: &str =
    "a user name or password that holds one of @ : / ? # % must be percent-encoded";

pub(super) fn parse(text: &str) -> Result<DatabaseUrl, UrlError> {
    // A URL from a file or a credential tends to end in a new line.
    let text = text.trim();
    if text.contains('\0') {
        return wrong("a database URL can't hold a NUL character");
    }
    if let Some(rest) = text.strip_prefix("sqlite:") {
        return sqlite(rest);
    }
    for scheme in ["postgres://", "postgresql://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return Ok(DatabaseUrl::Postgres(Box::new(postgres(rest)?)));
        }
    }
    for (scheme, tls) in [("couchdb://", false), ("couchdbs://", true)] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return Ok(DatabaseUrl::CouchDb(Box::new(couchdb::parse(rest, tls)?)));
        }
    }
    if text.is_empty() {
        return wrong(format!("the database URL is empty; write {FORMS}"));
    }
    match text.split_once(['=', ':', '/']) {
        Some((key, _)) if text[key.len()..].starts_with('=') && is_word(key.trim()) => {
            Ok(DatabaseUrl::Postgres(Box::new(key_values(text)?)))
        }
        Some((scheme, _)) if text[scheme.len()..].starts_with("://") && is_word(scheme) => {
            wrong(format!("unknown database `{scheme}`; write {FORMS}"))
        }
        _ => wrong(format!("this is no database URL; write {FORMS}")),
    }
}

pub(super) fn wrong<T>(text: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError(text.into()))
}

/// A plain lower-case word: safe to echo, and what every scheme and parameter name looks like.
pub(super) fn is_word(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn sqlite(rest: &str) -> Result<DatabaseUrl, UrlError> {
    if rest.contains('?') {
        return wrong("an sqlite: URL takes no parameters (`?…`)");
    }
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => decode(path, "path")?,
        Some(_) => return wrong("write sqlite:PATH or sqlite:///ABSOLUTE/PATH (three slashes)"),
        None => rest.to_owned(),
    };
    match path.as_str() {
        "" => wrong("the sqlite: URL names no file"),
        ":memory:" => {
            wrong("an in-memory database can't be shared by worker processes; name a file")
        }
        _ if path.ends_with('/') => wrong("the sqlite: URL names a folder, not a file"),
        _ => Ok(DatabaseUrl::Sqlite(PathBuf::from(path))),
    }
}

fn postgres(rest: &str) -> Result<PostgresUrl, UrlError> {
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let mut words = Words::default();

    let hosts = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            if !user.is_empty() {
                words.user = Some(decode(user, "user name")?);
            }
            if let Some(password) = password.filter(|p| !p.is_empty()) {
                words.password = Some(Secret::new(decode(password, "password")?));
            }
            hosts
        }
        // Without an `@` where it belongs, what looks like host and port may be half of a password.
        None if tail.contains('@') && authority.contains(':') => {
            return wrong(format!(
                "the user name and password are cut short: {ENCODE_HINT}"
            ));
        }
        None => authority,
    };
    if !hosts.is_empty() {
        for (i, host) in hosts.split(',').enumerate() {
            words.host_and_port(i + 1, host)?;
        }
    }
    let dbname = path.strip_prefix('/').unwrap_or(path);
    if !dbname.is_empty() {
        words.dbname = Some(decode(dbname, "database name")?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return wrong("a parameter after `?` has no value; write NAME=VALUE");
        };
        let key = decode(key, "name of a parameter")?;
        let value = decode(value, "value of a parameter")?;
        words.set(&key, value)?;
    }
    words.finish()
}

/// libpq's other form: `host=db user='it''s' …`, with `\` escaping one character.
fn key_values(text: &str) -> Result<PostgresUrl, UrlError> {
    let mut words = Words::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            return wrong("a connection string is a list of NAME=VALUE; one has no `=`");
        };
        let after = after.trim_start();
        let (quoted, mut chars) = match after.strip_prefix('\'') {
            Some(inner) => (true, inner.chars()),
            None => (false, after.chars()),
        };
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return wrong("a value in '…' is not closed"),
                None => break,
            }
        }
        words.set(key.trim(), value)?;
        rest = chars.as_str().trim_start();
    }
    words.finish()
}

pub(super) fn decode(text: &str, what: &str) -> Result<String, UrlError> {
    let bytes = text.as_bytes();
    let digits = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
    if (0..bytes.len()).any(|i| bytes[i] == b'%' && !(digits(i + 1) && digits(i + 2))) {
        return wrong(format!(
            "the {what} holds a % without two hexadecimal digits; write %25 for a %"
        ));
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if text.contains('\0') => wrong(format!("the {what} holds a NUL character")),
        Ok(text) => Ok(text.into_owned()),
        Err(_) => wrong(format!("the {what} is not UTF-8 once percent-decoded")),
    }
}
