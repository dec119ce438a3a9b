//! Faults that the tests of coherence commit on purpose, to see whether their checker notices. Only a debug build with the
//! feature `sabotage` has any, and commits that which the variable `SABOTAGE` names; in all others nothing of this is left.

/// A fault of the protocol that `cache` and `worker` keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write moves its generations before it commits, dawdles, and moves them no more.
    MoveBeforeCommit,
    /// A write leaves nothing on its keys in Redis.
    NoTombstone,
}

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!(
    "the feature `sabotage` breaks the server, for tests alone: there is no release build of it"
);

/// Whether this process commits the fault.
#[cfg(not(feature = "sabotage"))]
pub const fn commits(_: Fault) -> bool {
    false
}

/// Whether this process commits the fault.
#[cfg(feature = "sabotage")]
pub fn commits(fault: Fault) -> bool {
    use std::sync::OnceLock;

    static COMMITTED: OnceLock<Option<Fault>> = OnceLock::new();
    let committed = COMMITTED.get_or_init(|| {
        let fault = match std::env::var("SABOTAGE").as_deref() {
            Ok("move-before-commit") => Some(Fault::MoveBeforeCommit),
            Ok("no-tombstone") => Some(Fault::NoTombstone),
            _ => None,
        };
        if let Some(fault) = fault {
            log::warn!("sabotage: {fault:?}, so answers will be wrong");
        }
        fault
    });
    *committed == Some(fault)
}
