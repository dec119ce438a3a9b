//! USR2: the master goes on as the program that its file now holds, with the same pid, sockets, workers and scoreboard.
//!
//! First a child of the new image looks whether it could: it reads the configuration and what it is to be handed. Then
//! the master becomes the new image by execve(2), which takes the workers for its own, and replaces them as in a reload.
//! Whatever fails before the exec changes nothing. From before the exec until there are handlers again signals are blocked,
//! and wait.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, execve};

use super::Master;
use super::handover::{self, Arrival, Bequest, HandedChild, HandedTable, Handover, Label};
use super::notify::Phase;
use super::plan::Event;
use super::process::End;
use super::signals::{Blocked, Request};
use crate::config::{MOST_WORKERS, secret_spans};
use crate::ctl::message::{Answer, What};
use crate::scoreboard;
use crate::scoreboard::counters::Counter;

/// How long the new image may look whether it could take over.
const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// How much of its answer is read.
const MOST_ANSWER: u64 = 1024;

/// The way to another image.
pub(super) struct Upgrade {
    /// The file of the program.
    program: PathBuf,
    stage: Stage,
}

enum Stage {
    Idle,
    /// Asked for; what the workers are at comes first.
    Wished,
    /// A child looks.
    Checking(Check),
    /// The new image could take over.
    Checked,
}

struct Check {
    /// Its process, and the group of whatever it starts.
    child: Pid,
    until: Instant,
    answer: File,
}

impl Upgrade {
    pub(super) fn of(program: PathBuf) -> Self {
        Upgrade {
            program,
            stage: Stage::Idle,
        }
    }

    /// Another one while one is under way is the same.
    pub(super) fn wish(&mut self) {
        if let Stage::Idle = self.stage {
            self.stage = Stage::Wished;
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// Whether it does not wait for anything else any more.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.stage, Stage::Checking(_) | Stage::Checked)
    }

    /// When the check has lasted too long.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Checking(check) => Some(check.until),
            Stage::Idle | Stage::Wished | Stage::Checked => None,
        }
    }

    /// Forgets it.
    pub(super) fn abandon(&mut self) {
        if let Stage::Checking(check) = std::mem::replace(&mut self.stage, Stage::Idle) {
            check.end();
        }
    }

    /// Hears that a child has ended; false if it is not the one that looks. `Err` is why the new image can't take over.
    pub(super) fn hear_end(&mut self, pid: Pid, end: End) -> Option<Result<(), String>> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Checking(check) if check.child == pid => {
                let verdict = check.verdict(end);
                if verdict.is_ok() {
                    self.stage = Stage::Checked;
                }
                Some(verdict)
            }
            other => {
                self.stage = other;
                None
            }
        }
    }
}

impl Check {
    fn start(program: &Path, handover: &Handover) -> io::Result<Self> {
        let memory = handover.seal()?;
        let (answer, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // Our end alone: whatever writes too much shall wait, for its time to be over.
        fcntl(&answer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        set_inherited(memory.as_fd(), true)?;
        let child = Command::new(program)
            .arg(handover::CHECK)
            .env(handover::VARIABLE, memory.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .stdout(theirs)
            .process_group(0)
            .spawn()?;
        Ok(Check {
            child: Pid::from_raw(child.id().cast_signed()),
            until: Instant::now() + CHECK_WITHIN,
            answer: answer.into(),
        })
    }

    fn end(&self) {
        if let Err(error) = killpg(self.child, Signal::SIGKILL) {
            log::debug!("master: the check of the new program is gone already: {error}");
        }
    }

    fn verdict(self, end: End) -> Result<(), String> {
        // What it has started and left behind has nothing to do any more.
        self.end();
        let mut answer = Vec::new();
        // The pipe may still be open elsewhere: then reading ends for want of more.
        let _ = self.answer.take(MOST_ANSWER).read_to_end(&mut answer);
        if end != End::Exit(0) {
            // One of ours says why, there and in the log.
            let why = one_line(&answer);
            return Err(match why.is_empty() {
                true => format!("its check ended with {end}"),
                false => format!("its check ended with {end}: {why}"),
            });
        }
        match answer.trim_ascii() == handover::CONSENT.as_bytes() {
            true => Ok(()),
            false => Err("its check does not answer as it should".to_owned()),
        }
    }
}

/// What a program has printed, for a log and for people.
fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// The file of this program, which an upgrade reads anew: as it was called, for the kernel's own name of it is that of a file
/// which will have been replaced. `called` is the first word of the command line.
pub(super) fn program(called: &OsStr) -> PathBuf {
    let running = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let inode = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<PathBuf> = match called.as_bytes().contains(&b'/') {
        true => vec![called.into()],
        false => std::env::split_paths(&search)
            .map(|folder| folder.join(called))
            .collect(),
    };
    candidates
        .into_iter()
        .find(|path| {
            inode(path)
                .ok()
                .is_some_and(|found| inode(&running).ok() == Some(found))
        })
        .and_then(|path| std::path::absolute(path).ok())
        .unwrap_or(running)
}

/// What the service manager says of the descriptors that it passes (sd_listen_fds(3)).
const PASSED: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

impl Master {
    /// Does the next step of an upgrade, if one is due. Does not return if that was the last one.
    pub(super) fn pursue_upgrade(&mut self) -> Vec<Event> {
        if self.plan.is_leaving() {
            self.upgrade.abandon();
        }
        match &mut self.upgrade.stage {
            Stage::Idle => {}
            // The one before this is over when its workers serve, or have failed to.
            Stage::Wished if self.upgraded_from.is_some() => {}
            Stage::Wished => self.start_check(),
            Stage::Checking(check) => {
                if check.until <= Instant::now() {
                    let why = format!("its check takes longer than {CHECK_WITHIN:?}");
                    self.upgrade.abandon();
                    self.refuse_upgrade(&why);
                }
            }
            Stage::Checked => return self.hand_over(),
        }
        Vec::new()
    }

    fn start_check(&mut self) {
        let Some(handover) = self.handover() else {
            return;
        };
        self.begin(What::Upgrade);
        let program = self.upgrade.program.clone();
        log::info!("master: upgrading: checking {}", program.display());
        self.manager
            .tell(Phase::Reloading, "upgrading: checking the new program");
        match Check::start(&program, &handover) {
            Ok(check) => self.upgrade.stage = Stage::Checking(check),
            Err(error) => self.refuse_upgrade(&format!("it can't be run: {error}")),
        }
    }

    pub(super) fn refuse_upgrade(&mut self, why: &str) {
        self.upgrade.stage = Stage::Idle;
        let program = self.upgrade.program.display();
        log::error!("master: upgrade to {program} refused, everything stays as it is: {why}");
        let why = format!("{program} can't take over: {why}");
        self.conclude(&Answer::Refused { why });
    }

    /// What there is to hand over; none while workers are being replaced.
    fn handover(&self) -> Option<Handover> {
        // A reload that prepares has begun, although nobody is being replaced yet.
        let plan = self
            .plan
            .standing()
            .filter(|_| self.change.preparation.is_none())?;
        let children = self.children.values().map(|child| HandedChild {
            worker: child.worker.0,
            pid: child.pid.as_raw(),
            slot: child.slot,
            row: child.row,
            channel: child.channel.as_fd().as_raw_fd(),
            ready: child.ready,
            started_ms: child.started_ms,
        });
        let age = self.started.elapsed().as_millis() as u64;
        Some(Handover {
            label: Label::own(),
            program: self.upgrade.program.clone().into(),
            arguments: self.sources.args().to_vec(),
            listeners: self.listeners.handed(),
            admin: self.admin.handed(),
            scoreboard: HandedTable {
                descriptor: self.memory.as_raw_fd(),
                counters: Counter::all().map(Counter::name).collect(),
                bequest: Some(Bequest::of(self.scoreboard, MOST_WORKERS)),
            },
            children: children.collect(),
            plan,
            control: self.control.handed(),
            history: self.history.clone(),
            change_counts: self.change_counts,
            wishes: self.wishes,
            started: scoreboard::moment().saturating_sub(age),
            started_ms: self.started_ms,
        })
    }

    /// Becomes the new image, unless the server was told to stop in the meantime. Waits for clients of the control socket that
    /// have half of an answer: they are soon done, or dropped.
    fn hand_over(&mut self) -> Vec<Event> {
        if self.control.is_answering() {
            return Vec::new();
        }
        // The next image goes on from what is counted now.
        self.scoreboard.silence();
        let events = self.become_the_next();
        self.scoreboard.speak();
        events
    }

    /// Comes back only if it can't.
    fn become_the_next(&mut self) -> Vec<Event> {
        if self.handover().is_none() {
            return Vec::new();
        }
        let blocked = match Blocked::now() {
            Ok(blocked) => blocked,
            Err(error) => {
                self.refuse_upgrade(&format!("signals can't be made to wait: {error}"));
                return Vec::new();
            }
        };
        // What this image's handlers have heard, and the next one's never will.
        let heard = self.signals.take();
        if heard.contains(&Request::Stop) || heard.contains(&Request::Abort) {
            drop(blocked);
            return self.heed(&heard);
        }
        // Heeded here, they are handed over as wishes. One to read the configuration again comes true with the upgrade.
        let events = self.heed(&heard);
        self.manager.tell(Phase::Reloading, "upgrading");
        let error = match self.handover().map(|handover| self.exec(&handover)) {
            Some(Ok(never)) => match never {},
            Some(Err(error)) => error,
            None => io::Error::other("a worker is being replaced"),
        };
        drop(blocked);
        self.refuse_upgrade(&format!("it can't be run: {error}"));
        events
    }

    fn exec(&self, handover: &Handover) -> io::Result<std::convert::Infallible> {
        let memory = handover.seal()?;
        let program = CString::new(self.upgrade.program.as_os_str().as_bytes())?;
        let arguments = masked(&handover.arguments);
        let arguments: Result<Vec<_>, _> = arguments.into_iter().map(CString::new).collect();
        let mut environment: Vec<(OsString, OsString)> = std::env::vars_os()
            .filter(|(name, _)| name != handover::VARIABLE)
            // The pid stays, so these would pass descriptors that by then are others.
            .filter(|(name, _)| !PASSED.iter().any(|passed| name == passed))
            .collect();
        environment.push((
            handover::VARIABLE.into(),
            memory.as_raw_fd().to_string().into(),
        ));
        let environment: Result<Vec<_>, _> = environment
            .into_iter()
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect();
        let (arguments, environment) = (arguments?, environment?);
        self.set_all_inherited(true)?;
        set_inherited(memory.as_fd(), true)?;
        let executed = execve(&program, &arguments, &environment);
        self.set_all_inherited(false)?;
        Ok(executed?)
    }

    /// Leaves everything open that is handed over across an exec, or closes it there again.
    fn set_all_inherited(&self, inherited: bool) -> io::Result<()> {
        let channels = self.children.values().map(|child| child.channel.as_fd());
        let sockets = self.listeners.descriptors();
        let control = self.control.descriptors();
        let admin = self.admin.descriptors();
        let all = channels.chain(sockets).chain(control).chain(admin);
        for descriptor in all.chain([self.memory.as_fd()]) {
            set_inherited(descriptor, inherited)?;
        }
        Ok(())
    }
}

fn set_inherited(descriptor: BorrowedFd<'_>, inherited: bool) -> io::Result<()> {
    let flags = match inherited {
        true => FdFlag::empty(),
        false => FdFlag::FD_CLOEXEC,
    };
    fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// The command line as `ps` has shown it ever since the start: each byte of a secret is a `*`.
fn masked(arguments: &[OsString]) -> Vec<Vec<u8>> {
    let mut masked: Vec<Vec<u8>> = arguments
        .iter()
        .map(|word| word.clone().into_vec())
        .collect();
    for (index, span) in secret_spans(arguments) {
        masked[index][span].fill(b'*');
    }
    masked
}

/// What this process was started for; see [`Arrival::of`].
///
/// # Errors
/// What was handed over can't be taken.
pub fn arrive(arguments: &[OsString]) -> Result<Arrival, String> {
    Arrival::of(arguments, std::env::var_os(handover::VARIABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_one_line() {
        let said = b"error: no\n\n\x1b[1mfor more\tsee\xff\0--help\n";
        assert_eq!(one_line(said), "error: no [1mfor more see\u{fffd} --help");
        assert_eq!(one_line(b" \n"), "");
    }

    #[test]
    fn the_command_line_is_shown_as_long_as_it_is_and_without_secrets() {
        let line = ["c", "--database-url", "postgres://u:pw@h/d", "--workers=2"];
        let shown = masked(&line.map(OsString::from));
        assert_eq!(shown[2], b"postgres://u:**@h/d");
        assert_eq!(shown[3], b"--workers=2");
    }

    #[test]
    fn the_program_is_found_as_it_was_called_even_when_that_is_no_path() {
        let own = std::env::current_exe().expect("a program");
        assert_eq!(program(own.as_os_str()), own);
        let link = tempfile::tempdir().expect("a folder");
        let link = link.path().join("current");
        std::os::unix::fs::symlink(&own, &link).expect("a link");
        assert_eq!(program(link.as_os_str()), link);
        // A name that a wrapper made up.
        assert_eq!(program(OsStr::new("-canvas")), own);
        assert_eq!(program(OsStr::new("/nowhere/canvas")), own);
    }
}
