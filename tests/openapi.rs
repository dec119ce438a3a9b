//! The OpenAPI document is what the server does: every operation is called, and every answer that the document declares is
//! provoked, from a real server, and is as declared to the last header; no answer comes that it does not declare.

mod description;

use std::collections::BTreeSet;

use canvas_cluster::app::problem::KINDS;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use self::description::{Claim, Description, Operation};
use crate::support::http::{Client, Request, Response};
use crate::support::postgres::Postgres;
use crate::support::relay::Relay;
use crate::support::shoes::{create, draft, list_target};
use crate::support::{Backend, Server};

const DOCUMENT: &str = include_str!("../web/openapi.json");

/// OpenAPI 3.1's own description of a document (Apache-2.0, from the OpenAPI Initiative).
const META: &str = include_str!("openapi/openapi-3.1.schema.json");

const TOKEN: &str = "a-write-token-of-a-test";

const JSON: &str = "application/json";

fn description() -> Description {
    Description::new(serde_json::from_str(DOCUMENT).expect("JSON"))
}

fn read(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the server was seen to do.
struct Survey {
    description: Description,
    seen: BTreeSet<Claim>,
    /// The JSON of all answers.
    contents: Vec<Value>,
    tags: BTreeSet<String>,
}

impl Survey {
    fn begin() -> Self {
        Survey {
            description: description(),
            seen: BTreeSet::new(),
            contents: Vec::new(),
            tags: BTreeSet::new(),
        }
    }

    /// Notes an answer, which must be one that the operation declares.
    #[track_caller]
    fn note(&mut self, operation: &Operation, answer: Response) -> Response {
        self.seen.insert(self.description.check(operation, &answer));
        self.keep(&answer);
        answer
    }

    fn keep(&mut self, answer: &Response) {
        let json = answer
            .header("content-type")
            .is_some_and(|kind| kind.ends_with("json"));
        if json && !answer.body.is_empty() {
            self.contents.push(answer.json());
        }
        self.tags
            .extend(answer.header("etag").map(ToOwned::to_owned));
    }

    /// Sends bytes on a connection of their own.
    #[track_caller]
    fn send(
        &mut self,
        server: &Server,
        operation: &Operation,
        bytes: &[u8],
        status: u16,
    ) -> Response {
        let mut client = server.connect();
        client.send_raw(bytes).expect("a request");
        let answer = receive(&mut client, operation);
        self.note(operation, answer.expect(status))
    }

    #[track_caller]
    fn call(
        &mut self,
        server: &Server,
        (method, path): (&str, &str),
        request: Request,
        status: u16,
    ) -> Response {
        let request = Request {
            method: method.into(),
            ..request
        };
        self.send(
            server,
            &Operation::new(method, path),
            &request.bytes(),
            status,
        )
    }

    /// One of the answers that are no operation's.
    #[track_caller]
    fn apart(&mut self, server: &Server, request: &Request, component: &str) -> Response {
        let answer = server.call(request);
        let declared = self.description.document["components"]["responses"][component].clone();
        self.description
            .check_response(component, &declared, &answer, false);
        self.keep(&answer);
        answer
    }
}

#[track_caller]
fn receive(client: &mut Client, operation: &Operation) -> Response {
    client
        .receive(!operation.is_head())
        .unwrap_or_else(|trouble| panic!("{trouble:?} instead of an answer to {operation:?}"))
}

fn get(target: &str) -> Request {
    Request::new("GET", target)
}

/// The head of a request, without the empty line at its end.
fn head(operation: &Operation, target: &str, fields: &str) -> String {
    format!(
        "{} {target} HTTP/1.1\r\nHost: a\r\n{fields}",
        operation.method
    )
}

/// A request that would be answered well, if the server could.
fn good(operation: &Operation) -> Request {
    let request = Request::new(&operation.method, &operation.target());
    match operation.method.as_str() {
        "POST" | "PUT" => request.json(draft(7, &[("img1", "a")])),
        _ => request,
    }
}

const LIST: (&str, &str) = ("GET", "/api/images/");
const STORE: (&str, &str) = ("POST", "/api/images/");
const ROW: &str = "/api/images/{id}";
const SHOW: (&str, &str) = ("GET", ROW);
const REPLACE: (&str, &str) = ("PUT", ROW);
const DELETE: (&str, &str) = ("DELETE", ROW);
const WRITES: [(&str, &str); 3] = [STORE, REPLACE, DELETE];
const READY: &str = "/readyz";

/// The pages, which ask it too, and say so in HTML.
const PAGES: [&str; 2] = ["/", "/shoes/{shoe_id}"];
const HTML: &str = "text/html; charset=utf-8";

/// Those that ask the database.
const ASKING: [(&str, &str); 9] = [
    LIST,
    ("HEAD", "/api/images/"),
    SHOW,
    ("HEAD", ROW),
    STORE,
    REPLACE,
    DELETE,
    ("GET", READY),
    ("HEAD", READY),
];

#[test]
fn every_declared_answer_is_given_and_no_other() {
    let mut survey = Survey::begin();
    answers_when_all_is_well(&mut survey);
    refusals_of_fields(&mut survey);
    pages_without_a_shoe(&mut survey);
    refusals_of_any_request(&mut survey);
    refusals_of_writers(&mut survey);
    requests_that_never_end(&mut survey);
    connections_without_room(&mut survey);
    a_server_that_stops(&mut survey);
    a_database_that_is_away(&mut survey);
    a_database_that_forbids(&mut survey);
    a_database_that_fails(&mut survey);
    a_shoe_with_too_many_rows(&mut survey);
    commits_that_are_lost(&mut survey);
    origins_that_are_let_in(&mut survey);

    let Survey {
        description,
        seen,
        contents,
        tags,
    } = survey;
    let missing: Vec<String> = description
        .claims()
        .difference(&seen)
        .map(Claim::to_string)
        .collect();
    assert!(missing.is_empty(), "never seen:\n{}", missing.join("\n"));
    for (place, example) in examples_of_answers(&description) {
        assert!(
            contents.contains(example),
            "no answer was the example of {place}: {example}"
        );
    }
    let tag = &description.document["components"]["headers"]["ETag"]["example"];
    assert!(
        tags.contains(tag.as_str().expect("a text")),
        "no answer has the ETag {tag}, but these have: {tags:?}"
    );
}

/// What the document shows as answers.
fn examples_of_answers(description: &Description) -> Vec<(String, &Value)> {
    let components = &description.document["components"];
    let responses = components["responses"].as_object().expect("responses");
    let shown = responses.iter().flat_map(|(name, response)| {
        let contents = response["content"].as_object().into_iter().flatten();
        contents.map(move |(_, content)| (name.clone(), &content["example"]))
    });
    let schemas = components["schemas"].as_object().expect("schemas");
    let problems = schemas.iter().flat_map(|(name, schema)| {
        let is_problem = schema["properties"]["type"]["const"].is_string();
        let examples = schema["examples"].as_array().into_iter().flatten();
        examples
            .filter(move |_| is_problem)
            .map(move |example| (name.clone(), example))
    });
    shown
        .chain(problems)
        .filter(|(_, example)| !example.is_null())
        .collect()
}

fn answers_when_all_is_well(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let example = |survey: &Survey, (method, path): (&str, &str)| {
        let part = survey.description.part(&Operation::new(method, path));
        part["requestBody"]["content"][JSON]["example"].to_string()
    };

    let body = example(survey, STORE);
    let stored = survey.call(
        &server,
        STORE,
        Request::new("POST", "/api/images/").json(body),
        201,
    );
    assert_eq!(stored.header("location"), Some("/api/images/1"));
    survey.call(&server, ("GET", "/"), get("/"), 200);
    for path in ["/api/images/", ROW].into_iter().chain(PAGES) {
        let target = Operation::new("GET", path).target();
        let etag = survey
            .call(&server, ("GET", path), get(&target), 200)
            .header("etag")
            .expect("a validator")
            .to_owned();
        survey.call(&server, ("HEAD", path), get(&target), 200);
        let known = get(&target).header("If-None-Match", &etag);
        survey.call(&server, ("GET", path), known.clone(), 304);
        survey.call(&server, ("HEAD", path), known, 304);
    }
    let body = example(survey, REPLACE);
    let request = Request::new("PUT", "/api/images/1").json(body);
    survey.call(&server, REPLACE, request, 200);
    survey.call(
        &server,
        DELETE,
        Request::new("DELETE", "/api/images/1"),
        204,
    );
    for path in ["/healthz", READY] {
        survey.call(&server, ("GET", path), get(path), 200);
        survey.call(&server, ("HEAD", path), get(path), 200);
    }
    for path in ["/openapi.json", "/docs", "/docs.css"] {
        let answer = survey.call(&server, ("GET", path), get(path), 200);
        survey.call(&server, ("HEAD", path), get(path), 200);
        let known = get(path).header("If-None-Match", answer.header("etag").expect("a validator"));
        survey.call(&server, ("GET", path), known.clone(), 304);
        survey.call(&server, ("HEAD", path), known, 304);
    }
    assert_eq!(server.get("/openapi.json").text(), DOCUMENT);

    let mut all = BTreeSet::new();
    for path in survey.description.document["paths"]
        .as_object()
        .unwrap()
        .clone()
        .keys()
    {
        let operation = Operation::new("OPTIONS", path);
        let request = Request::new("OPTIONS", &operation.target());
        let answer = survey.call(&server, ("OPTIONS", path), request, 204);
        let declared: BTreeSet<String> = survey
            .description
            .operations()
            .into_iter()
            .filter(|operation| operation.path == *path)
            .map(|operation| operation.method)
            .collect();
        assert_eq!(methods(&answer), declared, "the methods of {path}");
        all.extend(declared);
    }
    let everything = server.call(&Request::new("OPTIONS", "*")).expect(204);
    assert_eq!(methods(&everything), all, "the methods of the server");

    survey.apart(&server, &get("/nowhere"), "NoSuchPath");
    let patch = Request::new("PATCH", "/api/images/").json("{}");
    let refused = survey.apart(&server, &patch, "MethodNotAllowed");
    assert!(methods(&refused).contains("POST"));
    survey.apart(
        &server,
        &Request::new("BREW", "/api/images/1"),
        "NotImplemented",
    );
    server.stop();
}

/// What `Allow` lists.
#[track_caller]
fn methods(answer: &Response) -> BTreeSet<String> {
    let allow = answer.header("allow").expect("Allow");
    allow.split(", ").map(ToOwned::to_owned).collect()
}

fn refusals_of_fields(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    create(&server, 7, &[]);
    let mut refused = |operation, request: Request, status, kind: &str| {
        let answer = survey.call(&server, operation, request, status);
        if operation.0 != "HEAD" {
            let problem = answer.problem(status);
            assert_eq!(problem.kind, format!("/problems/{kind}"), "{operation:?}");
        }
    };
    for method in ["GET", "HEAD"] {
        let list = (method, "/api/images/");
        for (query, kind) in [
            ("", "missing-field"),
            ("?shoe_id=7&shoe_id=7", "repeated-field"),
            ("?shoe_id=7&limit=3", "unknown-field"),
            ("?shoe_id=seven", "invalid-field"),
        ] {
            refused(list, get(&format!("/api/images/{query}")), 400, kind);
        }
        for path in [
            ROW,
            "/healthz",
            READY,
            "/openapi.json",
            "/docs",
            "/docs.css",
        ] {
            let target = Operation::new(method, path).target();
            let request = get(&format!("{target}?limit=3"));
            refused((method, path), request, 400, "unknown-field");
        }
        refused((method, ROW), get("/api/images/404"), 404, "no-such-row");
        refused((method, ROW), get("/api/images/abc"), 404, "no-such-row");
    }
    refused(DELETE, get("/api/images/1?limit=3"), 400, "unknown-field");
    refused(DELETE, get("/api/images/404"), 404, "no-such-row");
    for (operation, target) in [(STORE, "/api/images/"), (REPLACE, "/api/images/1")] {
        for (body, kind) in [
            ("{}", "missing-field"),
            (r#"{"shoe_id":7,"shoe_id":7}"#, "repeated-field"),
            (r#"{"shoe_id":7,"img8":"a"}"#, "unknown-field"),
            (r#"{"shoe_id":"7"}"#, "invalid-field"),
            ("{", "invalid-json"),
        ] {
            refused(operation, get(target).json(body), 400, kind);
        }
        let kind = "unsupported-media-type";
        refused(operation, get(target).body(draft(7, &[])), 415, kind);
    }
    let request = get("/api/images/404").json(draft(7, &[]));
    refused(REPLACE, request, 404, "no-such-row");
    server.stop();
}

fn pages_without_a_shoe(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    for method in ["GET", "HEAD"] {
        for (path, start) in PAGES.into_iter().zip(["/?shoe_id=", "/shoes/"]) {
            for (shoe, status) in [("seven", 400), ("404", 404)] {
                let request = get(&format!("{start}{shoe}"));
                let answer = survey.call(&server, (method, path), request, status);
                assert_eq!(answer.header("content-type"), Some(HTML), "{answer}");
            }
        }
    }
    server.stop();
}

/// What HTTP itself refuses, whatever the operation.
fn refusals_of_any_request(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    for operation in survey.description.operations() {
        let target = operation.target();
        let endless = format!("{target}{}", "a".repeat(9000));
        let whole = |fields: &str| head(&operation, &target, &format!("{fields}\r\n"));
        let json = "Content-Type: application/json\r\n";
        for (status, request) in [
            (
                400,
                format!("{} {target} HTTP/1.1\r\n\r\n", operation.method),
            ),
            (413, whole(&format!("{json}Content-Length: 67108864\r\n"))),
            (414, head(&operation, &endless, "\r\n")),
            (417, whole("Expect: the-unexpected\r\n")),
            (431, whole(&"A: b\r\n".repeat(70))),
            (501, whole("Transfer-Encoding: gzip, chunked\r\n")),
            (
                505,
                format!("{} {target} HTTP/2.0\r\nHost: a\r\n\r\n", operation.method),
            ),
        ] {
            survey.send(&server, &operation, request.as_bytes(), status);
        }
    }
    server.stop();
}

fn refusals_of_writers(survey: &mut Survey) {
    use std::os::unix::fs::PermissionsExt;
    let backend = Backend::sqlite();
    let file = backend.dir.write("token", TOKEN);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let server = backend
        .canvas()
        .workers(1)
        .arg("--write-token-file")
        .arg(file)
        .start();
    for (write, status) in WRITES.into_iter().zip([201, 200, 204]) {
        let request = good(&Operation::new(write.0, write.1));
        survey.call(&server, write, request.clone(), 401);
        let shown = |token: &str| {
            request
                .clone()
                .header("Authorization", &format!("Bearer {token}"))
        };
        survey.call(&server, write, shown("another-token"), 403);
        survey.call(&server, write, shown(TOKEN), status);
    }
    server.stop();
}

fn requests_that_never_end(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--head-timeout", "500ms"])
        .start();
    let mut waiting = Vec::new();
    for operation in survey.description.operations() {
        let half = head(&operation, &operation.target(), "");
        waiting.push((operation.clone(), server.connect(), half));
        if matches!(operation.method.as_str(), "POST" | "PUT") {
            let fields = "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
            let half = head(&operation, &operation.target(), fields);
            waiting.push((operation, server.connect(), half));
        }
    }
    for (_, client, half) in &mut waiting {
        client.send_raw(half.as_bytes()).expect("half a request");
    }
    for (operation, mut client, _) in waiting {
        let answer = receive(&mut client, &operation);
        survey.note(&operation, answer.expect(408));
    }
    server.stop();
}

fn connections_without_room(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--max-connections", "1"])
        .start();
    let mut only = server.connect();
    only.get("/healthz").expect("an answer").expect(200);
    // In the middle of a request it can't be asked to leave.
    only.send_raw(b"GET /healthz HTTP/1.1\r\n")
        .expect("half a request");
    server.wait_until_read([&only]);
    for operation in survey.description.operations() {
        let mut client = server.connect();
        // Nothing is read before the answer, so nothing needs to be sent.
        let answer = receive(&mut client, &operation);
        survey.note(&operation, answer.expect(503));
    }
    only.send_raw(b"Host: a\r\n\r\n").expect("the rest");
    only.receive(true).expect("an answer").expect(200);
    drop(only);
    server.stop();
}

fn a_server_that_stops(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let mut server = backend.serve(1);
    let mut idle = server.one_client_per_worker();
    let mut waiting: Vec<(Operation, Client)> = ["GET", "HEAD"]
        .map(|method| (Operation::new(method, READY), server.connect()))
        .into();
    for (operation, client) in &mut waiting {
        let half = head(operation, READY, "");
        client.send_raw(half.as_bytes()).expect("half a request");
    }
    server.wait_until_read(waiting.iter().map(|(_, client)| client));
    server.signal(Signal::SIGTERM);
    for (_, client) in &mut idle {
        assert!(client.is_closed(), "an idle connection while it drains");
    }
    for (operation, client) in &mut waiting {
        client.send_raw(b"\r\n").expect("the rest");
        let answer = receive(client, operation).expect(503);
        if !operation.is_head() {
            assert_eq!(answer.problem(503).kind, "/problems/draining");
        }
        survey.note(operation, answer);
    }
    assert_eq!(server.wait_for_exit().code(), Some(0));
    server.assert_clean_log();
}

/// Asks everything that asks the database, and expects this of it.
fn ask_all(survey: &mut Survey, server: &Server, status: u16, kind: &str) {
    for (method, path) in ASKING {
        let operation = Operation::new(method, path);
        let answer = survey.send(server, &operation, &good(&operation).bytes(), status);
        if !operation.is_head() {
            let problem = answer.problem(status);
            assert_eq!(problem.kind, format!("/problems/{kind}"), "{operation:?}");
        }
    }
    for method in ["GET", "HEAD"] {
        for path in PAGES {
            let operation = Operation::new(method, path);
            let answer = survey.send(server, &operation, &good(&operation).bytes(), status);
            assert_eq!(answer.header("content-type"), Some(HTML), "{answer}");
        }
    }
}

fn a_database_that_is_away(survey: &mut Survey) {
    let postgres = Postgres::private();
    let backend = Backend::on(&postgres, None);
    backend.migrate();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--request-timeout", "2s"])
        .start();
    create(&server, 7, &[("img1", "a")]);
    postgres.stop();
    ask_all(survey, &server, 503, "store-unavailable");
    server.stop();
}

/// It lets the server in, and forbids it the table.
fn a_database_that_forbids(survey: &mut Survey) {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    let server = backend.serve(1);
    create(&server, 7, &[("img1", "a")]);
    backend.execute("REVOKE ALL ON shoe_images FROM CURRENT_USER");
    ask_all(survey, &server, 503, "store-refuses");
    server.stop();
}

/// Whatever is planned on the table fails: what is immutable is worked out at once. New rows don't go that way, but past a
/// trigger.
fn a_database_that_fails(survey: &mut Survey) {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    let mut server = backend.serve(1);
    server.allow("on purpose");
    backend.execute(
        "ALTER TABLE shoe_images RENAME TO stored;
         CREATE FUNCTION fails() RETURNS boolean IMMUTABLE LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'on purpose'; END $$;
         CREATE FUNCTION fails_too() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'on purpose'; END $$;
         CREATE TRIGGER fails BEFORE INSERT ON stored FOR EACH ROW EXECUTE FUNCTION fails_too();
         CREATE VIEW shoe_images AS SELECT * FROM stored WHERE fails()",
    );
    ask_all(survey, &server, 500, "internal");
    server.stop();
}

/// A million rows of one shoe were once one answer, in each cache that it came by.
fn a_shoe_with_too_many_rows(survey: &mut Survey) {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    let mut server = backend.serve(1);
    server.allow("more than 1000 rows");
    let rows = |count: u32| {
        format!("INSERT INTO shoe_images (shoe_id) SELECT 7 FROM generate_series(1, {count})")
    };
    backend.execute(&rows(1001));
    for list in [LIST, ("HEAD", "/api/images/")] {
        let operation = Operation::new(list.0, list.1);
        let answer = survey.send(&server, &operation, &good(&operation).bytes(), 500);
        if list == LIST {
            assert_eq!(answer.problem(500).kind, "/problems/too-many-rows");
        }
    }
    for path in PAGES {
        let operation = Operation::new("GET", path);
        let answer = survey.send(&server, &operation, &good(&operation).bytes(), 500);
        assert_eq!(answer.header("content-type"), Some(HTML), "{answer}");
    }
    // However many there are, whoever is asked for along with them has an answer.
    backend.execute(&rows(10_000));
    backend.execute("INSERT INTO shoe_images (shoe_id) VALUES (8)");
    let mut clients: Vec<Client> = (0..32).map(|_| server.connect()).collect();
    for (number, client) in (0..).zip(&mut clients) {
        let request = Request::new("GET", &list_target(7 + number % 2));
        client.send_raw(&request.bytes()).expect("a request");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = client.receive(true).expect("an answer");
        match number % 2 {
            0 => drop(answer.problem(500)),
            _ => assert_eq!(answer.expect(200).json().as_array().map(Vec::len), Some(1)),
        }
    }
    // Each of them is there by itself; and once there are few enough, so is the list.
    for id in 1..=2 {
        server.get(&format!("/api/images/{id}")).expect(200);
        let delete = Request::new("DELETE", &format!("/api/images/{id}"));
        server.call(&delete).expect(204);
    }
    server.get(&list_target(7)).problem(500);
    backend.execute("DELETE FROM shoe_images WHERE shoe_id = 7 AND id > 1003");
    // Written past the server, and never kept.
    backend.execute("DELETE FROM shoe_images WHERE id = 1002");
    let answer = server.get(&list_target(7)).expect(200).json();
    let ids = answer.as_array().expect("an array").iter();
    let ids: Vec<i64> = ids.filter_map(|row| row["id"].as_i64()).collect();
    assert_eq!(ids, [(3..=1001).collect(), vec![1003]].concat());
    server.stop();
}

fn commits_that_are_lost(survey: &mut Survey) {
    let postgres = Postgres::shared();
    let relay = Relay::to(postgres.port());
    let mut backend = Backend::on(postgres, None);
    backend.migrate();
    backend.database_url = relay.url(&backend.database_url, postgres.port());
    let server = backend.serve(1);
    create(&server, 7, &[("img1", "a")]);
    for (method, path) in WRITES {
        let operation = Operation::new(method, path);
        relay.lose_answer_to("COMMIT");
        let answer = survey.send(&server, &operation, &good(&operation).bytes(), 503);
        assert_eq!(answer.problem(503).kind, "/problems/outcome-unknown");
        assert!(relay.has_lost_it());
        // The lost connection is noticed, and another one there.
        server.get(&list_target(8)).expect(200);
    }
    server.stop();
}

fn origins_that_are_let_in(survey: &mut Survey) {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--cors-origins", "https://shop.example"])
        .args(["--cache-max-age", "5m"])
        .start();
    for operation in survey.description.operations() {
        let request = good(&operation).header("Origin", "https://shop.example");
        let request = match operation.method.as_str() {
            "OPTIONS" => request.header("Access-Control-Request-Method", "POST"),
            _ => request,
        };
        let mut client = server.connect();
        client.send_raw(&request.bytes()).expect("a request");
        let answer = receive(&mut client, &operation);
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("https://shop.example"),
            "{operation:?}: {answer}"
        );
        let preflight = answer.header("access-control-allow-methods").is_some();
        assert_eq!(preflight, operation.method == "OPTIONS", "{operation:?}");
        survey.note(&operation, answer);
    }
    server.stop();
}

/// A body is accepted if, and only if, the document says so.
#[test]
fn bodies_are_accepted_as_the_schemas_say() {
    let description = description();
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let id = create(&server, 7, &[]);
    let shoe = "\u{1f45f}";
    let mut bodies = vec![
        json!({}),
        json!([]),
        json!(null),
        json!({"shoe_id": 7}),
        json!({"shoe_id": 7, "id": id.json()}),
        json!({"shoe_id": 7, "more": 1}),
    ];
    for shoe_id in [
        json!(2_147_483_647),
        json!(-2_147_483_648),
        json!(2_147_483_648_i64),
        json!(-2_147_483_649_i64),
        json!(0),
        json!(7.5),
        json!("7"),
        json!(null),
        json!(true),
        json!([7]),
    ] {
        bodies.push(json!({"shoe_id": shoe_id}));
    }
    for media in [
        json!(null),
        json!(""),
        json!(shoe.repeat(255)),
        json!(shoe.repeat(256)),
        json!("x".repeat(256)),
        json!("a\u{0}b"),
        json!("a\nb"),
        json!(7),
        json!(["a"]),
    ] {
        for name in ["img1", "img7", "vid1", "vid2", "img8", "vid3"] {
            bodies.push(json!({"shoe_id": 7, name: media}));
        }
    }
    for (method, path, good) in [("POST", "/api/images/", 201), ("PUT", ROW, 200)] {
        let operation = Operation::new(method, path);
        let schema = &description.part(&operation)["requestBody"]["content"][JSON]["schema"];
        let target = path.replace("{id}", &id.to_string());
        for body in &bodies {
            let answer = server.call(&Request::new(method, &target).json(body.to_string()));
            let declared = description.admits(schema, body);
            match answer.status {
                status if status == good => assert!(declared.is_ok(), "{body}: {declared:?}"),
                400 => assert!(declared.is_err(), "{method} {body} is declared: {answer}"),
                _ => panic!("{answer}"),
            }
        }
    }
    server.stop();
}

#[test]
fn the_document_is_openapi() {
    let document = description().document;
    let meta: Value = serde_json::from_str(META).expect("JSON");
    let validator = jsonschema::draft202012::new(&meta).expect("the description of OpenAPI");
    let wrong: Vec<String> = validator
        .iter_errors(&document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        document["info"]["license"]["identifier"],
        env!("CARGO_PKG_LICENSE")
    );
    let mut names = BTreeSet::new();
    for operation in description().operations() {
        let name = description().part(&operation)["operationId"].clone();
        assert!(names.insert(name.to_string()), "{name} twice");
    }
}

#[test]
fn schemas_and_examples_agree() {
    let description = description();
    let mut schemas = 0;
    let mut examples = 0;
    let mut look = |place: &str, part: &Value| {
        // Whatever has a schema beside it shows values of that schema.
        if let Some(schema) = part.get("schema") {
            jsonschema::draft202012::meta::validate(schema)
                .unwrap_or_else(|error| panic!("{place}: {error}"));
            schemas += 1;
            if let Some(example) = part.get("example") {
                description.check_value(place, schema, example);
                examples += 1;
            }
        }
    };
    walk("", &description.document, &mut look);
    for (name, schema) in description.document["components"]["schemas"]
        .as_object()
        .expect("schemas")
    {
        jsonschema::draft202012::meta::validate(schema)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for example in schema["examples"].as_array().into_iter().flatten() {
            description.check_value(name, schema, example);
            examples += 1;
        }
    }
    assert!(schemas > 50 && examples > 50, "{schemas}, {examples}");
}

fn walk(place: &str, value: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(place, value);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                walk(&format!("{place}/{name}"), member, look);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(&format!("{place}/{index}"), item, look);
            }
        }
        _ => {}
    }
}

#[test]
fn every_component_is_used() {
    let document = description().document;
    let mut used = BTreeSet::new();
    walk("", &document, &mut |_, part| {
        used.extend(part["$ref"].as_str().map(ToOwned::to_owned));
    });
    // No operation is answered with these: they are what is not here.
    let apart =
        ["NoSuchPath", "MethodNotAllowed"].map(|name| format!("#/components/responses/{name}"));
    for kind in ["parameters", "headers", "responses", "schemas"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(
                used.contains(&reference) || apart.contains(&reference),
                "{reference} is used nowhere"
            );
        }
    }
}

#[test]
fn the_problems_are_those_that_the_server_knows() {
    let document = description().document;
    let told: BTreeSet<(String, String, u64)> = document["components"]["schemas"]
        .as_object()
        .expect("schemas")
        .values()
        .filter_map(|schema| {
            let member = |name: &str| &schema["properties"][name]["const"];
            Some((
                member("type").as_str()?.to_owned(),
                member("title").as_str()?.to_owned(),
                member("status").as_u64()?,
            ))
        })
        .collect();
    let known: BTreeSet<(String, String, u64)> = KINDS
        .iter()
        .map(|kind| {
            let name = format!("/problems/{}", kind.slug());
            (name, kind.title().to_owned(), kind.status().into())
        })
        .collect();
    assert_eq!(told, known);
}

/// The routes name their paths as texts, so a path that the document does not have shows there.
#[test]
fn every_path_of_the_routes_is_told() {
    let paths: Vec<String> = description()
        .operations()
        .into_iter()
        .map(|operation| operation.path)
        .collect();
    for source in ["src/app/routes.rs", "src/app/document.rs"] {
        let code = read(source);
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let texts = code.split('"').skip(1).step_by(2);
        for text in texts.filter(|text| text.starts_with('/')) {
            let start = text.trim_end_matches('/').replace("{}", "{id}");
            assert!(
                paths
                    .iter()
                    .any(|path| path.trim_end_matches('/').starts_with(&start)),
                "{source} has the path {text}, the document does not"
            );
        }
    }
}

/// Limits in the document's texts are the defaults that README's table has.
#[test]
fn limits_are_the_defaults() {
    let readme = read("README.md");
    let mut found = 0;
    for (before, after) in DOCUMENT
        .match_indices("` (")
        .map(|(at, _)| DOCUMENT.split_at(at))
    {
        let flag = before.rsplit('`').next().unwrap_or_default();
        if !flag.starts_with("--") {
            continue;
        }
        let value = after[3..].split(')').next().unwrap_or_default();
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{flag} ")))
            .unwrap_or_else(|| panic!("README has no {flag}"));
        let default = format!("| `{}` |", value.replace(' ', ""));
        assert!(row.contains(&default), "{flag} is not {value}: {row}");
        found += 1;
    }
    assert!(found >= 6, "{found} limits");
}

#[test]
fn readme_and_document_agree() {
    let description = description();
    let readme = read("README.md");
    let (_, section) = readme.split_once("## The API\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let mut told = BTreeSet::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split(" | ");
        let (request, answer) = (cells.next().unwrap(), cells.next().unwrap());
        let (method, target) = request
            .trim()
            .trim_matches('`')
            .split_once(' ')
            .unwrap_or_else(|| panic!("no method and path: {line}"));
        let path = target.split('?').next().unwrap_or_default();
        let operation = Operation::new(method, path);
        let responses = &description.part(&operation)["responses"];
        assert!(responses.is_object(), "the document has no {operation:?}");
        let words = answer.split(|letter: char| !letter.is_ascii_alphanumeric());
        for status in words.filter(|word| word.len() == 3 && word.parse::<u16>().is_ok()) {
            assert!(!responses[status].is_null(), "{operation:?}: {status}");
        }
        told.insert(operation);
    }
    for operation in description.operations() {
        let plain = !matches!(operation.method.as_str(), "HEAD" | "OPTIONS");
        // The style sheet goes along with the page, and README tells of the pages elsewhere.
        let aside = operation.path == "/docs.css" || PAGES.contains(&operation.path.as_str());
        if plain && !aside {
            assert!(told.contains(&operation), "README has no {operation:?}");
        }
    }
}

/// Where it is served is the operator's to say.
#[test]
fn what_describes_the_api_is_served_where_it_is_wanted() {
    let backend = Backend::sqlite();
    for place in ["admin", "none"] {
        let server = backend
            .canvas()
            .workers(1)
            .args(["--api-docs", place])
            .start();
        for path in ["/openapi.json", "/docs", "/docs.css"] {
            server.get(path).problem(404);
        }
        server.get(&list_target(7)).expect(200);
        server.stop();
    }
    let canvas = backend.canvas().args(["--listen", "127.0.0.1:0"]);
    canvas
        .args(["--api-docs", "everywhere"])
        .run()
        .expect(100)
        .naming(&["--api-docs", "public, admin or none"]);
}
