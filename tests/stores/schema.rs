//! Migrations: idempotent, safe when several run at once, and precise about a table of another shape.

use std::slice;

use canvas_cluster::store::schema::{Migrated, migrate};
use canvas_cluster::store::url::DatabaseUrl;
use canvas_cluster::store::{NoFence, PoolOptions, StoreError, open};

use super::fixture::{bare, draft, parse, soon};
use super::server::Server;

const COLUMNS: &str = "img1 varchar(255), img2 varchar(255), img3 varchar(255), img4 varchar(255), \
    img5 varchar(255), img6 varchar(255), img7 varchar(255), vid1 varchar(255), vid2 varchar(255)";

/// An empty database of each kind, and a way to run SQL in it.
fn each(test: impl Fn(&DatabaseUrl, &mut dyn FnMut(&str))) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shoes.db");
    test(&DatabaseUrl::Sqlite(path.clone()), &mut |sql| {
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch(sql)
            .unwrap();
    });
    let server = Server::shared();
    let database = server.database();
    test(&parse(&server.socket_url(&database)), &mut |sql| {
        server.admin(&database).batch_execute(sql).unwrap();
    });
}

fn shape_error(url: &DatabaseUrl) -> String {
    match migrate(url, false) {
        Err(StoreError::Schema(why)) => why,
        other => panic!("{url}: {other:?}"),
    }
}

#[test]
fn a_migration_may_be_repeated() {
    each(|url, sql| {
        assert_eq!(
            migrate(url, false).unwrap(),
            Migrated {
                table: true,
                index: true,
                notify: None,
            }
        );
        assert_eq!(
            migrate(url, false).unwrap(),
            Migrated {
                table: false,
                index: false,
                notify: None,
            }
        );
        sql("DROP INDEX shoe_images_shoe_id_idx");
        assert_eq!(
            migrate(url, false).unwrap(),
            Migrated {
                table: false,
                index: true,
                notify: None,
            }
        );
        let store = open(url, PoolOptions::default()).unwrap();
        store.insert(&bare(1), &NoFence, soon()).unwrap();
        sql("DROP INDEX shoe_images_shoe_id_idx");
        assert_eq!(
            migrate(url, false).unwrap(),
            Migrated {
                table: false,
                index: true,
                notify: None,
            }
        );
    });
}

#[test]
fn of_migrations_at_once_one_does_the_work() {
    each(|url, _| {
        let done: Vec<Migrated> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..5)
                .map(|_| scope.spawn(|| migrate(url, false).unwrap()))
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(
            done.iter().filter(|one| one.table).count(),
            1,
            "{url}: {done:?}"
        );
        assert_eq!(
            done.iter().filter(|one| one.index).count(),
            1,
            "{url}: {done:?}"
        );
    });
}

/// The experiment's own words, in mixed case and without quotes, and an index by another name.
#[test]
fn a_database_of_the_seeds_shape_works_unchanged() {
    each(|url, sql| {
        let id = match url {
            DatabaseUrl::Sqlite(_) => "Id integer primary key autoincrement",
            DatabaseUrl::CouchDb(_) => panic!("no SQL"),
            DatabaseUrl::Postgres(_) => "Id SERIAL PRIMARY KEY",
        };
        sql(&format!(
            "CREATE TABLE Shoe_Images ({id}, Shoe_Id INT, {})",
            COLUMNS.to_uppercase()
        ));
        sql("CREATE INDEX mine ON Shoe_Images (shoe_id)");
        assert_eq!(migrate(url, false).unwrap(), Migrated::default());
        let store = open(url, PoolOptions::default()).unwrap();
        let row = store.insert(&draft(7, "x"), &NoFence, soon()).unwrap();
        assert_eq!(store.shoes(&[7], soon()).unwrap()[0], [row]);
    });
}

#[test]
fn more_columns_in_another_order_will_do() {
    each(|url, sql| {
        let id = match url {
            DatabaseUrl::Sqlite(_) => "id integer primary key",
            DatabaseUrl::CouchDb(_) => panic!("no SQL"),
            DatabaseUrl::Postgres(_) => "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        };
        let columns = COLUMNS.replace("img3 varchar(255)", "img3 text");
        sql(&format!(
            "CREATE TABLE shoe_images ({columns}, note text, day int NOT NULL DEFAULT 1, shoe_id int, {id})"
        ));
        assert_eq!(
            migrate(url, false).unwrap(),
            Migrated {
                table: false,
                index: true,
                notify: None,
            }
        );
        let store = open(url, PoolOptions::default()).unwrap();
        let row = store.insert(&draft(7, "x"), &NoFence, soon()).unwrap();
        let read = store.rows(slice::from_ref(&row.id), soon());
        assert_eq!(read.unwrap(), [Some(row)]);
        let seeded =
            canvas_cluster::seed::run(url, 10, canvas_cluster::seed::Mode::Append, 1, |_| ())
                .unwrap();
        assert_eq!(seeded.first_shoe_id, 8);
    });
}

#[test]
fn a_table_of_another_shape_is_described_and_left_alone() {
    each(|url, sql| {
        let columns = COLUMNS
            .replace("img2 varchar(255)", "img2 bigint")
            .replace("vid2 varchar(255)", "note text");
        sql(&format!(
            "CREATE TABLE shoe_images (id int PRIMARY KEY, shoe_id text, {columns}, colour int NOT NULL)"
        ));
        let why = shape_error(url);
        for part in [
            "shoe_id is text",
            "img2 is bigint",
            "vid2 is missing",
            "id has no default",
            "colour is NOT NULL",
        ] {
            assert!(why.contains(part), "{url}: no `{part}` in: {why}");
        }
        sql("INSERT INTO shoe_images (id, colour) VALUES (1, 1)");
    });
}

#[test]
fn postgres_knows_more_shapes_that_will_not_do() {
    let server = Server::shared();
    for (create, part) in [
        (
            "CREATE TABLE shoe_images (id serial, shoe_id int, {})",
            "no primary key",
        ),
        (
            "CREATE TABLE shoe_images (id bigserial PRIMARY KEY, shoe_id int, {})",
            "id is bigint",
        ),
        (
            "CREATE TABLE \"Shoe_Images\" (id serial PRIMARY KEY, shoe_id int, {})",
            "\"Shoe_Images\"",
        ),
        ("CREATE VIEW shoe_images AS SELECT 1 AS id", "no table"),
    ] {
        let database = server.database();
        server
            .admin(&database)
            .batch_execute(&create.replace("{}", COLUMNS))
            .unwrap();
        let why = shape_error(&parse(&server.socket_url(&database)));
        assert!(why.contains(part), "no `{part}` in: {why}");
    }
    let database = server.database();
    let short = COLUMNS.replace("img1 varchar(255)", "img1 varchar(100) NOT NULL");
    let create = format!("CREATE TABLE shoe_images (id serial PRIMARY KEY, shoe_id int, {short})");
    server.admin(&database).batch_execute(&create).unwrap();
    let why = shape_error(&parse(&server.socket_url(&database)));
    assert!(
        why.contains("img1 is character varying(100)") && why.contains("img1 is NOT NULL"),
        "{why}"
    );
}

/// What a killed CREATE INDEX CONCURRENTLY leaves is an index that is there and can't be used.
#[test]
fn an_index_that_was_left_half_built_is_built_again() {
    let server = Server::shared();
    let database = server.database();
    let url = parse(&server.socket_url(&database));
    migrate(&url, false).unwrap();
    let mut admin = server.admin(&database);
    admin
        .batch_execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shoe_images_shoe_id_idx'::regclass")
        .unwrap();
    assert_eq!(
        migrate(&url, false).unwrap(),
        Migrated {
            table: false,
            index: true,
            notify: None,
        }
    );
    let valid =
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'shoe_images_shoe_id_idx'::regclass";
    assert!(admin.query_one(valid, &[]).unwrap().get::<_, bool>(0));
}
