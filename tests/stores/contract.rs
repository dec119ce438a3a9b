//! What the `Store` trait promises: each body runs over SQLite and over PostgreSQL, and most of them over CouchDB.

use std::collections::BTreeSet;
use std::slice;
use std::time::{Duration, Instant};

use canvas_cluster::store::url::DatabaseUrl;
use canvas_cluster::store::{
    Change, Changed, IdKind, MAX_ROWS, NoFence, PoolOptions, RowId, ShoeImages, StoreError, TextId,
    open,
};

use super::fixture::{Fixture, Watch, bare, draft, soon, within};
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
    a_batch_is_answered_in_the_order_of_its_questions,
    nulls_and_the_longest_texts_come_back_as_they_went,
    a_replaced_row_may_move_to_another_shoe,
    a_deleted_row_is_gone,
    the_fence_is_raised_before_the_commit_shows,
    a_fence_is_not_raised_for_a_row_that_is_not_there,
    what_does_not_fit_is_refused_and_nothing_is_stored,
    many_writers_and_readers_at_once,
    a_passed_deadline_ends_a_call_at_once,
    rows_made_by_others_may_belong_to_no_shoe,
    a_writer_waits_for_another_one_no_longer_than_its_deadline,
    changes_made_together_have_each_their_own_outcome,
    changes_made_together_are_not_seen_before_their_commit,
    of_a_shoe_with_too_many_rows_there_is_one_too_many,
);

/// What CouchDB promises, too: it has no transactions, so nobody waits for another one's.
mod over_couchdb {
    macro_rules! over_couchdb {
        ($($body:ident),* $(,)?) => {
            $(#[test] fn $body() { super::$body(&super::Fixture::couchdb()); })*
        };
    }
    over_couchdb!(
        a_batch_is_answered_in_the_order_of_its_questions,
        nulls_and_the_longest_texts_come_back_as_they_went,
        a_replaced_row_may_move_to_another_shoe,
        a_deleted_row_is_gone,
        the_fence_is_raised_before_the_commit_shows,
        a_fence_is_not_raised_for_a_row_that_is_not_there,
        what_does_not_fit_is_refused_and_nothing_is_stored,
        many_writers_and_readers_at_once,
        a_passed_deadline_ends_a_call_at_once,
        changes_made_together_have_each_their_own_outcome,
        changes_made_together_are_not_seen_before_their_commit,
    );
}

fn ids(rows: &[ShoeImages]) -> Vec<RowId> {
    rows.iter().map(|row| row.id.clone()).collect()
}

/// An id of the kind that the store does not give.
fn foreign(kind: IdKind) -> RowId {
    match kind {
        IdKind::Number => TextId::parse("1").expect("an id").into(),
        IdKind::Text => 1.into(),
    }
}

fn a_batch_is_answered_in_the_order_of_its_questions(fixture: &Fixture) {
    let store = &fixture.store;
    store.ping(soon()).unwrap();
    let a = store.insert(&draft(7, "a"), &NoFence, soon()).unwrap();
    let b = store.insert(&draft(9, "b"), &NoFence, soon()).unwrap();
    let c = store.insert(&draft(7, "c"), &NoFence, soon()).unwrap();
    assert!(a.id < b.id && b.id < c.id);
    assert_eq!(a.shoe_id, Some(7));
    assert_eq!(a.media, draft(7, "a").media);

    let answers = store
        .shoes(&[9, 8, 7, i32::MIN, 7, i32::MAX], soon())
        .unwrap();
    let shape: Vec<_> = answers.iter().map(|rows| ids(rows)).collect();
    assert_eq!(
        shape,
        [
            vec![b.id.clone()],
            vec![],
            vec![a.id.clone(), c.id.clone()],
            vec![],
            vec![a.id.clone(), c.id.clone()],
            vec![]
        ]
    );
    assert_eq!(answers[2], [a.clone(), c.clone()]);
    assert_eq!(
        store.shoes(&[7], soon()).unwrap(),
        [vec![a.clone(), c.clone()]]
    );
    assert_eq!(
        store.shoes(&[], soon()).unwrap(),
        Vec::<Vec<ShoeImages>>::new()
    );

    let rows = store
        .rows(
            &[c.id.clone(), fixture.absent(), a.id.clone(), c.id.clone()],
            soon(),
        )
        .unwrap();
    assert_eq!(rows, [Some(c.clone()), None, Some(a), Some(c)]);
    assert_eq!(store.rows(&[foreign(store.ids())], soon()).unwrap(), [None]);
    assert_eq!(store.rows(&[], soon()).unwrap(), []);

    // Far more than one batch of the lanes ever holds.
    let keys = match &fixture.url {
        // Its stand-in looks each of them up by itself.
        DatabaseUrl::CouchDb(_) => 2_000,
        DatabaseUrl::Sqlite(_) | DatabaseUrl::Postgres(_) => 20_000,
    };
    let many: Vec<i32> = (0..keys).collect();
    let answers = store.shoes(&many, soon()).unwrap();
    assert_eq!(answers.iter().filter(|rows| !rows.is_empty()).count(), 2);
}

fn nulls_and_the_longest_texts_come_back_as_they_went(fixture: &Fixture) {
    let mut draft = bare(-5);
    let stored = fixture.store.insert(&draft, &NoFence, soon()).unwrap();
    assert_eq!(stored.media, draft.media);

    draft.media[0] = Some("👟".repeat(255));
    draft.media[1] = Some(String::new());
    draft.media[2] = Some("' \" \\ \u{1} \n --; DROP TABLE shoe_images".to_owned());
    draft.media[8] = Some("é".repeat(255));
    let stored = fixture.store.insert(&draft, &NoFence, soon()).unwrap();
    let read = fixture
        .store
        .rows(slice::from_ref(&stored.id), soon())
        .unwrap();
    assert_eq!(read[0].as_ref(), Some(&stored));
    assert_eq!(stored.media, draft.media);
    assert_eq!(stored.shoe_id, Some(-5));
}

fn a_replaced_row_may_move_to_another_shoe(fixture: &Fixture) {
    let store = &fixture.store;
    let row = store.insert(&draft(1, "old"), &NoFence, soon()).unwrap();
    let fence = Watch::new(|_| ());
    let new = store
        .replace(&row.id, &bare(2), &fence, soon())
        .unwrap()
        .expect("the row");
    assert_eq!(
        new,
        ShoeImages {
            id: row.id.clone(),
            shoe_id: Some(2),
            media: bare(2).media
        }
    );
    assert_eq!(store.shoes(&[1, 2], soon()).unwrap(), [vec![], vec![new]]);

    store
        .replace(&row.id, &draft(2, "again"), &fence, soon())
        .unwrap()
        .expect("the row");
    assert_eq!(
        fence.raised(),
        [vec![1, 2], vec![2]],
        "old and new shoe, each once"
    );
}

fn a_deleted_row_is_gone(fixture: &Fixture) {
    let store = &fixture.store;
    let row = store.insert(&draft(4, "x"), &NoFence, soon()).unwrap();
    let fence = Watch::new(|_| ());
    assert!(store.delete(&row.id, &fence, soon()).unwrap());
    assert!(!store.delete(&row.id, &fence, soon()).unwrap());
    assert_eq!(fence.raised(), [vec![4]]);
    assert_eq!(
        store.rows(slice::from_ref(&row.id), soon()).unwrap(),
        [None]
    );

    let next = store.insert(&draft(4, "y"), &NoFence, soon()).unwrap();
    assert!(next.id > row.id, "an id is never used again");
}

fn the_fence_is_raised_before_the_commit_shows(fixture: &Fixture) {
    let store = &fixture.store;
    let row = store.insert(&draft(1, "first"), &NoFence, soon()).unwrap();
    // Another connection, at the moment of the raise, still sees what was.
    let fence = Watch::new(|_: &[i32]| {
        assert_eq!(store.shoes(&[1], soon()).unwrap()[0], slice::from_ref(&row));
        assert!(store.shoes(&[3], soon()).unwrap()[0].is_empty());
    });
    store.insert(&draft(3, "n"), &fence, soon()).unwrap();
    store
        .delete(
            &store.shoes(&[3], soon()).unwrap()[0][0].id,
            &NoFence,
            soon(),
        )
        .unwrap();
    store
        .replace(&row.id, &draft(3, "m"), &fence, soon())
        .unwrap()
        .expect("the row");
    assert_eq!(fence.raised(), [vec![3], vec![1, 3]]);
}

fn a_fence_is_not_raised_for_a_row_that_is_not_there(fixture: &Fixture) {
    let fence = Watch::new(|_| ());
    for id in [fixture.absent(), foreign(fixture.store.ids())] {
        assert_eq!(
            fixture
                .store
                .replace(&id, &bare(1), &fence, soon())
                .unwrap(),
            None
        );
        assert!(!fixture.store.delete(&id, &fence, soon()).unwrap());
    }
    assert!(fence.raised().is_empty());
    // The connection is fit for use again.
    fixture.store.insert(&bare(1), &NoFence, soon()).unwrap();
}

fn what_does_not_fit_is_refused_and_nothing_is_stored(fixture: &Fixture) {
    let store = &fixture.store;
    let row = store.insert(&bare(1), &NoFence, soon()).unwrap();
    let fence = Watch::new(|_| ());
    for (text, word) in [("é".repeat(256), "vid1"), ("a\0b".to_owned(), "NUL")] {
        let mut draft = bare(1);
        draft.media[7] = Some(text);
        for result in [
            store.insert(&draft, &fence, soon()).map(Some),
            store.replace(&row.id, &draft, &fence, soon()),
        ] {
            match result {
                Err(StoreError::Failed(why)) => assert!(why.contains(word), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(fence.raised().is_empty());
    assert_eq!(store.shoes(&[1], soon()).unwrap()[0], [row]);
}

fn many_writers_and_readers_at_once(fixture: &Fixture) {
    const WRITERS: i32 = 6;
    const ROUNDS: i32 = 40;
    let store = &fixture.store;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let row = store
                        .insert(&draft(writer, "new"), &NoFence, soon())
                        .unwrap();
                    if round % 4 == 0 {
                        store
                            .replace(&row.id, &draft(writer, "changed"), &NoFence, soon())
                            .unwrap()
                            .unwrap();
                    }
                    if round % 5 == 0 {
                        assert!(store.delete(&row.id, &NoFence, soon()).unwrap());
                    }
                }
            });
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let rows = &store.shoes(&[writer, -1], soon()).unwrap()[0];
                    assert!(rows.is_sorted_by(|one, next| one.id < next.id));
                }
            });
        }
    });
    let shoes: Vec<i32> = (0..WRITERS).collect();
    let answers = store.shoes(&shoes, soon()).unwrap();
    assert!(
        answers
            .iter()
            .all(|rows| rows.len() as i32 == ROUNDS * 4 / 5)
    );
    let distinct: BTreeSet<&RowId> = answers.iter().flatten().map(|row| &row.id).collect();
    assert_eq!(
        distinct.len() as i32,
        WRITERS * ROUNDS * 4 / 5,
        "no id was given twice"
    );
}

fn a_passed_deadline_ends_a_call_at_once(fixture: &Fixture) {
    let begun = Instant::now();
    let fence = Watch::new(|_| ());
    assert!(matches!(
        fixture.store.shoes(&[1], within(0)),
        Err(StoreError::TimedOut)
    ));
    assert!(matches!(
        fixture.store.insert(&bare(1), &fence, within(0)),
        Err(StoreError::TimedOut)
    ));
    assert!(begun.elapsed() < Duration::from_millis(500));

    // A fence that takes longer than the deadline: nothing may be committed after it.
    let slow = Watch::new(|_: &[i32]| std::thread::sleep(Duration::from_millis(600)));
    assert!(matches!(
        fixture.store.insert(&bare(1), &slow, within(500)),
        Err(StoreError::TimedOut)
    ));
    assert!(fixture.store.shoes(&[1], soon()).unwrap()[0].is_empty());
}

fn rows_made_by_others_may_belong_to_no_shoe(fixture: &Fixture) {
    let insert = "INSERT INTO shoe_images (img1) VALUES ('loose')";
    match &fixture.url {
        DatabaseUrl::Sqlite(path) => {
            rusqlite::Connection::open(path)
                .unwrap()
                .execute_batch(insert)
                .unwrap();
        }
        DatabaseUrl::CouchDb(_) => panic!("documents of others are tests/couchdb.rs'"),
        DatabaseUrl::Postgres(url) => {
            let database = url.dbname.as_deref().unwrap();
            Server::shared()
                .admin(database)
                .batch_execute(insert)
                .unwrap();
        }
    }
    let row = fixture
        .store
        .rows(&[1.into()], soon())
        .unwrap()
        .remove(0)
        .expect("the row");
    assert_eq!(
        (row.shoe_id, row.media[0].as_deref()),
        (None, Some("loose"))
    );
    let fence = Watch::new(|_| ());
    fixture
        .store
        .replace(&1.into(), &bare(8), &fence, soon())
        .unwrap()
        .expect("the row");
    assert_eq!(fence.raised(), [vec![8]], "no shoe is no key");
}

/// One writer holds its row (SQLite: the file) in its fence; another one wants it too.
fn a_writer_waits_for_another_one_no_longer_than_its_deadline(fixture: &Fixture) {
    let store = &fixture.store;
    let row = store.insert(&bare(1), &NoFence, soon()).unwrap();
    // A store of its own, as another worker has.
    let other = open(&fixture.url, PoolOptions::default()).unwrap();
    other.ping(soon()).unwrap();
    let fence = Watch::new(|_: &[i32]| {
        let begun = Instant::now();
        let refused = other.replace(&row.id, &bare(2), &NoFence, within(400));
        let waited = begun.elapsed();
        assert!(
            matches!(refused, Err(StoreError::TimedOut | StoreError::Refused(_))),
            "{refused:?}"
        );
        assert!((300..1500).contains(&waited.as_millis()), "{waited:?}");
    });
    store
        .replace(&row.id, &bare(3), &fence, soon())
        .unwrap()
        .expect("the row");
    other
        .replace(&row.id, &bare(4), &NoFence, soon())
        .unwrap()
        .expect("the row");
}

fn changes_made_together_have_each_their_own_outcome(fixture: &Fixture) {
    let store = &fixture.store;
    let kept = store.insert(&draft(1, "kept"), &NoFence, soon()).unwrap();
    let gone = store.insert(&draft(2, "gone"), &NoFence, soon()).unwrap();
    let mut wrong = bare(3);
    wrong.media[0] = Some("x".repeat(256));
    let fence = Watch::new(|_| ());
    let outcomes = store.change(
        &[
            Change::Insert(bare(4)),
            Change::Insert(wrong.clone()),
            Change::Delete(gone.id.clone()),
            Change::Replace(kept.id.clone(), bare(5)),
            Change::Delete(gone.id.clone()),
            Change::Replace(kept.id.clone(), wrong),
            Change::Replace(fixture.absent(), bare(6)),
            Change::Insert(draft(4, "last")),
        ],
        &fence,
        soon(),
    );
    assert_eq!(outcomes.len(), 8);
    for place in [1, 5] {
        let error = outcomes[place].as_ref().expect_err("it does not fit");
        assert!(error.to_string().contains("img1"), "{error}");
    }
    let of = |place: usize| outcomes[place].as_ref().expect("it fits");
    let (Changed::Inserted(first), Changed::Inserted(last)) = (of(0), of(7)) else {
        panic!("{outcomes:?}");
    };
    assert_eq!(*of(2), Changed::Deleted(true));
    assert!(matches!(of(3), Changed::Replaced(Some(row)) if row.shoe_id == Some(5)));
    assert_eq!(*of(4), Changed::Deleted(false), "the one before it counts");
    assert_eq!(*of(6), Changed::Replaced(None));
    let found = store.shoes(&[4, 1, 2, 3, 5], soon()).unwrap();
    assert_eq!(found[0], [first.clone(), last.clone()]);
    assert_eq!(
        (ids(&found[1]), ids(&found[2]), ids(&found[3])),
        (vec![], vec![], vec![])
    );
    assert_eq!(ids(&found[4]), [kept.id]);
    let mut raised: Vec<i32> = fence.raised().concat();
    raised.sort_unstable();
    raised.dedup();
    assert_eq!(
        raised,
        [1, 2, 4, 5],
        "whatever was touched, and nothing else"
    );
}

/// One transaction, one commit: nothing of the group shows while the fence is up, and everything right after.
fn changes_made_together_are_not_seen_before_their_commit(fixture: &Fixture) {
    let store = &fixture.store;
    let fence = Watch::new(|shoes: &[i32]| {
        assert_eq!(shoes, [1, 2, 3]);
        assert!(
            store
                .shoes(&[1, 2, 3], soon())
                .unwrap()
                .iter()
                .all(Vec::is_empty)
        );
    });
    let drafts = [3, 1, 2, 1].map(|shoe| Change::Insert(bare(shoe)));
    let outcomes = store.change(&drafts, &fence, soon());
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(fence.raised().len(), 1, "one transaction");
    let counts: Vec<usize> = store
        .shoes(&[1, 2, 3], soon())
        .unwrap()
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(counts, [2, 1, 1]);
    assert!(store.change(&[], &fence, soon()).is_empty());
    // A deadline that passes while the fence goes up: none of them is committed.
    let slow = Watch::new(|_: &[i32]| std::thread::sleep(Duration::from_millis(600)));
    let outcomes = store.change(&drafts, &slow, within(500));
    for outcome in outcomes {
        assert!(matches!(*outcome.unwrap_err(), StoreError::TimedOut));
    }
    assert_eq!(store.shoes(&[1], soon()).unwrap()[0].len(), 2);
}

/// A million rows of one shoe were once a million rows in the memory of whoever asked.
fn of_a_shoe_with_too_many_rows_there_is_one_too_many(fixture: &Fixture) {
    let store = &fixture.store;
    // More than one query answers, of three shoes that have many and two that have few.
    let counts = [
        (1, 2),
        (7, MAX_ROWS),
        (8, 6 * MAX_ROWS),
        (9, MAX_ROWS + 1),
        (10, 3),
    ];
    for (shoe, count) in counts {
        let change = Change::Insert(draft(shoe, "a"));
        for outcome in store.change(&vec![change; count], &NoFence, soon()) {
            outcome.unwrap();
        }
    }
    let shoes = [10, 9, 8, 8, 7, 6, 1];
    let most = MAX_ROWS + 1;
    let answers = store.shoes(&shoes, soon()).unwrap();
    let shape: Vec<usize> = answers.iter().map(Vec::len).collect();
    assert_eq!(shape, [3, most, most, most, MAX_ROWS, 0, 2]);
    for (shoe, rows) in shoes.iter().zip(&answers) {
        assert!(rows.iter().all(|row| row.shoe_id == Some(*shoe)));
        assert!(rows.is_sorted_by(|one, next| one.id < next.id));
        assert_eq!(store.shoes(&[*shoe], soon()).unwrap()[0], *rows);
    }
}
