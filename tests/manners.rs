//! What goes with an answer besides its content: validators, cache rules, CORS, request ids.

use crate::support::http::Request;
use crate::support::shoes::{create, draft, list_target, post};
use crate::support::{Backend, Server};

fn get(server: &Server, fields: &[(&str, &str)]) -> crate::support::http::Response {
    let request = Request::new("GET", &list_target(7));
    server.call(&fields.iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    }))
}

#[test]
fn a_client_that_has_the_answer_is_told_so() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    create(&server, 7, &[("img1", "a")]);
    let first = get(&server, &[]).expect(200);
    let etag = first.header("etag").expect("a validator").to_owned();
    assert!(
        etag.starts_with('"') && etag.ends_with('"'),
        "a strong one: {etag}"
    );
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    for list in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"other\", {etag}"),
        "*".to_owned(),
    ] {
        let again = get(&server, &[("If-None-Match", &list)]).expect(304);
        assert_eq!(
            (again.text(), again.header("etag")),
            ("", Some(&*etag)),
            "{list}"
        );
    }
    get(&server, &[("If-None-Match", "\"other\"")]).expect(200);
    create(&server, 7, &[("img1", "b")]);
    let changed = get(&server, &[("If-None-Match", &etag)]).expect(200);
    assert_ne!(changed.header("etag"), Some(&*etag));
}

#[test]
fn caches_are_told_how_long_and_never_to_keep_a_problem() {
    let backend = Backend::sqlite();
    let server = backend.canvas().args(["--cache-max-age", "5m"]).start();
    assert_eq!(
        get(&server, &[]).expect(200).header("cache-control"),
        Some("public, max-age=300")
    );
    let problem = server.get("/api/images/");
    assert_eq!(
        (problem.status, problem.header("cache-control")),
        (400, Some("no-store"))
    );
    assert_eq!(problem.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn only_origins_that_are_let_in_may_read_and_write_from_a_page() {
    let closed = Backend::sqlite();
    let silent = closed.serve(1);
    let answer = get(&silent, &[("Origin", "https://shop.example")]).expect(200);
    assert_eq!(
        (
            answer.header("access-control-allow-origin"),
            answer.header("vary")
        ),
        (None, None)
    );

    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .args(["--cors-origins", "https://shop.example"])
        .start();
    let shop = get(&server, &[("Origin", "https://shop.example")]).expect(200);
    assert_eq!(
        shop.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    for fields in [&[("Origin", "https://other.example")][..], &[]] {
        let other = get(&server, fields).expect(200);
        assert_eq!(other.header("access-control-allow-origin"), None);
        assert_eq!(
            other.header("vary"),
            Some("Origin"),
            "caches must keep the answers apart"
        );
    }
    let preflight = Request::new("OPTIONS", "/api/images/")
        .header("Origin", "https://shop.example")
        .header("Access-Control-Request-Method", "POST");
    let allowed = server.call(&preflight).expect(204);
    assert!(
        allowed
            .header("access-control-allow-methods")
            .is_some_and(|methods| methods.contains("POST"))
    );
    assert!(
        allowed
            .header("access-control-allow-headers")
            .is_some_and(|fields| fields.contains("Authorization"))
    );
    let problem =
        server.call(&Request::new("GET", "/nowhere").header("Origin", "https://shop.example"));
    assert_eq!(
        problem.header("access-control-allow-origin"),
        Some("https://shop.example"),
        "errors too"
    );
}

#[test]
fn errors_and_writes_carry_an_id() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    assert_eq!(get(&server, &[]).expect(200).header("x-request-id"), None);
    let written = server
        .call(&post(draft(7, &[])).header("X-Request-Id", "abc-123"))
        .expect(201);
    assert_eq!(written.header("x-request-id"), Some("abc-123"));
    let made = |answer: crate::support::http::Response| {
        answer.header("x-request-id").expect("an id").to_owned()
    };
    let (one, two) = (made(server.get("/nowhere")), made(server.get("/nowhere")));
    assert_ne!(one, two);
    let odd = server.call(&Request::new("GET", "/nowhere").header("X-Request-Id", "a b\"<>"));
    assert_ne!(made(odd), "a b\"<>", "what is not sane is not repeated");
}
