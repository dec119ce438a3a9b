//! Passwords and tokens stay secret: whichever way they are given, they are in no log, no output and no `ps`.

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::support::postgres::{self, Postgres};
use crate::support::process::{command_line, free_port};
use crate::support::redis::{self, Redis};
use crate::support::shoes::{create_with_token, list_target};
use crate::support::{Backend, Canvas, Dir, PATIENCE, Server, wait_until};

const TOKEN: &str = "Okapi5-token-of-a-test-0123456789";

/// Both spellings of every secret of these tests.
const SECRETS: [&str; 5] = [
    postgres::PASSWORD,
    postgres::PASSWORD_ENCODED,
    redis::PASSWORD,
    redis::PASSWORD_ENCODED,
    TOKEN,
];

/// What is left of a secret that was cut or decoded on its way: enough to recognise each.
const TRACES: [&str; 4] = ["Zebra7", "Giraffe9", "Okapi5", "Lion3"];

#[track_caller]
fn assert_no_secret(text: &str, place: &str) {
    for secret in SECRETS.iter().chain(&TRACES) {
        assert!(!text.contains(secret), "`{secret}` is in {place}:\n{text}");
    }
}

/// A file that only its owner may read.
fn private_file(dir: &Dir, name: &str, text: &str) -> PathBuf {
    use std::io::Write;
    let path = dir.join(name);
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("a private file");
    path
}

/// The same settings, given in every way there is.
fn every_way(backend: &Backend) -> Vec<(&'static str, Canvas)> {
    let database = backend.database_url.as_str();
    let redis = backend.redis_url.as_deref().expect("a backend with Redis");
    let token = private_file(&backend.dir, "write-token", &format!("{TOKEN}\n"));
    let database_file = private_file(&backend.dir, "database-url", &format!("{database}\n"));
    let redis_file = private_file(&backend.dir, "redis-url", &format!("{redis}\n"));
    // What is no replica is left out, and named in the log.
    let replicas = format!("{database}\n{database}\n");
    let replica_file = private_file(&backend.dir, "database-read-url", &replicas);
    let keys = format!(
        "database_url = \"{database}\"\ndatabase_read_url = [\"{database}\", \"{database}\"]\nredis_url = \"{redis}\"\nwrite_token_file = {token:?}\n"
    );
    let config = private_file(&backend.dir, "config.toml", &keys);
    let canvas = || Canvas::new(backend.dir.path());
    vec![
        (
            "flags",
            canvas()
                .args([
                    "--database-url",
                    database,
                    "--database-read-url",
                    database,
                    "--database-read-url",
                    database,
                    "--redis-url",
                    redis,
                    "--write-token-file",
                ])
                .arg(&token),
        ),
        (
            "flags with =",
            canvas()
                .arg(format!("--database-url={database}"))
                .arg(format!("--database-read-url={database}"))
                .arg(format!("--redis-url={redis}"))
                .arg(format!("--write-token-file={}", token.display())),
        ),
        (
            "environment",
            canvas()
                .env("CANVAS_DATABASE_URL", database)
                .env("CANVAS_DATABASE_READ_URL", format!("{database} {database}"))
                .env("CANVAS_REDIS_URL", redis)
                .env("CANVAS_WRITE_TOKEN_FILE", &token),
        ),
        ("file", canvas().arg("--config").arg(&config)),
        (
            "files of their own",
            canvas()
                .arg("--database-url-file")
                .arg(&database_file)
                .arg("--database-read-url-file")
                .arg(&replica_file)
                .arg("--redis-url-file")
                .arg(&redis_file)
                .arg("--write-token-file")
                .arg(&token),
        ),
        (
            "credentials",
            canvas().env("CREDENTIALS_DIRECTORY", backend.dir.path()),
        ),
    ]
}

#[track_caller]
fn assert_not_in_ps(server: &Server, way: &str) {
    for pid in server.workers().into_iter().chain([server.master()]) {
        let shown = command_line(pid);
        assert!(!shown.is_empty());
        assert_no_secret(&shown, &format!("ps (given by {way})"));
    }
}

#[test]
fn no_secret_is_logged_or_shown_by_ps_however_it_is_given() {
    let backend = Backend::postgres_redis();
    for (shoe, (way, canvas)) in every_way(&backend).into_iter().enumerate() {
        let server = canvas
            .args(["--log-level", "debug", "--workers", "2"])
            .start();
        assert_not_in_ps(&server, way);
        server.wait_for_line("replica 0 (postgres://canvas:***@");
        create_with_token(&server, shoe as i64, TOKEN);
        let rows = server.get(&list_target(shoe as i64)).expect(200).json();
        assert_eq!(
            rows.as_array().map(Vec::len),
            Some(1),
            "given by {way}, it uses another database"
        );
        server.reload(2);
        assert_not_in_ps(&server, way);
        server.get(&list_target(shoe as i64)).expect(200);
        assert_no_secret(&server.log_text(), &format!("the log (given by {way})"));
    }
}

#[test]
fn check_shows_no_secret() {
    let backend = Backend::postgres_redis();
    for (way, canvas) in every_way(&backend) {
        let ended = canvas.arg("check").run().expect(0);
        assert_no_secret(
            &ended.output(),
            &format!("the output of check (given by {way})"),
        );
    }
}

#[test]
fn no_secret_is_logged_while_the_servers_are_down() {
    let (postgres, redis) = (Postgres::private(), Redis::private());
    let backend = Backend::on(&postgres, Some(&redis));
    backend.migrate();
    postgres.stop();
    redis.kill();
    let server = backend
        .canvas()
        .args(["--log-level", "debug", "--workers", "1"])
        .start();
    let problem = server.get(&list_target(7));
    problem.problem(503);
    let ready = server.get("/readyz");
    ready.problem(503);
    for answer in [problem, ready] {
        assert_no_secret(answer.text(), "an answer");
    }
    assert_no_secret(&server.log_text(), "the log");
}

#[test]
fn a_wrong_password_is_told_but_not_shown() {
    let backend = Backend::unmigrated_postgres_redis();
    let wrong_database = backend.database_url.replace("Zebra7", "Lion3");
    let wrong_redis = backend
        .redis_url
        .as_deref()
        .expect("a backend with Redis")
        .replace("Giraffe9", "Lion3");
    let canvas = || {
        Canvas::new(backend.dir.path())
            .env("CANVAS_DATABASE_URL", &wrong_database)
            .env("CANVAS_REDIS_URL", &wrong_redis)
            .env("CANVAS_LOG_LEVEL", "debug")
    };
    let server = canvas().workers(1).start();
    let answer = server.get(&list_target(7));
    answer.problem(503);
    wait_until(PATIENCE, "the log to tell of the wrong password", || {
        server.get(&list_target(7)).problem(503);
        server.log_text().contains("password")
    });
    assert_no_secret(answer.text(), "an answer");
    assert_no_secret(&server.log_text(), "the log");
    for command in ["migrate", "seed"] {
        let ended = canvas()
            .arg(command)
            .args(if command == "seed" {
                &["--rows", "5"][..]
            } else {
                &[]
            })
            .run();
        assert_eq!(ended.code, Some(111), "{ended:?}");
        assert_no_secret(&ended.output(), &format!("the output of {command}"));
    }
}

#[test]
fn a_url_that_is_refused_is_not_shown() {
    let dir = Dir::new();
    let port = free_port();
    // Should it serve instead of refusing, it does so on a free port and not on everybody's default.
    let canvas = || Canvas::new(dir.path()).env("CANVAS_LISTEN", "127.0.0.1:0");
    for url in [
        "postgres://canvas:Zebra7@127.0.0.1:notaport/shoes".to_owned(),
        "postgres://canvas:raw/Zebra7@127.0.0.1/shoes".to_owned(),
        "mysql://canvas:Zebra7@127.0.0.1/shoes".to_owned(),
        "postgres//canvas:Zebra7@127.0.0.1/shoes".to_owned(),
        "host=127.0.0.1 password=Zebra7 nonsense=1".to_owned(),
        format!("postgres://canvas:Zebra7@127.0.0.1:{port}/shoes?sslmode=sometimes"),
        format!("postgres://canvas@127.0.0.1:{port}/shoes?pasword=Zebra7"),
    ] {
        for (command, canvas) in [
            ("serve", canvas().args(["--database-url", &url])),
            ("serve", canvas().env("CANVAS_DATABASE_URL", &url)),
            ("check", canvas().args(["check", "--database-url", &url])),
            (
                "migrate",
                canvas().args(["migrate", "--database-url", &url]),
            ),
        ] {
            let ended = canvas.run().expect(100);
            assert_no_secret(&ended.output(), &format!("the refusal of {command}"));
        }
    }
    // A password in the wrong place: an argument that is no option, an option that is none.
    for argument in [
        "postgres://canvas:Zebra7@127.0.0.1/shoes",
        "--datbase-url=postgres://canvas:Zebra7@127.0.0.1/x",
    ] {
        let ended = canvas().arg(argument).run().expect(100);
        assert_no_secret(&ended.output(), "the refusal of an argument");
    }
    let config = private_file(
        &dir,
        "config.toml",
        "database_url = \"postgres://canvas:Zebra7@127.0.0.1/shoes\n",
    );
    let ended = canvas().arg("--config").arg(config).run().expect(100);
    assert_no_secret(&ended.output(), "the refusal of a file");
}
