//! What the server takes of the host, and what the host allows: one [table](table::ROWS) of limits, from which come what
//! is told at the start, what `tune --check` shows, what is raised at the start and by `tune --apply`, the files of
//! `tune --print`, and README's table. Called by the master and by `main`; nothing here decides when.

mod host;
mod pages;
pub mod table;

use std::io;

pub use self::host::{Host, OpenFiles, raise_open_files};
pub use self::pages::{limits_file, readme_table, report, sysctl_file};
use self::table::{Place, ROWS, Row};

/// What a configuration needs at worst: every connection open, and busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    pub workers: u64,
    /// Connections that a worker takes, `max_connections`.
    pub connections: u64,
    /// Descriptors of the process that needs most, in all likelihood a worker.
    pub descriptors: u64,
    /// Descriptors of a worker that are not such connections: those of connections that hear that there is no room included.
    pub other_descriptors: u64,
    /// Memory mappings of a worker.
    pub mappings: u64,
    /// Mappings of a worker that are not stacks.
    pub other_mappings: u64,
    /// Connections that may wait for an accept, per listener.
    pub backlog: u64,
    /// Connections of all workers to one database or one Redis, each with a port of this host.
    pub outgoing: u64,
}

/// How a limit of the host compares with what is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is enough.
    Met,
    /// It is less than what is needed.
    Short,
    /// It can't be read, so nothing is said of it.
    Unknown,
    /// Another setting of the host makes it meaningless; which.
    Idle(&'static str),
}

/// One row, compared.
#[derive(Debug, Clone)]
pub struct Finding {
    pub row: &'static Row,
    /// As the kernel shows it; `None` where it can't be read.
    pub found: Option<String>,
    /// The least that will do.
    pub wanted: u64,
    pub verdict: Verdict,
    /// What is configured, what happens beyond the limit, and the remedy, if it is too low.
    pub complaint: Option<String>,
}

/// Compares every row with the host.
pub fn check(needs: &Needs, host: &Host) -> Vec<Finding> {
    ROWS.iter().map(|row| compare(row, needs, host)).collect()
}

fn compare(row: &'static Row, needs: &Needs, host: &Host) -> Finding {
    let wanted = row.needed(needs);
    let found = host.text(row);
    let amount = found.as_deref().and_then(|text| row.amount(text));
    let idle = row
        .idle
        .as_ref()
        .filter(|idle| host.number(idle.when).is_some_and(idle.is));
    let verdict = match (amount, idle) {
        (None, _) => Verdict::Unknown,
        (Some(amount), _) if amount >= wanted => Verdict::Met,
        (Some(_), Some(idle)) => Verdict::Idle(idle.because),
        (Some(_), None) => Verdict::Short,
    };
    let complaint = match (verdict, &found, amount) {
        (Verdict::Short, Some(found), Some(amount)) => {
            Some(row.complain(needs, wanted, amount, found))
        }
        _ => None,
    };
    Finding {
        row,
        found,
        wanted,
        verdict,
        complaint,
    }
}

/// One sentence or two for each limit that does not allow what is configured: what it is, what is needed, what happens
/// beyond it, and what to do. Empty where all is well.
pub fn complaints(needs: &Needs, host: &Host) -> Vec<String> {
    check(needs, host)
        .into_iter()
        .filter_map(|finding| finding.complaint)
        .collect()
}

/// A sysctl that was raised: its name, and its values before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: &'static str,
    pub from: String,
    pub to: String,
}

/// Raises each sysctl that is too low to what is needed, and no further; none is ever lowered. Answers with what has
/// changed, and with what could not be and why.
pub fn raise_sysctls(needs: &Needs, host: &Host) -> (Vec<Change>, Vec<(&'static str, io::Error)>) {
    let (mut changes, mut failures) = (Vec::new(), Vec::new());
    for row in ROWS.iter().filter(|row| row.place == Place::Sysctl) {
        // Each is read anew: the kernel ties some to others, and somebody else may be setting them too.
        let Finding {
            found: Some(from),
            wanted,
            verdict: Verdict::Short,
            ..
        } = compare(row, needs, host)
        else {
            continue;
        };
        match host.write(row.name, &row.value(wanted, Some(&from))) {
            Ok(()) => {
                let to = host.text(row).unwrap_or_default();
                if to != from {
                    let name = row.name;
                    changes.push(Change { name, from, to });
                }
            }
            Err(error) => failures.push((row.name, error)),
        }
    }
    (changes, failures)
}

#[cfg(test)]
mod tests;
