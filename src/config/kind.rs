//! The kinds of value a setting may have. One `Kind` reads a text, checks its range, puts it where it belongs,
//! shows it again and says in words what it takes. Called by `layers` and `pages`; pure.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::redis_url;
use super::secret::{Secret, quote, redact_url, redact_urls};
use super::value;
use super::values::Values;
use super::{
    AccessFormat, AccessTarget, Admin, AdminAddress, ApiDocs, ControlSocket, Listen, LogFormat,
    MOST_REPLICAS, ServerTiming,
};

/// Leads to the field of [`Values`] that a setting fills.
pub(super) type Field<T> = fn(&mut Values) -> &mut T;

/// What a setting takes, its range, and the field it fills.
pub(super) enum Kind {
    /// A whole number `of` something.
    Count {
        of: &'static str,
        range: RangeInclusive<usize>,
        field: Field<usize>,
    },
    /// A number of workers; `None` is `auto`.
    Workers {
        range: RangeInclusive<usize>,
        field: Field<Option<usize>>,
    },
    Time {
        range: RangeInclusive<Duration>,
        field: Field<Duration>,
    },
    Size {
        range: RangeInclusive<usize>,
        field: Field<usize>,
    },
    Switch {
        field: Field<bool>,
    },
    Path {
        field: Field<Option<PathBuf>>,
    },
    /// The name of a file that holds a secret. `of` says what is in it.
    SecretFile {
        of: &'static str,
        field: Field<Option<PathBuf>>,
    },
    Listen {
        field: Field<Vec<Listen>>,
    },
    /// Networks in CIDR notation, or single addresses.
    Networks {
        field: Field<Vec<ipnet::IpNet>>,
    },
    /// Web origins, or `*` for all.
    Origins {
        field: Field<Vec<String>>,
    },
    /// Whose pages may embed ours: see [`value::ancestors`].
    Ancestors {
        field: Field<Vec<String>>,
    },
    LoaderioToken {
        field: Field<Option<String>>,
    },
    Url {
        scheme: Scheme,
        field: Field<Option<Secret>>,
    },
    /// Several URLs of databases, with white space between.
    Urls {
        field: Field<Option<Secret>>,
    },
    /// The start of a key in Redis.
    Prefix {
        field: Field<String>,
    },
    /// The name of a `user` or a `group` of the host.
    Name {
        of: &'static str,
        field: Field<Option<String>>,
    },
    LogLevel {
        field: Field<log::LevelFilter>,
    },
    LogFormat {
        field: Field<LogFormat>,
    },
    ServerTiming {
        field: Field<ServerTiming>,
    },
    /// A path, or `none`.
    ControlSocket {
        field: Field<ControlSocket>,
    },
    /// An address with a port, `unix:` and a path, or `none`.
    Admin {
        field: Field<Admin>,
    },
    /// A path, `-` for standard output, or `none`.
    AccessLog {
        field: Field<Option<AccessTarget>>,
    },
    AccessFormat {
        field: Field<AccessFormat>,
    },
    ApiDocs {
        field: Field<ApiDocs>,
    },
}

/// The two kinds of URL.
#[derive(Clone, Copy)]
pub(super) enum Scheme {
    Database,
    Redis,
}

impl Scheme {
    /// The URL in words.
    pub(super) fn takes(self) -> &'static str {
        match self {
            Scheme::Database => {
                "a database URL (sqlite:PATH, postgres://…, postgresql://…, couchdb://… or couchdbs://…)"
            }
            Scheme::Redis => {
                "a Redis URL (redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://)"
            }
        }
    }

    /// Checks what can be checked without the client that will use the URL. The refusal never quotes it.
    pub(super) fn check(self, url: &str) -> Result<(), String> {
        if url.len() > 8192 || url.chars().any(|c| c.is_control()) {
            return Err(format!(
                "the value (hidden) is longer than 8 KiB or has a line break, so it is not {}",
                self.takes()
            ));
        }
        let good = match self {
            Scheme::Database => {
                let after = |scheme| {
                    url.strip_prefix(scheme)
                        .is_some_and(|rest: &str| !rest.is_empty())
                };
                [
                    "sqlite:",
                    "postgres://",
                    "postgresql://",
                    "couchdb://",
                    "couchdbs://",
                ]
                .into_iter()
                .any(after)
            }
            Scheme::Redis => {
                return redis_url::parse(url)
                    .map(drop)
                    .map_err(|why| format!("the value (hidden) is not {}: {why}", self.takes()));
            }
        };
        if good {
            Ok(())
        } else {
            Err(format!("the value (hidden) is not {}", self.takes()))
        }
    }
}

/// Checks what can be checked of the URLs of replicas without a client. The refusal never quotes them.
pub(super) fn check_replicas(urls: &str) -> Result<(), String> {
    let mut count = 0;
    for url in urls.split_whitespace() {
        Scheme::Database.check(url)?;
        if url.starts_with("sqlite:") || url.starts_with("couchdb") {
            return Err(
                "the value (hidden) is no PostgreSQL server, and only those have replicas that are read from; give the URL of a standby"
                    .to_owned(),
            );
        }
        count += 1;
    }
    match count {
        0 => Err("the value names no replica".to_owned()),
        1..=MOST_REPLICAS => Ok(()),
        _ => Err(format!("{count} replicas are more than {MOST_REPLICAS}")),
    }
}

/// The levels of `log_level`.
const LEVELS: [(&str, log::LevelFilter); 4] = [
    ("error", log::LevelFilter::Error),
    ("warn", log::LevelFilter::Warn),
    ("info", log::LevelFilter::Info),
    ("debug", log::LevelFilter::Debug),
];

/// The formats of the access log.
const ACCESS_FORMATS: [(&str, AccessFormat); 2] = [
    ("combined", AccessFormat::Combined),
    ("json", AccessFormat::Json),
];

/// The formats of the log.
const LOG_FORMATS: [(&str, LogFormat); 4] = [
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("logfmt", LogFormat::Logfmt),
    ("json", LogFormat::Json),
];

/// Which answers say where their time went.
const SERVER_TIMINGS: [(&str, ServerTiming); 3] = [
    ("never", ServerTiming::Never),
    ("asked", ServerTiming::Asked),
    ("always", ServerTiming::Always),
];

/// The places of `api_docs`.
const API_DOCS: [(&str, ApiDocs); 3] = [
    ("public", ApiDocs::Public),
    ("admin", ApiDocs::Admin),
    ("none", ApiDocs::Nowhere),
];

impl Kind {
    /// What the setting takes, in words, range included: "a number of workers (1 to 1024, or auto)".
    pub(super) fn takes(&self) -> String {
        let what = match self {
            Kind::Count { of, .. } => format!("a number of {of}"),
            Kind::Workers { .. } => "a number of workers".to_owned(),
            Kind::Time { .. } => "a duration".to_owned(),
            Kind::Size { .. } => "a size".to_owned(),
            Kind::Switch { .. } => "a switch (true or false)".to_owned(),
            Kind::Path { .. } => "a path".to_owned(),
            Kind::SecretFile { of, .. } => format!("the name of a file that holds {of}"),
            Kind::Listen { .. } => "an address with a port".to_owned(),
            Kind::Networks { .. } => "a network such as 10.0.0.0/8, or an address".to_owned(),
            Kind::Origins { .. } => "an origin (https://shop.example, or * for all)".to_owned(),
            Kind::Ancestors { .. } => {
                "an origin (https://shop.example), self, or * or none alone".to_owned()
            }
            Kind::LoaderioToken { .. } => "loaderio- and 1 to 64 digits (0-9, a-f)".to_owned(),
            Kind::Url { scheme, .. } => scheme.takes().to_owned(),
            Kind::Urls { .. } => {
                "the URL of a PostgreSQL replica (postgres://… or postgresql://…)".to_owned()
            }
            Kind::Prefix { .. } => "a key prefix (1 to 64 visible ASCII characters)".to_owned(),
            Kind::Name { of, .. } => format!("the name of a {of}"),
            Kind::ControlSocket { .. } => "a path, or none".to_owned(),
            Kind::Admin { .. } => {
                "an address with a port, a Unix socket (unix:/path), or none".to_owned()
            }
            Kind::AccessLog { .. } => "a path, - or none".to_owned(),
            Kind::AccessFormat { .. } => "a log format (combined or json)".to_owned(),
            Kind::ApiDocs { .. } => "a place (public, admin or none)".to_owned(),
            Kind::LogLevel { .. } => "a log level (error, warn, info or debug)".to_owned(),
            Kind::LogFormat { .. } => "a log format (auto, text, logfmt or json)".to_owned(),
            Kind::ServerTiming { .. } => "never, asked or always".to_owned(),
        };
        match self.range() {
            Some(range) => format!("{what} ({range})"),
            None => what,
        }
    }

    /// The range of a number: "1 to 1024, or auto", "100ms to 10m"; `None` for other kinds.
    pub(super) fn range(&self) -> Option<String> {
        Some(match self {
            Kind::Count { range, .. } => format!("{} to {}", range.start(), range.end()),
            Kind::Workers { range, .. } => format!("{} to {}, or auto", range.start(), range.end()),
            Kind::Time { range, .. } => {
                let [from, to] =
                    [range.start(), range.end()].map(|time| value::show_duration(*time));
                format!("{from} to {to}")
            }
            Kind::Size { range, .. } => {
                let [from, to] = [range.start(), range.end()].map(|size| value::show_size(*size));
                format!("{from} to {to}")
            }
            _ => return None,
        })
    }

    /// Reads `given` into its field.
    ///
    /// # Errors
    /// A text that goes on from "`--flag`: ". Secrets are never quoted in it.
    pub(super) fn read(&self, given: &OsStr, values: &mut Values) -> Result<(), String> {
        match self {
            Kind::Path { field } => *field(values) = Some(path(given)?),
            Kind::SecretFile { of, field } => *field(values) = Some(secret_file(given, of)?),
            Kind::ControlSocket { field } => *field(values) = control_socket(given)?,
            Kind::Admin { field } => *field(values) = admin(given)?,
            Kind::AccessLog { field } => *field(values) = access_target(given)?,
            _ => self.read_text(
                given.to_str().ok_or("the value is not valid UTF-8")?,
                values,
            )?,
        }
        Ok(())
    }

    fn read_text(&self, text: &str, values: &mut Values) -> Result<(), String> {
        let refuse = || format!("{} is not {}", quote(text), self.takes());
        let within = |range: &RangeInclusive<usize>, number: Option<usize>| {
            number
                .filter(|number| range.contains(number))
                .ok_or_else(refuse)
        };
        match self {
            Kind::Count { range, field, .. } => *field(values) = within(range, value::count(text))?,
            Kind::Size { range, field } => *field(values) = within(range, value::size(text))?,
            Kind::Workers { field, .. } if text == "auto" => *field(values) = None,
            Kind::Workers { range, field } => {
                *field(values) = Some(within(range, value::count(text))?)
            }
            Kind::Time { range, field } => {
                *field(values) = value::duration(text)
                    .filter(|time| range.contains(time))
                    .ok_or_else(refuse)?;
            }
            Kind::Switch { field } => *field(values) = value::switch(text).ok_or_else(refuse)?,
            Kind::Listen { field } => *field(values) = value::listen(text)?,
            Kind::Networks { field } => {
                *field(values) = text
                    .split(',')
                    .map(|network| value::network(network.trim()).ok_or_else(refuse))
                    .collect::<Result<_, _>>()?;
            }
            Kind::Origins { field } => {
                *field(values) = text
                    .split(',')
                    .map(|origin| value::origin(origin.trim()).ok_or_else(refuse))
                    .collect::<Result<_, _>>()?;
            }
            Kind::Ancestors { field } => {
                *field(values) = value::ancestors(text).ok_or_else(refuse)?;
            }
            Kind::LoaderioToken { field } => {
                *field(values) = Some(value::loaderio_token(text).ok_or_else(refuse)?.to_owned());
            }
            Kind::Url { scheme, field } => {
                scheme.check(text)?;
                *field(values) = Some(Secret::new(text));
            }
            Kind::Urls { field } => {
                check_replicas(text)?;
                *field(values) = Some(Secret::new(text));
            }
            Kind::Prefix { field } => {
                let visible = text.bytes().all(|b| b.is_ascii_graphic());
                *field(values) = Some(text)
                    .filter(|t| visible && (1..=64).contains(&t.len()))
                    .ok_or_else(refuse)?
                    .to_owned();
            }
            Kind::Name { field, .. } => {
                *field(values) = Some(value::name(text).ok_or_else(refuse)?.to_owned());
            }
            Kind::LogLevel { field } => {
                let known = LEVELS
                    .iter()
                    .find(|(name, _)| text.eq_ignore_ascii_case(name));
                *field(values) = known.ok_or_else(refuse)?.1;
            }
            Kind::AccessFormat { field } => {
                let known = ACCESS_FORMATS.iter().find(|(name, _)| text == *name);
                *field(values) = known.ok_or_else(refuse)?.1;
            }
            Kind::LogFormat { field } => {
                let known = LOG_FORMATS.iter().find(|(name, _)| text == *name);
                *field(values) = known.ok_or_else(refuse)?.1;
            }
            Kind::ServerTiming { field } => {
                let known = SERVER_TIMINGS.iter().find(|(name, _)| text == *name);
                *field(values) = known.ok_or_else(refuse)?.1;
            }
            Kind::ApiDocs { field } => {
                let known = API_DOCS.iter().find(|(name, _)| text == *name);
                *field(values) = known.ok_or_else(refuse)?.1;
            }
            Kind::Path { .. }
            | Kind::SecretFile { .. }
            | Kind::ControlSocket { .. }
            | Kind::Admin { .. }
            | Kind::AccessLog { .. } => self.read(OsStr::new(text), values)?,
        }
        Ok(())
    }

    /// What stands between several values that are given one by one; `None` for what takes one.
    pub(super) fn separator(&self) -> Option<&'static str> {
        match self {
            Kind::Listen { .. } | Kind::Networks { .. } | Kind::Origins { .. } => Some(","),
            // A URL may have commas.
            Kind::Urls { .. } => Some(" "),
            _ => None,
        }
    }

    /// The value in force, as it may be shown; `None` where nothing is set.
    pub(super) fn show(&self, values: &mut Values) -> Option<String> {
        Some(match self {
            Kind::Count { field, .. } => field(values).to_string(),
            Kind::Workers { field, .. } => {
                (*field(values)).map_or_else(|| "auto".to_owned(), |n| n.to_string())
            }
            Kind::Time { field, .. } => value::show_duration(*field(values)),
            Kind::Size { field, .. } => value::show_size(*field(values)),
            Kind::Switch { field } => field(values).to_string(),
            Kind::Path { field } | Kind::SecretFile { field, .. } => {
                show_path(field(values).as_deref()?)
            }
            Kind::Listen { field } => field(values)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
            Kind::Networks { field } if field(values).is_empty() => return None,
            Kind::Networks { field } => field(values)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
            Kind::Origins { field } if field(values).is_empty() => return None,
            Kind::Origins { field } | Kind::Ancestors { field } => field(values).join(","),
            Kind::LoaderioToken { field } => field(values).clone()?,
            Kind::Url { field, .. } => redact_url(field(values).as_ref()?.expose()),
            Kind::Urls { field } => redact_urls(field(values).as_ref()?.expose()),
            Kind::Prefix { field } => field(values).clone(),
            Kind::Name { field, .. } => field(values).clone()?,
            Kind::ControlSocket { field } => match field(values) {
                ControlSocket::Usual(_) => return None,
                ControlSocket::At(path) => show_path(path),
                ControlSocket::Off => "none".to_owned(),
            },
            Kind::Admin { field } => match field(values) {
                Admin::Usual(_) => return None,
                Admin::At(AdminAddress::Unix(path)) => {
                    format!("{}{}", value::UNIX, show_path(path))
                }
                Admin::At(AdminAddress::Tcp(address)) => address.to_string(),
                Admin::Off => "none".to_owned(),
            },
            Kind::AccessLog { field } => match field(values) {
                None => "none".to_owned(),
                Some(AccessTarget::Stdout) => "-".to_owned(),
                Some(AccessTarget::File(path)) => show_path(path),
            },
            Kind::AccessFormat { field } => {
                let format = *field(values);
                let (name, _) = ACCESS_FORMATS.iter().find(|(_, known)| *known == format)?;
                (*name).to_owned()
            }
            Kind::ApiDocs { field } => {
                let place = *field(values);
                let (name, _) = API_DOCS.iter().find(|(_, known)| *known == place)?;
                (*name).to_owned()
            }
            Kind::LogLevel { field } => field(values).to_string().to_ascii_lowercase(),
            Kind::LogFormat { field } => {
                let format = *field(values);
                let (name, _) = LOG_FORMATS.iter().find(|(_, known)| *known == format)?;
                (*name).to_owned()
            }
            Kind::ServerTiming { field } => {
                let timing = *field(values);
                let (name, _) = SERVER_TIMINGS.iter().find(|(_, known)| *known == timing)?;
                (*name).to_owned()
            }
        })
    }
}

/// A path for a message: on one line, and hidden if it is a URL put in the wrong place.
pub(super) fn show_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains("://") {
        quote(&text)
    } else {
        text.escape_debug().to_string()
    }
}

fn path(given: &OsStr) -> Result<PathBuf, String> {
    if given.is_empty() {
        return Err("the path is empty".to_owned());
    }
    Ok(PathBuf::from(given))
}

fn access_target(given: &OsStr) -> Result<Option<AccessTarget>, String> {
    Ok(match given.to_str() {
        Some("none") => None,
        Some("-") => Some(AccessTarget::Stdout),
        Some(url) if url.contains("://") => {
            return Err(
                "the value (hidden) is a URL, but this setting takes a path, - or none".to_owned(),
            );
        }
        _ => Some(AccessTarget::File(path(given)?)),
    })
}

fn control_socket(given: &OsStr) -> Result<ControlSocket, String> {
    Ok(match given.to_str() {
        Some("none") => ControlSocket::Off,
        Some(url) if url.contains("://") => {
            return Err(
                "the value (hidden) is a URL, but this setting takes a path, or none".to_owned(),
            );
        }
        _ => ControlSocket::At(path(given)?),
    })
}

fn admin(given: &OsStr) -> Result<Admin, String> {
    if let Some(at) = given.as_bytes().strip_prefix(value::UNIX.as_bytes()) {
        return Ok(Admin::At(AdminAddress::Unix(path(OsStr::from_bytes(at))?)));
    }
    match given.to_str() {
        Some("none") => Ok(Admin::Off),
        Some(text) if text.contains('/') && !text.contains("://") => Err(format!(
            "{} is not an address with a port; before the path of a Unix socket write {}",
            quote(text),
            value::UNIX
        )),
        Some(text) => value::address(text).map(|address| Admin::At(AdminAddress::Tcp(address))),
        None => Err("the value is not valid UTF-8".to_owned()),
    }
}

fn secret_file(given: &OsStr, of: &str) -> Result<PathBuf, String> {
    if given.to_string_lossy().contains("://") {
        return Err(format!(
            "the value (hidden) is a URL, but this setting takes the name of a file that holds {of}"
        ));
    }
    path(given)
}
