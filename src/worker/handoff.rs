//! A worker that starts takes over what the cache of one that serves holds: otherwise every reload, upgrade and crash would
//! send all of its readers to the database at once. The master names the donor and connects the two.
//!
//! What is handed on is content and the generation that it was asked for under. The generations are the host's, so what a
//! write has made old counts on neither side, whenever it came; the new worker dresses what it has got with its own
//! headers. Nothing is waited for long: who gets nothing starts with nothing.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::panics::start_vital;
use crate::app::manners::Page;
use crate::cache::l1::{Handed, L1};
use crate::config::{Config, Database};
use crate::http::watch::Watch;
use crate::scoreboard::Scoreboard;

/// How long the heir waits for the first word: who does not answer by then has other troubles.
const FIRST_WORD: Duration = Duration::from_millis(250);

/// How long all of it may take, from the first word on, and one wait within it. A full cache of 64 MiB takes a tenth of this.
const WHOLE: Duration = Duration::from_secs(2);

/// How long the donor waits until the heir wants something: it has to boot first.
const UNTIL_WANTED: Duration = Duration::from_secs(30);

/// To be raised when the words mean something else, or `app::images` renders rows in another way.
const FORMAT: u32 = 1;

/// What the heir says when it is ready to take.
const WANTED: u8 = b'W';

/// How many bytes go at once.
const BLOCK: usize = 1 << 16;

/// No answer is longer. A list of 1,000 rows, each of nine media of 2,048 characters that JSON writes with six bytes, is shorter.
const LONGEST: u32 = 128 << 20;

/// Whose answers these are. What one worker knows is worth something to another only if this is equal on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin(u64);

impl Origin {
    /// Of the answers that come from the configured database under the generations of this scoreboard.
    pub fn new(config: &Config, scoreboard: Scoreboard) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&FORMAT.to_le_bytes());
        hash.update(&scoreboard.identity().to_le_bytes());
        match &config.database {
            Database::Embedded { path } => hash.update(path.as_os_str().as_bytes()),
            Database::Url(url) => hash.update(url.expose().as_bytes()),
        }
        Origin(hash.digest())
    }
}

/// The worker's own side of both: what it has, and where that comes from.
#[derive(Clone)]
pub struct Handoff {
    pub l1: Arc<L1<Arc<Page>>>,
    pub watch: Arc<Watch>,
    pub origin: Origin,
}

impl Handoff {
    /// Hands a copy of the cache to a worker that starts, as soon as it wants it. Returns at once.
    pub fn give(&self, heir: UnixStream) {
        let donor = self.clone();
        let started = thread::Builder::new()
            .name("handoff".to_owned())
            .spawn(move || {
                // The heir says what it got; that it is gone is the master's to say.
                if let Err(error) = donor.serve(&heir) {
                    log::debug!("worker: did not hand its cache on: {error}");
                }
            });
        if let Err(error) = started {
            log::debug!("worker: can't hand its cache on: {error}");
        }
    }

    fn serve(&self, mut heir: &UnixStream) -> io::Result<()> {
        heir.set_read_timeout(Some(UNTIL_WANTED))?;
        let mut word = [0];
        heir.read_exact(&mut word)?;
        if word != [WANTED] {
            return Err(ErrorKind::InvalidData.into());
        }
        let answers = self.look()?;
        let over = Instant::now() + WHOLE;
        heir.set_write_timeout(Some(WHOLE))?;
        let mut out = BufWriter::with_capacity(BLOCK, heir);
        out.write_all(&self.origin.0.to_le_bytes())?;
        for answer in answers {
            in_time(over)?;
            write_answer(&mut out, &answer)?;
        }
        out.flush()
    }

    /// What the cache holds. Looked at on the scheduler's thread, where nobody else holds its lock.
    fn look(&self) -> io::Result<Vec<Handed<Arc<Page>>>> {
        let (send, seen) = mpsc::channel();
        let donor = self.clone();
        start_vital(move || {
            // Nobody waits any more: the scheduler was very busy.
            let _ = send.send(donor.l1.hand_on(donor.watch.now()));
        })?;
        seen.recv_timeout(WHOLE)
            .map_err(|_| ErrorKind::TimedOut.into())
    }

    /// Takes over what the donor at the other end has, dressed by `page`, and says how that went. Before the worker serves.
    pub fn take(&self, slot: usize, donor: &UnixStream, page: impl Fn(Bytes) -> Page) {
        let begun = Instant::now();
        let mut count = 0;
        let taken = self.fill(&mut count, donor, page);
        let took = begun.elapsed().as_millis();
        match taken {
            Ok(()) => {
                log::debug!("worker {slot}: took {count} answers over from another, in {took} ms")
            }
            Err(error) => log::debug!(
                "worker {slot}: took {count} answers over from another in {took} ms, and missed the others: {error}"
            ),
        }
    }

    /// # Errors
    /// The donor has another origin, does not answer in time, or ends in the middle; what has come until then is kept.
    fn fill(
        &self,
        count: &mut usize,
        mut donor: &UnixStream,
        page: impl Fn(Bytes) -> Page,
    ) -> io::Result<()> {
        donor.set_write_timeout(Some(FIRST_WORD))?;
        donor.write_all(&[WANTED])?;
        donor.set_read_timeout(Some(FIRST_WORD))?;
        let mut from = BufReader::with_capacity(BLOCK, donor);
        if u64::from_le_bytes(read_array(&mut from)?) != self.origin.0 {
            return Err(io::Error::other("it serves other data"));
        }
        let over = Instant::now() + WHOLE;
        donor.set_read_timeout(Some(WHOLE))?;
        while let Some(handed) = read_answer(&mut from)? {
            in_time(over)?;
            let handed = handed.map(|content| Arc::new(page(content)));
            let bytes = handed.answer.size();
            let is_taken = self.l1.take_over(handed, bytes, self.watch.now());
            *count += usize::from(is_taken);
        }
        Ok(())
    }
}

fn in_time(over: Instant) -> io::Result<()> {
    match Instant::now() < over {
        true => Ok(()),
        false => Err(ErrorKind::TimedOut.into()),
    }
}

fn write_answer(out: &mut impl Write, handed: &Handed<Arc<Page>>) -> io::Result<()> {
    let content = handed.answer.content();
    let Ok(length) = u32::try_from(content.len()) else {
        return Ok(());
    };
    out.write_all(&handed.shoe_id.to_le_bytes())?;
    out.write_all(&handed.generation.to_le_bytes())?;
    out.write_all(&handed.left.to_le_bytes())?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(content)
}

/// The next answer; none at the end.
fn read_answer(from: &mut impl BufRead) -> io::Result<Option<Handed<Bytes>>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let shoe_id = i32::from_le_bytes(read_array(from)?);
    let generation = u64::from_le_bytes(read_array(from)?);
    let left = i64::from_le_bytes(read_array(from)?);
    let length = u32::from_le_bytes(read_array(from)?);
    if length > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut content = vec![0; length as usize];
    from.read_exact(&mut content)?;
    Ok(Some(Handed {
        shoe_id,
        answer: content.into(),
        generation,
        left,
    }))
}

fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(content: &str) -> Arc<Page> {
        let manners = crate::app::manners::Manners::new(Duration::ZERO, Vec::new());
        Arc::new(manners.page(
            "application/json",
            Bytes::copy_from_slice(content.as_bytes()),
        ))
    }

    #[test]
    fn answers_are_read_as_they_were_written_and_parts_of_one_are_none() {
        let mut written = Vec::new();
        for (shoe_id, content, left) in [(7, "[1]", 5), (-8, "", -60_000)] {
            let handed = Handed {
                shoe_id,
                answer: page(content),
                generation: u64::MAX,
                left,
            };
            write_answer(&mut written, &handed).expect("written");
        }
        let mut from = written.as_slice();
        let mut next = || read_answer(&mut from).expect("whole");
        let first = next().expect("one");
        assert_eq!(
            (first.shoe_id, &first.answer[..], first.left),
            (7, &b"[1]"[..], 5)
        );
        let second = next().expect("another");
        assert_eq!((second.shoe_id, second.left), (-8, -60_000));
        assert_eq!((second.generation, second.answer.len()), (u64::MAX, 0));
        assert!(next().is_none());
        for length in 1..written.len() {
            let mut from = &written[..length];
            let end = loop {
                match read_answer(&mut from) {
                    Ok(Some(_)) => {}
                    end => break end,
                }
            };
            // Cut between the two it is the end of a shorter cache.
            let whole = length == written.len() - 24;
            assert_eq!(end.is_ok(), whole, "{length} bytes");
        }
        let mut long = written.clone();
        long[20..24].copy_from_slice(&(LONGEST + 1).to_le_bytes());
        assert!(read_answer(&mut long.as_slice()).is_err());
    }
}
