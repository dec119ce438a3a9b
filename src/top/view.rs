//! What the user sees, and what keys change of it. Pure: it has no terminal, server or clock of its own.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::columns::Sort;
use super::history::{History, Line};
use crate::status::FetchError;
use crate::status::model::Status;

/// Whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    Quit,
}

/// Why nothing new is shown.
#[derive(Debug)]
pub struct Trouble {
    pub why: String,
    pub since: Instant,
}

/// Everything that is drawn.
#[derive(Debug)]
pub struct View {
    /// Where the server is asked.
    place: String,
    interval: Duration,
    history: History,
    trouble: Option<Trouble>,
    sort: Sort,
    /// The worker that stands first in the table.
    first: usize,
    /// How many workers the table has room for; drawing tells.
    room: usize,
    pub is_paused: bool,
    pub shows_help: bool,
}

impl View {
    /// Of a server that is looked at once an interval.
    pub fn new(place: String, interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        View {
            place,
            interval,
            history: History::new(interval_ms),
            trouble: None,
            sort: Sort::USUAL,
            first: 0,
            room: 1,
            is_paused: false,
            shows_help: false,
        }
    }

    /// Takes in what a look at the server told. While the user has stopped the picture, nothing.
    pub fn see(&mut self, look: Result<Status, FetchError>, now: Instant) {
        if self.is_paused {
            return;
        }
        match look {
            Ok(status) => {
                self.history.push(status);
                self.trouble = None;
                self.keep_in_sight();
            }
            Err(error) => {
                let since = self.trouble.take().map_or(now, |trouble| trouble.since);
                self.trouble = Some(Trouble {
                    why: error.to_string(),
                    since,
                });
            }
        }
    }

    /// Does what a key asks for.
    pub fn press(&mut self, key: KeyEvent) -> Next {
        let page = isize::try_from(self.room).unwrap_or(isize::MAX);
        match key.code {
            KeyCode::Char('c' | 'C') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Next::Quit;
            }
            KeyCode::Char('q' | 'Q') => return Next::Quit,
            // What is open is closed first.
            KeyCode::Esc if self.shows_help => self.shows_help = false,
            KeyCode::Esc => return Next::Quit,
            KeyCode::Char('h' | '?') => self.shows_help = !self.shows_help,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') | KeyCode::Right => self.sort = self.sort.moved(1),
            KeyCode::Char('S') | KeyCode::Left => self.sort = self.sort.moved(-1),
            KeyCode::Char('r') => self.sort = self.sort.reversed(),
            KeyCode::Char('j') | KeyCode::Down => self.scroll(1),
            KeyCode::Char('k') | KeyCode::Up => self.scroll(-1),
            KeyCode::PageDown => self.scroll(page),
            KeyCode::PageUp => self.scroll(-page),
            KeyCode::Char('g') | KeyCode::Home => self.scroll(isize::MIN),
            KeyCode::Char('G') | KeyCode::End => self.scroll(isize::MAX),
            _ => {}
        }
        Next::GoOn
    }

    /// Says how many workers the table has room for.
    pub fn set_room(&mut self, room: usize) {
        self.room = room.max(1);
        self.keep_in_sight();
    }

    fn scroll(&mut self, by: isize) {
        self.first = self.first.saturating_add_signed(by);
        self.keep_in_sight();
    }

    /// The table does not end above its place.
    fn keep_in_sight(&mut self) {
        let most = self.history.lines().len().saturating_sub(self.room);
        self.first = self.first.min(most);
    }

    /// The workers that the table shows, and which of all the first of them is.
    pub fn lines(&self) -> (usize, Vec<&Line>) {
        let mut lines: Vec<&Line> = self.history.lines().iter().collect();
        lines.sort_by(|one, other| self.sort.compare(one, other));
        let shown = lines.into_iter().skip(self.first).take(self.room);
        (self.first, shown.collect())
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    pub fn sort(&self) -> Sort {
        self.sort
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }
}
