//! Starting, watching and ending real processes. A process started here never outlives the test binary, not
//! even one that is killed with SIGKILL.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::{PATIENCE, comes_true, wait_until};

/// A command that receives `at_death` when this test process dies, whatever kills it, and that runs in a process
/// group of its own. `user` is for servers that refuse to run as root.
pub fn guarded(program: impl AsRef<OsStr>, at_death: Signal, user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", at_death.as_str().trim_start_matches("SIG")]);
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command.arg("--").arg(program).process_group(0);
    command
}

/// Spawns from a thread that lives as long as the process. The kernel ties the death signal to the spawning
/// *thread*, and a test's thread ends with the test: a server that tests share would die with the first of them.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static NURSERY: OnceLock<Sender<Order>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::Builder::new()
            .name("nursery".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // A caller that has gone away drops the child's handle; its own guard ends the child.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("one more thread");
        orders
    });
    let (answer, child) = channel();
    nursery
        .send((command, answer))
        .expect("the nursery never ends");
    child.recv().expect("the nursery answers every order")
}

/// Sends a signal. A process that is gone already is no error: tests race with exits on purpose.
pub fn signal(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => panic!("{signal} to {pid}: {error}"),
    }
}

/// Sends a signal to the thread of a process that has this name.
#[track_caller]
pub fn signal_thread(pid: i32, name: &str, signal: Signal) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let is_named = |task: &std::fs::DirEntry| {
        let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        comm.trim_end() == name
    };
    let thread = tasks
        .flatten()
        .find(is_named)
        .expect("a thread of that name");
    let thread: i32 = thread
        .file_name()
        .to_str()
        .and_then(|number| number.parse().ok())
        .expect("a thread's number");
    // SAFETY: a system call that takes three numbers.
    let sent = unsafe { nix::libc::syscall(nix::libc::SYS_tgkill, pid, thread, signal as i32) };
    assert_eq!(sent, 0, "{signal} to thread {name} of {pid}");
}

/// Stops a process (SIGSTOP) and waits until every thread of it stands still: one of them has to be given a CPU before it
/// stops the others, and until then these go on.
#[track_caller]
pub fn stand_still(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    let is_stopped = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
    };
    wait_until(PATIENCE, "a process to be stopped", || {
        let Ok(mut tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            return true;
        };
        tasks.all(|task| task.is_ok_and(is_stopped))
    });
}

/// Waits until the child has ended. Panics once `patience` is over.
#[track_caller]
pub fn wait_for_exit(child: &mut Child, patience: Duration, what: &str) -> ExitStatus {
    let mut status = None;
    wait_until(patience, &format!("the exit of {what}"), || {
        status = child.try_wait().expect("waiting for our own child");
        status.is_some()
    });
    status.expect("set by the wait")
}

/// Ends a child at once and reaps it.
pub fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        signal(child.id() as i32, Signal::SIGKILL);
        let _ = child.wait();
    }
}

/// What `/proc/PID/stat` tells of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub parent: i32,
    /// `R`, `S`, `D`, `T`, `Z` …, see proc(5).
    pub state: char,
}

/// `None` for a process that is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, so read from the last one.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { parent, state })
}

/// True while the process is there and not a zombie.
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// The children of a process, zombies included.
pub fn children(parent: i32) -> BTreeSet<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

/// The words of a process's command line as `ps` shows it, joined with spaces; empty for one that is gone.
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// A port on loopback that nothing listens on now, below the range that the kernel gives to outgoing
/// connections: a server that is stopped and started again finds its port still free. Two test binaries may
/// get the same one, so callers try again when the bind fails.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + ((u32::from(start) + u32::from(step)) % u32::from(COUNT)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback");
}

/// The path of a server program: from PATH, or from the folders where distributions hide it.
pub fn find_program(name: &str, hidden_in: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    // Newest major version last in the listing, so look from the end.
    let mut versions: Vec<PathBuf> = std::fs::read_dir(hidden_in)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path().join("bin").join(name))
                .collect()
        })
        .unwrap_or_default();
    versions.sort();
    in_path
        .chain(versions.into_iter().rev())
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is not installed; `tests/run` installs what the tests need")
        })
}

/// Waits until none of these processes runs any more. An orphan's zombie is its new parent's business.
pub fn all_gone(pids: &BTreeSet<i32>, patience: Duration) -> bool {
    comes_true(patience, || !pids.iter().any(|pid| alive(*pid)))
}

/// What the kernel says a process uses of memory, shared pages in proportion, in KiB.
pub fn pss(pid: i32) -> i64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .expect("a Pss line")
}

/// CPU time of a process, all threads, in clock ticks of 10 ms (proc(5)).
pub fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let field = |at: usize| rest.split_whitespace().nth(at)?.parse::<u64>().ok();
    field(11).expect("utime") + field(12).expect("stime")
}

/// Each connection is one descriptor here and one in the worker, which takes this process's limit over.
pub fn raise_own_limit(wanted: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    let limit = hard.max(wanted);
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, limit, limit) {
        panic!(
            "this test needs {wanted} open files, and the hard limit is {hard} ({error}): raise it"
        );
    }
}

/// The most memory that a process has had in use since [`forget_peak_rss`], or since it began, in KiB.
pub fn peak_rss(pid: i32) -> i64 {
    status_kib(pid, "VmHWM:")
}

/// The memory in use that is a process's own, without files that it maps, in KiB.
pub fn anonymous_rss(pid: i32) -> i64 {
    status_kib(pid, "RssAnon:")
}

/// A field of `/proc/PID/status` (proc_pid_status(5)).
fn status_kib(pid: i32, field: &str) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_else(|| panic!("no {field} in {status}"))
}

/// Lets the peak begin anew, at what is in use now (proc_pid_clear_refs(5)).
pub fn forget_peak_rss(pid: i32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of ours");
}

/// How long the threads of a process have waited, together, for a CPU to run on, since they began: what a busy
/// machine costs it (the second figure of `/proc/PID/task/*/schedstat`, in ns). Zero for one that is gone.
pub fn wait_for_cpu(pid: i32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    tasks
        .flatten()
        .map(|task| task_wait(task.path().join("schedstat")))
        .sum()
}

/// The same for the calling thread.
pub fn own_wait_for_cpu() -> Duration {
    task_wait("/proc/thread-self/schedstat".into())
}

fn task_wait(schedstat: PathBuf) -> Duration {
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    let wait = text
        .split_whitespace()
        .nth(1)
        .and_then(|ns| ns.parse().ok());
    Duration::from_nanos(wait.unwrap_or(0))
}

/// Sets a limit of a running process; `limit` is an option of prlimit(1).
#[track_caller]
pub fn limit_process(pid: i32, limit: &str) {
    let mut prlimit = guarded("prlimit", Signal::SIGKILL, None);
    prlimit.args(["--pid", &pid.to_string(), limit]);
    assert!(prlimit.status().expect("util-linux's prlimit").success());
}
