//! The columns of the table of workers: one row each of what it is called, how wide it is, what it shows, and by what it is
//! sorted. Pure.

use std::cmp::Ordering;

use super::history::Line;
use crate::status::model::WorkerState;
use crate::status::rates::Percentile;
use crate::status::show::{age, duration, percent};

/// What is not known.
pub const NONE: &str = "-";

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Slot,
    Pid,
    State,
    Generation,
    Age,
    Cpu,
    Memory,
    Connections,
    Requests,
    P50,
    P99,
    P999,
    L1,
    Queue,
    Shed,
    Failures,
}

impl Column {
    /// All of them, from the left.
    pub const ALL: [Column; 16] = [
        Column::Slot,
        Column::Pid,
        Column::State,
        Column::Generation,
        Column::Age,
        Column::Cpu,
        Column::Memory,
        Column::Connections,
        Column::Requests,
        Column::P50,
        Column::P99,
        Column::P999,
        Column::L1,
        Column::Queue,
        Column::Shed,
        Column::Failures,
    ];

    /// In which order they give way to a narrow terminal; the first goes first. The others stay as long as there is room.
    const DISPENSABLE: [Column; 14] = [
        Column::Queue,
        Column::Generation,
        Column::Shed,
        Column::Age,
        Column::P50,
        Column::Memory,
        Column::P999,
        Column::Failures,
        Column::L1,
        Column::Pid,
        Column::Connections,
        Column::Cpu,
        Column::P99,
        Column::State,
    ];

    /// The head of the column and its width, with room for the arrow of the one that is sorted by.
    const fn head(self) -> (&'static str, u16) {
        match self {
            Column::Slot => ("slot", 5),
            Column::Pid => ("pid", 7),
            Column::State => ("state", 11),
            Column::Generation => ("gen", 4),
            Column::Age => ("up", 9),
            Column::Cpu => ("CPU", 5),
            Column::Memory => ("memory", 8),
            Column::Connections => ("conns", 6),
            Column::Requests => ("req/s", 8),
            Column::P50 => ("p50", 7),
            Column::P99 => ("p99", 7),
            Column::P999 => ("p99.9", 7),
            Column::L1 => ("L1 hit", 7),
            Column::Queue => ("queue", 7),
            Column::Shed => ("shed/s", 7),
            Column::Failures => ("5xx/s", 6),
        }
    }

    pub fn title(self) -> &'static str {
        self.head().0
    }

    /// In cells. What is wider, as no machine has it, is cut.
    pub fn width(self) -> u16 {
        self.head().1
    }

    /// What it shows of a worker.
    pub fn text(self, line: &Line) -> String {
        let worker = &line.worker;
        let time = |percentile: Option<Percentile>| percentile.map(duration);
        let shown = match self {
            Column::Slot => Some(worker.slot.to_string()),
            Column::Pid => (worker.pid != 0).then(|| worker.pid.to_string()),
            Column::State => Some(worker.state.name().replace('_', " ")),
            Column::Generation => Some(worker.generation.to_string()),
            Column::Age => line.age_ms.map(|ms| short_age(ms, self.width())),
            Column::Cpu => line.cpu.map(percent),
            Column::Memory => worker.rss_bytes.map(bytes),
            Column::Connections => Some(worker.connections.to_string()),
            Column::Requests => line.requests.map(count),
            Column::P50 => time(line.latency[0]),
            Column::P99 => time(line.latency[1]),
            Column::P999 => time(line.latency[2]),
            Column::L1 => line.l1.map(percent),
            Column::Queue => time(line.queue),
            Column::Shed => line.shed.map(count),
            Column::Failures => line.failures.map(count),
        };
        shown.unwrap_or_else(|| NONE.to_owned())
    }

    /// The number that it is sorted by; none for what is not known.
    fn number(self, line: &Line) -> Option<f64> {
        let worker = &line.worker;
        let time = |percentile: Option<Percentile>| percentile.map(|found| found.micros);
        match self {
            Column::Slot => Some(worker.slot as f64),
            Column::Pid => (worker.pid != 0).then(|| f64::from(worker.pid)),
            // What needs a look comes first.
            Column::State => Some(match worker.state {
                WorkerState::Degraded => 5.0,
                WorkerState::BackingOff => 4.0,
                WorkerState::Aborting => 3.0,
                WorkerState::Starting => 2.0,
                WorkerState::Draining => 1.0,
                WorkerState::Ready => 0.0,
            }),
            Column::Generation => Some(worker.generation as f64),
            Column::Age => line.age_ms.map(|ms| ms as f64),
            Column::Cpu => line.cpu,
            Column::Memory => worker.rss_bytes.map(|bytes| bytes as f64),
            Column::Connections => Some(worker.connections as f64),
            Column::Requests => line.requests,
            Column::P50 => time(line.latency[0]),
            Column::P99 => time(line.latency[1]),
            Column::P999 => time(line.latency[2]),
            Column::L1 => line.l1,
            Column::Queue => time(line.queue),
            Column::Shed => line.shed,
            Column::Failures => line.failures,
        }
    }
}

/// By which column the workers are sorted, and which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub column: Column,
    pub descends: bool,
}

impl Sort {
    /// By slot, from the first.
    pub const USUAL: Sort = Sort::by(Column::Slot);

    /// The way that is looked for: of what a worker does the most first, and names in their order.
    const fn by(column: Column) -> Self {
        Sort {
            column,
            descends: !matches!(column, Column::Slot | Column::Pid | Column::L1),
        }
    }

    /// By the column so many places further to the right, or to the left; behind the last comes the first.
    pub fn moved(self, by: isize) -> Self {
        let count = Column::ALL.len();
        let at = Column::ALL
            .iter()
            .position(|column| *column == self.column)
            .unwrap_or_default();
        let step = by.rem_euclid(count as isize).unsigned_abs();
        Sort::by(Column::ALL[(at + step) % count])
    }

    pub fn reversed(self) -> Self {
        Sort {
            descends: !self.descends,
            ..self
        }
    }

    /// How two workers are in this order. What is not known comes last, either way; equals are by slot, the older first.
    pub fn compare(self, one: &Line, other: &Line) -> Ordering {
        let (a, b) = (self.column.number(one), self.column.number(other));
        let order = match (a, b) {
            (Some(a), Some(b)) if self.descends => b.total_cmp(&a),
            (Some(a), Some(b)) => a.total_cmp(&b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        order
            .then(one.worker.slot.cmp(&other.worker.slot))
            .then(one.worker.started_ms.cmp(&other.worker.started_ms))
    }
}

/// The columns that fit, from the left, with a cell between each two. The one that is sorted by stays.
pub fn fitting(width: u16, sort: Sort) -> Vec<Column> {
    let mut columns = Column::ALL.to_vec();
    for dispensable in Column::DISPENSABLE {
        if taken(&columns) <= width {
            break;
        }
        columns.retain(|column| *column != dispensable || *column == sort.column);
    }
    columns
}

/// The width of columns with a cell between each two.
fn taken(columns: &[Column]) -> u16 {
    let cells: u16 = columns.iter().map(|column| column.width() + 1).sum();
    cells.saturating_sub(1)
}

/// Of its two largest units, or of one where there is no room for both.
fn short_age(ms: u64, room: u16) -> String {
    let whole = age(ms, 0);
    match whole.split_once(' ') {
        Some((first, _)) if whole.len() > usize::from(room) => first.to_owned(),
        _ => whole,
    }
}

/// How many a second: `0`, `0.4`, `12`, `12,345`.
pub fn count(number: f64) -> String {
    if number > 0.0 && number < 9.95 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `14.0 MiB`
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    while size >= 999.5 {
        let Some(larger) = units.next() else { break };
        (size, unit) = (size / 1024.0, larger);
    }
    match size < 99.95 {
        true => format!("{size:.1} {unit}"),
        false => format!("{size:.0} {unit}"),
    }
}
