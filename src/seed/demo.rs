//! The file of a first start: a complete database with a demo catalogue, which appears at its path in one
//! step or not at all.
//!
//! It is built under another name in the same folder and then linked to its own. link(2) fails if the name
//! is taken, so of two processes that race exactly one wins, and the other uses the winner's file. A
//! lock on the folder keeps racers from building twice; the kernel drops it with a process that dies, and
//! who holds it may sweep up what a dead one left behind.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::generate;
use crate::store::sqlite::{create_folder, create_private};
use crate::store::{Draft, StoreError, schema};

/// The longest that one process waits for another one to finish its file.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who made the demo database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demo {
    /// This call did.
    Created,
    /// The file was there, or another process was faster.
    Existing,
}

/// The shoe with this number in the demo catalogue. Its pictures and clips are the server's own, so that its page needs no
/// network; those that [`generate`]'s shoe lacks it lacks as well.
pub fn demo_shoe(shoe_id: i32) -> Draft {
    let mut shoe = generate(shoe_id);
    let (pictures, clips) = shoe.media.split_at_mut(7);
    for (number, picture) in (1..).zip(pictures) {
        *picture = picture
            .take()
            .map(|_| format!("/demo/shoes/{shoe_id}/{number}.svg"));
    }
    for (number, clip) in (1..).zip(clips) {
        *clip = clip.take().map(|_| format!("/demo/clips/{number}.mp4"));
    }
    shoe
}

/// Sees to it that there is a database at `path`: if there is none, one with `rows` generated shoes is
/// made (shoes 1 to `rows`). Missing folders are created with mode 0700, the file with 0600.
///
/// # Errors
/// [`StoreError::Refused`] naming the path if it can't be written; then nothing is at `path`.
pub fn create_demo(path: &Path, rows: u32) -> Result<Demo, StoreError> {
    let explain = |error: io::Error| StoreError::Refused(format!("{}: {error}", path.display()));
    if path.try_exists().map_err(explain)? {
        return Ok(Demo::Existing);
    }
    let folder = create_folder(path).map_err(explain)?;
    let _lock = lock(&folder).map_err(explain)?;
    if path.try_exists().map_err(explain)? {
        return Ok(Demo::Existing);
    }
    sweep(path, &folder);
    let draft = beside(path, &std::process::id().to_string());
    let made = build(&draft, rows).and_then(|()| publish(&draft, path, &folder).map_err(explain));
    remove(&draft);
    made
}

/// Waits for the lock on a folder. `None` where the file system has no such locks: then link(2) alone
/// decides, and the worst is a file built in vain.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    let give_up = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process keeps its folder locked",
                ));
            }
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

/// A name beside `path` that no one mistakes for a database: `.shoes.db.new-123`.
fn beside(path: &Path, tail: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new-{tail}"))
}

/// Removes what crashed builders of this file left behind.
fn sweep(path: &Path, folder: &Path) {
    let leftover = beside(path, "");
    let prefix = leftover
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // A leftover that stays does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn build(draft: &Path, rows: u32) -> Result<(), StoreError> {
    create_private(draft)
        .map_err(|error| StoreError::Refused(format!("{}: {error}", draft.display())))?;
    schema::migrate_file(draft)?;
    super::fill_file(draft, rows)?;
    // The last connection has brought everything into the file and removed its log, unless the disk has no room for that.
    match fs::metadata(with_tail(draft, "-wal")) {
        Ok(log) if log.len() > 0 => Err(StoreError::Refused(format!(
            "{}: the database could not be finished; is the disk full?",
            draft.display()
        ))),
        _ => Ok(()),
    }
}

/// Makes the finished file safe on the disk, then visible, then the name safe too.
fn publish(draft: &Path, path: &Path, folder: &Path) -> io::Result<Demo> {
    File::open(draft)?.sync_all()?;
    let made = match fs::hard_link(draft, path) {
        Ok(()) => Demo::Created,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Demo::Existing,
        // A file system without hard links still has a rename that does not replace.
        Err(_) => {
            use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
            match renameat2(
                AT_FDCWD,
                draft,
                AT_FDCWD,
                path,
                RenameFlags::RENAME_NOREPLACE,
            ) {
                Ok(()) => Demo::Created,
                Err(nix::errno::Errno::EEXIST) => Demo::Existing,
                Err(errno) => return Err(errno.into()),
            }
        }
    };
    File::open(folder)?.sync_all()?;
    Ok(made)
}

/// The draft's own name and whatever SQLite put beside it.
fn remove(draft: &Path) {
    for tail in ["", "-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(with_tail(draft, tail));
    }
}

/// What SQLite calls a file that belongs to this one.
fn with_tail(path: &Path, tail: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(tail);
    PathBuf::from(name)
}
