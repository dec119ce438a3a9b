//! As whom workers run, and what they may do to the host. Most of it takes a start as root, which CI's is; for anybody else
//! each test holds the server to what is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{Group, User, geteuid};

use crate::support::process::signal;
use crate::support::shoes::{create, list_target};
use crate::support::{Canvas, Dir, PATIENCE, Server, wait_until};

/// CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER (capabilities(7)).
const FILE_POWERS: u64 = 1 | 1 << 1 | 1 << 3;

const CAP_SETPCAP: u64 = 1 << 8;

/// The fields of a status file (proc_pid_status(5)).
struct Status(BTreeMap<String, String>);

impl Status {
    fn read(path: impl AsRef<Path>) -> Self {
        let text = std::fs::read_to_string(path).expect("a process");
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Status(text.lines().filter_map(field).collect())
    }

    fn of(pid: i32) -> Self {
        Status::read(format!("/proc/{pid}/status"))
    }

    /// Of each thread of a process.
    fn of_threads(pid: i32) -> Vec<Self> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
        let status = |task: std::fs::DirEntry| Status::read(task.path().join("status"));
        tasks.map(Result::unwrap).map(status).collect()
    }

    fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(&self.0[name], 16).expect("a set of capabilities")
    }

    /// Real, effective, saved and file system id.
    fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.0[name].split_whitespace();
        ids.map(|id| id.parse().expect("an id")).collect()
    }
}

fn user(name: &str) -> User {
    let found = User::from_name(name).expect("users can be looked up");
    found.unwrap_or_else(|| panic!("no user {name}"))
}

/// A user with a supplementary group, if there is one beside root, else nobody.
fn somebody() -> User {
    let groups = std::fs::read_to_string("/etc/group").expect("groups");
    let members = groups.lines().filter_map(|line| line.rsplit(':').next());
    members
        .flat_map(|members| members.split(','))
        .filter(|name| !name.is_empty())
        .filter_map(|name| User::from_name(name).expect("users can be looked up"))
        .find(|user| !user.uid.is_root())
        .unwrap_or_else(|| user("nobody"))
}

fn groups_of(name: &str) -> BTreeSet<u32> {
    let output = Command::new("id").args(["-G", name]).output().expect("id");
    let text = String::from_utf8(output.stdout).expect("numbers");
    let groups = text.split_whitespace();
    groups.map(|id| id.parse().expect("a number")).collect()
}

/// Workers are this user with these groups, and may do nothing else; the master is who it was.
fn assert_dropped(server: &Server, uid: u32, gid: u32, groups: &BTreeSet<u32>) {
    let master = Status::of(server.master());
    assert_eq!(master.ids("Uid"), [geteuid().as_raw(); 4]);
    assert_eq!(master.0["NoNewPrivs"], "0");
    if geteuid().is_root() {
        assert_ne!(master.set("CapEff"), 0, "the master has lost its own");
    }
    for worker in server.workers() {
        let threads = Status::of_threads(worker);
        assert!(threads.len() > 1);
        for status in threads {
            assert_eq!(status.ids("Uid"), [uid; 4]);
            assert_eq!(status.ids("Gid"), [gid; 4]);
            let have: BTreeSet<u32> = status.ids("Groups").into_iter().collect();
            assert_eq!(&have, groups);
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status.set(set), 0, "{set} of {worker}");
            }
            if master.set("CapEff") & CAP_SETPCAP != 0 {
                assert_eq!(status.set("CapBnd"), 0);
            }
            assert_eq!(status.0["NoNewPrivs"], "1");
            assert_eq!(status.0["Seccomp"], "2");
        }
    }
}

#[test]
fn workers_become_the_user_and_the_master_stays() {
    if !geteuid().is_root() {
        return as_myself();
    }
    let somebody = somebody();
    let (uid, gid) = (somebody.uid.as_raw(), somebody.gid.as_raw());
    let dir = Dir::new();
    let log = dir.join("access.log");
    let canvas = Canvas::new(dir.path())
        .workers(2)
        .args(["--user", &somebody.name, "--access-log"])
        .arg(&log);
    let database = canvas
        .data_home()
        .join("canvas-cluster/canvas-cluster.sqlite3");
    let server = canvas.start();
    let groups = groups_of(&somebody.name);
    assert_dropped(&server, uid, gid, &groups);
    let owner = |path: &Path| {
        let about = std::fs::metadata(path).expect("a file");
        (about.uid(), about.gid(), about.mode() & 0o777)
    };
    assert_eq!(owner(&database), (uid, gid, 0o600));
    assert_eq!(
        owner(database.parent().expect("a folder")),
        (uid, gid, 0o700)
    );
    assert_eq!(owner(&log), (uid, gid, 0o640));
    // It reads and writes, and so do those who come after.
    create(&server, 7, &[("img1", "a")]);
    server.get(&list_target(7)).expect(200);
    server.reload(2);
    assert_dropped(&server, uid, gid, &groups);
    create(&server, 7, &[("img1", "b")]);

    // The log is rotated, and nobody has told the server: the next worker finds none, in a folder that is not its user's.
    std::fs::rename(&log, dir.join("access.log.1")).expect("root's own folder");
    let before = server.workers();
    signal(*before.first().expect("a worker"), Signal::SIGKILL);
    wait_until(PATIENCE, "a new worker and its log", || {
        let now = server.workers();
        now.len() == 2 && now != before && log.exists()
    });
    assert_eq!(owner(&log), (uid, gid, 0o640));
    server.one_client_per_worker();
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("the test's folder")
        .map(|entry| entry.expect("a file").file_name())
        .filter(|name| name.to_string_lossy().contains(".new-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_dropped(&server, uid, gid, &groups);
}

/// What a start without privilege can do: run as who it is, named or not.
fn as_myself() {
    let me = User::from_uid(geteuid()).expect("users can be looked up");
    let dir = Dir::new();
    let mut canvas = Canvas::new(dir.path()).workers(2);
    if let Some(me) = &me {
        canvas = canvas.args(["--user", &me.name]);
    }
    let server = canvas.start();
    for worker in server.workers() {
        let status = Status::of(worker);
        assert_eq!(status.ids("Uid"), [geteuid().as_raw(); 4]);
        assert_eq!(
            (status.set("CapEff"), status.0["NoNewPrivs"].as_str()),
            (0, "1")
        );
    }
    server.get(&list_target(7)).expect(200);
}

#[test]
fn another_group_than_the_users_own_may_be_given() {
    let group = Group::from_name("daemon")
        .expect("groups")
        .expect("the group daemon");
    let dir = Dir::new();
    let canvas = Canvas::new(dir.path()).workers(1);
    let canvas = canvas.args(["--user", "nobody", "--group", "daemon"]);
    if !geteuid().is_root() {
        canvas.run().expect(111).naming(&["nobody", "CAP_SETUID"]);
        return;
    }
    let server = canvas.start();
    let gid = group.gid.as_raw();
    let mut groups = groups_of("nobody");
    groups.remove(&user("nobody").gid.as_raw());
    groups.insert(gid);
    assert_dropped(&server, user("nobody").uid.as_raw(), gid, &groups);
    server.get(&list_target(7)).expect(200);
}

#[test]
fn a_user_that_the_server_may_not_become_is_refused() {
    let dir = Dir::new();
    let other = if geteuid().is_root() {
        "nobody"
    } else {
        "root"
    };
    for capability in ["setuid", "setgid", "kill"] {
        let canvas = Canvas::new(dir.path()).lacking(capability);
        canvas
            .args(["--user", other, "--listen", "127.0.0.1:0"])
            .run()
            .expect(111)
            .naming(&[other, "without --user", "CAP_SETUID"]);
    }
    // Who is it already needs nothing.
    let Some(me) = User::from_uid(geteuid()).expect("users can be looked up") else {
        return;
    };
    let server = Canvas::new(dir.path())
        .lacking("setuid")
        .args(["--user", &me.name])
        .workers(1)
        .start();
    server.get(&list_target(7)).expect(200);
}

#[test]
fn users_and_groups_that_are_not_there_are_refused_by_name() {
    let dir = Dir::new();
    for (arguments, named) in [
        (
            &["--user", "no-such-user"][..],
            "--user: this host has no user \"no-such-user\"",
        ),
        (&["--user", ""], "--user"),
        (&["--user", "a:b"], "--user"),
        (&["--user", "root", "--group", "no-such-group"], "--group"),
        (&["--group", "root"], "--group: takes --user"),
    ] {
        for command in [&[][..], &["check"]] {
            let canvas = Canvas::new(dir.path()).args(command.iter().copied());
            let ended = canvas.args(arguments.iter().copied()).run();
            ended.expect(100).naming(&[named]);
        }
    }
}

#[test]
fn files_out_of_the_users_reach_are_told_before_it_serves() {
    if !geteuid().is_root() {
        // Nobody but root has a user to change to: another one's files are refused by the kernel alone.
        return as_myself();
    }
    let dir = Dir::new();
    let file = dir.write("canvas.toml", "");
    let canvas = || {
        Canvas::new(dir.path())
            .env("CANVAS_CONFIG", &file)
            .workers(2)
    };
    let database = canvas()
        .data_home()
        .join("canvas-cluster/canvas-cluster.sqlite3");
    // Root's own database is there from before.
    let server = canvas().start();
    server.get(&list_target(7)).expect(200);
    assert_eq!(server.lines_with("workers run as root").len(), 1);
    for worker in server.workers() {
        let status = Status::of(worker);
        assert_eq!(status.ids("Uid"), [0; 4]);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status.set(set) & !FILE_POWERS, 0, "{set}");
        }
        assert_eq!(status.0["NoNewPrivs"], "1");
    }
    let mut server = server;
    server.allow("for user nobody");
    server.allow("reload refused");
    dir.write("canvas.toml", "user = \"nobody\"\n");
    let workers = server.workers();
    server.signal(Signal::SIGHUP);
    server.wait_for_line("reload refused");
    assert_eq!(server.workers(), workers);
    server.get(&list_target(7)).expect(200);
    drop(server);

    let out_of_reach = |path: &Path, remedy: &str| {
        let path = path.to_str().expect("text");
        let ended = canvas().args(["--listen", "127.0.0.1:0"]).run();
        ended
            .expect(111)
            .naming(&[path, "for user nobody", "Permission denied", remedy]);
    };
    let nobody = user("nobody");
    let give = |path: &Path| {
        let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root gives it");
    };
    let folder = database.parent().expect("a folder");
    let above = folder.parent().expect("a folder");
    out_of_reach(above, "chmod o+x");
    set_mode(above, 0o711);
    out_of_reach(folder, "chown");
    give(folder);
    out_of_reach(&database, "chown");
    give(&database);
    for tail in ["wal", "shm"] {
        // There from before, if root's server has left it.
        let beside = folder.join(format!("canvas-cluster.sqlite3-{tail}"));
        let mut open = std::fs::OpenOptions::new();
        open.append(true)
            .create(true)
            .open(&beside)
            .expect("root writes anywhere");
        set_mode(&beside, 0o600);
        out_of_reach(&beside, "chown");
        give(&beside);
    }
    let server = canvas().start();
    server.get(&list_target(7)).expect(200);
    drop(server);

    // A log that is there and root's own.
    let log = dir.write("access.log", "");
    let ended = canvas()
        .args(["--listen", "127.0.0.1:0", "--access-log"])
        .arg(&log)
        .run();
    ended
        .expect(111)
        .naming(&["access.log", "for user nobody", "Permission denied"]);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("root's own file");
}

#[test]
fn what_root_fills_belongs_to_the_user() {
    if !geteuid().is_root() {
        return as_myself();
    }
    let dir = Dir::new();
    let nobody = user("nobody").uid.as_raw();
    let canvas = |command: &str| Canvas::new(dir.path()).args([command, "--user", "nobody"]);
    canvas("migrate").run().expect(0);
    canvas("seed").args(["--rows", "10"]).run().expect(0);
    let folder = canvas("").data_home().join("canvas-cluster");
    let files = std::fs::read_dir(&folder).expect("a folder");
    let owners: Vec<u32> = files
        .map(|file| file.expect("a file").metadata().expect("a file").uid())
        .collect();
    assert!(
        !owners.is_empty() && owners.iter().all(|owner| *owner == nobody),
        "{owners:?}"
    );
    let server = Canvas::new(dir.path())
        .args(["--user", "nobody"])
        .workers(1)
        .start();
    let shown = server.get(&list_target(10)).expect(200).json();
    assert_eq!(shown[0]["shoe_id"], 10);
}
