//! Faults that tests commit on purpose: of coherence, to see whether their checker notices, and of a worker's loop, which
//! nothing from outside can stop alone. Only a debug build with the
//! feature `sabotage` has any, and commits that which the variable `SABOTAGE` names; in all others nothing of this is left.

/// A fault of the protocol that `cache` and `worker` keep, or of the worker's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write moves its generations before it commits, dawdles, and moves them no more.
    MoveBeforeCommit,
    /// A write leaves nothing on its keys in Redis.
    NoTombstone,
    /// A read forgets what was written when it asks a replica.
    ForgetWrites,
    /// The loop of one worker stands still from the moment on at which there is a file that the variable `SABOTAGE_AT` names,
    /// while the worker's other threads go on.
    StopLoop,
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
            Ok("forget-writes") => Some(Fault::ForgetWrites),
            Ok("stop-loop") => Some(Fault::StopLoop),
            _ => None,
        };
        if let Some(fault) = fault {
            log::warn!("sabotage: {fault:?}, so this server will fail");
        }
        fault
    });
    *committed == Some(fault)
}

/// Stands still for ever on the thread that calls, if it is time for that. Of all workers one alone does so.
pub fn stop_loop() {
    if commits(Fault::StopLoop)
        && let Some(file) = std::env::var_os("SABOTAGE_AT")
        // Who removes it is the one.
        && std::fs::remove_file(file).is_ok()
    {
        loop {
            std::thread::park();
        }
    }
}
