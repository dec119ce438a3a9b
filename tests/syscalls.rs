//! The system calls that workers are refused. That they do without them, every other test shows: the filter is in force by
//! default.

use std::collections::BTreeMap;
use std::io;
use std::thread;

use canvas_cluster::worker::syscalls;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::support::process::signal;
use crate::support::shoes::{create, list_target};
use crate::support::{Backend, PATIENCE, Server, over_both_stores, wait_until};

over_both_stores!(workers_are_filtered_and_do_all_they_have_to);

/// A field of the status of each thread (proc_pid_status(5)).
fn field_of_threads(pid: i32, name: &str) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    tasks
        .map(|task| {
            let status = task.expect("a thread").path().join("status");
            let status = std::fs::read_to_string(status).expect("a thread");
            let prefix = format!("{name}:");
            let value = status.lines().find_map(|line| line.strip_prefix(&prefix));
            value.expect(name).trim().parse().expect("a number")
        })
        .collect()
}

/// Each thread of each worker has one filter more than the master.
#[track_caller]
fn assert_filtered(server: &Server, by: u32) {
    let master = field_of_threads(server.master(), "Seccomp_filters");
    let workers = server.workers();
    assert!(!workers.is_empty());
    for worker in workers {
        let filters = field_of_threads(worker, "Seccomp_filters");
        assert!(filters.len() > 1, "a worker has threads");
        for count in filters {
            assert_eq!(count, master[0] + by, "of a thread of {worker}");
        }
    }
}

fn workers_are_filtered_and_do_all_they_have_to(backend: &Backend) {
    let server = backend.serve(2);
    let mut shoe = 6;
    let mut serves = || {
        assert_filtered(&server, 1);
        shoe += 1;
        create(&server, shoe, &[("img1", "a")]);
        let rows = server.get(&list_target(shoe)).expect(200).json();
        assert_eq!(rows[0]["img1"], "a");
    };
    serves();
    let victim = *server.workers().first().expect("a worker");
    signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "another worker in its place", || {
        let workers = server.workers();
        workers.len() == 2 && !workers.contains(&victim)
    });
    server.one_client_per_worker();
    serves();
    server.reload(2);
    serves();
    let before = server.workers();
    server.signal(Signal::SIGUSR2);
    wait_until(PATIENCE, "the upgrade to replace every worker", || {
        let now = server.workers();
        now.is_disjoint(&before) && now.len() == 2
    });
    serves();
    server.signal(Signal::SIGUSR1);
    server.stop();
}

#[test]
fn the_filter_can_be_left_out() {
    let backend = Backend::sqlite();
    let canvas = backend.canvas().workers(1);
    let server = canvas.args(["--seccomp=false"]).start();
    assert_filtered(&server, 0);
    server.get("/healthz").expect(200);
}

/// A system call without arguments.
fn call(number: i64) -> Result<i64, Errno> {
    // SAFETY: each call of the list is refused for want of its arguments, or does nothing without them.
    let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
    Errno::result(result)
}

#[test]
fn each_denied_call_is_refused_and_others_are_not() {
    // A filter is for a thread, and for those that it starts.
    let filtered = thread::spawn(|| {
        assert_eq!(call(libc::SYS_execve), Err(Errno::EFAULT));
        assert_eq!(call(libc::SYS_unshare), Ok(0));
        nix::sys::prctl::set_no_new_privs().expect("prctl");
        syscalls::deny().expect("a kernel with seccomp");

        let denied = syscalls::denied();
        assert!(denied.len() > 60);
        for number in &denied {
            assert_eq!(call(*number), Err(Errno::EPERM), "of system call {number}");
        }
        // As a program would do it, on a thread of its own, which takes clone(2) and more.
        let spawned = thread::spawn(|| {
            let run = std::process::Command::new("/bin/true").status();
            run.err().map(|error| error.kind())
        });
        let refused = spawned.join().expect("a thread");
        assert_eq!(refused, Some(io::ErrorKind::PermissionDenied));
        std::fs::read("/proc/self/status").expect("files can be read");
        std::net::TcpListener::bind("127.0.0.1:0").expect("sockets can be had");
    });
    filtered.join().expect("all of it");
    // This one may still do what it likes.
    assert_eq!(call(libc::SYS_execve), Err(Errno::EFAULT));
}

/// Makes this system call fail as on a kernel that doesn't know it.
fn unknown(number: i64) -> BpfProgram {
    SeccompFilter::new(
        BTreeMap::from([(number, vec![])]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        std::env::consts::ARCH
            .try_into()
            .expect("a known processor"),
    )
    .and_then(BpfProgram::try_from)
    .expect("a filter")
}

#[test]
fn a_kernel_without_filters_is_told_of_and_done_without() {
    let backend = Backend::sqlite();
    let canvas = || backend.canvas().filter(unknown(libc::SYS_seccomp));
    let server = canvas().workers(2).start();
    let told = server.lines_with("can't refuse workers system calls");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("WARN") && told[0].contains("--seccomp=false"),
        "{told:?}"
    );
    assert_filtered(&server, 0);
    server.get("/healthz").expect(200);
    drop(server);
    let server = canvas().workers(1).args(["--seccomp=false"]).start();
    assert!(server.lines_with("refuse workers").is_empty());
}
