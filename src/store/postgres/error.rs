//! What PostgreSQL's SQLSTATE codes mean to us
//! (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).

use postgres::Error;
use postgres::error::SqlState;

use super::session::{CallError, text};
use crate::store::StoreError;

/// The error of a call of which nothing was committed.
pub(crate) fn store_error(error: CallError) -> StoreError {
    match error {
        CallError::TimedOut => StoreError::TimedOut,
        CallError::Lost(why) => StoreError::Unavailable(why),
        CallError::Refused(error) => refusal(&error),
    }
}

/// The error of a refused statement.
pub(crate) fn refusal(error: &Error) -> StoreError {
    let why = text(error);
    let Some(code) = error.code() else {
        // Not the server's word: a value did not have the type that our statement expects.
        return StoreError::Schema(why);
    };
    match code {
        code if *code == SqlState::QUERY_CANCELED => StoreError::TimedOut,
        code if *code == SqlState::UNDEFINED_TABLE
            || *code == SqlState::UNDEFINED_COLUMN
            || *code == SqlState::UNDEFINED_FUNCTION
            || *code == SqlState::INVALID_SCHEMA_NAME
            || *code == SqlState::DATATYPE_MISMATCH
            || *code == SqlState::WRONG_OBJECT_TYPE =>
        {
            StoreError::Schema(why)
        }
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION
            || *code == SqlState::INSUFFICIENT_PRIVILEGE
            || *code == SqlState::LOCK_NOT_AVAILABLE =>
        {
            StoreError::Refused(why)
        }
        code => match code.code().get(..2) {
            // Connection exceptions, authorization, operator intervention, system errors.
            Some("08" | "28" | "57" | "58") => StoreError::Unavailable(why),
            // 53300: too many connections; else disk full, out of memory.
            Some("53") if *code == SqlState::TOO_MANY_CONNECTIONS => StoreError::Unavailable(why),
            Some("53") => StoreError::Refused(why),
            _ => StoreError::Failed(why),
        },
    }
}

/// The error of a COMMIT: only the server's own refusal says for sure that nothing was committed.
pub(super) fn commit_error(error: CallError) -> StoreError {
    match error {
        CallError::TimedOut => StoreError::OutcomeUnknown("no answer came in time".to_owned()),
        CallError::Lost(why) => StoreError::OutcomeUnknown(why),
        CallError::Refused(error) => refusal(&error),
    }
}

/// Whether the session itself, rather than the statement, is what does not fit any more: its prepared
/// statements are gone or stale (DDL, DISCARD ALL), or its server was demoted under it.
pub(super) fn is_stale(error: &CallError) -> bool {
    has_code(
        error,
        &[
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ],
    )
}

/// Whether the session's server takes no writes, or no longer.
pub(super) fn is_read_only(error: &CallError) -> bool {
    has_code(error, &[SqlState::READ_ONLY_SQL_TRANSACTION])
}

/// Whether another transaction was in the way, for which the server has rolled this one back.
pub(super) fn is_in_the_way(error: &CallError) -> bool {
    has_code(
        error,
        &[
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ],
    )
}

fn has_code(error: &CallError, codes: &[SqlState]) -> bool {
    match error {
        CallError::Refused(error) => error.code().is_some_and(|code| codes.contains(code)),
        CallError::TimedOut | CallError::Lost(_) => false,
    }
}

/// A call's error in words.
pub(super) fn call_text(error: &CallError) -> String {
    match error {
        CallError::TimedOut => "it did not answer in time".to_owned(),
        CallError::Lost(why) => why.clone(),
        CallError::Refused(error) => text(error),
    }
}
