//! The commands beside serving: `migrate` and `seed`, and databases that were there before us.

use crate::support::shoes::{Id, create, list_target, row};
use crate::support::{Backend, over_both_stores};

over_both_stores!(
    migrating_again_changes_nothing,
    seeding_fills_an_empty_table,
    seeding_leaves_a_filled_table_alone_unless_told,
    seeding_needs_a_table,
);

const ROWS: &str = "SELECT count(*) FROM shoe_images";

fn seed(backend: &Backend, arguments: &[&str]) -> crate::support::canvas::Ended {
    backend.tool("seed").args(arguments.iter().copied()).run()
}

fn migrating_again_changes_nothing(backend: &Backend) {
    backend.execute("INSERT INTO shoe_images (shoe_id, img1) VALUES (7, 'kept')");
    backend.migrate();
    backend.migrate();
    assert_eq!(backend.count(&format!("{ROWS} WHERE img1 = 'kept'")), 1);
    let server = backend.serve(1);
    assert_eq!(
        server.get(&list_target(7)).expect(200).json()[0]["img1"],
        "kept"
    );
}

fn seeding_fills_an_empty_table(backend: &Backend) {
    seed(backend, &["--rows", "1000"]).expect(0);
    assert_eq!(backend.count(ROWS), 1000);
    assert_eq!(
        backend.count("SELECT count(DISTINCT shoe_id) FROM shoe_images"),
        1000
    );
    assert_eq!(
        backend.count("SELECT CAST(min(shoe_id) AS bigint) FROM shoe_images"),
        1
    );
    assert_eq!(
        backend.count("SELECT CAST(max(shoe_id) AS bigint) FROM shoe_images"),
        1000
    );
    assert_eq!(
        backend.count(&format!("{ROWS} WHERE img1 IS NULL OR img1 = ''")),
        0
    );
    let server = backend.serve(2);
    for shoe in [1, 500, 1000] {
        assert_eq!(
            server.get(&list_target(shoe)).expect(200).json()[0]["shoe_id"],
            shoe
        );
    }
    // The next row of the API gets an id of its own: the sequence knows of the rows that COPY brought.
    let id = create(&server, 7, &[]);
    assert_eq!(backend.count(&format!("{ROWS} WHERE id = {id}")), 1);
    assert_eq!(backend.count(ROWS), 1001);
}

fn seeding_leaves_a_filled_table_alone_unless_told(backend: &Backend) {
    seed(backend, &["--rows", "1000"]).expect(0);
    let refused = seed(backend, &["--rows", "500"]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    refused.naming(&["--append", "--truncate"]);
    assert_eq!(backend.count(ROWS), 1000);

    seed(backend, &["--rows", "500", "--append"]).expect(0);
    assert_eq!(backend.count(ROWS), 1500);
    assert_eq!(
        backend.count("SELECT count(DISTINCT id) FROM shoe_images"),
        1500
    );

    seed(backend, &["--rows", "200", "--truncate"]).expect(0);
    assert_eq!(backend.count(ROWS), 200);
    let server = backend.serve(1);
    assert_eq!(
        server.get(&list_target(200)).expect(200).json()[0]["shoe_id"],
        200
    );

    seed(backend, &["--rows", "10", "--append", "--truncate"]).expect(100);
    assert_eq!(backend.count(ROWS), 200);
}

fn seeding_needs_a_table(backend: &Backend) {
    backend.execute("DROP TABLE shoe_images");
    let ended = seed(backend, &["--rows", "10"]);
    // Either it makes the table or it says who does.
    match ended.code {
        Some(0) => assert_eq!(backend.count(ROWS), 10),
        _ => drop(ended.naming(&["migrate"])),
    }
}

/// The table as the seed's notes create it, word for word.
const SEEDS_TABLE: &str = "CREATE TABLE Shoe_Images (ID SERIAL PRIMARY KEY, shoe_id int, img1 VARCHAR(255), \
    img2 VARCHAR(255), img3 VARCHAR(255), img4 VARCHAR(255), img5 VARCHAR(255), img6 VARCHAR(255), \
    img7 VARCHAR(255), vid1 VARCHAR(255), vid2 VARCHAR(255));";

#[test]
fn an_existing_database_works_unchanged() {
    let backend = Backend::unmigrated_postgres_redis();
    backend.execute(SEEDS_TABLE);
    backend.execute("INSERT INTO Shoe_Images (shoe_id, img1, vid2) VALUES (7, 'old.jpg', 'old.mp4'), (NULL, 'stray', NULL)");
    let server = backend.serve(2);
    server.get("/readyz").expect(200);
    let old = row(1, 7, &[("img1", "old.jpg"), ("vid2", "old.mp4")]);
    assert_eq!(
        server.get(&list_target(7)).expect(200).text(),
        format!("[{old}]")
    );
    // The column takes NULL, so a row may belong to no shoe.
    let stray = server.get("/api/images/2").expect(200).json();
    assert!(
        stray["shoe_id"].is_null() && stray["img1"] == "stray",
        "{stray}"
    );
    assert_eq!(create(&server, 7, &[("img1", "new.jpg")]), Id::Number(3));
    assert_eq!(
        server
            .get(&list_target(7))
            .expect(200)
            .json()
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    server.stop();

    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'shoe_images' AND indexdef LIKE '%(shoe_id)%'";
    assert_eq!(backend.count(indexes), 0, "serving changed the schema");
    backend.migrate();
    backend.migrate();
    assert_eq!(backend.count(indexes), 1);
    assert_eq!(backend.count(ROWS), 3);
}

#[test]
fn an_index_of_another_name_is_index_enough() {
    let backend = Backend::unmigrated_postgres_redis();
    backend.execute(SEEDS_TABLE);
    // As the seed's notes do it.
    backend.execute("create index shoe_images_shoe_id on shoe_images(shoe_id);");
    backend.migrate();
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'shoe_images' AND indexdef LIKE '%(shoe_id)%'";
    assert_eq!(
        backend.count(indexes),
        1,
        "a second index on the same column"
    );
}

#[test]
fn a_table_of_another_shape_is_told_of() {
    let backend = Backend::unmigrated_postgres_redis();
    backend.execute("CREATE TABLE shoe_images (id SERIAL PRIMARY KEY, shoe_id int)");
    let ended = backend.tool("migrate").run();
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    ended.naming(&["shoe_images"]);
}
