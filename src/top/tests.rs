//! What is drawn, from looks at a server that are kept in `fixture`, and what keys change of it.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::columns::{Column, Sort, bytes, count, fitting};
use super::draw::draw;
use super::history::History;
use super::view::{Next, View};
use crate::status::FetchError;
use crate::status::model::{Status, WorkerState};

/// Two looks, a second apart.
fn looks() -> [Status; 2] {
    [
        include_str!("fixture/before.json"),
        include_str!("fixture/after.json"),
    ]
    .map(|text| serde_json::from_str(text).expect("a status"))
}

/// A view that has seen both.
fn view() -> View {
    let mut view = View::new(
        "unix:/run/canvas-cluster/admin.sock".to_owned(),
        Duration::from_secs(1),
    );
    for look in looks() {
        view.see(Ok(look), Instant::now());
    }
    view
}

/// The same with so many workers, each with its slot as connections.
fn crowd(workers: u64) -> View {
    let mut view = view();
    let [_, mut status] = looks();
    let one = status.workers[0].clone();
    status.now_ms += 1000;
    status.workers = (0..workers)
        .map(|slot| {
            let mut worker = one.clone();
            worker.slot = slot;
            worker.pid = 1000 + i32::try_from(slot).expect("few");
            worker.connections = slot;
            worker
        })
        .collect();
    view.see(Ok(status), Instant::now());
    view
}

/// The screen as lines without the blanks at their ends.
fn screen(view: &mut View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no real one");
    let now = Instant::now();
    terminal
        .draw(|frame| draw(frame, view, now))
        .expect("nothing to fail");
    let buffer = terminal.backend().buffer();
    buffer
        .content()
        .chunks(usize::from(width))
        .map(|cells| {
            let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        })
        .collect()
}

/// The line that has this text.
#[track_caller]
fn line_with<'s>(screen: &'s [String], text: &str) -> &'s str {
    let line = screen.iter().find(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("no {text} in\n{}", screen.join("\n")))
}

fn press(view: &mut View, keys: &str) {
    for key in keys.chars() {
        let key = KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE);
        assert_eq!(view.press(key), Next::GoOn);
    }
}

#[track_caller]
fn assert_screen(name: &str, expected: &str, width: u16, height: u16) {
    let shown = screen(&mut view(), width, height).join("\n");
    assert!(
        shown.trim_end() == expected.trim_end(),
        "src/top/fixture/{name} should be, if this is right:\n{shown}\n"
    );
}

#[test]
fn a_small_terminal_shows_the_whole_of_it() {
    assert_screen("80x24.txt", include_str!("fixture/80x24.txt"), 80, 24);
}

#[test]
fn a_large_terminal_shows_every_column() {
    assert_screen("160x50.txt", include_str!("fixture/160x50.txt"), 160, 50);
    let shown = screen(&mut view(), 160, 50);
    let head = line_with(&shown, "slot");
    for column in Column::ALL {
        assert!(head.contains(column.title()), "{column:?} in {head}");
    }
}

#[test]
fn every_size_is_drawn_somehow() {
    let mut view = crowd(64);
    press(&mut view, "h");
    for width in (1..200).step_by(7) {
        for height in 1..60 {
            screen(&mut view, width, height);
        }
    }
    assert!(screen(&mut view, 30, 5)[0].starts_with("too small"));
}

#[test]
fn a_narrow_terminal_leaves_columns_out_but_never_the_one_that_is_sorted_by() {
    let everything = fitting(200, Sort::USUAL);
    assert_eq!(everything, Column::ALL);
    for column in Column::ALL {
        let sort = Sort {
            column,
            descends: true,
        };
        for width in 40..200 {
            let columns = fitting(width, sort);
            assert!(columns.contains(&column), "{column:?} at {width}");
            let taken: u16 = columns.iter().map(|column| column.width() + 1).sum();
            assert!(taken <= width + 1, "{columns:?} at {width}");
        }
    }
}

#[test]
fn before_the_first_answer_it_says_whom_it_asks_and_why_there_is_none() {
    let mut view = View::new("127.0.0.1:1122".to_owned(), Duration::from_secs(1));
    let shown = screen(&mut view, 80, 24);
    line_with(&shown, "asking 127.0.0.1:1122");
    let error = FetchError::NoServer(vec!["127.0.0.1:1122".to_owned()]);
    view.see(Err(error), Instant::now());
    let shown = screen(&mut view, 80, 24);
    line_with(
        &shown,
        "no answer for 0s, trying on: no server listens at 127.0.0.1:1122",
    );
}

#[test]
fn a_server_that_is_gone_is_said_to_be_and_its_last_figures_stay() {
    let mut view = view();
    let begun = Instant::now();
    for seconds in [0, 1, 2] {
        let now = begun + Duration::from_secs(seconds);
        view.see(Err(FetchError::Cut), now);
    }
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("no real one");
    terminal
        .draw(|frame| draw(frame, &mut view, begun + Duration::from_secs(7)))
        .expect("nothing to fail");
    let text = terminal.backend().to_string();
    assert!(text.contains("no answer for 7s, trying on: "), "{text}");
    assert!(text.contains("31207"), "{text}");
    let [_, mut again] = looks();
    again.now_ms += 4000;
    view.see(Ok(again), begun);
    assert!(view.trouble().is_none());
}

#[test]
fn a_paused_picture_stands_still() {
    let mut view = view();
    press(&mut view, "p");
    let [_, mut later] = looks();
    later.now_ms += 1000;
    later.generation = 9;
    view.see(Ok(later.clone()), Instant::now());
    let shown = screen(&mut view, 80, 24);
    line_with(&shown, "paused");
    line_with(&shown, "generation 3  up");
    press(&mut view, "p");
    view.see(Ok(later), Instant::now());
    line_with(&screen(&mut view, 80, 24), "generation 9  up");
}

#[test]
fn keys_that_end_it_end_it() {
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    assert_eq!(view().press(key(KeyCode::Char('q'))), Next::Quit);
    assert_eq!(view().press(key(KeyCode::Esc)), Next::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(view().press(interrupt), Next::Quit);
    assert_eq!(view().press(key(KeyCode::Char('c'))), Next::GoOn);
    // Esc closes the help first.
    let mut view = view();
    press(&mut view, "h");
    line_with(&screen(&mut view, 80, 24), "quit");
    assert!(view.shows_help);
    assert_eq!(view.press(key(KeyCode::Esc)), Next::GoOn);
    assert_eq!(view.press(key(KeyCode::Esc)), Next::Quit);
}

#[test]
fn workers_are_sorted_by_any_column_and_what_is_not_known_comes_last() {
    let mut view = view();
    let pids = |view: &mut View| -> Vec<i32> {
        view.set_room(10);
        let (_, lines) = view.lines();
        lines.iter().map(|line| line.worker.pid).collect()
    };
    assert_eq!(pids(&mut view), [31207, 31208, 31420, 0]);
    press(&mut view, "r");
    assert_eq!(pids(&mut view), [0, 31420, 31208, 31207]);
    while view.sort().column != Column::Requests {
        press(&mut view, "s");
    }
    assert_eq!(pids(&mut view), [31207, 31420, 31208, 0]);
    press(&mut view, "r");
    assert_eq!(pids(&mut view), [31208, 31420, 31207, 0]);
    // All the way round, and back.
    for _ in Column::ALL {
        press(&mut view, "s");
    }
    assert_eq!(view.sort().column, Column::Requests);
    press(&mut view, "S");
    assert_eq!(view.sort().column, Column::Connections);
}

#[test]
fn scrolling_stops_at_both_ends() {
    let mut view = crowd(64);
    let first = |view: &View| view.lines().0;
    view.set_room(10);
    press(&mut view, "k");
    assert_eq!(first(&view), 0);
    press(&mut view, "jjj");
    assert_eq!(first(&view), 3);
    press(&mut view, "G");
    assert_eq!(first(&view), 54);
    press(&mut view, "j");
    assert_eq!(first(&view), 54);
    view.press(KeyEvent::new(KeyCode::PageUp, KeyModifiers::NONE));
    assert_eq!(first(&view), 44);
    // A larger terminal shows more of them.
    view.set_room(60);
    assert_eq!(first(&view), 4);
    press(&mut view, "g");
    assert_eq!(first(&view), 0);
    let shown = screen(&mut view, 80, 24);
    line_with(&shown, "of 64");
}

#[test]
fn rates_need_two_looks_of_one_server_that_are_not_far_apart() {
    let [before, after] = looks();
    let mut history = History::new(1000);
    history.push(before.clone());
    assert_eq!(history.now().and_then(|seen| seen.requests), None);
    history.push(after.clone());
    let requests = history.now().and_then(|seen| seen.requests);
    assert!(requests.is_some_and(|rate| rate > 20_000.0), "{requests:?}");
    // Nobody looked for a while.
    let mut late = after.clone();
    late.now_ms += 60_000;
    history.push(late.clone());
    assert_eq!(history.now().and_then(|seen| seen.requests), None);
    // Another server, which has counted less.
    let mut other = before;
    other.now_ms = late.now_ms + 1000;
    other.started_ms = late.now_ms + 500;
    history.push(other);
    assert_eq!(history.now().and_then(|seen| seen.requests), None);
    assert_eq!(history.newest_first().count(), 4);
}

#[test]
fn a_slot_without_a_worker_is_a_line_without_figures() {
    let view = view();
    let (_, lines) = view.lines();
    let all: Vec<_> = view.history().lines().iter().collect();
    assert_eq!(lines.len(), 1, "room for one until something is drawn");
    let empty = all
        .into_iter()
        .find(|line| line.worker.state == WorkerState::BackingOff)
        .expect("one slot waits");
    for column in Column::ALL {
        let shown = match column {
            Column::Slot => "3",
            Column::State => "backing off",
            Column::Generation => "3",
            Column::Connections => "0",
            _ => "-",
        };
        assert_eq!(column.text(empty), shown, "{column:?}");
    }
}

#[test]
fn numbers_fit_their_columns() {
    let shown = [0.0, 0.42, 3.0, 9.96, 999.6, 1000.0, 123_456.7, 1_234_567.0].map(count);
    assert_eq!(
        shown,
        [
            "0",
            "0.4",
            "3",
            "10",
            "1,000",
            "1,000",
            "123,457",
            "1,234,567"
        ]
    );
    let shown = [0, 1024, 14_680_064, 209_715_200, 1_072_693_248, 3 << 40].map(bytes);
    assert_eq!(
        shown,
        [
            "0.0 KiB", "1.0 KiB", "14.0 MiB", "200 MiB", "1.0 GiB", "3.0 TiB"
        ]
    );
}
