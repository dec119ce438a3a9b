//! What caches answer and what they cost, for the reckoning of many hosts in ARCHITECTURE.md: `benches/run simulate` runs it and
//! keeps what it prints, a JSON, in benches/simulation.json. Takes no measure of time, so a busy machine changes nothing.

#[path = "support/hot_path.rs"]
mod hot_path;
#[path = "support/simulation.rs"]
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use canvas_cluster::app::manners::Page;
use canvas_cluster::cache::l1::{Found, L1};
use canvas_cluster::cache::trust::Trust;
use canvas_cluster::scoreboard::Scoreboard;
use canvas_cluster::scoreboard::generations::ENTRIES;
use serde_json::{Value, json};

use simulation::{Cell, Sizes, page};

const MIB: usize = 1 << 20;

/// As the defaults have it.
const L1_BYTES: usize = 64 * MIB;
const L1_TTL_MS: u64 = 5000;

/// How long an answer stays in Redis, and how long a tombstone keeps others out, in seconds: `--redis-ttl`, and `--request-timeout` with
/// the margin of `cache::redis`, as they are by default.
const REDIS_TTL: f64 = 3600.0;
const TOMBSTONE: f64 = 14.0;

const CATALOG: u32 = 10_000_000;
const SKEWS: [f64; 4] = [0.6, 0.8, 1.0, 1.2];

/// Workers of a host, one a virtual processor.
const WORKERS: u32 = 4;

/// Requests a second of a worker where the plan does not say: a busy one's.
const RATE: f64 = 50_000.0;

/// Of so many requests one is a write.
const A_WRITE: f64 = 1000.0;

/// Points from which a network of caches serves, each by itself.
const POINTS: f64 = 50.0;

/// A cluster that is reckoned: requests a second, hosts in all, and in how many groups, each with a Redis, a primary and
/// a part of the shoes of its own.
struct Plan {
    name: &'static str,
    requests: f64,
    hosts: u32,
    groups: u32,
    l1_bytes: usize,
    l1_ttl_ms: u64,
}

const PLANS: [Plan; 5] = [
    Plan::by_default("100,000", 1e5, 2),
    Plan::by_default("1 million", 1e6, 8),
    Plan::parted("1 million, 4 groups", 1e6, 12, 4),
    Plan::by_default("10 million", 1e7, 69),
    Plan::parted("10 million, 16 groups", 1e7, 80, 16),
];

fn main() {
    // What the memory of a kept page is must be measured before anything else has been given back.
    let bytes = bytes();
    let sizes = Sizes::new();
    let usual = Cell {
        catalog: CATALOG,
        skew: 1.0,
        l1_bytes: L1_BYTES,
        l1_ttl_ms: L1_TTL_MS,
        rate: RATE,
        writes: 0.0,
        workers: WORKERS,
    };
    let mut by_size = Vec::new();
    for catalog in [CATALOG / 10, CATALOG] {
        for skew in SKEWS {
            for mib in [8, 16, 32, 64, 128, 256, 512] {
                by_size.push(Cell {
                    catalog,
                    skew,
                    l1_bytes: mib * MIB,
                    ..usual
                });
            }
        }
    }
    let by_time = [1, 5, 15, 60].into_iter().flat_map(|seconds| {
        [64, 512, 2048].map(|mib| Cell {
            l1_ttl_ms: seconds * 1000,
            l1_bytes: mib * MIB,
            ..usual
        })
    });
    let by_writes = [0.0, 100.0, 1000.0, 10_000.0, 100_000.0]
        .into_iter()
        .flat_map(|writes| {
            [5, 60].map(|seconds| Cell {
                l1_ttl_ms: seconds * 1000,
                l1_bytes: 512 * MIB,
                writes,
                ..usual
            })
        });
    let told = json!({
        "format": 1,
        "bytes": bytes,
        "generations": ENTRIES,
        "by_size": tell(&by_size, &sizes),
        "by_time": tell(&by_time.collect::<Vec<_>>(), &sizes),
        "by_writes": tell(&by_writes.collect::<Vec<_>>(), &sizes),
        "plans": PLANS.iter().map(|plan| plan.tell(&sizes)).collect::<Vec<_>>(),
        "edge": edge(&usual),
    });
    println!("{told:#}");
}

/// Each cell with what came of it.
fn tell(cells: &[Cell], sizes: &Sizes) -> Vec<Value> {
    let one = |cell: &Cell| {
        let hits = cell.l1_hits(sizes);
        eprintln!("{cell:?}: {hits:.3}");
        let mut told = serde_json::to_value(cell).expect("a cell");
        told["l1_hits"] = rounded(hits);
        told["redis_hits"] = rounded(cell.redis_hits(hits, REDIS_TTL, TOMBSTONE));
        told
    };
    cells.iter().map(one).collect()
}

impl Plan {
    /// One cluster with the defaults.
    const fn by_default(name: &'static str, requests: f64, hosts: u32) -> Self {
        Plan {
            name,
            requests,
            hosts,
            groups: 1,
            l1_bytes: L1_BYTES,
            l1_ttl_ms: L1_TTL_MS,
        }
    }

    /// Groups whose workers keep more, and for longer.
    const fn parted(name: &'static str, requests: f64, hosts: u32, groups: u32) -> Self {
        Plan {
            name,
            requests,
            hosts,
            groups,
            l1_bytes: 512 * MIB,
            l1_ttl_ms: 60_000,
        }
    }

    fn tell(&self, sizes: &Sizes) -> Value {
        let cells = SKEWS.map(|skew| Cell {
            catalog: CATALOG / self.groups,
            skew,
            l1_bytes: self.l1_bytes,
            l1_ttl_ms: self.l1_ttl_ms,
            rate: self.requests / f64::from(self.hosts * WORKERS),
            writes: self.requests / A_WRITE / f64::from(self.groups),
            workers: self.hosts * WORKERS / self.groups,
        });
        json!({"name": self.name, "requests": self.requests, "hosts": self.hosts, "groups": self.groups, "cells": tell(&cells, sizes)})
    }
}

/// What a network of caches in front leaves, if each of its points may keep an answer for so many seconds (`--cache-max-age`): the
/// share of all requests, and how many a second are for the most popular shoe.
fn edge(usual: &Cell) -> Vec<Value> {
    let mut told = Vec::new();
    for requests in [1e5, 1e6, 1e7] {
        for seconds in [0.0, 1.0, 10.0, 60.0] {
            let left = |share: f64| {
                let asked = requests * share / POINTS;
                POINTS * asked / (1.0 + asked * seconds)
            };
            let popularity = usual.popularity();
            let all: f64 = popularity
                .iter()
                .map(|(share, shoes)| shoes * left(*share))
                .sum();
            told.push(json!({"requests": requests, "max_age": seconds, "points": POINTS,
                             "left": rounded(all / requests), "first": rounded(left(popularity[0].0))}));
        }
    }
    told
}

/// Bytes on the wire, above TCP, and in memory.
fn bytes() -> Value {
    const SHOES: i32 = 100_000;
    let board = Scoreboard::new().expect("shared memory");
    let l1: L1<Arc<Page>> = L1::new(
        1 << 30,
        Duration::from_secs(3600),
        board.generations(),
        Arc::new(Trust::always()),
    );
    let before = resident();
    let mut content = 0;
    for shoe_id in 1..=SHOES {
        let Found::Nothing(Some(stamp)) = l1.find(shoe_id, 0) else {
            panic!("an empty cache has {shoe_id}");
        };
        let page = Arc::new(page(shoe_id));
        content += page.size();
        l1.keep(shoe_id, page.clone(), page.size(), stamp, 0);
    }
    let kept = (resident() - before) as f64 / f64::from(SHOES);
    assert_eq!(l1.hand_on(0).len(), SHOES as usize, "all have room");
    let path = hot_path::HotPath::new();
    let (mut response, mut unchanged) = (Vec::new(), Vec::new());
    path.answer(&mut response);
    let head = String::from_utf8_lossy(&response).into_owned();
    let (_, rest) = head.split_once("\r\nETag: ").expect("a validator");
    let (tag, _) = rest.split_once("\r\n").expect("its end");
    let conditional = String::from_utf8_lossy(hot_path::REQUEST)
        .replace("\r\n\r\n", &format!("\r\nIf-None-Match: {tag}\r\n\r\n"));
    path.answer_to(conditional.as_bytes(), &mut unchanged);
    assert!(
        unchanged.starts_with(b"HTTP/1.1 304 "),
        "the page has changed"
    );
    json!({"request": hot_path::REQUEST.len(), "response": response.len(), "unchanged": unchanged.len(),
           "page": rounded(content as f64 / f64::from(SHOES)), "kept": kept.round()})
}

/// Bytes of this process in memory (proc(5)).
fn resident() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("proc(5)");
    let line = rollup
        .lines()
        .find(|line| line.starts_with("Rss:"))
        .expect("its memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

/// To as many digits as are worth keeping.
fn rounded(value: f64) -> Value {
    let digits: f64 = format!("{value:.4e}").parse().expect("a number");
    json!(digits)
}
