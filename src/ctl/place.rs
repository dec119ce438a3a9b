//! Names of sockets that fit. A socket's address holds 107 bytes (unix(7)), a path may have 4,095.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The longest path that fits into sockaddr_un with its end.
const LONGEST: usize = 107;

/// A socket's name to bind or connect to.
#[derive(Debug)]
pub struct Place {
    name: PathBuf,
    /// Keeps `name` valid where it leads through a descriptor.
    _folder: Option<File>,
}

impl Place {
    /// The path itself, or one through its folder's descriptor where it is too long.
    ///
    /// # Errors
    /// The folder of a long path can't be opened, or the path names no file.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= LONGEST {
            return Ok(Place {
                name: path.to_owned(),
                _folder: None,
            });
        }
        let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY)
            .open(folder)?;
        Ok(Place {
            name: Path::new("/proc/self/fd")
                .join(folder.as_raw_fd().to_string())
                .join(file),
            _folder: Some(folder),
        })
    }

    pub fn name(&self) -> &Path {
        &self.name
    }
}
