//! What is in `monitoring`: promtool has no complaint of it, every alert fires when it should, and a real Prometheus that scrapes a
//! real server can answer every query of the rules and of the dashboard.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::replicas::Cluster;
use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::process::{free_port, guarded, spawn, wait_for_exit};
use crate::support::prometheus::{Prometheus, promtool};
use crate::support::redis::Redis;
use crate::support::shoes::list_target;
use crate::support::wait::comes_true;
use crate::support::{Dir, PATIENCE, Server, alone, wait_until};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

#[track_caller]
fn promtool_accepts(arguments: &[&str]) {
    let dir = Dir::new();
    let said = dir.join("said");
    let file = std::fs::File::create(&said).expect("a file");
    let mut command = guarded(promtool(), nix::sys::signal::Signal::SIGKILL, None);
    command
        .args(arguments)
        .current_dir(folder())
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone().expect("one more descriptor"))
        .stderr(file);
    let mut child = spawn(command).expect("promtool");
    let status = wait_for_exit(&mut child, PATIENCE, "promtool");
    let said = std::fs::read_to_string(said).expect("what it said");
    assert!(status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_has_no_complaint() {
    promtool_accepts(&["check", "rules", "alerts.yml"]);
    promtool_accepts(&["check", "config", "prometheus.yml"]);
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    promtool_accepts(&["test", "rules", "alerts.test.yml"]);
    let read = |name| std::fs::read_to_string(folder().join(name)).expect(name);
    let (rules, tests) = (read("alerts.yml"), read("alerts.test.yml"));
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(tests.contains(alert), "{alert} is never seen to fire");
    }
    // What it means, and what to do about it.
    for text in ["summary: ", "description: ", "runbook: "] {
        let told = rules.matches(text).count();
        assert_eq!(told, rules.matches("- alert: ").count(), "{text}");
    }
}

/// A query, and where it stands.
struct Query {
    of: String,
    text: String,
}

/// The queries of the dashboard's panels, its variables and its annotations, with the variables that Grafana would fill in.
fn dashboard() -> Vec<Query> {
    let text = std::fs::read_to_string(folder().join("dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let title = panel["title"].as_str().expect("every panel has one");
        let targets = list(&panel["targets"]);
        assert!(
            panel["type"] == "row" || !targets.is_empty(),
            "{title} asks nothing"
        );
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        assert!(
            ["row", "heatmap"].contains(&panel["type"].as_str().unwrap_or_default())
                || unit.is_string(),
            "{title} has no unit"
        );
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            queries.push(Query {
                of: format!("the panel {title:?}"),
                text: filled(target["expr"].as_str().expect("a query")),
            });
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        if let Some(query) = annotation["expr"].as_str() {
            queries.push(Query {
                of: format!("the annotation {}", annotation["name"]),
                text: filled(query),
            });
        }
    }
    for variable in list(&dashboard["templating"]["list"]) {
        let definition = variable["definition"].as_str().unwrap_or_default();
        if let Some((selector, label)) = definition
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
        {
            queries.push(Query {
                of: format!("the variable {}", variable["name"]),
                text: format!("count by ({label}) ({})", filled(selector)),
            });
        }
    }
    queries
}

fn filled(query: &str) -> String {
    query
        .replace("$__rate_interval", "1m")
        .replace("$job", JOB)
        .replace("$instance", ".*")
}

/// The job's name in `prometheus.yml`, which one of the alerts goes by.
const JOB: &str = "canvas-cluster";

/// The selectors of a query that choose among our own metrics: `canvas_cluster_shed_total`, or
/// `canvas_cluster_workers{state="ready"}`. PromQL allows no brace elsewhere, but in strings.
fn selectors(query: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = query.match_indices("canvas_cluster_").map(|(at, _)| at);
    starts
        .map(|at| {
            let rest = &query[at..];
            let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let end = match rest[name..].starts_with('{') {
                true => rest.find('}').map_or(rest.len(), |end| end + 1),
                false => name,
            };
            rest[..end].to_owned()
        })
        .collect()
}

#[test]
fn selectors_are_found() {
    let found = selectors(
        r#"sum(rate(canvas_cluster_a_total{x="y"}[5m])) / canvas_cluster_b > canvas_cluster_b"#,
    );
    let expected = [r#"canvas_cluster_a_total{x="y"}"#, "canvas_cluster_b"];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}

/// Two workers over PostgreSQL, a replica and Redis, with an admin listener that Prometheus can read.
fn serve(cluster: &Cluster) -> (Server, SocketAddr) {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let server = cluster
        .backend
        .canvas()
        .env("CANVAS_DATABASE_READ_URL", cluster.urls())
        .workers(2)
        .arg("--admin")
        .arg(admin.to_string())
        .start();
    (server, admin)
}

#[test]
fn a_real_prometheus_answers_every_query() {
    let _machine = alone();
    let redis = Redis::private();
    let cluster = Cluster::new(1, Some(&redis));
    let (server, admin) = serve(&cluster);
    let prometheus = Prometheus::watch(JOB, admin, &folder().join("alerts.yml"));
    let requests = (1..200)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect();
    let load = Load::start(server.address(), Style::KeepAlive, 2, requests);
    // What no request should be, so that its panel has something to show.
    let refused = |server: &Server| {
        let mut client = server.connect();
        client.send_raw(b"GET / HTTP/9.9\r\n\r\n").expect("sent");
        client.receive(true).expect("an answer").status
    };
    assert_eq!(refused(&server), 505);

    // The annotation marks a generation that was not there before.
    wait_until(PATIENCE, "the first scrape", || {
        let found = prometheus.query("canvas_cluster_generation");
        found.is_ok_and(|found| !found.is_empty())
    });
    server.reload(2);
    refused(&server);
    let mut missing: Vec<String> = Vec::new();
    let everything = dashboard();
    let shows = |query: &Query| {
        let found = prometheus
            .query(&query.text)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", query.of, query.text));
        !found.is_empty()
    };
    // A rate needs two scrapes, and a counter that was there before it grew.
    let waited = comes_true(PATIENCE, || {
        refused(&server);
        missing = everything
            .iter()
            .filter(|query| !shows(query))
            .map(|query| format!("{}: {}", query.of, query.text))
            .collect();
        missing.is_empty()
    });
    assert!(waited, "nothing to show:\n{}", missing.join("\n"));

    // A rule of which nothing is true answers nothing; but all that it chooses from must be there.
    wait_until(PATIENCE, "all rules to be evaluated", || {
        let rules = prometheus.rules();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
    let rules = prometheus.rules();
    for rule in &rules {
        let query = rule["query"].as_str().expect("a query");
        for selector in selectors(query) {
            let found = prometheus.query(&format!("count({selector})"));
            let found = found.unwrap_or_else(|error| panic!("{selector}: {error}"));
            assert!(
                !found.is_empty(),
                "{} chooses from what is not there: {selector}",
                rule["name"]
            );
        }
    }
    assert!(rules.len() > 10, "{rules:?}");
    let up = prometheus.query(&format!("up{{job=\"{JOB}\"}} == 1"));
    assert_eq!(up.map(|found| found.len()), Ok(1));
    load.stop().assert_all_ok();
    server.stop();
}
