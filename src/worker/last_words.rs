//! What a worker leaves in the log when it is aborted or crashes: the stack of the thread that the signal came to. The master aborts a
//! worker whose loop stands still, so a SIGABRT from outside is heard by the scheduler's thread alone: what that is stuck in
//! is what one wants to know. abort(3) (an allocation that failed, a panic within a panic) is heard by the thread that calls it.
//!
//! The handler does what a signal handler should not: it allocates, opens files and takes locks. The process is dying: should it have
//! been interrupted with one of those locks taken, it waits, and SIGKILL follows a second later. What is said before that
//! stands in the log, so what needs least comes first. It runs on a stack of its own, for a coroutine's is too small.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use log::Level;
use nix::sys::signal::{SigSet, Signal, raise};

use crate::logging::{self, LONGEST};
use crate::sys;

/// The stack of the handler: a debug build takes some 60 KiB of it.
const STACK: usize = 512 * 1024;

/// How many frames are told, innermost first.
const MOST_FRAMES: usize = 64;

static SLOT: AtomicUsize = AtomicUsize::new(0);

/// Has the next SIGABRT leave a backtrace. Called by a worker's first thread before there are others, which inherit that
/// they don't hear one from outside.
///
/// # Errors
/// No memory for the handler's stack.
pub fn prepare(slot: usize) -> io::Result<()> {
    SLOT.store(slot, Ordering::Relaxed);
    make_room()?;
    sys::on_fatal_signal(Signal::SIGABRT, tell)?;
    Ok(only_abort().thread_block()?)
}

/// Lets this thread hear a SIGABRT from outside, and names it; has faults leave a backtrace too. Called on the scheduler's, when
/// the coroutine runtime has installed its handlers: these make an error of a coroutine's overflow, whose locks and borrows
/// are then never given back, and make nothing of a signal that was sent.
pub fn listen() {
    let _ = nix::sys::prctl::set_name(c"scheduler");
    if let Err(error) = try_listen() {
        log::warn!("worker: will leave no backtrace when it is aborted: {error}");
    }
}

fn try_listen() -> io::Result<()> {
    make_room()?;
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        sys::on_fatal_signal(fault, tell)?;
    }
    Ok(only_abort().thread_unblock()?)
}

/// Gives this thread room for the handler.
///
/// # Errors
/// No memory.
pub fn make_room() -> io::Result<()> {
    sys::give_signal_stack(STACK)
}

fn only_abort() -> SigSet {
    SigSet::from(Signal::SIGABRT)
}

/// The handler. A second signal waits until this one is over, and ends the process as this one does.
extern "C" fn tell(number: i32) {
    let Ok(signal) = Signal::try_from(number) else {
        return;
    };
    match sys::signal_stack() {
        Some(STACK..) => tell_stack(signal),
        // Of a library's thread.
        _ => Line::say(format_args!(
            "{} on a thread that can't tell where",
            Fate(signal)
        )),
    }
    // The handler is gone by now (SA_RESETHAND): the kernel ends the process, and dumps its core if it may.
    let _ = raise(signal).and_then(|()| SigSet::from(signal).thread_unblock());
    std::process::abort();
}

/// What a signal does to a worker.
struct Fate(Signal);

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Signal::SIGABRT => f.write_str("aborted"),
            fault => write!(f, "crashed with {fault}"),
        }
    }
}

fn tell_stack(signal: Signal) {
    let mut stack = [0_usize; MOST_FRAMES];
    let mut depth = 0;
    backtrace::trace(|frame| {
        if frame.ip().is_null() {
            // The bottom of a thread.
            return false;
        }
        stack[depth] = frame.ip().addr();
        depth += 1;
        // All of this up to here is the handler's own.
        if frame.symbol_address().addr() == (tell as extern "C" fn(i32)) as usize {
            depth = 0;
        }
        depth < MOST_FRAMES
    });
    let stack = &stack[..depth];
    Line::say(format_args!(
        "{} on thread {}; its stack, innermost first (+ in the program):{}",
        Fate(signal),
        ThreadName::own(),
        Addresses(stack)
    ));
    for (number, address) in stack.iter().enumerate() {
        let mut known = false;
        // An address is where a call returns to: the call itself is before it.
        let call = std::ptr::without_provenance_mut(address.saturating_sub(1));
        backtrace::resolve(call, |symbol| {
            known = true;
            Line::say(format_args!("{number:>4}: {}", Named(symbol)));
        });
        if !known {
            Line::say(format_args!("{number:>4}: {address:#x}"));
        }
    }
}

/// A function, and where in its source.
struct Named<'s>(&'s backtrace::Symbol);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name() {
            // Without the compiler's hash.
            Some(name) => write!(f, "{name:#}")?,
            None => f.write_str("?")?,
        }
        if let (Some(file), Some(line)) = (self.0.filename(), self.0.lineno()) {
            write!(f, " at {}:{line}", file.display())?;
        }
        Ok(())
    }
}

/// Addresses: those in the program from its beginning on, as `addr2line -Cfie PROGRAM` takes them, others as they are.
struct Addresses<'s>(&'s [usize]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = sys::program_range();
        for address in self.0 {
            match program.contains(address) {
                true => write!(f, " +{:#x}", address - program.start)?,
                false => write!(f, " {address:#x}")?,
            }
        }
        Ok(())
    }
}

/// The thread's name, as proc(5) tells it: at most 15 bytes.
struct ThreadName([u8; 16], usize);

impl ThreadName {
    fn own() -> Self {
        let mut name = [0; 16];
        let read = File::open("/proc/thread-self/comm").and_then(|mut file| file.read(&mut name));
        ThreadName(name, read.unwrap_or(0))
    }
}

impl fmt::Display for ThreadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = std::str::from_utf8(&self.0[..self.1]).unwrap_or_default();
        match name.trim_end() {
            "" => f.write_str("?"),
            name => f.write_str(name),
        }
    }
}

/// A line on the log's standard error, made without the logger, whose locks may be taken, and without memory.
struct Line {
    text: [u8; LONGEST],
    length: usize,
}

impl Line {
    fn say(what: fmt::Arguments<'_>) {
        let mut line = Line {
            text: [0; LONGEST],
            length: 0,
        };
        let slot = SLOT.load(Ordering::Relaxed);
        // What is too long is cut off, and has an end all the same.
        let _ = write!(
            line,
            "{}",
            logging::Line {
                level: Level::Error,
                room: "worker",
                message: format_args!("worker {slot}: {what}"),
                fields: None,
            }
        );
        line.text[line.length] = b'\n';
        // Nobody is left to be told that nobody reads it.
        let _ = nix::unistd::write(io::stderr().as_fd(), &line.text[..=line.length]);
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte is for the line's end.
        let room = &mut self.text[self.length..LONGEST - 1];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        match length == text.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}
