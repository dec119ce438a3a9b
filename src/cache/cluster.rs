//! Which server of a cluster serves which bucket, as its servers say: reading CLUSTER NODES, and believing the right one of several
//! that disagree. Pure; `servers` asks. CLUSTER NODES and not CLUSTER SLOTS, since it tells the epoch of each claim, by which
//! the servers themselves decide between two (Redis Cluster specification, "configuration epoch").

use std::collections::BTreeMap;

use super::shards::SLOTS;
use crate::config::redis_url::Address;
use crate::scoreboard::buckets::{BUCKETS, Buckets};

/// More than a thousand servers, which is the most that a cluster is made for, say of themselves.
const LONGEST: usize = 1 << 20;

/// The longest host name (RFC 1035).
const LONGEST_HOST: usize = 253;

/// That a bucket's slot is served by somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    /// Of two claims, the later has the higher one.
    epoch: u64,
    address: Address,
}

/// What one server says, or what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    claims: [Option<Claim>; BUCKETS],
    /// How to reach the servers that a redirection names by `host:port`, where that is in another way.
    names: BTreeMap<String, Address>,
}

impl Default for Map {
    fn default() -> Self {
        Map {
            claims: [const { None }; BUCKETS],
            names: BTreeMap::new(),
        }
    }
}

impl Map {
    /// What the server at `asked` answered to CLUSTER NODES. Over TLS servers are called by the names that they announce, if any, which
    /// are what certificates have. `slots` are those of the buckets. Lines that make no sense are left out.
    pub(super) fn read(text: &str, asked: &Address, tls: bool, slots: &[u16; BUCKETS]) -> Map {
        let mut map = Map::default();
        if text.len() > LONGEST {
            return map;
        }
        for node in text.lines().filter_map(|line| Node::read(line, asked, tls)) {
            map.names.insert(node.endpoint, node.address.clone());
            for (bucket, slot) in slots.iter().enumerate() {
                if node
                    .slots
                    .iter()
                    .any(|(from, to)| (from..=to).contains(&slot))
                {
                    map.claim(
                        bucket,
                        Claim {
                            epoch: node.epoch,
                            address: node.address.clone(),
                        },
                    );
                }
            }
        }
        map
    }

    fn claim(&mut self, bucket: usize, claim: Claim) {
        let known = &mut self.claims[bucket];
        if known.as_ref().is_none_or(|known| known.epoch < claim.epoch) {
            *known = Some(claim);
        }
    }

    /// What several say together: of each bucket the latest.
    pub(super) fn and(mut self, other: Map) -> Map {
        for (bucket, claim) in other.claims.into_iter().enumerate() {
            if let Some(claim) = claim {
                self.claim(bucket, claim);
            }
        }
        self.names.extend(other.names);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claims.iter().all(Option::is_none)
    }

    /// The servers that serve buckets, each with its own.
    pub(super) fn owners(&self) -> BTreeMap<Address, Buckets> {
        let mut owners = BTreeMap::new();
        for (bucket, claim) in self.claims.iter().enumerate() {
            if let Some(claim) = claim {
                let buckets: &mut Buckets = owners.entry(claim.address.clone()).or_default();
                *buckets = buckets.and(Buckets::one(bucket));
            }
        }
        owners
    }

    /// Where a redirection leads to that a server at `asked` gave, which may leave its own host out.
    pub(super) fn place_of(&self, redirection: &str, asked: &Address) -> Option<Address> {
        if let Some(address) = self.names.get(redirection) {
            return Some(address.clone());
        }
        let (host, port) = redirection.rsplit_once(':')?;
        address(host, port, asked)
    }
}

/// A master, as a line of CLUSTER NODES tells of it.
struct Node {
    /// `host:port` as redirections have it.
    endpoint: String,
    address: Address,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

impl Node {
    /// `<id> <ip:port@cport[,hostname]> <flags> <master> <ping-sent> <pong-recv> <config-epoch> <link-state> <slot> …`; `None` if it is
    /// no master, or none that could be reached.
    fn read(line: &str, asked: &Address, tls: bool) -> Option<Node> {
        let mut words = line.split(' ');
        let place = words.nth(1)?;
        let mut flags = words.next()?.split(',');
        if flags
            .clone()
            .any(|flag| matches!(flag, "noaddr" | "handshake"))
            || !flags.any(|flag| flag == "master")
        {
            return None;
        }
        let epoch = words.nth(3)?.parse().ok()?;
        // Behind the state of the link. What is in brackets is on its way, and still here.
        let slots = words.skip(1).filter_map(read_slots).collect();
        let (endpoint, rest) = place.split_once('@').unwrap_or((place, ""));
        let (host, port) = endpoint.rsplit_once(':')?;
        // Behind the port of the cluster's bus; what follows has names of its own (`shard-id=…`).
        let announced = rest.split(',').nth(1);
        let announced = announced.filter(|name| tls && !name.is_empty() && !name.contains('='));
        Some(Node {
            endpoint: endpoint.to_owned(),
            address: address(announced.unwrap_or(host), port, asked)?,
            epoch,
            slots,
        })
    }
}

/// One that does not know its own address yet leaves it out.
fn address(host: &str, port: &str, asked: &Address) -> Option<Address> {
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match (host, asked) {
        ("" | "?", Address::Tcp(asked, _)) => Some(Address::Tcp(asked.clone(), port)),
        ("" | "?", Address::Unix(_)) => None,
        _ if host.len() > LONGEST_HOST || host.contains(|c: char| !c.is_ascii_graphic()) => None,
        _ => Some(Address::Tcp(host.to_owned(), port)),
    }
}

fn read_slots(word: &str) -> Option<(u16, u16)> {
    let (from, to) = word.split_once('-').unwrap_or((word, word));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && to < SLOTS).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::shards;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    fn read(text: &str) -> Map {
        Map::read(text, &tcp("seed", 1), false, &shards::slots())
    }

    fn buckets(of: std::ops::Range<usize>) -> Buckets {
        of.collect()
    }

    /// As Redis 7.0 says it, and 7.2, which adds names.
    const NODES: &str = "\
07c3 10.0.0.4:6379@16379 slave e7d1 0 1426238317239 4 connected
67ed 10.0.0.2:6379@16379,b.test master - 0 1426238316232 2 connected 5461-10922
2923 10.0.0.3:6379@16379,,shard-id=69bc master - 0 1426238318243 3 connected 10923-16382 16383 [93-<-e7d1]
e7d1 :6379@16379 myself,master - 0 0 1 connected 0-5460 [93->-2923]
5555 10.0.0.9:0@0 master,noaddr - 1 1 9 disconnected 0-16383
6666 10.0.0.8:6379@16379 handshake - 1 1 9 connected 0-16383
";

    #[test]
    fn each_bucket_has_its_server() {
        let owners = read(NODES).owners();
        let expected = [
            (tcp("10.0.0.2", 6379), buckets(22..43)),
            (tcp("10.0.0.3", 6379), buckets(43..64)),
            (tcp("seed", 6379), buckets(0..22)),
        ];
        let whole = expected
            .iter()
            .fold(Buckets::NONE, |all, (_, some)| all.and(*some));
        assert_eq!(whole, Buckets::ALL);
        // The tags of the buckets at the borders are on either side.
        for (address, some) in expected {
            let found = owners.get(&address).copied().unwrap_or_default();
            assert!(found.without(some).count() <= 1, "{address}: {found:?}");
            assert!(some.without(found).count() <= 1, "{address}: {found:?}");
        }
        let named = Map::read(NODES, &tcp("seed", 1), true, &shards::slots());
        assert!(named.owners().contains_key(&tcp("b.test", 6379)));
        let to = |place| named.place_of(place, &tcp("seed", 1));
        assert_eq!(to("10.0.0.2:6379"), Some(tcp("b.test", 6379)));
        assert_eq!(to("10.0.0.7:7000"), Some(tcp("10.0.0.7", 7000)));
        assert_eq!(to(":7000"), Some(tcp("seed", 7000)));
        assert_eq!(to("::1:7000"), Some(tcp("::1", 7000)));
        assert_eq!(to("nonsense"), None);
    }

    #[test]
    fn of_two_claims_the_later_is_believed() {
        let claim = |host: &str, epoch: u64| {
            read(&format!(
                "id {host}:1@2 master - 0 0 {epoch} connected 0-16383"
            ))
        };
        let (old, new) = (claim("old", 4), claim("new", 7));
        for both in [old.clone().and(new.clone()), new.and(old)] {
            assert_eq!(both.owners(), [(tcp("new", 1), Buckets::ALL)].into());
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let line = "id h:1@2 master - 0 0 1 connected";
        for slots in [
            "x",
            "-",
            "5-",
            "7-5",
            "0-16384",
            "0-99999999",
            "[5-<-x]",
            "",
        ] {
            assert!(read(&format!("{line} {slots}")).is_empty(), "{slots}");
        }
        let endless = "h".repeat(300);
        for text in [
            "",
            "id",
            "id h:1@2 master",
            "id h@2 master - 0 0 1 connected 0-16383",
            "id h:99999@2 master - 0 0 1 connected 0-16383",
            "id h\u{e9}:1@2 master - 0 0 1 connected 0-16383",
            "id h:1@2 master - 0 0 x connected 0-16383",
            "id h:1@2 slave - 0 0 1 connected 0-16383",
            &format!("id {endless}:1@2 master - 0 0 1 connected 0-16383"),
            &format!("{line} 0-16383\n{}", " ".repeat(LONGEST)),
        ] {
            assert!(read(text).is_empty(), "{}", text.len());
        }
    }
}
