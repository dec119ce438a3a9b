//! What must never be shown: the type that hides it, and the search for passwords inside URLs. Called by the other
//! files of `config` and by whoever logs a URL.
//! Promise: when it can't tell where a password stands, it hides everything but the scheme.

use std::fmt;
use std::ops::Range;

/// A text that is never printed: `Debug` and `Display` show `***`. It has no `PartialEq` on purpose, for a
/// token is compared in constant time, elsewhere.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Hides `text` from here on.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Query parameters whose value is no secret (libpq's, redis' and SQLite's). A value outside this list is hidden.
const PUBLIC_PARAMETERS: [&str; 23] = [
    "application_name",
    "cache",
    "channel_binding",
    "connect_timeout",
    "db",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "load_balance_hosts",
    "mode",
    "port",
    "protocol",
    "sentinel_user",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// The URL as it may be shown: passwords, and values of unknown query parameters, become `***`. A URL that can't
/// be taken apart without doubt (a raw `/` or `@` in the password, say) becomes `scheme://***`, and a text that
/// is no URL becomes `***`.
pub fn redact_url(url: &str) -> String {
    let Some(secrets) = find_secrets(url) else {
        return hide_all(url);
    };
    let mut shown = String::with_capacity(url.len());
    let mut from = 0;
    for secret in secrets {
        shown.push_str(&url[from..secret.start]);
        shown.push_str("***");
        from = secret.end;
    }
    shown.push_str(&url[from..]);
    shown.escape_debug().to_string()
}

/// Several URLs with white space between, each as it may be shown.
pub(super) fn redact_urls(urls: &str) -> String {
    let shown: Vec<String> = urls.split_whitespace().map(redact_url).collect();
    shown.join(" ")
}

/// Whether the URL holds a password, or may hold one.
pub(super) fn holds_secret(url: &str) -> bool {
    find_secrets(url).is_none_or(|found| !found.is_empty())
}

/// A given text as an error message may quote it: bounded, on one line, and hidden as soon as it looks like
/// something with a password in it.
pub(super) fn quote(text: &str) -> String {
    const MOST: usize = 60;
    if text.contains("://") || text.contains('@') {
        return format!("\"{}\"", hide_all(text));
    }
    let shown: String = text
        .chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect();
    let more = if text.chars().count() > MOST {
        "…"
    } else {
        ""
    };
    format!("\"{shown}{more}\"")
}

fn hide_all(url: &str) -> String {
    format!("{}***", &url[..after_scheme(url)])
}

/// Where the part after `scheme://` starts; 0 if there is no scheme.
pub(super) fn after_scheme(url: &str) -> usize {
    match url.find("://") {
        Some(at) if is_scheme(&url[..at]) => at + 3,
        _ => 0,
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// The ranges of a URL that are secret, in order; `None` if the URL can't be taken apart without doubt.
pub(super) fn find_secrets(url: &str) -> Option<Vec<Range<usize>>> {
    let mut secrets = Vec::new();
    let start = after_scheme(url);
    if start == 0 {
        // `sqlite:PATH` has no authority, hence no user and no password.
        let path = url.strip_prefix("sqlite:")?;
        find_in_query(url, url.len() - path.len(), &mut secrets)?;
        return Some(secrets);
    }
    let rest = &url[start..];
    let end = start + rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // An `@` further on means that a raw `/`, `?` or `#` of the password ended the authority early.
    if url[end..].contains('@') {
        return None;
    }
    let (user, hosts) = match url[start..end].rfind('@') {
        Some(at) => (&url[start..start + at], &url[start + at + 1..end]),
        None => ("", &url[start..end]),
    };
    if !hosts.split(',').all(is_host) {
        return None;
    }
    match user.find(':') {
        Some(at) => push(&mut secrets, start + at + 1..start + user.len()),
        // redis-cli reads `redis://word@host` as a password.
        None if url.starts_with("redis") => push(&mut secrets, start..start + user.len()),
        None => {}
    }
    find_in_query(url, end, &mut secrets)?;
    Some(secrets)
}

/// A host name or address with an optional port, as in RFC 3986. A `:word` that is no port may be a password.
fn is_host(host: &str) -> bool {
    let port = match host.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((_, "")) => return true,
            Some((_, port)) => port.strip_prefix(':'),
            None => None,
        },
        None => match host.split_once(':') {
            Some((_, port)) => Some(port),
            None => {
                return host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._~%".contains(c));
            }
        },
    };
    port.is_some_and(|port| port.len() <= 5 && port.chars().all(|c| c.is_ascii_digit()))
}

fn find_in_query(url: &str, from: usize, secrets: &mut Vec<Range<usize>>) -> Option<()> {
    let (before_fragment, fragment) = url.split_once('#').unwrap_or((url, ""));
    if !matches!(fragment, "" | "insecure") {
        return None;
    }
    let Some(mark) = before_fragment[from..].find('?') else {
        return Some(());
    };
    let mut at = from + mark + 1;
    for pair in before_fragment[at..].split('&') {
        if !pair.is_empty() {
            let (name, value) = pair.split_once('=')?;
            let plain = value
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._:/,%[]".contains(c));
            if !plain || !PUBLIC_PARAMETERS.contains(&name) {
                push(secrets, at + name.len() + 1..at + pair.len());
            }
        }
        at += pair.len() + 1;
    }
    Some(())
}

fn push(secrets: &mut Vec<Range<usize>>, range: Range<usize>) {
    if !range.is_empty() {
        secrets.push(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_their_secrets() {
        for (url, shown) in [
            (
                "postgres://u:pw@h:5432/db?sslmode=verify-full",
                "postgres://u:***@h:5432/db?sslmode=verify-full",
            ),
            ("postgres://u@h1:1,h2:2/db", "postgres://u@h1:1,h2:2/db"),
            (
                "postgres://u:p@w@[::1]:5432/db",
                "postgres://u:***@[::1]:5432/db",
            ),
            (
                "postgres:///db?user=u&password=pw",
                "postgres:///db?user=u&password=***",
            ),
            (
                "postgres://h/db?p%61ssword=pw",
                "postgres://h/db?p%61ssword=***",
            ),
            (
                "postgres://h/db?sslmode=require;password=pw",
                "postgres://h/db?sslmode=***",
            ),
            ("postgres://u:p/w@h/db", "postgres://***"),
            ("postgres://u:p?w=1@h/db", "postgres://***"),
            ("postgres://u:p#w@h/db", "postgres://***"),
            ("postgres://h/db?pw", "postgres://***"),
            ("postgres://u:pw", "postgres://***"),
            ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
            ("redis://pw@h", "redis://***@h"),
            ("rediss://u:pw@h/#insecure", "rediss://u:***@h/#insecure"),
            ("redis://h/#pw", "redis://***"),
            (
                "redis+unix:///run/r.sock?db=1&user=u&pass=pw",
                "redis+unix:///run/r.sock?db=1&user=u&pass=***",
            ),
            (
                "redis+sentinel://:pw@a:1,b:2/m/0?sentinel_user=u&sentinel_password=pw",
                "redis+sentinel://:***@a:1,b:2/m/0?sentinel_user=u&sentinel_password=***",
            ),
            (
                "rediss+cluster://u:pw@a:1,b:2?sslrootcert=/ca.pem",
                "rediss+cluster://u:***@a:1,b:2?sslrootcert=/ca.pem",
            ),
            ("sqlite:/var/lib/a b.db", "sqlite:/var/lib/a b.db"),
            ("sqlite:x.db?mode=ro&key=pw", "sqlite:x.db?mode=ro&key=***"),
            ("host=h password=pw", "***"),
            ("pw", "***"),
            ("", "***"),
        ] {
            assert_eq!(redact_url(url), shown, "{url}");
        }
    }

    #[test]
    fn quotes_are_short_and_hide_what_looks_like_a_url() {
        assert_eq!(quote("x\ny"), r#""x\ny""#);
        assert_eq!(quote("redis://:pw@h"), r#""redis://***""#);
        assert_eq!(quote("u:pw@h"), r#""***""#);
        assert_eq!(quote(&"a".repeat(100)).chars().count(), 63);
    }

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::new("pw");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Some(secret.clone())),
            "*** *** Some(***)"
        );
        assert_eq!(secret.expose(), "pw");
    }
}
