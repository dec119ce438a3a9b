//! One CouchDB database over HTTP: requests on pooled connections, each answered by its deadline and bounded in bytes. Used by the
//! store, and by the tools that make and fill a database.
//!
//! A pooled connection may be dead without our knowing. One that the server has closed is not used; what breaks under a read is
//! asked again on a fresh one, and a write never is: what became of it the store has to find out.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{HeaderValue, Method, Request};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};

use super::error::{CallError, Refusal};
use super::wire::{Opener, noting_sent};
use crate::store::pool::Gate;
use crate::store::url::CouchUrl;
use crate::store::{Deadline, PoolOptions, StoreError, tls};

/// The longest answer that is read. A page of rows has 4,096, whose longest texts take some 9 KiB each; beyond that it holds what
/// no draft of ours can.
const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// How long an idle connection is kept: proxies and servers close theirs after a minute or more.
const IDLE: Duration = Duration::from_secs(50);

/// A client of one database.
pub(crate) struct Client {
    /// The database, without a slash at the end.
    base: String,
    /// HTTP's Basic scheme (RFC 7617).
    authorization: Option<HeaderValue>,
    /// Its pool holds the connections. Another one takes its place when they can't be trusted any more.
    agent: RwLock<Agent>,
    tls: Option<Arc<ClientConfig>>,
    connections: usize,
    connect_timeout: Duration,
    gate: Gate,
}

/// What is asked: a method, a path below the database (empty for itself), and JSON if there is any.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Option<Vec<u8>>,
}

impl<'a> Question<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Question {
            method: Method::GET,
            path,
            body: None,
        }
    }

    /// # Errors
    /// What can't be JSON; nothing of ours.
    pub(crate) fn with(
        method: Method,
        path: &'a str,
        body: &impl Serialize,
    ) -> Result<Self, StoreError> {
        let body =
            serde_json::to_vec(body).map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(Question {
            method,
            path,
            body: Some(body),
        })
    }
}

/// An answer that says yes.
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// # Errors
    /// [`CallError::Garbled`] if it is something else: a proxy's page, or the first half of an answer.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| CallError::Garbled(format!("no answer of CouchDB's: {error}")))
    }
}

impl Client {
    /// A client that connects to nothing yet.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] naming the certificate file that can't be used.
    pub(crate) fn open(url: &CouchUrl, options: PoolOptions) -> Result<Self, StoreError> {
        let tls = match url.tls {
            true => {
                let identity = url.sslcert.as_deref().zip(url.sslkey.as_deref());
                let verified = tls::verified(url.sslrootcert.as_deref(), identity);
                Some(Arc::new(verified.map_err(StoreError::Unavailable)?))
            }
            false => None,
        };
        let scheme = if url.tls { "https" } else { "http" };
        let database = utf8_percent_encode(&url.database, NON_ALPHANUMERIC);
        let connections = usize::try_from(options.max_size).unwrap_or(usize::MAX);
        Ok(Client {
            base: format!("{scheme}://{}/{database}", url.authority()),
            authorization: authorization(url),
            agent: RwLock::new(agent(tls.clone(), connections)),
            tls,
            connections,
            connect_timeout: url.connect_timeout.unwrap_or(options.connect_timeout),
            gate: Gate::new(format!("CouchDB, {url},")),
        })
    }

    /// Asks something that changes nothing, a second time if a connection broke under it.
    pub(crate) fn read(
        &self,
        question: &Question<'_>,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        self.through_gate(question, 2, deadline)
    }

    /// Asks once.
    pub(crate) fn write(
        &self,
        question: &Question<'_>,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        self.through_gate(question, 1, deadline)
    }

    /// Uses no connection of before any more.
    pub(crate) fn forget_connections(&self) {
        let fresh = agent(self.tls.clone(), self.connections);
        *self.agent.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// The gate tells once that the server is away and once that it is back, and meanwhile lets one through at a time.
    fn through_gate(
        &self,
        question: &Question<'_>,
        tries: u32,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        if deadline.passed() {
            return Err(CallError::TimedOut { sent: false });
        }
        let unwell = self.gate.trouble().is_some();
        let mut found = None;
        let passed = self.gate.attempt(|| {
            let error = match self.try_often(question, tries, deadline) {
                Ok(answer) => return Ok(Ok(answer)),
                Err(error) => error,
            };
            // That a well server lets us wait, or fails one write, is no outage yet: what became of that write is asked next.
            let is_lapse = match &error {
                CallError::TimedOut { .. } | CallError::Garbled(_) => true,
                CallError::Lost(_) | CallError::Refused(Refusal { status: 500.., .. }) => {
                    tries == 1
                }
                CallError::NotSent(_) | CallError::Refused(_) => false,
            };
            let away = error.is_away() && (unwell || !is_lapse);
            match away {
                true => {
                    let why = error.to_string();
                    found = Some(error);
                    Err(why)
                }
                false => Ok(Err(error)),
            }
        });
        match passed {
            Ok(outcome) => outcome,
            Err(why) => Err(found.unwrap_or(CallError::NotSent(why))),
        }
    }

    fn try_often(
        &self,
        question: &Question<'_>,
        mut tries: u32,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        loop {
            tries -= 1;
            match self.send(question, deadline) {
                Err(CallError::Lost(_)) if tries > 0 => self.forget_connections(),
                // Those beside it are as old.
                Err(error @ CallError::Lost(_)) => {
                    self.forget_connections();
                    return Err(error);
                }
                outcome => return outcome,
            }
        }
    }

    /// One request and its answer.
    fn send(&self, question: &Question<'_>, deadline: Deadline) -> Result<Answer, CallError> {
        let left = deadline.left();
        if left.is_zero() {
            return Err(CallError::TimedOut { sent: false });
        }
        let connect = self.connect_timeout.min(left);
        let agent = self
            .agent
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (outcome, sent) = noting_sent(|| {
            let mut request = Request::builder()
                .method(question.method.clone())
                .uri(format!("{}{}", self.base, question.path))
                .header(CONTENT_TYPE, "application/json");
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            macro_rules! run {
                ($body:expr) => {{
                    let request = agent
                        .configure_request(request.body($body)?)
                        .timeout_global(Some(left))
                        .timeout_resolve(Some(connect))
                        .timeout_connect(Some(connect))
                        .build();
                    agent.run(request)?
                }};
            }
            let mut response = match &question.body {
                Some(body) => run!(body.as_slice()),
                None => run!(()),
            };
            let status = response.status().as_u16();
            let body = response.body_mut().with_config().limit(LONGEST_ANSWER);
            Ok::<_, ureq::Error>((status, body.read_to_vec()?))
        });
        match outcome {
            Ok((status @ 200..=299, body)) => Ok(Answer { status, body }),
            Ok((status, body)) => Err(CallError::Refused(Refusal::read(status, &body))),
            Err(error) => Err(CallError::of(error, sent, deadline)),
        }
    }
}

/// Redirects are not followed, for a write must not go where nobody sent it; nor is a proxy of the environment asked.
fn agent(tls: Option<Arc<ClientConfig>>, connections: usize) -> Agent {
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("canvas-cluster/", env!("CARGO_PKG_VERSION")))
        .accept("application/json")
        .max_idle_connections(connections)
        .max_idle_connections_per_host(connections)
        .max_idle_age(IDLE)
        .build();
    let connector = ().chain(TcpConnector::default()).chain(Opener { tls });
    Agent::with_parts(config, connector, DefaultResolver::default())
}

fn authorization(url: &CouchUrl) -> Option<HeaderValue> {
    let user = url.user.as_ref()?;
    let password = url
        .password
        .as_ref()
        .map_or("", |password| password.expose());
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
