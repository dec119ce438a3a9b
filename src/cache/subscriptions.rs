//! Hearing of the writes of other hosts: each worker subscribes to a channel of the Redis that they share. While the
//! subscription stands, every write committed elsewhere kills this host's answers within one message; while it doesn't,
//! the worker's own cache is passed by, and what it held is not believed afterwards.
//!
//! In a cluster a message that is published at one master comes to all, by way of their bus, but one that is cut off from the
//! others tells only those who listen to it itself. So there is a subscription at every master, and each stands for the buckets
//! that are written there.

use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::{future, io};

use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use redis::aio::PubSub;
use redis::{Msg, RedisError, RedisResult, Value};
use tokio::time::timeout;

use super::event_loop::{EventLoop, timed_out};
use super::invalidations::heed;
use super::peer::{describe, is_away};
use super::servers::Servers;
use super::trust::Trust;
use crate::config::redis_url::Address;
use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::Buckets;
use crate::store::Deadline;

/// How long nothing may come before a subscription is asked for a sign of life, and how long that may take. Twice
/// this is how long a host may go on without hearing.
const SILENCE: Duration = Duration::from_millis(250);

/// How long to leave a server alone after a subscription to it broke.
const PAUSE: Duration = Duration::from_millis(250);

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
    let mut hearing = Hearing {
        servers,
        channel: channel.to_owned(),
        scoreboard,
        trust,
        clerk,
        changes: None,
        places: Vec::new(),
        ears: Vec::new(),
        joining: FuturesUnordered::new(),
        begun: Vec::new(),
        again: None,
        heard: Buckets::NONE,
        is_told: false,
    };
    thread::Builder::new()
        .name("invalidations".to_owned())
        .spawn(move || {
            loop {
                let events = match EventLoop::new() {
                    Ok(events) => events,
                    Err(error) => {
                        hearing.complain(&error.into());
                        hearing.call_clerk();
                        thread::sleep(PAUSE);
                        continue;
                    }
                };
                loop {
                    hearing.hear(&events);
                }
            }
        })
        .map(drop)
}

/// A subscription at one server.
struct Ear {
    address: Address,
    subscription: PubSub,
    /// When it last gave a sign of life, and since when it has been asked for one.
    heard: Instant,
    asked: Option<Instant>,
}

/// A subscription that begins, and what came of it.
type Joining = BoxFuture<'static, (Address, RedisResult<PubSub>)>;

struct Hearing {
    servers: Arc<Servers>,
    channel: String,
    scoreboard: Scoreboard,
    trust: Arc<Trust>,
    clerk: Thread,
    /// As of how many changes the places are; `None` before they are known.
    changes: Option<u64>,
    places: Vec<(Address, Buckets)>,
    ears: Vec<Ear>,
    joining: FuturesUnordered<Joining>,
    /// Where to.
    begun: Vec<Address>,
    /// When to begin again where a subscription is missing.
    again: Option<Instant>,
    /// The buckets for which trust is given.
    heard: Buckets,
    is_told: bool,
}

/// What came first.
enum News {
    /// Of the ear at this place.
    Message(usize, RedisResult<Msg>),
    Joined(Address, RedisResult<PubSub>),
}

impl Hearing {
    /// Hears one thing, or nothing for a while.
    fn hear(&mut self, events: &EventLoop) {
        self.call_clerk();
        self.look_around(events);
        let pause = match self.again {
            Some(again) => again.saturating_duration_since(Instant::now()),
            None => SILENCE,
        };
        let (ears, joining) = (&mut self.ears, &mut self.joining);
        let news = events.run(Deadline::after(pause.min(SILENCE)), async {
            let listening = ears.iter_mut().enumerate();
            let mut listening: FuturesUnordered<_> = listening
                .map(|(place, ear)| async move { (place, ear.listen().await) })
                .collect();
            match select(first_of(&mut listening), first_of(joining)).await {
                Either::Left(((place, message), _)) => Ok(News::Message(place, message)),
                Either::Right(((address, outcome), _)) => Ok(News::Joined(address, outcome)),
            }
        });
        match news {
            Ok(News::Message(_, Ok(message))) => {
                // One that has always more to say must not be heard alone.
                self.ears.rotate_left(1);
                match message.get_payload::<String>() {
                    Ok(text) => heed(&text, &self.scoreboard),
                    // Of another version, and nobody knows what of.
                    Err(_) => heed("", &self.scoreboard),
                }
            }
            Ok(News::Message(place, Err(error))) => {
                self.ears.remove(place);
                self.lose(&error);
            }
            Ok(News::Joined(address, outcome)) => {
                self.begun.retain(|begun| *begun != address);
                match outcome {
                    Ok(subscription) => self.join(address, subscription),
                    Err(error) => self.lose(&error),
                }
            }
            // Nothing came.
            Err(_) => {}
        }
    }

    /// Sees to it that there is a subscription, or will be, at each server that takes writes, and at no other.
    fn look_around(&mut self, events: &EventLoop) {
        let is_due = self.again.is_some_and(|again| again <= Instant::now());
        if !is_due && self.changes == Some(self.servers.changes()) {
            return;
        }
        self.again = None;
        match events.run(Deadline::after(SILENCE), self.servers.places()) {
            Ok(places) => {
                self.changes = Some(places.changes);
                self.places = places.servers;
            }
            Err(error) => {
                // Nobody knows where others write.
                self.changes = None;
                self.places.clear();
                self.ears.clear();
                self.lose(&error);
            }
        }
        let places = &self.places;
        self.ears
            .retain(|ear| places.iter().any(|(address, _)| *address == ear.address));
        for (address, _) in places {
            if self.ears.iter().any(|ear| ear.address == *address) || self.begun.contains(address) {
                continue;
            }
            self.begun.push(address.clone());
            let (servers, channel) = (self.servers.clone(), self.channel.clone());
            let address = address.clone();
            self.joining.push(
                async move {
                    let subscribed = timeout(SILENCE, servers.subscribe(&address, &channel)).await;
                    let subscribed = subscribed.unwrap_or_else(|_| Err(timed_out()));
                    (address, subscribed)
                }
                .boxed(),
            );
        }
        self.give_trust();
    }

    fn join(&mut self, address: Address, subscription: PubSub) {
        if !self.places.iter().any(|(place, _)| *place == address) {
            // It was a master when this began.
            return;
        }
        self.ears.push(Ear {
            address,
            subscription,
            heard: Instant::now(),
            asked: None,
        });
        self.give_trust();
    }

    fn lose(&mut self, error: &RedisError) {
        self.again = self.again.or_else(|| Some(Instant::now() + PAUSE));
        self.give_trust();
        self.complain(error);
    }

    /// Trusts what is heard, and no more. A bucket whose slot moves between two that are both listened to is heard all along.
    fn give_trust(&mut self) {
        let is_heard = |(address, _): &&(Address, Buckets)| {
            self.ears.iter().any(|ear| ear.address == *address)
        };
        let heard = self.places.iter().filter(is_heard);
        let heard = heard.fold(Buckets::NONE, |all, (_, buckets)| all.and(*buckets));
        self.trust.suspend(self.heard.without(heard));
        let new = heard.without(self.heard);
        if !new.is_empty() {
            // What was told before is not known to have been heard: replicas must have that, too.
            self.scoreboard.written().doubt();
            self.trust.begin(new);
        }
        self.heard = heard;
    }

    fn complain(&mut self, error: &RedisError) {
        // The breaker of the lanes' connections says that Redis is away; one voice is enough. That it is there and
        // refuses only this thread hears of.
        let level = match is_away(error) || self.is_told {
            true => log::Level::Debug,
            false => log::Level::Warn,
        };
        self.is_told |= level == log::Level::Warn;
        log::log!(
            level,
            "redis: writes of other hosts are not heard, so this worker's own cache is passed by: {}",
            describe(error)
        );
    }

    fn call_clerk(&self) {
        if self.scoreboard.marks().is_owed(Buckets::ALL) {
            self.clerk.unpark();
        }
    }
}

/// The first of these to end; never, if there are none.
fn first_of<F: Future>(
    pending: &mut FuturesUnordered<F>,
) -> impl Future<Output = F::Output> + Unpin {
    future::poll_fn(|context| match pending.poll_next_unpin(context) {
        Poll::Ready(Some(first)) => Poll::Ready(first),
        // Nobody wakes who waits for nothing; the deadline does.
        Poll::Ready(None) | Poll::Pending => Poll::Pending,
    })
}

impl Ear {
    /// The next message. Asks for a sign of life where there is none; whoever gives this up meanwhile asks again, and within the
    /// same time.
    async fn listen(&mut self) -> RedisResult<Msg> {
        loop {
            let left = SILENCE.saturating_sub(self.heard.elapsed());
            let message = timeout(left, self.subscription.on_message().next()).await;
            match message {
                Ok(Some(message)) => {
                    self.live();
                    return Ok(message);
                }
                Ok(None) => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
                Err(_) => {
                    let asked = *self.asked.get_or_insert_with(Instant::now);
                    let left = SILENCE.saturating_sub(asked.elapsed());
                    let ponged = timeout(left, self.subscription.ping::<Value>()).await;
                    ponged.unwrap_or_else(|_| Err(timed_out()))?;
                    self.live();
                }
            }
        }
    }

    fn live(&mut self) {
        self.heard = Instant::now();
        self.asked = None;
    }
}
