//! Watching a primary and its replicas: a thread of each worker asks the primary how far it has written, several times in the time
//! that a replica may be behind, and one for each replica sees whether that may be read from. Each has a connection of its own,
//! so that it waits for no request, and one that hangs keeps no other.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::connect::Connector;
use super::error::call_text;
use super::lag::{Out, Sight};
use super::position::{self, OF_REPLICA_AND_CLUSTER, Replayed};
use super::replicas::{Known, Reader, lock};
use super::session::{CallError, Session};
use crate::store::{Deadline, Position, Progress, ReplicaSight};

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often is looked at most and at least.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);

/// How long the primary is left alone after it could not be reached.
const PAUSE: Duration = Duration::from_millis(100);

/// How often is looked, for replicas that may be so far behind.
fn interval(max_lag: Duration) -> Duration {
    (max_lag / 4).clamp(OFTEN, SELDOM)
}

/// Starts the threads; they end with what they watch for. The one that is returned asks the primary at once when it is unparked.
///
/// # Errors
/// The kernel has no thread left for us.
pub(super) fn start(known: &Arc<Known>, primary: Arc<Connector>) -> io::Result<Thread> {
    for number in 0..known.readers.len() {
        let known = Arc::downgrade(known);
        thread::Builder::new()
            .name(format!("replica-{number}"))
            .spawn(move || watch_replica(&known, number))?;
    }
    let known = Arc::downgrade(known);
    let watch = thread::Builder::new()
        .name("primary".to_owned())
        .spawn(move || watch_primary(&known, &primary))?;
    Ok(watch.thread().clone())
}

fn watch_primary(known: &Weak<Known>, primary: &Connector) {
    let mut session = None;
    while let Some(known) = known.upgrade() {
        let pause = match look_at_primary(&known, primary, &mut session) {
            Ok(()) => interval(known.max_lag),
            Err(why) => {
                session = None;
                log::debug!("store: the primary can't be asked how far it has written: {why}");
                PAUSE
            }
        };
        drop(known);
        thread::park_timeout(pause);
    }
}

fn look_at_primary(
    known: &Known,
    primary: &Connector,
    session: &mut Option<Session>,
) -> Result<(), String> {
    let session = match session {
        Some(session) => session,
        None => session.insert(primary.connect()?),
    };
    let progress = &*known.progress;
    // Before the question, or the answer might be older than they.
    let (unsure, doubts) = (progress.wanted().is_none(), progress.doubts());
    let asked = Instant::now();
    let answer = session.run(Deadline::after(PATIENCE), async |client, _| {
        position::of_primary_and_cluster(client).await
    });
    let (place, system) = answer
        .map_err(|error| call_text(&error))?
        .ok_or("its answer makes no sense")?;
    settle(progress, place, unsure, doubts)?;
    lock(&known.looks).note(asked, system, place);
    Ok(())
}

/// Notes what the primary has said. One whose timeline is older than what was written on by now has been replaced, and says nothing
/// of what was doubted.
fn settle(
    progress: &dyn Progress,
    place: Position,
    unsure: bool,
    doubts: u64,
) -> Result<(), String> {
    let newest = progress.timeline();
    if place.timeline < newest {
        return Err(format!(
            "it is on timeline {}, and writes went to {newest}: another one has been promoted since, or the database was replaced \
             by an older one, which takes a restart of this server before replicas are read from again",
            place.timeline
        ));
    }
    // A place that nobody asked for would have replicas catch up with what nobody waits for.
    let lsn = match unsure || place.timeline > newest {
        true => place.lsn,
        false => 0,
    };
    progress.note(Position { lsn, ..place });
    progress.settle(doubts);
    Ok(())
}

fn watch_replica(known: &Weak<Known>, number: usize) {
    let mut session = None;
    // Why it is left out, `None` for not at all; and before anything was said.
    let mut said: Option<Option<String>> = None;
    while let Some(known) = known.upgrade() {
        let reader = &known.readers[number];
        if lock(&known.looks).is_empty() {
            // Nothing can be said before the primary has been seen.
            drop(known);
            thread::sleep(OFTEN);
            continue;
        }
        let sight = look_at_replica(reader, &mut session);
        let now = Instant::now();
        let (lag, judged) = {
            let looks = lock(&known.looks);
            let lag = sight
                .as_ref()
                .ok()
                .filter(|sight| sight.replayed.in_recovery)
                .and_then(|sight| looks.lag(now, sight.replayed.lsn));
            let judged = sight.and_then(|sight| looks.judge(&sight, now, known.max_lag));
            (lag, judged)
        };
        reader.set_proof(judged.as_ref().ok().copied());
        let used = judged.is_ok();
        known.progress.tell(number, ReplicaSight { lag, used });
        let out = judged.err().map(|out| kind_of(&out));
        if said.as_ref() != Some(&out.as_ref().map(|(kind, _)| (*kind).to_owned())) {
            if known.speaks {
                tell(&known, reader, out.as_ref().map(|(_, why)| why.as_str()));
            }
            said = Some(out.map(|(kind, _)| kind.to_owned()));
        }
        let pause = interval(known.max_lag);
        drop(known);
        thread::sleep(pause);
    }
}

fn look_at_replica(reader: &Reader, session: &mut Option<Session>) -> Result<Sight, Out> {
    let session_of = match session {
        Some(session) => session,
        None => session.insert(reader.server.connector.connect().map_err(Out::Away)?),
    };
    let seen = session_of.run(Deadline::after(PATIENCE), async |client, statements| {
        let statement = statements.get(client, OF_REPLICA_AND_CLUSTER, &[]).await?;
        let row = statement.query_one(client, &[]).await?;
        Ok(Sight {
            replayed: Replayed::read(&row)?,
            system: row.try_get(3)?,
            timeline: row.try_get::<_, i32>(4)?.cast_unsigned(),
        })
    });
    seen.map_err(|error| {
        if !matches!(error, CallError::Refused(_)) {
            *session = None;
        }
        Out::Away(call_text(&error))
    })
}

/// What kind of reason it is, of which one is said once, and the reason in words.
fn kind_of(out: &Out) -> (&'static str, String) {
    let kind = match out {
        Out::Away(_) => "away",
        Out::Alone => "alone",
        Out::Primary => "primary",
        Out::Stranger => "stranger",
        Out::Timeline(..) => "timeline",
        Out::Behind(_) => "behind",
    };
    let why = match out {
        Out::Away(why) => format!("it gives no answer: {why}"),
        Out::Alone => {
            "the primary gives no answer, so nobody knows how far behind it is".to_owned()
        }
        Out::Primary => "it is no standby: it was promoted, or the URL names a primary. If it is the new primary, name it in \
                         --database-url"
            .to_owned(),
        Out::Stranger => {
            "it is a standby of another cluster than the primary's: see to --database-read-url"
                .to_owned()
        }
        Out::Timeline(its, primarys) => format!(
            "it is known to follow timeline {its}, and the primary is on {primarys}: either it does not follow the primary that was \
             promoted, or it does and that is not known before its next restart point; `GRANT pg_read_all_stats` to our role shows it \
             at once"
        ),
        Out::Behind(lag) => {
            let lag = lag.map_or("for longer than it was looked at".to_owned(), |lag| {
                format!("by {:.1} s at least", lag.as_secs_f64())
            });
            format!("it is behind the primary {lag}, which is too far by --max-replica-lag")
        }
    };
    (kind, why)
}

fn tell(known: &Known, reader: &Reader, out: Option<&str>) {
    let (number, name) = (reader.number, &reader.name);
    match out {
        None => log::info!("store: replica {number} ({name}) is read from"),
        Some(why) => log::warn!(
            "store: replica {number} ({name}) is left out, and read from again once it fits: {why}; reads go to {}",
            match known.readers.len() {
                1 => "the primary",
                _ => "the others, or to the primary",
            }
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ReadOutcome;
    use std::sync::Mutex;

    /// The newest timeline, what was noted, and up to which doubt is settled.
    #[derive(Default)]
    struct Notes(Mutex<(u32, Vec<Position>, u64)>);

    impl Progress for Notes {
        fn wanted(&self) -> Option<Position> {
            None
        }
        fn timeline(&self) -> u32 {
            lock(&self.0).0
        }
        fn note(&self, position: Position) {
            let mut notes = lock(&self.0);
            notes.0 = notes.0.max(position.timeline);
            notes.1.push(position);
        }
        fn doubts(&self) -> u64 {
            0
        }
        fn settle(&self, doubts: u64) {
            lock(&self.0).2 = doubts;
        }
        fn tell(&self, _: usize, _: ReplicaSight) {}
        fn count(&self, _: ReadOutcome) {}
    }

    fn at(timeline: u32, lsn: u64) -> Position {
        Position { timeline, lsn }
    }

    #[test]
    fn doubts_are_settled_by_a_place_and_by_no_primary_of_before() {
        let notes = Notes::default();
        settle(&notes, at(1, 100), false, 3).expect("the first one");
        settle(&notes, at(1, 200), false, 4).expect("nobody doubts");
        settle(&notes, at(1, 300), true, 5).expect("somebody does");
        settle(&notes, at(2, 250), false, 6).expect("a new timeline");
        settle(&notes, at(1, 400), true, 7).expect_err("the old primary");
        let (newest, noted, settled) = &*lock(&notes.0);
        assert_eq!((*newest, *settled), (2, 6));
        assert_eq!(noted[..], [at(1, 100), at(1, 0), at(1, 300), at(2, 250)]);
    }

    #[test]
    fn replicas_are_looked_at_several_times_in_the_time_that_they_may_be_behind() {
        let millis = Duration::from_millis;
        assert_eq!(interval(millis(1)), OFTEN);
        assert_eq!(interval(millis(1000)), millis(250));
        assert_eq!(interval(Duration::from_secs(3600)), SELDOM);
    }
}
