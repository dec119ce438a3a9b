//! Writes the access log: a thread that takes what has gathered and appends it to a file or standard output. A disk
//! that hangs keeps this thread and nobody else.
//!
//! All workers append to the same file. Each write(2) to it holds whole lines, and O_APPEND keeps writes of several
//! processes apart; to a pipe or a terminal no more than PIPE_BUF bytes go at once, for the same reason.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::{AccessFormat, AccessTarget};
use crate::http::access::{AccessLog, BATCH, LONGEST};

/// How often lines that were lost are told of.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Who may read the log besides its owner: its group. It holds addresses of people.
const MODE: u32 = 0o640;

/// The thread, as the worker holds it.
pub struct Scribe {
    log: Arc<AccessLog>,
    done: Receiver<()>,
}

impl Scribe {
    /// Opens the log and starts the thread.
    ///
    /// # Errors
    /// The file can't be opened for appending, or there is no thread left; in words.
    pub fn start(target: &AccessTarget, format: AccessFormat) -> Result<Self, String> {
        let file = open(target).map_err(|error| format!("can't open {}: {error}", name(target)))?;
        let log = Arc::new(AccessLog::new(format));
        let (finished, done) = mpsc::channel();
        let mut writer = Writer {
            target: target.clone(),
            out: Out::new(file),
            lost: 0,
            said: None,
        };
        let taken = log.clone();
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                writer.run(&taken);
                // The worker may have stopped waiting.
                let _ = finished.send(());
            })
            .map_err(|error| format!("can't start the thread of the access log: {error}"))?;
        Ok(Scribe { log, done })
    }

    /// What connections write into.
    pub fn log(&self) -> Arc<AccessLog> {
        self.log.clone()
    }

    /// Writes what is there, if that can be done in this time.
    pub fn finish(self, within: Duration) {
        self.log.close();
        if self.done.recv_timeout(within).is_err() {
            log::warn!("access log: the last lines could not be written in time and are lost");
        }
    }
}

/// Makes the file of a log, which must not be there.
///
/// # Errors
/// Those of open(2).
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
}

/// Whether the log can be opened for appending.
///
/// # Errors
/// It can't; in words.
pub fn check(target: &AccessTarget) -> Result<(), String> {
    match open(target) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("can't open {}: {error}", name(target))),
    }
}

fn open(target: &AccessTarget) -> io::Result<File> {
    match target {
        AccessTarget::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
        AccessTarget::File(path) => OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            // A FIFO without a reader is an error, not a reason to wait for ever.
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path),
    }
}

fn name(target: &AccessTarget) -> String {
    match target {
        AccessTarget::Stdout => "standard output for the access log".to_owned(),
        AccessTarget::File(path) => format!("the access log {}", path.display()),
    }
}

struct Writer {
    target: AccessTarget,
    out: Out<File>,
    /// Lines lost and not yet told of.
    lost: u64,
    said: Option<Instant>,
}

impl Writer {
    fn run(&mut self, log: &AccessLog) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let taken = log.take(&mut batch);
            if taken.reopen {
                self.reopen();
            }
            self.lost += taken.dropped;
            let trouble = match self.out.append(&batch) {
                Ok(()) => None,
                Err((error, lost)) => {
                    self.lost += lost;
                    Some(error)
                }
            };
            batch.clear();
            self.tell(trouble, taken.closed);
            if taken.closed {
                return;
            }
        }
    }

    /// Opens the file again. When that fails, the old one goes on.
    fn reopen(&mut self) {
        match open(&self.target) {
            Ok(file) => self.out = Out::new(file),
            Err(error) => log::warn!(
                "access log: can't open {} again, so lines go to where they went before: {error}",
                name(&self.target)
            ),
        }
    }

    fn tell(&mut self, trouble: Option<io::Error>, last: bool) {
        let quiet = self.said.is_some_and(|said| said.elapsed() < SAY_AGAIN);
        if self.lost == 0 || (quiet && !last) {
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        self.said = Some(Instant::now());
        match trouble {
            Some(error) => log::warn!("access log: {lost} lines are lost: {error}"),
            None => log::warn!("access log: {lost} lines are lost: it takes them too slowly"),
        }
    }
}

/// Where lines go, in pieces that stay whole.
struct Out<W> {
    to: W,
    /// The most bytes of one write.
    piece: usize,
    /// A write ended inside a line, so the next begins with a line feed.
    torn: bool,
}

impl Out<File> {
    fn new(to: File) -> Self {
        let regular = to.metadata().is_ok_and(|about| about.is_file());
        Out {
            to,
            piece: if regular { BATCH } else { LONGEST },
            torn: false,
        }
    }
}

impl<W: Write + AsFd> Out<W> {
    /// Appends whole lines. On an error, answers with how many of them were lost.
    fn append(&mut self, mut lines: &[u8]) -> Result<(), (io::Error, u64)> {
        while !lines.is_empty() {
            let piece = piece_of(lines, self.piece);
            let mut done = 0;
            while done < piece.len() {
                let written = match self.torn {
                    true => self.write(b"\n").map(|_| 0),
                    false => self.write(&piece[done..]),
                };
                match written {
                    Ok(count) => done += count,
                    Err(error) => {
                        self.torn |= done > 0 && piece[done - 1] != b'\n';
                        let lost = memchr::memchr_iter(b'\n', &lines[done..]).count();
                        return Err((error, lost as u64));
                    }
                }
                self.torn = false;
            }
            lines = &lines[piece.len()..];
        }
        Ok(())
    }

    /// One write, at least one byte. Waits for a pipe whose reader is slow.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.to.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut room = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut room, PollTimeout::NONE)?;
                }
                result => return result,
            }
        }
    }
}

/// As many whole lines from the front as fit into `most` bytes; no line is longer.
fn piece_of(lines: &[u8], most: usize) -> &[u8] {
    let window = &lines[..lines.len().min(most)];
    match memchr::memrchr(b'\n', window) {
        Some(end) => &window[..=end],
        None => window,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::fd::BorrowedFd;

    use super::*;

    /// Takes what it is told to take, or fails as told; then everything.
    struct Moody {
        moods: VecDeque<io::Result<usize>>,
        writes: Vec<Vec<u8>>,
        /// Always writable, so that nobody waits for it.
        ready: File,
    }

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = self.moods.pop_front().unwrap_or(Ok(usize::MAX))?;
            let count = most.min(bytes.len());
            self.writes.push(bytes[..count].to_vec());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Moody {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.ready.as_fd()
        }
    }

    fn out(piece: usize, moods: impl IntoIterator<Item = io::Result<usize>>) -> Out<Moody> {
        Out {
            to: Moody {
                moods: moods.into_iter().collect(),
                writes: Vec::new(),
                ready: OpenOptions::new()
                    .write(true)
                    .open("/dev/null")
                    .expect("/dev/null"),
            },
            piece,
            torn: false,
        }
    }

    fn full() -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn each_write_holds_whole_lines() {
        let mut out = out(8, []);
        out.append(b"one\ntwo\nthree\nfourth\nx\n").expect("room");
        assert_eq!(
            out.to.writes,
            [&b"one\ntwo\n"[..], b"three\n", b"fourth\n", b"x\n"]
        );
    }

    #[test]
    fn a_write_that_was_cut_short_or_interrupted_goes_on_where_it_stopped() {
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        let busy = || Err(io::ErrorKind::WouldBlock.into());
        let mut out = out(BATCH, [Ok(5), interrupted(), Ok(1), busy()]);
        out.append(b"one\ntwo\nthree\n").expect("room");
        assert_eq!(out.to.writes.concat(), b"one\ntwo\nthree\n");
    }

    /// A disk that was full in the middle of a line: half a line stays, and the next one must not be glued to it.
    #[test]
    fn after_a_full_disk_the_next_line_stands_on_its_own() {
        let mut out = out(BATCH, [Ok(5), full(), full()]);
        let (error, lost) = out.append(b"one\ntwo\nthree\n").expect_err("it is full");
        assert_eq!((error.kind(), lost), (io::ErrorKind::StorageFull, 2));
        assert_eq!(out.append(b"four\n").expect_err("still full").1, 1);
        out.append(b"five\n").expect("room again");
        assert_eq!(out.to.writes.concat(), b"one\nt\nfive\n");
    }
}
