//! The log as programs read it, slow requests with what took their time, traces in the logs and in the database, and `Server-Timing`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::canvas::binary;
use crate::support::http::Request;
use crate::support::locked::Locked;
use crate::support::postgres::{PASSWORD, PASSWORD_ENCODED, Postgres};
use crate::support::process::signal;
use crate::support::shoes::{create, draft, list_target, post};
use crate::support::{Backend, Canvas, Client, PATIENCE, Server, wait_until};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a slow request's line says.
const SLOW: &str = "http: a slow request";

type Fields = BTreeMap<String, String>;

/// Reads a line of logfmt: `key=value`, with JSON's strings where a value needs quotes.
fn read_logfmt(line: &str) -> Option<Fields> {
    let mut fields = Fields::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.is_empty() || !key.chars().all(plain) {
            return None;
        }
        let (value, after) = match after.starts_with('"') {
            true => {
                let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
                let value = values.next()?.ok()?;
                let after = &after[values.byte_offset()..];
                (value, after.strip_prefix(' ').unwrap_or(after))
            }
            false => {
                let (value, after) = after.split_once(' ').unwrap_or((after, ""));
                (value.to_owned(), after)
            }
        };
        if fields.insert(key.to_owned(), value).is_some() {
            return None;
        }
        rest = after;
    }
    Some(fields)
}

fn read_json(line: &str) -> Option<Fields> {
    let members: BTreeMap<String, Value> = serde_json::from_str(line).ok()?;
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let fields = members.into_iter().map(|(key, value)| (key, text(value)));
    Some(fields.collect())
}

/// The fields of each line so far; each line must be whole, and have what all have.
#[track_caller]
fn fields_of(server: &Server, read: fn(&str) -> Option<Fields>) -> Vec<Fields> {
    let text = server.log_text();
    text.lines()
        .map(|line| {
            let fields = read(line).unwrap_or_else(|| panic!("not of its format: {line}"));
            assert!(
                humantime::parse_rfc3339(&fields["time"]).is_ok(),
                "no time: {line}"
            );
            let levels = ["error", "warn", "info", "debug"];
            assert!(levels.contains(&fields["level"].as_str()), "{line}");
            assert!(fields["pid"].parse::<u32>().is_ok(), "{line}");
            assert!(
                !fields["room"].is_empty() && !fields["msg"].is_empty(),
                "{line}"
            );
            fields
        })
        .collect()
}

/// A configuration file whose name and mistake try to break out of a line.
fn bad_config(backend: &Backend) -> String {
    let path = backend.dir.join("canvas \"cluster\".toml");
    std::fs::write(&path, "workers = 2\n").expect("a file");
    path.display().to_string()
}

/// Everything that writes to the log in its own way: the master, workers, children that prepare, a worker that dies, one that is
/// aborted, a reload that is refused, a new image of the program, and what was held back.
fn a_life_full_of_trouble(format: &str, read: fn(&str) -> Option<Fields>) {
    let backend = Backend::sqlite();
    let config = bad_config(&backend);
    let canvas = backend.canvas().args(["--config", &config]);
    let mut server = canvas
        .args(["--log-level", "debug", "--log-format", format])
        .args(["--slow-request", "1ms"])
        .start();
    for provoked in ["ended with", "aborted on", "frames", "refused", "worker "] {
        server.allow(provoked);
    }
    create(&server, 7, &[("img1", "a")]);
    let worker = *server.workers().first().expect("a worker");
    signal(worker, Signal::SIGABRT);
    server.wait_for_line(&format!("(pid {worker}) ended with SIGABRT"));
    let mistakes = "workers = 0\nlisten = \"no\\u0007where\"\n\"a \\\" b\" = 1\n";
    std::fs::write(&config, mistakes).expect("a file");
    server.signal(Signal::SIGHUP);
    server.wait_for_line("reload refused");
    std::fs::write(&config, "workers = 2\n").expect("a file");
    let length = server.log_length();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line_after(length, "takes over from");
    server.wait_for_line_after(length, "master: reloaded: ");
    server.stop_with(Signal::SIGTERM);

    let lines = fields_of(&server, read);
    let told = |what: &str| {
        let found = lines.iter().find(|fields| fields["msg"].contains(what));
        found.unwrap_or_else(|| panic!("nothing tells `{what}`: {}", server.log_text()))
    };
    assert_eq!(told("master: ready: ")["room"], "master");
    let last = told("aborted on thread");
    assert_eq!((&*last["level"], &*last["room"]), ("error", "worker"));
    assert_eq!(last["pid"], worker.to_string());
    let refused = told("reload refused");
    assert_eq!(refused["level"], "error");
    assert!(
        refused["msg"].contains('\n'),
        "all mistakes, on one line: {refused:?}"
    );
    assert_eq!(told("stopped after")["level"], "info");
}

#[test]
fn every_line_is_json() {
    a_life_full_of_trouble("json", read_json);
}

#[test]
fn every_line_is_logfmt() {
    a_life_full_of_trouble("logfmt", read_logfmt);
}

/// Standard error of a test is a pipe: neither a terminal nor the journal.
#[test]
fn what_no_person_reads_is_logfmt() {
    let backend = Backend::sqlite();
    // An empty variable counts as not given.
    let canvas = backend.canvas().env("CANVAS_LOG_FORMAT", "");
    let mut server = canvas.workers(1).start();
    server.stop_with(Signal::SIGTERM);
    let lines = fields_of(&server, read_logfmt);
    assert!(lines[0]["time"].ends_with('Z'), "{lines:?}");
}

/// What a command says is for who has called it.
#[test]
fn commands_speak_to_people_unless_they_are_told_otherwise() {
    let backend = Backend::sqlite();
    let missing = "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=1";
    let fail = |format: &str| {
        let call = backend.tool("migrate").env("CANVAS_DATABASE_URL", missing);
        call.env("CANVAS_LOG_FORMAT", format)
            .run()
            .expect(111)
            .stderr
    };
    let text = fail("");
    assert!(text.starts_with("canvas-cluster: "), "{text}");
    let json = fail("json");
    let fields = read_json(json.trim_end()).unwrap_or_else(|| panic!("not JSON: {json}"));
    assert_eq!((&*fields["level"], &*fields["room"]), ("error", "main"));
}

/// As systemd starts a service: $JOURNAL_STREAM names what standard error is.
fn under_the_journal(backend: &Backend, names: &str) -> Canvas {
    let script = format!("export JOURNAL_STREAM={names}; exec \"$0\" \"$@\"");
    let canvas = backend.canvas().program(Path::new("/bin/sh"));
    canvas.arg("-c").arg(script).arg(binary()).workers(1)
}

const STDERR: &str = "$(stat -L -c %d:%i /proc/self/fd/2)";

#[test]
fn the_journal_gets_priorities_in_every_format() {
    let backend = Backend::sqlite();
    for (format, begins) in [
        ("text", "<6>master: "),
        ("", "<6>master: "),
        ("logfmt", "<6>time="),
        ("json", "<6>{\"time\":"),
    ] {
        let canvas = under_the_journal(&backend, STDERR).env("CANVAS_LOG_FORMAT", format);
        let server = canvas.start();
        let line = server.wait_for_line("ready: ");
        assert!(line.starts_with(begins), "{format}: {line}");
        for line in server.log_text().lines() {
            let priority = line.strip_prefix('<').and_then(|rest| rest.get(..2));
            let known = ["3>", "4>", "6>", "7>"];
            assert!(priority.is_some_and(|end| known.contains(&end)), "{line}");
        }
    }
}

/// A shell of a desktop has the variable of its terminal's service.
#[test]
fn a_journal_that_is_elsewhere_changes_nothing() {
    let backend = Backend::sqlite();
    let server = under_the_journal(&backend, "8:12345").start();
    let line = server.wait_for_line("ready: ");
    assert!(line.contains(" INFO  ["), "{line}");
}

/// What is sent while the table is locked, once it waits there; for how long it did at least, and what was waiting.
fn hold_up(mut locked: Locked, client: &mut Client, request: &[u8]) -> (Duration, Vec<String>) {
    client.send_raw(request).expect("a request");
    let waits = locked.wait_for(1);
    let seen = Instant::now();
    // It still waits a round trip later.
    assert_eq!(locked.waiting(), waits);
    let at_least = seen.elapsed();
    locked.release();
    (at_least, waits)
}

fn locked(backend: &Backend) -> Locked {
    Locked::table(backend.postgres(), "shoe_images")
}

fn postgres_and_redis() -> Backend {
    let backend = Backend::unmigrated_postgres_redis();
    backend.migrate();
    backend
}

#[test]
fn a_slow_request_tells_where_its_time_went() {
    let backend = postgres_and_redis();
    let log = backend.dir.join("access.log");
    let canvas = backend.canvas().workers(1);
    let server = canvas
        .args(["--log-format", "json", "--slow-request", "1ms"])
        .args(["--access-log-format", "json", "--access-log"])
        .arg(&log)
        .start();
    let mut client = server.connect();
    let request = Request::new("GET", &list_target(7))
        .header("X-Request-Id", "the-slow-one")
        .header("Traceparent", TRACEPARENT);
    let (locked, _) = hold_up(locked(&backend), &mut client, &request.bytes());
    client.receive(true).expect("an answer").expect(200);
    let line = server.wait_for_line("the-slow-one");
    let told: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&told["msg"], &told["level"]),
        (&SLOW.into(), &"warn".into())
    );
    for (field, value) in [
        ("room", "http"),
        ("request_id", "the-slow-one"),
        ("trace_id", TRACE_ID),
        ("traceparent", TRACEPARENT),
        ("method", "GET"),
        ("path", "/api/images/"),
    ] {
        assert_eq!(told[field], value, "{line}");
    }
    assert_eq!(
        (&told["shoe_id"], &told["status"]),
        (&7.into(), &200.into())
    );
    assert!(
        !line.contains('?'),
        "the query is nobody's business: {line}"
    );
    let ms = |field: &str| {
        let number = told[field].as_f64();
        number.unwrap_or_else(|| panic!("no {field}: {line}"))
    };
    let locked = locked.as_secs_f64() * 1000.0;
    assert!(ms("sql_ms") >= locked, "{locked} ms locked: {line}");
    assert!(ms("redis_ms") > 0.0, "it was asked first: {line}");
    let layers = ["parse_ms", "queue_ms", "redis_ms", "sql_ms", "write_ms"];
    let sum: f64 = layers.iter().map(|layer| ms(layer)).sum();
    assert!(sum <= ms("total_ms") + 0.1, "more than all of it: {line}");
    assert!(ms("accept_ms") >= 0.0, "{line}");

    // The access log knows the trace too.
    wait_until(PATIENCE, "the access log", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("the-slow-one"))
    });
    let text = std::fs::read_to_string(&log).expect("the access log");
    let noted = text.lines().find(|line| line.contains("the-slow-one"));
    let noted: Value = serde_json::from_str(noted.expect("just seen")).expect("JSON");
    assert_eq!(noted["trace_id"], TRACE_ID);
    for secret in [PASSWORD, PASSWORD_ENCODED] {
        assert!(!server.log_text().contains(secret));
    }
}

#[test]
fn a_client_that_is_slow_itself_is_told_of_only_beside_a_server_that_is() {
    let backend = postgres_and_redis();
    let canvas = backend.canvas().workers(1);
    let server = canvas.args(["--slow-request", "500ms"]).start();
    let pieces = |server: &Server, target: &str, id: &str| {
        let mut client = server.connect();
        let line = format!("GET {target} HTTP/1.1\r\nX-Request-Id: {id}\r\n");
        client.send_raw(line.as_bytes()).expect("a piece");
        server.wait_until_read([&client]);
        let begun = Instant::now();
        wait_until(PATIENCE, "more than a slow request takes", || {
            begun.elapsed() > Duration::from_millis(600)
        });
        (client, begun.elapsed())
    };
    let rest = b"Host: h\r\n\r\n";
    let (mut client, _) = pieces(&server, "/healthz", "its-own-doing");
    client.send_raw(rest).expect("the rest");
    client.receive(true).expect("an answer").expect(200);
    let canvas = backend.canvas().workers(1);
    let prompt = canvas.args(["--slow-request", "1ms"]).start();
    let (mut client, waited) = pieces(&prompt, &list_target(7), "in-pieces");
    hold_up(locked(&backend), &mut client, rest);
    client.receive(true).expect("an answer").expect(200);
    let line = prompt.wait_for_line("request_id=in-pieces");
    let (_, fields) = line.split_once(SLOW).expect("a slow one");
    let fields = read_logfmt(fields.trim_start()).expect("fields");
    let parse: f64 = fields["parse_ms"].parse().expect("a number");
    assert!(parse >= waited.as_secs_f64() * 1000.0, "{waited:?}: {line}");
    assert!(!fields.contains_key("trace_id"), "{line}");
    // Who gives up within a head is not told of here.
    let mut gone = prompt.connect();
    gone.send_raw(b"NONSENSE\r\n\r\n").expect("nonsense");
    gone.receive(true).expect("a refusal").expect(400);
    assert!(!prompt.log_text().contains("NONSENSE"));
    drop(client);
    let mut server = server;
    server.stop_with(Signal::SIGTERM);
    assert!(server.lines_with(SLOW).is_empty(), "{}", server.log_text());
}

#[test]
fn requests_are_not_told_of_when_nobody_wants_to_know() {
    let backend = postgres_and_redis();
    let canvas = backend.canvas().workers(1);
    let server = canvas.args(["--slow-request", "0s"]).start();
    let mut client = server.connect();
    let request = Request::new("GET", &list_target(7));
    hold_up(locked(&backend), &mut client, &request.bytes());
    client.receive(true).expect("an answer").expect(200);
    assert!(server.lines_with(SLOW).is_empty());
}

/// A hundred a worker are told in ten seconds; of the others there is a count, at the latest when the worker leaves.
#[test]
fn a_flood_of_slow_requests_is_summed_up() {
    const ASKED: usize = 130;
    let backend = postgres_and_redis();
    let canvas = backend.canvas().workers(1);
    let mut server = canvas.args(["--slow-request", "1ms"]).start();
    let mut locked = locked(&backend);
    let mut clients: Vec<Client> = (0..ASKED).map(|_| server.connect()).collect();
    for (shoe, client) in (0..).zip(&mut clients) {
        let request = Request::new("GET", &list_target(shoe)).bytes();
        client.send_raw(&request).expect("a request");
    }
    server.wait_until_read(&clients);
    wait_until(PATIENCE, "one to wait", || !locked.waiting().is_empty());
    locked.release();
    for client in &mut clients {
        client.receive(true).expect("an answer").expect(200);
    }
    drop(clients);
    server.stop_with(Signal::SIGTERM);
    let lines = server.lines_with(SLOW);
    let (sums, told): (Vec<&String>, Vec<&String>) = lines
        .iter()
        .partition(|line| line.contains("more like this"));
    let held: usize = sums
        .iter()
        .filter_map(|line| line.rsplit_once("repeats=")?.1.parse::<usize>().ok())
        .sum();
    assert_eq!(told.len() + held, ASKED, "{lines:#?}");
    assert!(told.len() >= 100 && held > 0, "{} told", told.len());
}

/// What the database answers with an error names the request and its trace.
#[test]
fn an_error_names_its_request_and_its_trace() {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    backend.execute(
        "ALTER TABLE shoe_images RENAME TO stored;
         INSERT INTO stored (shoe_id) VALUES (7);
         CREATE VIEW shoe_images AS SELECT id, shoe_id, (1 / (shoe_id - 7))::text::varchar AS img1, img2, img3, img4,
             img5, img6, img7, vid1, vid2 FROM stored",
    );
    let canvas = backend.canvas().workers(1);
    let mut server = canvas.args(["--log-format", "logfmt"]).start();
    server.allow("division by zero");
    let request = Request::new("GET", &list_target(7))
        .header("X-Request-Id", "divided")
        .header("traceparent", TRACEPARENT);
    server.call(&request).problem(500);
    let line = server.wait_for_line("app: request divided");
    let fields = read_logfmt(&line).expect("logfmt");
    assert_eq!(
        (&*fields["request_id"], &*fields["trace_id"]),
        ("divided", TRACE_ID)
    );
    // One that is not valid counts as absent.
    let request = Request::new("GET", &list_target(7))
        .header("X-Request-Id", "untraced")
        .header("traceparent", &TRACEPARENT.to_uppercase());
    server.call(&request).problem(500);
    let line = server.wait_for_line("app: request untraced");
    assert!(!line.contains("trace_id"), "{line}");
}

/// The lines of PostgreSQL's log of statements that begin a transaction in this database.
fn begins(name: &str) -> Vec<String> {
    let log = Postgres::shared().log();
    log.lines()
        .filter(|line| line.contains(&format!(" {name} LOG:")) && line.contains(": BEGIN"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_database_knows_whose_a_write_is_if_it_is_to() {
    let backend = Backend::on(Postgres::shared(), None);
    backend.migrate();
    let name = &backend.postgres().name;
    let every = format!("ALTER DATABASE {name} SET log_statement = 'all'");
    Postgres::shared().administer(&every);
    let comment = format!("BEGIN /*traceparent='{TRACEPARENT}'*/; ");
    let request = |id: &str| {
        let request = post(draft(7, &[])).header("X-Request-Id", id);
        request.header("traceparent", TRACEPARENT)
    };
    for (traced, shown) in [
        ("false", "canvas-cluster/0".to_owned()),
        ("true", format!("canvas-cluster/0 {TRACE_ID}")),
    ] {
        let canvas = backend.canvas().workers(1);
        let canvas = canvas.args(["--lanes", "1"]);
        let server = canvas.arg(format!("--trace-sql={traced}")).start();
        let mut client = server.connect();
        let locked = Locked::for_writers(backend.postgres(), "shoe_images");
        let (_, waits) = hold_up(locked, &mut client, &request("traced").bytes());
        assert_eq!(waits, [shown], "--trace-sql {traced}");
        client.receive(true).expect("an answer").expect(201);
        let told: Vec<String> = begins(name)
            .into_iter()
            .filter(|line| line.contains(&comment))
            .collect();
        match traced {
            "true" => {
                // In one message with what it always says: no round trip more.
                assert_eq!(told.len(), 1, "{told:#?}");
                assert!(told[0].contains("SET LOCAL statement_timeout"), "{told:#?}");
            }
            _ => assert!(told.is_empty(), "{told:#?}"),
        }
        // The name ends with the transaction, and a write without a trace has none.
        let before = begins(name).len();
        create(&server, 8, &[]);
        let mut watcher = backend.postgres().connect();
        let named = "SELECT application_name FROM pg_stat_activity \
                     WHERE datname = current_database() AND application_name LIKE 'canvas-cluster%'";
        // Those of the server before may take a moment to go.
        wait_until(PATIENCE, "the plain name", || {
            let rows = watcher.query(named, &[]).expect("pg_stat_activity");
            let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            names == ["canvas-cluster/0"]
        });
        let plain = &begins(name)[before..];
        assert!(
            !plain.is_empty() && plain.iter().all(|line| !line.contains("/*")),
            "{plain:#?}"
        );
    }
}

/// Of a `Server-Timing`: each layer and its milliseconds.
fn layers_of(value: &str) -> BTreeMap<String, f64> {
    let layer = |part: &str| {
        let (layer, took) = part.split_once(";dur=")?;
        Some((layer.to_owned(), took.parse().ok()?))
    };
    let layers: Option<_> = value.split(", ").map(layer).collect();
    layers.unwrap_or_else(|| panic!("no Server-Timing: {value}"))
}

#[test]
fn answers_tell_their_timing_if_they_are_asked_and_may() {
    let backend = Backend::sqlite();
    let asking = |shoe| Request::new("GET", &list_target(shoe)).header("X-Server-Timing", "1");
    let plain = |shoe| Request::new("GET", &list_target(shoe));
    let serve = |which: &str| {
        let canvas = backend.canvas().workers(1).args(["--server-timing", which]);
        canvas
            .args(["--cors-origins", "https://shop.example"])
            .start()
    };
    let never = serve("never");
    assert_eq!(
        never.call(&asking(7)).expect(200).header("server-timing"),
        None
    );

    let asked = serve("asked");
    // A miss, which goes into the worker's own cache, and a hit.
    let miss = asked.call(&asking(7)).expect(200);
    let layers = layers_of(miss.header("server-timing").expect("asked for"));
    assert!(
        layers["sql"] > 0.0 && layers["total"] >= layers["sql"],
        "{layers:?}"
    );
    assert_eq!(miss.header("timing-allow-origin"), None);
    let hit = asked.call(&plain(7)).expect(200);
    assert_eq!(hit.header("server-timing"), None, "nothing of it is kept");
    assert_eq!(hit.body, miss.body);
    let hit = asked.call(&asking(7)).expect(200);
    let layers = layers_of(hit.header("server-timing").expect("asked for"));
    assert_eq!(
        layers.keys().collect::<Vec<_>>(),
        ["total"],
        "of the worker alone"
    );
    let zero = plain(7).header("X-Server-Timing", "0");
    assert_eq!(asked.call(&zero).expect(200).header("server-timing"), None);
    // Whose scripts may read the answer may read its timing.
    for (origin, allowed) in [
        ("https://shop.example", true),
        ("https://evil.example", false),
    ] {
        let answer = asked.call(&asking(7).header("Origin", origin)).expect(200);
        let may = answer.header("timing-allow-origin");
        assert_eq!(may, allowed.then_some(origin));
    }

    let always = serve("always");
    for answer in [
        always.call(&plain(7)),
        always.call(&Request::new("GET", "/nowhere")),
    ] {
        assert!(answer.header("server-timing").is_some(), "{answer}");
    }
}
