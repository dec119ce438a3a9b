//! The host's limits: what does not allow what is configured is told at the start, by `check` and at a reload; and a
//! worker takes no more than is reckoned. `tune` compares and prints.

use canvas_cluster::config;
use canvas_cluster::tune::table::ROWS;
use canvas_cluster::worker::needs::needs;

use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::shoes::{create, draft, list_target, post};
use crate::support::{
    Backend, Canvas, Dir, PATIENCE, alone, over_a_cluster, over_both_stores, wait_until,
};

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

/// What the kernel holds a process to, soft and hard (`/proc/PID/limits`, proc_pid_limits(5)).
#[track_caller]
fn limit_of(pid: i32, name: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process");
    let row = limits.lines().find_map(|line| line.strip_prefix(name));
    let mut words = row.expect("a limit of that name").split_whitespace();
    let mut next = || words.next().expect("soft and hard").to_owned();
    (next(), next())
}

#[test]
fn the_limit_on_open_files_is_raised_as_far_as_it_may_be_in_every_process() {
    let backend = Backend::sqlite();
    let canvas = backend.canvas().workers(2);
    let server = canvas
        .args(["--max-connections", "500"])
        .open_files_up_to(300, 3000)
        .start();
    for _ in 0..2 {
        for process in server.workers().into_iter().chain([server.master()]) {
            assert_eq!(
                limit_of(process, "Max open files"),
                ("3000".to_owned(), "3000".to_owned()),
                "of process {process}; the master is {}",
                server.master()
            );
        }
        // The workers of a reload, too.
        server.reload(2);
    }
    assert!(server.lines_with("may open").is_empty());
}

/// A worker that takes as many connections as it may open files has none left for its database.
#[test]
fn a_worker_takes_no_more_connections_than_its_open_files_have_room_for() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .args(["--workers", "1", "--lanes", "1"])
        .args(["--max-connections", "5000"])
        .open_files(300)
        .start();
    create(&server, 7, &[("img1", "a")]);
    let told = server.lines_with("may open 300 files");
    let told = told.first().expect("a line that tells");
    let room: usize = told
        .split_once("a worker takes ")
        .and_then(|(_, rest)| rest.split_once(' '))
        .and_then(|(number, _)| number.parse().ok())
        .expect("how many it takes");
    assert!((100..236).contains(&room), "{told}");

    let mut taken: Vec<_> = (0..room).map(|_| server.connect()).collect();
    server.wait_until_read(&taken);
    for _ in 0..3 {
        server.get(&list_target(7)).expect(503);
    }
    // Those that were taken are served, from the database too.
    for client in &mut taken {
        client.get("/healthz").expect("an answer").expect(200);
    }
    let created = taken[0].call(&post(draft(8, &[("img1", "b")])));
    created.expect("an answer").expect(201);
    // And so is the next one, when one has gone.
    drop(taken.pop());
    wait_until(PATIENCE, "room for another one", || {
        let mut client = server.connect();
        client
            .get(&list_target(8))
            .is_ok_and(|answer| answer.status == 200)
    });
}

/// Runs a command in the network of a process; its standard output.
fn in_network_of(pid: i32, command: &[&str]) -> String {
    let output = std::process::Command::new("nsenter")
        .args(["--target", &pid.to_string(), "--net", "--"])
        .args(command)
        .output()
        .expect("nsenter");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Whether a network namespace can be made, which takes CAP_SYS_ADMIN.
fn may_have_own_network() -> bool {
    let mut unshare = std::process::Command::new("unshare");
    unshare
        .args(["--net", "true"])
        .stderr(std::process::Stdio::null());
    unshare.status().is_ok_and(|status| status.success())
}

#[test]
fn tune_apply_raises_what_it_may_and_fails_by_what_it_may_not() {
    let dir = Dir::new();
    let apply = |connections: &str| {
        Canvas::new(dir.path())
            .args(["tune", "--apply", "--workers", "1", "--lanes", "1"])
            .args(["--max-connections", connections])
    };
    // One limit is too low, and of those that can't be raised from here.
    let ended = apply("1000").open_files(300).run().expect(111);
    ended.naming(&["nofile", "too low", "LimitNOFILE="]);
    if may_have_own_network() {
        let ended = apply("5000").own_network().run().expect(0);
        let raised = "net.core.somaxconn: raised from 4096 to 5000\n";
        assert!(ended.stdout.starts_with(raised), "{ended:?}");
        assert!(
            rows(&ended.stdout[raised.len()..])
                .iter()
                .all(|row| row[3] != "too low")
        );
    }
}

#[test]
fn a_privileged_server_raises_what_is_too_low_at_a_reload_and_uses_it() {
    let backend = Backend::sqlite();
    let file = backend.dir.write("canvas.toml", "max_connections = 10\n");
    let raised = "raised net.core.somaxconn from ";
    let canvas = || {
        backend
            .canvas()
            .workers(2)
            .env("CANVAS_CONFIG", &file)
            .env("CANVAS_TUNE_HOST", "true")
            .args(["--listen", "0.0.0.0:0", "--allow-anonymous-writes"])
    };
    if !may_have_own_network() {
        // Nobody else may, so the server serves as it is and tells.
        backend
            .dir
            .write("canvas.toml", "max_connections = 60000\n");
        let mut server = canvas().launch_as_it_is();
        server.wait_until_ready();
        assert!(server.lines_with(raised).is_empty());
        return;
    }
    let mut server = canvas().own_network().launch_as_it_is();
    server.wait_until_ready();
    let sysctl = "/proc/sys/net/core/somaxconn";
    let before = in_network_of(server.master(), &["cat", sysctl]);
    let before: u64 = before.trim().parse().expect("a number");
    let queues = || {
        let lines = in_network_of(server.master(), &["ss", "-ltnH"]);
        let send_q = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
        lines.lines().filter_map(send_q).collect::<Vec<_>>()
    };
    assert_eq!(queues(), vec![before.to_string(); 2]);
    assert!(server.lines_with(raised).is_empty(), "nothing was too low");

    let wanted = before + 1000;
    backend
        .dir
        .write("canvas.toml", &format!("max_connections = {wanted}\n"));
    server.reload(2);
    assert_eq!(
        in_network_of(server.master(), &["cat", sysctl]).trim(),
        wanted.to_string()
    );
    assert_eq!(queues(), vec![wanted.to_string(); 2]);
    let told = server.lines_with(raised);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains(&format!("from {before} to {wanted}")),
        "{told:?}"
    );
    assert!(server.lines_with("net.core.somaxconn =").is_empty());

    // It is never lowered, and not touched when that is not wanted.
    backend.dir.write("canvas.toml", "max_connections = 10\n");
    server.reload(2);
    assert_eq!(queues(), vec![wanted.to_string(); 2]);
    drop(server);
    backend
        .dir
        .write("canvas.toml", &format!("max_connections = {wanted}\n"));
    let mut server = canvas()
        .own_network()
        .args(["--tune-host=false"])
        .launch_as_it_is();
    server.wait_until_ready();
    assert_eq!(server.lines_with("net.core.somaxconn =").len(), 1);
    assert!(server.lines_with(raised).is_empty());
    assert_eq!(
        in_network_of(server.master(), &["cat", sysctl]).trim(),
        before.to_string()
    );
}

/// The rows of the report: name, found, wanted, result.
fn rows(report: &str) -> Vec<[String; 4]> {
    let lines = report.lines().skip(1).take_while(|line| !line.is_empty());
    let columns = |line: &str| {
        let columns: Vec<&str> = line
            .split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .collect();
        <[&str; 4]>::try_from(columns)
            .unwrap_or_else(|columns| panic!("not four columns: {columns:?}"))
            .map(str::to_owned)
    };
    lines.map(columns).collect()
}

#[test]
fn tune_check_compares_each_limit_and_its_exit_code_says_the_worst() {
    let dir = Dir::new();
    let check = |arguments: &[&str]| {
        Canvas::new(dir.path())
            .args(["tune", "--check", "--workers", "1", "--lanes", "1"])
            .args(arguments.iter().copied())
    };
    let unread =
        |row: &[String; 4]| row[3] == "can't be read" || row[3].starts_with("has no effect");
    // What every host has.
    let ended = check(&["--max-connections", "1"]).run().expect(0);
    let met = rows(&ended.stdout);
    assert_eq!(met.len(), ROWS.len(), "{}", ended.stdout);
    for (row, limit) in met.iter().zip(ROWS) {
        assert_eq!(row[0], limit.name);
        assert!(row[3] == "ok" || unread(row), "{row:?}");
    }
    let found = |name: &str| met.iter().find(|row| row[0] == name).expect("a row")[1].clone();
    for name in ["net.core.somaxconn", "vm.max_map_count"] {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let real = std::fs::read_to_string(file).expect("a sysctl");
        assert_eq!(found(name), real.trim());
    }
    // What this process may not have.
    let ended = check(&["--max-connections", "5000"])
        .open_files(300)
        .run()
        .expect(1);
    let short = rows(&ended.stdout);
    let row = short.iter().find(|row| row[0] == "nofile").expect("a row");
    assert_eq!((row[1].as_str(), row[3].as_str()), ("300", "too low"));
    let wanted: u64 = row[2].parse().expect("a number");
    assert!((5000..5500).contains(&wanted), "{row:?}");
    ended.naming(&[
        &format!("LimitNOFILE={wanted}"),
        "limits.d",
        "too low for this configuration",
    ]);
}

#[test]
fn tune_takes_exactly_one_thing_to_do() {
    let dir = Dir::new();
    for wrong in [
        &["tune"][..],
        &["tune", "--check", "--print", "sysctl.d"],
        &["tune", "--print", "nonsense"],
        &["tune", "--print"],
        &["tune", "--check", "--workers", "none"],
    ] {
        let ended = Canvas::new(dir.path()).args(wrong.iter().copied()).run();
        ended.expect(100);
    }
}

#[test]
fn the_files_are_those_that_tune_prints() {
    let dir = Dir::new();
    for (kind, file) in [
        (
            "sysctl.d",
            include_str!("../sysctl.d/60-canvas-cluster.conf"),
        ),
        (
            "limits.d",
            include_str!("../limits.d/60-canvas-cluster.conf"),
        ),
    ] {
        let canvas = || Canvas::new(dir.path()).args(["tune", "--print", kind, "--workers", "4"]);
        let printed = canvas().run().expect(0).stdout;
        assert!(
            printed == file,
            "{kind}/60-canvas-cluster.conf is out of step with `canvas-cluster tune --print {kind}`:\n{printed}"
        );
        let more = canvas()
            .args(["--max-connections", "600000"])
            .run()
            .expect(0);
        assert_ne!(more.stdout, file, "{kind}");
    }
}

#[test]
fn the_readme_holds_the_table_of_limits() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme
        .split_once("<!-- limits: ")
        .expect("the table's beginning");
    let (table, _) = rest
        .split_once("<!-- /limits -->")
        .expect("the table's end");
    let (_, table) = table.split_once("-->\n").expect("the end of the comment");
    let expected = canvas_cluster::tune::readme_table();
    assert!(
        table.trim() == expected.trim(),
        "README's limits are out of step; this belongs between its marks:\n{expected}"
    );
}

over_both_stores!(a_worker_takes_no_more_than_is_reckoned);
over_a_cluster!(a_worker_takes_no_more_than_is_reckoned);

fn a_worker_takes_no_more_than_is_reckoned(backend: &Backend) {
    const LANES: &str = "6";
    const CLIENTS: usize = 40;
    let _machine = alone();
    let server = backend.canvas().workers(1).args(["--lanes", LANES]).start();
    create(&server, 7, &[("img1", "a")]);
    let mut arguments = vec!["canvas-cluster", "--lanes", LANES];
    if let Some(url) = &backend.redis_url {
        arguments.extend(["--redis-url", url]);
    }
    let arguments = arguments.into_iter().map(Into::into);
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

/// Who opens the descriptor that makes the kernel's table of them too small waits for all processors, and with it every
/// connection of a worker.
#[test]
fn a_worker_has_its_table_of_open_files_before_it_serves() {
    const CLIENTS: usize = 300;
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--max-connections", "3000"])
        .start();
    let worker = *server.workers().first().expect("a worker");
    let room = room_for_descriptors(worker);
    assert!(
        room >= 3000,
        "room for {room} open files, and 3,000 connections"
    );
    let requests = vec![Request::new("GET", "/api/images/1")];
    let load = Load::start(server.address(), Style::KeepAlive, CLIENTS, requests);
    load.wait_for_answers(10 * CLIENTS as u64);
    load.stop();
    assert_eq!(room_for_descriptors(worker), room);
    drop(server);

    // No more than it may have.
    let canvas = backend.canvas().workers(1).args(["--lanes", "1"]);
    let server = canvas.open_files(300).start();
    let worker = *server.workers().first().expect("a worker");
    let room = room_for_descriptors(worker);
    assert!((300..=512).contains(&room), "room for {room} of 300");
}

/// FDSize of proc_pid_status(5).
fn room_for_descriptors(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size.and_then(|size| size.trim().parse().ok())
        .expect("its FDSize")
}
