//! Looks users and groups up (getpwnam(3), getgrnam(3), getgrouplist(3)). Called by `resolve`, so that a child that becomes
//! one has nothing left to ask.

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, User, getgrouplist};

use super::Account;
use super::secret::quote;

/// The id of a group.
pub(super) fn gid(name: &str) -> Result<u32, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("this host has no group {}", quote(name))),
        Err(error) => Err(unknown("group", name, error)),
    }
}

/// A user with its groups, and with `group` instead of its own if there is one.
pub(super) fn find(name: &str, group: Option<u32>) -> Result<Account, String> {
    let user = User::from_name(name)
        .map_err(|error| unknown("user", name, error))?
        .ok_or_else(|| format!("this host has no user {}", quote(name)))?;
    let gid = group.map_or(user.gid, Gid::from_raw);
    let asked = CString::new(user.name.as_str()).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&asked, gid).map_err(|error| unknown("user", name, error))?;
    Ok(Account {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    })
}

fn unknown(of: &str, name: &str, error: Errno) -> String {
    format!("the {of} {} can't be looked up: {error}", quote(name))
}
