//! A seed's progress for a person: a bar with rate and time left on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

use super::{Mode, Phase, Progress, SeedError, Summary, run};
use crate::store::url::DatabaseUrl;

/// The pause between two plain lines.
const LINE_PAUSE: Duration = Duration::from_secs(2);

/// [`run`], with its progress on standard error.
///
/// # Errors
/// Those of [`run`].
pub fn run_with_progress(
    url: &DatabaseUrl,
    rows: u32,
    mode: Mode,
    streams: u32,
) -> Result<Summary, SeedError> {
    match stderr().is_terminal() {
        true => run_with_bar(url, rows, mode, streams),
        false => run_with_lines(url, rows, mode, streams),
    }
}

fn run_with_bar(
    url: &DatabaseUrl,
    rows: u32,
    mode: Mode,
    streams: u32,
) -> Result<Summary, SeedError> {
    let bar = ProgressBar::new(rows.into());
    let style = "{msg} [{wide_bar}] {human_pos}/{human_len} rows, {rate} rows/s, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        // indicatif's own {per_sec} shows four decimals of a row.
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
        };
        bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
    }
    let result = run(url, rows, mode, streams, |progress| {
        bar.set_message(title(progress.phase));
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    result
}

fn run_with_lines(
    url: &DatabaseUrl,
    rows: u32,
    mode: Mode,
    streams: u32,
) -> Result<Summary, SeedError> {
    let begun: Cell<Option<Instant>> = Cell::new(None);
    let last: Cell<Option<(Phase, Instant)>> = Cell::new(None);
    run(url, rows, mode, streams, |progress| {
        let now = Instant::now();
        if progress.phase == Phase::Loading && begun.get().is_none() {
            begun.set(Some(now));
        }
        let due = last.get().is_none_or(|(phase, moment)| {
            phase != progress.phase || now.saturating_duration_since(moment) >= LINE_PAUSE
        });
        if due {
            last.set(Some((progress.phase, now)));
            let elapsed = begun
                .get()
                .map(|begun| now.saturating_duration_since(begun));
            // Whoever closed our standard error does not want to know.
            let _ = writeln!(stderr(), "{}", line(progress, elapsed.unwrap_or_default()));
        }
    })
}

fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::Cleaning => "removing rows",
        Phase::Loading => "loading",
        Phase::Indexing => "building the index",
    }
}

/// One plain line; `elapsed` since the first row.
fn line(progress: Progress, elapsed: Duration) -> String {
    let title = title(progress.phase);
    let (done, rows) = (HumanCount(progress.done), HumanCount(progress.rows));
    match progress.phase {
        Phase::Loading if progress.done > 0 && !elapsed.is_zero() => {
            let rate = progress.done as f64 / elapsed.as_secs_f64();
            let left = progress.rows.saturating_sub(progress.done) as f64 / rate;
            format!(
                "{title}: {done} of {rows} rows, {} rows/s, {left:.0} s left",
                HumanCount(rate as u64)
            )
        }
        Phase::Loading => format!("{title}: {done} of {rows} rows"),
        Phase::Cleaning | Phase::Indexing => title.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let progress = Progress {
            phase: Phase::Loading,
            done: 250_000,
            rows: 1_000_000,
        };
        assert_eq!(
            line(progress, Duration::from_secs(5)),
            "loading: 250,000 of 1,000,000 rows, 50,000 rows/s, 15 s left"
        );
        assert_eq!(
            line(
                Progress {
                    done: 0,
                    ..progress
                },
                Duration::ZERO
            ),
            "loading: 0 of 1,000,000 rows"
        );
    }
}
