//! What is refused and how: every error is a problem document (RFC 9457) with a stable type, and a wrong field is
//! named. None of it disturbs a worker.

use std::collections::BTreeMap;

use crate::support::http::{Problem, Request};
use crate::support::shoes::{MEDIA, create, draft, post};
use crate::support::{Backend, over_both_stores};

over_both_stores!(
    names_the_wrong_field_of_a_query,
    names_the_wrong_field_of_a_body,
    refuses_bodies_that_are_no_json_object,
    refuses_other_types_of_content,
    refuses_large_bodies,
    refuses_unknown_paths_and_methods,
    refuses_what_is_no_request,
    gives_each_problem_its_own_stable_type,
);

#[track_caller]
fn assert_names(problem: &Problem, field: &str) {
    assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
}

fn names_the_wrong_field_of_a_query(backend: &Backend) {
    let server = backend.serve(2);
    for (query, field) in [
        ("", "shoe_id"),
        ("?", "shoe_id"),
        ("?shoe_id", "shoe_id"),
        ("?shoe_id=", "shoe_id"),
        ("?shoe_id=7&shoe_id=7", "shoe_id"),
        ("?shoe_id=7&shoe%5Fid=8", "shoe_id"),
        ("?shoe_id=seven", "shoe_id"),
        ("?shoe_id=7x", "shoe_id"),
        ("?shoe_id=7.0", "shoe_id"),
        ("?shoe_id=1e3", "shoe_id"),
        ("?shoe_id=0x7", "shoe_id"),
        ("?shoe_id=7%27%20OR%201=1", "shoe_id"),
        ("?shoe_id=2147483648", "shoe_id"),
        ("?shoe_id=-2147483649", "shoe_id"),
        ("?shoe_id=99999999999999999999999999", "shoe_id"),
        ("?shoe_id=7&limit=3", "limit"),
        ("?shoe=7&shoe_id=7", "shoe"),
        ("?shoe_id=7&SHOE_ID=7", "SHOE_ID"),
    ] {
        for path in ["/api/images/", "/api/images"] {
            let problem = server.get(&format!("{path}{query}")).problem(400);
            assert_eq!(
                problem.field.as_deref(),
                Some(field),
                "{query}: {problem:?}"
            );
        }
    }
}

fn names_the_wrong_field_of_a_body(backend: &Backend) {
    let server = backend.serve(2);
    let workers = server.workers();
    let id = create(&server, 7, &[("img1", "kept")]);
    let too_long = "x".repeat(256);
    let too_long_in_characters = "\u{1f45f}".repeat(256);
    let mut cases: Vec<(String, &str)> = vec![
        ("{}".into(), "shoe_id"),
        (r#"{"img1":"a"}"#.into(), "shoe_id"),
        (r#"{"shoe_id":null}"#.into(), "shoe_id"),
        (r#"{"shoe_id":"7"}"#.into(), "shoe_id"),
        (r#"{"shoe_id":7.5}"#.into(), "shoe_id"),
        (r#"{"shoe_id":true}"#.into(), "shoe_id"),
        (r#"{"shoe_id":[7]}"#.into(), "shoe_id"),
        (r#"{"shoe_id":2147483648}"#.into(), "shoe_id"),
        (r#"{"shoe_id":-2147483649}"#.into(), "shoe_id"),
        (
            r#"{"shoe_id":123456789012345678901234567890}"#.into(),
            "shoe_id",
        ),
        (r#"{"shoe_id":7,"shoe_id":7}"#.into(), "shoe_id"),
        (r#"{"shoe_id":7,"shoe\u005fid":8}"#.into(), "shoe_id"),
        (r#"{"shoe_id":7,"img8":"a"}"#.into(), "img8"),
        (r#"{"shoe_id":7,"IMG1":"a"}"#.into(), "IMG1"),
        (r#"{"shoe_id":7,"":"a"}"#.into(), ""),
    ];
    for name in MEDIA {
        cases.push((draft(7, &[(name, &too_long)]), name));
        cases.push((draft(7, &[(name, &too_long_in_characters)]), name));
        for value in ["1", "true", r#"{"a":1}"#, r#"["a"]"#, r#""a\u0000b""#] {
            cases.push((format!(r#"{{"shoe_id":7,"{name}":{value}}}"#), name));
        }
        cases.push((
            format!(r#"{{"shoe_id":7,"{name}":"a","{name}":"b"}}"#),
            name,
        ));
    }
    let mut client = server.connect();
    for (body, field) in &cases {
        for (method, target) in [
            ("POST", "/api/images/".to_owned()),
            ("PUT", format!("/api/images/{id}")),
        ] {
            let request = Request::new(method, &target).json(body.as_str());
            let problem = client.call(&request).expect("an answer").problem(400);
            assert_eq!(
                problem.field.as_deref(),
                Some(*field),
                "{method} {body}: {problem:?}"
            );
            if client.told_to_close {
                client = server.connect();
            }
        }
    }
    // A new row has no id to give; the store gives it.
    assert_names(
        &server.call(&post(r#"{"id":5,"shoe_id":7}"#)).problem(400),
        "id",
    );
    assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 1);
    assert_eq!(
        backend.count("SELECT count(*) FROM shoe_images WHERE img1 = 'kept'"),
        1
    );
    assert_eq!(server.workers(), workers, "a refused request cost a worker");
}

fn refuses_bodies_that_are_no_json_object(backend: &Backend) {
    let server = backend.serve(2);
    let workers = server.workers();
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" \n".to_vec(),
        b"null".to_vec(),
        b"7".to_vec(),
        b"\"text\"".to_vec(),
        b"[]".to_vec(),
        br#"[{"shoe_id":7}]"#.to_vec(),
        b"{".to_vec(),
        br#"{"shoe_id"#.to_vec(),
        br#"{"shoe_id":"#.to_vec(),
        br#"{"shoe_id":7"#.to_vec(),
        br#"{"shoe_id":7,}"#.to_vec(),
        br#"{"shoe_id":7}}"#.to_vec(),
        br#"{"shoe_id":7} x"#.to_vec(),
        br#"{"shoe_id":07}"#.to_vec(),
        br#"{shoe_id:7}"#.to_vec(),
        br#"{'shoe_id':7}"#.to_vec(),
        br#"{"shoe_id":NaN}"#.to_vec(),
        // No float holds it, and the parser says so before the field's own check.
        br#"{"shoe_id":1e400}"#.to_vec(),
        br#"{"shoe_id":7,"img1":"a"#.to_vec(),
        b"{\"shoe_id\":7,\"img1\":\"raw\nnewline\"}".to_vec(),
        br#"{"shoe_id":7,"img1":"\ud800"}"#.to_vec(),
        br#"{"shoe_id":7,"img1":"\x41"}"#.to_vec(),
        b"{\"shoe_id\":7,\"img1\":\"\xff\xfe\"}".to_vec(),
        b"{\"shoe_id\":7,\"img1\":\"\xc0\xaf\"}".to_vec(),
        b"{\"shoe_id\":7,\"img1\":\"\xed\xa0\x80\"}".to_vec(),
        b"\xef\xbb\xbf{\"shoe_id\":7}".to_vec(),
        b"shoe_id=7".to_vec(),
        // Deep nesting must be refused before it eats a coroutine's small stack.
        b"[".repeat(60_000),
        br#"{"a":"#.repeat(10_000),
        [
            br#"{"shoe_id":7,"img1":"#.as_slice(),
            &b"[".repeat(30_000),
            &b"]".repeat(30_000),
            b"}",
        ]
        .concat(),
        [
            br#"{"shoe_id":7,"more":"#.as_slice(),
            &br#"{"a":"#.repeat(9_000),
            b"1",
            &b"}".repeat(9_000),
            b"}",
        ]
        .concat(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let response = server.call(&post(body));
        assert_eq!(response.status, 400, "{shown}: {response}");
        response.problem(400);
    }
    assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 0);
    assert_eq!(server.workers(), workers, "a refused body cost a worker");
}

fn refuses_other_types_of_content(backend: &Backend) {
    let server = backend.serve(2);
    let id = create(&server, 7, &[]);
    let body = draft(7, &[]);
    for (method, target) in [
        ("POST", "/api/images/".to_owned()),
        ("PUT", format!("/api/images/{id}")),
    ] {
        let request = Request::new(method, &target).body(body.as_str());
        server.call(&request).problem(415);
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonp",
            "text/json;",
            "*/*",
            "",
        ] {
            server
                .call(&request.clone().header("Content-Type", kind))
                .problem(415);
        }
        let spelled = request
            .clone()
            .header("content-TYPE", "Application/JSON ; charset=\"UTF-8\"");
        let answer = server.call(&spelled);
        assert!(matches!(answer.status, 200 | 201), "{answer}");
    }
}

fn refuses_large_bodies(backend: &Backend) {
    let server = backend.serve(2);
    let workers = server.workers();
    // Announced: the answer comes before the body, which never comes at all.
    let mut client = server.connect();
    let head = "POST /api/images/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 67108864\r\n\r\n";
    client.send_raw(head.as_bytes()).expect("a head");
    client
        .receive(true)
        .expect("an answer before the body")
        .problem(413);
    // Past any number: still a refusal, never a panic.
    let mut client = server.connect();
    let head = head.replace("67108864", "99999999999999999999999999");
    client.send_raw(head.as_bytes()).expect("a head");
    let answer = client.receive(true).expect("an answer");
    assert!(matches!(answer.status, 400 | 413), "{answer}");
    // What the API can need at most, every character escaped, is not too large.
    let escaped = r"\ud83d\udc5f".repeat(255);
    let members: Vec<String> = MEDIA
        .iter()
        .map(|name| format!(r#""{name}":"{escaped}""#))
        .collect();
    server
        .call(&post(format!(r#"{{"shoe_id":7,{}}}"#, members.join(","))))
        .expect(201);
    assert_eq!(server.workers(), workers);
}

fn refuses_unknown_paths_and_methods(backend: &Backend) {
    let server = backend.serve(2);
    for target in [
        "/api",
        "/api/",
        "/api/image",
        "/api/imagesx",
        "/API/IMAGES/",
        "/api/images/1/2",
        "/healthzz",
        "/favicon.icon",
    ] {
        server.get(target).problem(404);
    }
    server
        .call(&Request::new("BREW", "/api/images/1").json("{}"))
        .problem(501);
    for (method, target, allowed) in [
        ("PUT", "/api/images/", &["GET", "POST"][..]),
        ("DELETE", "/api/images", &["GET", "POST"]),
        ("PATCH", "/api/images/?shoe_id=7", &["GET", "POST"]),
        ("POST", "/api/images/1", &["GET", "PUT", "DELETE"]),
        ("PATCH", "/api/images/1", &["GET", "PUT", "DELETE"]),
        ("TRACE", "/api/images/1", &["GET", "PUT", "DELETE"]),
        ("POST", "/healthz", &["GET"]),
        ("DELETE", "/readyz", &["GET"]),
    ] {
        let response = server.call(&Request::new(method, target).json("{}"));
        response.problem(405);
        let allow = response
            .header("allow")
            .unwrap_or_else(|| panic!("{method} {target}: no Allow: {response}"));
        let named: Vec<&str> = allow.split(',').map(str::trim).collect();
        for method in allowed {
            assert!(named.contains(method), "{target}: Allow is {allow:?}");
        }
        assert!(!named.contains(&method), "{target}: Allow is {allow:?}");
    }
}

fn refuses_what_is_no_request(backend: &Backend) {
    let server = backend.serve(1);
    for target in [
        "/api/images/?shoe_id=%00",
        "/api/images/%00",
        "/api/images/?shoe_id=%zz",
        "/api/images/?shoe_id=%ff",
    ] {
        server.get(target).problem(400);
    }
}

fn gives_each_problem_its_own_stable_type(backend: &Backend) {
    let server = backend.serve(2);
    let cases = [
        ("unknown path", Request::new("GET", "/nowhere"), 404),
        ("wrong method", Request::new("PATCH", "/api/images/"), 405),
        (
            "wrong content type",
            Request::new("POST", "/api/images/").body("{}"),
            415,
        ),
        ("not JSON", post("{"), 400),
        ("wrong field", post(r#"{"shoe_id":"7"}"#), 400),
        ("too large", post("x".repeat(70_000)), 413),
    ];
    let mut kinds: BTreeMap<String, &str> = BTreeMap::new();
    for (name, request, status) in cases {
        let first = server.call(&request).problem(status);
        let again = server.call(&request).problem(status);
        assert_eq!(
            (&first.kind, &first.title),
            (&again.kind, &again.title),
            "{name}: the type is not stable"
        );
        if let Some(other) = kinds.insert(first.kind.clone(), name) {
            panic!("`{name}` and `{other}` share the type {}", first.kind);
        }
    }
}
