//! How long the steps of a hot GET take, one by one: `cargo bench --bench micro [-- FILTER]`. Criterion compares each run with the
//! one before it. The whole path is timed as well, to tell whether a step matters.

#[path = "support/hot_path.rs"]
mod hot_path;

use std::hint::black_box;
use std::sync::Arc;

use canvas_cluster::app::images::render_rows;
use canvas_cluster::app::manners::{Manners, Page};
use canvas_cluster::cache::l1::Found;
use canvas_cluster::http::head::{self, Scanner};
use canvas_cluster::http::limits::Limits;
use canvas_cluster::scoreboard::generations::Entry;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use hot_path::{HotPath, REQUEST, cache, row};

/// Shoes among which the cache is asked, so that the processor does not learn one by heart.
const SHOES: i32 = 1000;

/// Finding the end of a head, and reading it.
fn decoder(criterion: &mut Criterion) {
    let limits = Limits::default();
    let mut group = criterion.benchmark_group("decoder");
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("scan", |bencher| {
        bencher.iter(|| Scanner::new().scan(black_box(REQUEST), &limits));
    });
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            let head = head::parse(black_box(REQUEST), &limits).expect("a good head");
            black_box(head.keep_alive)
        });
    });
    group.finish();
}

/// A page that the worker has.
fn cache_hit(criterion: &mut Criterion) {
    let (l1, _board) = cache();
    let manners = Manners::new(std::time::Duration::ZERO, Vec::new());
    for shoe in 1..=SHOES {
        let Found::Nothing(Some(stamp)) = l1.find(shoe, 0) else {
            panic!("an empty cache has {shoe}");
        };
        let page: Arc<Page> =
            Arc::new(manners.page("application/json", render_rows(&[row(shoe)]).into()));
        l1.keep(shoe, page.clone(), page.size(), stamp, 0);
    }
    let mut shoe = 0;
    criterion.bench_function("cache/hit", |bencher| {
        bencher.iter(|| {
            shoe = shoe % SHOES + 1;
            let found = l1.find(black_box(shoe), 0);
            assert!(matches!(found, Found::Answer(_)));
        });
    });
}

/// A shoe's rows as JSON.
fn json(criterion: &mut Criterion) {
    let rows = [row(7)];
    let mut group = criterion.benchmark_group("json");
    group.throughput(Throughput::Bytes(render_rows(&rows).len() as u64));
    group.bench_function("render", |bencher| {
        bencher.iter(|| render_rows(black_box(&rows)));
    });
    group.finish();
}

/// Whether a kept answer still counts: two loads from memory that all workers share.
fn generation_check(criterion: &mut Criterion) {
    let (_, board) = cache();
    let generations = board.generations();
    let mut shoe = 0;
    criterion.bench_function("generations/check", |bencher| {
        bencher.iter(|| {
            shoe = shoe % SHOES + 1;
            generations.are_everybodys() && generations.load(Entry::of_shoe(black_box(shoe))) == 0
        });
    });
}

/// All of a hot GET but its socket.
fn whole(criterion: &mut Criterion) {
    let path = HotPath::new();
    let mut out = Vec::new();
    criterion.bench_function("hot-get", |bencher| {
        bencher.iter(|| {
            out.clear();
            path.answer(black_box(&mut out));
        });
    });
}

criterion_group!(benches, decoder, cache_hit, json, generation_check, whole);
criterion_main!(benches);
