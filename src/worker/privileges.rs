//! What a process that serves may do to the host: as little as can be. Workers, the child that prepares for them, and the
//! commands that fill the database become the user that `--user` names and have no capability left; the master stays who it
//! is, since it binds addresses and forks workers for ever.
//!
//! Without `--user` a root's workers stay root, but of root's powers they only keep those over files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    AccessFlags, Gid, Uid, access, getegid, geteuid, setgroups, setresgid, setresuid,
};

use super::{scribe, syscalls};
use crate::config::{AccessTarget, Account, Config, Database};
use crate::store::url::DatabaseUrl;
use crate::sys;

/// What root's access to the files of others is made of (capabilities(7)).
const FILE_POWERS: [Capability; 3] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
];

/// What it takes to become another user, and to send signals to processes of that user.
const POWERS_TO_CHANGE: [Capability; 3] = [
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_KILL,
];

/// Whether a process like this one can become the user that the configuration names.
///
/// # Errors
/// It can't; in words, with the remedy.
pub fn may_become_user(config: &Config) -> Result<(), String> {
    let Some(account) = &config.user else {
        return Ok(());
    };
    let may =
        |power: &Capability| caps::has_cap(None, CapSet::Effective, *power).unwrap_or_default();
    if is_already(account) || POWERS_TO_CHANGE.iter().all(may) {
        return Ok(());
    }
    Err(format!(
        "workers can't run as user {} (uid {}, gid {}), for the server itself runs as uid {} without the capabilities to \
         change that (CAP_SETUID, CAP_SETGID, CAP_KILL): start it as root, or as that user, or without --user",
        account.name,
        account.uid,
        account.gid,
        geteuid()
    ))
}

/// Whether workers will be root, which is more than they need.
pub fn stays_root(config: &Config) -> bool {
    geteuid().is_root() && config.user.as_ref().is_none_or(|account| account.uid == 0)
}

fn is_already(account: &Account) -> bool {
    geteuid().as_raw() == account.uid && getegid().as_raw() == account.gid
}

/// Becomes the user of the configuration, for good: user, groups, no capability, and none to be had from any program that
/// this process might start (PR_SET_NO_NEW_PRIVS, prctl(2)). System calls that it never needs are refused from then on, if
/// the configuration says so and the kernel can. Only for a process with one thread.
///
/// # Errors
/// The kernel refuses a step; in words. The process must end then.
pub fn drop(config: &Config) -> Result<(), String> {
    let kept: CapsHashSet = match stays_root(config) {
        true => FILE_POWERS.into_iter().collect(),
        false => CapsHashSet::new(),
    };
    shrink_bounding_set(&kept)
        .map_err(|error| format!("can't shrink the bounding set: {error}"))?;
    if let Some(account) = config.user.as_ref().filter(|account| !is_already(account)) {
        become_user(account)
            .map_err(|error| format!("can't become user {}: {error}", account.name))?;
    }
    give_up_capabilities(&kept).map_err(|error| format!("can't give up capabilities: {error}"))?;
    prctl::set_no_new_privs().map_err(|error| format!("can't forgo new privileges: {error}"))?;
    // A kernel that can't has been told of at the start.
    if config.seccomp
        && sys::has_seccomp().is_ok()
        && let Err(error) = syscalls::deny()
    {
        log::warn!("system calls that are never needed can't be refused: {error}");
    }
    Ok(())
}

/// Tells, if it is so, that workers will have all system calls although the configuration wants them to have fewer.
pub fn warn_without_seccomp(config: &Config) {
    if config.seccomp
        && let Err(error) = sys::has_seccomp()
    {
        log::warn!(
            "master: the kernel can't refuse workers system calls ({error}), so they have all; --seccomp=false silences this"
        );
    }
}

/// Empties all sets but what is kept of the effective and the permitted one. A set that is so already is left alone: under a
/// filter of system calls that knows no capset(2), as systemd's for a service without capabilities, there is nothing to do.
fn give_up_capabilities(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = have.intersection(kept).copied().collect();
    let none = CapsHashSet::new();
    // Ambient ones are a part of the inheritable, and these and the effective ones of the permitted (capabilities(7)).
    for (set, wanted) in [
        (CapSet::Ambient, &none),
        (CapSet::Inheritable, &none),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
    ] {
        if caps::read(None, set)? != *wanted {
            caps::set(None, set, wanted)?;
        }
    }
    Ok(())
}

/// Groups first: who is no longer root may not change them.
fn become_user(account: &Account) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Takes CAP_SETPCAP; without it the set stays, and no_new_privs keeps anything from coming of it.
fn shrink_bounding_set(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    let known = caps::runtime::thread_all_supported();
    for power in known.difference(kept) {
        if caps::has_cap(None, CapSet::Bounding, *power)? {
            caps::drop(None, CapSet::Bounding, *power)?;
        }
    }
    Ok(())
}

/// The user to whom a process that is still privileged makes files over, if there is one.
fn heir(config: &Config) -> Option<&Account> {
    config.user.as_ref().filter(|account| !is_already(account))
}

/// Makes the folders of the embedded database that are missing, private and the user's own.
///
/// # Errors
/// A folder can't be made; in words.
pub fn hand_over_folder(config: &Config) -> Result<(), String> {
    let (Some(account), Database::Embedded { path }) = (heir(config), &config.database) else {
        return Ok(());
    };
    let missing: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|folder| *folder != Path::new("") && !folder.exists())
        .collect();
    for folder in missing.into_iter().rev() {
        make_folder(folder, account)
            .map_err(|error| format!("can't make the folder {}: {error}", folder.display()))?;
    }
    Ok(())
}

fn make_folder(folder: &Path, account: &Account) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        // Another server's, which makes it over itself.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    // By descriptor and never through a link: who may write to the parent may have put another thing into its place.
    let made = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW)
        .open(folder)?;
    if made.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::Error::other("somebody has put another one there"));
    }
    give(&made, account)
}

/// Makes the access log if it is missing, for its folder may be one where only root makes files, as after a rotation.
/// What goes wrong here is told when the log is opened.
pub fn hand_over_access_log(config: &Config) {
    let (Some(account), Some(AccessTarget::File(path))) = (heir(config), &config.access_log) else {
        return;
    };
    if path.symlink_metadata().is_ok() {
        return;
    }
    // Under another name first: a sibling that opens the log must never find one that isn't the user's yet.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.new-{}", std::process::id()));
    let made = scribe::create(&draft)
        .and_then(|file| give(&file, account))
        .and_then(|()| std::fs::hard_link(&draft, path));
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            log::debug!("the access log {} can't be made: {error}", path.display());
        }
        _ => {}
    }
    // It isn't there if it could not be made.
    let _ = std::fs::remove_file(&draft);
}

fn give(file: &File, account: &Account) -> io::Result<()> {
    fchown(file, Some(account.uid), Some(account.gid))
}

/// Whether this process, which has become the user, reaches the files that workers must, where they are there already.
///
/// # Errors
/// The first file that is out of reach, and the remedy.
pub fn check_reach(config: &Config) -> Result<(), String> {
    let Some(account) = &config.user else {
        return Ok(());
    };
    if let Some(target) = &config.access_log {
        scribe::check(target).map_err(|why| format!("{why}{}", as_whom(config)))?;
    }
    let Some(path) = sqlite_file(config) else {
        return Ok(());
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let out_of_reach = |path: &Path, error: Errno, remedy: String| {
        let path = path.display();
        let whom = as_whom(config);
        Err(format!(
            "{path} is out of reach{whom}: {error}; `{remedy} {path}`, or choose another --state-dir"
        ))
    };
    let mut above: Vec<&Path> = folder.ancestors().skip(1).collect();
    above.retain(|above| *above != Path::new(""));
    for above in above.into_iter().rev() {
        match access(above, AccessFlags::X_OK) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return out_of_reach(above, error, "chmod o+x".to_owned()),
        }
    }
    // SQLite makes -wal and -shm beside its file, and takes them away again.
    let enter = AccessFlags::W_OK | AccessFlags::X_OK;
    let change = AccessFlags::R_OK | AccessFlags::W_OK;
    let beside = |tail: &str| {
        let mut name = path.clone().into_os_string();
        name.push(tail);
        (PathBuf::from(name), change)
    };
    let files = ["", "-wal", "-shm"].map(beside);
    for (path, how) in [(folder.to_owned(), enter)].into_iter().chain(files) {
        match access(&path, how) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => {
                let remedy = format!("chown {}:{}", account.uid, account.gid);
                return out_of_reach(&path, error, remedy);
            }
        }
    }
    Ok(())
}

/// ` for user NAME`, where a message needs it.
pub fn as_whom(config: &Config) -> String {
    let user = config.user.as_ref();
    user.map_or_else(String::new, |account| format!(" for user {}", account.name))
}

fn sqlite_file(config: &Config) -> Option<PathBuf> {
    match &config.database {
        Database::Embedded { path } => Some(path.clone()),
        Database::Url(url) => match DatabaseUrl::parse(url.expose()) {
            Ok(DatabaseUrl::Sqlite(path)) => Some(path),
            _ => None,
        },
    }
}
