//! What repeats itself: a message that has been told often enough for a while is held back, counted, and summed up when the while
//! is over. Pure: moments are arguments. What counts as the same is the caller's to say, by a key.
//!
//! The first of a kind is always told, and so is everything while there are more kinds than are remembered: then the kind that began
//! first is forgotten, after its sum has been told.

use std::fmt;
use std::time::{Duration, Instant};

use log::Level;

/// How long a kind is counted together.
const WHILE: Duration = Duration::from_secs(10);

/// How many messages that are equal are told in a while.
pub const EQUAL: u32 = 20;

/// How many are told that are alike, but for numbers and names.
pub const ALIKE: u32 = 100;

/// How many kinds are remembered.
const MOST: usize = 256;

/// How much of a message its sum quotes, in characters.
const QUOTED: usize = 160;

/// The kinds of the last while.
#[derive(Default)]
pub struct Repeats {
    kinds: Vec<Kind>,
    /// Whose they are: what a process inherits by a fork is told by its parent.
    pid: u32,
}

struct Kind {
    key: u64,
    since: Instant,
    told: u32,
    held: u64,
    level: Level,
    room: String,
    /// The beginning of the first message that was held back.
    text: String,
}

/// A message, as far as it matters here.
pub struct Said<'a> {
    /// The same for messages that are the same.
    pub key: u64,
    /// How many of its kind are told in a while.
    pub limit: u32,
    pub level: Level,
    pub room: &'a str,
}

/// What was held back.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    pub level: Level,
    pub room: String,
    pub held: u64,
    text: String,
    over: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.over.as_secs_f64().ceil();
        write!(
            f,
            "… {} more like this in {seconds} s: {}",
            Grouped(self.held),
            self.text
        )
    }
}

/// A number with its thousands apart.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1000 => write!(f, "{}", self.0),
            number => write!(f, "{},{:03}", Grouped(number / 1000), number % 1000),
        }
    }
}

impl Repeats {
    /// Whether a message is to be told; else it is counted. `text` is called for the first of its kind that is not. `ended` gets
    /// the sums that are due before this message.
    pub fn admit(
        &mut self,
        now: Instant,
        said: &Said<'_>,
        text: impl FnOnce() -> String,
        ended: &mut Vec<Summary>,
    ) -> bool {
        let own = std::process::id();
        if self.pid != own {
            (self.pid, self.kinds) = (own, Vec::new());
        }
        ended.append(&mut self.due(now));
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.key == said.key) {
            if kind.told < said.limit {
                kind.told += 1;
                return true;
            }
            if kind.held == 0 {
                kind.text = text().chars().take(QUOTED).collect();
            }
            kind.held += 1;
            return false;
        }
        if self.kinds.len() >= MOST {
            // In order of their beginnings.
            let oldest = self.kinds.remove(0);
            ended.extend(oldest.sum_up(now));
        }
        self.kinds.push(Kind {
            key: said.key,
            since: now,
            told: 1,
            held: 0,
            level: said.level,
            room: said.room.to_owned(),
            text: String::new(),
        });
        true
    }

    /// The sums of the kinds whose while is over; from then on they are new.
    pub fn due(&mut self, now: Instant) -> Vec<Summary> {
        let young = |kind: &Kind| now.saturating_duration_since(kind.since) < WHILE;
        let over = self.kinds.iter().take_while(|kind| !young(kind)).count();
        let over = self.kinds.drain(..over);
        over.filter_map(|kind| kind.sum_up(now)).collect()
    }

    /// All sums, however young.
    pub fn drain(&mut self) -> Vec<Summary> {
        let now = Instant::now();
        let own = self.pid == std::process::id();
        let all = self.kinds.drain(..);
        all.filter(|_| own)
            .filter_map(|kind| kind.sum_up(now))
            .collect()
    }
}

impl Kind {
    fn sum_up(self, now: Instant) -> Option<Summary> {
        (self.held > 0).then(|| Summary {
            level: self.level,
            room: self.room,
            held: self.held,
            text: self.text,
            // A sum that is told late is of its while all the same.
            over: now.saturating_duration_since(self.since).min(WHILE),
        })
    }
}

/// A message without what changes from one to the next of its kind: each word that holds a digit is a `#`.
pub fn shape_of(text: &str) -> String {
    let mut shape = String::with_capacity(text.len());
    for word in text.split_inclusive(|letter: char| !letter.is_alphanumeric()) {
        match word.contains(|letter: char| letter.is_ascii_digit()) {
            true => {
                shape.push('#');
                shape.extend(word.chars().last().filter(|end| !end.is_alphanumeric()));
            }
            false => shape.push_str(word),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood's view of it: messages by key at moments in ms.
    struct Flood {
        repeats: Repeats,
        begun: Instant,
        ended: Vec<Summary>,
    }

    impl Flood {
        fn new() -> Self {
            Flood {
                repeats: Repeats::default(),
                begun: Instant::now(),
                ended: Vec::new(),
            }
        }

        fn say(&mut self, at: u64, key: u64) -> bool {
            let now = self.begun + Duration::from_millis(at);
            let text = || format!("number {key} at {at}");
            let said = Said {
                key,
                limit: 3,
                level: Level::Warn,
                room: "store",
            };
            self.repeats.admit(now, &said, text, &mut self.ended)
        }

        /// Once a millisecond.
        fn say_often(&mut self, times: u64, key: u64) {
            for at in 0..times {
                self.say(at, key);
            }
        }

        fn sums(&mut self) -> Vec<String> {
            let ended = std::mem::take(&mut self.ended);
            ended.iter().map(Summary::to_string).collect()
        }
    }

    #[test]
    fn the_first_few_are_told_and_the_rest_is_summed_up() {
        let mut flood = Flood::new();
        let told = (0..5000).filter(|at| flood.say(*at, 1)).count();
        assert_eq!(told, 3);
        assert!(flood.sums().is_empty(), "the while is not over");
        assert!(flood.say(10_000, 1), "a new while begins");
        assert_eq!(
            flood.sums(),
            ["… 4,997 more like this in 10 s: number 1 at 3"]
        );
        assert!(flood.say(25_000, 1));
        assert!(flood.sums().is_empty(), "nothing was held back");
    }

    #[test]
    fn a_flood_that_has_ended_is_summed_up_without_another_message() {
        let mut flood = Flood::new();
        flood.say_often(4, 1);
        let at = |ms| flood.begun + Duration::from_millis(ms);
        let (early, late) = (at(9_999), at(60_000));
        assert!(flood.repeats.due(early).is_empty());
        let due = flood.repeats.due(late);
        assert_eq!(due.len(), 1);
        assert_eq!(
            due[0].to_string(),
            "… 1 more like this in 10 s: number 1 at 3"
        );
        assert!(flood.repeats.due(late).is_empty(), "told once");
    }

    #[test]
    fn what_differs_is_never_held_back_and_memory_is_bounded() {
        let mut flood = Flood::new();
        flood.say_often(5, 0);
        assert!((1..100_000).all(|key| flood.say(5, key)));
        assert_eq!(flood.repeats.kinds.len(), MOST);
        // What was forgotten to make room was told before.
        assert_eq!(flood.sums(), ["… 2 more like this in 1 s: number 0 at 3"]);
    }

    #[test]
    fn the_end_tells_everything() {
        let mut flood = Flood::new();
        flood.say_often(5, 1);
        assert_eq!(flood.repeats.drain().len(), 1);
        assert!(flood.repeats.drain().is_empty());
    }

    #[test]
    fn what_a_parent_held_back_is_not_its_child_s_to_tell() {
        let mut flood = Flood::new();
        flood.say_often(5, 1);
        flood.repeats.pid = 0;
        assert!(flood.repeats.drain().is_empty());
        flood.say_often(5, 1);
        flood.repeats.pid = 0;
        assert!(flood.say(6, 1), "the first of the child's own");
        assert!(flood.sums().is_empty());
    }

    #[test]
    fn messages_that_differ_in_numbers_have_one_shape() {
        for (text, shape) in [
            ("worker 12 (pid 4711) has gone", "worker # (pid #) has gone"),
            ("no such row", "no such row"),
            (
                "request 9f86d081884c7d65: it failed",
                "request #: it failed",
            ),
            ("10.0.0.7:5432", "#.#.#.#:#"),
            ("größe 7ß", "größe #"),
            ("", ""),
        ] {
            assert_eq!(shape_of(text), shape);
        }
    }

    #[test]
    fn thousands_stand_apart() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_002_003, "1,002,003"),
        ] {
            assert_eq!(Grouped(number).to_string(), shown);
        }
    }
}
