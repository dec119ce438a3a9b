//! The house keeps its shape: rooms call only the rooms that STYLE allows, and `unsafe` stays in one file. Reads
//! the sources, so that a wrong `use` fails here and not in a review.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which rooms of `src/` each room may use. The ground floor (`config`, `sys`, `scoreboard`) imports nothing above;
/// the master never sees HTTP, the caches or the stores; `http` knows the service only as a trait.
const MAY_USE: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("sys", &[]),
    ("logging", &["config"]),
    ("scoreboard", &["sys"]),
    ("sabotage", &[]),
    ("tune", &["config", "sys"]),
    ("store", &["config", "sys"]),
    (
        "cache",
        &["config", "sys", "scoreboard", "store", "sabotage"],
    ),
    ("http", &["config", "sys", "scoreboard"]),
    (
        "app",
        &["config", "sys", "scoreboard", "http", "cache", "store"],
    ),
    (
        "worker",
        &[
            "config",
            "sys",
            "logging",
            "scoreboard",
            "tune",
            "http",
            "app",
            "admin",
            "cache",
            "store",
            "seed",
            "sabotage",
        ],
    ),
    ("ctl", &["config"]),
    // What it says of a server is the admin listener's document.
    ("status", &["config", "ctl", "scoreboard"]),
    ("top", &["config", "ctl", "status"]),
    ("admin", &["sys", "scoreboard", "http", "status", "app"]),
    (
        "master",
        &[
            "config",
            "sys",
            "logging",
            "scoreboard",
            "tune",
            "worker",
            "ctl",
        ],
    ),
    ("seed", &["config", "sys", "store"]),
];

/// Crates that only these rooms may touch: the master forks, so none of them may ever start a thread in it.
const CRATES_KEPT_OUT_OF_THE_MASTER: &[&str] = &[
    "may",
    "may_minihttp",
    "postgres",
    "r2d2",
    "redis",
    "rusqlite",
    "ureq",
];

#[test]
fn rooms_call_only_the_rooms_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let room = room_of(&path);
        // The doors see the whole house.
        if room == "main" || room == "lib" {
            continue;
        }
        let Some(allowed) = allowed.get(room.as_str()) else {
            wrong.push(format!(
                "{}: the room `{room}` is not in the table of this test",
                path.display()
            ));
            continue;
        };
        for used in rooms_used(&code) {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: `{room}` uses `{used}`", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "rooms that call where they may not:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_master_knows_no_runtime_and_no_client() {
    for (path, code) in sources().filter(|(path, _)| room_of(path) == "master") {
        for name in CRATES_KEPT_OUT_OF_THE_MASTER {
            assert!(
                !names_crate(&code, name),
                "{}: the master names the crate {name}",
                path.display()
            );
        }
    }
}

#[test]
fn unsafe_stays_in_one_file() {
    for (path, code) in sources().filter(|(path, _)| path != Path::new("sys.rs")) {
        let line = code
            .lines()
            .position(|line| words(line).any(|word| word == "unsafe"));
        assert!(
            line.is_none(),
            "src/{}:{}: `unsafe` belongs in src/sys.rs",
            path.display(),
            line.unwrap() + 1
        );
    }
}

#[test]
fn each_file_says_what_its_room_does() {
    for (path, _) in sources() {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        assert!(
            text.starts_with("//!"),
            "src/{} opens without saying what the room does",
            path.display()
        );
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file, by its path below `src/`, without comments.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let mut folders = vec![root()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty());
    files.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text.lines().map(without_comment).collect();
        (
            path.strip_prefix(root()).unwrap().to_owned(),
            code.join("\n"),
        )
    })
}

/// Cuts a line's comment. A `//` inside a string cuts too much, which hides nothing that this test looks for.
fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The room of a file: its folder below `src/`, or its own name.
fn room_of(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that the code names as `crate::ROOM…` or in `crate::{ROOM…, ROOM…}`.
fn rooms_used(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(list) => rooms.extend(first_segments(list)),
            None => rooms.extend(words(after).next().map(str::to_owned)),
        }
    }
    rooms
}

/// The first segments of a braced list of paths, whose nested braces are skipped.
fn first_segments(list: &str) -> Vec<String> {
    let mut depth = 1;
    let mut segments = vec![String::new()];
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => segments.push(String::new()),
            _ if depth == 1 => segments.last_mut().unwrap().push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    segments
        .iter()
        .filter_map(|segment| words(segment).next().map(str::to_owned))
        .collect()
}

fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        starts && code[at + name.len()..].starts_with("::")
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}

#[test]
fn the_reader_of_sources_reads_every_form_of_use() {
    assert_eq!(
        rooms_used("use crate::store::{self, Store};\nlet x = crate::sys::fork();"),
        ["store", "sys"]
    );
    assert_eq!(
        rooms_used("use crate::{\n    http::{Head, Body},\n    cache,\n};"),
        ["http", "cache"]
    );
    assert!(names_crate("use may::go;", "may") && !names_crate("let dismay::x", "may"));
    assert!(!names_crate("crate::redis::x", "redis"));
}
