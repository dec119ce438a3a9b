//! `src/scoreboard` over loom's atomics, with nothing ordered.

#![allow(dead_code)]

mod atomic {
    pub use loom::sync::atomic::AtomicU64;

    /// The names that the code uses.
    #[allow(non_snake_case)]
    pub mod Ordering {
        #[allow(non_upper_case_globals)]
        pub const SeqCst: loom::sync::atomic::Ordering = Relaxed;
        pub use loom::sync::atomic::Ordering::Relaxed;
    }
}
#[path = "../../../src/scoreboard/counters.rs"]
mod counters;
#[path = "../../../src/scoreboard/generations.rs"]
mod generations;
#[path = "../../../src/scoreboard/histogram.rs"]
mod histogram;
#[path = "../../../src/scoreboard/row.rs"]
mod rows;

use self::atomic::AtomicU64;
pub use self::generations::{Entry, Generations};
pub use self::rows::Row;

/// A table of one entry, and a row over it. loom's atomics live for one path, and their memory for the test's process.
pub fn row() -> (Generations, Row) {
    let words = |count| -> &'static [AtomicU64] {
        Box::leak((0..count).map(|_| AtomicU64::new(0)).collect())
    };
    let generations = Generations {
        entries: words(1),
        divided: &words(1)[0],
    };
    let row = Row {
        index: 0,
        words: words(rows::WORDS),
        generations,
    };
    (generations, row)
}
