//! One connection to PostgreSQL, whose every call ends by its deadline.
//!
//! Why not `postgres::Client`: it is a blocking face of tokio-postgres that waits for an answer as long as
//! the socket lives. A server that is stopped, or a network that swallows packets, would hold a lane for
//! minutes; TCP_USER_TIMEOUT does not end a wait for an answer to acknowledged bytes, a cancel request needs
//! the same dead server, and on a Unix-domain socket there is no timeout at all. So this is the same
//! blocking face over the same crate, 100 lines, with the deadline inside: the calling thread polls the
//! connection, the request and a timer, and whichever is first ends the call. No second thread, no signal.
//!
//! After a timeout the state of the conversation is unknown, so the session is broken and its socket closed;
//! the server notices at its next read or write, at the latest after `statement_timeout`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use postgres::Error;
use postgres::error::SqlState;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use super::notices::Heard;
use super::statements::Statements;
use crate::store::Deadline;

/// How long a session that is let go may take to say goodbye.
const FAREWELL: Duration = Duration::from_millis(50);

/// The task that moves bytes between the client and its socket.
type Wire = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Why a call on a session ended without an answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The deadline came first. The session is broken.
    TimedOut,
    /// The connection is gone. The session is broken.
    Lost(String),
    /// The server, or the conversion of a value, said no. The session goes on.
    Refused(Error),
}

/// One connection. Not shared: a pool hands it to one caller at a time.
pub(crate) struct Session {
    /// `None` once the session is broken.
    link: Option<Link>,
    statements: Statements,
    /// What led to this server, for tools that need more connections to the same one.
    route: tokio_postgres::Config,
    /// The pool's epoch when the connection was begun.
    epoch: u64,
}

struct Link {
    runtime: Runtime,
    wire: Wire,
    client: Client,
}

impl Session {
    /// Joins the halves that `tokio_postgres::Config::connect` made on `runtime`. `heard` is where notices go, which are dropped
    /// otherwise; `pooled` that the server behind it may be another one in each transaction.
    pub(super) fn new<S, T>(
        runtime: Runtime,
        (client, connection): (Client, tokio_postgres::Connection<S, T>),
        route: tokio_postgres::Config,
        heard: Option<Heard>,
        pooled: bool,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let link = Link {
            runtime,
            wire: match heard {
                Some(heard) => Box::pin(heard.keep_from(connection)),
                None => Box::pin(connection),
            },
            client,
        };
        Session {
            link: Some(link),
            statements: Statements::new(pooled),
            route,
            epoch: 0,
        }
    }

    /// Runs `work` to its end, to the end of the connection or to the deadline, whichever is first.
    pub(crate) fn run<T>(
        &mut self,
        deadline: Deadline,
        work: impl AsyncFnOnce(&Client, &mut Statements) -> Result<T, Error>,
    ) -> Result<T, CallError> {
        let Some(Link {
            runtime,
            wire,
            client,
        }) = &mut self.link
        else {
            return Err(CallError::Lost("the connection is closed".to_owned()));
        };
        let statements = &mut self.statements;
        let (result, broken) = runtime.block_on(async {
            let mut work = pin!(work(client, statements));
            let both = poll_fn(|cx| {
                let end = wire.as_mut().poll(cx);
                // Ask the work even if the wire has ended: its answer may have come right before.
                match (work.as_mut().poll(cx), end) {
                    (Poll::Ready(Ok(value)), end) => Poll::Ready((Ok(value), end.is_ready())),
                    (Poll::Ready(Err(error)), end) if end.is_ready() || is_fatal(&error) => {
                        Poll::Ready((Err(CallError::Lost(text(&error))), true))
                    }
                    (Poll::Ready(Err(error)), _) => {
                        Poll::Ready((Err(CallError::Refused(error)), false))
                    }
                    (Poll::Pending, Poll::Ready(end)) => {
                        let why = end
                            .err()
                            .map_or_else(|| "the server hung up".to_owned(), |e| text(&e));
                        Poll::Ready((Err(CallError::Lost(why)), true))
                    }
                    (Poll::Pending, Poll::Pending) => Poll::Pending,
                }
            });
            tokio::time::timeout(deadline.left(), both)
                .await
                .unwrap_or((Err(CallError::TimedOut), true))
        });
        if broken {
            self.give_up();
        }
        result
    }

    /// Whether the server has not hung up, as far as this end knows without asking. One system call.
    pub(super) fn is_alive(&mut self) -> bool {
        let Some(Link { runtime, wire, .. }) = &mut self.link else {
            return false;
        };
        let ended = runtime.block_on(async {
            // Let the runtime look at the socket first.
            tokio::task::yield_now().await;
            poll_fn(|cx| Poll::Ready(wire.as_mut().poll(cx).is_ready())).await
        });
        if ended {
            self.give_up();
        }
        !ended
    }

    /// Closes the socket; the session is not to be used again.
    pub(crate) fn give_up(&mut self) {
        if let Some(link) = self.link.take() {
            // A name look-up may still be under way in a thread of the runtime: don't wait for it.
            link.runtime.shutdown_background();
        }
    }

    /// Moves the connection to another session; this one is broken from now on.
    pub(super) fn take(&mut self) -> Session {
        Session {
            link: self.link.take(),
            statements: self.statements.take(),
            route: self.route.clone(),
            epoch: self.epoch,
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.link.is_none()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// The parameters of the connection that this session has, for more of the same.
    pub(crate) fn route(&self) -> &tokio_postgres::Config {
        &self.route
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(Link {
            runtime,
            wire,
            client,
        }) = self.link.take()
        {
            // Without its client the wire says goodbye to the server and ends.
            drop(client);
            let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, wire).await });
            runtime.shutdown_background();
        }
    }
}

/// Whether the server ends the session with this error: it shuts down, crashes or was told to.
pub(super) fn is_fatal(error: &Error) -> bool {
    if error.is_closed() {
        return true;
    }
    match error.code() {
        Some(code) => {
            *code == SqlState::ADMIN_SHUTDOWN
                || *code == SqlState::CRASH_SHUTDOWN
                || *code == SqlState::CANNOT_CONNECT_NOW
                || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                || code.code().starts_with("08")
        }
        None => {
            use std::error::Error as _;
            error
                .source()
                .is_some_and(|cause| cause.is::<std::io::Error>())
        }
    }
}

/// An error in words, with the server's message where there is one. Never its DETAIL, which may quote
/// stored values.
pub(crate) fn text(error: &Error) -> String {
    use std::error::Error as _;
    if let Some(error) = error.as_db_error() {
        return error.message().to_owned();
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
