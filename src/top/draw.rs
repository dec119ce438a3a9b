//! Lays the picture out in the terminal and draws it: the head, figures with their charts, the workers, the last changes. Only the
//! terminal's own sixteen colours are used, so that it fits into whatever theme there is.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{
    Block, BorderType, Clear, Paragraph, RenderDirection, Row, Sparkline, Table, Wrap,
};

use super::columns::{Column, NONE, Sort, count, fitting};
use super::history::{Line, Seen};
use super::view::View;
use crate::status::model::{Change, Outcome, ServerState, Status, WorkerState};
use crate::status::rates::Percentile;
use crate::status::show::{age, duration, percent};

/// The smallest terminal that something is drawn in.
const LEAST: (u16, u16) = (40, 10);

const ACCENT: Color = Color::Cyan;
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// How high a full bar is, in steps that are finer than any terminal's.
const FULL: u64 = 10_000;

/// From which part of all answers on errors are marked, and marked red.
const ERRORS: (f64, f64) = (0.001, 0.01);

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &mut View, now: Instant) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!(
            "too small: {} columns and {} lines at least",
            LEAST.0, LEAST.1
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let Some(status) = view.history().latest().cloned() else {
        draw_waiting(frame, area, view, now);
        return;
    };
    let places = Places::of(area, &status);
    view.set_room(usize::from(places.workers.height.saturating_sub(1)));
    draw_head(frame, places.head, &status);
    frame.render_widget(second_line(view, now), places.second);
    draw_figures(frame, &places.figures, view);
    draw_workers(frame, places.workers, view);
    draw_changes(frame, places.changes, &status);
    frame.render_widget(keys(view), places.keys);
    if view.shows_help {
        draw_help(frame, area);
    }
}

/// Where everything is.
struct Places {
    head: Rect,
    second: Rect,
    /// Two lines of figures.
    figures: [Rect; 2],
    workers: Rect,
    changes: Rect,
    keys: Rect,
}

impl Places {
    fn of(area: Rect, status: &Status) -> Self {
        // The more lines there are, the more of them are for charts and for what is over; workers take the rest.
        let (chart, changes) = match area.height {
            0..16 => (0, 0),
            16..22 => (1, 1),
            22..32 => (2, 3),
            32..44 => (3, 5),
            _ => (4, 8),
        };
        let known = u16::try_from(status.reloads.len()).unwrap_or(u16::MAX);
        // With a title, and a line that tells if there were none.
        let changes = match changes {
            0 => 0,
            most => 1 + most.min(known.max(1)),
        };
        let gap = u16::from(area.height >= 16);
        let [head, second, _, first, last, _, workers, _, changes, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(gap),
            Constraint::Length(1 + chart),
            Constraint::Length(1 + chart),
            Constraint::Length(gap),
            Constraint::Min(3),
            Constraint::Length(gap),
            Constraint::Length(changes),
            Constraint::Length(1),
        ])
        .areas(area);
        Places {
            head,
            second,
            figures: [first, last],
            workers,
            changes,
            keys,
        }
    }
}

fn draw_waiting(frame: &mut Frame<'_>, area: Rect, view: &View, now: Instant) {
    let text = match view.trouble() {
        Some(_) => second_line(view, now),
        None => Text::from(format!("asking {}…", view.place())),
    };
    let lines = vec![
        Text::from(Span::styled("canvas-cluster top", BOLD)),
        Text::default(),
        text,
        Text::default(),
        Text::styled("q quits", DIM),
    ];
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), area);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let colour = match status.state {
        _ if status.ready == 0 => Color::Red,
        ServerState::Stopping => Color::Yellow,
        _ if status.ready < status.wanted => Color::Yellow,
        _ => Color::Green,
    };
    let up = age(status.now_ms, status.started_ms);
    let text = Text::from(vec![
        Span::styled("canvas-cluster", BOLD),
        Span::styled(format!(" {}  ", status.version), DIM),
        Span::styled(format!("● {}", status.state.name()), BOLD.fg(colour)),
        Span::from(format!("  {}/{} ready", status.ready, status.wanted)),
        Span::from(format!("  generation {}", status.generation)),
        Span::from(format!("  up {up}")),
        Span::styled(format!("  pid {}", status.pid), DIM),
    ]);
    frame.render_widget(text, area);
}

/// Where the server is looked at and how often; or why nothing new is shown.
fn second_line(view: &View, now: Instant) -> Text<'static> {
    if view.is_paused {
        return Text::styled("paused; p goes on", Style::new().fg(Color::Yellow).bold());
    }
    if let Some(trouble) = view.trouble() {
        let seconds = now.saturating_duration_since(trouble.since).as_secs();
        let text = format!("no answer for {seconds}s, trying on: {}", trouble.why);
        return Text::styled(text, Style::new().fg(Color::Red).bold());
    }
    let interval = humantime::format_duration(view.interval());
    Text::styled(format!("{} every {interval}", view.place()), DIM)
}

/// A figure with its chart.
struct Figure {
    title: &'static str,
    /// What it is now, in words.
    value: fn(&Seen) -> Vec<Span<'static>>,
    /// What its chart shows.
    number: fn(&Seen) -> Option<f64>,
    /// The number of a full bar, where it is not the highest one seen.
    full: Option<f64>,
    /// How wide it is beside the others of its line.
    share: u16,
}

static FIGURES: [&[Figure]; 2] = [
    &[
        Figure {
            title: "requests/s",
            value: |seen| plain(seen.requests.map(count)),
            number: |seen| seen.requests,
            full: None,
            share: 4,
        },
        Figure {
            title: "p50",
            value: |seen| {
                let [p50, p99, p999] = seen.latency.map(|found| plain(found.map(duration)));
                let named = |name, value| [vec![Span::styled(name, DIM)], value].concat();
                [p50, named("  p99 ", p99), named("  p99.9 ", p999)].concat()
            },
            number: |seen| micros(seen.latency[1]),
            full: None,
            share: 8,
        },
        Figure {
            title: "lanes p99",
            value: |seen| plain(seen.queue.map(duration)),
            number: |seen| micros(seen.queue),
            full: None,
            share: 4,
        },
    ],
    &[
        Figure {
            title: "L1 hits",
            value: |seen| plain(seen.l1.map(percent)),
            number: |seen| seen.l1,
            full: Some(1.0),
            share: 1,
        },
        Figure {
            title: "Redis",
            value: |seen| plain(seen.redis.map(percent)),
            number: |seen| seen.redis,
            full: Some(1.0),
            share: 1,
        },
        Figure {
            title: "conns",
            value: |seen| plain(seen.connections.map(count)),
            number: |seen| seen.connections,
            full: None,
            share: 1,
        },
        Figure {
            title: "5xx",
            value: |seen| {
                let colour = seen.errors.and_then(|part| match part {
                    part if part >= ERRORS.1 => Some(Color::Red),
                    part if part >= ERRORS.0 => Some(Color::Yellow),
                    _ => None,
                });
                // A few in ten thousand are told from none.
                let share = seen.errors.map(|part| format!("{:.2}%", part * 100.0));
                coloured(share, colour)
            },
            number: |seen| seen.errors,
            full: None,
            share: 1,
        },
        Figure {
            title: "shed/s",
            value: |seen| {
                let colour = seen.shed.filter(|rate| *rate > 0.0).map(|_| Color::Yellow);
                coloured(seen.shed.map(count), colour)
            },
            number: |seen| seen.shed,
            full: None,
            share: 1,
        },
    ],
];

fn plain(text: Option<String>) -> Vec<Span<'static>> {
    coloured(text, None)
}

fn coloured(text: Option<String>, colour: Option<Color>) -> Vec<Span<'static>> {
    let text = text.unwrap_or_else(|| NONE.to_owned());
    let style = colour.map_or(BOLD, |colour| BOLD.fg(colour));
    vec![Span::styled(text, style)]
}

fn micros(percentile: Option<Percentile>) -> Option<f64> {
    percentile.map(|found| found.micros)
}

fn draw_figures(frame: &mut Frame<'_>, lines: &[Rect; 2], view: &View) {
    for (figures, line) in FIGURES.iter().zip(lines) {
        let shares = figures.iter().map(|figure| Constraint::Fill(figure.share));
        let places = Layout::horizontal(shares).spacing(2).split(*line);
        for (figure, place) in figures.iter().zip(places.iter()) {
            draw_figure(frame, *place, figure, view);
        }
    }
}

fn draw_figure(frame: &mut Frame<'_>, area: Rect, figure: &Figure, view: &View) {
    let [head, chart] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let mut spans = vec![Span::styled(format!("{} ", figure.title), DIM)];
    if let Some(seen) = view.history().now() {
        spans.extend((figure.value)(seen));
    }
    frame.render_widget(Text::from(spans), head);
    let points: Vec<Option<f64>> = view
        .history()
        .newest_first()
        .take(usize::from(chart.width))
        .map(figure.number)
        .collect();
    let highest = points.iter().flatten().copied().fold(0.0, f64::max);
    let full = figure.full.unwrap_or(highest);
    // What is not nothing shows, however small it is.
    let least = FULL.div_ceil(8 * u64::from(chart.height.max(1)));
    let bar = |number: f64| match number > 0.0 && full > 0.0 {
        true => ((number / full * FULL as f64) as u64).clamp(least, FULL),
        false => 0,
    };
    let sparkline = Sparkline::default()
        .data(points.into_iter().map(|point| point.map(bar)))
        .max(FULL)
        .direction(RenderDirection::RightToLeft)
        .style(Style::new().fg(ACCENT));
    frame.render_widget(sparkline, chart);
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let sort = view.sort();
    let columns = fitting(area.width, sort);
    let head = columns.iter().map(|column| head_cell(*column, sort));
    let (_, lines) = view.lines();
    let rows = lines.into_iter().map(|line| {
        let cells = columns.iter().map(|column| cell(*column, line));
        Row::new(cells)
    });
    let widths = columns
        .iter()
        .map(|column| Constraint::Length(column.width()));
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(DIM.add_modifier(Modifier::UNDERLINED)))
        .column_spacing(1);
    frame.render_widget(table, area);
}

fn head_cell(column: Column, sort: Sort) -> Text<'static> {
    let title = column.title();
    if column != sort.column {
        return aligned(column, Span::from(title));
    }
    let arrow = if sort.descends { "↓" } else { "↑" };
    let style = Style::new()
        .fg(ACCENT)
        .remove_modifier(Modifier::DIM)
        .add_modifier(Modifier::BOLD);
    aligned(column, Span::styled(format!("{arrow}{title}"), style))
}

fn cell(column: Column, line: &Line) -> Text<'static> {
    let style = match column {
        Column::State => Style::new().fg(state_colour(line.worker.state)),
        Column::Failures if line.failures.is_some_and(|rate| rate > 0.0) => {
            Style::new().fg(Color::Red)
        }
        Column::Shed if line.shed.is_some_and(|rate| rate > 0.0) => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    };
    aligned(column, Span::styled(column.text(line), style))
}

fn state_colour(state: WorkerState) -> Color {
    match state {
        WorkerState::Ready => Color::Green,
        WorkerState::Starting | WorkerState::Draining => Color::Blue,
        WorkerState::BackingOff => Color::Yellow,
        WorkerState::Aborting | WorkerState::Degraded => Color::Red,
    }
}

/// Words to the left, numbers to the right.
fn aligned(column: Column, span: Span<'static>) -> Text<'static> {
    match column {
        Column::State => Text::from(span),
        _ => Text::from(span).right_aligned(),
    }
}

fn draw_changes(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    if area.height == 0 {
        return;
    }
    let title = Text::styled("reloads, upgrades and other changes", DIM);
    let none = Text::from("none since the server's start");
    let mut lines = vec![title];
    lines.extend(
        status
            .reloads
            .iter()
            .take(usize::from(area.height) - 1)
            .map(|change| change_line(status, change)),
    );
    if status.reloads.is_empty() {
        lines.push(none);
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn change_line(status: &Status, change: &Change) -> Text<'static> {
    let colour = match change.outcome {
        Outcome::Done => Color::Green,
        Outcome::Failed => Color::Red,
    };
    let took = humantime::format_duration(Duration::from_millis(change.took_ms));
    let ago = format!("{} ago", age(status.now_ms, change.at_ms));
    let mut spans = vec![
        Span::from(format!("{ago:>15}  {:<8}", change.kind.name())),
        Span::styled(
            format!("{:<7}", change.outcome.name()),
            Style::new().fg(colour),
        ),
        Span::from(format!("generation {}, {took}", change.generation)),
    ];
    if !change.why.is_empty() {
        spans.push(Span::from(format!(": {}", change.why)));
    }
    Text::from(spans)
}

fn keys(view: &View) -> Text<'static> {
    let (first, shown) = view.lines();
    let all = view.history().lines().len();
    let mut spans = Vec::new();
    for (key, what) in [
        ("q", "quit"),
        ("s", "sort"),
        ("r", "reverse"),
        ("p", "pause"),
        ("h", "help"),
    ] {
        spans.push(Span::styled(key, BOLD.fg(ACCENT)));
        spans.push(Span::styled(format!(" {what}  "), DIM));
    }
    if shown.len() < all {
        spans.push(Span::styled("↑↓", BOLD.fg(ACCENT)));
        let last = first + shown.len();
        spans.push(Span::styled(
            format!(" workers {} to {last} of {all}", first + 1),
            DIM,
        ));
    }
    Text::from(spans)
}

/// What the keys do, and what the figures are.
const HELP: [(&str, &str); 12] = [
    ("q, Esc, Ctrl-C", "quit"),
    ("s, S, → ←", "sort by the next or the column before"),
    ("r", "sort the other way round"),
    ("j k, ↓ ↑", "scroll the workers by one"),
    ("PgDn PgUp", "by a page; g, G, Home, End to their ends"),
    ("p, space", "stop the picture, and go on"),
    ("h, ?", "show or hide this"),
    ("", ""),
    ("rates", "since the look before"),
    ("percentiles, hits", "of the last 10 seconds"),
    ("lanes, queue", "waits for Redis or the database, p99"),
    ("CPU", "of one core: 100% is one that never rests"),
];

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Text<'_>> = HELP
        .iter()
        .map(|(key, what)| {
            Text::from(vec![
                Span::styled(format!("{key:<19}"), BOLD),
                Span::from(*what),
            ])
        })
        .collect();
    let width = lines.iter().map(Text::width).max().unwrap_or_default();
    let width = u16::try_from(width + 4).unwrap_or(u16::MAX);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let area = area.centered(Constraint::Max(width), Constraint::Max(height));
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(ACCENT))
        .title(" keys ")
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
