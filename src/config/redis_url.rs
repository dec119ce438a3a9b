//! What a Redis URL says: one server, the master that Sentinels watch over, or a cluster. Called by the settings, which refuse
//! a bad URL at the start, and by the cache, which connects to what it names. Nothing is opened here.
//!
//! ```text
//! redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]                        (rediss:// over TLS; redis+unix:///PATH)
//! redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DATABASE]      (rediss+sentinel://)
//! redis+cluster://[USER:PASSWORD@]HOST[:PORT],…                         (rediss+cluster://)
//! ```

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

/// Where a Sentinel listens unless the URL says otherwise.
const SENTINEL_PORT: u16 = 26379;

/// Where a server of a cluster does.
const CLUSTER_PORT: u16 = 6379;

/// Query parameters of every URL.
const PARAMETERS: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

/// Those of a Sentinel's besides.
const SENTINEL_PARAMETERS: [&str; 2] = ["sentinel_user", "sentinel_password"];

/// Those that the client itself knows.
const PARAMETERS_OF_ONE: [&str; 4] = ["protocol", "db", "user", "pass"];

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Host name or address, without brackets, and port.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How many servers there are, and how the one to ask is found.
#[derive(Clone)]
pub enum Topology {
    One,
    /// The addresses are those of Sentinels, which name the master.
    Sentinel {
        master: String,
        login: Box<RedisConnectionInfo>,
    },
    /// The addresses are those of some servers of a cluster, which name all of them.
    Cluster,
}

/// The certificates of a connection over TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whom to trust, instead of the system's authorities.
    pub root: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A Redis URL, taken apart. It has no `Debug`, since it holds passwords.
#[derive(Clone)]
pub struct RedisUrl {
    pub topology: Topology,
    pub addresses: Vec<Address>,
    /// User, password and database number, for servers that hold keys.
    pub login: RedisConnectionInfo,
    /// `None` without TLS.
    pub tls: Option<TlsFiles>,
}

/// Takes a URL apart.
///
/// # Errors
/// What is wrong with it, without quoting any of it.
pub fn parse(url: &str) -> Result<RedisUrl, String> {
    let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
    if rest.contains('#') {
        // Nor is `#insecure`: the client is built without it, and would fail at every connection instead.
        return Err(
            "# and what follows it is not supported; rediss:// always checks the certificate"
                .to_owned(),
        );
    }
    let plain = match scheme {
        "redis" | "rediss" | "redis+unix" | "unix" => scheme,
        "redis+sentinel" | "redis+cluster" => "redis",
        "rediss+sentinel" | "rediss+cluster" => "rediss",
        _ => return Err("its scheme is none of these".to_owned()),
    };
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (sentinel, cluster) = (scheme.ends_with("+sentinel"), scheme.ends_with("+cluster"));
    let parameters = parse_query(query, |name| {
        PARAMETERS.contains(&name)
            || sentinel && SENTINEL_PARAMETERS.contains(&name)
            || !sentinel && !cluster && PARAMETERS_OF_ONE.contains(&name)
    })?;
    let tls = tls_files(plain == "rediss", &parameters)?;
    if !sentinel && !cluster {
        let info = connection(url)?;
        return Ok(RedisUrl {
            topology: Topology::One,
            addresses: vec![address(&info)?],
            login: info.redis_settings().clone(),
            tls,
        });
    }
    let (authority, path) = before_query.split_once('/').unwrap_or((before_query, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    if cluster {
        if !matches!(path, "" | "0") {
            return Err("a cluster has no databases, so nothing follows its addresses".to_owned());
        }
        let (addresses, login) = servers(plain, &user, hosts, CLUSTER_PORT, "")?;
        return Ok(RedisUrl {
            topology: Topology::Cluster,
            addresses,
            login,
            tls,
        });
    }
    let (master, database) = path.split_once('/').unwrap_or((path, ""));
    if master.is_empty() {
        return Err("behind its addresses must be the master's name: …:26379/mymaster".to_owned());
    }
    let (addresses, login) = servers(plain, &user, hosts, SENTINEL_PORT, database)?;
    Ok(RedisUrl {
        topology: Topology::Sentinel {
            master: decode(master)?,
            login: Box::new(login_of_sentinels(&parameters)?),
        },
        addresses,
        login,
        tls,
    })
}

/// The addresses between commas, and how to log in.
fn servers(
    scheme: &str,
    user: &str,
    hosts: &str,
    port: u16,
    database: &str,
) -> Result<(Vec<Address>, RedisConnectionInfo), String> {
    let mut addresses = Vec::new();
    let mut login = RedisConnectionInfo::default();
    for host in hosts.split(',') {
        let host = with_port(host, port);
        let info = connection(&format!("{scheme}://{user}{host}/{database}"))?;
        login = info.redis_settings().clone();
        addresses.push(address(&info)?);
    }
    Ok((addresses, login))
}

/// The client's own grammar.
fn connection(url: &str) -> Result<ConnectionInfo, String> {
    // Its words for what is wrong may quote the URL.
    url.into_connection_info().map_err(|_| {
        "a host, port, user, password or database number in it can't be read".to_owned()
    })
}

fn address(info: &ConnectionInfo) -> Result<Address, String> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Address::Tcp(host.clone(), *port))
        }
        ConnectionAddr::Unix(path) => Ok(Address::Unix(path.clone())),
        _ => Err("its kind of address is not supported".to_owned()),
    }
}

fn with_port(host: &str, port: u16) -> String {
    let after_brackets = host.rsplit(']').next().unwrap_or(host);
    match after_brackets.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:{port}"),
    }
}

fn parse_query(
    query: &str,
    is_known: impl Fn(&str) -> bool,
) -> Result<Vec<(String, String)>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match is_known(name) {
                true => Ok((name.to_owned(), decode(value)?)),
                false => Err(format!(
                    "a parameter in it is none of {}, and {} with Sentinels",
                    PARAMETERS.join(", "),
                    SENTINEL_PARAMETERS.join(", ")
                )),
            }
        })
        .collect()
}

fn value_of<'p>(parameters: &'p [(String, String)], name: &str) -> Option<&'p str> {
    let found = parameters.iter().find(|(known, _)| known == name);
    found
        .map(|(_, value)| &**value)
        .filter(|value| !value.is_empty())
}

fn tls_files(is_tls: bool, parameters: &[(String, String)]) -> Result<Option<TlsFiles>, String> {
    let file = |name| value_of(parameters, name).map(PathBuf::from);
    let identity = match (file("sslcert"), file("sslkey")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("sslcert and sslkey belong together".to_owned()),
    };
    let files = TlsFiles {
        root: file("sslrootcert"),
        identity,
    };
    if !is_tls && files != TlsFiles::default() {
        return Err(
            "certificates are of use over TLS alone: rediss://, rediss+sentinel:// or rediss+cluster://"
                .to_owned(),
        );
    }
    Ok(is_tls.then_some(files))
}

fn login_of_sentinels(parameters: &[(String, String)]) -> Result<RedisConnectionInfo, String> {
    let login = RedisConnectionInfo::default();
    match (
        value_of(parameters, "sentinel_user"),
        value_of(parameters, "sentinel_password"),
    ) {
        (None, None) => Ok(login),
        (None, Some(password)) => Ok(login.set_password(password)),
        (Some(user), Some(password)) => Ok(login.set_username(user).set_password(password)),
        (Some(_), None) => Err("sentinel_user takes a sentinel_password".to_owned()),
    }
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded
        .map(|text| text.into_owned())
        .map_err(|_| "an escape in it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn one_server() {
        let url = parse("redis://app:p%40ss@cache.test/3").expect("a URL");
        assert!(matches!(url.topology, Topology::One));
        assert_eq!(url.addresses, [tcp("cache.test", 6379)]);
        assert_eq!(url.login.username(), Some("app"));
        assert_eq!(url.login.password(), Some("p@ss"));
        assert_eq!((url.login.db(), url.tls), (3, None));
        let url = parse("redis+unix:///run/redis.sock?db=2&pass=x").expect("a URL");
        assert_eq!(url.addresses, [Address::Unix("/run/redis.sock".into())]);
        assert_eq!(url.login.db(), 2);
    }

    #[test]
    fn sentinels_and_what_they_watch() {
        let url = parse(
            "rediss+sentinel://app:pw@a,b:7000,[::1]/my%20master/2?sentinel_user=eye&sentinel_password=s%2Fp&sslrootcert=/ca.pem",
        )
        .expect("a URL");
        let Topology::Sentinel { master, login } = url.topology else {
            panic!("not Sentinels");
        };
        assert_eq!(master, "my master");
        assert_eq!(
            (login.username(), login.password()),
            (Some("eye"), Some("s/p"))
        );
        assert_eq!(
            url.addresses,
            [tcp("a", 26379), tcp("b", 7000), tcp("::1", 26379)]
        );
        assert_eq!((url.login.password(), url.login.db()), (Some("pw"), 2));
        assert_eq!(url.tls.expect("TLS").root, Some("/ca.pem".into()));
        assert_eq!(url.addresses[2].to_string(), "[::1]:26379");
    }

    #[test]
    fn a_cluster_and_some_of_its_servers() {
        let url = parse("rediss+cluster://app:pw@a,b:7000,[::1]/?sslrootcert=/ca.pem");
        let url = url.expect("a URL");
        assert!(matches!(url.topology, Topology::Cluster));
        let servers = [tcp("a", 6379), tcp("b", 7000), tcp("::1", 6379)];
        assert_eq!(url.addresses, servers);
        assert_eq!((url.login.username(), url.login.db()), (Some("app"), 0));
        assert_eq!(url.tls.expect("TLS").root, Some("/ca.pem".into()));
        let plain = parse("redis+cluster://h").expect("a URL");
        assert_eq!((plain.addresses, plain.tls), (vec![tcp("h", 6379)], None));
    }

    #[test]
    fn what_can_not_be_is_refused_without_being_quoted() {
        for url in [
            "hunter2",
            "http://hunter2",
            "redis://hunter2:x:y@h:port",
            "redis://h/hunter2",
            "redis://h?hunter2=1",
            "redis://h?sslrootcert=/hunter2",
            "rediss://h?sslcert=/hunter2",
            "rediss://h/#insecure",
            "redis+sentinel://hunter2:x@h:1",
            "redis+sentinel://h:1/",
            "redis+sentinel://h:1/name/hunter2",
            "redis+sentinel://h:1/name?sentinel_user=hunter2",
            "redis+sentinel://h:1,,k:2/name",
            "redis+cluster://h:1/hunter2",
            "redis+cluster://h:1,hunter2:x",
            "redis+cluster://h:1?db=hunter2",
            "redis://h:1?sentinel_password=hunter2",
        ] {
            let Err(why) = parse(url) else {
                panic!("{url} is taken");
            };
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
