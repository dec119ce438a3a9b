//! ARCHITECTURE's reckoning of many hosts stands on a simulation of caches: its results are those of the code that is here, and
//! what it reckons of Redis is what happens when a small cluster is played through.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use canvas_cluster::cache::l1::{Found, L1};
use canvas_cluster::cache::trust::Trust;
use canvas_cluster::scoreboard::Scoreboard;
use canvas_cluster::scoreboard::generations::Entry;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde_json::Value;

use simulation::{Cell, Sizes};

#[path = "../benches/support/simulation.rs"]
mod simulation;

fn results() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/simulation.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("a JSON")
}

#[test]
fn the_simulation_says_what_its_results_say() {
    let results = results();
    // The one that takes the fewest requests: a debug build is slow.
    let kept = results["by_size"]
        .as_array()
        .expect("cells")
        .iter()
        .find(|kept| kept["skew"] == 1.0 && kept["l1_bytes"] == 8 << 20)
        .expect("a small cache");
    let cell: Cell = serde_json::from_value(kept.clone()).expect("a cell");
    let hits = cell.l1_hits(&Sizes::new());
    let stored = kept["l1_hits"].as_f64().expect("a share");
    // Other processors may round the odd power in another way.
    assert!(
        (hits - stored).abs() < 0.001,
        "{cell:?} has {hits} hits now, and {stored} in benches/simulation.json: the cache has changed; `benches/run simulate` \
         makes it again, and `benches/run report` what ARCHITECTURE says"
    );
}

#[test]
fn redis_answers_of_a_small_cluster_what_is_reckoned() {
    // Small enough that its Redis forgets and fills within what can be played.
    const TTL: f64 = 40.0;
    const TOMBSTONE: f64 = 5.0;
    let cell = Cell {
        catalog: 5_000,
        skew: 0.9,
        l1_bytes: 1 << 20,
        l1_ttl_ms: 2_000,
        rate: 300.0,
        writes: 30.0,
        workers: 4,
    };
    let played = Cluster::new(&cell).play(&cell, 150.0, 450.0, TTL, TOMBSTONE);
    let reckoned = cell.redis_hits(played.l1_hits, TTL, TOMBSTONE);
    assert!(
        (played.redis_hits - reckoned).abs() < 0.02,
        "Redis answered {} of the misses, and {reckoned} were reckoned",
        played.redis_hits
    );
    // It would be no proof if either did next to nothing.
    assert!(played.l1_hits > 0.2 && played.redis_hits > 0.2 && played.redis_hits < 0.9);
    // What one worker alone is simulated to answer each of several does.
    let alone = cell.l1_hits(&Sizes::new());
    assert!(
        (alone - played.l1_hits).abs() < 0.02,
        "{alone} and {}",
        played.l1_hits
    );
}

/// The workers' caches, on one host since a message is heard at once here.
struct Cluster {
    board: Scoreboard,
    workers: Vec<L1<()>>,
}

struct Played {
    l1_hits: f64,
    /// Of what the workers missed.
    redis_hits: f64,
}

/// What Redis holds of a shoe, and until when, in seconds.
enum Held {
    Answer(f64),
    Tombstone(f64),
}

impl Cluster {
    fn new(cell: &Cell) -> Self {
        let board = Scoreboard::new().expect("shared memory");
        let ttl = Duration::from_millis(cell.l1_ttl_ms);
        let worker = || {
            L1::new(
                cell.l1_bytes,
                ttl,
                board.generations(),
                Arc::new(Trust::always()),
            )
        };
        let workers = (0..cell.workers).map(|_| worker()).collect();
        Cluster { board, workers }
    }

    /// Requests to all workers for so many seconds, of which the first ones don't count.
    fn play(&self, cell: &Cell, before: f64, seconds: f64, ttl: f64, tombstone: f64) -> Played {
        let popularity =
            Zipf::new(f64::from(cell.catalog), cell.skew).expect("a catalog and a skew");
        let mut chance = Xoshiro256PlusPlus::seed_from_u64(7);
        let sizes = Sizes::new();
        let mut redis: HashMap<i32, Held> = HashMap::new();
        let rate = cell.rate * self.workers.len() as f64;
        let (mut asked, mut missed, mut found, mut written) = (0.0, 0.0, 0.0, 0.0);
        for number in 0..(seconds * rate) as u64 {
            let at = number as f64 / rate;
            while written <= at * cell.writes {
                written += 1.0;
                let shoe_id = chance.random_range(1..=cell.catalog as i32);
                redis.insert(shoe_id, Held::Tombstone(at + tombstone));
                self.board.generations().bump(Entry::of_shoe(shoe_id));
            }
            let shoe_id = popularity.sample(&mut chance) as i32;
            let worker = &self.workers[chance.random_range(0..self.workers.len())];
            let (now, counts) = ((at * 1000.0) as u64, f64::from(u8::from(at >= before)));
            asked += counts;
            let Found::Nothing(stamp) = worker.find(shoe_id, now) else {
                continue;
            };
            missed += counts;
            match redis.get(&shoe_id) {
                Some(Held::Answer(until)) if at < *until => found += counts,
                Some(Held::Tombstone(until)) if at < *until => {}
                _ => {
                    redis.insert(shoe_id, Held::Answer(at + ttl));
                }
            }
            worker.keep(
                shoe_id,
                (),
                sizes.of(shoe_id),
                stamp.expect("one table"),
                now,
            );
        }
        Played {
            l1_hits: 1.0 - missed / asked,
            redis_hits: found / missed,
        }
    }
}
