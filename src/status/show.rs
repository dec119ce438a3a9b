//! A server's status as a table for people, one line a worker.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::model::{Histogram, Outcome, Status};
use super::rates::{Between, Percentile, Shift, percentile};

/// The percentiles that are shown.
const PARTS: [f64; 3] = [0.5, 0.99, 0.999];

/// How many of the last changes are shown.
const CHANGES: usize = 5;

/// What is not known.
const NONE: &str = "-";

/// The table; `between` is what happened since a look shortly before, if there is one.
pub fn table(status: &Status, between: Option<Between<'_>>) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "canvas-cluster {}, pid {}, {}, up {}: {} of {} workers ready, generation {}",
        status.version,
        status.pid,
        status.state.name(),
        age(status.now_ms, status.started_ms),
        status.ready,
        status.wanted,
        status.generation
    );
    if let Some(between) = between {
        text += &overall(status, between);
    }
    let _ = writeln!(
        text,
        "{:>4} {:>8} {:<11} {:>3} {:>11} {:>6} {:>9} {:>8} {:>8} {:>8} {:>7} {:>6}",
        "slot", "pid", "state", "gen", "up", "CPU", "req/s", "p50", "p99", "p99.9", "conns", "hits"
    );
    match between {
        Some(between) => {
            for shift in between.workers() {
                text += &line(status, shift);
            }
        }
        None => text += "the server was replaced meanwhile; ask again\n",
    }
    for change in status.reloads.iter().take(CHANGES) {
        let at = UNIX_EPOCH + Duration::from_millis(change.at_ms);
        let why = match change.outcome {
            Outcome::Done => String::new(),
            Outcome::Failed => format!(": {}", change.why),
        };
        let _ = writeln!(
            text,
            "{} {} {}, generation {}, {}{why}",
            humantime::format_rfc3339_seconds(at),
            change.kind.name(),
            change.outcome.name(),
            change.generation,
            humantime::format_duration(Duration::from_millis(change.took_ms)),
        );
    }
    text
}

/// All workers together.
fn overall(status: &Status, between: Between<'_>) -> String {
    let [p50, p99, p999] = percentiles(status, &between.latency());
    let part = |ratio: Option<f64>| ratio.map_or_else(|| NONE.to_owned(), percent);
    format!(
        "{:.0} requests/s, p50 {p50}, p99 {p99}, p99.9 {p999}; hits {} (Redis {}); shed {:.0}/s, 5xx {:.0}/s\n",
        between.rate("requests"),
        part(between.hit_ratio("l1_hits", "l1_misses")),
        part(between.hit_ratio("redis_hits", "redis_misses")),
        between.rate("shed"),
        between.rate("answers_5xx"),
    )
}

fn line(status: &Status, shift: Shift<'_>) -> String {
    let worker = shift.worker;
    let [p50, p99, p999] = match shift.latency() {
        Some(latency) => percentiles(status, &latency),
        None => PARTS.map(|_| NONE.to_owned()),
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let (pid, up) = match worker.pid {
        0 => (NONE.to_owned(), NONE.to_owned()),
        pid => (pid.to_string(), age(status.now_ms, worker.started_ms)),
    };
    format!(
        "{:>4} {pid:>8} {:<11} {:>3} {up:>11} {:>6} {:>9} {p50:>8} {p99:>8} {p999:>8} {:>7} {:>6}\n",
        worker.slot,
        worker.state.name(),
        worker.generation,
        or_none(shift.cpu().map(percent)),
        or_none(shift.rate("requests").map(|rate| format!("{rate:.0}"))),
        worker.connections,
        or_none(shift.hit_ratio("l1_hits", "l1_misses").map(percent)),
    )
}

fn percentiles(status: &Status, histogram: &Histogram) -> [String; 3] {
    PARTS.map(|part| {
        let found = percentile(histogram, &status.buckets_us, part);
        found.map_or_else(|| NONE.to_owned(), duration)
    })
}

/// `85 us`, `1.2 ms`, `>2 s`
pub fn duration(percentile: Percentile) -> String {
    let mark = if percentile.above { ">" } else { "" };
    let micros = percentile.micros;
    let shown = match micros {
        _ if micros < 1000.0 => format!("{micros:.0} us"),
        _ if micros < 1_000_000.0 => format!("{} ms", short(micros / 1000.0)),
        _ => format!("{} s", short(micros / 1_000_000.0)),
    };
    format!("{mark}{shown}")
}

/// One digit behind the point where there is one before it.
fn short(number: f64) -> String {
    match number < 10.0 {
        true => format!("{number:.1}"),
        false => format!("{number:.0}"),
    }
}

/// `99.7%`
pub fn percent(part: f64) -> String {
    let percent = part * 100.0;
    match percent < 10.0 || (99.0..100.0).contains(&percent) {
        true => format!("{percent:.1}%"),
        false => format!("{percent:.0}%"),
    }
}

/// `2h 3m 4s`, of its two largest units.
pub fn age(now_ms: u64, since_ms: u64) -> String {
    let age = Duration::from_secs(now_ms.saturating_sub(since_ms) / 1000);
    let shown = humantime::format_duration(age).to_string();
    let units: Vec<&str> = shown.split(' ').take(2).collect();
    units.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_at_a_glance() {
        let show = |micros, above| duration(Percentile { micros, above });
        assert_eq!(show(85.4, false), "85 us");
        assert_eq!(show(1234.0, false), "1.2 ms");
        assert_eq!(show(12_345.0, false), "12 ms");
        assert_eq!(show(2_000_000.0, true), ">2.0 s");
    }

    #[test]
    fn parts_and_ages_are_short() {
        let shown = [0.0, 0.05, 0.5, 0.9973, 1.0, 2.5].map(percent);
        assert_eq!(shown, ["0.0%", "5.0%", "50%", "99.7%", "100%", "250%"]);
        assert_eq!(age(90_061_000, 1000), "1day 1h");
        assert_eq!(age(1000, 5000), "0s");
    }
}
