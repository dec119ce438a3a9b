//! The table against trees of files that look like /proc, and the pages that are made from it.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use tempfile::TempDir;

use super::*;

const NEEDS: Needs = Needs {
    workers: 4,
    connections: 50_000,
    descriptors: 50_200,
    other_descriptors: 200,
    mappings: 101_000,
    other_mappings: 1_000,
    backlog: 65_535,
    outgoing: 32,
};

/// Exactly what [`NEEDS`] needs, and no more.
const ENOUGH: [(&str, &str); 8] = [
    ("fs.nr_open", "50200"),
    ("fs.file-max", "200800"),
    ("fs.epoll.max_user_watches", "200800"),
    ("vm.max_map_count", "101000"),
    ("net.core.somaxconn", "50000"),
    ("net.ipv4.tcp_max_syn_backlog", "50000"),
    ("net.ipv4.tcp_syncookies", "0"),
    ("net.ipv4.ip_local_port_range", "40000\t40031"),
];

/// A /proc of our own.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Tree(tempfile::tempdir().expect("a folder"));
        for (name, text) in ENOUGH {
            tree.set(name, text);
        }
        tree
    }

    fn set(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, format!("{text}\n")).expect("a file");
    }

    fn get(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).expect("a file");
        text.trim().to_owned()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("proc/sys").join(name.replace('.', "/"))
    }

    fn host(&self) -> Host {
        Host::new(self.0.path(), Some(50_200))
    }
}

fn verdict(needs: &Needs, host: &Host, name: &str) -> Verdict {
    let found = check(needs, host);
    let finding = found.iter().find(|finding| finding.row.name == name);
    finding.expect("a row").verdict
}

#[test]
fn the_limit_is_raised_to_what_is_allowed_and_never_lowered() {
    let before = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    let raised = raise_open_files(1).expect("getrlimit and setrlimit");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    assert_eq!(
        (soft, hard, raised.before),
        (raised.now, raised.now, before.1)
    );
    // More than fs.nr_open can ever be is refused, whatever the privilege, and then the limit stays.
    let raised = raise_open_files(1 << 40).expect("getrlimit and setrlimit");
    assert_eq!((raised.before, raised.now), (hard, hard));
}

#[test]
fn limits_that_are_met_or_unknown_are_not_told() {
    assert_eq!(
        complaints(&NEEDS, &Tree::new().host()),
        Vec::<String>::new()
    );
    let nowhere = Host::new(Path::new("/nowhere"), None);
    assert_eq!(complaints(&NEEDS, &nowhere), Vec::<String>::new());
    assert!(
        check(&NEEDS, &nowhere)
            .iter()
            .all(|finding| finding.verdict == Verdict::Unknown)
    );
    let (changes, failures) = raise_sysctls(&NEEDS, &nowhere);
    assert!(changes.is_empty() && failures.is_empty());
}

#[test]
fn each_limit_that_is_one_too_low_is_told_with_what_is_needed_and_a_remedy() {
    let rows: [(&str, &str, &[&str]); 7] = [
        (
            "fs.nr_open",
            "50199",
            &[
                "50200",
                "LimitNOFILE= alone",
                "`sysctl -w fs.nr_open=50200`",
            ],
        ),
        (
            "fs.file-max",
            "200799",
            &["4 workers", "`sysctl -w fs.file-max=200800`"],
        ),
        (
            "fs.epoll.max_user_watches",
            "200799",
            &["closed", "`sysctl -w fs.epoll.max_user_watches=200800`"],
        ),
        (
            "vm.max_map_count",
            "100999",
            &["49999 busy", "`sysctl -w vm.max_map_count=101000`"],
        ),
        (
            "net.core.somaxconn",
            "49999",
            &["drops", "`sysctl -w net.core.somaxconn=50000`", "HUP"],
        ),
        (
            "net.ipv4.tcp_max_syn_backlog",
            "49999",
            &[
                "SYN cookies",
                "`sysctl -w net.ipv4.tcp_max_syn_backlog=50000`",
            ],
        ),
        (
            "net.ipv4.ip_local_port_range",
            "40000 40030",
            &[
                "32 ports",
                "beyond 31",
                "`sysctl -w net.ipv4.ip_local_port_range='40000 65535'`",
            ],
        ),
    ];
    for (name, low, words) in rows {
        let tree = Tree::new();
        tree.set(name, low);
        let told = complaints(&NEEDS, &tree.host());
        assert_eq!(told.len(), 1, "{told:?}");
        let file = ["/etc/sysctl.d/60-canvas-cluster.conf", name, low];
        for word in words.iter().chain(&file) {
            assert!(told[0].contains(word), "no `{word}` in: {}", told[0]);
        }
        assert_eq!(verdict(&NEEDS, &tree.host(), name), Verdict::Short);
    }
    let told = complaints(&NEEDS, &Host::new(Tree::new().0.path(), Some(50_199)));
    assert_eq!(told.len(), 1, "{told:?}");
    for word in [
        "50199",
        "50200",
        "49999 connections",
        "LimitNOFILE=50200",
        "limits.d",
    ] {
        assert!(told[0].contains(word), "no `{word}` in: {}", told[0]);
    }
}

#[test]
fn what_is_too_low_is_raised_to_what_is_needed_and_nothing_else_is_touched() {
    let tree = Tree::new();
    tree.set("fs.file-max", "200801");
    tree.set("net.core.somaxconn", "128");
    tree.set("vm.max_map_count", "65530");
    tree.set("net.ipv4.ip_local_port_range", "33000 33009");
    let (changes, failures) = raise_sysctls(&NEEDS, &tree.host());
    assert!(failures.is_empty(), "{failures:?}");
    let change = |name, from: &str, to: &str| Change {
        name,
        from: from.to_owned(),
        to: to.to_owned(),
    };
    assert_eq!(
        changes,
        [
            change("vm.max_map_count", "65530", "101000"),
            change("net.core.somaxconn", "128", "50000"),
            change("net.ipv4.ip_local_port_range", "33000 33009", "33000 65535"),
        ]
    );
    assert_eq!(tree.get("net.core.somaxconn"), "50000");
    assert_eq!(tree.get("fs.file-max"), "200801", "what is higher stays");
    assert_eq!(tree.get("net.ipv4.tcp_syncookies"), "0");
    assert_eq!(complaints(&NEEDS, &tree.host()), Vec::<String>::new());
    assert!(raise_sysctls(&NEEDS, &tree.host()).0.is_empty(), "again");
}

#[test]
fn what_cannot_be_raised_is_answered_with_its_reason_and_the_rest_is_raised() {
    let tree = Tree::new();
    tree.set("net.core.somaxconn", "128");
    // A file that not even root can write: one of the kernel's own, which says 256.
    let own = tree.path("fs.file-max");
    std::fs::remove_file(&own).expect("our own file");
    std::os::unix::fs::symlink("/proc/sys/kernel/random/poolsize", &own).expect("a link");
    let needs = Needs {
        workers: u64::MAX,
        ..NEEDS
    };
    let (changes, failures) = raise_sysctls(&needs, &tree.host());
    let named: Vec<&str> = failures.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, ["fs.file-max"]);
    let changed: Vec<&str> = changes.iter().map(|change| change.name).collect();
    assert_eq!(changed, ["fs.epoll.max_user_watches", "net.core.somaxconn"]);
    assert_eq!(complaints(&needs, &tree.host()).len(), 1);
}

#[test]
fn a_syn_backlog_has_no_effect_while_cookies_are_on() {
    let tree = Tree::new();
    let name = "net.ipv4.tcp_max_syn_backlog";
    tree.set(name, "128");
    assert_eq!(verdict(&NEEDS, &tree.host(), name), Verdict::Short);
    tree.set("net.ipv4.tcp_syncookies", "1");
    assert!(matches!(
        verdict(&NEEDS, &tree.host(), name),
        Verdict::Idle(_)
    ));
    assert!(raise_sysctls(&NEEDS, &tree.host()).0.is_empty());
    assert_eq!(tree.get(name), "128");
}

#[test]
fn texts_that_are_no_limit_are_unknown() {
    let tree = Tree::new();
    for (name, text) in [
        ("net.core.somaxconn", "not a number"),
        ("vm.max_map_count", ""),
        ("fs.nr_open", "-1"),
        ("net.ipv4.ip_local_port_range", "32768"),
    ] {
        tree.set(name, text);
        assert_eq!(
            verdict(&NEEDS, &tree.host(), name),
            Verdict::Unknown,
            "{name}"
        );
    }
    tree.set("net.ipv4.ip_local_port_range", "60000 100");
    assert_eq!(
        verdict(&NEEDS, &tree.host(), "net.ipv4.ip_local_port_range"),
        Verdict::Short
    );
}

#[test]
fn a_range_of_ports_is_widened_and_keeps_what_it_had() {
    let row = ROWS
        .iter()
        .find(|row| row.unit == table::Unit::Ports)
        .expect("a row");
    assert_eq!(row.amount("32768 60999"), Some(28_232));
    assert_eq!(row.value(40_000, Some("32768 60999")), "25536 65535");
    assert_eq!(row.value(40_000, Some("1024 2000")), "1024 65535");
    assert_eq!(row.value(1 << 40, None), "1024 65535");
    let needs = Needs {
        outgoing: u64::MAX,
        ..NEEDS
    };
    assert_eq!(
        row.amount(&row.value(row.needed(&needs), None)),
        Some(row.needed(&needs))
    );
}

#[test]
fn the_real_kernel_has_every_row() {
    let host = Host::new(Path::new("/"), None);
    for name in [
        "fs.nr_open",
        "fs.file-max",
        "vm.max_map_count",
        "net.core.somaxconn",
    ] {
        assert_ne!(verdict(&NEEDS, &host, name), Verdict::Unknown, "{name}");
    }
}

#[test]
fn files_hold_what_is_needed_where_that_is_more() {
    let file = sysctl_file(&NEEDS);
    assert!(file.contains("\nvm.max_map_count = 1048576\n"), "{file}");
    assert!(!file.contains("nr_open ="), "{file}");
    let needs = Needs {
        descriptors: 2_000_000,
        mappings: 4_000_000,
        ..NEEDS
    };
    let file = sysctl_file(&needs);
    assert!(file.contains("\nvm.max_map_count = 4000000\n"), "{file}");
    assert!(file.contains("\nfs.nr_open = 2000000\n"), "{file}");
    assert!(file.lines().all(|line| line.len() <= 120), "{file}");
    assert!(limits_file(&needs).contains("\n*    hard    nofile    2000000\n"));
}

#[test]
fn the_report_has_a_line_a_limit_and_says_what_is_wrong() {
    let tree = Tree::new();
    tree.set("net.core.somaxconn", "128");
    let report = report(&check(&NEEDS, &tree.host()));
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(lines.len(), 1 + ROWS.len() + 2, "{report}");
    let words = |name: &str| -> Vec<&str> {
        let line = lines.iter().find(|line| line.starts_with(name));
        line.expect("a line").split_whitespace().collect()
    };
    assert_eq!(
        words("net.core.somaxconn "),
        ["net.core.somaxconn", "128", "50000", "too", "low"]
    );
    assert_eq!(words("nofile"), ["nofile", "50200", "50200", "ok"]);
    assert!(
        lines[ROWS.len() + 2].contains("`sysctl -w net.core.somaxconn=50000`"),
        "{report}"
    );
}
