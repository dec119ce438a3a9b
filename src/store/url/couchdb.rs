//! The reading of `couchdb://…` URLs, and of `couchdbs://…` for TLS. One server: whoever has several puts a balancer before them,
//! as CouchDB itself advises. Nothing that may be a piece of a password is echoed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::utf8_percent_encode;

use super::parse::{ENCODE_HINT, decode, is_word, wrong};
use super::{ESCAPED, Secret, UrlError};

/// Where CouchDB listens when a URL names no port: without TLS, and with it.
pub const COUCHDB_PORT: u16 = 5984;
pub const COUCHDBS_PORT: u16 = 6984;

/// A database of a CouchDB server. `Display` is a URL without its password.
#[derive(Debug, Clone)]
pub struct CouchUrl {
    /// The server must show a certificate of a trusted authority that bears its name.
    pub tls: bool,
    /// A name or an address, without the brackets of IPv6.
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// By CouchDB's rules: lower-case letters, digits and any of `_$()+-/`, with a letter first.
    pub database: String,
    /// PEM file of the trusted authorities; the system's if there is none.
    pub sslrootcert: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    /// The longest that the server may take to let us in.
    pub connect_timeout: Option<Duration>,
}

impl CouchUrl {
    /// The server as the authority of an `http:` URL has it.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What follows `couchdb://` or `couchdbs://`.
pub(super) fn parse(rest: &str, tls: bool) -> Result<CouchUrl, UrlError> {
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let (credentials, server) = match authority.rsplit_once('@') {
        Some((credentials, server)) => (Some(credentials), server),
        // Without an `@` where it belongs, what looks like host and port may be half of a password.
        None if tail.contains('@') => {
            return wrong(format!(
                "the user name and password are cut short: {ENCODE_HINT}"
            ));
        }
        None => (None, authority),
    };
    let (user, password) = match credentials.map(|both| both.split_once(':').unwrap_or((both, "")))
    {
        Some((user, password)) => (
            Some(decode(user, "user name")?).filter(|user| !user.is_empty()),
            Some(decode(password, "password")?).filter(|password| !password.is_empty()),
        ),
        None => (None, None),
    };
    if user.is_none() && password.is_some() {
        return wrong("the couchdb: URL has a password and no user name before it");
    }
    if user.as_ref().is_some_and(|user| user.contains(':')) {
        return wrong(
            "a user name of CouchDB can't hold a colon: HTTP's Basic scheme ends it there",
        );
    }
    let (host, port) = host_and_port(server)?;
    let mut url = CouchUrl {
        tls,
        host,
        port: port.unwrap_or(if tls { COUCHDBS_PORT } else { COUCHDB_PORT }),
        user,
        password: password.map(Secret::new),
        database: database(path)?,
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        connect_timeout: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return wrong("a parameter after `?` has no value; write NAME=VALUE");
        };
        let key = decode(key, "name of a parameter")?;
        set(&mut url, &key, decode(value, "value of a parameter")?)?;
    }
    if url.sslcert.is_some() != url.sslkey.is_some() {
        return wrong("sslcert and sslkey go together: one is given without the other");
    }
    let files = [&url.sslrootcert, &url.sslcert];
    if !tls && files.iter().any(|file| file.is_some()) {
        return wrong("certificates are for TLS, and couchdb: is without it; write couchdbs://…");
    }
    Ok(url)
}

fn host_and_port(server: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = match server.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
            _ => return wrong("the host opens a [ that is not closed before its port"),
        },
        None => match server.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return wrong(format!(
                    "the host holds two colons: write an IPv6 address in [ ]; {ENCODE_HINT}"
                ));
            }
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    if host.contains(',') {
        return wrong("a couchdb: URL names one server; to use several put a balancer before them");
    }
    let host = decode(host, "host")?;
    if host.is_empty() {
        return wrong("the couchdb: URL names no host; write couchdb://USER@HOST/DATABASE");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if !host.bytes().all(fits) {
        return wrong("the host is neither a name nor an address");
    }
    match port.filter(|port| !port.is_empty()) {
        None => Ok((host, None)),
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => wrong(format!(
                "the port is no number from 1 to 65535; {ENCODE_HINT}"
            )),
            Ok(port) => Ok((host, Some(port))),
        },
    }
}

/// <https://docs.couchdb.org/en/stable/api/database/common.html#put--db>
fn database(path: &str) -> Result<String, UrlError> {
    let name = decode(path.strip_prefix('/').unwrap_or(path), "database name")?;
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_$()+-/".contains(&byte);
    match name.as_bytes() {
        [] => wrong("the couchdb: URL names no database; write couchdb://USER@HOST/DATABASE"),
        [b'a'..=b'z', rest @ ..] if rest.iter().all(|byte| fits(*byte)) && name.len() <= 238 => {
            Ok(name)
        }
        _ => wrong(
            "the database name is none of CouchDB's: those have lower-case letters, digits and _$()+-/, and begin with a letter",
        ),
    }
}

fn set(url: &mut CouchUrl, key: &str, value: String) -> Result<(), UrlError> {
    match key {
        "sslrootcert" if value == "system" => url.sslrootcert = None,
        "sslrootcert" => url.sslrootcert = Some(PathBuf::from(value)),
        "sslcert" => url.sslcert = Some(PathBuf::from(value)),
        "sslkey" => url.sslkey = Some(PathBuf::from(value)),
        "connect_timeout" => match value.parse::<u32>() {
            Ok(seconds) => {
                let wait = Duration::from_secs(seconds.into());
                url.connect_timeout = Some(wait).filter(|wait| !wait.is_zero());
            }
            Err(_) => return wrong("parameter `connect_timeout` must be a whole number"),
        },
        _ if is_word(key) => return wrong(format!("unknown parameter `{key}`")),
        _ => return wrong(format!("a parameter has an unknown name; {ENCODE_HINT}")),
    }
    Ok(())
}

impl fmt::Display for CouchUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls {
            "couchdbs://"
        } else {
            "couchdb://"
        })?;
        if let Some(user) = &self.user {
            write!(f, "{}", utf8_percent_encode(user, ESCAPED))?;
            if self.password.is_some() {
                f.write_str(":***")?;
            }
            f.write_str("@")?;
        }
        let default = if self.tls {
            COUCHDBS_PORT
        } else {
            COUCHDB_PORT
        };
        let authority = self.authority();
        let shown = match self.port == default {
            true => authority.trim_end_matches(&format!(":{default}")),
            false => &authority,
        };
        write!(
            f,
            "{shown}/{}",
            utf8_percent_encode(&self.database, ESCAPED)
        )
    }
}
