//! The parameters of a PostgreSQL URL while they are being read: a name and a value at a time, and then
//! all together, where the lists of hosts and ports must fit.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::parse::{ENCODE_HINT, decode, is_word, wrong};
use super::{
    ChannelBinding, Host, POSTGRES_PORT, POSTGRES_SOCKET_DIR, PostgresUrl, RootCert, Secret,
    Server, SslMode, TargetSession, UrlError,
};

/// What has been read so far.
#[derive(Default)]
pub(super) struct Words {
    hosts: Vec<Host>,
    addresses: Vec<IpAddr>,
    /// `None` where a list leaves a place empty.
    ports: Vec<Option<u16>>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) dbname: Option<String>,
    sslmode: Option<SslMode>,
    sslrootcert: Option<RootCert>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
    fallback_application_name: Option<String>,
    options: Option<String>,
    target_session_attrs: Option<TargetSession>,
    channel_binding: Option<ChannelBinding>,
    load_balance: bool,
    keepalives: Option<bool>,
    keepalives_idle: Option<Duration>,
    keepalives_interval: Option<Duration>,
    keepalives_count: Option<u32>,
    tcp_user_timeout: Option<Duration>,
}

impl Words {
    /// One `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT` of the authority; nothing of it is echoed.
    pub(super) fn host_and_port(&mut self, nth: usize, text: &str) -> Result<(), UrlError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(inner) => match inner.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
                _ => {
                    return wrong(format!(
                        "host {nth} opens a [ that is not closed before its port"
                    ));
                }
            },
            None => match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return wrong(format!(
                        "host {nth} holds two colons: write an IPv6 address in [ ]; {ENCODE_HINT}"
                    ));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        self.hosts.push(host_of(decode(host, "host")?));
        let port = port.filter(|port| !port.is_empty()).map(|port| {
            port_of(port).ok_or_else(|| {
                UrlError(format!(
                    "the port of host {nth} is no number from 1 to 65535; {ENCODE_HINT}"
                ))
            })
        });
        self.ports.push(port.transpose()?);
        Ok(())
    }

    pub(super) fn set(&mut self, key: &str, value: String) -> Result<(), UrlError> {
        match key {
            "host" => {
                self.hosts = value
                    .split(',')
                    .map(|host| host_of(host.to_owned()))
                    .collect()
            }
            "hostaddr" => {
                self.addresses = value
                    .split(',')
                    .map(|address| address.parse())
                    .collect::<Result<_, _>>()
                    .or_else(|_| wrong("hostaddr must be a list of IP addresses"))?;
            }
            "port" => {
                self.ports = value
                    .split(',')
                    .map(|port| match port {
                        "" => Ok(None),
                        port => port_of(port).map(Some).ok_or(()),
                    })
                    .collect::<Result<_, _>>()
                    .or_else(|()| wrong("port must be a list of numbers from 1 to 65535"))?;
            }
            "user" => self.user = Some(value).filter(|user| !user.is_empty()),
            "password" => {
                self.password = Some(Secret::new(value)).filter(|p| !p.expose().is_empty())
            }
            "dbname" => self.dbname = Some(value).filter(|name| !name.is_empty()),
            "ssl" if value == "true" => self.sslmode = Some(SslMode::Require),
            "sslmode" => {
                self.sslmode = Some(one_of(
                    key,
                    &value,
                    &[
                        ("disable", SslMode::Disable),
                        ("allow", SslMode::Allow),
                        ("prefer", SslMode::Prefer),
                        ("require", SslMode::Require),
                        ("verify-ca", SslMode::VerifyCa),
                        ("verify-full", SslMode::VerifyFull),
                    ],
                )?);
            }
            "sslrootcert" if value == "system" => self.sslrootcert = Some(RootCert::System),
            "sslrootcert" => self.sslrootcert = Some(RootCert::File(PathBuf::from(value))),
            "sslcert" => self.sslcert = Some(PathBuf::from(value)),
            "sslkey" => self.sslkey = Some(PathBuf::from(value)),
            "connect_timeout" => self.connect_timeout = seconds(key, &value)?,
            "application_name" => self.application_name = Some(value),
            "fallback_application_name" => self.fallback_application_name = Some(value),
            "options" => self.options = Some(value),
            "target_session_attrs" => {
                self.target_session_attrs = Some(one_of(
                    key,
                    &value,
                    &[
                        ("any", TargetSession::Any),
                        ("read-write", TargetSession::ReadWrite),
                        ("read-only", TargetSession::ReadOnly),
                        ("primary", TargetSession::Primary),
                        ("standby", TargetSession::Standby),
                        ("prefer-standby", TargetSession::PreferStandby),
                    ],
                )?);
            }
            "channel_binding" => {
                self.channel_binding = Some(one_of(
                    key,
                    &value,
                    &[
                        ("disable", ChannelBinding::Disable),
                        ("prefer", ChannelBinding::Prefer),
                        ("require", ChannelBinding::Require),
                    ],
                )?);
            }
            "load_balance_hosts" => {
                self.load_balance = one_of(key, &value, &[("disable", false), ("random", true)])?;
            }
            "keepalives" => self.keepalives = Some(number(key, &value)? != 0),
            "keepalives_idle" => self.keepalives_idle = seconds(key, &value)?,
            "keepalives_interval" => self.keepalives_interval = seconds(key, &value)?,
            "keepalives_count" => {
                self.keepalives_count = Some(number(key, &value)?).filter(|n| *n > 0)
            }
            "tcp_user_timeout" => {
                let wait = Duration::from_millis(number(key, &value)?.into());
                self.tcp_user_timeout = Some(wait).filter(|wait| !wait.is_zero());
            }
            "passfile" | "service" => {
                return wrong(format!(
                    "parameter `{key}` is not supported; give the password by PGPASSWORD"
                ));
            }
            _ if is_word(key) => return wrong(format!("unknown parameter `{key}`")),
            _ => return wrong(format!("a parameter has an unknown name; {ENCODE_HINT}")),
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<PostgresUrl, UrlError> {
        let servers = servers(self.hosts, self.addresses, &self.ports)?;
        if self.sslcert.is_some() != self.sslkey.is_some() {
            return wrong("sslcert and sslkey go together: one is given without the other");
        }
        let sslrootcert = self.sslrootcert.unwrap_or(RootCert::Unset);
        let sslmode = match (self.sslmode, &sslrootcert) {
            (None, RootCert::System) => SslMode::VerifyFull,
            (Some(mode), RootCert::System) if mode != SslMode::VerifyFull => {
                return wrong("sslrootcert=system needs sslmode=verify-full");
            }
            (mode, _) => mode.unwrap_or(SslMode::Prefer),
        };
        // libpq takes any. Of several servers one that only follows would be read from, and be behind what was acknowledged.
        let target_session_attrs = match servers.len() {
            0 | 1 => TargetSession::Any,
            _ => TargetSession::ReadWrite,
        };
        Ok(PostgresUrl {
            servers,
            user: self.user,
            password: self.password,
            dbname: self.dbname,
            sslmode,
            sslrootcert,
            sslcert: self.sslcert,
            sslkey: self.sslkey,
            connect_timeout: self.connect_timeout,
            application_name: self
                .application_name
                .or(self.fallback_application_name)
                .unwrap_or_else(|| super::SERVER_NAME.to_owned()),
            options: self.options,
            target_session_attrs: self.target_session_attrs.unwrap_or(target_session_attrs),
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            load_balance: self.load_balance,
            keepalives: self.keepalives.unwrap_or(true),
            keepalives_idle: self.keepalives_idle.unwrap_or(Duration::from_secs(30)),
            keepalives_interval: self.keepalives_interval.unwrap_or(Duration::from_secs(5)),
            keepalives_count: self.keepalives_count.unwrap_or(3),
            tcp_user_timeout: self.tcp_user_timeout.unwrap_or(Duration::from_secs(10)),
        })
    }
}

/// Brings the lists of hosts, addresses and ports together; one port serves all hosts.
fn servers(
    mut hosts: Vec<Host>,
    addresses: Vec<IpAddr>,
    ports: &[Option<u16>],
) -> Result<Vec<Server>, UrlError> {
    if hosts.is_empty() {
        hosts = match addresses.is_empty() {
            true => vec![host_of(String::new())],
            false => addresses
                .iter()
                .map(|address| Host::Tcp(address.to_string()))
                .collect(),
        };
    }
    if !addresses.is_empty() && addresses.len() != hosts.len() {
        return wrong("hostaddr must name as many addresses as there are hosts");
    }
    if ports.len() > 1 && ports.len() != hosts.len() {
        return wrong("port must name one port, or as many as there are hosts");
    }
    let shared = ports
        .first()
        .copied()
        .flatten()
        .filter(|_| ports.len() == 1);
    let server = |(i, host)| Server {
        host,
        address: addresses.get(i).copied(),
        port: ports
            .get(i)
            .copied()
            .flatten()
            .or(shared)
            .unwrap_or(POSTGRES_PORT),
    };
    Ok(hosts.into_iter().enumerate().map(server).collect())
}

fn host_of(text: String) -> Host {
    match text.as_str() {
        "" => Host::Unix(PathBuf::from(POSTGRES_SOCKET_DIR)),
        path if path.starts_with('/') => Host::Unix(PathBuf::from(path)),
        _ => Host::Tcp(text),
    }
}

fn port_of(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn number(key: &str, value: &str) -> Result<u32, UrlError> {
    value
        .parse()
        .or_else(|_| wrong(format!("parameter `{key}` must be a whole number")))
}

/// libpq's waits: whole seconds, 0 for its default.
fn seconds(key: &str, value: &str) -> Result<Option<Duration>, UrlError> {
    let wait = Duration::from_secs(number(key, value)?.into());
    Ok(Some(wait).filter(|wait| !wait.is_zero()))
}

fn one_of<T: Copy>(key: &str, value: &str, words: &[(&str, T)]) -> Result<T, UrlError> {
    match words.iter().find(|(word, _)| *word == value) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            wrong(format!(
                "parameter `{key}` must be one of {}",
                words.join(", ")
            ))
        }
    }
}
