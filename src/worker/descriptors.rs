//! Room in the kernel's table of open files, made while the worker is a single thread.

use std::io;
use std::os::fd::{AsFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::close;

/// Has the kernel make the table of this process as large as `wanted` descriptors need, or as many as its limit permits: 8 bytes
/// each, rounded up to a power of two, and as many bits.
///
/// A table that is too small is doubled by whoever opens the next descriptor. Where threads share it, the kernel then waits until
/// every processor has passed through its scheduler (`expand_fdtable` and `synchronize_rcu`), for milliseconds: those that a
/// worker's only scheduler thread would keep all its connections waiting, at 64, 128, 256 … of them. A process with one thread waits
/// for nobody, and its table never shrinks.
///
/// # Errors
/// The kernel has no memory for it, or no descriptor is left.
pub fn make_room(wanted: u64) -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let last = wanted.min(limit).saturating_sub(1);
    let last = RawFd::try_from(last).unwrap_or(RawFd::MAX);
    // The lowest one that is free, from this number on: the table reaches to it, and stays so when it is closed.
    let lowest = fcntl(io::stderr().as_fd(), FcntlArg::F_DUPFD_CLOEXEC(last))?;
    Ok(close(lowest)?)
}
