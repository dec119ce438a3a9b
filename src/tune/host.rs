//! The host's side: sysctls below /proc/sys, and the process's own limit on open files.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::table::{Place, Row};

/// What the host allows.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    /// RLIMIT_NOFILE in force; `None` if it is unknown.
    open_files: Option<u64>,
}

impl Host {
    /// The host whose /proc is below `root` (`/`, or a folder that looks like it); `open_files` is this process's own
    /// limit, which its children inherit.
    pub fn new(root: &Path, open_files: Option<u64>) -> Self {
        Host {
            root: root.to_owned(),
            open_files,
        }
    }

    /// What the row's limit is now, as the kernel shows it, with one space for any white space.
    pub(super) fn text(&self, row: &Row) -> Option<String> {
        match row.place {
            Place::OpenFiles => self.open_files.map(|limit| limit.to_string()),
            Place::Sysctl => self.sysctl(row.name),
        }
    }

    /// A sysctl that is one number; `None` for one that is not there or is no number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.sysctl(name)?.parse().ok()
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(name)).ok()?;
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Sets a sysctl that is there (proc(5)).
    ///
    /// # Errors
    /// EACCES or EPERM without privilege, EROFS in many containers, EINVAL for what the kernel doesn't take.
    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.path(name))?;
        // The kernel takes a sysctl in one write or not at all.
        file.write_all(text.as_bytes())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join("proc/sys").join(name.replace('.', "/"))
    }
}

/// The limit on open files after [`raise_open_files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The hard limit of before.
    pub before: u64,
    /// Soft and hard limit now.
    pub now: u64,
}

/// Raises the limit on open files to the hard limit, and the hard limit to `wanted` if that is more and this process
/// may (CAP_SYS_RESOURCE, setrlimit(2)). Never lowers it. Children inherit it.
///
/// # Errors
/// The kernel's; the limit is then as it was.
pub fn raise_open_files(wanted: u64) -> io::Result<OpenFiles> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(OpenFiles {
            before: hard,
            now: wanted,
        });
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(OpenFiles {
        before: hard,
        now: hard,
    })
}
