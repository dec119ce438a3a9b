//! The log: one line an event on standard error. A terminal gets times that a person reads; under systemd each
//! line begins with its priority instead (sd-daemon(3)), since the journal keeps the time itself.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use env_logger::Target;
use log::{Level, LevelFilter};

/// Whether systemd's journal reads the log.
static JOURNAL: AtomicBool = AtomicBool::new(false);

/// Starts logging. The level may be changed later by `log::set_max_level`.
pub fn start(level: LevelFilter) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    JOURNAL.store(journal, Ordering::Relaxed);
    let started = env_logger::Builder::new()
        // Libraries speak up when something is wrong; what goes on inside them is not ours to show.
        .filter_level(LevelFilter::Warn)
        .filter_module("canvas_cluster", LevelFilter::Trace)
        .target(Target::Stderr)
        .format(|out, record| {
            if is_noise(record) {
                return Ok(());
            }
            writeln!(out, "{}{}", Beginning(record.level()), record.args())
        })
        .try_init();
    // A second start in the same process (a test) keeps the first one's logger.
    drop(started);
    log::set_max_level(level);
}

/// What a line of the log begins with. For a signal handler, which can't use the logger; it takes no memory.
pub struct Beginning(pub Level);

impl fmt::Display for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if JOURNAL.load(Ordering::Relaxed) {
            return write!(f, "<{}>", priority(self.0));
        }
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        write!(f, "{now} {:<5} [{}] ", self.0, std::process::id())
    }
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
