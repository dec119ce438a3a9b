//! Who serves what in a cluster, as its servers say: all that are known are asked, and the latest claim to a bucket is believed.
//! Called by `servers`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::cluster::Map;
use super::peer::describe;
use super::servers::{Servers, away};
use crate::config::redis_url::Address;

/// How long the servers that are slow, or away, are waited for.
const NODES_TIMEOUT: Duration = Duration::from_millis(100);

/// Connections to servers of the cluster, where they are kept.
pub(super) type Kept = BTreeMap<Address, MultiplexedConnection>;

impl Servers {
    /// Asks those of the URL and all masters that are known, at once.
    pub(super) async fn ask_nodes(&self, kept: &mut Kept) -> RedisResult<()> {
        let masters: BTreeSet<Address> = self.map().owners().into_keys().collect();
        let mut asked = masters.clone();
        asked.extend(self.url.addresses.iter().cloned());
        // A connection whose answer does not come in time is given up.
        let mut before = std::mem::take(kept);
        let mut answers: FuturesUnordered<_> = asked
            .into_iter()
            .map(|address| {
                let connection = before.remove(&address);
                async {
                    let answer = self.ask_node(&address, connection).await;
                    (address, answer)
                }
            })
            .collect();
        let mut said: Option<Map> = None;
        let mut answered = 0;
        let mut why = None;
        let gather = async {
            while let Some((address, answer)) = answers.next().await {
                match answer {
                    Ok((map, connection)) => {
                        answered += usize::from(masters.contains(&address));
                        kept.insert(address, connection);
                        said = Some(match said.take() {
                            Some(said) => said.and(map),
                            None => map,
                        });
                    }
                    Err(error) => why = Some(format!("{address}: {}", describe(&error))),
                }
            }
        };
        let timed_out = tokio::time::timeout(NODES_TIMEOUT, gather).await.is_err();
        match said {
            Some(said) if !said.is_empty() => {
                // Where none of those that were known is left, the others may be of a cluster that was set up anew.
                self.adopt_map(said, answered == 0 || answered * 2 > masters.len());
                Ok(())
            }
            Some(_) => Err(away(
                "it is no server of a cluster, or of one in which nobody serves a slot".to_owned(),
            )),
            None => {
                let silence = timed_out.then(|| "no answer in time".to_owned());
                let why = why.or(silence).unwrap_or_default();
                Err(away(format!("no server of the cluster answers: {why}")))
            }
        }
    }

    async fn ask_node(
        &self,
        address: &Address,
        kept: Option<MultiplexedConnection>,
    ) -> RedisResult<(Map, MultiplexedConnection)> {
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.talk_to(address, &self.url.login).await?,
        };
        let mut command = redis::cmd("CLUSTER");
        let text: String = command.arg("NODES").query_async(&mut connection).await?;
        let map = Map::read(&text, address, self.url.tls.is_some(), &self.slots);
        Ok((map, connection))
    }

    /// Believes what was said, by enough of those that must know, or adds it to what is known.
    pub(super) fn adopt_map(&self, said: Map, by_majority: bool) {
        let mut map = self.map();
        let next = match by_majority {
            true => said,
            false => map.clone().and(said),
        };
        let (before, now) = (map.owners(), next.owners());
        *map = next;
        if before == now {
            return;
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        if before.keys().eq(now.keys()) {
            log::debug!("redis: buckets have moved in the cluster: {now:?}");
            return;
        }
        let names: Vec<String> = now.keys().map(ToString::to_string).collect();
        let level = match before.is_empty() {
            true => log::Level::Debug,
            false => log::Level::Info,
        };
        log::log!(
            level,
            "redis: the masters of the cluster are {} now",
            names.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::shards;

    fn said(masters: &[(&str, u64, &str)]) -> Map {
        let line = |(host, epoch, slots): &(&str, u64, &str)| {
            format!("id {host}:1@2 master - 0 0 {epoch} connected {slots}\n")
        };
        let text: String = masters.iter().map(line).collect();
        let asked = Address::Tcp("seed".to_owned(), 1);
        Map::read(&text, &asked, false, &shards::slots())
    }

    #[test]
    fn few_that_are_behind_are_not_believed() {
        let servers = Servers::new("redis+cluster://seed").expect("a URL");
        let count = || servers.changes();
        let whole = said(&[("a", 1, "0-8191"), ("b", 2, "8192-16383")]);
        servers.adopt_map(whole.clone(), true);
        assert_eq!(count(), 1);
        servers.adopt_map(whole.clone(), true);
        assert_eq!(count(), 1);
        // Another one took the place of the first.
        servers.adopt_map(said(&[("c", 3, "0-8191")]), false);
        assert_eq!(count(), 2);
        servers.adopt_map(whole.clone(), false);
        assert_eq!(count(), 2, "that is what was before");
        // Slots that move.
        servers.adopt_map(said(&[("b", 4, "0-300")]), false);
        assert_eq!(count(), 3);
        servers.adopt_map(whole, true);
        assert_eq!(count(), 4);
    }
}
