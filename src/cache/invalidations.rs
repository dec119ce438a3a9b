//! What hosts that share a Redis tell each other of their writes: messages, and what becomes of what is kept. Called by who writes, and
//! by `subscriptions`.

use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::{BUCKETS, Buckets};
use crate::scoreboard::generations::Entry;

/// What stands for every shoe in a message, or with a number behind it for those of one bucket.
const EVERYTHING: &str = "*";

/// The channel of all clusters that share a prefix.
pub(super) fn channel(prefix: &str) -> String {
    format!("{prefix}invalidations")
}

/// What stands before how far the database was written, in a message.
const PLACE: char = '@';

/// The message for these shoes: which host says it, since the sender has no need to hear it, how far the database has been written
/// (the timeline, and the place in its log) if that is known, and their ids.
pub(super) fn message(scoreboard: &Scoreboard, shoe_ids: &[i32]) -> String {
    let mut text = format!("{:x}", scoreboard.identity());
    if let Some((timeline, lsn)) = scoreboard.written().wanted() {
        text += &format!(" {PLACE}{timeline:x}/{lsn:x}");
    }
    for shoe_id in shoe_ids {
        text.push(' ');
        text += itoa::Buffer::new().format(*shoe_id);
    }
    text
}

/// The message after which no answer of before counts that is in these buckets: all of them, or one.
pub(super) fn message_of(scoreboard: &Scoreboard, buckets: Buckets) -> String {
    let mut text = format!("{:x} {EVERYTHING}", scoreboard.identity());
    if let Some(bucket) = buckets.numbers().next().filter(|_| buckets != Buckets::ALL) {
        text += itoa::Buffer::new().format(bucket);
    }
    text
}

/// Does what a message says. One that makes no sense kills everything: its sender is of another version, and a miss is
/// cheap. How far the database was written is noted before anything dies: who asks for it anew must ask for that much.
pub(super) fn heed(text: &str, scoreboard: &Scoreboard) {
    let mut words = text.split(' ').peekable();
    if words.next() == Some(&format!("{:x}", scoreboard.identity())) {
        return;
    }
    let place = words.next_if(|word| word.starts_with(PLACE));
    match place.and_then(read_place) {
        Some((timeline, lsn)) => scoreboard.written().note(timeline, lsn),
        None => scoreboard.written().doubt(),
    }
    if let Some(bucket) = words.peek().and_then(|word| read_bucket(word)) {
        scoreboard.generations().bump_buckets(Buckets::one(bucket));
        return;
    }
    let shoe_ids: Result<Vec<i32>, _> = words.map(str::parse).collect();
    match shoe_ids {
        Ok(shoe_ids) if !shoe_ids.is_empty() => {
            for shoe_id in shoe_ids {
                scoreboard.generations().bump(Entry::of_shoe(shoe_id));
            }
        }
        _ => scoreboard.generations().bump_all(),
    }
}

fn read_bucket(word: &str) -> Option<usize> {
    let bucket = word.strip_prefix(EVERYTHING)?.parse().ok();
    bucket.filter(|bucket| *bucket < BUCKETS)
}

fn read_place(word: &str) -> Option<(u32, u64)> {
    let (timeline, lsn) = word.strip_prefix(PLACE)?.split_once('/')?;
    let timeline = u32::from_str_radix(timeline, 16).ok()?;
    Some((timeline, u64::from_str_radix(lsn, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_kills_what_it_names_on_every_host_but_its_own() {
        let (here, there) = (
            Scoreboard::new().expect("shared memory"),
            Scoreboard::new().expect("shared memory"),
        );
        assert_ne!(here.identity(), there.identity());
        let of = |board: &Scoreboard, shoe_id| board.generations().load(Entry::of_shoe(shoe_id));
        let text = message(&here, &[7, -8]);
        heed(&text, &here);
        heed(&text, &there);
        assert_eq!((of(&here, 7), of(&here, -8)), (0, 0));
        assert_eq!((of(&there, 7), of(&there, -8), of(&there, 9)), (1, 1, 0));
        for text in [
            &message_of(&here, Buckets::ALL),
            "",
            "nonsense",
            "1 2 x",
            "1 *64",
        ] {
            let before = of(&there, 9);
            heed(text, &there);
            assert_eq!(of(&there, 9), before + 1, "{text:?}");
        }
        let bucket = Entry::of_shoe(7).bucket();
        assert_ne!(bucket, Entry::of_shoe(9).bucket());
        let before = (of(&there, 7), of(&there, 9));
        heed(&message_of(&here, Buckets::one(bucket)), &there);
        assert_eq!((of(&there, 7), of(&there, 9)), (before.0 + 1, before.1));
    }

    #[test]
    fn a_message_tells_how_far_was_written_or_is_a_reason_to_doubt() {
        let (here, there) = (
            Scoreboard::new().expect("shared memory"),
            Scoreboard::new().expect("shared memory"),
        );
        there.written().note(1, 5);
        here.written().note(2, 0x0300_01c8);
        let text = message(&here, &[7]);
        heed(&text, &there);
        assert_eq!(there.written().wanted(), Some((2, 0x0300_01c8)));
        let generation = there.generations().load(Entry::of_shoe(7));
        assert_eq!(
            (generation, there.generations().load(Entry::of_shoe(8))),
            (1, 0)
        );
        // One of unknown outcome, one of another version, and what concerns everything.
        here.written().doubt();
        for text in [
            message(&here, &[7]),
            "1 7".to_owned(),
            "1 @x/y 7".to_owned(),
            message_of(&here, Buckets::ALL),
        ] {
            there.written().settle(there.written().doubts());
            heed(&text, &there);
            assert_eq!(there.written().wanted(), None, "{text:?}");
        }
    }
}
