//! Reading from replicas: each answer proves itself. A replica says with each answer how far it has replayed, and one that lacks a
//! write which this host has acknowledged or heard of, or is further behind than replicas may be, is not believed; the next one
//! is asked, and then the primary. Used by the store for its reads; `watch` keeps what is known of primary and replicas.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tokio_postgres::Client;

use super::error;
use super::lag::{Looks, Proof};
use super::position::{OF_REPLICA, Replayed};
use super::server::Server;
use super::session::CallError;
use super::statements::{self, Statements};
use super::watch;
use crate::store::url::{PostgresUrl, TargetSession};
use crate::store::{
    Deadline, PoolOptions, Position, Progress, ReadOutcome, ReplicaOptions, Room, StoreError,
};

/// How long a replica is left alone that lacked what it was asked for: that takes it a moment, in which it would lack the next
/// one too.
const REST: Duration = Duration::from_millis(5);

/// The replicas of one primary.
pub(super) struct Replicas {
    known: Arc<Known>,
    /// The thread that asks the primary.
    watch: Thread,
}

/// What is known, by those who read and those who watch.
pub(super) struct Known {
    pub(super) readers: Vec<Reader>,
    pub(super) looks: Mutex<Looks>,
    pub(super) progress: Arc<dyn Progress>,
    /// The longest that a replica may be behind.
    pub(super) max_lag: Duration,
    /// This worker says in the log how they are; the others would say the same.
    pub(super) speaks: bool,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// One replica.
pub(super) struct Reader {
    /// From 0, in the order in which they are configured.
    pub(super) number: usize,
    /// Its URL without a password.
    pub(super) name: String,
    pub(super) server: Server,
    state: Mutex<State>,
    part: Arc<dyn Fn(Room) -> usize + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// `None` while it is left out.
    proof: Option<Proof>,
    rests_until: Option<Instant>,
}

/// What came of asking a replica.
enum Asked<T> {
    Answer(T),
    /// It has not replayed enough.
    Behind,
    /// It refuses this question, or answers no one.
    Nothing,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replicas {
    /// Begins to look at them, and at the primary.
    ///
    /// # Errors
    /// A certificate that a URL names can't be read, or the kernel has no thread left for us.
    pub(super) fn open(
        primary: &PostgresUrl,
        pool: PoolOptions,
        options: ReplicaOptions,
    ) -> Result<Self, StoreError> {
        let readers: Result<Vec<Reader>, StoreError> = options
            .urls
            .iter()
            .enumerate()
            .map(|(number, url)| {
                // What it is we see for ourselves.
                let mut url = url.clone();
                url.target_session_attrs = TargetSession::Any;
                Ok(Reader {
                    number,
                    name: url.to_string(),
                    server: Server::named(&url, pool, format!("the replica {url}"))?,
                    state: Mutex::default(),
                    part: options.part.clone(),
                })
            })
            .collect();
        let known = Arc::new(Known {
            readers: readers?,
            looks: Mutex::default(),
            progress: options.progress,
            max_lag: options.max_lag,
            speaks: options.speaks,
            turn: AtomicUsize::new(0),
        });
        let watch = watch::start(&known, Server::open(primary, pool)?.connector)
            .map_err(|error| StoreError::Failed(format!("no thread to watch replicas: {error}")))?;
        Ok(Replicas { known, watch })
    }

    /// Whether there is one that may be read from.
    pub(super) fn any(&self) -> bool {
        let mut readers = self.known.readers.iter();
        readers.any(|reader| lock(&reader.state).proof.is_some())
    }

    /// What a replica must have replayed to be as new as all that this host has acknowledged or heard of, and no further behind than
    /// it may be. To be asked before the question is. `None` while nobody knows.
    pub(super) fn wanted(&self) -> Option<Position> {
        let Some(acknowledged) = self.known.progress.wanted() else {
            // The primary is asked at once, and whoever comes afterwards knows.
            self.watch.unpark();
            return None;
        };
        let floor = lock(&self.known.looks).floor(Instant::now(), self.known.max_lag)?;
        (floor.timeline == acknowledged.timeline).then(|| Position {
            timeline: floor.timeline,
            lsn: floor.lsn.max(acknowledged.lsn),
        })
    }

    /// Asks one after the other, beginning with the next in turn. `None` if none of them has an answer that is new enough.
    pub(super) fn read<T>(
        &self,
        wanted: Position,
        deadline: Deadline,
        query: impl AsyncFn(&Client, &mut Statements) -> Result<T, postgres::Error>,
    ) -> Option<T> {
        let readers = &self.known.readers;
        let first = self.known.turn.fetch_add(1, Ordering::Relaxed);
        for at in 0..readers.len() {
            let reader = &readers[first.wrapping_add(at) % readers.len()];
            let Some(proof) = reader.proof(wanted.timeline) else {
                continue;
            };
            let (outcome, answer) = match reader.ask(proof, wanted, deadline, &query) {
                Asked::Answer(value) => (ReadOutcome::Answered, Some(value)),
                Asked::Behind => (ReadOutcome::Behind, None),
                Asked::Nothing => (ReadOutcome::Failed, None),
            };
            self.known.progress.count(outcome);
            if answer.is_some() {
                return answer;
            }
        }
        None
    }
}

impl Reader {
    /// What it was seen to be, if it may be asked now for what is on this timeline.
    fn proof(&self, timeline: u32) -> Option<Proof> {
        let state = lock(&self.state);
        let proof = state.proof.filter(|proof| proof.timeline == timeline)?;
        let rests = state
            .rests_until
            .is_some_and(|until| Instant::now() < until);
        drop(state);
        // Whoever would have to wait for a connection goes on to the next.
        (!rests && !self.server.is_busy()).then_some(proof)
    }

    /// Says what it was seen to be; `None` leaves it out.
    pub(super) fn set_proof(&self, proof: Option<Proof>) {
        lock(&self.state).proof = proof;
        if self.server.room() != Room::Unknown {
            self.server.limit((self.part)(self.server.room()));
        }
    }

    fn ask<T>(
        &self,
        proof: Proof,
        wanted: Position,
        deadline: Deadline,
        query: impl AsyncFn(&Client, &mut Statements) -> Result<T, postgres::Error>,
    ) -> Asked<T> {
        // Who finds it silent must still have time for the next one.
        let deadline = Deadline::after(deadline.left() / 2);
        let mut session = match self.server.checkout(deadline) {
            Ok(session) => session,
            Err(_) => {
                self.set_proof(None);
                return Asked::Nothing;
            }
        };
        let begin = self.server.connector.begin_of_read(deadline);
        let asked = session.run(deadline, async |client, statements| {
            let place = statements.get(client, OF_REPLICA, &[]).await?;
            let both = async {
                // Sent together, and carried out in this order: see there.
                let place = place.query_one(client, &[]);
                let (place, value) = join(place, query(client, statements)).await;
                Ok((Replayed::read(&place?)?, value?))
            };
            statements::within(client, begin.as_deref(), both).await
        });
        match asked {
            Ok((replayed, value)) if proof.covers(&replayed, wanted) => Asked::Answer(value),
            Ok((replayed, _)) if replayed.in_recovery && replayed.started == proof.started => {
                lock(&self.state).rests_until = Some(Instant::now() + REST);
                Asked::Behind
            }
            // Not what was looked at.
            Ok(_) => {
                self.set_proof(None);
                Asked::Nothing
            }
            // Replay was in the way, or the question makes no sense to it: the primary's word counts.
            Err(error @ CallError::Refused(_)) => {
                if error::is_stale(&error) {
                    session.give_up();
                }
                Asked::Nothing
            }
            // Who watches it finds out when it is back.
            Err(CallError::Lost(_) | CallError::TimedOut) => {
                self.server.condemn(&session);
                self.set_proof(None);
                Asked::Nothing
            }
        }
    }
}
