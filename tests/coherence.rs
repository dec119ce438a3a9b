//! A write is visible to every worker once it is answered, whatever the workers had cached; and no reader ever sees
//! a value older than one acknowledged before it asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::support::http::{Client, Response, Trouble};
use crate::support::process::{alive, signal};
use crate::support::shoes::{create, delete, draft, id_of, list_target, post, put, row};
use crate::support::{Backend, PATIENCE, Server, alone, over_both_stores, until_done, wait_until};

over_both_stores!(
    a_write_is_visible_to_every_worker_at_once,
    a_reader_never_sees_less_than_was_acknowledged,
    racing_writers_leave_every_worker_with_the_same_answer,
);

/// What every worker answers, asked on a connection to each.
#[track_caller]
fn assert_everywhere(clients: &mut [(i32, Client)], target: &str, expected: &str) {
    for (worker, client) in clients {
        let answer = client
            .get(target)
            .unwrap_or_else(|trouble| panic!("{trouble:?} from worker {worker}"));
        assert_eq!(
            answer.expect(200).text(),
            expected,
            "worker {worker} answers {target} out of date"
        );
    }
}

fn a_write_is_visible_to_every_worker_at_once(backend: &Backend) {
    let server = backend.serve(4);
    let mut clients = server.one_client_per_worker();
    assert_eq!(clients.len(), 4);
    for round in 0..12 {
        let shoe = 100 + round % 3;
        // The writer is another worker each time; every worker has the old answer cached, even an empty one.
        let writer = round as usize % 4;
        let before = server.get(&list_target(shoe)).expect(200);
        assert_everywhere(&mut clients, &list_target(shoe), before.text());

        let created = clients[writer]
            .1
            .call(&post(draft(shoe, &[("img1", "first")])))
            .unwrap()
            .expect(201);
        let id = id_of(&created);
        let now = |media: &[(&str, &str)]| match before.text() {
            "[]" => format!("[{}]", row(id, shoe, media)),
            some => format!("{},{}]", some.trim_end_matches(']'), row(id, shoe, media)),
        };
        assert_everywhere(&mut clients, &list_target(shoe), &now(&[("img1", "first")]));
        assert_everywhere(
            &mut clients,
            &format!("/api/images/{id}"),
            &row(id, shoe, &[("img1", "first")]),
        );

        clients[writer]
            .1
            .call(&put(id, draft(shoe, &[("img2", "second")])))
            .unwrap()
            .expect(200);
        assert_everywhere(
            &mut clients,
            &list_target(shoe),
            &now(&[("img2", "second")]),
        );
        assert_everywhere(
            &mut clients,
            &format!("/api/images/{id}"),
            &row(id, shoe, &[("img2", "second")]),
        );

        if round % 2 == 0 {
            clients[writer].1.call(&delete(id)).unwrap().expect(204);
            assert_everywhere(&mut clients, &list_target(shoe), before.text());
            for (worker, client) in &mut clients {
                let status = client.get(&format!("/api/images/{id}")).unwrap().status;
                assert_eq!(status, 404, "worker {worker} still shows a deleted row");
            }
        }
    }
}

/// The number that the row's `img1` holds.
fn version(response: &Response) -> u64 {
    let document = response.json();
    let row = document.get(0).unwrap_or(&document);
    row["img1"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no version: {response}"))
}

fn a_reader_never_sees_less_than_was_acknowledged(backend: &Backend) {
    const WRITES: u64 = 200;
    let _machine = alone();
    let server = backend.serve(4);
    let id = create(&server, 7, &[("img1", "0")]);
    let (acknowledged, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut clients = server.one_client_per_worker();
    clients.extend(server.one_client_per_worker());
    let mut writer = server.connect();
    let reads: u64 = thread::scope(|scope| {
        let readers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, (worker, mut client))| {
                let (acknowledged, done) = (&acknowledged, &done);
                scope.spawn(move || {
                    let target = if number % 2 == 0 {
                        list_target(7)
                    } else {
                        format!("/api/images/{id}")
                    };
                    let mut reads = 0;
                    while !done.load(Ordering::Relaxed) {
                        let least = acknowledged.load(Ordering::SeqCst);
                        let seen = version(&client.get(&target).expect("an answer").expect(200));
                        assert!(
                            seen >= least,
                            "worker {worker} shows {seen} after {least} was acknowledged"
                        );
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        until_done(&done, || {
            for next in 1..=WRITES {
                writer
                    .call(&put(id, draft(7, &[("img1", &next.to_string())])))
                    .expect("an answer")
                    .expect(200);
                acknowledged.store(next, Ordering::SeqCst);
            }
        });
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader that saw nothing old"))
            .sum()
    });
    assert!(reads > WRITES, "the readers hardly read: {reads}");
}

fn racing_writers_leave_every_worker_with_the_same_answer(backend: &Backend) {
    let _machine = alone();
    let server = backend.serve(4);
    let id = create(&server, 7, &[]);
    let writers = server.one_client_per_worker();
    thread::scope(|scope| {
        for (worker, mut client) in writers {
            scope.spawn(move || {
                for turn in 0..25 {
                    // Half of the writes move the row away, so both shoes' answers change.
                    let shoe = 7 + turn % 2;
                    let value = format!("{worker}-{turn}");
                    client
                        .call(&put(id, draft(shoe, &[("img1", &value)])))
                        .expect("an answer")
                        .expect(200);
                    client
                        .get(&list_target(shoe))
                        .expect("an answer")
                        .expect(200);
                }
            });
        }
    });
    let shoe = backend.count(&format!(
        "SELECT CAST(shoe_id AS bigint) FROM shoe_images WHERE id = {id}"
    ));
    let other = 15 - shoe;
    let mut clients = server.one_client_per_worker();
    let truth = clients[0]
        .1
        .get(&format!("/api/images/{id}"))
        .unwrap()
        .expect(200);
    let stored = truth.json()["img1"].as_str().unwrap().to_owned();
    let as_stored =
        format!("SELECT count(*) FROM shoe_images WHERE id = {id} AND img1 = '{stored}'");
    assert_eq!(
        backend.count(&as_stored),
        1,
        "the workers show what is not stored: {truth}"
    );
    let list = format!("[{}]", truth.text());
    assert_everywhere(&mut clients, &list_target(shoe), &list);
    assert_everywhere(&mut clients, &list_target(other), "[]");
}

#[test]
fn a_worker_killed_while_it_writes_leaves_no_worker_with_an_old_answer() {
    let _machine = alone();
    let backend = Backend::postgres_redis();
    let server = backend.serve(2);
    let id = create(&server, 7, &[("img1", "0")]);
    for round in 0..6 {
        let mut clients = server.one_client_per_worker();
        for (_, client) in &mut clients {
            client.get(&list_target(7)).unwrap().expect(200);
        }
        let (victim, mut writer) = clients.pop().expect("a client");
        writer
            .send_raw(&put(id, draft(7, &[("img1", &format!("round {round}"))])).bytes())
            .expect("a request");
        signal(victim, Signal::SIGKILL);
        match writer.receive(true) {
            Ok(answer) => assert_eq!(answer.status, 200, "{answer}"),
            Err(trouble) => assert!(matches!(
                trouble,
                Trouble::Reset | Trouble::Closed | Trouble::Truncated
            )),
        }
        wait_for_replacement(&server, victim, 2);
        // Committed or not, every worker shows what the database has.
        let list = |client: &mut Client| {
            client.get(&list_target(7)).unwrap().expect(200).json()[0]["img1"].clone()
        };
        for (worker, mut client) in server.one_client_per_worker() {
            // A transaction that its dead worker had sent may still be committing: then the answer changes with it.
            wait_until(PATIENCE, "the worker to show what is stored", || {
                let shown = list(&mut client);
                let shown = shown.as_str().expect("a text");
                let stored = format!(
                    "SELECT count(*) FROM shoe_images WHERE id = {id} AND img1 = '{shown}'"
                );
                backend.count(&stored) == 1
            });
            assert!(alive(worker));
        }
    }
}

#[track_caller]
fn wait_for_replacement(server: &Server, dead: i32, count: usize) {
    wait_until(PATIENCE, "a new worker in place of the dead one", || {
        let workers = server.workers();
        workers.len() == count && !workers.contains(&dead)
    });
}
