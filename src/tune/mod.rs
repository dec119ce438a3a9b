//! Limits of the process. Today one: open files, which the seed's service ran out of at 3,500 requests a second.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that a worker needs besides its connections: listeners, databases, Redis, the runtime's own.
const BESIDES_CONNECTIONS: u64 = 256;

/// The limit on open files of a process, after raising.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// What the process has now, and its children inherit.
    pub limit: u64,
}

impl OpenFiles {
    /// What is wrong with the limit for workers of `max_connections` connections each, and the remedy.
    pub fn complaint(&self, max_connections: usize) -> Option<String> {
        let wanted = max_connections as u64 + BESIDES_CONNECTIONS;
        (self.limit < wanted).then(|| {
            format!(
                "a worker may open {} files, but max_connections = {max_connections} needs {wanted}; beyond that new \
                 connections wait unaccepted. Raise LimitNOFILE= in the unit (or `nofile` in limits.d), or lower \
                 --max-connections",
                self.limit
            )
        })
    }
}

/// Raises the limit on open files as far as it goes without privilege: to the hard limit (setrlimit(2)).
///
/// # Errors
/// The kernel's; the limit is then as it was.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(OpenFiles { limit: hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let raised = raise_open_files().expect("getrlimit and setrlimit");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
        assert_eq!((soft, raised.limit), (hard, hard));
    }

    #[test]
    fn too_low_a_limit_is_told_with_its_remedy() {
        let files = OpenFiles { limit: 1024 };
        assert_eq!(files.complaint(700), None);
        let told = files.complaint(20_000).expect("too low");
        assert!(
            told.contains("1024") && told.contains("LimitNOFILE"),
            "{told}"
        );
    }
}
