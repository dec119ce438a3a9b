//! What the master tells its workers of itself and of all of them, for whoever asks one of them how the server is.
//!
//! There are two copies and a number that says which of them counts. The master alone writes: into the copy that does not
//! count, and then the number. So a master that dies at any instant, or becomes another program, leaves a whole copy behind,
//! and a reader waits for nobody: only if the master has published twice while it read must it read again.

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};

use super::atomic::AtomicU64;
use super::{ROWS, SLOTS};

/// How many of the last changes there is room for.
pub const MOST_CHANGES: usize = 16;

/// How many bytes of the reason of a change there is room for.
pub const MOST_WHY: usize = WHY_WORDS * 8;

/// How many worker processes, and slots without one, there is room for.
const MOST_POSTS: usize = ROWS + SLOTS;

/// The words of a copy before the changes.
const HEAD: usize = 16;

const WHY_WORDS: usize = 30;
const CHANGE_WORDS: usize = 4 + WHY_WORDS;
const POST_WORDS: usize = 4;

/// One copy.
const COPY: usize = HEAD + MOST_CHANGES * CHANGE_WORDS + MOST_POSTS * POST_WORDS;

/// The number, alone in its cache line, and both copies.
pub(super) const WORDS: usize = 8 + 2 * COPY;

/// How often a reader tries: the master publishes some times a second at most, and reading takes microseconds.
const TRIES: usize = 8;

/// Makes an enum whose values have names, in JSON and in labels, and numbers, in the shared memory.
macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$what])* $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: [$name; [$($name::$variant),+].len()] = [$($name::$variant),+];

            /// As it is written in JSON and in labels of metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }

            fn of_number(number: u64) -> Option<Self> {
                Self::ALL.get(usize::try_from(number).ok()?).copied()
            }
        }
    };
}

named! {
    /// What a server is about.
    ServerState {
        /// It serves, or is about to for the first time.
        Running = "running",
        /// Workers are being replaced, or finish after that.
        Reloading = "reloading",
        /// A new program is being checked, or has just taken over.
        Upgrading = "upgrading",
        Stopping = "stopping",
    }
}

named! {
    /// What a worker does.
    WorkerState {
        /// It does not serve yet.
        Starting = "starting",
        Ready = "ready",
        /// It finishes what it has.
        Draining = "draining",
        /// It hangs, or did not do in time what it should, and is being ended.
        Aborting = "aborting",
        /// The slot has no worker until its pause after a death is over.
        BackingOff = "backing_off",
        /// The slot's workers don't get ready, again and again.
        Degraded = "degraded",
    }
}

named! {
    /// What was changed.
    ChangeKind {
        Reload = "reload",
        Upgrade = "upgrade",
        /// The number of workers.
        Scale = "scale",
    }
}

named! {
    /// What came of a change. One that was refused has failed before anything was tried.
    Outcome {
        Done = "done",
        Failed = "failed",
    }
}

/// How many changes there were of each kind, with each outcome.
pub type ChangeCounts = [[u64; 2]; 3];

/// What the master tells. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The master's.
    pub pid: i32,
    pub state: ServerState,
    /// How many workers there should be, and how many of them serve.
    pub wanted: usize,
    pub ready: usize,
    /// The number of the configuration that serves.
    pub generation: u64,
    /// When the server was first started.
    pub started_ms: u64,
    pub change_counts: ChangeCounts,
    /// The last changes, the newest first; no more than [`MOST_CHANGES`] are published.
    pub changes: Vec<PastChange>,
    /// The worker processes, and the slots that have none and should.
    pub posts: Vec<Post>,
}

/// A change that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastChange {
    /// When it was over.
    pub at_ms: u64,
    pub kind: ChangeKind,
    pub outcome: Outcome,
    pub generation: u64,
    pub took_ms: u64,
    /// No more than [`MOST_WHY`] bytes are published.
    pub why: String,
}

/// A worker process, or a slot that waits for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Post {
    pub slot: usize,
    /// None for a slot without a process.
    pub pid: Option<i32>,
    pub state: WorkerState,
    pub generation: u64,
    /// 0 for a slot without a process.
    pub started_ms: u64,
    /// Its row, if it has one in this table.
    pub row: Option<usize>,
}

/// A copy's words one after the other.
struct Cursor<'w> {
    words: std::slice::Iter<'w, AtomicU64>,
}

impl<'w> Cursor<'w> {
    fn over(words: &'w [AtomicU64]) -> Self {
        Cursor {
            words: words.iter(),
        }
    }

    fn put(&mut self, value: u64) {
        if let Some(word) = self.words.next() {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn take(&mut self) -> Option<u64> {
        Some(self.words.next()?.load(Ordering::Relaxed))
    }

    fn take_number<N: TryFrom<u64>>(&mut self) -> Option<N> {
        self.take()?.try_into().ok()
    }

    fn skip(&mut self, count: usize) {
        if let Some(last) = count.checked_sub(1) {
            let _ = self.words.nth(last);
        }
    }
}

/// The part of the table that this room has.
pub(super) struct Board<'w> {
    pub(super) words: &'w [AtomicU64],
}

impl<'w> Board<'w> {
    fn number(&self) -> &'w AtomicU64 {
        &self.words[0]
    }

    fn copy(&self, number: u64) -> &'w [AtomicU64] {
        let start = 8 + (number % 2) as usize * COPY;
        &self.words[start..start + COPY]
    }

    /// For the master alone.
    pub(super) fn write(&self, published: &Published) {
        let next = self.number().load(Ordering::Relaxed).wrapping_add(1);
        // Whoever sees a word of what is written now sees the number of before, too, and knows that its copy is the older one.
        fence(Ordering::Release);
        write_copy(self.copy(next), published);
        self.number().store(next, Ordering::Release);
    }

    /// None while nothing has been published, or if it can't be read.
    pub(super) fn read(&self) -> Option<Published> {
        for _ in 0..TRIES {
            let number = self.number().load(Ordering::Acquire);
            if number == 0 {
                return None;
            }
            let read = read_copy(self.copy(number));
            fence(Ordering::Acquire);
            if self.number().load(Ordering::Relaxed) == number {
                return read;
            }
        }
        None
    }
}

fn write_copy(words: &[AtomicU64], published: &Published) {
    let changes = &published.changes[..published.changes.len().min(MOST_CHANGES)];
    let posts = &published.posts[..published.posts.len().min(MOST_POSTS)];
    let (head, rest) = words.split_at(HEAD);
    let (changed, posted) = rest.split_at(MOST_CHANGES * CHANGE_WORDS);
    let mut head = Cursor::over(head);
    head.put(u64::from(published.pid.cast_unsigned()));
    head.put(published.state as u64);
    head.put(published.wanted as u64);
    head.put(published.ready as u64);
    head.put(published.generation);
    head.put(published.started_ms);
    head.put(changes.len() as u64);
    head.put(posts.len() as u64);
    published
        .change_counts
        .as_flattened()
        .iter()
        .for_each(|count| head.put(*count));
    let mut words = Cursor::over(changed);
    for change in changes {
        let why = bounded(&change.why);
        words.put(change.at_ms);
        let length = (why.len() as u64) << 16;
        words.put(change.kind as u64 | ((change.outcome as u64) << 8) | length);
        words.put(change.generation);
        words.put(change.took_ms);
        for piece in why.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..piece.len()].copy_from_slice(piece);
            words.put(u64::from_le_bytes(bytes));
        }
        words.skip(WHY_WORDS - why.len().div_ceil(8));
    }
    let mut words = Cursor::over(posted);
    for post in posts {
        let pid = post.pid.map_or(0, i32::cast_unsigned);
        let row = post.row.map_or(0, |row| row as u64 + 1);
        words.put(u64::from(pid) | ((post.slot as u64) << 32));
        words.put(post.state as u64 | (row << 8));
        words.put(post.generation);
        words.put(post.started_ms);
    }
}

/// None for what no master of this version has written.
fn read_copy(words: &[AtomicU64]) -> Option<Published> {
    let (head, rest) = words.split_at(HEAD);
    let (changed, posted) = rest.split_at(MOST_CHANGES * CHANGE_WORDS);
    let mut head = Cursor::over(head);
    let pid: u32 = head.take_number()?;
    let state = ServerState::of_number(head.take()?)?;
    let (wanted, ready) = (head.take_number()?, head.take_number()?);
    let (generation, started_ms) = (head.take()?, head.take()?);
    let (changes, posts): (usize, usize) = (head.take_number()?, head.take_number()?);
    let mut change_counts = ChangeCounts::default();
    for count in change_counts.as_flattened_mut() {
        *count = head.take()?;
    }
    let mut words = Cursor::over(changed);
    let changes: Option<Vec<PastChange>> = (0..changes.min(MOST_CHANGES))
        .map(|_| read_change(&mut words))
        .collect();
    let mut words = Cursor::over(posted);
    let posts: Option<Vec<Post>> = (0..posts.min(MOST_POSTS))
        .map(|_| read_post(&mut words))
        .collect();
    Some(Published {
        pid: pid.cast_signed(),
        state,
        wanted,
        ready,
        generation,
        started_ms,
        change_counts,
        changes: changes?,
        posts: posts?,
    })
}

fn read_change(words: &mut Cursor<'_>) -> Option<PastChange> {
    let at_ms = words.take()?;
    let packed = words.take()?;
    let (generation, took_ms) = (words.take()?, words.take()?);
    let length = usize::try_from(packed >> 16).ok()?.min(MOST_WHY);
    let mut why = Vec::with_capacity(MOST_WHY);
    for _ in 0..WHY_WORDS {
        why.extend_from_slice(&words.take()?.to_le_bytes());
    }
    why.truncate(length);
    Some(PastChange {
        at_ms,
        kind: ChangeKind::of_number(packed & 0xff)?,
        outcome: Outcome::of_number((packed >> 8) & 0xff)?,
        generation,
        took_ms,
        why: String::from_utf8_lossy(&why).into_owned(),
    })
}

fn read_post(words: &mut Cursor<'_>) -> Option<Post> {
    let (who, what) = (words.take()?, words.take()?);
    let pid = (who as u32).cast_signed();
    Some(Post {
        slot: usize::try_from(who >> 32).ok()?,
        pid: (pid != 0).then_some(pid),
        state: WorkerState::of_number(what & 0xff)?,
        row: usize::try_from(what >> 8)
            .ok()?
            .checked_sub(1)
            .filter(|row| *row < ROWS),
        generation: words.take()?,
        started_ms: words.take()?,
    })
}

/// As much of it as there is room for, in whole characters.
fn bounded(why: &str) -> &[u8] {
    &why.as_bytes()[..why.floor_char_boundary(MOST_WHY)]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    /// One that tells its number in all that it says.
    fn numbered(number: usize) -> Published {
        let change = PastChange {
            at_ms: number as u64,
            kind: ChangeKind::Upgrade,
            outcome: Outcome::Failed,
            generation: number as u64,
            took_ms: number as u64,
            why: number.to_string().repeat(20),
        };
        let post = Post {
            slot: number % SLOTS,
            pid: (!number.is_multiple_of(2)).then_some(number as i32),
            state: WorkerState::Degraded,
            generation: number as u64,
            started_ms: number as u64,
            row: (!number.is_multiple_of(2)).then_some(number % ROWS),
        };
        Published {
            pid: number as i32,
            state: ServerState::Upgrading,
            wanted: number,
            ready: number,
            generation: number as u64,
            started_ms: number as u64,
            change_counts: [[number as u64; 2]; 3],
            changes: vec![change; number % (MOST_CHANGES + 1)],
            posts: vec![post; number % 100],
        }
    }

    #[test]
    fn what_is_published_is_read() {
        let words = words();
        let board = Board { words: &words };
        assert_eq!(board.read(), None);
        for number in [1, 15, 16, 33, 99, 1000] {
            board.write(&numbered(number));
            assert_eq!(board.read(), Some(numbered(number)));
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_cut() {
        let words = words();
        let board = Board { words: &words };
        let mut published = numbered(3);
        // Of two bytes each, and the last would be cut in the middle.
        published.changes[0].why = format!("x{}", "\u{e9}".repeat(MOST_WHY));
        published.changes = vec![published.changes[0].clone(); MOST_CHANGES + 1];
        published.posts = vec![published.posts[0]; MOST_POSTS + 1];
        board.write(&published);
        let read = board.read().expect("published");
        assert_eq!(read.changes.len(), MOST_CHANGES);
        assert_eq!(read.posts.len(), MOST_POSTS);
        assert_eq!(read.changes[0].why.len(), MOST_WHY - 1);
        assert!(published.changes[0].why.starts_with(&read.changes[0].why));
    }

    #[test]
    fn names_are_those_that_serde_gives() {
        for state in WorkerState::ALL {
            assert_eq!(serde_json::to_value(state).expect("JSON"), state.name());
        }
        for state in ServerState::ALL {
            assert_eq!(serde_json::to_value(state).expect("JSON"), state.name());
        }
        for kind in ChangeKind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.name());
        }
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).expect("JSON"), outcome.name());
        }
    }

    /// A master that died while it wrote left one copy half written: the other one counts.
    #[test]
    fn a_write_that_is_cut_off_changes_nothing() {
        let words = words();
        let board = Board { words: &words };
        board.write(&numbered(7));
        let next = board.number().load(Ordering::Relaxed) + 1;
        for word in &board.copy(next)[..HEAD + 5] {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        assert_eq!(board.read(), Some(numbered(7)));
        board.write(&numbered(8));
        assert_eq!(board.read(), Some(numbered(8)));
    }

    #[test]
    fn readers_never_see_a_mixture() {
        let words = words();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let board = Board { words: &words };
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) || seen == 0 {
                    if let Some(read) = board.read() {
                        assert_eq!(read, numbered(read.wanted));
                        seen += 1;
                    }
                }
            });
            let board = Board { words: &words };
            for number in 1..2000 {
                board.write(&numbered(number));
            }
            done.store(true, Ordering::Relaxed);
            reader.join().expect("no mixture");
        });
    }
}
