//! The master's answers for people.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::message::{Answer, Change, Phase, Result, State, Status, Upgraded, What, Worker};
use crate::config::ctl::CtlCommand;

/// The answer in words, with a line break at its end.
pub fn answer(command: CtlCommand, answer: &Answer) -> String {
    match (answer, command) {
        (Answer::Status(status), _) => show_status(status),
        (Answer::Accepted, CtlCommand::Stop { .. }) => "the server stops\n".to_owned(),
        (Answer::Accepted, _) => {
            "the server does it; its log and `canvas-cluster ctl status` tell what came of it\n"
                .to_owned()
        }
        (Answer::Done { .. }, CtlCommand::Stop { .. }) => "the server has stopped\n".to_owned(),
        (
            Answer::Done {
                generation,
                workers,
                ..
            },
            CtlCommand::Scale { .. },
        ) => {
            format!("{workers} workers serve, generation {generation}\n")
        }
        (
            Answer::Done {
                generation,
                workers,
                upgrade,
            },
            _,
        ) => {
            let how = match upgrade {
                Some(Upgraded { from, to }) => format!("upgraded from {from} to {to}"),
                None => "reloaded".to_owned(),
            };
            format!("{how}: generation {generation}, {workers} workers\n")
        }
        (Answer::Refused { why }, _) => format!("refused, nothing has changed: {why}\n"),
        (Answer::Failed { why }, _) => format!("failed: {why}\n"),
    }
}

fn show_status(status: &Status) -> String {
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Reloading => "replacing workers",
        Phase::Stopping => "stopping",
    };
    let mut text = format!(
        "canvas-cluster {}, pid {}, {phase}, up {}: {} of {} workers ready, generation {}\n",
        status.version,
        status.pid,
        duration(status.uptime_seconds),
        status.ready,
        status.wanted,
        status.generation
    );
    if !status.addresses.is_empty() {
        text += &format!("listens on {}\n", status.addresses.join(" "));
    }
    for slot in &status.degraded {
        text += &format!(
            "slot {slot} is degraded: its workers don't get ready, and the log says why\n"
        );
    }
    text += &table(&status.workers);
    let totals: Vec<String> = status
        .totals
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if !totals.is_empty() {
        text += &format!("counted since the start: {}\n", totals.join(", "));
    }
    for change in &status.changes {
        text += &show_change(change);
    }
    text
}

fn table(workers: &[Worker]) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "{:>4} {:>8} {:<9} {:>10} {:>12} {:>12} {:>11}  last beat",
        "slot", "pid", "state", "generation", "age", "requests", "connections"
    );
    for worker in workers {
        let state = match worker.state {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Retiring => "retiring",
            State::Hung => "hung",
            State::Killed => "killed",
        };
        let beat = match worker.silent_ms {
            None => "none yet".to_owned(),
            Some(ms) => format!("{:.1} s ago", ms as f64 / 1000.0),
        };
        let _ = writeln!(
            text,
            "{:>4} {:>8} {state:<9} {:>10} {:>12} {:>12} {:>11}  {beat}",
            worker.slot,
            worker.pid,
            worker.generation,
            duration(worker.age_seconds),
            worker.requests,
            worker.connections
        );
    }
    text
}

fn show_change(change: &Change) -> String {
    let what = match change.what {
        What::Reload => "reload",
        What::Upgrade => "upgrade",
        What::Scale => "scale",
    };
    let result = match change.result {
        Result::Done => "done",
        Result::Refused => "refused",
        Result::Failed => "failed",
    };
    let at: SystemTime = UNIX_EPOCH + Duration::from_secs(change.at);
    let why = change
        .why
        .as_ref()
        .map_or_else(String::new, |why| format!(": {why}"));
    format!(
        "{} {what} {result}, generation {}, {} workers{why}\n",
        humantime::format_rfc3339_seconds(at),
        change.generation,
        change.workers
    )
}

/// `2h 3m 4s`
fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
