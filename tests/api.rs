//! The API table of the README, row by row, over every store: statuses, headers and exact bytes.

use serde_json::Value;

use crate::support::http::{Request, Response};
use crate::support::shoes::{Id, MEDIA, create, delete, draft, id_of, list_target, post, put, row};
use crate::support::{Backend, over_a_cluster, over_both_stores, over_couchdb, through_pgbouncer};

over_both_stores!(
    lists_a_shoes_rows_by_id,
    lists_nothing_for_a_shoe_without_rows,
    shows_one_row,
    stores_a_row_and_says_where,
    replaces_a_row_whole,
    moves_a_row_to_another_shoe,
    accepts_the_id_in_a_put_only_if_it_is_the_paths,
    deletes_a_row,
    answers_404_for_rows_that_are_not_there,
    keeps_every_character,
    takes_the_largest_numbers,
    says_that_it_lives_and_serves,
    serves_many_requests_on_one_connection,
);

over_a_cluster!(
    lists_a_shoes_rows_by_id,
    shows_one_row,
    stores_a_row_and_says_where,
    replaces_a_row_whole,
    moves_a_row_to_another_shoe,
    deletes_a_row,
    takes_the_largest_numbers,
);

over_couchdb!(
    lists_a_shoes_rows_by_id,
    lists_nothing_for_a_shoe_without_rows,
    shows_one_row,
    stores_a_row_and_says_where,
    replaces_a_row_whole,
    moves_a_row_to_another_shoe,
    accepts_the_id_in_a_put_only_if_it_is_the_paths,
    deletes_a_row,
    answers_404_for_rows_that_are_not_there,
    keeps_every_character,
    takes_the_largest_numbers,
    says_that_it_lives_and_serves,
    serves_many_requests_on_one_connection,
);

through_pgbouncer!(
    lists_a_shoes_rows_by_id,
    lists_nothing_for_a_shoe_without_rows,
    shows_one_row,
    stores_a_row_and_says_where,
    replaces_a_row_whole,
    moves_a_row_to_another_shoe,
    accepts_the_id_in_a_put_only_if_it_is_the_paths,
    deletes_a_row,
    answers_404_for_rows_that_are_not_there,
    keeps_every_character,
    takes_the_largest_numbers,
    says_that_it_lives_and_serves,
    serves_many_requests_on_one_connection,
);

#[track_caller]
fn assert_json(response: &Response, status: u16, body: &str) {
    assert_eq!(response.status, status, "{response}");
    assert_eq!(
        response.header("content-type"),
        Some("application/json"),
        "{response}"
    );
    assert_eq!(response.text(), body);
}

fn lists_a_shoes_rows_by_id(backend: &Backend) {
    let server = backend.serve(2);
    let first = create(&server, 7, &[("img1", "a.jpg"), ("vid2", "z.mp4")]);
    create(&server, 8, &[("img1", "other.jpg")]);
    let second = create(&server, 7, &[("img7", "b.jpg")]);
    let expected = format!(
        "[{},{}]",
        row(first, 7, &[("img1", "a.jpg"), ("vid2", "z.mp4")]),
        row(second, 7, &[("img7", "b.jpg")])
    );
    for target in ["/api/images/?shoe_id=7", "/api/images?shoe_id=7"] {
        // Twice: the second answer may come from a cache.
        for _ in 0..2 {
            assert_json(&server.get(target), 200, &expected);
        }
    }
}

fn lists_nothing_for_a_shoe_without_rows(backend: &Backend) {
    let server = backend.serve(2);
    for _ in 0..2 {
        assert_json(&server.get("/api/images/?shoe_id=404"), 200, "[]");
    }
    // Nor is a shoe without rows an error at the ends of the range.
    assert_json(&server.get("/api/images/?shoe_id=2147483647"), 200, "[]");
}

fn shows_one_row(backend: &Backend) {
    let server = backend.serve(2);
    let id = create(&server, 7, &[("img2", "b.jpg")]);
    assert_json(
        &server.get(&format!("/api/images/{id}")),
        200,
        &row(id, 7, &[("img2", "b.jpg")]),
    );
}

fn stores_a_row_and_says_where(backend: &Backend) {
    let server = backend.serve(2);
    let all: Vec<(&str, String)> = MEDIA
        .iter()
        .map(|name| (*name, format!("https://cdn.example/{name}")))
        .collect();
    let media: Vec<(&str, &str)> = all
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    for target in ["/api/images/", "/api/images"] {
        let request = Request::new("POST", target).json(draft(12, &media));
        let response = server.call(&request);
        let id = id_of(&response);
        assert_json(&response, 201, &row(id, 12, &media));
        assert_eq!(
            response.header("location"),
            Some(format!("/api/images/{id}").as_str())
        );
        assert_json(
            &server.get(response.header("location").unwrap()),
            200,
            &row(id, 12, &media),
        );
        assert!(backend.has_row(id), "no row {id}");
    }
    // Only shoe_id is needed; null is the same as absent; a charset is no other type.
    let body = r#" { "vid1" : null, "shoe_id" : 13 } "#;
    let request = Request::new("POST", "/api/images/")
        .header("Content-Type", "application/json; charset=utf-8")
        .body(body);
    let response = server.call(&request);
    assert_json(&response, 201, &row(id_of(&response), 13, &[]));
}

fn replaces_a_row_whole(backend: &Backend) {
    let server = backend.serve(2);
    let id = create(
        &server,
        7,
        &[("img1", "a.jpg"), ("img2", "b.jpg"), ("vid1", "v.mp4")],
    );
    // Cached under both its names before it changes.
    server.get(&list_target(7)).expect(200);
    server.get(&format!("/api/images/{id}")).expect(200);
    let replaced = row(id, 7, &[("img2", "new.jpg")]);
    assert_json(
        &server.call(&put(id, draft(7, &[("img2", "new.jpg")]))),
        200,
        &replaced,
    );
    assert_json(&server.get(&format!("/api/images/{id}")), 200, &replaced);
    assert_json(&server.get(&list_target(7)), 200, &format!("[{replaced}]"));
}

fn moves_a_row_to_another_shoe(backend: &Backend) {
    let server = backend.serve(2);
    let id = create(&server, 7, &[("img1", "a.jpg")]);
    server.get(&list_target(7)).expect(200);
    assert_json(&server.get(&list_target(8)), 200, "[]");
    server
        .call(&put(id, draft(8, &[("img1", "a.jpg")])))
        .expect(200);
    assert_json(&server.get(&list_target(7)), 200, "[]");
    assert_json(
        &server.get(&list_target(8)),
        200,
        &format!("[{}]", row(id, 8, &[("img1", "a.jpg")])),
    );
}

fn accepts_the_id_in_a_put_only_if_it_is_the_paths(backend: &Backend) {
    let server = backend.serve(2);
    let id = create(&server, 7, &[]);
    let with_id = |given: &str| format!(r#"{{"id":{given},"shoe_id":7,"img1":"x"}}"#);
    let changed = row(id, 7, &[("img1", "x")]);
    assert_json(
        &server.call(&put(id, with_id(&id.json().to_string()))),
        200,
        &changed,
    );
    for wrong in [
        id.another().json().to_string(),
        match id {
            Id::Number(number) => format!("\"{number}\""),
            Id::Text(_) => "7".into(),
        },
        "null".into(),
        "99999999999".into(),
    ] {
        let problem = server.call(&put(id, with_id(&wrong))).problem(400);
        assert_eq!(problem.field.as_deref(), Some("id"), "{problem:?}");
    }
    assert_json(&server.get(&format!("/api/images/{id}")), 200, &changed);
}

fn deletes_a_row(backend: &Backend) {
    let server = backend.serve(2);
    let (gone, kept) = (create(&server, 7, &[]), create(&server, 7, &[]));
    server.get(&list_target(7)).expect(200);
    let response = server.call(&delete(gone)).expect(204);
    assert!(
        response.body.is_empty() && response.header("content-type").is_none(),
        "{response}"
    );
    server.get(&format!("/api/images/{gone}")).problem(404);
    server.call(&delete(gone)).problem(404);
    assert_json(
        &server.get(&list_target(7)),
        200,
        &format!("[{}]", row(kept, 7, &[])),
    );
    assert_eq!(backend.rows(), 1);
}

fn answers_404_for_rows_that_are_not_there(backend: &Backend) {
    let server = backend.serve(2);
    // The second group can't be an id at all: past 32 bits, not a number, not spelled as ids are.
    for id in [
        "1",
        "2147483647",
        "0",
        "2147483648",
        "99999999999999999999999",
        "-1",
        "abc",
        "1.0",
        "1x",
        "%31x",
    ] {
        let target = format!("/api/images/{id}");
        server.get(&target).problem(404);
        server
            .call(&Request::new("PUT", &target).json(draft(7, &[])))
            .problem(404);
        server.call(&Request::new("DELETE", &target)).problem(404);
    }
    assert_eq!(backend.rows(), 0);
}

fn keeps_every_character(backend: &Backend) {
    let server = backend.serve(2);
    let four_bytes_each = "\u{1f45f}".repeat(255);
    let values = [
        "'; DROP TABLE shoe_images; --",
        "x' OR '1'='1",
        r"\'; DELETE FROM shoe_images; --",
        "$1 :name ?1 %s {} ${x}",
        "E'\\x41' || (SELECT version())",
        "",
        " ",
        "quote \" backslash \\ slash / tab \t newline \n return \r bell \u{7} delete \u{7f}",
        "\u{2028}\u{2029}\u{feff}\u{202e} e\u{301} \u{10ffff} \u{fffd} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        &four_bytes_each,
    ];
    for (number, value) in values.iter().enumerate() {
        let shoe_id = 100 + number as i64;
        let response = server
            .call(&post(draft(shoe_id, &[("img3", value), ("vid2", value)])))
            .expect(201);
        let id = id_of(&response);
        for answer in [
            response.json(),
            server.get(&format!("/api/images/{id}")).expect(200).json(),
            server.get(&list_target(shoe_id)).expect(200).json()[0].clone(),
        ] {
            assert_eq!(answer["img3"].as_str(), Some(*value));
            assert_eq!(answer["vid2"].as_str(), Some(*value));
            assert_eq!(answer["img1"], Value::Null);
        }
    }
    // Escapes are another spelling of the same text.
    let body = r#"{"shoe_id":7,"img1":"\u0041\ud83d\udc5f\/\b","\u0069mg2":"b"}"#;
    let stored = server.call(&post(body)).expect(201).json();
    assert_eq!(stored["img1"].as_str(), Some("A\u{1f45f}/\u{8}"));
    assert_eq!(stored["img2"].as_str(), Some("b"));
    assert_eq!(backend.rows(), values.len() as i64 + 1);
}

fn takes_the_largest_numbers(backend: &Backend) {
    let server = backend.serve(2);
    let id = create(&server, 2_147_483_647, &[]);
    assert_json(
        &server.get("/api/images/?shoe_id=2147483647"),
        200,
        &format!("[{}]", row(id, 2_147_483_647, &[])),
    );
}

fn says_that_it_lives_and_serves(backend: &Backend) {
    let server = backend.serve(2);
    for target in ["/healthz", "/readyz"] {
        server.get(target).expect(200);
    }
}

fn serves_many_requests_on_one_connection(backend: &Backend) {
    let server = backend.serve(2);
    create(&server, 7, &[("img1", "a.jpg")]);
    let mut client = server.connect();
    for turn in 0..50 {
        // Answers, errors and empty answers in turn: none may disturb the next.
        let target = [
            "/api/images/?shoe_id=7",
            "/nowhere",
            "/api/images/?shoe_id=8",
        ][turn % 3];
        let response = client
            .get(target)
            .expect("an answer on the same connection");
        assert_eq!(response.status, [200, 404, 200][turn % 3], "{response}");
        assert!(!client.told_to_close, "{response}");
    }
    let last = client
        .call(&Request::new("GET", "/healthz").header("Connection", "close"))
        .expect("an answer")
        .expect(200);
    assert!(client.told_to_close && client.ends(), "{last}");
}
