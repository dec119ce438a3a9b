//! How the server is at one moment, read from the scoreboard, and as the document `/status.json`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::scoreboard::histogram::{BOUNDS_US, Counts};
use crate::scoreboard::published::{PastChange, Post, Published, WorkerState};
use crate::scoreboard::replicas::ReplicaState;
use crate::scoreboard::{self, Row, Scoreboard, Sums};
use crate::status::model::{Change, Histogram, Status, Worker};

/// What can be told of the server.
pub struct Snapshot {
    scoreboard: Scoreboard,
    pub published: Published,
    /// What all workers that ever were have counted.
    pub sums: Sums,
    /// When it was taken, on the clock of the heartbeats.
    moment: u64,
}

impl Snapshot {
    /// None before the master has told what there is.
    pub fn take(scoreboard: Scoreboard) -> Option<Self> {
        Some(Snapshot {
            scoreboard,
            published: scoreboard.published()?,
            sums: scoreboard.sums(),
            moment: scoreboard::moment(),
        })
    }

    /// The row of a worker process.
    pub fn row(&self, post: &Post) -> Option<Row> {
        post.pid?;
        post.row.map(|row| self.scoreboard.row(row))
    }

    /// How long ago the worker's loop last said that it moves, in milliseconds; none before it serves.
    pub fn heartbeat_age(&self, post: &Post) -> Option<u64> {
        let serves = post.state != WorkerState::Starting && post.state != WorkerState::Degraded;
        let row = self.row(post).filter(|_| serves)?;
        Some(self.moment.saturating_sub(row.last_beat()))
    }

    /// The worker's memory that is in RAM, in bytes; none before it serves: until then its row tells of another one.
    pub fn resident(&self, post: &Post) -> Option<u64> {
        self.heartbeat_age(post)?;
        Some(self.row(post)?.resident()).filter(|bytes| *bytes > 0)
    }

    /// How the replicas are, by their numbers.
    pub fn replicas(&self) -> Vec<ReplicaState> {
        self.scoreboard.replicas().all()
    }

    /// The CPU time of all workers that the slot ever had.
    pub fn cpu_of_slot(&self, slot: usize) -> Duration {
        Duration::from_micros(self.scoreboard.slot_cpu(slot))
    }

    /// The slots that have or should have a worker, in order.
    pub fn slots(&self) -> impl Iterator<Item = usize> {
        let posts = self.published.posts.iter().map(|post| post.slot + 1);
        let most = posts.max().unwrap_or(0).max(self.published.wanted);
        0..most
    }

    /// The processes of a slot.
    pub fn posts_of(&self, slot: usize) -> impl Iterator<Item = &Post> {
        let posts = self.published.posts.iter();
        posts.filter(move |post| post.slot == slot)
    }

    /// The document.
    pub fn to_json(&self) -> String {
        // A struct of numbers, strings and maps by string always serialises.
        serde_json::to_string(&self.status()).unwrap_or_default()
    }

    fn status(&self) -> Status {
        let published = &self.published;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: published.pid,
            now_ms: now_ms(),
            started_ms: published.started_ms,
            state: published.state,
            generation: published.generation,
            wanted: published.wanted as u64,
            ready: published.ready as u64,
            buckets_us: BOUNDS_US.to_vec(),
            totals: totals(&self.sums),
            latency: histogram(&self.sums.latency),
            queue_delay: histogram(&self.sums.queue_delay),
            workers: published
                .posts
                .iter()
                .map(|post| self.worker(post))
                .collect(),
            reloads: published.changes.iter().map(change).collect(),
        }
    }

    fn worker(&self, post: &Post) -> Worker {
        let sums = self.row(post).map(Sums::of).unwrap_or_default();
        Worker {
            slot: post.slot as u64,
            pid: post.pid.unwrap_or(0),
            state: post.state,
            generation: post.generation,
            started_ms: post.started_ms,
            heartbeat_age_ms: self.heartbeat_age(post),
            cpu_seconds: post.pid.and_then(cpu_of).map(|used| used.as_secs_f64()),
            rss_bytes: self.resident(post),
            connections: self.row(post).map_or(0, |row| row.open()),
            totals: totals(&sums),
            latency: histogram(&sums.latency),
            queue_delay: histogram(&sums.queue_delay),
        }
    }
}

/// The CPU time of a process, all threads, by the clock that each has (clock_getcpuclockid(3)): any process may read it, whoever
/// it is and whatever it sees of /proc. None if there is no such process any more.
fn cpu_of(pid: i32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    clock_gettime(clock).ok().map(Duration::from)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

fn totals(sums: &Sums) -> BTreeMap<String, u64> {
    sums.counters()
        .map(|(counter, count)| (counter.name(), count))
        .collect()
}

fn histogram(counts: &Counts) -> Histogram {
    Histogram {
        counts: counts.buckets.to_vec(),
        sum_us: counts.sum_ns / 1000,
    }
}

fn change(change: &PastChange) -> Change {
    Change {
        at_ms: change.at_ms,
        kind: change.kind,
        outcome: change.outcome,
        generation: change.generation,
        took_ms: change.took_ms,
        why: change.why.clone(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::scoreboard::counters::Counter;
    use crate::scoreboard::published::{ChangeKind, Outcome, ServerState};

    /// A server of two slots, one of which has just lost its worker and one of which is being replaced.
    pub fn board() -> Scoreboard {
        let board = Scoreboard::new().expect("shared memory");
        let post = |slot, row, state| Post {
            slot,
            pid: Some(std::process::id().cast_signed()),
            state,
            generation: 3,
            started_ms: 1,
            row: Some(row),
        };
        board.use_row(1);
        board.publish(&Published {
            pid: 7,
            state: ServerState::Reloading,
            wanted: 2,
            ready: 1,
            generation: 3,
            started_ms: 1_700_000_000_000,
            change_counts: [[5, 1], [2, 0], [0, 0]],
            changes: vec![PastChange {
                at_ms: 4,
                kind: ChangeKind::Reload,
                outcome: Outcome::Failed,
                generation: 3,
                took_ms: 120,
                why: "a \"quoted\" word".to_owned(),
            }],
            posts: vec![
                post(0, 0, WorkerState::Ready),
                post(0, 1, WorkerState::Starting),
                Post {
                    pid: None,
                    row: None,
                    ..post(1, 0, WorkerState::BackingOff)
                },
            ],
        });
        for row in 0..2 {
            board.row(row).set_open(10);
            board.row(row).set_resident(4096);
            board.row(row).beat(scoreboard::moment());
            board.row(row).count(Counter::Requests);
        }
        board.row(0).note_latency(Duration::from_micros(300));
        board.row(1).note_queue_delay(Duration::from_secs(3));
        board.add_slot_cpu(0, 1_500_000);
        board
    }

    #[test]
    fn the_document_tells_of_the_server_and_of_each_worker() {
        let snapshot = Snapshot::take(board()).expect("published");
        let status: Status = serde_json::from_str(&snapshot.to_json()).expect("the model's");
        assert_eq!((status.wanted, status.ready, status.pid), (2, 1, 7));
        assert_eq!(status.totals["requests"], 2);
        assert_eq!(status.totals.len(), Counter::COUNT);
        assert_eq!(status.buckets_us, BOUNDS_US);
        assert_eq!(status.latency.counts.len(), status.buckets_us.len() + 1);
        assert_eq!(status.reloads[0].why, "a \"quoted\" word");
        let [ready, starting, gone] = &status.workers[..] else {
            panic!("{:?}", status.workers);
        };
        assert!(ready.heartbeat_age_ms.is_some_and(|age| age < 60_000));
        assert_eq!(ready.rss_bytes, Some(4096));
        assert!(ready.cpu_seconds.is_some_and(|used| used > 0.0));
        assert_eq!((ready.connections, ready.totals["requests"]), (10, 1));
        // Its row still tells of another process.
        assert_eq!(
            (starting.heartbeat_age_ms, starting.rss_bytes),
            (None, None)
        );
        assert_eq!((gone.pid, gone.cpu_seconds, gone.connections), (0, None, 0));
        assert_eq!(gone.latency.counts.len(), status.buckets_us.len() + 1);
        if cfg!(feature = "metrics") {
            assert_eq!(status.latency.counts[2], 1);
            assert_eq!(status.queue_delay.counts.last(), Some(&1));
            assert_eq!(status.queue_delay.sum_us, 3_000_000);
        }
    }

    #[test]
    fn a_process_that_is_no_more_has_no_clock() {
        let mut gone = std::process::Command::new("true")
            .spawn()
            .expect("a process");
        let pid = gone.id().cast_signed();
        assert!(cpu_of(pid).is_some(), "it lives, or is to be reaped");
        gone.wait().expect("our own child");
        assert_eq!(cpu_of(pid), None);
        assert!(cpu_of(std::process::id().cast_signed()).is_some());
    }
}
