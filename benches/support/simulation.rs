//! One worker's cache under requests whose popularity follows Zipf's law: the real [`L1`] over a real table of generations, by a
//! clock that only counts. The same seed makes the same requests, so a cell can be computed again anywhere. What Redis has of
//! the misses is reckoned, since an hour of a large cluster can't be played through (`redis_hits`; a test plays a small one).
//! Called by benches/simulation.rs and by tests/scale.rs.

use std::sync::Arc;
use std::time::Duration;

use canvas_cluster::app::images::render_rows;
use canvas_cluster::app::manners::{Manners, Page};
use canvas_cluster::cache::l1::{Found, L1};
use canvas_cluster::cache::trust::Trust;
use canvas_cluster::scoreboard::Scoreboard;
use canvas_cluster::scoreboard::generations::Entry;
use canvas_cluster::seed::generate;
use canvas_cluster::store::ShoeImages;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

/// The fewest requests that are counted, and the most that come before them or are counted.
const LEAST: u64 = 1_000_000;
const MOST: u64 = 9_000_000;

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Shoes that are asked for, the most popular one first.
    pub catalog: u32,
    /// Zipf's exponent: the shoe of rank k is asked for k^-skew times as often as the first.
    pub skew: f64,
    pub l1_bytes: usize,
    pub l1_ttl_ms: u64,
    /// Requests a second of one worker.
    pub rate: f64,
    /// Writes a second that the host makes or hears of, spread evenly over the catalog.
    pub writes: f64,
    /// Workers of all hosts that share the Redis.
    pub workers: u32,
}

/// The sizes of pages, by what they depend on: the digits of the shoe's number, and which videos it lacks.
pub struct Sizes([[usize; 3]; 11]);

impl Sizes {
    /// Makes a page of each kind.
    pub fn new() -> Self {
        let mut sizes = [[0; 3]; 11];
        for (digits, row) in sizes.iter_mut().enumerate().skip(1) {
            // The first numbers of so many digits that lack nothing, one video, and both.
            let first = if digits == 1 {
                1
            } else {
                10_i64.pow(digits as u32 - 1)
            };
            for (lacks, size) in row.iter_mut().enumerate() {
                let found = (first..)
                    .find(|id| lacking(*id) == lacks)
                    .expect("every 64th lacks both");
                // Single digits are never a multiple of 16.
                *size = i32::try_from(found).map_or(0, |id| page(id).size());
            }
        }
        Sizes(sizes)
    }

    pub fn of(&self, shoe_id: i32) -> usize {
        self.0[shoe_id.ilog10() as usize + 1][lacking(shoe_id.into())]
    }
}

fn lacking(shoe_id: i64) -> usize {
    usize::from(shoe_id % 16 == 0) + usize::from(shoe_id % 64 == 0)
}

/// A generated shoe's page, as a worker keeps it.
pub fn page(shoe_id: i32) -> Page {
    let row = ShoeImages {
        id: shoe_id.into(),
        shoe_id: Some(shoe_id),
        media: generate(shoe_id).media,
    };
    Manners::new(Duration::ZERO, Vec::new()).page("application/json", render_rows(&[row]).into())
}

impl Cell {
    /// The share of requests that the worker's own cache answers, once it has been asked for long enough.
    pub fn l1_hits(&self, sizes: &Sizes) -> f64 {
        let board = Scoreboard::new().expect("shared memory");
        let generations = board.generations();
        let ttl = Duration::from_millis(self.l1_ttl_ms);
        let l1: L1<()> = L1::new(self.l1_bytes, ttl, generations, Arc::new(Trust::always()));
        let popularity =
            Zipf::new(f64::from(self.catalog), self.skew).expect("a catalog and a skew");
        let mut chance = Xoshiro256PlusPlus::seed_from_u64(1);
        let (before, counted) = self.requests();
        let (mut hits, mut written) = (0_u64, 0_u64);
        for number in 0..before + counted {
            let at = number as f64 / self.rate;
            while written as f64 <= at * self.writes {
                written += 1;
                generations.bump(Entry::of_shoe(chance.random_range(1..=self.catalog as i32)));
            }
            let shoe_id = popularity.sample(&mut chance) as i32;
            let now = (at * 1000.0) as u64;
            match l1.find(shoe_id, now) {
                Found::Answer(()) => hits += u64::from(number >= before),
                Found::Nothing(stamp) => {
                    l1.keep(
                        shoe_id,
                        (),
                        sizes.of(shoe_id),
                        stamp.expect("one table"),
                        now,
                    );
                }
            }
        }
        hits as f64 / counted as f64
    }

    /// How many requests it takes until the cache is full and has forgotten how it began; and how many are counted then.
    fn requests(&self) -> (u64, u64) {
        let a_life = self.rate * self.l1_ttl_ms as f64 / 1000.0;
        let shoes = self.l1_bytes as f64 / 1000.0;
        let before = (3.0 * a_life).max(4.0 * shoes) as u64;
        (before.min(MOST), ((2.0 * a_life) as u64).clamp(LEAST, MOST))
    }

    /// The share of requests for each shoe, in steps of shoes that are about equally popular: the share of one, and how many.
    pub fn popularity(&self) -> Vec<(f64, f64)> {
        let (mut steps, mut rank) = (Vec::new(), 1_u64);
        let last = u64::from(self.catalog);
        while rank <= last {
            let shoes = (rank / 200).max(1).min(last - rank + 1);
            let middle = rank as f64 + (shoes - 1) as f64 / 2.0;
            steps.push((middle.powf(-self.skew), shoes as f64));
            rank += shoes;
        }
        let all: f64 = steps.iter().map(|(weight, shoes)| weight * shoes).sum();
        steps
            .into_iter()
            .map(|(weight, shoes)| (weight / all, shoes))
            .collect()
    }

    /// The share of the workers' misses that a Redis with room for the whole catalog answers, if their own caches answer
    /// `l1_hits` of the requests. Each shoe by itself: it is there until its time is over or a write ends it; after a write nobody
    /// may fill it until the tombstone has gone; and else the next miss fills it. `ttl` and `tombstone` are seconds.
    pub fn redis_hits(&self, l1_hits: f64, ttl: f64, tombstone: f64) -> f64 {
        let life = self.life_in_l1(l1_hits);
        let writes = (self.writes / f64::from(self.catalog)).max(1e-12);
        // Expected seconds in Redis, and behind tombstones that follow each other.
        let there = -(-writes * ttl).exp_m1() / writes;
        let kept_out = (writes * tombstone).exp_m1() / writes;
        let ended_by_a_write = -(-writes * ttl).exp_m1();
        let (mut misses, mut found) = (0.0, 0.0);
        for (share, shoes) in self.popularity() {
            let asked = self.rate * share;
            let missed = f64::from(self.workers) * asked / (1.0 + asked * life);
            // Of the times that it is gone, a miss ends so many and another write the others.
            let is_filled = missed / (missed + writes);
            let gone = 1.0 / is_filled;
            let written = ended_by_a_write + gone * (1.0 - is_filled);
            let cycle = there + gone / (missed + writes) + written * kept_out;
            misses += shoes * missed;
            found += shoes * missed * there / cycle;
        }
        found / misses
    }

    /// For how many seconds a shoe that was missed answers the worker, such that it answers as many requests in all as it did:
    /// an answer's time, less what writes and other shoes take of it.
    fn life_in_l1(&self, l1_hits: f64) -> f64 {
        let popularity = self.popularity();
        let hits = |life: f64| -> f64 {
            let one = |&(share, shoes): &(f64, f64)| {
                let asked = self.rate * share;
                shoes * share * asked * life / (1.0 + asked * life)
            };
            popularity.iter().map(one).sum()
        };
        let (mut least, mut most) = (0.0, self.l1_ttl_ms as f64 / 1000.0 * 2.0);
        for _ in 0..60 {
            let middle = (least + most) / 2.0;
            match hits(middle) < l1_hits {
                true => least = middle,
                false => most = middle,
            }
        }
        (least + most) / 2.0
    }
}
