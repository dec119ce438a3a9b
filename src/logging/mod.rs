//! The log: one line an event on standard error, as text for people, as logfmt or as JSON for programs. Under systemd each line
//! begins with its priority (sd-daemon(3)), whatever its format; text leaves out what the journal keeps itself.
//!
//! Whatever a message or a field holds, it stays on its line and in its place (`format`), and what repeats itself is held back and
//! summed up (`repeats`). Every process of the server has its own log in this sense; they share standard error.

mod format;
mod repeats;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use env_logger::Target;
use log::kv::Source;
use log::{Level, LevelFilter, Record};
use nix::sys::stat::fstat;

use self::format::Form;
use self::repeats::{ALIKE, EQUAL, Repeats, Said, Summary};
use crate::config::LogFormat;

/// The longest line in bytes, line feed included. PIPE_BUF of Linux: one write of so much to a pipe stays in one piece
/// (pipe(7)), so that the lines of several processes can't mix.
pub const LONGEST: usize = format::LONGEST;

/// Whether systemd's journal reads the log.
static JOURNAL: AtomicBool = AtomicBool::new(false);

/// The [`Form`] of lines, as a number: a signal handler reads it.
static FORM: AtomicU8 = AtomicU8::new(Form::Text as u8);

static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// Makes what decides whether two messages are the same: keyed, since clients have a say in what messages hold.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn repeats() -> MutexGuard<'static, Repeats> {
    REPEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts logging. Level and format may be changed later by [`adopt`].
pub fn start(level: LevelFilter, format: LogFormat) {
    JOURNAL.store(is_the_journal(), Ordering::Relaxed);
    let started = env_logger::Builder::new()
        // Libraries speak up when something is wrong; what goes on inside them is not ours to show.
        .filter_level(LevelFilter::Warn)
        .filter_module("canvas_cluster", LevelFilter::Trace)
        .target(Target::Stderr)
        .format(|out, record| write_record(out, record, Instant::now()))
        .try_init();
    // A second start in the same process (a test) keeps the first one's logger.
    drop(started);
    adopt(level, format);
}

/// Puts a configuration's level and format into force.
pub fn adopt(level: LevelFilter, format: LogFormat) {
    let for_people = || io::stderr().is_terminal() || JOURNAL.load(Ordering::Relaxed);
    let form = match format {
        LogFormat::Text => Form::Text,
        LogFormat::Logfmt => Form::Logfmt,
        LogFormat::Json => Form::Json,
        LogFormat::Auto if for_people() => Form::Text,
        LogFormat::Auto => Form::Logfmt,
    };
    FORM.store(form as u8, Ordering::Relaxed);
    log::set_max_level(level);
}

/// Tells of what was held back and is due by now. Each process calls it now and then, so that a flood that has ended is
/// summed up although nobody says anything more.
pub fn settle() {
    let due = repeats().due(Instant::now());
    tell(&due);
}

/// Tells of everything that was held back: the process is about to end.
pub fn finish() {
    let held = repeats().drain();
    tell(&held);
}

/// Says why the program ends, when there is nothing left to do: to a person who has called it, or to the log that a program
/// reads.
pub fn give_up(why: &str) {
    finish();
    match FORM.load(Ordering::Relaxed) == Form::Text as u8 {
        true => drop(writeln!(io::stderr(), "canvas-cluster: {why}")),
        false => log::error!(target: "canvas_cluster", "{why}"),
    }
}

fn tell(summaries: &[Summary]) {
    if summaries.is_empty() {
        return;
    }
    let mut text = String::new();
    for summary in summaries {
        text += &format!("{}\n", summary_line(summary));
    }
    // Nobody is left to be told that nobody reads it.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// One line of the log as it stands there, without its end; at most [`LONGEST`] bytes with it. It takes no memory, so that
/// a signal handler can write one, which can't use the logger.
pub struct Line<'a> {
    pub level: Level,
    /// The room that speaks.
    pub room: &'a str,
    pub message: fmt::Arguments<'a>,
    /// What programs may want to know apart.
    pub fields: Option<&'a dyn Source>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let journal = JOURNAL.load(Ordering::Relaxed);
        format::write_line(f, self, Form::from(FORM.load(Ordering::Relaxed)), journal)
    }
}

fn write_record(out: &mut impl Write, record: &Record<'_>, now: Instant) -> io::Result<()> {
    if is_noise(record) {
        return Ok(());
    }
    let (key, limit) = sameness(record);
    let said = Said {
        key,
        limit,
        level: record.level(),
        room: room_of(record.target()),
    };
    let mut ended = Vec::new();
    let admitted = repeats().admit(now, &said, || record.args().to_string(), &mut ended);
    for summary in &ended {
        writeln!(out, "{}", summary_line(summary))?;
    }
    match admitted {
        false => Ok(()),
        true => writeln!(
            out,
            "{}",
            Line {
                level: record.level(),
                room: room_of(record.target()),
                message: *record.args(),
                fields: Some(record.key_values()),
            }
        ),
    }
}

fn summary_line(summary: &Summary) -> String {
    let fields = [("repeats", summary.held)];
    let fields: &[(&str, u64)] = &fields;
    Line {
        level: summary.level,
        room: &summary.room,
        message: format_args!("{summary}"),
        fields: Some(&fields),
    }
    .to_string()
}

/// What makes two records the same, and how many of them are told in a while.
///
/// Errors, and what is said of the normal course of things, must be equal to the letter: none that differs is ever held back. Of
/// warnings and finer messages those count as the same that differ in numbers and names only; those of requests, which carry
/// what a client sent, if they come from one place in the program.
fn sameness(record: &Record<'_>) -> (u64, u32) {
    let level = record.level() as u8;
    match record.level() {
        Level::Error | Level::Info => {
            let text = record.args().to_string();
            (HASHES.hash_one((level, record.target(), text)), EQUAL)
        }
        Level::Warn | Level::Debug | Level::Trace if record.key_values().count() > 0 => {
            let place = (record.file(), record.line());
            (HASHES.hash_one((level, record.target(), place)), ALIKE)
        }
        Level::Warn | Level::Debug | Level::Trace => {
            let shape = repeats::shape_of(&record.args().to_string());
            (HASHES.hash_one((level, record.target(), shape)), ALIKE)
        }
    }
}

/// The room of a log target: what follows the crate in a path of ours, `main` for the crate itself, else the other crate.
fn room_of(target: &str) -> &str {
    let mut parts = target.split("::");
    match (parts.next(), parts.next()) {
        (Some("canvas_cluster"), Some(room)) => room,
        (Some("canvas_cluster"), None) => "main",
        (Some(other), _) => other,
        (None, _) => "",
    }
}

/// Whether standard error is the socket that systemd.exec(5) has named, as it says to look: the variable alone is inherited by
/// programs whose output goes elsewhere.
fn is_the_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr().as_fd())
        .is_ok_and(|status| named == format!("{}:{}", status.st_dev, status.st_ino))
}

/// A wait that a stop and continuation of the process interrupts (signal(7) lists epoll_wait(2)) is begun again by the
/// coroutine runtime, which nevertheless calls it an error.
fn is_noise(record: &Record<'_>) -> bool {
    record.target().starts_with("may::io::event_loop")
        && record.args().to_string().contains("kind: Interrupted")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log::kv::Key;

    use super::*;

    fn record<'a>(level: Level, message: fmt::Arguments<'a>, fields: &'a dyn Source) -> Record<'a> {
        Record::builder()
            .level(level)
            .target("canvas_cluster::store::pool")
            .file(Some("src/store/pool.rs"))
            .line(Some(7))
            .args(message)
            .key_values(fields)
            .build()
    }

    fn sameness_of(level: Level, text: &str, request: Option<&str>) -> (u64, u32) {
        let fields: Vec<(Key<'_>, &str)> = request
            .map(|id| (Key::from("request_id"), id))
            .into_iter()
            .collect();
        let fields = &fields[..];
        sameness(&record(level, format_args!("{text}"), &fields))
    }

    #[test]
    fn an_error_is_itself_and_a_warning_its_kind() {
        let error = |text| sameness_of(Level::Error, text, None);
        assert_eq!(error("worker 1: no memory"), error("worker 1: no memory"));
        assert_ne!(error("worker 1: no memory"), error("worker 2: no memory"));
        let warning = |text| sameness_of(Level::Warn, text, None);
        assert_eq!(warning("5 lines are lost"), warning("71 lines are lost"));
        assert_ne!(warning("5 lines are lost"), warning("5 lines are late"));
        assert_ne!(error("5 lines are lost").0, warning("5 lines are lost").0);
        // Whatever ids clients choose, and however the database words it.
        let of_request = |text, id| sameness_of(Level::Warn, text, Some(id));
        assert_eq!(
            of_request("request a: no", "a"),
            of_request("request b: not so", "b")
        );
    }

    #[test]
    fn a_room_is_named_by_its_path() {
        for (target, room) in [
            ("canvas_cluster::worker::lanes", "worker"),
            ("canvas_cluster::store", "store"),
            ("canvas_cluster", "main"),
            ("may::io::event_loop", "may"),
            ("", ""),
        ] {
            assert_eq!(room_of(target), room, "{target}");
        }
    }

    /// Through the whole of it, with a clock of the test's.
    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut out = Vec::new();
        let begun = Instant::now();
        let none: &[(&str, u64)] = &[];
        for number in 0..EQUAL + 5 {
            let now = begun + Duration::from_millis(u64::from(number));
            write_record(
                &mut out,
                &record(Level::Error, format_args!("of a test: a flood"), &none),
                now,
            )
            .expect("memory");
        }
        let lines = |out: &[u8]| String::from_utf8_lossy(out).lines().count();
        assert_eq!(lines(&out), EQUAL as usize);
        write_record(
            &mut out,
            &record(Level::Error, format_args!("of a test: a flood"), &none),
            begun + Duration::from_secs(11),
        )
        .expect("memory");
        let text = String::from_utf8(out).expect("UTF-8");
        let summary = text.lines().nth(EQUAL as usize).expect("a summary");
        assert!(
            summary.contains("5 more like this in 10 s: of a test: a flood"),
            "{summary}"
        );
        assert_eq!(text.lines().count(), EQUAL as usize + 2);
    }
}
