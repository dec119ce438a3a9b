//! Which process holds which connection, as the kernel tells: the tests ask it who answered and what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// A row of `/proc/net/tcp`.
pub struct ServerEnd {
    /// Found in the descriptors of the process that accepted it.
    pub inode: u64,
    /// Bytes that the kernel has received and the process has not read.
    pub unread: u64,
}

fn table() -> String {
    std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of TCP sockets")
}

/// How the table writes the end of a server's address.
fn ending(server: SocketAddr) -> String {
    format!(":{:04X}", server.port())
}
/// States of its rows.
const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";

/// The server's ends of its connections on loopback that have been accepted, by the client's port.
pub fn server_ends(server: SocketAddr) -> BTreeMap<u16, ServerEnd> {
    let local = ending(server);
    let table = table();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).filter(|address| address.ends_with(&local))?;
        let port = u16::from_str_radix(fields.get(2)?.split_once(':')?.1, 16).ok()?;
        // The listeners are in the table too.
        if port == 0 {
            return None;
        }
        // A connection that nobody has accepted has the inode 0, as has one that is closed.
        let inode = fields.get(9)?.parse().ok().filter(|inode| *inode != 0)?;
        let unread = u64::from_str_radix(fields.get(4)?.split_once(':')?.1, 16).ok()?;
        Some((port, ServerEnd { inode, unread }))
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// How many connections to the server the kernel still has something to do for, whoever holds them or nobody.
pub fn kernel_rows(server: SocketAddr) -> usize {
    let local = ending(server);
    let table = table();
    let counts = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let is_ours = fields
            .next()
            .is_some_and(|address| address.ends_with(&local));
        is_ours
            && fields
                .nth(1)
                .is_some_and(|state| state != TIME_WAIT && state != LISTEN)
    };
    table.lines().skip(1).filter(counts).count()
}

/// The inodes of the sockets that listen at an address on IPv4.
pub fn listening_inodes(server: SocketAddr) -> BTreeSet<u64> {
    let local = ending(server);
    let table = table();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = fields.get(1)?.ends_with(&local) && *fields.get(3)? == LISTEN;
        is_ours.then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// How many connections wait in the queue of a listener until somebody accepts them.
#[track_caller]
pub fn queue_length(listener: u64) -> u64 {
    let table = table();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(9)?.parse() == Ok(listener)).then_some(())?;
        u64::from_str_radix(fields.get(4)?.split_once(':')?.1, 16).ok()
    };
    let mut lengths = table.lines().skip(1).filter_map(parse);
    lengths.next().expect("a listener on IPv4")
}

/// The inodes of the sockets that a process holds, from `/proc/PID/fd`.
pub fn socket_inodes(pid: i32) -> BTreeSet<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|target| {
            target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

/// The inodes of all that a process watches by epoll(7), from `/proc/PID/fdinfo`. What it has closed may still be
/// among them: an open file leaves an epoll when its last descriptor is closed, whichever process has that.
pub fn watched_inodes(pid: i32) -> BTreeSet<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return BTreeSet::new();
    };
    let target = |line: &str| {
        let inode = line
            .split_whitespace()
            .find_map(|field| field.strip_prefix("ino:"))?;
        u64::from_str_radix(inode, 16).ok()
    };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .flat_map(|text| {
            let lines = text.lines().filter(|line| line.starts_with("tfd:"));
            lines.filter_map(target).collect::<Vec<_>>()
        })
        .collect()
}
