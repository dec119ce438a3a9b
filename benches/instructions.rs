//! Answers a number of hot GETs, for callgrind to count their instructions: `tests/run instructions` runs it with two numbers, and
//! the difference is what requests cost, without what starting costs. Touches no socket, clock or thread, so that a repetition
//! counts the same.

#[path = "support/hot_path.rs"]
mod hot_path;

use std::hint::black_box;

fn main() {
    // `cargo bench` adds `--bench`, and gives no number.
    let count: u32 = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(1000);
    let path = hot_path::HotPath::new();
    let mut out = Vec::new();
    // The first one fills the cache, and finds its page with the others.
    path.answer(&mut out);
    assert!(out.starts_with(b"HTTP/1.1 200 "), "not a page");
    let first = out.clone();
    for _ in 0..count {
        out.clear();
        path.answer(black_box(&mut out));
    }
    assert!(out == first, "a cached page differs from the first");
    println!("{count} answers of {} bytes", out.len());
}
