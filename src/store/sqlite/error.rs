//! What SQLite's result codes mean to us (<https://www.sqlite.org/rescode.html>).

use std::fmt;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// Why a connection could not be opened; already in words.
#[derive(Debug)]
pub(in crate::store) struct OpenError(pub(super) String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

/// Words for an error of opening the file at `path`: a missing file is the usual one, and has a remedy.
pub(super) fn open_text(error: &rusqlite::Error, path: &Path) -> String {
    match path.try_exists() {
        Ok(false) => format!(
            "there is no file {}; `canvas-cluster migrate` creates it",
            path.display()
        ),
        Err(io) => format!("{}: {io}", path.display()),
        Ok(true) => format!("{}: {}", path.display(), text(error)),
    }
}

/// The error of a call on an open file.
pub(crate) fn store_error(error: &rusqlite::Error, path: &Path) -> StoreError {
    let why = format!("{}: {}", path.display(), text(error));
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Refused(why),
            ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
                StoreError::Refused(why)
            }
            ErrorCode::OperationInterrupted => StoreError::TimedOut,
            ErrorCode::CannotOpen | ErrorCode::SystemIoFailure => StoreError::Unavailable(why),
            ErrorCode::NotADatabase => StoreError::Schema(why),
            // SQLITE_ERROR while preparing our own statements: the table or a column is not there.
            ErrorCode::Unknown if is_schema(error) => StoreError::Schema(why),
            _ => StoreError::Failed(why),
        },
        rusqlite::Error::SqlInputError { .. } => StoreError::Schema(why),
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => StoreError::Schema(why),
        _ => StoreError::Failed(why),
    }
}

fn is_schema(error: &rusqlite::Error) -> bool {
    let text = error.to_string();
    text.contains("no such table")
        || text.contains("no such column")
        || text.contains("has no column")
}

fn text(error: &rusqlite::Error) -> String {
    let rusqlite::Error::SqliteFailure(failure, message) = error else {
        return error.to_string();
    };
    let meaning = match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            "another process keeps the file locked"
        }
        ErrorCode::DiskFull => "the disk is full",
        ErrorCode::ReadOnly => "the file or its folder is read-only for us",
        ErrorCode::DatabaseCorrupt => {
            "the file is damaged; restore it, or try `sqlite3 FILE .recover`"
        }
        ErrorCode::NotADatabase => "the file is no SQLite database",
        ErrorCode::CannotOpen => "the file can't be opened",
        ErrorCode::SystemIoFailure => "the disk failed",
        _ => return error.to_string(),
    };
    match message {
        Some(message) => format!("{meaning} ({message})"),
        None => meaning.to_owned(),
    }
}
