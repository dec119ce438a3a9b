//! Seeding both kinds of database: what is there afterwards, what is refused, and what a killed seed leaves.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use canvas_cluster::seed::create_demo;
use canvas_cluster::seed::{Mode, Progress, SeedError, Summary, generate, run};
use canvas_cluster::store::NoFence;
use canvas_cluster::store::url::DatabaseUrl;

use super::fixture::{Fixture, bare, parse, soon};
use super::server::Server;

macro_rules! over_both {
    ($($body:ident),* $(,)?) => {
        mod over_sqlite {
            $(#[test] fn $body() { super::$body(&super::Fixture::sqlite()); })*
        }
        mod over_postgres {
            $(#[test] fn $body() { super::$body(&super::Fixture::postgres()); })*
        }
    };
}

over_both!(
    a_hundred_thousand_shoes_are_all_there_and_numbers_go_on,
    a_table_with_rows_is_refused_unless_told_otherwise,
    numbers_that_pass_32_bits_are_refused,
);

fn quietly(url: &DatabaseUrl, rows: u32, mode: Mode) -> Result<Summary, SeedError> {
    run(url, rows, mode, 2, |_| ())
}

fn a_hundred_thousand_shoes_are_all_there_and_numbers_go_on(fixture: &Fixture) {
    const ROWS: u32 = 100_000;
    let last = Cell::new(None);
    let summary = run(&fixture.url, ROWS, Mode::Fill, 3, |progress: Progress| {
        assert_eq!(progress.rows, u64::from(ROWS));
        last.set(Some(progress));
    })
    .unwrap();
    assert_eq!(
        (summary.rows, summary.first_shoe_id, summary.swept),
        (ROWS, 1, 0)
    );
    assert_eq!(
        last.get().map(|progress| progress.done),
        Some(u64::from(ROWS))
    );

    let store = &fixture.store;
    let shoes: Vec<i32> = (1..=100_000).collect();
    for chunk in shoes.chunks(10_000) {
        for (shoe_id, rows) in chunk.iter().zip(store.shoes(chunk, soon()).unwrap()) {
            assert_eq!(rows.len(), 1, "shoe {shoe_id}");
            assert_eq!(rows[0].media, generate(*shoe_id).media, "shoe {shoe_id}");
        }
    }
    let next = store.insert(&bare(1), &NoFence, soon()).unwrap();
    assert_eq!(
        next.id,
        100_001.into(),
        "the sequence goes on after the seeded rows"
    );
    // Nothing to migrate: the index is back.
    let migrated = canvas_cluster::store::schema::migrate(&fixture.url, false).unwrap();
    assert!(!migrated.table && !migrated.index);
}

fn a_table_with_rows_is_refused_unless_told_otherwise(fixture: &Fixture) {
    let store = &fixture.store;
    quietly(&fixture.url, 100, Mode::Fill).unwrap();
    let refused = quietly(&fixture.url, 100, Mode::Fill).unwrap_err();
    assert!(
        matches!(refused, SeedError::NotEmpty { rows: 100 }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("100 rows") && refused.to_string().contains("--append"));

    let own = store.insert(&bare(500), &NoFence, soon()).unwrap();
    let appended = quietly(&fixture.url, 10, Mode::Append).unwrap();
    assert_eq!(appended.first_shoe_id, 501);
    let rows = &store.shoes(&[500, 501, 510, 511], soon()).unwrap();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 0]);
    assert!(rows[1][0].id > own.id);
    let next = store.insert(&bare(1), &NoFence, soon()).unwrap();
    assert!(next.id > rows[2][0].id);

    quietly(&fixture.url, 5, Mode::Truncate).unwrap();
    let rows = store.shoes(&[1, 5, 6, 500], soon()).unwrap();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 0, 0]);
    assert_eq!(rows[0][0].id, 1.into());
    assert_eq!(quietly(&fixture.url, 0, Mode::Append).unwrap().rows, 0);
    let next = store.insert(&bare(1), &NoFence, soon()).unwrap();
    assert_eq!(next.id, 6.into());
}

fn numbers_that_pass_32_bits_are_refused(fixture: &Fixture) {
    fixture
        .store
        .insert(&bare(i32::MAX - 3), &NoFence, soon())
        .unwrap();
    let refused = quietly(&fixture.url, 4, Mode::Append).unwrap_err();
    assert!(matches!(refused, SeedError::TooMany), "{refused:?}");
    assert_eq!(
        quietly(&fixture.url, 3, Mode::Append)
            .unwrap()
            .first_shoe_id,
        i32::MAX - 2
    );
    // The next insert is not stopped by the failed attempt.
    fixture.store.insert(&bare(1), &NoFence, soon()).unwrap();
}

/// The process that seeds is killed when some chunks are in and others are not. Meanwhile a client of the
/// server stored a row: it must survive the sweeping.
#[test]
fn a_killed_seed_of_postgres_is_swept_by_the_next_one() {
    let server = Server::shared();
    let database = server.database();
    let fixture = Fixture::at(parse(&server.socket_url(&database)));
    let mut admin = server.admin(&database);
    admin
        .batch_execute("COMMENT ON TABLE shoe_images IS 'it''s ours; really'")
        .unwrap();
    let mut partial = 0;
    for attempt in 0..2 {
        let mut seeding = child("seed", &fixture.url.to_string(), 400_000);
        last_reported(&mut seeding, 60_000);
        if attempt == 1 {
            fixture.store.insert(&bare(-7), &NoFence, soon()).unwrap();
        }
        seeding.kill().unwrap();
        seeding.wait().unwrap();
        // The server may still be finishing for the dead; its locks end with it.
        let count = "SELECT count(*) FROM shoe_images WHERE shoe_id > 0";
        partial = admin.query_one(count, &[]).unwrap().get::<_, i64>(0);
        assert!(
            (1..400_000).contains(&partial),
            "{partial} rows of a killed seed"
        );
    }
    if let Err(error) = quietly(&fixture.url, 1000, Mode::Fill) {
        assert!(
            matches!(error, SeedError::NotEmpty { rows: 1 }),
            "{error:?}"
        );
    } else {
        panic!("the client's row was overlooked");
    }
    assert_eq!(
        fixture
            .store
            .shoes(&[-7, 1], soon())
            .unwrap()
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [1, 0]
    );
    let summary = quietly(&fixture.url, 1000, Mode::Append).unwrap();
    assert_eq!(
        (summary.swept, summary.first_shoe_id),
        (0, 1),
        "{partial} were swept by the refused one"
    );
    let comment: String = admin
        .query_one("SELECT obj_description('shoe_images'::regclass)", &[])
        .unwrap()
        .get(0);
    assert_eq!(comment, "it's ours; really");
}

/// Sweeping a large seed takes its time, in which readers were once kept out.
#[test]
fn sweeping_a_killed_seed_keeps_no_reader_out() {
    let server = Server::shared();
    let database = server.database();
    let fixture = Fixture::at(parse(&server.socket_url(&database)));
    fixture.store.insert(&bare(-7), &NoFence, soon()).unwrap();
    let mut admin = server.admin(&database);
    admin
        .batch_execute(
            "INSERT INTO shoe_images (id, shoe_id) SELECT n, n FROM generate_series(1001, 1100) AS n;
             COMMENT ON TABLE shoe_images IS 'canvas-cluster seed unfinished: ids 1001 to 1100'",
        )
        .unwrap();
    // A reader has begun, and goes on meanwhile.
    admin
        .batch_execute("BEGIN; SELECT count(*) FROM shoe_images")
        .unwrap();
    let summary = quietly(&fixture.url, 10, Mode::Append).unwrap();
    assert_eq!(summary.swept, 100);
    let there: i64 = admin
        .query_one("SELECT count(*) FROM shoe_images", &[])
        .unwrap()
        .get(0);
    assert_eq!(there, 11);
}

#[test]
fn two_seeds_of_one_database_do_not_mix() {
    let fixture = Fixture::postgres();
    // More than it loads in the time that the second one waits for its turn.
    let mut first = child("seed", &fixture.url.to_string(), 20_000_000);
    last_reported(&mut first, 20_000);
    let error = quietly(&fixture.url, 10, Mode::Append).unwrap_err();
    assert!(error.to_string().contains("another"), "{error}");
    first.kill().unwrap();
    first.wait().unwrap();
}

/// This test binary again, as a process of its own that can be killed: it runs [`a_process_of_its_own`].
pub fn child(what: &str, argument: &str, rows: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "seed::a_process_of_its_own", "--nocapture"])
        .env("STORES_CHILD", format!("{what} {rows} {argument}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until a seeding child has reported so many rows.
pub fn last_reported(child: &mut Child, rows: u64) {
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        let done = line
            .rsplit_once("loaded: ")
            .and_then(|(_, done)| done.parse::<u64>().ok());
        if done.is_some_and(|done| done >= rows) {
            return;
        }
    }
    panic!("the child ended before it had loaded {rows} rows");
}

/// In a child: what its parent asked for. By itself: the smallest case of the same, in this process.
#[test]
fn a_process_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let default = format!("seed 1 sqlite:{}", folder.path().join("shoes.db").display());
    let asked = std::env::var("STORES_CHILD").unwrap_or(default);
    let mut words = asked.splitn(3, ' ');
    let (what, rows, argument) = (
        words.next().unwrap(),
        words.next().unwrap(),
        words.next().unwrap(),
    );
    let rows = rows.parse().unwrap();
    match what {
        "seed" => {
            let report = |progress: Progress| println!("loaded: {}", progress.done);
            run(&parse(argument), rows, Mode::Fill, 2, report).unwrap();
        }
        "demo" => println!("demo: {:?}", create_demo(argument.as_ref(), rows).unwrap()),
        other => panic!("{other}"),
    }
}
