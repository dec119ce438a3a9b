//! `migrate` and `seed`: what they make, leave alone, refuse, and remove of an interrupted seed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use canvas_cluster::seed::{self, Mode, SeedError, Summary};
use canvas_cluster::store::StoreError;
use canvas_cluster::store::schema::{Migrated, migrate};
use serde_json::json;

use super::{fresh, open_at, soon, url};
use crate::support::couchdb::{CouchDatabase, CouchDb};

const DESIGN: &str = "/_design/canvas-cluster";
const MARK: &str = "/_local/canvas-cluster-seed";

fn quietly(database: &CouchDatabase, rows: u32, mode: Mode) -> Result<Summary, SeedError> {
    seed::run(&url(database), rows, mode, 2, |_| ())
}

#[test]
fn migrating_makes_what_is_missing_and_leaves_the_rest_alone() {
    let database = CouchDb::shared().database();
    let migrated = |table, index| Migrated {
        table,
        index,
        notify: None,
    };
    assert_eq!(
        migrate(&url(&database), false).unwrap(),
        migrated(true, true)
    );
    assert_eq!(
        migrate(&url(&database), false).unwrap(),
        migrated(false, false)
    );

    // Somebody's own view in our design document, and ours gone.
    let (_, mut design) = database.ask("GET", DESIGN, "");
    let views = &mut design["views"];
    views["mine"] = json!({ "map": "function (doc) { emit(doc._id); }" });
    let ours = views
        .as_object_mut()
        .unwrap()
        .remove("by_shoe_id")
        .expect("our view");
    assert_eq!(database.ask("PUT", DESIGN, &design.to_string()).0, 201);
    assert_eq!(
        migrate(&url(&database), false).unwrap(),
        migrated(false, true)
    );
    let (_, mut design) = database.ask("GET", DESIGN, "");
    assert!(design["views"]["mine"].is_object() && design["views"]["by_shoe_id"] == ours);

    // Another definition is not ours to change.
    design["views"]["by_shoe_id"]["map"] = json!("function (doc) { emit(doc.shoe_id, doc.img1); }");
    assert_eq!(database.ask("PUT", DESIGN, &design.to_string()).0, 201);
    database.put("one", &json!({ "shoe_id": 7 }));
    match migrate(&url(&database), false) {
        Err(StoreError::Schema(why)) => assert!(why.contains("by_shoe_id"), "{why}"),
        other => panic!("{other:?}"),
    }
    match open_at(&database).shoes(&[7], soon()) {
        Err(StoreError::Schema(why)) => assert!(why.contains("by_shoe_id"), "{why}"),
        other => panic!("{other:?}"),
    }
    match migrate(&url(&database), true) {
        Err(StoreError::Refused(why)) => assert!(why.contains("--with-notify"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_may_migrate_at_once() {
    let database = CouchDb::shared().database();
    let all: Vec<Migrated> = std::thread::scope(|scope| {
        let migrations: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| migrate(&url(&database), false)))
            .collect();
        migrations
            .into_iter()
            .map(|one| one.join().unwrap().unwrap())
            .collect()
    });
    // The stand-in tells everybody who asks at the same moment that the database is made.
    assert!(all.iter().any(|one| one.table), "{all:?}");
    assert_eq!(all.iter().filter(|one| one.index).count(), 1, "{all:?}");
}

#[test]
fn a_seed_fills_appends_and_begins_anew() {
    let (database, store) = fresh(CouchDb::shared());
    let done = quietly(&database, 1_234, Mode::Fill).unwrap();
    assert_eq!((done.rows, done.first_shoe_id, done.swept), (1_234, 1, 0));
    assert_eq!(database.count(), 1_234);
    assert_eq!(database.ask("GET", MARK, "").0, 404, "the mark is left");
    let rows = store.shoes(&[1, 777, 1_234, 1_235], soon()).unwrap();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 0]);
    assert_eq!(rows[1][0].media, seed::generate(777).media);
    assert!(rows[0][0].id < rows[1][0].id && rows[1][0].id < rows[2][0].id);

    match quietly(&database, 10, Mode::Fill) {
        Err(SeedError::NotEmpty { rows: 1_234 }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        quietly(&database, 10, Mode::Append).unwrap().first_shoe_id,
        1_235
    );
    assert_eq!(database.count(), 1_244);
    assert_eq!(
        quietly(&database, 1_001, Mode::Truncate)
            .unwrap()
            .first_shoe_id,
        1
    );
    assert_eq!(database.count(), 1_001);
    assert_eq!(quietly(&database, 0, Mode::Append).unwrap().rows, 0);

    database.put("last", &json!({ "shoe_id": i32::MAX }));
    assert!(matches!(
        quietly(&database, 1, Mode::Append),
        Err(SeedError::TooMany)
    ));
    assert!(store.ping(soon()).is_ok(), "the view is gone with the rows");
}

#[test]
fn what_an_interrupted_seed_has_left_is_removed_by_the_next() {
    let (database, store) = fresh(CouchDb::shared());
    let others = store
        .insert(&super::draft(3, "others"), &super::NoFence, soon())
        .unwrap();
    let id = |row: u32| format!("019f00000000700080000000{row:08x}");
    let docs: Vec<_> = (0..1_500)
        .map(|row| json!({ "_id": id(row), "shoe_id": 5 }))
        .collect();
    assert_eq!(
        database
            .ask("POST", "/_bulk_docs", &json!({ "docs": docs }).to_string())
            .0,
        201
    );
    let mark = json!({ "first_id": id(0), "last_id": id(u32::MAX), "beats": 3 });
    assert_eq!(database.ask("PUT", MARK, &mark.to_string()).0, 201);

    let done = quietly(&database, 20, Mode::Append).unwrap();
    assert_eq!((done.swept, done.first_shoe_id), (1_500, 4));
    assert_eq!(database.count(), 21);
    assert_eq!(store.shoes(&[3], soon()).unwrap(), [vec![others]]);
    assert_eq!(database.ask("GET", MARK, "").0, 404, "the mark is left");
}

#[test]
fn a_seed_that_is_at_work_is_left_alone() {
    let (database, _) = fresh(CouchDb::shared());
    let over = AtomicBool::new(false);
    let beat = |beats: u32| {
        let rev = database.ask("GET", MARK, "").1["_rev"].clone();
        let mut mark = json!({ "first_id": "0", "last_id": "1", "beats": beats });
        if rev.is_string() {
            mark["_rev"] = rev;
        }
        assert_eq!(database.ask("PUT", MARK, &mark.to_string()).0, 201);
    };
    beat(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for beats in 1.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                beat(beats);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let refused = quietly(&database, 10, Mode::Append);
        over.store(true, Ordering::SeqCst);
        match refused {
            Err(SeedError::Store(StoreError::Refused(why))) => {
                assert!(why.contains("another seed"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(database.count(), 0);
}

/// A seed whose server refuses a chunk takes back what the others have brought.
#[test]
fn a_seed_that_fails_leaves_nothing() {
    let couchdb = CouchDb::private();
    let (database, _) = fresh(&couchdb);
    couchdb.fault("forbidden");
    match quietly(&database, 5_000, Mode::Fill) {
        Err(SeedError::Store(StoreError::Refused(why))) => {
            assert!(why.contains("Sundays"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(database.count(), 0);
    assert_eq!(quietly(&database, 100, Mode::Fill).unwrap().swept, 0);
}
