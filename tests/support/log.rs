//! The server's log as it grows: standard error is read on a thread, kept in memory for the tests and copied to a
//! file for whoever looks into a kept folder.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::wait::{PATIENCE, comes_true};

#[derive(Default)]
pub struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Reads `stderr` until the last process that holds it has ended.
    pub fn follow(stderr: ChildStderr, copy: &Path) -> Arc<Log> {
        let mut copy = File::create(copy).expect("a log file in the test's folder");
        let log = Arc::new(Log::default());
        let filled = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                // The lines in memory are what tests read; a copy that can't be written harms none.
                let _ = writeln!(copy, "{line}");
                filled.push(line);
            }
            filled.end();
        });
        log
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().lines.clone()
    }

    /// Waits until nobody can write to the log any more; false once patience is over.
    pub fn ends(&self) -> bool {
        comes_true(PATIENCE, || self.lines.lock().unwrap().ended)
    }

    /// A line that matches, among those after the first `start`. `None` once the log has ended, or patience is
    /// over, without one.
    pub fn wait_for(&self, start: usize, matches: impl Fn(&str) -> bool) -> Option<String> {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.lines.iter().skip(start).find(|line| matches(line)) {
                return Some(line.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if lines.ended || left == Duration::ZERO {
                return None;
            }
            lines = self.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn push(&self, line: String) {
        self.lines.lock().unwrap().lines.push(line);
        self.grown.notify_all();
    }

    fn end(&self) {
        self.lines.lock().unwrap().ended = true;
        self.grown.notify_all();
    }
}

/// Whether a line is at level ERROR (or its syslog number, or the name that programs read), or tells of a panic.
pub fn tells_of_error(line: &str) -> bool {
    let error_level = line.starts_with("<3>")
        || line.contains(r#""level":"error""#)
        || line.contains(" level=error ")
        || line
            .split(|c: char| !c.is_ascii_alphabetic())
            .any(|word| word == "ERROR");
    error_level || line.contains("panicked")
}
