//! What CouchDB's answers mean to us (<https://docs.couchdb.org/en/stable/api/basics.html#http-status-codes>), and what it means to
//! have none.

use std::fmt;

use serde::Deserialize;

use crate::store::{Deadline, StoreError};

/// Why a call was not answered with a yes.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nothing of it left us: no server is there, or none that we trust.
    NotSent(String),
    /// The connection broke after something of it had left us.
    Lost(String),
    /// No whole answer came by the deadline.
    TimedOut {
        sent: bool,
    },
    /// What came is no answer of CouchDB's, or more than is read of one.
    Garbled(String),
    Refused(Refusal),
}

/// An answer that says no.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// CouchDB's word for it (`not_found`), and its sentence.
    error: String,
    reason: String,
}

#[derive(Deserialize)]
struct Explanation {
    #[serde(default)]
    error: String,
    #[serde(default)]
    reason: String,
}

/// More of a sentence is not told.
const LONGEST_REASON: usize = 200;

impl Refusal {
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        let said = serde_json::from_slice::<Explanation>(body).unwrap_or(Explanation {
            error: String::new(),
            reason: String::new(),
        });
        let brief = |text: String| text.chars().take(LONGEST_REASON).collect();
        Refusal {
            status,
            error: brief(said.error),
            reason: brief(said.reason),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it answers {}", self.status)?;
        for word in [&self.error, &self.reason] {
            if !word.is_empty() {
                write!(f, ", {word:?}")?;
            }
        }
        if self.status == 401 {
            f.write_str(": user name or password are wrong, or missing in the URL")?;
        }
        Ok(())
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NotSent(why) | CallError::Garbled(why) => f.write_str(why),
            CallError::Lost(why) => write!(f, "the connection was lost: {why}"),
            CallError::TimedOut { .. } => f.write_str("no answer came in time"),
            CallError::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl CallError {
    /// `sent`: something of the request was given to a connection.
    pub(super) fn of(error: ureq::Error, sent: bool, deadline: Deadline) -> Self {
        match error {
            ureq::Error::Timeout(_) if sent || deadline.passed() => CallError::TimedOut { sent },
            ureq::Error::Timeout(_) => {
                CallError::NotSent("no connection could be opened in time".to_owned())
            }
            ureq::Error::BodyExceedsLimit(limit) => {
                CallError::Garbled(format!("an answer is longer than {limit} bytes"))
            }
            error @ ureq::Error::Protocol(_) if sent => CallError::Garbled(error.to_string()),
            error if sent => CallError::Lost(error.to_string()),
            error => CallError::NotSent(error.to_string()),
        }
    }

    /// The status of an answer that says no.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            CallError::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// Whether it says that the server is away, or lets nobody in.
    pub(super) fn is_away(&self) -> bool {
        match self {
            CallError::NotSent(_) | CallError::Lost(_) | CallError::TimedOut { .. } => true,
            CallError::Garbled(_) => false,
            CallError::Refused(refusal) => matches!(refusal.status, 401 | 429 | 500..),
        }
    }

    /// Of a call that changes nothing, or of one that certainly changed nothing.
    pub(crate) fn into_store_error(self) -> StoreError {
        let why = self.to_string();
        match self {
            CallError::TimedOut { .. } => StoreError::TimedOut,
            error if error.is_away() => StoreError::Unavailable(why),
            CallError::Refused(refusal) => match refusal.status {
                403 => StoreError::Refused(why),
                404 => StoreError::Schema(format!("the database or its view is missing ({why})")),
                _ => StoreError::Failed(why),
            },
            _ => StoreError::Failed(why),
        }
    }

    /// Of a call that changes something.
    pub(super) fn of_a_write(self) -> Unwritten {
        match self {
            CallError::Lost(_) | CallError::TimedOut { sent: true } | CallError::Garbled(_) => {
                Unwritten::Perhaps(self.to_string())
            }
            // What stands between may answer so while the server is at it; and so does a cluster that has written some copies.
            CallError::Refused(Refusal { status: 500.., .. }) => {
                Unwritten::Perhaps(self.to_string())
            }
            CallError::NotSent(_) | CallError::TimedOut { sent: false } | CallError::Refused(_) => {
                Unwritten::Certainly(self.into_store_error())
            }
        }
    }
}

/// Why nothing of a call that changes something was acknowledged.
pub(crate) enum Unwritten {
    /// Nothing was written.
    Certainly(StoreError),
    /// Some of it may be, or may be still.
    Perhaps(String),
}
