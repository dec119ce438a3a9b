//! The host's limits: what does not allow what is configured is told at the start, by `check` and at a reload; and a
//! worker takes no more than is reckoned.

use canvas_cluster::config;
use canvas_cluster::worker::needs::needs;

use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::shoes::{create, list_target, post};
use crate::support::{Backend, alone, over_both_stores};

#[test]
fn a_low_limit_on_open_files_is_told_once_with_its_remedy() {
    let backend = Backend::sqlite();
    let file = backend.dir.write("canvas.toml", "max_connections = 10\n");
    let canvas = || {
        backend
            .canvas()
            .env("CANVAS_CONFIG", &file)
            .args(["--workers", "1", "--lanes", "1"])
            .open_files(300)
    };
    let server = canvas().start();
    assert_eq!(server.lines_with("may open 300 files").len(), 0);

    // From a reload on, more is asked for than the process may have.
    backend.dir.write("canvas.toml", "max_connections = 5000\n");
    server.reload(1);
    let told = server.lines_with("may open 300 files");
    assert_eq!(told.len(), 1, "{told:?}");
    drop(server);

    let server = canvas().start();
    let words = ["WARN", "max_connections = 5000", "LimitNOFILE="];
    let told = server.lines_with("may open 300 files");
    assert_eq!(told.len(), 1, "{told:?}");
    for word in words {
        assert!(told[0].contains(word), "no `{word}` in: {}", told[0]);
    }
    // It serves what it can.
    server.get("/healthz").expect(200);
    canvas()
        .arg("check")
        .run()
        .expect(0)
        .naming(&words)
        .naming(&["may open 300 files", "the configuration is good"]);
}

over_both_stores!(a_worker_takes_no_more_than_is_reckoned);

fn a_worker_takes_no_more_than_is_reckoned(backend: &Backend) {
    const LANES: &str = "6";
    const CLIENTS: usize = 40;
    let _machine = alone();
    let server = backend.canvas().workers(1).args(["--lanes", LANES]).start();
    create(&server, 7, &[("img1", "a")]);
    let arguments = ["canvas-cluster", "--lanes", LANES].map(Into::into);
    let (_, sources) = config::parse(arguments, []).expect("a command line");
    let reckoned = needs(&sources.load().expect("a configuration"), 1);

    let requests = vec![
        Request::new("GET", &list_target(7)),
        Request::new("GET", "/api/images/1"),
        post(r#"{"shoe_id":8}"#),
        Request::new("GET", "/readyz"),
    ];
    let load = Load::start(server.address(), Style::KeepAlive, CLIENTS, requests);
    let worker = *server.workers().first().expect("a worker");
    let (mut descriptors, mut mappings) = (0, 0);
    for _ in 0..20 {
        load.wait_for_answers(100);
        let open = std::fs::read_dir(format!("/proc/{worker}/fd")).expect("a process");
        descriptors = descriptors.max(open.count() as u64);
        let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).expect("a process");
        mappings = mappings.max(maps.lines().count() as u64);
    }
    load.stop().assert_all_ok();
    // The worker keeps 256 stacks, in use or not.
    let (besides, stacks) = (descriptors.saturating_sub(CLIENTS as u64), 2 * 256);
    let other_mappings = mappings.saturating_sub(stacks);
    println!(
        "{besides} descriptors and {other_mappings} mappings besides connections: {reckoned:?}"
    );
    assert!(
        besides <= reckoned.other_descriptors,
        "{besides} descriptors besides connections; {reckoned:?}"
    );
    assert!(
        other_mappings <= reckoned.other_mappings,
        "{other_mappings} mappings besides stacks; {reckoned:?}"
    );
}
