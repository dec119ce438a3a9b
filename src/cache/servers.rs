//! Which server takes writes, and how to get there: the one of the URL, or the master that Sentinels name. Called by links and
//! subscriptions, on an event loop of theirs; each call is bounded by who runs that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, RedisResult};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::link::{EventLoop, IO_TIMEOUT, describe};
use crate::config::redis_url::{self, Address, RedisUrl, Topology};
use crate::store::{Deadline, tls};

/// How often Sentinels are asked who the master is. With the time that a subscription takes to see the answer, it is how long a host
/// may go on with a master that another one has taken the place of.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long the Sentinels that are slow, or away, are waited for when not enough of them agree.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(100);

/// A stream of whatever kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What a Sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    master: Address,
    /// Of two failovers, the later has the higher one.
    epoch: u64,
}

/// The master as it was last named.
#[derive(Default)]
struct Named {
    view: Option<View>,
    is_doubted: bool,
}

/// The servers of a URL.
pub(super) struct Servers {
    url: RedisUrl,
    tls: Option<TlsConnector>,
    named: Mutex<Named>,
    /// How often the master has changed.
    changes: AtomicU64,
}

impl Servers {
    /// Opens nothing but the files of certificates.
    ///
    /// # Errors
    /// The URL, or a file that it names, is not what it should be.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let url = redis_url::parse(url)?;
        let tls = match &url.tls {
            Some(files) => {
                let identity = files.identity.as_ref();
                let identity = identity.map(|(cert, key)| (&**cert, &**key));
                let config = tls::verified(files.root.as_deref(), identity)?;
                Some(TlsConnector::from(Arc::new(config)))
            }
            None => None,
        };
        Ok(Servers {
            url,
            tls,
            named: Mutex::default(),
            changes: AtomicU64::new(0),
        })
    }

    /// Whether the server to ask may become another one.
    pub(super) fn may_change(&self) -> bool {
        !matches!(self.url.topology, Topology::One)
    }

    /// How often the server has changed: what was connected before the last time leads to one that is no longer the master.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Has the next connection ask who the master is: somebody found another one than this.
    pub(super) fn doubt(&self) {
        self.named().is_doubted = true;
    }

    fn named(&self) -> std::sync::MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the server that takes writes.
    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let address = self.address().await?;
        let mut connection = self.talk_to(&address, &self.url.login).await?;
        self.check_role(&address, &mut connection).await?;
        Ok(connection)
    }

    /// A subscription to a channel of it.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<PubSub> {
        let address = self.address().await?;
        if self.may_change() {
            let mut connection = self.talk_to(&address, &self.url.login).await?;
            self.check_role(&address, &mut connection).await?;
        }
        let stream = self.reach(&address).await?;
        let mut subscription = PubSub::new(&self.url.login, stream).await?;
        let subscribed = subscription.subscribe(channel).await;
        subscribed.map_err(explain_refusal)?;
        Ok(subscription)
    }

    async fn address(&self) -> RedisResult<Address> {
        if !self.may_change() {
            return match self.url.addresses.first() {
                Some(address) => Ok(address.clone()),
                None => Err(away("the URL names no server".to_owned())),
            };
        }
        {
            let named = self.named();
            if let (Some(view), false) = (&named.view, named.is_doubted) {
                return Ok(view.master.clone());
            }
        }
        let mut sentinels = Sentinels::default();
        Ok(self.ask_sentinels(&mut sentinels).await?.master)
    }

    /// Sentinels may be behind, and so may be a master that was stopped and goes on: it is asked itself.
    async fn check_role(
        &self,
        address: &Address,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        if !self.may_change() {
            return Ok(());
        }
        let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(connection).await?;
        let role = role
            .into_iter()
            .next()
            .map(redis::from_redis_value::<String>);
        match role {
            Some(Ok(role)) if role == "master" => Ok(()),
            _ => {
                self.doubt();
                Err(away(format!(
                    "{address} is not the master, whatever Sentinels say"
                )))
            }
        }
    }

    async fn talk_to(
        &self,
        address: &Address,
        login: &RedisConnectionInfo,
    ) -> RedisResult<MultiplexedConnection> {
        // The crate's own time-outs would only say the same as ours with another timer.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let stream = self.reach(address).await?;
        let (connection, driver) =
            MultiplexedConnection::new_with_config(login, stream, config).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    async fn reach(&self, address: &Address) -> RedisResult<Box<dyn Stream>> {
        let (host, port) = match address {
            Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Tcp(host, port) => (host, *port),
        };
        let stream = TcpStream::connect((&**host, port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(host.clone())
            .map_err(|_| away(format!("{address}: its name can't be in a certificate")))?;
        let stream = tls.connect(name, stream).await;
        let stream = stream.map_err(|error| away(format!("{address}: TLS: {error}")))?;
        Ok(Box::new(stream))
    }

    /// Starts the thread that hears of another master, where there may be one. `changed` is called after each change.
    ///
    /// # Errors
    /// The kernel has no thread left for us.
    pub(super) fn watch(self: &Arc<Self>, changed: impl Fn() + Send + 'static) -> io::Result<()> {
        if !self.may_change() {
            return Ok(());
        }
        let servers = self.clone();
        let events = EventLoop::new()?;
        thread::Builder::new()
            .name("sentinels".to_owned())
            .spawn(move || {
                let mut sentinels = Sentinels::default();
                loop {
                    let before = servers.changes();
                    let asked = events.run(
                        Deadline::after(IO_TIMEOUT),
                        servers.ask_sentinels(&mut sentinels),
                    );
                    if let Err(error) = asked {
                        log::debug!("redis: {}", describe(&error));
                        sentinels = Sentinels::default();
                    }
                    if servers.changes() != before {
                        changed();
                    }
                    thread::sleep(LOOK_EVERY);
                }
            })
            .map(drop)
    }

    /// Asks all Sentinels at once. A majority is enough, of which the one that knows of the latest failover is believed; fewer are
    /// believed too, but not if they are behind what is known.
    async fn ask_sentinels(&self, sentinels: &mut Sentinels) -> RedisResult<View> {
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
        let (place, facts): (
            Option<(String, u16)>,
            std::collections::HashMap<String, String>,
        ) = redis::pipe()
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

/// Connections to the Sentinels of the URL, in its order, where they are kept.
#[derive(Default)]
struct Sentinels(Vec<Option<MultiplexedConnection>>);

/// Nobody was reached who could do what is asked for.
fn away(why: String) -> RedisError {
    RedisError::from((ErrorKind::Io, "not reached", why))
}

/// An access list without channels is what refuses a client to which all else is allowed.
fn explain_refusal(error: RedisError) -> RedisError {
    match error.code() {
        Some("NOPERM") => RedisError::from((
            ErrorKind::Client,
            "refused",
            "it lets us not subscribe: its access list may want `&*`".to_owned(),
        )),
        _ => error,
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
