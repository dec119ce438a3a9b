//! What one image of the program hands to the next across execve(2), or to a child of the next that looks whether it could
//! take it: a sealed memfd that holds a text, whose number an environment variable tells. The text names the descriptors
//! that were left open. The command line is in it too, for it may hold secrets: `ps` is shown one without them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{getpid, getppid};
use serde::{Deserialize, Serialize};

use super::admin::HandedAdmin;
use super::control::HandedControl;
use super::history::History;
use super::listeners::HandedListeners;
use super::plan::Standing;
use super::wishes::Wishes;
use crate::scoreboard::histogram::{BOUNDS_US, BUCKETS, Counts};
use crate::scoreboard::published::ChangeCounts;
use crate::scoreboard::{Scoreboard, Sums};
use crate::sys;
use crate::worker::control;

/// The environment variable that tells the descriptor. Nobody but a master sets it.
pub const VARIABLE: &str = "CANVAS_HANDOVER";

/// The only argument of the child that looks whether its image could take over.
pub const CHECK: &str = "--upgrade-check";

/// What that child prints if it could: the exit code alone would let any program pass.
pub const CONSENT: &str = "canvas-cluster can take over";

/// To be raised when the text, or what it names, comes to mean something else. An image takes no other.
const FORMAT: u32 = 2;

/// The longest text that is read: 1024 slots with as many sockets on each of many addresses are a tenth of it.
const MOST_BYTES: u64 = 16 << 20;

/// All that the next image has to know.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    #[serde(flatten)]
    pub label: Label,
    /// Where the program's file is, as an absolute path.
    pub program: OsString,
    /// The command line, program name first and secrets included.
    pub arguments: Vec<OsString>,
    pub listeners: HandedListeners,
    /// None of an image that knows no admin listener.
    #[serde(default)]
    pub admin: Option<HandedAdmin>,
    pub scoreboard: HandedTable,
    pub children: Vec<HandedChild>,
    pub plan: Standing,
    pub control: HandedControl,
    pub history: History,
    /// How many changes there were.
    #[serde(default)]
    pub change_counts: ChangeCounts,
    /// What was asked for and has to wait until the upgrade is over.
    pub wishes: Wishes,
    /// When the server started, as a [`moment`](crate::scoreboard::moment).
    pub started: u64,
    /// The same in Unix milliseconds; 0 of an image that does not tell it.
    #[serde(default)]
    pub started_ms: u64,
}

/// The scoreboard.
#[derive(Serialize, Deserialize)]
pub struct HandedTable {
    pub descriptor: RawFd,
    /// The counters' names, in the order of their places.
    pub counters: Vec<String>,
    /// What was counted in it, for an image that lays its own out in another way and can't look.
    #[serde(default)]
    pub bequest: Option<Bequest>,
}

/// What was counted until the hand-over.
#[derive(Serialize, Deserialize)]
pub struct Bequest {
    /// By the counters' names.
    counters: Vec<(String, u64)>,
    bounds_us: Vec<u64>,
    latency: HandedHistogram,
    queue_delay: HandedHistogram,
    /// CPU time by slot, in microseconds.
    slot_cpu: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct HandedHistogram {
    counts: Vec<u64>,
    sum_ns: u64,
}

impl Bequest {
    /// What this table holds, which has had so many slots.
    pub fn of(scoreboard: Scoreboard, slots: usize) -> Self {
        let sums = scoreboard.sums();
        let named = sums.counters();
        Bequest {
            counters: named
                .map(|(counter, count)| (counter.name(), count))
                .collect(),
            bounds_us: BOUNDS_US.to_vec(),
            latency: HandedHistogram::of(&sums.latency),
            queue_delay: HandedHistogram::of(&sums.queue_delay),
            slot_cpu: (0..slots).map(|slot| scoreboard.slot_cpu(slot)).collect(),
        }
    }

    /// Goes on from it in another table. Histograms with other bounds can't be gone on with.
    pub fn pass_to(&self, scoreboard: Scoreboard) {
        let counts = |handed: &HandedHistogram| match self.bounds_us == BOUNDS_US {
            true => handed.counts(),
            false => Counts::default(),
        };
        let sums = Sums::named(
            &self.counters,
            counts(&self.latency),
            counts(&self.queue_delay),
        );
        scoreboard.inherit(&sums);
        for (slot, micros) in self.slot_cpu.iter().enumerate() {
            scoreboard.add_slot_cpu(slot, *micros);
        }
    }
}

impl HandedHistogram {
    fn of(counts: &Counts) -> Self {
        HandedHistogram {
            counts: counts.buckets.to_vec(),
            sum_ns: counts.sum_ns,
        }
    }

    fn counts(&self) -> Counts {
        let buckets = <[u64; BUCKETS]>::try_from(self.counts.as_slice());
        buckets.map_or_else(
            |_| Counts::default(),
            |buckets| Counts {
                buckets,
                sum_ns: self.sum_ns,
            },
        )
    }
}

/// A living worker.
#[derive(Serialize, Deserialize)]
pub struct HandedChild {
    pub worker: u64,
    pub pid: i32,
    pub slot: usize,
    /// Its row of the scoreboard; none if that is not the worker's.
    pub row: Option<usize>,
    pub channel: RawFd,
    pub ready: bool,
    /// When it was started, in Unix milliseconds; 0 of an image that does not tell it.
    #[serde(default)]
    pub started_ms: u64,
}

/// The part of the text that every image can read.
#[derive(Serialize, Deserialize)]
pub struct Label {
    format: u32,
    /// The protocol of the workers' channels.
    #[serde(default)]
    protocol: u32,
    /// The master, who stays the same process.
    #[serde(default)]
    master: i32,
    /// The version of the image that hands over.
    #[serde(default)]
    pub version: String,
}

impl Label {
    /// That of what this image hands over, which is the master.
    pub fn own() -> Self {
        Label {
            format: FORMAT,
            protocol: control::PROTOCOL,
            master: getpid().as_raw(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl Handover {
    /// Writes it into a sealed memory of its own.
    ///
    /// # Errors
    /// No memory, or too many open files.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut memory = File::from(memfd_create("canvas-cluster-handover", flags)?);
        memory.write_all(&serde_json::to_vec(self)?)?;
        memory.seek(SeekFrom::Start(0))?;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(sealed()))?;
        Ok(memory.into())
    }

    fn read(descriptor: &OsStr) -> Result<Self, String> {
        let number = descriptor.to_str().and_then(|text| text.parse().ok());
        let number: RawFd = number.ok_or("not the number of a descriptor")?;
        let memory = sys::adopt_descriptor(number).map_err(|error| error.to_string())?;
        let seals = fcntl(&memory, FcntlArg::F_GET_SEALS).map_err(|error| error.to_string())?;
        if !SealFlag::from_bits_retain(seals).contains(sealed()) {
            return Err("it is not sealed".to_owned());
        }
        let mut text = Vec::new();
        File::from(memory)
            .take(MOST_BYTES)
            .read_to_end(&mut text)
            .map_err(|error| error.to_string())?;
        Handover::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let label: Label = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if (label.format, label.protocol) != (FORMAT, control::PROTOCOL) {
            return Err(format!(
                "it is of format {} and protocol {}, and this version knows {FORMAT} and {}; restart instead",
                label.format,
                label.protocol,
                control::PROTOCOL
            ));
        }
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }
}

fn sealed() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// What this process was started for.
pub enum Arrival {
    /// A person or a service manager started it.
    Fresh,
    /// A master wants to know whether this image could take over from it: answer with [`CONSENT`].
    Check(Box<Handover>),
    /// It is a master already, and goes on with what the image before it had.
    TakeOver(Box<Handover>),
}

impl Arrival {
    /// Reads what was handed over, if anything was. `arguments` is the whole command line.
    ///
    /// # Errors
    /// Why it can't be taken.
    pub fn of(arguments: &[OsString], variable: Option<OsString>) -> Result<Self, String> {
        let Some(descriptor) = variable else {
            return Ok(Arrival::Fresh);
        };
        let refused = |why| format!("{VARIABLE} is set, but can't be taken over: {why}");
        let handover = Box::new(Handover::read(&descriptor).map_err(refused)?);
        let checks = is_asked(arguments);
        let master = match checks {
            true => getppid(),
            false => getpid(),
        };
        if handover.label.master != master.as_raw() {
            return Err(refused("it is another process's".to_owned()));
        }
        Ok(match checks {
            true => Arrival::Check(handover),
            false => Arrival::TakeOver(handover),
        })
    }

    /// The command line that counts instead of the one that `ps` shows.
    pub fn arguments(&self) -> Option<&[OsString]> {
        match self {
            Arrival::Fresh => None,
            Arrival::Check(handover) | Arrival::TakeOver(handover) => Some(&handover.arguments),
        }
    }
}

/// Whether the command line is that of a child which looks whether its image could take over. It says on its standard output
/// why not.
pub fn is_asked(arguments: &[OsString]) -> bool {
    matches!(arguments, [_, only] if only == CHECK)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scoreboard::counters::Counter;

    #[test]
    fn only_a_text_of_this_format_is_taken() {
        let refused = |text: &str| Handover::parse(text.as_bytes()).err().expect("refused");
        assert!(refused("{").contains("EOF"));
        let other = format!("{{\"format\":{},\"protocol\":1}}", FORMAT + 1);
        assert!(refused(&other).contains("restart instead"));
        let other = format!("{{\"format\":{FORMAT},\"protocol\":0}}");
        assert!(refused(&other).contains("restart instead"));
        let lacking = format!("{{\"format\":{FORMAT},\"protocol\":{}}}", control::PROTOCOL);
        assert!(refused(&lacking).contains("missing field"));
    }

    #[test]
    fn what_was_counted_goes_on_in_another_table() {
        let (old, new) = (
            Scoreboard::new().expect("shared memory"),
            Scoreboard::new().expect("shared memory"),
        );
        old.use_row(0);
        old.row(0).add(Counter::Requests, 7);
        old.row(0).note_latency(Duration::from_millis(3));
        old.add_slot_cpu(1, 5);
        let text = serde_json::to_vec(&Bequest::of(old, 2)).expect("JSON");
        let mut bequest: Bequest = serde_json::from_slice(&text).expect("our own");
        bequest.pass_to(new);
        assert_eq!(new.sums(), old.sums());
        assert_eq!((new.slot_cpu(0), new.slot_cpu(1)), (0, 5));
        // Counts of other buckets mean nothing.
        let other = Scoreboard::new().expect("shared memory");
        bequest.bounds_us[0] += 1;
        bequest.pass_to(other);
        assert_eq!(other.total(Counter::Requests), 7);
        assert_eq!(other.sums().latency, Counts::default());
    }

    #[test]
    fn what_nobody_sealed_or_left_open_is_not_taken() {
        use std::os::fd::AsRawFd;
        let refused = |descriptor: &str| {
            let arrival = Arrival::of(&[], Some(descriptor.into()));
            arrival.err().expect("refused")
        };
        assert!(refused("one").contains("number"));
        assert!(refused("1").contains("standard"));
        assert!(refused("1000000").contains("Bad file"));
        let own = tempfile::tempfile().expect("a file");
        assert!(refused(&own.as_raw_fd().to_string()).contains("not handed over"));
        assert!(matches!(Arrival::of(&[], None), Ok(Arrival::Fresh)));
    }
}
