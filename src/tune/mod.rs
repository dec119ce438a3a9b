//! What the processes may have of the host: the limit on open files, raised as far as it goes, and the kernel's
//! limits, compared with what a configuration needs at worst. Called by the master at its start and by `check`.

use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a configuration needs at worst: every connection open, and busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    pub workers: u64,
    /// Connections that a worker takes, `max_connections`.
    pub connections: u64,
    /// Descriptors of the process that needs most, in all likelihood a worker.
    pub descriptors: u64,
    /// Descriptors of a worker that are not connections.
    pub other_descriptors: u64,
    /// Memory mappings of a worker.
    pub mappings: u64,
    /// Mappings of a worker that are not stacks.
    pub other_mappings: u64,
    /// Connections that may wait for an accept, per listener.
    pub backlog: u64,
}

/// What the host allows. `None` is a limit that can't be read, of which nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// RLIMIT_NOFILE after raising (getrlimit(2)).
    pub open_files: Option<u64>,
    /// fs.nr_open: what RLIMIT_NOFILE can be raised to at most (proc_sys_fs(5)).
    pub nr_open: Option<u64>,
    /// fs.file-max: open files of all processes together (proc_sys_fs(5)).
    pub file_max: Option<u64>,
    /// fs.epoll.max_user_watches: what one user may watch by epoll(7).
    pub epoll_watches: Option<u64>,
    /// vm.max_map_count: mappings of one process (proc_sys_vm(5)).
    pub map_count: Option<u64>,
    /// net.core.somaxconn: what every backlog is cut to (listen(2)).
    pub somaxconn: Option<u64>,
}

impl Host {
    /// Reads the kernel's limits below `root` (`/`, or a folder that looks like it); `open_files` is this process's own.
    pub fn read(root: &Path, open_files: Option<u64>) -> Self {
        let sysctl = |name: &str| {
            let text = std::fs::read_to_string(root.join("proc/sys").join(name)).ok()?;
            text.trim().parse().ok()
        };
        Host {
            open_files,
            nr_open: sysctl("fs/nr_open"),
            file_max: sysctl("fs/file-max"),
            epoll_watches: sysctl("fs/epoll/max_user_watches"),
            map_count: sysctl("vm/max_map_count"),
            somaxconn: sysctl("net/core/somaxconn"),
        }
    }
}

/// One limit: its name, what there is and must be, and what to say when that is less.
struct Limit {
    allowed: fn(&Host) -> Option<u64>,
    needed: fn(&Needs) -> u64,
    /// From the needs, what is needed, and what is allowed: what is configured, what happens beyond, the remedy.
    tell: fn(&Needs, u64, u64) -> String,
}

/// Every limit that has been seen to bite, nearest first.
const LIMITS: &[Limit] = &[
    Limit {
        allowed: |host| host.open_files,
        needed: |needs| needs.descriptors,
        tell: |needs, needed, allowed| {
            let connections = allowed.saturating_sub(needs.other_descriptors);
            format!(
                "a process may open {allowed} files, but max_connections = {} needs {needed}: beyond some {connections} \
                 connections a worker, new ones wait unaccepted. Set LimitNOFILE={needed} or more in the unit, or \
                 `nofile` in limits.d, or lower --max-connections",
                needs.connections
            )
        },
    },
    Limit {
        allowed: |host| host.nr_open,
        needed: |needs| needs.descriptors,
        tell: |needs, needed, allowed| {
            format!(
                "fs.nr_open = {allowed} is the most that any limit on open files can be, but max_connections = {} needs \
                 {needed}: LimitNOFILE= alone can't help. `sysctl -w fs.nr_open={needed}` first, or lower \
                 --max-connections",
                needs.connections
            )
        },
    },
    Limit {
        allowed: |host| host.file_max,
        needed: |needs| needs.workers.saturating_mul(needs.descriptors),
        tell: |needs, needed, allowed| {
            format!(
                "fs.file-max = {allowed} is for all processes of the host, but {} workers of max_connections = {} need \
                 {needed}: beyond that no process opens anything. `sysctl -w fs.file-max=…` (see \
                 sysctl.d/60-canvas-cluster.conf), or lower --max-connections",
                needs.workers, needs.connections
            )
        },
    },
    Limit {
        allowed: |host| host.epoll_watches,
        needed: |needs| needs.workers.saturating_mul(needs.descriptors),
        tell: |needs, needed, allowed| {
            format!(
                "fs.epoll.max_user_watches = {allowed}, but {} workers of max_connections = {} watch up to {needed} \
                 descriptors: beyond that connections are closed unanswered. \
                 `sysctl -w fs.epoll.max_user_watches={needed}`, or lower --max-connections",
                needs.workers, needs.connections
            )
        },
    },
    Limit {
        allowed: |host| host.map_count,
        needed: |needs| needs.mappings,
        tell: |needs, needed, allowed| {
            let busy = allowed.saturating_sub(needs.other_mappings) / 2;
            format!(
                "vm.max_map_count = {allowed}, but max_connections = {} needs {needed}, two for the stack of each busy \
                 connection: beyond some {busy} busy ones a worker, others wait until those are done (idle ones need no \
                 stack). `sysctl -w vm.max_map_count={needed}` (see sysctl.d/60-canvas-cluster.conf), or lower \
                 --max-connections",
                needs.connections
            )
        },
    },
    Limit {
        allowed: |host| host.somaxconn,
        needed: |needs| needs.backlog.min(needs.connections),
        tell: |needs, needed, allowed| {
            format!(
                "net.core.somaxconn = {allowed} connections may wait for a worker to accept them, where max_connections = \
                 {} has room for a burst of {needed}: beyond that the kernel drops them, and clients try again a second \
                 later. `sysctl -w net.core.somaxconn={needed}` and a restart (see sysctl.d/60-canvas-cluster.conf)",
                needs.connections
            )
        },
    },
];

/// One sentence or two for each limit that does not allow what is configured: what it is, what is needed, what happens
/// beyond it, and what to do. Empty where all is well.
pub fn complaints(needs: &Needs, host: &Host) -> Vec<String> {
    LIMITS
        .iter()
        .filter_map(|limit| {
            let (needed, allowed) = ((limit.needed)(needs), (limit.allowed)(host)?);
            (allowed < needed).then(|| (limit.tell)(needs, needed, allowed))
        })
        .collect()
}

/// Raises the limit on open files as far as it goes without privilege, to the hard limit (setrlimit(2)), and answers
/// with it. Children inherit it.
///
/// # Errors
/// The kernel's; the limit is then as it was.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        workers: 4,
        connections: 50_000,
        descriptors: 50_200,
        other_descriptors: 200,
        mappings: 101_000,
        other_mappings: 1_000,
        backlog: 65_535,
    };

    /// Exactly what is needed, and no more.
    fn enough() -> Host {
        Host {
            open_files: Some(50_200),
            nr_open: Some(50_200),
            file_max: Some(200_800),
            epoll_watches: Some(200_800),
            map_count: Some(101_000),
            somaxconn: Some(50_000),
        }
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let raised = raise_open_files().expect("getrlimit and setrlimit");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
        assert_eq!((soft, raised), (hard, hard));
    }

    #[test]
    fn limits_that_are_met_or_unknown_are_not_told() {
        assert_eq!(complaints(&NEEDS, &enough()), Vec::<String>::new());
        assert_eq!(complaints(&NEEDS, &Host::default()), Vec::<String>::new());
    }

    #[test]
    fn each_limit_that_is_one_too_low_is_told_with_what_is_needed_and_a_remedy() {
        type Lower = fn(&mut Host) -> &mut Option<u64>;
        let rows: [(Lower, [&str; 4]); 6] = [
            (
                |host| &mut host.open_files,
                ["50199", "50200", "49999 connections", "LimitNOFILE=50200"],
            ),
            (
                |host| &mut host.nr_open,
                ["50199", "50200", "LimitNOFILE= alone", "fs.nr_open=50200"],
            ),
            (
                |host| &mut host.file_max,
                ["200799", "200800", "4 workers", "fs.file-max"],
            ),
            (
                |host| &mut host.epoll_watches,
                [
                    "200799",
                    "200800",
                    "closed",
                    "fs.epoll.max_user_watches=200800",
                ],
            ),
            (
                |host| &mut host.map_count,
                ["100999", "101000", "49999 busy", "vm.max_map_count=101000"],
            ),
            (
                |host| &mut host.somaxconn,
                ["49999", "50000", "drops", "net.core.somaxconn=50000"],
            ),
        ];
        for (lower, words) in rows {
            let mut host = enough();
            let limit = lower(&mut host);
            *limit = limit.map(|limit| limit - 1);
            let told = complaints(&NEEDS, &host);
            assert_eq!(told.len(), 1, "{told:?}");
            for word in words {
                assert!(told[0].contains(word), "no `{word}` in: {}", told[0]);
            }
        }
    }

    #[test]
    fn the_host_is_read_from_proc() {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("fs/nr_open", "1048576\n"),
            ("fs/file-max", "9223372036854775807\n"),
            ("vm/max_map_count", "65530\n"),
            ("net/core/somaxconn", "not a number\n"),
        ] {
            let path = root.path().join("proc/sys").join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let expected = Host {
            open_files: Some(1024),
            nr_open: Some(1_048_576),
            file_max: Some(i64::MAX as u64),
            map_count: Some(65_530),
            ..Host::default()
        };
        assert_eq!(Host::read(root.path(), Some(1024)), expected);
        let real = Host::read(Path::new("/"), None);
        assert!(real.nr_open.is_some() && real.map_count.is_some());
    }
}
