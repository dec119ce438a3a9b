//! Where each key is: a *shard* is what must be together on one server, its epoch and the shoes whose values carry that. One
//! server, or one master, has all in one shard; in a cluster each of the 64 buckets is a shard with a hash tag of its own, so that
//! all its keys are in one slot, and whatever concerns one shoe stays one command.

use crate::scoreboard::buckets::{BUCKETS, Buckets};
use crate::scoreboard::generations::Entry;

/// The shape of the cached values; part of every key, so that a new shape never reads an old one.
const FORMAT: &str = "v1";

/// How many slots a cluster has (Redis Cluster specification, "Key distribution model").
pub(super) const SLOTS: u16 = 16384;

/// Which shard: its place among them.
pub(super) type Number = usize;

/// What is together on one server.
pub(super) struct Shard {
    pub(super) buckets: Buckets,
    /// The key of its epoch.
    pub(super) epoch: String,
    /// What the keys of its shoes begin with.
    shoes: String,
}

impl Shard {
    fn new(buckets: Buckets, prefix: &str) -> Self {
        Shard {
            buckets,
            epoch: format!("{prefix}epoch"),
            shoes: format!("{prefix}shoe:{FORMAT}:"),
        }
    }

    pub(super) fn key(&self, shoe_id: i32) -> String {
        format!("{}{shoe_id}", self.shoes)
    }

    /// A key of nobody's, to try writing with.
    pub(super) fn probe(&self) -> String {
        format!("{}:probe", self.epoch)
    }
}

/// All shards.
pub(super) struct Shards(Vec<Shard>);

impl Shards {
    /// Everything on one server.
    pub(super) fn of_one(prefix: &str) -> Self {
        Shards(vec![Shard::new(Buckets::ALL, prefix)])
    }

    /// A shard for each bucket.
    pub(super) fn of_cluster(prefix: &str) -> Self {
        let shards = tags()
            .into_iter()
            .enumerate()
            .map(|(bucket, tag)| Shard::new(Buckets::one(bucket), &format!("{prefix}{{{tag}}}:")));
        Shards(shards.collect())
    }

    pub(super) fn all(&self) -> &[Shard] {
        &self.0
    }

    pub(super) fn of_shoe(&self, shoe_id: i32) -> Number {
        match self.0.len() {
            1 => 0,
            _ => Entry::of_shoe(shoe_id).bucket(),
        }
    }

    pub(super) fn get(&self, number: Number) -> &Shard {
        &self.0[number]
    }

    /// The places of these shoes, in ascending order within each shard that has any.
    pub(super) fn group(&self, shoe_ids: &[i32]) -> Vec<(Number, Vec<usize>)> {
        let mut places = vec![Vec::new(); self.0.len()];
        for (place, shoe_id) in shoe_ids.iter().enumerate() {
            places[self.of_shoe(*shoe_id)].push(place);
        }
        let groups = places.into_iter().enumerate();
        groups.filter(|(_, places)| !places.is_empty()).collect()
    }

    /// These shoes as they are marked: together on one server. In a cluster each goes alone, since a command of several keys is
    /// refused while their slot moves and one of them has gone ahead.
    pub(super) fn group_for_marks(&self, shoe_ids: &[i32]) -> Vec<(Number, Vec<i32>)> {
        match self.0.len() {
            1 => vec![(0, shoe_ids.to_vec())],
            _ => shoe_ids
                .iter()
                .map(|shoe_id| (self.of_shoe(*shoe_id), vec![*shoe_id]))
                .collect(),
        }
    }
}

/// The slot of each bucket of a cluster.
pub(super) fn slots() -> [u16; BUCKETS] {
    tags().map(|tag| slot_of(tag.to_string().as_bytes()))
}

/// The hash tag of each bucket: the first number whose slot is in the bucket's own 256 of them. So masters that divide the
/// slots evenly divide the buckets evenly, too. Every host finds the same.
fn tags() -> [u32; BUCKETS] {
    let mut found = [None; BUCKETS];
    let mut left = BUCKETS;
    for tag in 0_u32.. {
        let slot = slot_of(tag.to_string().as_bytes());
        let bucket = &mut found[usize::from(slot) * BUCKETS / usize::from(SLOTS)];
        if bucket.is_none() {
            *bucket = Some(tag);
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    found.map(Option::unwrap_or_default)
}

/// The slot of a hash tag.
fn slot_of(tag: &[u8]) -> u16 {
    crc16(tag) % SLOTS
}

/// CRC-16/XMODEM (Redis Cluster specification, appendix A).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => crc << 1 ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_one_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // As CLUSTER KEYSLOT says.
        assert_eq!((slot_of(b"foo"), slot_of(b"user1000")), (12182, 3443));
    }

    #[test]
    fn the_buckets_are_spread_over_the_slots() {
        for (bucket, slot) in slots().into_iter().enumerate() {
            assert_eq!(usize::from(slot) / 256, bucket);
        }
    }

    #[test]
    fn what_concerns_a_shoe_is_in_one_slot() {
        let shards = Shards::of_cluster("p:");
        for shoe in [1, -1, 7, i32::MAX] {
            let shard = shards.get(shards.of_shoe(shoe));
            let tag = |key: &str| {
                let rest = key.split_once('{').expect("a tag").1;
                rest.split_once('}').expect("a tag").0.to_owned()
            };
            let key = shard.key(shoe);
            assert_eq!(key, format!("p:{{{}}}:shoe:v1:{shoe}", tag(&key)));
            assert_eq!(tag(&key), tag(&shard.epoch));
            assert_eq!(tag(&key), tag(&shard.probe()));
        }
        let one = Shards::of_one("p:");
        assert_eq!(one.get(one.of_shoe(7)).key(7), "p:shoe:v1:7");
    }

    #[test]
    fn a_batch_is_split_into_what_is_together() {
        let shards = Shards::of_cluster("p:");
        let shoes: Vec<i32> = (0..100).chain([7]).collect();
        let groups = shards.group(&shoes);
        let mut places: Vec<usize> = Vec::new();
        for (number, group) in groups {
            assert!(
                group
                    .iter()
                    .all(|place| shards.of_shoe(shoes[*place]) == number)
            );
            places.extend(group);
        }
        places.sort_unstable();
        assert_eq!(places, (0..101).collect::<Vec<_>>());
        assert_eq!(Shards::of_one("").group(&[3, 4]), [(0, vec![0, 1])]);
        assert_eq!(shards.group_for_marks(&[3, 4]).len(), 2);
        assert_eq!(
            Shards::of_one("").group_for_marks(&[3, 4]),
            [(0, vec![3, 4])]
        );
    }
}
