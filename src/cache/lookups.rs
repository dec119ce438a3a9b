//! Looking shoes up in Redis, and filling what was missing: reads, by the lane that asks Redis and by those that asked the store. The rules
//! are at the top of `redis`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::link::Link;
use super::peer::Ask;
use super::redis::RedisCache;
use super::scripts::{BEGIN, FILL, LEASE};
use super::shards::{Number, Shard};
use crate::store::Deadline;

/// The age beyond which a read may no longer fill the cache.
const LEASE_LIFE: Duration = Duration::from_secs(4);

/// A batch of answers from Redis, and what is needed to fill what was missing.
pub struct Lookup {
    /// Element `i` answers key `i` of the batch.
    pub found: Vec<Option<Bytes>>,
    ticket: Option<Ticket>,
}

/// What the store answered of a shoe that a lookup missed.
pub type Filling = (Arc<Lookup>, i32, Bytes);

impl Lookup {
    /// Whether the store's answer for this shoe will be filled in. It must be as new as the lease, or an older one would stay.
    pub fn fills(&self, shoe_id: i32) -> bool {
        let leased = |ticket: &Ticket| ticket.shoe_ids.binary_search(&shoe_id).is_ok();
        self.ticket.as_ref().is_some_and(leased)
    }
}

/// The right to fill, as of the moment before the store was asked.
struct Ticket {
    epochs: Epochs,
    lease: String,
    begun: Instant,
    /// The shoes on whose keys the lease is, in ascending order.
    shoe_ids: Vec<i32>,
}

/// The epochs of those shards that are believed.
type Epochs = BTreeMap<Number, Vec<u8>>;

impl RedisCache {
    /// Looks a batch up, and takes leases on what is missing: on the first of them, as many as `room` says of so many that the
    /// store will be asked for. Never fails: what can't be had is missing.
    pub fn fetch(&self, shoe_ids: &[i32], room: impl FnOnce(usize) -> usize) -> Lookup {
        let begun = Instant::now();
        // One for all that a lookup asks.
        let deadline = Deadline::after(self.patience);
        let mut found = vec![None; shoe_ids.len()];
        let epochs = self.look_up(shoe_ids, deadline, &mut found);
        if epochs.is_empty() {
            return Lookup {
                found,
                ticket: None,
            };
        }
        let mut missing: Vec<i32> = shoe_ids
            .iter()
            .zip(&found)
            .filter(|(_, value)| value.is_none())
            .map(|(shoe_id, _)| *shoe_id)
            .collect();
        // A lease on what nobody asks the store for would only keep others from it.
        missing.truncate(room(missing.len()));
        // Nor is there one where nothing is believed.
        missing.retain(|shoe_id| epochs.contains_key(&self.shards.of_shoe(*shoe_id)));
        // A key that is asked for twice would find its own lease in its way.
        missing.sort_unstable();
        missing.dedup();
        let ticket = self.lease(epochs, missing, begun, deadline);
        Lookup { found, ticket }
    }

    /// Puts what is there into `found`, in the order of the shoes; the epochs of those shards whose answers are believed.
    fn look_up(&self, shoe_ids: &[i32], deadline: Deadline, found: &mut [Option<Bytes>]) -> Epochs {
        let mut epochs = Epochs::new();
        let marks = self.scoreboard.marks();
        let mut groups = self.shards.group(shoe_ids);
        let count = groups.len();
        groups.retain(|(number, _)| !marks.is_owed(self.shards.get(*number).buckets));
        if groups.len() < count {
            // The clerk settles it, and by itself: a Redis that refuses would be asked by every batch otherwise.
            self.call_clerk();
        }
        if groups.is_empty() {
            return epochs;
        }
        let asks = groups.iter().map(|(number, places)| {
            let shard = self.shards.get(*number);
            let mut command = redis::cmd("MGET");
            command.arg(&shard.epoch);
            for place in places {
                command.arg(shard.key(shoe_ids[*place]));
            }
            Ask {
                buckets: shard.buckets,
                command,
                follows: false,
            }
        });
        let asks: Vec<Ask> = asks.collect();
        let Some(mut link) = self.link(&asks, deadline) else {
            return epochs;
        };
        let answers = link.ask_all::<Vec<Option<Vec<u8>>>>(&asks, deadline);
        let mut beginning = Vec::new();
        for ((number, places), answer) in groups.iter().zip(answers) {
            let shard = self.shards.get(*number);
            let Some(mut values) = self.judge(&link, shard.buckets, answer) else {
                continue;
            };
            let epoch = values.first_mut().and_then(Option::take);
            let Some(epoch) = epoch
                .clone()
                .filter(|epoch| link.began(shard.buckets, epoch))
            else {
                beginning.push(begin_epoch(&link, shard, &epoch.unwrap_or_default()));
                continue;
            };
            // A debt made while the batch was under way may concern one of its keys: then believe nothing of it. The debts of
            // those who have another table aren't seen.
            if self.scoreboard.is_divided()
                || marks.is_owed(shard.buckets)
                || values.len() != places.len() + 1
            {
                continue;
            }
            for (place, value) in places.iter().zip(values.into_iter().skip(1)) {
                found[*place] = value.and_then(|value| open(value, &epoch));
            }
            epochs.insert(*number, epoch);
        }
        if !beginning.is_empty() {
            let begun = link.ask_all::<()>(&beginning, deadline);
            for (ask, begun) in beginning.iter().zip(begun) {
                self.judge(&link, ask.buckets, begun);
            }
        }
        epochs
    }

    /// Takes leases, as far as they are to be had.
    fn lease(
        &self,
        epochs: Epochs,
        missing: Vec<i32>,
        begun: Instant,
        deadline: Deadline,
    ) -> Option<Ticket> {
        if missing.is_empty() {
            return None;
        }
        let number = self.leases.1.fetch_add(1, Ordering::Relaxed);
        let lease = format!("{}{number}", self.leases.0);
        let groups = self.shards.group(&missing);
        let asks = groups.iter().filter_map(|(number, places)| {
            let epoch = epochs.get(number)?;
            let shoe_ids = places.iter().map(|place| missing[*place]);
            let mut ask = self.script(LEASE, *number, shoe_ids);
            ask.command
                .arg(&lease)
                .arg([epoch, &b":"[..]].concat())
                .arg(LEASE_LIFE.as_millis() as u64);
            Some(ask)
        });
        let asks: Vec<Ask> = asks.collect();
        let answers = self.ask_all::<Vec<u8>>(&asks, deadline);
        let mut shoe_ids: Vec<i32> = groups
            .iter()
            .zip(answers)
            .flat_map(|((_, places), got)| places.iter().zip(got.unwrap_or_default()))
            .filter(|(_, got)| *got == 1)
            .map(|(place, _)| missing[*place])
            .collect();
        shoe_ids.sort_unstable();
        (!shoe_ids.is_empty()).then_some(Ticket {
            epochs,
            lease,
            begun,
            shoe_ids,
        })
    }

    /// Fills what lookups missed with what the store answered since, each answer with its lookup: all in one command, since a Redis
    /// that falls silent would be waited for once for each.
    pub fn fill(&self, answers: &[Filling]) {
        // What missed together may be answered apart, or in part: each answer counts for itself.
        let leased = answers.iter().filter_map(|(lookup, shoe_id, value)| {
            let ticket = lookup.ticket.as_ref()?;
            ticket.shoe_ids.binary_search(shoe_id).ok()?;
            // Counted from the question: nothing in Redis is older than it may get.
            let left = self.ttl.checked_sub(ticket.begun.elapsed())?;
            Some((*shoe_id, ticket, left, value))
        });
        let leased: Vec<_> = leased.collect();
        if leased.is_empty() {
            return;
        }
        let keys: Vec<i32> = leased.iter().map(|(shoe_id, ..)| *shoe_id).collect();
        let groups = self.shards.group(&keys);
        let asks = groups.iter().filter_map(|(number, places)| {
            let shoe_ids = places.iter().map(|place| keys[*place]);
            let mut ask = self.script(FILL, *number, shoe_ids);
            for place in places {
                let (_, ticket, left, value) = &leased[*place];
                ask.command
                    .arg(&ticket.lease)
                    .arg(left.as_millis().max(1) as u64)
                    .arg([ticket.epochs.get(number)?, &b":"[..], value].concat());
            }
            Some(ask)
        });
        // One that is held up on its way finds its lease gone.
        self.ask_all::<()>(&asks.collect::<Vec<_>>(), Deadline::after(self.patience));
    }
}

/// Gives a shard that has no epoch (a new one, or one that evicted it), or that of another process, its own. Of several that try one
/// wins.
fn begin_epoch(link: &Link, shard: &Shard, old: &[u8]) -> Ask {
    let mut command = redis::cmd("EVAL");
    command
        .arg(BEGIN)
        .arg(1)
        .arg(&shard.epoch)
        .arg(old)
        .arg(link.new_epoch(shard.buckets));
    Ask {
        buckets: shard.buckets,
        command,
        follows: false,
    }
}

/// A value as stored is `epoch:json`; anything else is a tombstone, a lease or another epoch's, which is a miss.
fn open(mut value: Vec<u8>, epoch: &[u8]) -> Option<Bytes> {
    if !value.starts_with(epoch) || value.get(epoch.len()) != Some(&b':') {
        return None;
    }
    value.drain(..=epoch.len());
    Some(Bytes::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::scripts::TOMBSTONE;

    #[test]
    fn only_a_value_of_this_epoch_opens() {
        assert_eq!(
            open(b"3:[1]".to_vec(), b"3"),
            Some(Bytes::from_static(b"[1]"))
        );
        for other in [
            &b"2:[1]"[..],
            b"33:[1]",
            b"3",
            b"",
            b"[1:2]",
            b"~3:",
            TOMBSTONE,
        ] {
            assert_eq!(open(other.to_vec(), b"3"), None);
        }
    }
}
