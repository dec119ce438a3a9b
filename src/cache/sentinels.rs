//! Who the master is, as Sentinels say. Called by `servers`.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{RedisConnectionInfo, RedisResult};

use super::peer::describe;
use super::servers::{Servers, away};
use crate::config::redis_url::{Address, Topology};

/// How long the Sentinels that are slow, or away, are waited for when not enough of them agree.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(100);

/// What a Sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) master: Address,
    /// Of two failovers, the later has the higher one.
    epoch: u64,
}

/// The master as it was last named.
#[derive(Default)]
pub(super) struct Named {
    pub(super) view: Option<View>,
    pub(super) is_doubted: bool,
}

/// Connections to the Sentinels of the URL, in its order, where they are kept.
#[derive(Default)]
pub(super) struct Sentinels(Vec<Option<MultiplexedConnection>>);

impl Servers {
    /// Asks all Sentinels at once. A majority is enough, of which the one that knows of the latest failover is believed; fewer are
    /// believed too, but not if they are behind what is known.
    pub(super) async fn ask_sentinels(&self, sentinels: &mut Sentinels) -> RedisResult<View> {
        let Topology::Sentinel { master, login } = &self.url.topology else {
            return Err(away("there are no Sentinels".to_owned()));
        };
        sentinels.0.resize_with(self.url.addresses.len(), || None);
        let majority = self.url.addresses.len() / 2 + 1;
        let asked = self.url.addresses.iter().zip(&mut sentinels.0);
        let mut answers: FuturesUnordered<_> = asked
            .map(|(address, connection)| self.ask(address, connection, master, login))
            .collect();
        let mut views = Vec::new();
        let mut why = None;
        let gather = async {
            while views.len() < majority
                && let Some(answer) = answers.next().await
            {
                match answer {
                    Ok(view) => views.push(view),
                    Err(error) => why = Some(error),
                }
            }
        };
        let timed_out = tokio::time::timeout(SENTINEL_TIMEOUT, gather)
            .await
            .is_err();
        let answered = views.len();
        let Some(latest) = views.into_iter().max_by_key(|view| view.epoch) else {
            let why = match why {
                Some(error) => describe(&error),
                None if timed_out => "no answer in time".to_owned(),
                None => "none is named".to_owned(),
            };
            return Err(away(format!("no Sentinel names the master: {why}")));
        };
        self.adopt(latest, answered >= majority)
    }

    fn adopt(&self, view: View, by_majority: bool) -> RedisResult<View> {
        let mut named = self.named();
        if let Some(known) = &named.view
            && view.epoch < known.epoch
            && !by_majority
        {
            return Ok(known.clone());
        }
        named.is_doubted = false;
        let before = named.view.replace(view.clone()).map(|view| view.master);
        if before.as_ref() != Some(&view.master) {
            self.changes.fetch_add(1, Ordering::SeqCst);
            match before {
                Some(before) => log::info!(
                    "redis: the master is {} now and no longer {before}, as Sentinels say",
                    view.master
                ),
                None => log::debug!("redis: the master is {}", view.master),
            }
        }
        Ok(view)
    }

    async fn ask(
        &self,
        address: &Address,
        kept: &mut Option<MultiplexedConnection>,
        master: &str,
        login: &RedisConnectionInfo,
    ) -> RedisResult<View> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.talk_to(address, login).await?,
        };
        let (place, facts): (Option<(String, u16)>, HashMap<String, String>) = redis::pipe()
            .cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(master)
            .cmd("SENTINEL")
            .arg("MASTER")
            .arg(master)
            .query_async(&mut connection)
            .await?;
        let Some((host, port)) = place else {
            return Err(away(format!("{address} knows no master of that name")));
        };
        *kept = Some(connection);
        let epoch = facts.get("config-epoch").and_then(|text| text.parse().ok());
        Ok(View {
            master: Address::Tcp(host, port),
            epoch: epoch.unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(port: u16, epoch: u64) -> View {
        View {
            master: Address::Tcp("h".to_owned(), port),
            epoch,
        }
    }

    #[test]
    fn a_minority_that_is_behind_is_not_believed() {
        let servers = Servers::new("redis+sentinel://a,b,c/m").expect("a URL");
        let adopt = |view: View, by_majority| servers.adopt(view, by_majority).expect("a view");
        assert_eq!(adopt(view(1, 5), false), view(1, 5));
        assert_eq!(servers.changes(), 1);
        assert_eq!(adopt(view(2, 4), false), view(1, 5));
        assert_eq!(servers.changes(), 1);
        assert_eq!(adopt(view(2, 6), false), view(2, 6));
        // Sentinels that were set up anew count from the beginning.
        assert_eq!(adopt(view(3, 1), true), view(3, 1));
        assert_eq!(servers.changes(), 3);
    }
}
