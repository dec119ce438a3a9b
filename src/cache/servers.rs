//! Which servers take writes, and how to get there: the one of the URL, the master that Sentinels name, or the masters of a cluster.
//! Called by links and subscriptions, on an event loop of theirs; each call is bounded by who runs that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;
use std::{io, thread};

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, RedisResult};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::cluster::Map;
use super::event_loop::{EventLoop, IO_TIMEOUT};
use super::nodes::Kept;
use super::peer::describe;
use super::sentinels::{Named, Sentinels};
use super::shards;
use crate::config::redis_url::{self, Address, RedisUrl, Topology};
use crate::scoreboard::buckets::{BUCKETS, Buckets};
use crate::store::{Deadline, tls};

/// How often it is asked which servers take writes. With the time that a subscription takes to see the answer, it is how long a host
/// may go on with a master that another one has taken the place of.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How soon again at most, whoever doubts it: servers that disagree would be asked again and again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A stream of whatever kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Who takes writes, as of a number of changes.
pub(super) struct Places {
    pub(super) changes: u64,
    /// Each with the buckets that it has.
    pub(super) servers: Vec<(Address, Buckets)>,
}

/// The servers of a URL.
pub(super) struct Servers {
    pub(super) url: RedisUrl,
    tls: Option<TlsConnector>,
    named: Mutex<Named>,
    map: Mutex<Map>,
    /// The slots of the buckets, in a cluster.
    pub(super) slots: [u16; BUCKETS],
    /// How often who takes writes has changed. Moves while what has changed is locked.
    pub(super) changes: AtomicU64,
    watcher: OnceLock<Thread>,
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
            map: Mutex::default(),
            slots: shards::slots(),
            changes: AtomicU64::new(0),
            watcher: OnceLock::new(),
        })
    }

    /// Whether a server to ask may become another one.
    pub(super) fn may_change(&self) -> bool {
        !matches!(self.url.topology, Topology::One)
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.url.topology, Topology::Cluster)
    }

    /// How often who takes writes has changed: what was connected before the last time may lead to one that is no longer a master.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Has it looked up soon who takes writes: somebody found that it is not the one who should.
    pub(super) fn doubt(&self) {
        self.named().is_doubted = true;
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    pub(super) fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where writes go to; asks who knows, if that is not known yet.
    pub(super) async fn places(&self) -> RedisResult<Places> {
        match self.url.topology {
            Topology::One => {}
            Topology::Sentinel { .. } => {
                let is_known = {
                    let named = self.named();
                    named.view.is_some() && !named.is_doubted
                };
                if !is_known {
                    self.ask_sentinels(&mut Sentinels::default()).await?;
                }
            }
            Topology::Cluster => {
                let is_known = !self.map().is_empty();
                if !is_known {
                    self.ask_nodes(&mut Kept::default()).await?;
                }
            }
        }
        let (named, map) = (self.named(), self.map());
        let master = match &named.view {
            Some(view) => Some(&view.master),
            None => self.url.addresses.first(),
        };
        Ok(Places {
            changes: self.changes(),
            servers: match self.is_cluster() {
                true => map.owners().into_iter().collect(),
                false => master
                    .map(|master| (master.clone(), Buckets::ALL))
                    .into_iter()
                    .collect(),
            },
        })
    }

    /// A connection to a server that takes writes.
    pub(super) async fn connect(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        let mut connection = self.talk_to(address, &self.url.login).await?;
        self.check_role(address, &mut connection).await?;
        Ok(connection)
    }

    /// A subscription to a channel at a server that takes writes.
    pub(super) async fn subscribe(&self, address: &Address, channel: &str) -> RedisResult<PubSub> {
        if matches!(self.url.topology, Topology::Sentinel { .. }) {
            self.connect(address).await?;
        }
        let stream = self.reach(address).await?;
        let mut subscription = PubSub::new(&self.url.login, stream).await?;
        let subscribed = subscription.subscribe(channel).await;
        subscribed.map_err(explain_refusal)?;
        Ok(subscription)
    }

    /// Sentinels may be behind, and so may be a master that was stopped and goes on: it is asked itself. One of a cluster says so
    /// whenever it is asked for what it has no more.
    async fn check_role(
        &self,
        address: &Address,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        if !matches!(self.url.topology, Topology::Sentinel { .. }) {
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

    pub(super) async fn talk_to(
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

    /// Starts the thread that hears of other masters, where there may be any. `changed` is called after each change.
    ///
    /// # Errors
    /// The kernel has no thread left for us.
    pub(super) fn watch(self: &Arc<Self>, changed: impl Fn() + Send + 'static) -> io::Result<()> {
        let name = match self.url.topology {
            Topology::One => return Ok(()),
            Topology::Sentinel { .. } => "sentinels",
            Topology::Cluster => "cluster",
        };
        let servers = self.clone();
        let events = EventLoop::new()?;
        let watcher = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let (mut sentinels, mut nodes) = (Sentinels::default(), Kept::default());
                loop {
                    let before = servers.changes();
                    let asked = events.run(Deadline::after(IO_TIMEOUT), async {
                        match servers.is_cluster() {
                            true => servers.ask_nodes(&mut nodes).await,
                            false => servers.ask_sentinels(&mut sentinels).await.map(drop),
                        }
                    });
                    if let Err(error) = asked {
                        log::debug!("redis: {}", describe(&error));
                        sentinels = Sentinels::default();
                    }
                    if servers.changes() != before {
                        changed();
                    }
                    thread::sleep(LOOK_AGAIN);
                    thread::park_timeout(LOOK_EVERY - LOOK_AGAIN);
                }
            })?;
        // Set once: this is called once.
        let _ = self.watcher.set(watcher.thread().clone());
        Ok(())
    }
}

/// Nobody was reached who could do what is asked for.
pub(super) fn away(why: String) -> RedisError {
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
