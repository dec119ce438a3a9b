//! Children: forking them, and reading how they ended.

use std::io;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::signals::Blocked;
use crate::sys::{self, Fork};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(nix::sys::signal::Signal),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exit(code) => write!(f, "exit code {code}"),
            End::Signal(signal) => write!(f, "{signal}"),
        }
    }
}

/// Forks a child that does `work` and ends with its exit code. All signals are blocked in it.
///
/// # Errors
/// No process or memory left, or this process has a second thread.
pub fn fork_child(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    let blocked = Blocked::now()?;
    match sys::fork()? {
        Fork::Parent(child) => Ok(child),
        Fork::Child => {
            blocked.forget();
            // The child must never return into the master's loop: not by a value, and not by unwinding.
            let code =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(EXIT_PANIC);
            std::process::exit(code)
        }
    }
}

/// The exit code of a child whose main thread panicked, as Rust's own runtime has it.
const EXIT_PANIC: i32 = 101;

/// What the threads of a process are at, as /proc tells (proc(5)): name, state, and where in the kernel one sleeps. For the
/// log, so what can't be read is left out.
pub fn describe_threads(pid: Pid) -> String {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return "none that can be seen".to_owned();
    };
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let describe = |task: std::path::PathBuf| {
        let name = read(task.join("comm"));
        let stat = read(task.join("stat"));
        let state = stat
            .rsplit_once(") ")
            .map_or("?", |(_, rest)| &rest[..1.min(rest.len())]);
        let at = read(task.join("wchan"));
        match at.trim() {
            "" | "0" => format!("{} {state}", name.trim()),
            at => format!("{} {state} in {at}", name.trim()),
        }
    };
    let threads: Vec<String> = tasks
        .flatten()
        .take(16)
        .map(|task| describe(task.path()))
        .collect();
    threads.join(", ")
}

/// The next child that has ended, if any has.
pub fn reap() -> Option<(Pid, End)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some((pid, End::Exit(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => return Some((pid, End::Signal(signal))),
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return None,
            // Stops and continues of a child are nobody's business here.
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                log::error!("master: waitpid failed: {error}");
                return None;
            }
        }
    }
}
