//! The table of limits: every limit of the host that has been seen to bite, nearest first. To add one, add a row.
//!
//! What the seed's start script set and is not here (`tcp_fin_timeout`, `tcp_migrate_req`) has no effect on this server;
//! ARCHITECTURE.md says why.

use super::Needs;

/// One limit of the host.
#[derive(Debug)]
pub struct Row {
    /// The name that sysctl(8) or limits.conf(5) knows it by.
    pub name: &'static str,
    pub(super) place: Place,
    pub(super) unit: Unit,
    /// From the needs, the least that will do.
    needed: fn(&Needs) -> u64,
    /// When it doesn't matter.
    pub(super) idle: Option<Idle>,
    pub(super) in_file: InFile,
    /// What needs it, and how much.
    pub why: &'static str,
    /// What happens beyond it.
    pub harm: &'static str,
    /// From the needs, what is needed, and what there is: what is configured, and what happens beyond the limit.
    tell: fn(&Needs, u64, u64) -> String,
    /// What else helps, or must follow.
    also: &'static str,
}

/// Where a limit is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A file below /proc/sys.
    Sysctl,
    /// RLIMIT_NOFILE of each process (getrlimit(2)).
    OpenFiles,
}

/// What a limit's text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A number.
    Number,
    /// The first and the last of a range of ports, of which the number counts.
    Ports,
}

/// Another sysctl that makes a limit meaningless.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) when: &'static str,
    pub(super) is: fn(u64) -> bool,
    pub(super) because: &'static str,
}

/// What the generated file says of a limit. Files serve many configurations and hosts, so they are generous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InFile {
    /// This, or what is needed if that is more.
    AtLeast(u64),
    /// Nothing, unless more is needed than this, which every host has: a file can't say "at least", so each line that
    /// isn't needed could lower something.
    Beyond(u64),
}

/// The lowest port that an outgoing connection should ever get: those below belong to well-known services.
const FIRST_PORT: u64 = 1024;

impl Row {
    /// The least that will do.
    pub fn needed(&self, needs: &Needs) -> u64 {
        (self.needed)(needs)
    }

    /// How much the kernel's text allows; `None` for a text that isn't understood.
    pub(super) fn amount(&self, text: &str) -> Option<u64> {
        match self.unit {
            Unit::Number => text.parse().ok(),
            Unit::Ports => {
                let (first, last) = ports(text)?;
                Some((last + 1).saturating_sub(first))
            }
        }
    }

    /// The text that allows `amount`, and all that `found` does.
    pub(super) fn value(&self, amount: u64, found: Option<&str>) -> String {
        match self.unit {
            Unit::Number => amount.to_string(),
            Unit::Ports => {
                let wide = 65_536_u64.saturating_sub(amount).max(FIRST_PORT);
                let first = found
                    .and_then(ports)
                    .map_or(wide, |(first, _)| first.min(wide));
                format!("{first} 65535")
            }
        }
    }

    pub(super) fn complain(&self, needs: &Needs, needed: u64, amount: u64, found: &str) -> String {
        let told = (self.tell)(needs, needed, amount);
        let (name, also) = (self.name, self.also);
        match self.place {
            Place::OpenFiles => format!(
                "a process may open {found} files, but {told}. Set LimitNOFILE={needed} in the unit, or `nofile` in \
                 /etc/security/limits.d/60-canvas-cluster.conf (`canvas-cluster tune --print limits.d`){also}"
            ),
            Place::Sysctl => {
                let value = self.value(needed, Some(found));
                let value = match self.unit {
                    Unit::Number => format!("{name}={value}"),
                    Unit::Ports => format!("{name}='{value}'"),
                };
                format!(
                    "{name} = {found}, but {told}. `sysctl -w {value}`, and for the next boot \
                     /etc/sysctl.d/60-canvas-cluster.conf (`canvas-cluster tune --print sysctl.d`){also}"
                )
            }
        }
    }
}

fn ports(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once(' ')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

const FEWER: &str = ", or lower --max-connections";

/// Every limit.
pub static ROWS: &[Row] = &[
    Row {
        name: "nofile",
        place: Place::OpenFiles,
        unit: Unit::Number,
        needed: |needs| needs.descriptors,
        idle: None,
        in_file: InFile::AtLeast(262_144),
        why: "open files of a process (`LimitNOFILE=` in the unit): a worker's --max-connections and some 150",
        harm: "a worker takes fewer connections, and turns away those beyond with 503",
        tell: |needs, needed, amount| {
            format!(
                "max_connections = {} needs {needed}: a worker takes {} connections, and turns away those beyond with 503",
                needs.connections,
                amount.saturating_sub(needs.other_descriptors)
            )
        },
        also: FEWER,
    },
    Row {
        name: "fs.nr_open",
        place: Place::Sysctl,
        unit: Unit::Number,
        needed: |needs| needs.descriptors,
        idle: None,
        // The kernel's default since 2.6.25; systemd raises it to 2^30 and more.
        in_file: InFile::Beyond(1_048_576),
        why: "the most that any limit on open files can be",
        harm: "`LimitNOFILE=` above it keeps the service from starting",
        tell: |needs, needed, _| {
            format!(
                "max_connections = {} needs {needed} open files, and no limit on them can be higher: LimitNOFILE= alone \
                 can't help",
                needs.connections
            )
        },
        also: FEWER,
    },
    Row {
        name: "fs.file-max",
        place: Place::Sysctl,
        unit: Unit::Number,
        needed: |needs| needs.workers.saturating_mul(needs.descriptors),
        idle: None,
        // What systemd sets at boot since its version 240: no limit but memory.
        in_file: InFile::AtLeast(i64::MAX as u64),
        why: "open files of the whole host: all workers' connections; by default one for each 10 KiB of memory",
        harm: "no process of the host can open a file",
        tell: |needs, needed, _| {
            format!(
                "{} workers of max_connections = {} need {needed} open files: beyond the limit, which is the whole host's, \
                 no process opens anything",
                needs.workers, needs.connections
            )
        },
        also: FEWER,
    },
    Row {
        name: "fs.epoll.max_user_watches",
        place: Place::Sysctl,
        unit: Unit::Number,
        needed: |needs| needs.workers.saturating_mul(needs.descriptors),
        idle: None,
        // A twenty-fifth of low memory: a host of 4 GiB has more.
        in_file: InFile::Beyond(1_048_576),
        why: "descriptors that one user's processes may watch: all workers' connections",
        harm: "connections are closed unanswered",
        tell: |needs, needed, _| {
            format!(
                "{} workers of max_connections = {} watch up to {needed} descriptors: beyond that connections are closed \
                 unanswered",
                needs.workers, needs.connections
            )
        },
        also: FEWER,
    },
    Row {
        name: "vm.max_map_count",
        place: Place::Sysctl,
        unit: Unit::Number,
        needed: |needs| needs.mappings,
        idle: None,
        // What Fedora and Ubuntu set by now, and enough for 520,000 busy connections.
        in_file: InFile::AtLeast(1_048_576),
        why: "memory mappings of a process: a busy connection's stack and its guard page are two (an idle one needs none), \
              and some 1,100 are for the rest of a worker; 65530 by default",
        harm: "requests wait until other ones are done",
        tell: |needs, needed, amount| {
            format!(
                "max_connections = {} needs {needed}, two for the stack of each busy connection: beyond some {} busy ones a \
                 worker, others wait until those are done (idle ones need no stack)",
                needs.connections,
                amount.saturating_sub(needs.other_mappings) / 2
            )
        },
        also: FEWER,
    },
    Row {
        name: "net.core.somaxconn",
        place: Place::Sysctl,
        unit: Unit::Number,
        needed: |needs| needs.backlog.min(needs.connections),
        idle: None,
        in_file: InFile::AtLeast(65_535),
        why: "connections that may wait for an accept, per listener: the kernel cuts every backlog to this",
        harm: "of a burst of connections some are dropped, and their clients try again a second later",
        tell: |needs, needed, amount| {
            format!(
                "max_connections = {} has room for a burst of {needed}: beyond {amount} that wait for a worker to accept \
                 them, the kernel drops them, and clients try again a second later",
                needs.connections
            )
        },
        also: "; a reload (HUP) then makes use of it",
    },
    Row {
        name: "net.ipv4.tcp_max_syn_backlog",
        place: Place::Sysctl,
        unit: Unit::Number,
        needed: |needs| needs.backlog.min(needs.connections),
        // tcp_conn_request() of the kernel looks at it only then; else the listener's backlog is the bound.
        idle: Some(Idle {
            when: "net.ipv4.tcp_syncookies",
            is: |cookies| cookies != 0,
            because: "SYN cookies are on",
        }),
        in_file: InFile::AtLeast(65_535),
        why: "handshakes that may be half done while net.ipv4.tcp_syncookies is 0; else it has no effect",
        harm: "handshakes of clients that were not here before are dropped, and tried again a second later",
        tell: |needs, needed, amount| {
            format!(
                "max_connections = {} has room for a burst of {needed}, and SYN cookies are off: when more than three \
                 quarters of {amount} handshakes are half done, those of new clients are dropped",
                needs.connections
            )
        },
        also: ", or `sysctl -w net.ipv4.tcp_syncookies=1`",
    },
    Row {
        name: "net.ipv4.ip_local_port_range",
        place: Place::Sysctl,
        unit: Unit::Ports,
        needed: |needs| needs.outgoing.min(65_536 - FIRST_PORT),
        idle: None,
        // 32768 to 60999, the kernel's default.
        in_file: InFile::Beyond(28_232),
        why: "ports for connections to one database or one Redis, counted: each lane of all workers has one, and two while \
              it is replaced",
        harm: "\"cannot assign requested address\": lanes go without database or Redis",
        tell: |needs, needed, amount| {
            format!(
                "the lanes of {} workers need {needed} ports to one database: beyond {amount} the others can't connect",
                needs.workers
            )
        },
        also: ", or lower --lanes",
    },
];
