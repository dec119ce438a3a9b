//! What a worker asks its stores for: each thing once, many things together, and nothing for longer than somebody waits for it.

use nix::sys::signal::Signal;

use crate::support::http::Request;
use crate::support::locked::Locked;
use crate::support::postgres::Postgres;
use crate::support::process::{signal, stand_still};
use crate::support::redis::{self, Redis};
use crate::support::shoes::list_target;
use crate::support::{Backend, Client, PATIENCE, Server, alone, wait_until};

/// A database whose shoes say something else in place of their first picture.
fn telling(what: &str) -> Backend {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    backend.execute(&format!(
        "INSERT INTO shoe_images (shoe_id) SELECT n FROM generate_series(1, 1000) AS n;
         ALTER TABLE shoe_images RENAME TO stored;
         CREATE SEQUENCE asked;
         CREATE VIEW shoe_images AS SELECT id, shoe_id, ({what})::text::varchar AS img1, img2, img3, img4, img5, img6,
             img7, vid1, vid2 FROM stored"
    ));
    backend
}

/// Connections with a request each, for these shoes.
fn ask(server: &Server, shoes: impl Iterator<Item = i64>) -> Vec<Client> {
    let ask = |shoe| {
        let mut client = server.connect();
        let request = Request::new("GET", &list_target(shoe));
        client.send_raw(&request.bytes()).expect("a request");
        client
    };
    shoes.map(ask).collect()
}

/// Asks for shoes that nobody has asked for while the database is locked, so that all of them wait; what came of it afterwards.
fn ask_while_locked(
    backend: &Backend,
    server: &Server,
    table: &str,
    shoes: impl Iterator<Item = i64>,
) -> Vec<String> {
    let locked = Locked::table(backend.postgres(), table);
    let mut clients = ask(server, shoes);
    server.wait_until_read(&clients);
    locked.release();
    let answers = clients.iter_mut().map(|client| {
        let answer = client.receive(true).expect("an answer").expect(200);
        answer.text().to_owned()
    });
    answers.collect()
}

#[test]
fn a_hundred_who_ask_for_the_same_shoe_are_one_question() {
    let backend = telling("nextval('asked')");
    let server = backend.canvas().workers(1).args(["--lanes", "4"]).start();
    let answers = ask_while_locked(&backend, &server, "stored", (0..100).map(|_| 7));
    assert!(answers[0].contains(r#""img1":"1""#), "{}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(backend.count("SELECT last_value FROM asked"), 1);
}

#[test]
fn many_shoes_are_few_questions() {
    let postgres = Postgres::shared();
    let backend = Backend::on(postgres, None);
    backend.migrate();
    let name = &backend.postgres().name;
    postgres.administer(&format!("ALTER DATABASE {name} SET log_statement = 'all'"));
    let server = backend.canvas().workers(1).args(["--lanes", "2"]).start();
    let answers = ask_while_locked(&backend, &server, "shoe_images", 1..=200);
    assert!(answers.iter().all(|answer| answer == "[]"));
    let log = postgres.log();
    let questions = log
        .lines()
        .filter(|line| line.contains(&format!(" {name} LOG:")))
        .filter(|line| line.contains("execute") && line.contains("shoe_id = ANY"))
        .count();
    println!("200 shoes: {questions} questions");
    // A call answers eight at least.
    assert!((1..=25).contains(&questions), "{questions} questions");
}

/// How many there have been.
fn mgets(url: &str) -> u64 {
    let mut connection = redis::connect(url).expect("the test's Redis");
    let info: String = ::redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut connection)
        .expect("INFO");
    let calls = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
    let number = calls.and_then(|rest| rest.split(',').next()?.parse().ok());
    number.unwrap_or(0)
}

#[test]
fn many_shoes_are_few_questions_of_redis() {
    let _machine = alone();
    let redis = Redis::private();
    let backend = Backend::on(Postgres::shared(), Some(&redis));
    backend.migrate();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--hang-timeout", "5m"])
        .start();
    server.get(&list_target(1)).expect(200);
    let url = backend.redis_url.clone().expect("a backend with Redis");
    // How many come together is a race of two threads; who asks for each alone needs 200 every time.
    let fewest = (1..=5)
        .map(|turn| {
            let before = mgets(&url);
            let worker = server.only_worker();
            stand_still(worker);
            let mut clients = ask(&server, 1000 * turn..1000 * turn + 200);
            signal(worker, Signal::SIGCONT);
            for client in &mut clients {
                client.receive(true).expect("an answer").expect(200);
            }
            mgets(&url) - before
        })
        .min();
    let fewest = fewest.expect("five turns");
    println!("200 shoes: {fewest} MGETs");
    assert!((1..=100).contains(&fewest), "{fewest} MGETs");
}

#[test]
fn the_database_knows_how_long_a_request_waits() {
    let backend = telling("current_setting('statement_timeout')");
    let server = backend
        .canvas()
        .workers(1)
        .args(["--request-timeout", "17s"])
        .start();
    let rows = server.get(&list_target(7)).expect(200).json();
    assert_eq!(rows[0]["img1"], "17s");
}

/// Nobody waits for it any more, so the database does not work on it either.
#[test]
fn a_question_that_is_given_up_ends_in_the_database_too() {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--request-timeout", "4s"])
        .start();
    server.get(&list_target(1)).expect(200);
    let locked = Locked::table(backend.postgres(), "shoe_images");
    // Whether the database is back is asked all the while, and waits too.
    let waiting = || {
        backend.count(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND query LIKE 'SELECT id, shoe_id%'",
        )
    };
    let mut client = ask(&server, 7..8).pop().expect("a client");
    wait_until(PATIENCE, "the question to wait", || waiting() == 1);
    client.receive(true).expect("an answer").problem(503);
    wait_until(PATIENCE, "the question to end", || waiting() == 0);
    locked.release();
    wait_until(PATIENCE, "answers again", || {
        server.get(&list_target(8)).status == 200
    });
}
