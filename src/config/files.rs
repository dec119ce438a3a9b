//! The one place of `config` that reads files: the configuration, secrets, systemd credentials. Called while a
//! configuration is loaded. Errors name the file and never quote what is in it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::kind::show_path;

/// Longest file that is read, in bytes.
const MOST: u64 = 1 << 20;

/// Write or read permission for everyone.
const OTHERS: u32 = 0o006;

/// A file as it was read.
pub(super) struct Text {
    pub(super) text: String,
    /// Whether every user of the host may read or write it.
    pub(super) open_to_others: bool,
}

/// Reads a regular file of at most 1 MiB of UTF-8. Pipes and devices are refused, for the next SIGHUP reads again.
pub(super) fn read(path: &Path) -> Result<Text, String> {
    let fails = |why: &dyn std::fmt::Display| format!("can't read {}: {why}", show_path(path));
    // Without O_NONBLOCK opening a FIFO would wait for its writer.
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| fails(&error))?;
    let about = file.metadata().map_err(|error| fails(&error))?;
    if !about.is_file() {
        return Err(fails(&"not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fails(&error))?;
    if bytes.len() as u64 > MOST {
        return Err(fails(&"longer than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| fails(&"not valid UTF-8"))?;
    Ok(Text {
        text,
        open_to_others: about.mode() & OTHERS != 0,
    })
}

/// Reads a file that holds one secret: without the line break at its end, and only if others can't read or change it.
pub(super) fn read_secret(path: &Path) -> Result<String, String> {
    // A name without a folder that leads nowhere may be the secret itself, put in the wrong place.
    if !path.as_os_str().to_string_lossy().contains('/') && !path.exists() {
        return Err(
            "no such file in the working directory (name hidden: it may be the secret itself)"
                .to_owned(),
        );
    }
    let Text {
        text,
        open_to_others,
    } = read(path)?;
    if open_to_others {
        let path = show_path(path);
        return Err(format!(
            "{path} can be read or changed by every user of this host; run `chmod o-rwx {path}`"
        ));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Whether the path leads to something, readable or not.
pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether nothing has that name. A folder that can't be searched hides what may be there, so that is not missing.
pub(super) fn is_missing(path: &Path) -> bool {
    let found = path.symlink_metadata();
    found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_read_only_from_files_that_others_cannot_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (mode, good) in [(0o600, true), (0o640, true), (0o644, false), (0o602, false)] {
            write(&path, "canary\r\n").unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match read_secret(&path) {
                Ok(secret) => assert!(good && secret == "canary", "{mode:o}"),
                Err(error) => assert!(
                    !good && error.contains("chmod o-rwx") && !error.contains("canary"),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn only_regular_files_of_text_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&fifo).err().unwrap().ends_with("not a regular file"));
        assert!(
            read(folder.path())
                .err()
                .unwrap()
                .ends_with("not a regular file")
        );
        let path = folder.path().join("x");
        write(&path, b"\xff").unwrap();
        assert!(read(&path).err().unwrap().ends_with("not valid UTF-8"));
        write(&path, vec![b'a'; 1 + (1 << 20)]).unwrap();
        assert!(read(&path).err().unwrap().ends_with("longer than 1 MiB"));
    }

    #[test]
    fn a_secret_given_as_a_file_name_is_not_echoed() {
        let error = read_secret(Path::new("canary-token-0123456789")).unwrap_err();
        assert!(!error.contains("canary"), "{error}");
    }
}
