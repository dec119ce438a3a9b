//! A private folder for each test: deleted when the test passes, kept and named when it fails.

use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

pub struct Dir {
    /// `None` only while dropping.
    folder: Option<TempDir>,
}

impl Dir {
    /// Makes a folder named after the running test. It is readable by everyone, for PostgreSQL refuses to run
    /// as root and its files live here too.
    pub fn new() -> Self {
        let test = thread::current()
            .name()
            .unwrap_or("shared")
            .replace("::", ".");
        let folder = make_folder(&test);
        Dir {
            folder: Some(folder),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.as_ref().expect("only dropped once").path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file and answers with its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, text).expect("a file in the test's folder");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else {
            return;
        };
        if thread::panicking() {
            eprintln!(
                "the test failed; its folder is kept: {}",
                folder.keep().display()
            );
        }
    }
}

/// Makes a folder for a test, or for what tests share. In memory where there is room: a commit waits for the disk,
/// and on a busy machine a disk can take half a minute, which no test is about.
pub(super) fn make_folder(name: &str) -> TempDir {
    const ROOM: u64 = 1 << 30;
    let in_memory = Path::new("/dev/shm");
    let room = nix::sys::statvfs::statvfs(in_memory)
        .map_or(0, |shm| shm.blocks_available() * shm.fragment_size());
    let prefix = format!("canvas-cluster.{name}.");
    let make = |parent: &Path| tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
    let roomy = if room >= ROOM {
        make(in_memory).ok()
    } else {
        None
    };
    let folder = roomy.unwrap_or_else(|| make(&std::env::temp_dir()).expect("a temporary folder"));
    open_to_all(folder.path());
    folder
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .expect("chmod of our own folder");
}
