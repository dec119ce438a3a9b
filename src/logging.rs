//! The log: one line an event on standard error. A terminal gets times that a person reads; under systemd each
//! line begins with its priority instead (sd-daemon(3)), since the journal keeps the time itself.

use std::io::Write;
use std::time::SystemTime;

use env_logger::Target;
use log::{Level, LevelFilter};

/// Starts logging. The level may be changed later by `log::set_max_level`.
pub fn start(level: LevelFilter) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = env_logger::Builder::new()
        // Libraries speak up when something is wrong; what goes on inside them is not ours to show.
        .filter_level(LevelFilter::Warn)
        .filter_module("canvas_cluster", LevelFilter::Trace)
        .target(Target::Stderr)
        .format(move |out, record| {
            if is_noise(record) {
                return Ok(());
            }
            if journal {
                return writeln!(out, "<{}>{}", priority(record.level()), record.args());
            }
            let now = humantime::format_rfc3339_millis(SystemTime::now());
            writeln!(
                out,
                "{now} {:<5} [{}] {}",
                record.level(),
                std::process::id(),
                record.args()
            )
        })
        .try_init();
    // A second start in the same process (a test) keeps the first one's logger.
    drop(started);
    log::set_max_level(level);
}

/// A wait that a stop and continuation of the process interrupts (signal(7) lists epoll_wait(2)) is begun again by the
/// coroutine runtime, which nevertheless calls it an error.
fn is_noise(record: &log::Record<'_>) -> bool {
    record.target().starts_with("may::io::event_loop")
        && record.args().to_string().contains("kind: Interrupted")
}

/// The priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
