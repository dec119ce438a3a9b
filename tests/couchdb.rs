//! What is CouchDB's own: revisions in the place of transactions, answers that are lost or mean less than they say, what others
//! put into its documents, and its outages. The stand-in for CouchDB (`tests/couchdb/server.js`) commits the faults.

mod served;
mod tools;

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use canvas_cluster::store::url::DatabaseUrl;
use canvas_cluster::store::{
    Change, Changed, Deadline, Draft, Fence, MAX_ROWS, NoFence, PoolOptions, RowId, Store,
    StoreError, TextId, open, schema,
};
use serde_json::json;

use crate::support::couchdb::{CouchDatabase, CouchDb};

type OpenStore = Arc<dyn Store>;

/// A deadline that only a hanging test reaches.
fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn within(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

fn draft(shoe_id: i32, name: &str) -> Draft {
    Draft {
        shoe_id,
        media: std::array::from_fn(|i| Some(format!("{name}-{i}"))),
    }
}

fn url(database: &CouchDatabase) -> DatabaseUrl {
    DatabaseUrl::parse(&database.url()).expect("a database URL")
}

fn open_at(database: &CouchDatabase) -> OpenStore {
    open(&url(database), PoolOptions::default()).expect("a store")
}

/// A migrated, empty database, and a store over it.
fn fresh(couchdb: &CouchDb) -> (CouchDatabase, OpenStore) {
    let database = couchdb.database();
    schema::migrate(&url(&database), false).expect("a migration");
    let store = open_at(&database);
    (database, store)
}

fn text(id: &RowId) -> &str {
    id.text().expect("CouchDB's ids are texts")
}

/// Does something each time it is raised, and remembers for which shoes it was.
struct Meanwhile<F: Fn(u64)> {
    raised: Mutex<Vec<Vec<i32>>>,
    times: AtomicU64,
    act: F,
}

impl<F: Fn(u64)> Meanwhile<F> {
    fn new(act: F) -> Self {
        Meanwhile {
            raised: Mutex::default(),
            times: AtomicU64::new(0),
            act,
        }
    }

    fn raised(&self) -> Vec<Vec<i32>> {
        self.raised.lock().unwrap().clone()
    }
}

impl<F: Fn(u64)> Fence for Meanwhile<F> {
    fn raise(&self, shoe_ids: &[i32]) {
        self.raised.lock().unwrap().push(shoe_ids.to_vec());
        (self.act)(self.times.fetch_add(1, Ordering::SeqCst));
    }
}

#[test]
fn a_writer_that_is_overtaken_begins_anew_and_tells_of_every_shoe() {
    let (database, store) = fresh(CouchDb::shared());
    let other = open_at(&database);
    let row = store.insert(&draft(1, "a"), &NoFence, soon()).unwrap();
    // Between its reading and its writing another one moves the row to shoe 5, and then to shoe 6.
    let fence = Meanwhile::new(|time| {
        if time < 2 {
            let moved = draft(5 + time as i32, "other");
            other
                .replace(&row.id, &moved, &NoFence, soon())
                .unwrap()
                .expect("the row");
        }
    });
    let replaced = store
        .replace(&row.id, &draft(3, "b"), &fence, soon())
        .unwrap();
    assert_eq!(replaced.expect("the row").shoe_id, Some(3));
    assert_eq!(fence.raised(), [vec![1, 3], vec![3, 5], vec![3, 6]]);
    let counts: Vec<usize> = store
        .shoes(&[1, 3, 5, 6], soon())
        .unwrap()
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(counts, [0, 1, 0, 0]);

    // Deleted meanwhile: there is nothing to replace any more, and nothing comes back.
    let fence = Meanwhile::new(|_| assert!(other.delete(&row.id, &NoFence, soon()).unwrap()));
    assert_eq!(
        store
            .replace(&row.id, &draft(4, "c"), &fence, soon())
            .unwrap(),
        None
    );
    assert!(!store.delete(&row.id, &NoFence, soon()).unwrap());
    assert_eq!(database.count(), 0);
}

/// Each write that was acknowledged is a revision of its own, in one line without branches: none was made on the base of a state
/// that another one had ended.
#[test]
fn no_write_is_lost_to_another_one() {
    const WRITERS: i32 = 4;
    const ROUNDS: i32 = 8;
    let (database, store) = fresh(CouchDb::shared());
    let row = store.insert(&draft(1, "first"), &NoFence, soon()).unwrap();
    let deepest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, id, deepest) = (open_at(&database), &row.id, &deepest);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let fence = Meanwhile::new(|time| {
                        deepest.fetch_max(time, Ordering::SeqCst);
                    });
                    let mine = draft(writer, &format!("{writer}.{round}"));
                    let replaced = store.replace(id, &mine, &fence, soon()).unwrap();
                    assert_eq!(replaced.expect("the row").media, mine.media);
                }
            });
        }
    });
    let document = database.document(text(&row.id));
    let generation = document["_rev"]
        .as_str()
        .unwrap()
        .split('-')
        .next()
        .unwrap();
    assert_eq!(generation.parse(), Ok(1 + WRITERS * ROUNDS), "{document}");
    assert!(document.get("_conflicts").is_none(), "{document}");
    assert!(deepest.into_inner() > 0, "nobody was ever overtaken");
}

#[test]
fn what_others_put_into_a_document_stays_there() {
    let (database, store) = fresh(CouchDb::shared());
    database.put(
        "sneaker.1",
        &json!({
            "shoe_id": 7.0, "img1": "a", "tags": ["red"], "price": 12.5,
            "_attachments": {"note.txt": {"content_type": "text/plain", "data": "c2hvZQ=="}},
        }),
    );
    database.put("loose", &json!({ "img1": "nobody's" }));
    let id: RowId = TextId::parse("sneaker.1").unwrap().into();
    let loose: RowId = TextId::parse("loose").unwrap().into();
    let rows = store.rows(&[id.clone(), loose.clone()], soon()).unwrap();
    let row = rows[0].clone().expect("the row");
    assert_eq!((row.shoe_id, row.media[0].as_deref()), (Some(7), Some("a")));
    assert_eq!(store.shoes(&[7], soon()).unwrap(), [vec![row]]);
    assert_eq!(rows[1].as_ref().expect("the row").shoe_id, None);

    store
        .replace(&id, &draft(8, "b"), &NoFence, soon())
        .unwrap()
        .expect("the row");
    let document = database.document("sneaker.1");
    assert_eq!(
        (&document["tags"], &document["price"]),
        (&json!(["red"]), &json!(12.5))
    );
    assert_eq!(document["img1"], "b-0");
    assert!(
        document["_attachments"]["note.txt"].is_object(),
        "{document}"
    );

    let fence = Meanwhile::new(|_| ());
    store
        .replace(&loose, &draft(9, "c"), &fence, soon())
        .unwrap()
        .expect("the row");
    assert_eq!(fence.raised(), [[9]], "no shoe is no key");
}

#[test]
fn of_a_shoe_with_too_many_rows_there_is_one_too_many() {
    let (database, store) = fresh(CouchDb::shared());
    let rows = |shoe: i32, count: usize| {
        let row = move |n| json!({ "_id": format!("{shoe}-{n:05}"), "shoe_id": shoe });
        (0..count).map(row).collect::<Vec<_>>()
    };
    let docs = [rows(7, MAX_ROWS + 30), rows(8, 2)].concat();
    let (status, said) = database.ask("POST", "/_bulk_docs", &json!({ "docs": docs }).to_string());
    assert_eq!(status, 201, "{said}");
    let answers = store.shoes(&[8, 7, 9], soon()).unwrap();
    let shape: Vec<usize> = answers.iter().map(Vec::len).collect();
    assert_eq!(shape, [2, MAX_ROWS + 1, 0]);
    assert!(answers[1].is_sorted_by(|one, next| one.id < next.id));
}

#[test]
fn a_document_that_is_no_row_is_named() {
    let (database, store) = fresh(CouchDb::shared());
    for (id, document, word) in [
        ("number", json!({ "shoe_id": 1, "vid2": 7 }), "vid2"),
        ("fraction", json!({ "shoe_id": 1.5 }), "shoe_id"),
        ("great", json!({ "shoe_id": 2147483648_u64 }), "shoe_id"),
        ("words", json!({ "shoe_id": "one" }), "shoe_id"),
    ] {
        database.put(id, &document);
        let id: RowId = TextId::parse(id).unwrap().into();
        let refused = store.rows(slice::from_ref(&id), soon()).unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, StoreError::Schema(_)), "{said}");
        assert!(said.contains(word) && said.contains(text(&id)), "{said}");
    }
    database.put("no:path", &json!({ "shoe_id": 2 }));
    for (shoe, word) in [(1, "number"), (2, "no:path")] {
        let said = store.shoes(&[shoe], soon()).unwrap_err().to_string();
        assert!(said.contains(word), "{said}");
    }
    // They spoil nobody else's shoe.
    let row = store.insert(&draft(3, "a"), &NoFence, soon()).unwrap();
    assert_eq!(store.shoes(&[3], soon()).unwrap(), [vec![row]]);
    // Nor is what CouchDB keeps for itself a row.
    assert!(TextId::parse("_design").is_none());
}

/// What each fault lets a caller know of a new row, a changed one, and a deleted one.
#[test]
fn of_a_write_whose_answer_is_lost_what_can_be_known_is_found_out() {
    #[derive(Debug, PartialEq)]
    enum End {
        Done,
        Unknown,
        Refused,
    }
    fn end<T>(outcome: Result<T, StoreError>) -> End {
        match outcome {
            Ok(_) => End::Done,
            Err(StoreError::OutcomeUnknown(_)) => End::Unknown,
            Err(StoreError::Refused(_)) => End::Refused,
            Err(error) => panic!("{error}"),
        }
    }
    let couchdb = CouchDb::private();
    for (fault, expected, happens) in [
        ("lose-answer", End::Done, true),
        ("cluster-timeout", End::Done, true),
        ("lose-request", End::Unknown, false),
        ("bad-gateway", End::Unknown, false),
        // A look would find it, and it may be lost all the same.
        ("accepted", End::Unknown, true),
        ("forbidden", End::Refused, false),
    ] {
        let (database, store) = fresh(&couchdb);
        let count = |shoe| store.shoes(&[shoe], soon()).unwrap()[0].len();
        couchdb.fault(fault);
        assert_eq!(
            end(store.insert(&draft(1, "a"), &NoFence, soon())),
            expected,
            "{fault}"
        );
        assert_eq!(count(1), usize::from(happens), "{fault}");

        let row = store.insert(&draft(2, "a"), &NoFence, soon()).unwrap();
        couchdb.fault(fault);
        assert_eq!(
            end(store.replace(&row.id, &draft(3, "b"), &NoFence, soon())),
            expected,
            "{fault}"
        );
        assert_eq!(count(3), usize::from(happens), "{fault}");

        couchdb.fault(fault);
        assert_eq!(
            end(store.delete(&row.id, &NoFence, soon())),
            expected,
            "{fault}"
        );
        assert_eq!(count(2) + count(3), usize::from(!happens), "{fault}");

        couchdb.fault(fault);
        let group = [4, 4, 5].map(|shoe| Change::Insert(draft(shoe, "g")));
        for outcome in store.change(&group, &NoFence, soon()) {
            let outcome = outcome.map_err(|error| match &*error {
                StoreError::OutcomeUnknown(why) => StoreError::OutcomeUnknown(why.clone()),
                StoreError::Refused(why) => StoreError::Refused(why.clone()),
                error => panic!("{error}"),
            });
            assert!(outcome.as_ref().is_err() || matches!(outcome, Ok(Changed::Inserted(_))));
            assert_eq!(end(outcome), expected, "{fault}");
        }
        assert_eq!(
            (count(4), count(5)),
            if happens { (2, 1) } else { (0, 0) },
            "{fault}"
        );
        assert!(couchdb.is_past_fault());
        let document = database
            .ask("GET", &format!("/{}?conflicts=true", text(&row.id)), "")
            .1;
        assert!(document.get("_conflicts").is_none(), "{fault}: {document}");
    }
}

/// How much later than its deadline a call may end, on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_millis(500);

#[test]
fn a_frozen_server_holds_no_call_longer_than_its_deadline() {
    let couchdb = CouchDb::private();
    let (_, store) = fresh(&couchdb);
    let row = store.insert(&draft(1, "kept"), &NoFence, soon()).unwrap();
    couchdb.freeze();
    for attempt in 0..6 {
        let begun = Instant::now();
        let error = match attempt % 3 {
            0 => store.shoes(&[1], within(300)).err(),
            1 => store.delete(&row.id, &NoFence, within(300)).err(),
            _ => store.ping(within(300)).err(),
        };
        let took = begun.elapsed();
        let expected = matches!(
            error,
            Some(StoreError::TimedOut | StoreError::Unavailable(_))
        );
        assert!(expected, "attempt {attempt}: {error:?}");
        assert!(
            took < Duration::from_millis(300) + SLACK,
            "attempt {attempt} took {took:?}"
        );
    }
    // A write that has left is another thing: it may be carried out when the server wakes.
    let begun = Instant::now();
    let outcome = store.insert(&draft(2, "late"), &NoFence, within(300));
    assert!(
        matches!(outcome, Err(StoreError::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    assert!(begun.elapsed() < Duration::from_millis(300) + SLACK);
    couchdb.thaw();
    assert_eq!(store.shoes(&[1], soon()).unwrap(), [vec![row]]);
}

/// Idle connections that a restart has ended cost nobody anything.
#[test]
fn a_batch_is_one_request() {
    let couchdb = CouchDb::private();
    let (_, store) = fresh(&couchdb);
    let asked = |ask: &dyn Fn()| {
        let before = couchdb.served();
        ask();
        couchdb.served() - before
    };
    let inserts: Vec<Change> = (0..60)
        .map(|shoe| Change::Insert(draft(shoe, "a")))
        .collect();
    let shoes: Vec<i32> = (0..60).collect();
    assert_eq!(asked(&|| drop(store.change(&inserts, &NoFence, soon()))), 1);
    assert_eq!(asked(&|| drop(store.shoes(&shoes, soon()).unwrap())), 1);
    let rows = store.shoes(&shoes, soon()).unwrap();
    let ids: Vec<RowId> = rows.iter().flatten().map(|row| row.id.clone()).collect();
    assert_eq!(ids.len(), 60);
    assert_eq!(asked(&|| drop(store.rows(&ids, soon()).unwrap())), 1);
    let replace = || {
        drop(
            store
                .replace(&ids[0], &draft(1, "b"), &NoFence, soon())
                .unwrap(),
        )
    };
    assert_eq!(asked(&replace), 2, "one to read and one to write");
}

#[test]
fn a_restart_is_not_noticed_by_who_asks_after_it() {
    let couchdb = CouchDb::private();
    let (database, store) = fresh(&couchdb);
    let row = store.insert(&draft(1, "kept"), &NoFence, soon()).unwrap();
    couchdb.kill();
    let away = store.insert(&draft(1, "away"), &NoFence, soon());
    assert!(matches!(away, Err(StoreError::Unavailable(_))), "{away:?}");
    couchdb.start();
    let other = open_at(&database);
    assert_eq!(other.shoes(&[1], soon()).unwrap(), [vec![row.clone()]]);
    couchdb.kill();
    couchdb.start();
    let next = other.insert(&draft(2, "b"), &NoFence, soon()).unwrap();
    assert_eq!(
        other.shoes(&[1, 2], soon()).unwrap(),
        [vec![row], vec![next]]
    );
}
