//! Tests of the URL parser: what it reads, what it refuses, and that it never tells a password.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::*;

fn postgres_url(text: &str) -> PostgresUrl {
    match DatabaseUrl::parse(text) {
        Ok(DatabaseUrl::Postgres(url)) => *url,
        other => panic!("{text} became {other:?}"),
    }
}

fn refusal(text: &str) -> String {
    match DatabaseUrl::parse(text) {
        Err(error) => error.to_string(),
        Ok(url) => panic!("{text} was taken as {url:?}"),
    }
}

#[test]
fn sqlite_paths() {
    for (text, path) in [
        ("sqlite:shoes.db", "shoes.db"),
        ("sqlite:/var/lib/shoes.db", "/var/lib/shoes.db"),
        ("sqlite:///var/lib/shoe%20s.db", "/var/lib/shoe s.db"),
        ("sqlite:100%.db", "100%.db"),
    ] {
        let parsed = DatabaseUrl::parse(text);
        assert!(
            matches!(&parsed, Ok(DatabaseUrl::Sqlite(found)) if found == Path::new(path)),
            "{text}: {parsed:?}"
        );
    }
    assert!(refusal("sqlite:").contains("names no file"));
    assert!(refusal("sqlite:a.db?mode=ro").contains("takes no parameters"));
    assert!(refusal("sqlite://a.db").contains("three slashes"));
    assert!(refusal("sqlite::memory:").contains("can't be shared"));
}

#[test]
fn everything_in_a_postgres_url() {
    let url = postgres_url(
        "postgresql://us%40er:p%2Fw%3A%40@db1:6000,[::1],%2Frun%2Fpg/my%20db?sslmode=verify-full\
         &sslrootcert=/ca.pem&sslcert=c.pem&sslkey=k.pem&connect_timeout=3&application_name=x\
         &target_session_attrs=read-write&options=-c%20geqo%3Doff&tcp_user_timeout=1500&keepalives_idle=9",
    );
    assert_eq!(url.user.as_deref(), Some("us@er"));
    assert_eq!(url.password.as_ref().map(Secret::expose), Some("p/w:@"));
    assert_eq!(url.dbname.as_deref(), Some("my db"));
    assert_eq!(
        url.servers,
        [
            Server {
                host: Host::Tcp("db1".into()),
                address: None,
                port: 6000
            },
            Server {
                host: Host::Tcp("::1".into()),
                address: None,
                port: 5432
            },
            Server {
                host: Host::Unix("/run/pg".into()),
                address: None,
                port: 5432
            },
        ]
    );
    assert_eq!(url.sslmode, SslMode::VerifyFull);
    assert_eq!(url.sslrootcert, RootCert::File("/ca.pem".into()));
    assert_eq!(url.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(url.application_name, "x");
    let mut worker = url.clone();
    worker.name_worker(3);
    assert_eq!(worker.application_name, "x");
    assert_eq!(url.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(url.target_session_attrs, TargetSession::ReadWrite);
    assert_eq!(url.tcp_user_timeout, Duration::from_millis(1500));
    assert_eq!(url.keepalives_idle, Duration::from_secs(9));
    assert_eq!(
        DatabaseUrl::Postgres(Box::new(url)).to_string(),
        "postgres://us%40er:***@db1:6000,[::1],%2Frun%2Fpg/my%20db?sslmode=verify-full"
    );
}

#[test]
fn defaults_and_the_other_forms() {
    let url = postgres_url("postgres:///shop?host=/tmp/pg&port=7000&user=u");
    assert_eq!(
        url.servers,
        [Server {
            host: Host::Unix("/tmp/pg".into()),
            address: None,
            port: 7000
        }]
    );
    assert_eq!(url.application_name, "canvas-cluster");
    let mut worker = url.clone();
    worker.name_worker(3);
    assert_eq!(worker.application_name, "canvas-cluster/3");
    assert_eq!(url.sslmode, SslMode::Prefer);

    let bare = postgres_url("postgres://\n");
    assert_eq!(bare.servers[0].host, Host::Unix(POSTGRES_SOCKET_DIR.into()));

    let words = postgres_url(
        r"host=a,b hostaddr=10.0.0.1,10.0.0.2 port=1 user = 'it\'s' password='p w' dbname=d",
    );
    assert_eq!(words.user.as_deref(), Some("it's"));
    assert_eq!(words.password.as_ref().map(Secret::expose), Some("p w"));
    assert_eq!(words.servers[1].address, Some(IpAddr::from([10, 0, 0, 2])));
    assert_eq!(words.servers[1].port, 1);

    let url = DatabaseUrl::parse("postgres://u@h/d").unwrap();
    assert!(!url.holds_password());
    let url = url
        .or_password(Some(Secret::new("first")))
        .or_password(Some(Secret::new("second")));
    assert!(
        matches!(url, DatabaseUrl::Postgres(url) if url.password.as_ref().is_some_and(|secret| secret.expose() == "first"))
    );
}

#[test]
fn refusals_name_the_wrong_part() {
    for (text, part) in [
        ("postgres://h/d?sslmod=require", "`sslmod`"),
        ("postgres://h/d?sslmode=maybe", "verify-full"),
        ("postgres://h:0/d", "port of host 1"),
        ("postgres://a,h:x/d", "port of host 2"),
        ("postgres://::1/d", "IPv6"),
        ("postgres://h/d?connect_timeout=soon", "`connect_timeout`"),
        ("postgres://h/d?sslcert=c.pem", "sslcert and sslkey"),
        ("postgres://h/d?passfile=x", "`passfile`"),
        ("postgres://a,b,c/d?port=1,2", "as many as there are hosts"),
        ("postgres://h/%zz", "database name"),
        (
            "postgres://h/d?sslmode=require&sslrootcert=system",
            "verify-full",
        ),
        ("mysql://h/d", "`mysql`"),
        ("shoes.db", "no database URL"),
        ("  ", "empty"),
        ("host=h user='x", "not closed"),
    ] {
        let said = refusal(text);
        assert!(said.contains(part), "{text}: {said}");
    }
}

/// A password with a character that should have been encoded is the usual mistake, and the one where a
/// careless parser prints half of the password as "invalid port".
#[test]
fn no_refusal_and_no_debug_tells_a_password() {
    for text in [
        "postgres://u:hun/ter2@h/d",
        "postgres://u:hun?ter2@h/d",
        "postgres://u:hun?ter2=x@h/d",
        "postgres://u:12/hunter2@h/d",
        "postgres://u:hun:ter2@h:x/d",
        "postgres://u:hun%ter2@h/d",
        "postgres://u:hunter2@h/d?hunter2=1@x",
        "postgres://u:hunter2@h/d?ssl_mode=require",
        "mysql://u:hunter2@h/d",
        "u:hunter2@h/d",
        "password=hunter2 nonsense=1",
        "password='hunter2",
        "host=h password=hunter2 hunter2",
    ] {
        if let Err(error) = DatabaseUrl::parse(text) {
            let said = format!("{error} {error:?}");
            assert!(
                !said.contains("hun") && !said.contains("ter2"),
                "{text}: {said}"
            );
        }
    }
    let url = DatabaseUrl::parse("postgres://u:hunter2@h/d").unwrap();
    let said = format!("{url} {url:?} {:#?}", Secret::new("hunter2"));
    assert!(!said.contains("hunter2") && said.contains("***"), "{said}");
}

fn couch_url(text: &str) -> CouchUrl {
    match DatabaseUrl::parse(text) {
        Ok(DatabaseUrl::CouchDb(url)) => *url,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn everything_in_a_couchdb_url() {
    let url = couch_url("couchdb://us%40er:p%3Aw%2F@db.shop.test/shoes");
    assert_eq!(
        (url.tls, url.host.as_str(), url.port),
        (false, "db.shop.test", COUCHDB_PORT)
    );
    assert_eq!(url.user.as_deref(), Some("us@er"));
    assert_eq!(url.password.as_ref().map(Secret::expose), Some("p:w/"));
    assert_eq!(url.authority(), "db.shop.test:5984");
    assert_eq!(url.to_string(), "couchdb://us%40er:***@db.shop.test/shoes");

    let url = couch_url(
        "couchdbs://u@[::1]:7000/a%2Fb?sslrootcert=/ca.pem&sslcert=c.pem&sslkey=k.pem&connect_timeout=3\n",
    );
    assert_eq!((url.tls, url.host.as_str(), url.port), (true, "::1", 7000));
    assert_eq!(url.authority(), "[::1]:7000");
    assert_eq!(url.database, "a/b");
    assert_eq!(url.sslrootcert, Some("/ca.pem".into()));
    assert_eq!(url.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(url.to_string(), "couchdbs://u@[::1]:7000/a%2Fb");

    let bare = couch_url("couchdbs://h/d?sslrootcert=system&connect_timeout=0");
    assert_eq!(
        (bare.port, bare.user, bare.password.is_some()),
        (COUCHDBS_PORT, None, false)
    );
    assert!((bare.sslrootcert, bare.connect_timeout) == (None, None));

    let url = DatabaseUrl::parse("couchdb://u@h/d").unwrap();
    assert!(!url.holds_password());
    assert!(url.or_password(Some(Secret::new("word"))).holds_password());
}

#[test]
fn refusals_of_couchdb_urls_name_the_wrong_part_and_no_password() {
    for (text, part) in [
        ("couchdb://h", "names no database"),
        ("couchdb:///d", "names no host"),
        ("couchdb://u:p@a,b/d", "balancer"),
        ("couchdb://h/Shoes", "database name"),
        ("couchdb://h/_users", "database name"),
        ("couchdb://h/%zz", "database name"),
        ("couchdb://h:0/d", "port"),
        ("couchdb://::1/d", "IPv6"),
        ("couchdb://h h/d", "neither a name nor an address"),
        ("couchdb://:hunter2@h/d", "no user name"),
        ("couchdb://a%3Ab:hunter2@h/d", "colon"),
        ("couchdb://h/d?sslmode=require", "`sslmode`"),
        ("couchdb://h/d?connect_timeout=soon", "`connect_timeout`"),
        ("couchdb://h/d?sslrootcert=x", "couchdbs://"),
        ("couchdbs://h/d?sslcert=x", "sslcert and sslkey"),
        ("couchdb://u:hun/ter2@h/d", "cut short"),
        ("couchdb://u:hun?ter2@h/d", "cut short"),
        ("couchdb://u:hun?ter2=x@h/d", "cut short"),
        ("couchdb://u:hun:ter2@h:x/d", "port"),
        ("couchdb://u:hun%ter2@h/d", "password"),
    ] {
        let said = refusal(text);
        assert!(said.contains(part), "{text}: {said}");
        assert!(
            !said.contains("hun") && !said.contains("ter2"),
            "{text}: {said}"
        );
    }
    let url = couch_url("couchdb://u:hunter2@h/d");
    assert!(!format!("{url} {url:?}").contains("hunter2"));
}
