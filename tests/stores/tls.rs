//! `sslmode` against a server with a certificate of our own making.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use canvas_cluster::store::{PoolOptions, StoreError, open, schema};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::fixture::{parse, soon, within};
use super::server::{PASSWORD_IN_URL, Server, give};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// PEM texts of a certificate that the authority signs for a name, and of its key.
fn certificate(authority: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (
        params.signed_by(&key, authority).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn each_mode_asks_for_what_it_says() {
    let ours = authority("ours");
    let (cert, key) = certificate(&ours, "db.shop.test");
    let rules = "hostssl all badge 127.0.0.1/32 cert\nhostnossl all open 127.0.0.1/32 trust\n\
                 hostssl all open 127.0.0.1/32 reject\nhostssl all shop 127.0.0.1/32 scram-sha-256\n\
                 hostnossl all shop 127.0.0.1/32 reject";
    let conf = "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'";
    let server = Server::start_with(conf, rules, |data| {
        for (name, text) in [
            ("server.crt", &cert),
            ("server.key", &key),
            ("ca.crt", &ours.pem()),
        ] {
            put(&data.join(name), text);
            give(&data.join(name));
        }
    });
    let database = server.database();
    schema::migrate(&parse(&server.socket_url(&database)), false).unwrap();
    server
        .admin("postgres")
        .batch_execute("CREATE ROLE badge SUPERUSER LOGIN; CREATE ROLE open SUPERUSER LOGIN")
        .unwrap();

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        put(&folder.path().join(name), text);
        folder.path().join(name).display().to_string()
    };
    let ca = file("ca.crt", &ours.pem());
    let other_ca = file("other.crt", &authority("other").pem());
    let (badge, badge_key) = certificate(&ours, "badge");
    let badge = format!(
        "sslcert={}&sslkey={}",
        file("badge.crt", &badge),
        file("badge.key", &badge_key)
    );

    let url = |user: &str, host: &str, parameters: &str| {
        format!(
            "postgres://{user}@{host}:{}/{database}?hostaddr=127.0.0.1&{parameters}",
            server.port
        )
    };
    let shop = &format!("shop:{PASSWORD_IN_URL}");
    let connects = |url: &str| {
        open(&parse(url), PoolOptions::default())
            .unwrap()
            .ping(soon())
            .unwrap_or_else(|e| panic!("{url}: {e}"));
    };
    let is_refused = |url: &str, part: &str| {
        let error = open(&parse(url), PoolOptions::default())
            .unwrap()
            .ping(within(5000))
            .unwrap_err();
        assert!(
            matches!(error, StoreError::Unavailable(_)),
            "{url}: {error:?}"
        );
        assert!(
            error.to_string().contains(part),
            "{url}: no `{part}` in: {error}"
        );
    };

    // TLS or not.
    is_refused(
        &url(shop, "db.shop.test", "sslmode=disable"),
        "pg_hba.conf rejects",
    );
    connects(&url(shop, "any.name", "sslmode=require"));
    connects(&url(shop, "any.name", "sslmode=prefer"));
    connects(&url(shop, "any.name", "sslmode=allow"));
    connects(&url("open", "any.name", "sslmode=prefer"));
    is_refused(
        &url("open", "any.name", "sslmode=require"),
        "pg_hba.conf rejects",
    );
    connects(&url(
        shop,
        "any.name",
        "sslmode=require&channel_binding=require",
    ));

    // Whose certificate.
    connects(&url(
        shop,
        "wrong.name",
        &format!("sslmode=verify-ca&sslrootcert={ca}"),
    ));
    is_refused(
        &url(
            shop,
            "db.shop.test",
            &format!("sslmode=verify-ca&sslrootcert={other_ca}"),
        ),
        "certificate",
    );
    is_refused(
        &url(
            shop,
            "any.name",
            &format!("sslmode=require&sslrootcert={other_ca}"),
        ),
        "certificate",
    );
    connects(&url(
        shop,
        "db.shop.test",
        &format!("sslmode=verify-full&sslrootcert={ca}"),
    ));
    is_refused(
        &url(
            shop,
            "wrong.name",
            &format!("sslmode=verify-full&sslrootcert={ca}"),
        ),
        "certificate",
    );

    // Ours.
    connects(&url(
        "badge",
        "db.shop.test",
        &format!("sslmode=verify-full&sslrootcert={ca}&{badge}"),
    ));
    is_refused(
        &url(
            "badge",
            "db.shop.test",
            &format!("sslmode=verify-full&sslrootcert={ca}"),
        ),
        "certificate",
    );

    // The seed's connections are no different.
    let seeded = url(
        "badge",
        "db.shop.test",
        &format!("sslmode=verify-full&sslrootcert={ca}&{badge}"),
    );
    canvas_cluster::seed::run(
        &parse(&seeded),
        100,
        canvas_cluster::seed::Mode::Fill,
        2,
        |_| (),
    )
    .unwrap();

    // Files that are not what they should be, told when the store is opened.
    for (parameters, part) in [
        (
            "sslmode=verify-full&sslrootcert=/nonexistent.pem".to_owned(),
            "/nonexistent.pem",
        ),
        (
            format!("sslmode=verify-full&sslrootcert={}", file("empty.crt", "")),
            "no certificate",
        ),
        (
            format!("sslcert={ca}&sslkey={}", file("no.key", "hunter2")),
            "no.key",
        ),
    ] {
        let Err(error) = open(&parse(&url(shop, "h", &parameters)), PoolOptions::default()) else {
            panic!("{parameters} was taken");
        };
        assert!(
            error.to_string().contains(part) && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
}

#[test]
fn a_server_without_tls_is_used_by_prefer_and_refused_by_require() {
    let server = Server::shared();
    let database = server.database();
    schema::migrate(&parse(&server.socket_url(&database)), false).unwrap();
    let ping = |url: String| {
        open(&parse(&url), PoolOptions::default())
            .unwrap()
            .ping(within(5000))
    };
    ping(server.tcp_url(&database)).unwrap();
    let error = ping(format!("{}?sslmode=require", server.tcp_url(&database))).unwrap_err();
    assert!(
        error.to_string().contains("does not support TLS"),
        "{error}"
    );
    // libpq's rule: a Unix-domain socket knows no TLS, whatever is asked for.
    ping(format!("{}?sslmode=require", server.socket_url(&database))).unwrap();
}
