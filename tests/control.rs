//! The control socket: `canvas-cluster ctl` tells how the server is, changes it, and says what came of that; nobody but
//! the server's user and root may, and no client can hold the server up.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use canvas_cluster::ctl::Place;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::support::canvas::{Ended, binary};
use crate::support::http::Request;
use crate::support::load::{Load, Style};
use crate::support::process::{alive, guarded, signal};
use crate::support::{Backend, Canvas, PATIENCE, Server, alone, wait_until};

/// A call of `ctl` for the server that serves this backend.
pub fn ctl(backend: &Backend, arguments: &[&str]) -> Ended {
    let call = Canvas::new(backend.dir.path()).arg("ctl");
    call.args(arguments.iter().copied()).run()
}

#[track_caller]
pub fn status(backend: &Backend) -> Value {
    let ended = ctl(backend, &["status", "--json"]).expect(0);
    serde_json::from_str(&ended.stdout).expect("one line of JSON")
}

/// Where a server of this backend listens for commands.
pub fn socket(backend: &Backend) -> PathBuf {
    let runtime = Canvas::new(backend.dir.path()).runtime_home();
    runtime.join("canvas-cluster/control.sock")
}

pub fn connect(socket: &Path) -> UnixStream {
    let place = Place::of(socket).expect("its folder");
    let stream = UnixStream::connect(place.name()).expect("a server that listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// All that the server says until it closes.
#[track_caller]
pub fn read_to_end(mut stream: UnixStream) -> String {
    let mut said = String::new();
    match stream.read_to_string(&mut said) {
        Ok(_) => said,
        // Closed before all was read that we sent; what was said came before.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => said,
        Err(error) => panic!("the server does not close: {error}, after {said:?}"),
    }
}

pub fn configure(backend: &Backend, lines: &str) -> PathBuf {
    let draft = backend.dir.write("config.toml.new", lines);
    let file = backend.dir.join("config.toml");
    std::fs::rename(draft, &file).expect("a file in the test's folder");
    file
}

#[track_caller]
fn serve_configured(backend: &Backend, lines: &str) -> Server {
    let file = configure(backend, lines);
    backend.canvas().arg("--config").arg(file).start()
}

fn pids(status: &Value) -> Vec<i64> {
    let workers = status["workers"].as_array().expect("workers");
    workers
        .iter()
        .map(|worker| worker["pid"].as_i64().expect("a pid"))
        .collect()
}

#[track_caller]
fn assert_workers(server: &Server, status: &Value) {
    let mut told = pids(status);
    told.sort_unstable();
    let there: Vec<i64> = server.workers().into_iter().map(i64::from).collect();
    assert_eq!(told, there, "{status}");
}

#[test]
fn the_status_is_what_is() {
    let backend = Backend::sqlite();
    let server = backend.serve(3);
    for _ in 0..5 {
        server.get("/healthz").expect(200);
    }
    let now = status(&backend);
    assert_eq!(now["outcome"], "status");
    assert_eq!(now["pid"], server.master());
    assert_eq!(now["phase"], "serving");
    assert_eq!(now["generation"], 1);
    assert_eq!((&now["wanted"], &now["ready"]), (&json!(3), &json!(3)));
    assert_eq!(
        now["addresses"],
        json!([format!("http://{}", server.address())])
    );
    assert_eq!(now["changes"], json!([]));
    assert_eq!(now["totals"]["requests"], 5);
    assert_workers(&server, &now);
    let workers = now["workers"].as_array().expect("workers");
    for (slot, worker) in workers.iter().enumerate() {
        assert_eq!(worker["slot"], slot);
        assert_eq!(worker["state"], "ready");
        assert_eq!(worker["generation"], 1);
        assert!(worker["silent_ms"].as_u64().is_some(), "{worker}");
    }
    let requests: u64 = workers
        .iter()
        .map(|worker| worker["requests"].as_u64().expect("a count"))
        .sum();
    assert_eq!(requests, 5);

    let shown = ctl(&backend, &["status"]).expect(0).stdout;
    for pid in pids(&now) {
        assert!(shown.contains(&format!(" {pid} ready ")), "{shown}");
    }
    assert!(
        shown.contains("3 of 3 workers ready, generation 1"),
        "{shown}"
    );

    // A worker that takes the place of another begins at nothing, although it may have the same row.
    let (victim, _) = server.one_client_per_worker().remove(0);
    crate::support::process::signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "the worker to be replaced", || {
        let now = status(&backend);
        now["ready"] == 3 && !pids(&now).contains(&i64::from(victim))
    });
    let now = status(&backend);
    let fresh = now["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .find(|worker| !pids_contain(workers, worker));
    assert_eq!(fresh.expect("a new worker")["requests"], 0);
}

fn pids_contain(workers: &[Value], worker: &Value) -> bool {
    workers.iter().any(|known| known["pid"] == worker["pid"])
}

#[test]
fn a_worker_that_finishes_is_told_beside_the_one_that_serves() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    // A client in the middle of a request keeps the old worker.
    let mut client = server.connect();
    client
        .send_raw(b"GET /healthz HTTP/1.1\r\n")
        .expect("a part");
    server.wait_until_read([&client]);
    let old = i64::from(server.only_worker());
    ctl(&backend, &["reload", "--wait"]).expect(0);
    let now = status(&backend);
    assert_eq!(now["phase"], "reloading");
    let states: Vec<(bool, &str)> = now["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .map(|worker| {
            (
                worker["pid"] == old,
                worker["state"].as_str().expect("a state"),
            )
        })
        .collect();
    assert!(
        states.len() == 2
            && states.contains(&(true, "retiring"))
            && states.contains(&(false, "ready")),
        "{now}"
    );
    client.send_raw(b"Host: a\r\n\r\n").expect("the rest");
    client.receive(true).expect("an answer").expect(200);
}

#[test]
fn a_reload_is_waited_for_and_noted() {
    let backend = Backend::sqlite();
    let server = serve_configured(&backend, "workers = 2\n");
    let before = server.workers();
    configure(&backend, "workers = 3\n");
    let ended = ctl(&backend, &["reload", "--wait"]).expect(0);
    assert_eq!(ended.stdout, "reloaded: generation 2, 3 workers\n");
    let now = status(&backend);
    assert_eq!((&now["generation"], &now["ready"]), (&json!(2), &json!(3)));
    assert_eq!(now["changes"][0]["result"], "done");
    for worker in now["workers"].as_array().expect("workers") {
        let is_old = before.contains(&(worker["pid"].as_i64().expect("a pid") as i32));
        assert_eq!(worker["generation"], if is_old { 1 } else { 2 });
        assert_eq!(worker["state"], if is_old { "retiring" } else { "ready" });
    }
    // Several at once are one or two reloads, and each caller is told.
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect(&socket(&backend));
            stream
                .write_all(b"{\"command\":\"reload\",\"wait\":true}\n")
                .expect("sent");
            stream
        })
        .collect();
    for caller in callers {
        let said: Value = serde_json::from_str(&read_to_end(caller)).expect("JSON");
        assert_eq!(said["outcome"], "done", "{said}");
    }
    // Without waiting the command is only taken.
    ctl(&backend, &["reload"]).expect(0).naming(&["does it"]);
}

#[test]
fn a_wrong_configuration_is_refused_with_its_reason_and_costs_no_worker() {
    let backend = Backend::sqlite();
    let mut server = serve_configured(&backend, "workers = 2\n");
    server.allow("reload refused");
    let before = server.workers();
    let file = configure(&backend, "wrokers = 3\n");
    // The client reads the same file, and its mistake is no reason not to find the server.
    let call = Canvas::new(backend.dir.path()).arg("--config").arg(&file);
    let ended = call.args(["ctl", "reload", "--wait"]).run().expect(100);
    assert!(ended.stderr.contains("nothing has changed"), "{ended:?}");
    ended.naming(&["wrokers", "config.toml"]);
    assert_eq!(server.workers(), before);
    let now = status(&backend);
    assert_eq!(now["generation"], 1);
    assert_eq!(now["changes"][0]["result"], "refused");
    let why = now["changes"][0]["why"].as_str().expect("a reason");
    assert!(why.contains("wrokers"), "{why}");
    let ended = ctl(&backend, &["reload", "--wait", "--json"]).expect(100);
    let said: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(said["outcome"], "refused");
}

#[test]
fn a_first_worker_that_fails_takes_the_reload_back() {
    let backend = Backend::sqlite();
    let mut server = serve_configured(&backend, "workers = 2\n");
    server.allow("reload failed");
    server.allow("worker 0");
    let before = server.workers();
    // Well formed, and only a worker that opens it finds out.
    configure(
        &backend,
        "workers = 2\naccess_log = \"/nowhere/access.log\"\n",
    );
    let ended = ctl(&backend, &["reload", "--wait"]).expect(111);
    ended.naming(&["the old ones keep serving", "exit code 111"]);
    assert_eq!(server.workers(), before);
    let now = status(&backend);
    assert_eq!(now["generation"], 1);
    assert_eq!(now["changes"][0]["result"], "failed");
    server.get("/healthz").expect(200);
}

/// A configuration with which a worker hangs in its boot, and the master does not: it opens a FIFO that nobody writes to, where
/// the authorities of its database's certificate should be.
fn configure_a_boot_that_hangs(backend: &Backend) {
    let authorities = backend.dir.join("authorities.pem");
    if !authorities.exists() {
        mkfifo(&authorities, Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
    }
    let url = format!(
        "postgres://nobody@127.0.0.1:1/none?sslmode=verify-full&sslrootcert={}",
        authorities.display()
    );
    configure(backend, &format!("workers = 2\ndatabase_url = \"{url}\"\n"));
}

/// A server whose database is in its configuration, so that a reload can change it.
#[track_caller]
fn serve_with_a_database_that_changes(backend: &Backend, boot_timeout: &str) -> (Server, String) {
    let good = format!("workers = 2\ndatabase_url = \"{}\"\n", backend.database_url);
    let file = configure(backend, &good);
    let canvas = Canvas::new(backend.dir.path()).arg("--config").arg(file);
    let canvas = canvas.args(["--boot-timeout", boot_timeout]);
    (canvas.start(), good)
}

#[track_caller]
fn assert_failed_and_nothing_has_changed(
    backend: &Backend,
    server: &Server,
    ended: Ended,
    before: &BTreeSet<i32>,
) {
    ended.expect(111).naming(&["the old ones keep serving"]);
    assert_eq!(server.workers(), *before);
    assert_eq!(server.answering_workers(), *before);
    let now = status(backend);
    assert_eq!(
        (&now["generation"], &now["phase"]),
        (&json!(1), &json!("serving"))
    );
    let changes = now["changes"].as_array().expect("changes");
    assert_eq!(changes.last().expect("one")["result"], "failed", "{now}");
}

#[test]
fn a_first_worker_whose_boot_hangs_takes_the_reload_back() {
    let backend = Backend::sqlite();
    let (mut server, _) = serve_with_a_database_that_changes(&backend, "2s");
    for expected in ["reload failed", "killing worker", "SIGKILL"] {
        server.allow(expected);
    }
    let before = server.workers();
    configure_a_boot_that_hangs(&backend);
    let began = Instant::now();
    let ended = ctl(&backend, &["reload", "--wait"]);
    let given = began.elapsed();
    assert_failed_and_nothing_has_changed(&backend, &server, ended, &before);
    assert!(given >= Duration::from_secs(2), "given up after {given:?}");
    println!("a boot that hangs was given up after {given:?}, of 2 s that it has");
}

#[test]
fn a_first_worker_that_is_killed_takes_the_reload_back() {
    let backend = Backend::sqlite();
    let (mut server, good) = serve_with_a_database_that_changes(&backend, "1h");
    for expected in ["reload failed", "SIG", "worker 0"] {
        server.allow(expected);
    }
    let before = server.workers();
    configure_a_boot_that_hangs(&backend);
    for which in [Signal::SIGKILL, Signal::SIGSEGV] {
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| ctl(&backend, &["reload", "--wait"]));
            let mut canary = None;
            wait_until(PATIENCE, "a first worker", || {
                canary = server.workers().difference(&before).next().copied();
                canary.is_some()
            });
            let canary = canary.expect("set by the wait");
            // A fault that is only sent may come before the worker has its own handler, and the one before lets it pass.
            wait_until(PATIENCE, "its end", || {
                signal(canary, which);
                !alive(canary)
            });
            let ended = reload.join().expect("a command that ends");
            assert_failed_and_nothing_has_changed(&backend, &server, ended, &before);
        });
    }
    // It is mended as ever.
    configure(&backend, &good);
    ctl(&backend, &["reload", "--wait"]).expect(0);
}

#[test]
fn scaling_loses_no_request() {
    let _machine = alone();
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let reads = || vec![Request::new("GET", "/healthz")];
    let mut loads = [Style::KeepAlive, Style::ConnectionPerRequest]
        .map(|style| (style, Load::start(server.address(), style, 3, reads())));
    for count in ["4", "1", "3", "2"] {
        for (_, load) in &mut loads {
            load.wait_for_answers(50);
        }
        ctl(&backend, &["scale", count, "--wait"]).expect(0);
    }
    for (style, load) in loads {
        load.wait_for_answers(50);
        let tally = load.stop();
        tally.report(&format!("4 times `ctl scale`, {style:?}"));
        tally.assert_all_ok();
    }
}

#[test]
fn workers_are_scaled_and_the_outcome_told() {
    let backend = Backend::sqlite();
    let server = serve_configured(&backend, "workers = 1\n");
    for count in [3, 2, 2] {
        let ended = ctl(&backend, &["scale", &count.to_string(), "--wait"]).expect(0);
        assert!(
            ended.stdout.starts_with(&format!("{count} workers serve")),
            "{ended:?}"
        );
        let now = status(&backend);
        assert_eq!(
            (&now["wanted"], &now["ready"]),
            (&json!(count), &json!(count))
        );
    }
    wait_until(PATIENCE, "the others to leave", || {
        server.workers().len() == 2
    });
    for wrong in ["0", "1025", "-1", "many"] {
        ctl(&backend, &["scale", wrong])
            .expect(100)
            .naming(&[wrong]);
    }
    // The server does not take the client's word for it.
    let mut stream = connect(&socket(&backend));
    stream
        .write_all(b"{\"command\":\"scale\",\"workers\":0}\n")
        .expect("sent");
    assert!(read_to_end(stream).contains("\"outcome\":\"refused\""));
    // A reload brings the configured number back.
    ctl(&backend, &["reload", "--wait"])
        .expect(0)
        .naming(&["1 workers"]);
}

#[test]
fn who_waits_for_the_stop_comes_back_when_the_server_has_gone() {
    let backend = Backend::sqlite();
    let mut server = backend.serve(2);
    let workers = server.workers();
    let ended = ctl(&backend, &["stop", "--wait"]).expect(0);
    assert_eq!(ended.stdout, "the server has stopped\n");
    assert!(workers.iter().all(|worker| !alive(*worker)));
    assert_eq!(server.wait_for_exit().code(), Some(0));
    server.assert_clean_log();
    assert!(!socket(&backend).exists(), "the socket stays behind");
    ctl(&backend, &["status"])
        .expect(112)
        .naming(&["no server"]);
}

#[test]
fn a_reload_that_a_stop_overtakes_is_told_so() {
    let backend = Backend::sqlite();
    let mut server = backend.serve(1);
    // A client in the middle of a request keeps the old worker, and with it the second reload from beginning.
    let mut client = server.connect();
    client
        .send_raw(b"GET /healthz HTTP/1.1\r\n")
        .expect("a part");
    server.wait_until_read([&client]);
    ctl(&backend, &["reload", "--wait"]).expect(0);
    let mut second = connect(&socket(&backend));
    second
        .write_all(b"{\"command\":\"reload\",\"wait\":true}\n")
        .expect("sent");
    // Commands are taken in the order of their coming, so this one's answer says that the one before is taken.
    status(&backend);
    ctl(&backend, &["stop"]).expect(0);
    let said = read_to_end(second);
    assert!(
        said.contains("\"outcome\":\"failed\"") && said.contains("stop"),
        "{said}"
    );
    ctl(&backend, &["reload"]).expect(100).naming(&["stopping"]);
    client.send_raw(b"Host: a\r\n\r\n").expect("the rest");
    client.receive(true).expect("an answer").expect(200);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[test]
fn rubbish_is_refused_and_nobody_waits_for_it() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let socket = socket(&backend);
    let mut flood = vec![b'x'; 1 << 20];
    flood.push(b'\n');
    for (rubbish, says) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "can't be read"),
        (b"{}\n", "can't be read"),
        (b"\n", "can't be read"),
        (b"\xff\xfe\0\n", "can't be read"),
        (
            b"{\"command\":\"reload\",\"wait\":\"yes\"}\n",
            "can't be read",
        ),
        (&flood, "longer than 4096 bytes"),
    ] {
        let mut stream = connect(&socket);
        // The server may stop reading; what it says counts.
        let _ = stream.write_all(rubbish);
        let said = read_to_end(stream);
        assert!(
            said.contains("\"outcome\":\"refused\"") && said.contains(says),
            "{said:?} to {:?}",
            String::from_utf8_lossy(&rubbish[..rubbish.len().min(40)])
        );
    }
    // One that leaves in the middle, and one that asks byte by byte.
    connect(&socket).write_all(b"{\"comm").expect("sent");
    let mut slow = connect(&socket);
    for byte in b"{\"command\":\"status\"}\n" {
        slow.write_all(&[*byte]).expect("sent");
    }
    assert!(read_to_end(slow).contains("\"outcome\":\"status\""));
    assert_eq!(status(&backend)["generation"], 1);
    assert_workers(&server, &status(&backend));
}

#[test]
fn silent_clients_are_dropped_and_keep_nobody_out() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let socket = socket(&backend);
    // More than may be there at once: those that were there first go, then the others get their turn.
    let silent: Vec<UnixStream> = (0..8).map(|_| connect(&socket)).collect();
    ctl(&backend, &["status", "--timeout", "30s"]).expect(0);
    server.get("/healthz").expect(200);
    for stream in silent {
        assert_eq!(
            read_to_end(stream),
            "",
            "a client that said nothing is dropped"
        );
    }
}

/// An account that every Linux has, with a group of the same name.
const ANOTHER: &str = "daemon";

/// The binary under test where other users can run it: where it is, or a copy if its folders are closed to them.
struct Program {
    path: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Program {
    fn for_everybody() -> Self {
        let runs = |path: &Path| {
            guarded(path, Signal::SIGKILL, Some(ANOTHER))
                .arg("--version")
                .current_dir("/")
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if runs(binary()) {
            return Program {
                path: binary().to_owned(),
                _folder: None,
            };
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), everybody.clone()).expect("ours");
        let copy = folder.path().join("canvas-cluster");
        std::fs::copy(binary(), &copy).expect("room for a copy");
        std::fs::set_permissions(&copy, everybody).expect("ours");
        assert!(runs(&copy), "user {ANOTHER} can't run {}", copy.display());
        Program {
            path: copy,
            _folder: Some(folder),
        }
    }
}

#[test]
fn only_the_servers_user_and_root_may_command() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let socket = socket(&backend);
    let about = std::fs::symlink_metadata(&socket).expect("a control socket");
    assert!(about.file_type().is_socket());
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    let folder = socket.parent().expect("a folder");
    let about = std::fs::metadata(folder).expect("its folder");
    assert_eq!(about.permissions().mode() & 0o777, 0o700);
    assert_eq!(about.uid(), nix::unistd::geteuid().as_raw());

    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root, so nobody else could be sent to the control socket");
        return;
    }
    let program = Program::for_everybody();
    let as_another = || {
        let output = guarded(&program.path, Signal::SIGKILL, Some(ANOTHER))
            .args(["ctl", "status", "--control-socket"])
            .arg(&socket)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("setpriv runs it");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    // The folders above it are no hindrance.
    open(&backend.dir.join("home/run"), 0o755);
    let (code, said) = as_another();
    assert_eq!(code, Some(112), "{said}");
    assert!(said.contains("only the server's user and root"), "{said}");
    // Even where somebody has opened folder and socket to all, the kernel tells who asks.
    open(folder, 0o777);
    open(&socket, 0o777);
    let (code, said) = as_another();
    assert_eq!(code, Some(100), "{said}");
    assert!(said.contains("may not command this server"), "{said}");
    server.wait_for_line("refused a command");
    status(&backend);
}

#[test]
fn a_dead_masters_socket_is_replaced_and_a_living_ones_is_not() {
    let backend = Backend::sqlite();
    let mut first = backend.serve(1);
    let socket = socket(&backend);
    let named = |path: &Path| {
        backend
            .canvas()
            .workers(1)
            .arg("--control-socket")
            .arg(path)
    };
    let refused = named(&socket).args(["--listen", "127.0.0.1:0"]).run();
    refused
        .expect(111)
        .naming(&["another server has the control socket"]);
    // Where the socket was not asked for, the second server does without.
    let second = backend.serve(1);
    second.wait_for_line("another server has the control socket");
    assert_eq!(status(&backend)["pid"], first.master());
    second.stop();
    assert!(
        socket.exists(),
        "the second server took the first one's socket away"
    );

    first.kill_master();
    assert!(socket.exists(), "a killed master can't clean up");
    ctl(&backend, &["status"]).expect(112);
    let third = named(&socket).start();
    assert_eq!(status(&backend)["pid"], third.master());
    third.stop();

    // What is no socket is nobody's to remove.
    let file = backend.dir.write("precious", "data");
    let refused = named(&file).args(["--listen", "127.0.0.1:0"]).run();
    refused.expect(111).naming(&["something else"]);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "data");
}

#[test]
fn a_server_may_have_no_control_socket() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .args(["--control-socket", "none"])
        .workers(1)
        .start();
    assert!(!socket(&backend).exists());
    ctl(&backend, &["status"]).expect(112);
    ctl(&backend, &["status", "--control-socket", "none"])
        .expect(112)
        .naming(&["control_socket is none"]);
    server.stop();
}
