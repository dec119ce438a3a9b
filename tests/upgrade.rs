//! SIGUSR2: the master becomes the program that its file now holds, and no client notices.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::support::canvas::binary;
use crate::support::http::{Client, Request};
use crate::support::load::{Load, Style};
use crate::support::process::{alive, children, command_line, signal};
use crate::support::shoes::{Id, create, draft, list_target, put};
use crate::support::sockets::{socket_inodes, watched_inodes};
use crate::support::{
    Backend, Canvas, PATIENCE, Server, alone, over_both_stores, until_done, wait_until,
};

over_both_stores!(
    upgrades_lose_no_request,
    old_and_new_workers_share_one_table,
    a_reader_never_sees_less_than_was_acknowledged,
);

/// What the master logs when its new workers serve in every slot.
const REPLACED: &str = "master: reloaded: ";

fn reads() -> Vec<Request> {
    (1..40)
        .map(|shoe| Request::new("GET", &list_target(shoe)))
        .collect()
}

/// Upgrades, and waits until every worker of before has gone.
#[track_caller]
fn upgrade(server: &Server, count: usize) {
    let before = server.workers();
    let length = server.log_length();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line_after(length, "takes over from");
    server.wait_for_line_after(length, REPLACED);
    wait_until(PATIENCE, "the upgrade to replace every worker", || {
        let now = server.workers();
        now.is_disjoint(&before) && now.len() == count
    });
}

/// A name for a program that can be made another's in one step, as a package manager does.
pub struct Program {
    pub link: PathBuf,
}

impl Program {
    pub fn new(folder: &Path) -> Self {
        let program = Program {
            link: folder.join("canvas-cluster"),
        };
        program.point_to(binary());
        program
    }

    pub fn point_to(&self, file: &Path) {
        let draft = self.link.with_extension("new");
        symlink(file, &draft).expect("a link in the test's folder");
        std::fs::rename(&draft, &self.link).expect("a link in the test's folder");
    }
}

fn upgrades_lose_no_request(backend: &Backend) {
    let _machine = alone();
    let server = backend.serve(2);
    create(&server, 7, &[("img1", "a")]);
    let master = server.master();
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let load = Load::start(server.address(), style, 6, reads());
        load.wait_for_answers(100);
        for _ in 0..3 {
            upgrade(&server, 2);
            assert!(alive(master));
            load.wait_for_answers(50);
        }
        let tally = load.stop();
        tally.report(&format!("3 upgrades, {style:?}"));
        tally.assert_all_ok();
    }
}

/// The master's scoreboard, as the kernel names it.
fn scoreboard_of(master: i32) -> PathBuf {
    let entries = std::fs::read_dir(format!("/proc/{master}/fd")).expect("a living master");
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            std::fs::read_link(path)
                .is_ok_and(|file| file.to_string_lossy().contains("canvas-cluster-scoreboard"))
        })
        .expect("the master keeps its scoreboard open")
}

/// Makes the scoreboard one that the next image of the program does not know: the number of its layout is the last word
/// of its first page, in every version.
pub fn make_strange(server: &Server) {
    let memory = std::fs::OpenOptions::new()
        .write(true)
        .open(scoreboard_of(server.master()))
        .expect("our own server's memory");
    memory
        .write_all_at(&u64::MAX.to_le_bytes(), 511 * 8)
        .expect("a word");
}

/// What `img1` of the shoe's only row is.
#[track_caller]
fn shown_of(client: &mut Client, shoe: i64) -> String {
    let rows = client
        .get(&list_target(shoe))
        .expect("an answer")
        .expect(200);
    let rows = rows.json();
    rows[0]["img1"].as_str().expect("a text").to_owned()
}

#[track_caller]
fn write(client: &mut Client, id: Id, shoe: i64, value: &str) {
    let answer = client.call(&put(id, draft(shoe, &[("img1", value)])));
    answer.expect("an answer").expect(200);
}

/// With a table that both share, and with two tables and no cache meanwhile.
fn old_and_new_workers_share_one_table(backend: &Backend) {
    let _machine = alone();
    for (shoe, strange) in [(7, false), (8, true)] {
        // Only a write may end what is cached, or a stale answer might hide.
        let server = backend.canvas().workers(2).args(["--l1-ttl", "1h"]).start();
        let id = create(&server, shoe, &[("img1", "first")]);
        let shown = |client: &mut Client| shown_of(client, shoe);
        if strange {
            make_strange(&server);
        }
        let old_workers = server.workers();
        let mut readers = server.one_client_per_worker();
        let mut writers = server.one_client_per_worker();
        for (_, client) in readers.iter_mut().chain(&mut writers) {
            assert_eq!(shown(client), "first");
        }
        let length = server.log_length();
        server.signal(Signal::SIGUSR2);
        server.wait_for_line_after(length, REPLACED);
        // The old workers accept no more once they have heard of it, and wait for what their clients may ask yet.
        let listeners = socket_inodes(server.master());
        for worker in &old_workers {
            wait_until(PATIENCE, "an old worker to leave its listeners", || {
                watched_inodes(*worker).is_disjoint(&listeners)
            });
        }
        let mut new: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        for client in &mut new {
            assert_eq!(shown(client), "first");
        }
        write(&mut new[0], id, shoe, "by a new worker");
        for (worker, client) in &mut readers {
            assert!(alive(*worker), "worker {worker} has left its client");
            assert_eq!(shown(client), "by a new worker", "of old worker {worker}");
        }
        for client in &mut new {
            assert_eq!(shown(client), "by a new worker");
        }
        for (worker, client) in &mut writers {
            let value = format!("by old worker {worker}");
            write(client, id, shoe, &value);
            for client in &mut new {
                assert_eq!(shown(client), value);
            }
        }
        drop((readers, writers));
        wait_until(PATIENCE, "the old workers to leave", || {
            server.workers().is_disjoint(&old_workers)
        });
        if strange {
            server.wait_for_line_after(length, "answers are cached again");
        }
        for turn in 0..4 {
            let value = format!("turn {turn}");
            write(&mut new[turn], id, shoe, &value);
            for client in &mut new {
                assert_eq!(shown(client), value);
            }
        }
        let seen = server.lines_with("in another way").len();
        assert_eq!(seen, usize::from(strange), "{}", server.log_text());
    }
}

fn a_reader_never_sees_less_than_was_acknowledged(backend: &Backend) {
    const READERS: usize = 6;
    let _machine = alone();
    let server = backend.canvas().workers(3).args(["--l1-ttl", "1h"]).start();
    let id = create(&server, 7, &[("img1", "0")]);
    let (acknowledged, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let address = server.address();
    let number = |text: String| text.parse::<u64>().expect("a number");
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut client = Client::connect(address).expect("a connection");
                while !done.load(Ordering::Relaxed) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let seen = number(shown_of(&mut client, 7));
                    assert!(seen >= least, "{seen} after {least} was acknowledged");
                    if client.told_to_close {
                        client = Client::connect(address).expect("a connection");
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut client = Client::connect(address).expect("a connection");
            while !done.load(Ordering::Relaxed) {
                let next = acknowledged.load(Ordering::SeqCst) + 1;
                write(&mut client, id, 7, &next.to_string());
                acknowledged.store(next, Ordering::SeqCst);
                if client.told_to_close {
                    client = Client::connect(address).expect("a connection");
                }
            }
        });
        until_done(&done, || {
            for strange in [false, true, false] {
                if strange {
                    make_strange(&server);
                }
                let before = acknowledged.load(Ordering::SeqCst);
                upgrade(&server, 3);
                wait_until(PATIENCE, "more writes", || {
                    acknowledged.load(Ordering::SeqCst) > before + 10
                });
            }
        });
    });
}

/// The master's last line as a table.
fn told_at_the_end(mut server: Server) -> BTreeMap<String, u64> {
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let line = server.wait_for_line("master: stopped after ");
    let (_, counts) = line.rsplit_once(" after ").expect("the pattern");
    counts
        .split(", ")
        .map(|pair| pair.split_once(' ').expect("a name and a number"))
        .map(|(name, count)| (name.to_owned(), count.parse().expect("a number")))
        .collect()
}

#[test]
fn what_was_counted_is_counted_on() {
    let backend = Backend::sqlite();
    let server = backend.canvas().workers(2).start();
    for _ in 0..3 {
        for _ in 0..20 {
            server.get("/healthz").expect(200);
        }
        server.get("/nowhere").problem(404);
        upgrade(&server, 2);
    }
    let told = told_at_the_end(server);
    assert_eq!(told["requests"], 63, "{told:?}");
    assert_eq!(told["answers_2xx"], 60, "{told:?}");
    assert_eq!(told["answers_4xx"], 3, "{told:?}");
}

#[test]
fn ten_upgrades_leave_no_descriptor_behind() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let open = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", server.master()));
        let mut targets: Vec<String> = entries
            .expect("a living master")
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            // Numbers of sockets and pipes that are made anew each time.
            .map(|target| target.split('[').next().unwrap_or_default().to_owned())
            .collect();
        targets.sort();
        targets
    };
    // Those of the tester's surroundings that nobody asked us to close.
    let given = left_open_across_exec(server.master());
    let before = open();
    for _ in 0..10 {
        upgrade(&server, 2);
    }
    // The master may not have reaped the last of the old workers yet.
    wait_until(PATIENCE, "only what was open before to be open", || {
        open() == before
    });
    assert_eq!(left_open_across_exec(server.master()), given);
    let worker = *server.workers().first().expect("a worker");
    let inherited = std::fs::read_dir(format!("/proc/{worker}/fd")).expect("a living worker");
    let shares_memory = inherited
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| target.to_string_lossy().contains("canvas-cluster-"));
    assert!(
        !shares_memory,
        "a worker has descriptors that are the master's"
    );
}

/// The file of the program is replaced by another one, as an installation does: the old one is deleted while it runs.
#[test]
fn the_new_file_is_run_and_not_the_one_that_was_deleted() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let file = folder.path().join("canvas-cluster");
    let copy = |to: &Path| {
        std::fs::copy(binary(), to)
            .map(drop)
            .expect("room for a copy")
    };
    if std::fs::hard_link(binary(), &file).is_err() {
        copy(&file);
    }
    let backend = Backend::sqlite();
    let server = backend.canvas().workers(1).program(&file).start();
    let runs = || std::fs::read_link(format!("/proc/{}/exe", server.master())).expect("a program");
    let next = file.with_extension("new");
    copy(&next);
    std::fs::rename(&next, &file).expect("our own file");
    assert_ne!(runs(), file, "the kernel marks what was deleted");
    upgrade(&server, 1);
    assert_eq!(runs(), file);
    // And once more, for the new image knows its place as well.
    upgrade(&server, 1);
    server.get("/healthz").expect(200);
}

/// Sends USR2, and checks that it is refused with this reason and that nothing else happens.
#[track_caller]
fn assert_refused(server: &Server, why: &str) {
    let workers = server.workers();
    let length = server.log_length();
    server.signal(Signal::SIGUSR2);
    let line = server.wait_for_line_after(length, "upgrade to ");
    assert!(line.contains("refused") && line.contains(why), "{line}");
    for _ in 0..8 {
        server.get("/healthz").expect(200);
    }
    wait_until(PATIENCE, "the check to be gone", || {
        server.workers() == workers
    });
}

/// The descriptors of a process that execve(2) would not close, from /proc/PID/fdinfo (proc(5)).
fn left_open_across_exec(pid: i32) -> Vec<i32> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a living process");
    let mut open: Vec<i32> = entries
        .flatten()
        .filter(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.map_or("", str::trim);
            u32::from_str_radix(flags, 8).is_ok_and(|flags| flags & O_CLOEXEC == 0)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    open.sort_unstable();
    open
}

#[test]
fn a_program_that_can_not_take_over_is_refused() {
    let backend = Backend::sqlite();
    let program = Program::new(backend.dir.path());
    let mut server = backend.canvas().workers(2).program(&program.link).start();
    server.allow("upgrade to ");
    let inherited = left_open_across_exec(server.master());
    let script = |name: &str, text: &str, mode: u32| {
        let file = backend.dir.write(name, text);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("chmod");
        file
    };
    for (file, why) in [
        (backend.dir.join("nowhere"), "No such file"),
        (script("fails", "#!/bin/sh\nexit 1\n", 0o755), "exit code 1"),
        (script("dies", "#!/bin/sh\nkill -9 $$\n", 0o755), "SIGKILL"),
        (script("text", "no program\n", 0o644), "Permission denied"),
        (
            script("agrees", "#!/bin/sh\necho yes\n", 0o755),
            "does not answer",
        ),
        (
            script("talks", "#!/bin/sh\nyes\n", 0o755),
            "takes longer than",
        ),
        (
            script("hangs", "#!/bin/sh\nsleep 1000\n", 0o755),
            "takes longer than",
        ),
    ] {
        program.point_to(&file);
        assert_refused(&server, why);
    }
    // It agrees, and is gone when its turn comes: the exec fails, and what was made ready for it is undone.
    let fickle = "#!/bin/sh\necho canvas-cluster can take over\nchmod 644 \"$0\"\n";
    program.point_to(&script("fickle", fickle, 0o755));
    assert_refused(&server, "Permission denied");
    assert_eq!(left_open_across_exec(server.master()), inherited);
    server.reload(2);
    // Where there is one again, all is well.
    program.point_to(binary());
    upgrade(&server, 2);
}

#[test]
fn a_configuration_that_the_new_program_refuses_is_not_taken_over() {
    let backend = Backend::sqlite();
    let file = backend.dir.write("config.toml", "workers = 2\n");
    let mut server = backend.canvas().arg("--config").arg(&file).start();
    server.allow("upgrade to ");
    backend.dir.write("config.toml", "wrokers = 2\n");
    assert_refused(&server, "exit code 100");
    server.wait_for_line("did you mean workers");
    backend.dir.write("config.toml", "workers = 3\n");
    upgrade(&server, 3);
}

/// The check finds the configuration good, and it is spoilt before the new image reads it: the old workers serve until it
/// is mended, or until the server is told to stop.
#[test]
fn a_configuration_that_is_spoilt_after_the_check_is_waited_for() {
    for mended in [true, false] {
        let backend = Backend::sqlite();
        let program = Program::new(backend.dir.path());
        let file = backend.dir.write("config.toml", "workers = 2\n");
        let canvas = backend.canvas().program(&program.link);
        let mut server = canvas.arg("--config").arg(&file).start();
        server.allow("the configuration has changed");
        let spoiler = format!(
            "#!/bin/sh\n[ \"$1\" != --upgrade-check ] && exec '{}' \"$@\"\n\
             echo 'wrokers = 2' > '{}'\necho canvas-cluster can take over\n",
            binary().display(),
            file.display()
        );
        let spoiler = backend.dir.write("spoiler", &spoiler);
        std::fs::set_permissions(&spoiler, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        program.point_to(&spoiler);
        let workers = server.workers();
        server.signal(Signal::SIGUSR2);
        server.wait_for_line("the configuration has changed");
        for _ in 0..8 {
            server.get("/healthz").expect(200);
        }
        assert_eq!(server.workers(), workers);
        if mended {
            backend.dir.write("config.toml", "workers = 3\n");
            server.wait_for_line(REPLACED);
            wait_until(PATIENCE, "the old workers to leave", || {
                let now = server.workers();
                now.is_disjoint(&workers) && now.len() == 3
            });
        }
        server.stop_with(Signal::SIGTERM);
    }
}

#[test]
fn new_workers_that_do_not_get_ready_leave_the_old_ones_serving() {
    let backend = Backend::sqlite();
    let file = backend.dir.write("config.toml", "workers = 2\n");
    let mut server = backend.canvas().arg("--config").arg(&file).start();
    server.allow("reload failed");
    server.allow("access log");
    server.allow("nowhere");
    let (master, old) = (server.master(), server.workers());
    let log = backend.dir.join("nowhere/access.log");
    backend.dir.write(
        "config.toml",
        &format!("workers = 3\naccess_log = {log:?}\n"),
    );
    let length = server.log_length();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line_after(length, "takes over from");
    server.wait_for_line_after(length, "reload failed");
    assert_eq!(server.workers(), old);
    for _ in 0..8 {
        server.get("/healthz").expect(200);
    }
    // The new master is the old workers' master in every way: it hears of a death, and can replace them.
    std::fs::create_dir(backend.dir.join("nowhere")).expect("a folder");
    let victim = *old.first().expect("a worker");
    signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "the dead worker to be replaced", || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&victim)
    });
    server.reload(3);
    assert!(alive(master));
}

/// A secret of a flag is in `ps` as little during an upgrade as before it: whoever looks at any moment sees stars.
#[test]
fn no_secret_shows_while_it_upgrades() {
    const SECRET: &str = "Zebra7";
    let backend = Backend::postgres_redis();
    assert!(backend.database_url.contains(SECRET));
    let server = Canvas::new(backend.dir.path())
        .args(["--database-url", &backend.database_url])
        .args(["--log-level", "debug", "--workers", "2"])
        .start();
    let shown = command_line(server.master());
    let (done, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let look = || {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                for pid in children(server.master())
                    .into_iter()
                    .chain([server.master()])
                {
                    let line = command_line(pid);
                    if line.contains(SECRET) {
                        seen.push(line);
                    }
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
            seen
        };
        let looker = scope.spawn(look);
        until_done(&done, || {
            for _ in 0..3 {
                upgrade(&server, 2);
                let before = looks.load(Ordering::Relaxed);
                wait_until(PATIENCE, "somebody to look", || {
                    looks.load(Ordering::Relaxed) > before + 10
                });
            }
        });
        assert_eq!(looker.join().expect("a look"), Vec::<String>::new());
    });
    assert_eq!(command_line(server.master()), shown);
    server.get(&list_target(7)).expect(200);
    assert!(!server.log_text().contains(SECRET));
}

#[test]
fn a_signal_is_heard_at_every_moment_of_an_upgrade() {
    let backend = Backend::sqlite();
    for moment in [
        None,
        Some("checking"),
        Some("takes over"),
        Some("replacing"),
    ] {
        let mut server = backend.serve(2);
        server.signal(Signal::SIGUSR2);
        if let Some(moment) = moment {
            server.wait_for_line(moment);
        }
        server.stop_with(Signal::SIGTERM);
    }
    // A storm of everything that changes workers ends with fresh ones, and the master is the same.
    let server = backend.serve(2);
    let before = server.workers();
    for _ in 0..5 {
        for which in [
            Signal::SIGUSR2,
            Signal::SIGHUP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            server.signal(which);
            server.get("/healthz").expect(200);
        }
    }
    wait_until(PATIENCE, "the storm to pass", || {
        server.workers().is_disjoint(&before) && !server.lines_with(REPLACED).is_empty()
    });
}

#[test]
fn the_service_manager_hears_of_one_reload() {
    let backend = Backend::sqlite();
    let path = backend.dir.join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket in the test's folder");
    manager
        .set_read_timeout(Some(PATIENCE))
        .expect("a time-out");
    let hear = || {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let until = |word: &str| {
        let mut heard = hear();
        let mut all = vec![heard.clone()];
        while !heard.lines().any(|line| line == word) {
            heard = hear();
            all.push(heard.clone());
        }
        all.join("\n")
    };
    let server = backend
        .canvas()
        .workers(2)
        .env("NOTIFY_SOCKET", &path)
        .start();
    until("READY=1");
    server.signal(Signal::SIGUSR2);
    assert!(until("RELOADING=1").contains("MONOTONIC_USEC="));
    let heard = until("READY=1");
    assert!(heard.contains("generation 2"), "{heard}");
}
