//! Files that the operator serves at the root, beside everything else (`--static-dir`), and the proof for loader.io that the
//! host is the operator's (`--loaderio-token`). A worker reads them all when it starts and answers from memory: no request
//! waits for a disk, and none names a file. What a path can lead to was found by walking the folder, one name at a time and
//! through no symbolic link, so there is nothing to climb out of.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use xxhash_rust::xxh3::xxh3_128;

use super::content::{Cached, Content, Modified};
use super::media_type;

/// The largest file that is served.
const MOST_OF_ONE: usize = 16 * 1024 * 1024;

/// The most that all of them may take of each worker's memory.
const MOST_OF_ALL: usize = 64 * 1024 * 1024;

/// The most files, and folders in each other.
const MOST_FILES: usize = 4096;
const DEEPEST: usize = 16;

/// How many reasons to leave a file out are kept.
const MOST_REASONS: usize = 20;

/// What is served, by path.
#[derive(Debug, Default)]
pub struct Extras {
    files: HashMap<Box<str>, Content>,
}

/// What was found in a folder.
#[derive(Debug, Default)]
pub struct Loaded {
    pub extras: Extras,
    /// The bytes of all files that are served.
    pub bytes: usize,
    /// Which files are not, and why: the first of them.
    pub left_out: Vec<String>,
    /// How many more there were.
    pub more_left_out: usize,
}

impl Extras {
    /// Reads the files of a folder. Whatever is hidden, no regular file, or too large is left out, and so is what can't be
    /// read.
    ///
    /// # Errors
    /// The folder itself can't be read.
    pub fn load(folder: &Path) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        // The folder itself may be a link: the operator has named it.
        let mut root = Dir::open(folder, FOLDER, Mode::empty())?;
        loaded.read_folder(&mut root, "", 0)?;
        Ok(loaded)
    }

    /// Serves the token at each of the places where loader.io looks for it.
    pub fn verify(&mut self, token: &str) {
        let content = content(
            "text/plain; charset=utf-8",
            None,
            Bytes::from(token.to_owned()),
        );
        for tail in ["", "/", ".txt", ".html"] {
            let path = format!("/{token}{tail}");
            self.files.insert(path.into(), content.clone());
        }
    }

    /// What is served at a decoded path.
    pub fn find(&self, path: &str) -> Option<&Content> {
        self.files.get(path)
    }

    /// How many paths lead to something.
    pub fn count(&self) -> usize {
        self.files.len()
    }
}

/// How folders are opened, and how files: never through a link that has taken their place, and without waiting for the other
/// end of a pipe.
const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);
const FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

impl Loaded {
    /// Reads what is in a folder, whose path below the root is given without its last `/`.
    fn read_folder(&mut self, folder: &mut Dir, path: &str, depth: usize) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in folder.iter() {
            names.push(entry?.file_name().to_owned());
        }
        // Each worker leaves out the same ones where there are too many.
        names.sort_unstable();
        for name in names {
            // Hidden, and `.` and `..`.
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            let Ok(text) = name.to_str() else {
                self.leave_out(path, &name.to_string_lossy(), "its name is not UTF-8");
                continue;
            };
            if let Err(why) = self.read_entry(folder, &name, &format!("{path}/{text}"), depth) {
                self.leave_out(path, text, &why);
            }
        }
        Ok(())
    }

    /// Reads one file or folder.
    ///
    /// # Errors
    /// Why it is left out.
    fn read_entry(
        &mut self,
        folder: &Dir,
        name: &CStr,
        path: &str,
        depth: usize,
    ) -> Result<(), String> {
        // Looked at before it is opened, since opening alone has effects on some devices.
        let seen = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(explain)?;
        match Kind::of(&seen) {
            Kind::Folder if depth < DEEPEST => {
                let mut inner =
                    Dir::openat(folder, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty())
                        .map_err(explain)?;
                self.read_folder(&mut inner, path, depth + 1)
                    .map_err(|error| error.to_string())
            }
            Kind::Folder => Err(format!("it is in more than {DEEPEST} folders")),
            Kind::File => {
                let file = openat(folder, name, FILE, Mode::empty()).map_err(explain)?;
                self.read_file(File::from(file), path)
            }
            Kind::Link => Err("it is a symbolic link".to_owned()),
            Kind::Other => Err("it is no regular file".to_owned()),
        }
    }

    fn read_file(&mut self, mut file: File, path: &str) -> Result<(), String> {
        let stat = fstat(file.as_fd()).map_err(explain)?;
        if Kind::of(&stat) != Kind::File {
            return Err("it is no regular file any more".to_owned());
        }
        if self.extras.files.len() >= MOST_FILES {
            return Err(format!("there are more than {MOST_FILES} files"));
        }
        let room = MOST_OF_ALL - self.bytes;
        let mut bytes = Vec::new();
        // One byte more than may be, for it may grow while it is read.
        file.by_ref()
            .take(MOST_OF_ONE.min(room) as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        if bytes.len() > MOST_OF_ONE {
            return Err(format!("it is larger than {} MiB", MOST_OF_ONE >> 20));
        }
        if bytes.len() > room {
            return Err(format!(
                "all files together are larger than {} MiB",
                MOST_OF_ALL >> 20
            ));
        }
        bytes.shrink_to_fit();
        self.bytes += bytes.len();
        let modified = Modified::new(changed_at(&stat), SystemTime::now());
        let content = content(media_type::of(path).name, Some(modified), bytes.into());
        self.extras.files.insert(path.into(), content);
        Ok(())
    }

    fn leave_out(&mut self, folder: &str, name: &str, why: &str) {
        if self.left_out.len() < MOST_REASONS {
            // A name may hold anything; a line of the log stays one line.
            let path = format!("{folder}/{name}").escape_debug().to_string();
            self.left_out.push(format!("{path}: {why}"));
        } else {
            self.more_left_out += 1;
        }
    }
}

fn content(content_type: &'static str, modified: Option<Modified>, bytes: Bytes) -> Content {
    Content {
        content_type,
        cached: Cached::Checked,
        tag: format!("{:032x}", xxh3_128(&bytes)).into(),
        modified,
        identity: bytes,
        brotli: None,
        gzip: None,
    }
}

/// What an entry of a folder is.
#[derive(PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
    Other,
}

impl Kind {
    fn of(stat: &FileStat) -> Self {
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Folder,
            libc::S_IFREG => Kind::File,
            libc::S_IFLNK => Kind::Link,
            _ => Kind::Other,
        }
    }
}

fn changed_at(stat: &FileStat) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since
}

fn explain(errno: Errno) -> String {
    io::Error::from(errno).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn load(folder: &Path) -> Loaded {
        Extras::load(folder).expect("a folder that can be read")
    }

    fn paths(loaded: &Loaded) -> Vec<&str> {
        let mut paths: Vec<&str> = loaded.extras.files.keys().map(|path| &**path).collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn regular_files_are_served_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret.txt"), "secret").unwrap();
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["a/b", ".git", "a/.hidden"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for (name, text) in [
            ("plain.txt", "1"),
            ("a/b/deep.CSS", "2"),
            ("with space.html", "3"),
            (".env", "secret"),
            (".git/config", "secret"),
            ("a/.hidden/x.txt", "secret"),
        ] {
            std::fs::write(at(name), text).unwrap();
        }
        symlink(outside.path().join("secret.txt"), at("link.txt")).unwrap();
        symlink(outside.path(), at("folder")).unwrap();
        symlink("plain.txt", at("a/inside.txt")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), Mode::S_IRUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

        let loaded = load(root.path());
        assert_eq!(
            paths(&loaded),
            ["/a/b/deep.CSS", "/plain.txt", "/with space.html"]
        );
        assert_eq!(loaded.bytes, 3);
        let css = loaded.extras.find("/a/b/deep.CSS").unwrap();
        assert_eq!(
            (css.content_type, &css.identity[..]),
            ("text/css; charset=utf-8", &b"2"[..])
        );
        let mut left_out = loaded.left_out.clone();
        left_out.sort_unstable();
        assert_eq!(
            left_out,
            [
                "/a/inside.txt: it is a symbolic link",
                "/folder: it is a symbolic link",
                "/link.txt: it is a symbolic link",
                "/pipe: it is no regular file",
                "/socket: it is no regular file",
            ]
        );
        // The folder itself may be one.
        let link = outside.path().join("root");
        symlink(root.path(), &link).unwrap();
        assert_eq!(load(&link).extras.count(), 3);
        assert!(Extras::load(&at("nowhere")).is_err());
        assert!(Extras::load(&at("plain.txt")).is_err());
    }

    #[test]
    fn what_is_too_much_is_left_out_and_told() {
        let root = tempfile::tempdir().unwrap();
        let sized = |name: &str, size: usize| {
            let file = File::create(root.path().join(name)).unwrap();
            file.set_len(size as u64).unwrap();
        };
        sized("0", MOST_OF_ONE + 1);
        for name in ["1", "2", "3"] {
            sized(name, MOST_OF_ONE);
        }
        sized("4", MOST_OF_ONE - 1);
        sized("5", 2);
        sized("6", 1);
        let loaded = load(root.path());
        assert_eq!(paths(&loaded), ["/1", "/2", "/3", "/4", "/6"]);
        assert_eq!(loaded.bytes, MOST_OF_ALL);
        assert_eq!(
            loaded.left_out,
            [
                "/0: it is larger than 16 MiB",
                "/5: all files together are larger than 64 MiB"
            ]
        );
    }

    #[test]
    fn reasons_are_few_and_stay_on_their_line() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..30 {
            symlink("x", root.path().join(format!("{number:02}\nerror: x"))).unwrap();
        }
        let loaded = load(root.path());
        assert_eq!((loaded.left_out.len(), loaded.more_left_out), (20, 10));
        assert_eq!(loaded.left_out[0], "/00\\nerror: x: it is a symbolic link");
    }

    #[test]
    fn folders_end_somewhere() {
        let root = tempfile::tempdir().unwrap();
        let mut deep = root.path().to_owned();
        for _ in 0..20 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("x"), "x").unwrap();
        let loaded = load(root.path());
        assert_eq!(loaded.extras.count(), 0);
        assert!(loaded.left_out[0].ends_with("it is in more than 16 folders"));
    }

    #[test]
    fn the_token_is_where_it_is_looked_for() {
        let mut extras = Extras::default();
        extras.verify("loaderio-0a1b");
        for path in [
            "/loaderio-0a1b",
            "/loaderio-0a1b/",
            "/loaderio-0a1b.txt",
            "/loaderio-0a1b.html",
        ] {
            let found = extras.find(path).unwrap();
            assert_eq!(&found.identity[..], b"loaderio-0a1b");
        }
        assert_eq!(extras.count(), 4);
    }
}
