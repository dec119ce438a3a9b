//! `src/scoreboard/mod.rs` for the fuzz targets: the names that refusals have there.

#[path = "../../src/scoreboard/counters.rs"]
pub mod counters;
