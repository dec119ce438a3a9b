//! `canvas-cluster top`: a running server in a terminal, drawn anew at every look. Called by `main`.
//!
//! One loop draws and then waits for the next thing to happen, whatever it is: a look at the server, a key, another size of the
//! terminal, a signal. Three threads tell it; only the loop has the terminal, and gives it back however it ends.

mod columns;
mod draw;
mod history;
#[cfg(test)]
mod tests;
mod view;

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, KeyEvent};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use self::view::{Next, View};
use crate::config::top::TopCommand;
use crate::config::{Admin, EXIT_USAGE};
use crate::ctl::Outcome;
use crate::status::model::Status;
use crate::status::{FetchError, fetch};

/// The exit code when the terminal fails.
const EXIT_SYSTEM: u8 = 111;

/// What a signal's number is added to for the exit code of whoever ended by it, as shells have it.
const EXIT_SIGNAL: u8 = 128;

/// How long the server may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How many events may wait to be drawn. Whoever tells more waits.
const MOST_EVENTS: usize = 64;

/// What can happen.
enum Event {
    /// The server was looked at, or why it could not be.
    Look(Result<Box<Status>, FetchError>),
    Key(KeyEvent),
    /// The terminal has another size, which drawing finds out by itself.
    Resized,
    /// Somebody wants this process to end.
    Signal(i32),
    /// A thread has ended, and never should.
    Lost(&'static str),
}

/// Why it ends before it was told to.
enum TopError {
    /// Standard output is no terminal.
    NoTerminal,
    /// The configuration has no admin listener, so no look will ever succeed.
    Off(FetchError),
    Terminal(io::Error),
    Lost(&'static str),
}

impl TopError {
    fn code(&self) -> u8 {
        match self {
            TopError::NoTerminal => EXIT_USAGE,
            TopError::Off(error) => error.code(),
            TopError::Terminal(_) | TopError::Lost(_) => EXIT_SYSTEM,
        }
    }
}

impl fmt::Display for TopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopError::NoTerminal => f.write_str(
                "top needs a terminal to draw in; elsewhere there is `canvas-cluster status`, with --json for programs",
            ),
            TopError::Off(error) => error.fmt(f),
            TopError::Terminal(error) => write!(f, "the terminal fails: {error}"),
            TopError::Lost(who) => write!(f, "{who} has ended unexpectedly"),
        }
    }
}

/// Watches a server until the user has seen enough.
pub fn run(admin: &Admin, command: TopCommand) -> Outcome {
    match watch(admin, command) {
        Ok(code) => Outcome {
            code,
            stdout: String::new(),
            stderr: String::new(),
        },
        Err(error) => Outcome {
            code: error.code(),
            stdout: String::new(),
            stderr: format!("canvas-cluster: {error}\n"),
        },
    }
}

/// The exit code once the user, or a signal, has ended it.
fn watch(admin: &Admin, command: TopCommand) -> Result<u8, TopError> {
    let place = match admin {
        Admin::Off => return Err(TopError::Off(FetchError::Off)),
        Admin::At(address) => address.to_string(),
        Admin::Usual(places) => places
            .first()
            .map(|place| place.display().to_string())
            .unwrap_or_default(),
    };
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    let (teller, events) = sync_channel(MOST_EVENTS);
    // Signals are heard before the terminal is changed, so that none ends the process in between.
    let signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(TopError::Terminal)?;
    start("the watch for signals", &teller, move |teller| {
        hear(signals, teller);
    })?;
    let admin = admin.clone();
    start("the watch on the server", &teller, move |teller| {
        look(&admin, command.interval, teller);
    })?;
    let _restored = Restored;
    let mut terminal = ratatui::try_init().map_err(TopError::Terminal)?;
    start("the watch for keys", &teller, read_keys)?;
    let mut view = View::new(place, command.interval);
    loop {
        terminal
            .draw(|frame| draw::draw(frame, &mut view, Instant::now()))
            .map_err(TopError::Terminal)?;
        if let Some(code) = take(&events, &mut view)? {
            return Ok(code);
        }
    }
}

/// Waits for something to happen and takes it in, and with it all that has happened meanwhile, so that a burst is drawn once.
/// The exit code, if that was the end.
fn take(events: &Receiver<Event>, view: &mut View) -> Result<Option<u8>, TopError> {
    let mut event = events.recv().map_err(|_| TopError::Lost("every watch"))?;
    loop {
        match event {
            Event::Look(look) => view.see(look.map(|status| *status), Instant::now()),
            Event::Key(key) => {
                if view.press(key) == Next::Quit {
                    return Ok(Some(0));
                }
            }
            Event::Resized => {}
            Event::Signal(number) => {
                let number = u8::try_from(number).unwrap_or_default();
                return Ok(Some(EXIT_SIGNAL.saturating_add(number)));
            }
            Event::Lost(who) => return Err(TopError::Lost(who)),
        }
        match events.try_recv() {
            Ok(next) => event = next,
            // Without anybody to tell more, the next wait says so.
            Err(_) => return Ok(None),
        }
    }
}

/// Gives the terminal back to the shell when it is dropped: by a return, or by a panic.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Tells that a thread has ended, by a return or by a panic.
struct Mourned {
    who: &'static str,
    teller: SyncSender<Event>,
}

impl Drop for Mourned {
    fn drop(&mut self) {
        // If nobody listens, it has ended because all does.
        let _ = self.teller.send(Event::Lost(self.who));
    }
}

fn start(
    who: &'static str,
    teller: &SyncSender<Event>,
    work: impl FnOnce(&SyncSender<Event>) + Send + 'static,
) -> Result<(), TopError> {
    let mourned = Mourned {
        who,
        teller: teller.clone(),
    };
    thread::Builder::new()
        .spawn(move || work(&mourned.teller))
        .map(drop)
        .map_err(TopError::Terminal)
}

/// Looks at the server again and again, until nobody wants to know. A look that took longer than the interval is followed by
/// the next at once.
fn look(admin: &Admin, interval: Duration, teller: &SyncSender<Event>) {
    loop {
        let begun = Instant::now();
        let look = fetch(admin, TIMEOUT).map(Box::new);
        if teller.send(Event::Look(look)).is_err() {
            return;
        }
        thread::sleep(interval.saturating_sub(begun.elapsed()));
    }
}

/// Reads the terminal until it fails.
fn read_keys(teller: &SyncSender<Event>) {
    while let Ok(read) = event::read() {
        let event = match read {
            event::Event::Key(key) if !key.is_release() => Event::Key(key),
            event::Event::Resize(..) => Event::Resized,
            _ => continue,
        };
        if teller.send(event).is_err() {
            return;
        }
    }
}

fn hear(mut signals: Signals, teller: &SyncSender<Event>) {
    for number in signals.forever() {
        if teller.send(Event::Signal(number)).is_err() {
            return;
        }
    }
}
