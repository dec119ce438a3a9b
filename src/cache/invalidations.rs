//! Hearing of the writes of other hosts: each worker subscribes to a channel of the Redis that they share. While the
//! subscription stands, every write committed elsewhere kills this host's answers within one message; while it doesn't,
//! the worker's own cache is passed by, and what it held is not believed afterwards. In a cluster it subscribes at every master, and
//! the subscription stands while all of them do.

use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};
use std::{io, thread};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::PubSub;
use redis::{Msg, RedisError, Value};

use super::l1::Trust;
use super::link::{EventLoop, describe, is_away};
use super::servers::Servers;
use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::{BUCKETS, Buckets};
use crate::scoreboard::generations::Entry;
use crate::store::Deadline;

/// How long nothing may come before the subscription is asked for a sign of life, and how long that may take. Twice
/// this is how long a host may go on without hearing.
const SILENCE: Duration = Duration::from_millis(250);

/// How long to leave Redis alone after the subscription broke.
const PAUSE: Duration = Duration::from_millis(250);

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
fn heed(text: &str, scoreboard: &Scoreboard) {
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

/// Starts the thread that hears, for ever. Until it does, `trust` is not given. Several times a second, whatever comes, it
/// wakes the clerk if there is a debt: another process of this host may have made it.
///
/// # Errors
/// The kernel has no thread left for us.
pub(super) fn listen(
    servers: Arc<Servers>,
    channel: &str,
    scoreboard: Scoreboard,
    trust: Arc<Trust>,
    clerk: Thread,
) -> io::Result<()> {
    let channel = channel.to_owned();
    thread::Builder::new()
        .name("invalidations".to_owned())
        .spawn(move || {
            let mut is_told = false;
            loop {
                let Err(error) = hear(&servers, &channel, &scoreboard, &trust, &clerk);
                trust.suspend();
                call_for(&clerk, &scoreboard);
                // The breaker of the lanes' connections says that Redis is away; one voice is enough. That it is there and
                // refuses only this thread hears of.
                let level = match is_away(&error) || is_told {
                    true => log::Level::Debug,
                    false => log::Level::Warn,
                };
                is_told |= level == log::Level::Warn;
                log::log!(
                    level,
                    "redis: writes of other hosts are not heard, so this worker's own cache is passed by: {}",
                    describe(&error)
                );
                thread::sleep(PAUSE);
            }
        })
        .map(drop)
}

/// A subscription at one server, and when it last gave a sign of life.
struct Ear {
    subscription: PubSub,
    heard: Instant,
}

/// Hears until a subscription breaks.
fn hear(
    servers: &Servers,
    channel: &str,
    scoreboard: &Scoreboard,
    trust: &Trust,
    clerk: &Thread,
) -> Result<std::convert::Infallible, RedisError> {
    let events = EventLoop::new()?;
    let lost = || RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
    // Complete answers and messages count as signs of life; bytes of one don't.
    let in_time = || Deadline::after(SILENCE);
    let (memberships, subscriptions) = events.run(in_time(), servers.subscribe(channel))?;
    let mut ears: Vec<Ear> = subscriptions
        .into_iter()
        .map(|subscription| Ear {
            subscription,
            heard: Instant::now(),
        })
        .collect();
    // What was told before is not known to have been heard: replicas must have that, too.
    scoreboard.written().doubt();
    trust.begin();
    loop {
        call_for(clerk, scoreboard);
        if servers.memberships() != memberships {
            // The old master may go on for seconds, where nobody tells anything any more, and a new one is not heard yet.
            return Err(lost());
        }
        // Each by itself: what others say is no sign of life of the one that is silent.
        let silent = ears.iter_mut().filter(|ear| ear.heard.elapsed() >= SILENCE);
        for ponged in events.gather(in_time(), silent.map(Ear::ping)) {
            ponged?;
        }
        let oldest = ears.iter().map(|ear| ear.heard.elapsed()).max();
        let pause = SILENCE.saturating_sub(oldest.unwrap_or_default());
        let heard = events.run(Deadline::after(pause), async {
            let mut next: FuturesUnordered<_> = ears.iter_mut().map(Ear::listen).collect();
            next.next().await.flatten().ok_or_else(lost)
        });
        match heard {
            Ok(message) => {
                heed(&message.get_payload::<String>()?, scoreboard);
                // One that has always more to say must not be heard alone.
                ears.rotate_left(1);
            }
            Err(error) if error.is_timeout() => {}
            Err(error) => return Err(error),
        }
    }
}

impl Ear {
    async fn listen(&mut self) -> Option<Msg> {
        let message = self.subscription.on_message().next().await;
        self.heard = Instant::now();
        message
    }

    async fn ping(&mut self) -> Result<(), RedisError> {
        self.subscription.ping::<Value>().await?;
        self.heard = Instant::now();
        Ok(())
    }
}

fn call_for(clerk: &Thread, scoreboard: &Scoreboard) {
    if scoreboard.marks().is_owed(Buckets::ALL) {
        clerk.unpark();
    }
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
