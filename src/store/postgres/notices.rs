//! Hearing of writes that were made past this server: the triggers of `migrate --with-notify` tell of the shoes that each
//! statement changed, and NOTIFY brings it here once the transaction has committed. Used by a thread of each worker.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, Connection, Error};

use super::connect::Connector;
use super::error::store_error;
use super::session::{CallError, Session};
use crate::store::schema::NOTIFY_CHANNEL;
use crate::store::{Deadline, StoreError};

/// For how long nothing may be heard before the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(1);

/// How long it has to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one notice tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The answer of a shoe has changed.
    Shoe(i32),
    /// Any answer may have: the table was emptied, a statement changed more shoes than are worth naming, or the notice
    /// is of another version.
    Everything,
}

impl Notice {
    fn read(payload: &str) -> Self {
        payload.parse().map_or(Notice::Everything, Notice::Shoe)
    }
}

/// Payloads that came and were not read yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<VecDeque<String>>>);

impl Heard {
    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection's life, in which notices are kept and other messages are not.
    pub(super) async fn keep_from<S, T>(self, mut connection: Connection<S, T>) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        poll_fn(|cx| {
            loop {
                match ready!(connection.poll_message(cx)) {
                    Some(Ok(AsyncMessage::Notification(notice))) => {
                        self.lock().push_back(notice.payload().to_owned());
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Ok(())),
                }
            }
        })
        .await
    }
}

/// Hears from one database.
pub struct Listener {
    connector: Connector,
    session: Option<Session>,
}

impl Listener {
    pub(super) fn new(connector: Connector) -> Self {
        Listener {
            connector,
            session: None,
        }
    }

    /// Connects, and listens from then on; what is committed afterwards is heard. Whether the triggers are there.
    ///
    /// # Errors
    /// The database can't be reached, or refuses.
    pub fn connect(&mut self) -> Result<bool, StoreError> {
        self.session = None;
        self.connector.heard = Some(Heard::default());
        let mut session = self.connector.connect().map_err(StoreError::Unavailable)?;
        let listening = session.run(Deadline::after(PATIENCE), async |client, _| {
            client
                .batch_execute(&format!("LISTEN {NOTIFY_CHANNEL}"))
                .await?;
            let triggers = "SELECT count(*) FROM pg_catalog.pg_trigger t \
                            JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
                            WHERE t.tgrelid = pg_catalog.to_regclass('shoe_images') \
                            AND p.proname = 'shoe_images_notify' AND t.tgenabled <> 'D'";
            client.query_one(triggers, &[]).await?.try_get::<_, i64>(0)
        });
        let triggers = listening.map_err(store_error)?;
        self.session = Some(session);
        Ok(triggers > 0)
    }

    /// Waits until something is heard; no notice after a second of silence, in which the server has answered.
    ///
    /// # Errors
    /// The connection is lost: what is told from now on is not heard until [`Listener::connect`].
    pub fn wait(&mut self) -> Result<Vec<Notice>, StoreError> {
        let lost = || StoreError::Unavailable("the connection that listens is closed".to_owned());
        let (Some(session), Some(heard)) = (&mut self.session, &self.connector.heard) else {
            return Err(lost());
        };
        let outcome = session.run(Deadline::after(SILENCE + PATIENCE), async |client, _| {
            let something = poll_fn(|_| match heard.lock().is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            });
            if tokio::time::timeout(SILENCE, something).await.is_err() {
                client.batch_execute("").await?;
            }
            Ok(())
        });
        // What came before the end counts.
        let notices: Vec<Notice> = heard
            .lock()
            .drain(..)
            .map(|payload| Notice::read(&payload))
            .collect();
        match outcome {
            Ok(()) => Ok(notices),
            Err(_) if !notices.is_empty() => {
                self.session = None;
                Ok(notices)
            }
            Err(CallError::Refused(error)) => Err(store_error(CallError::Refused(error))),
            Err(_) => {
                self.session = None;
                Err(lost())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_names_a_shoe_or_means_everything() {
        assert_eq!(Notice::read("7"), Notice::Shoe(7));
        assert_eq!(Notice::read("-7"), Notice::Shoe(-7));
        for other in ["*", "", "7 8", "99999999999", "7 server"] {
            assert_eq!(Notice::read(other), Notice::Everything, "{other:?}");
        }
    }
}
