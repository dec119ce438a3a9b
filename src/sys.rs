//! The only `unsafe` of the crate: one wrapper a call, each with the reason why it is sound. Everything
//! here is a thin skin over one system call or one call of the coroutine runtime; no decisions are made here.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::fstat;
use nix::unistd::{ForkResult, Pid, SysconfVar, sysconf};

/// Which side of a [`fork`] this process is.
pub enum Fork {
    Parent(Pid),
    Child,
}

/// fork(2), refused in a process with more than one thread.
///
/// # Errors
/// `EAGAIN`/`ENOMEM` of the kernel; [`io::ErrorKind::Unsupported`] when another thread lives, since the child
/// would inherit its locks with nobody left to release them.
pub fn fork() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("refusing to fork with {threads} threads: the child would inherit their locks"),
        ));
    }
    // SAFETY: this is the only thread (checked above), so no lock, allocator arena or stdio buffer can be
    // held by a thread that does not exist in the child; all of Rust's runtime may be used there.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Takes a descriptor over that somebody else opened and named: whoever started this process (`LISTEN_FDS`), or who sent it over a
/// socket (unix(7)). Once for each.
///
/// # Errors
/// `EBADF`: there is none of this number.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks for flags and touches no memory; a number that is no descriptor gives EBADF.
    if unsafe { nix::libc::fcntl(fd, nix::libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open (checked above), and as it came from outside no object of this process owns it; callers take
    // each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor above standard error but those in `keep` (any order). For a forked child:
/// close-on-exec does not help a process that never calls exec.
pub fn close_inherited(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([RawFd::MAX]) {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: closing descriptors can't touch memory. Rust objects that own them must never be used or
    // dropped again: callers are forked children that leave by exit and only hold what they kept. By its number, since the C
    // library has known it by name only since glibc 2.34.
    let result = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_close_range,
            first as nix::libc::c_uint,
            last as nix::libc::c_uint,
            0 as nix::libc::c_uint,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Memory that a master and all its descendants share: zeroed 64-bit atomics in a memfd(2) whose size is sealed, mapped for
/// the life of the process; and its descriptor, for who hands it on to another image of the program.
///
/// # Errors
/// Those of memfd_create(2), ftruncate(2), fcntl(2) and mmap(2), `ENOMEM` foremost.
pub fn shared_words(name: &str, words: usize) -> io::Result<(&'static [AtomicU64], OwnedFd)> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memory = File::from(memfd_create(name, flags)?);
    memory.set_len((words * size_of::<AtomicU64>()) as u64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    Ok((map_words(&memory, words)?, memory.into()))
}

/// Maps the first `words` of a memory that [`shared_words`] made, in this image of the program or in one before it.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`]: it is smaller, or could become so. Else those of fstat(2), fcntl(2) and mmap(2).
pub fn map_words(memory: impl AsFd, words: usize) -> io::Result<&'static [AtomicU64]> {
    let memory = memory.as_fd();
    let bytes = std::num::NonZeroUsize::new(words * size_of::<AtomicU64>())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no words to share"))?;
    let seals = SealFlag::from_bits_retain(fcntl(memory, FcntlArg::F_GET_SEALS)?);
    let size = u64::try_from(fstat(memory)?.st_size).unwrap_or(0);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) || size < bytes.get() as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not a shared memory of {bytes} bytes"),
        ));
    }
    // SAFETY: a fresh shared mapping at an address of the kernel's choice aliases nothing of ours.
    let address = unsafe {
        mmap(
            None,
            bytes,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED,
            memory,
            0,
        )
    }?;
    // SAFETY: the mapping is page-aligned, `words` words long (the file is, and its seal keeps it from shrinking), any
    // bytes are a valid AtomicU64, it is never unmapped (so 'static holds), and other processes touch it by atomics only.
    Ok(unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<AtomicU64>(), words) })
}

/// Takes over a descriptor that the image of the program before this one left open across execve(2), and keeps it from
/// the next one.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`]: it was not left open, or somebody here has it already. Those of fcntl(2).
pub fn adopt_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    let refused = |why| io::Error::new(io::ErrorKind::InvalidData, format!("fd {number} {why}"));
    if number <= 2 {
        return Err(refused("is a standard stream"));
    }
    // SAFETY: borrowed for two calls of fcntl(2), which fail for a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(refused("was not handed over"));
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and nobody here owns it: whatever this process opens itself is close-on-exec from its first
    // moment, as this one is from now on, so it can't be taken twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What the runtime panics with where the kernel gives it no stack. Only a panic hook needs it, to tell this panic,
/// which the next two functions turn into an error, from all others.
pub const NO_STACK: &str = "failed to alloc sys stack";

/// Starts a coroutine on the current thread at once; it runs until it first waits.
///
/// Only to be called on the scheduler's thread (from a coroutine), so that it needs no wake-up.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`]: no stack for it. `work` is dropped then.
pub fn start_coroutine<F: FnOnce() + Send + 'static>(work: F) -> io::Result<()> {
    or_no_stack(|| {
        // SAFETY: `may` asks for two promises. No thread-local of a coroutine may change under it: a worker has
        // one scheduler thread, the runtime's timers (which resume coroutines on another thread) are never
        // used, so a coroutine never migrates. And its stack must suffice: worker::STACK_WORDS says how it was sized.
        unsafe { may::coroutine::Builder::new().spawn_local(work) }.map(drop)
    })
}

/// Starts a coroutine from outside of the scheduler: it is queued and the scheduler woken.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`]: no stack for it. `work` is dropped then.
pub fn start_first_coroutine<F: FnOnce() + Send + 'static>(work: F) -> io::Result<()> {
    or_no_stack(|| {
        // SAFETY: as in `start_coroutine`; the closure runs on the scheduler's thread from its first instruction.
        unsafe { may::coroutine::Builder::new().spawn(work) }.map(drop)
    })
}

/// The runtime's spawn panics where mmap(2) or mprotect(2) refuse a stack (ENOMEM: `vm.max_map_count`, RLIMIT_AS,
/// overcommitment), before it has begun anything. A panic of the coroutine itself never comes this way: it ends on
/// the coroutine's own stack.
fn or_no_stack(start: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    catch_unwind(AssertUnwindSafe(start))
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::OutOfMemory)))
}

/// Lets `handler` hear the next signal of this kind, on the alternate stack of the thread that it comes to; the one after it has
/// the kernel's way, which ends the process (sigaction(2): SA_ONSTACK, SA_RESETHAND).
///
/// # Errors
/// None that sigaction(2) can give for valid arguments.
pub fn on_fatal_signal(signal: Signal, handler: extern "C" fn(i32)) -> io::Result<()> {
    let flags = SaFlags::SA_ONSTACK | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::Handler(handler), flags, SigSet::empty());
    // SAFETY: the handler is a function that lives as long as the process. It need not be async-signal-safe to be sound:
    // a lock or an allocator that the signal has interrupted in its work can make it wait for ever, in a process that is
    // about to be killed.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Gives this thread an alternate stack for signal handlers (sigaltstack(2)), with a guard page below it, for as long as the
/// process lives. Only what is touched of it costs memory.
///
/// # Errors
/// `ENOMEM` of mmap(2) or mprotect(2).
pub fn give_signal_stack(bytes: usize) -> io::Result<()> {
    let guard = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as usize;
    let whole = NonZeroUsize::MIN.saturating_add(bytes + guard - 1);
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_STACK;
    // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing of ours, and is never unmapped.
    let stack = unsafe { mmap_anonymous(None, whole, protection, flags) }?;
    // SAFETY: the first page of the mapping just made, which nothing uses.
    unsafe { mprotect(stack, guard, ProtFlags::PROT_NONE) }?;
    let stack = nix::libc::stack_t {
        ss_sp: stack.as_ptr().wrapping_byte_add(guard),
        ss_flags: 0,
        ss_size: bytes,
    };
    // SAFETY: the rest of that mapping, `bytes` long, is this thread's from now on; what it had before stays mapped.
    match unsafe { nix::libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The size of the alternate stack that this thread runs on; none if it runs on an ordinary one.
pub fn signal_stack() -> Option<usize> {
    let mut stack = nix::libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    // SAFETY: only asks, and writes into a structure that is ours.
    let asked = unsafe { nix::libc::sigaltstack(std::ptr::null(), &raw mut stack) };
    (asked == 0 && stack.ss_flags & nix::libc::SS_ONSTACK != 0).then_some(stack.ss_size)
}

/// Where this program lies in memory, its libraries not included.
pub fn program_range() -> std::ops::Range<usize> {
    unsafe extern "C" {
        // The linker's own names for its bounds (GNU ld, lld, mold). They stand for addresses, and are never read.
        static __executable_start: u8;
        static _end: u8;
    }
    (&raw const __executable_start).addr()..(&raw const _end).addr()
}

/// Whether the kernel filters system calls (seccomp(2): SECCOMP_GET_ACTION_AVAIL, since Linux 4.14).
///
/// # Errors
/// `ENOSYS` or `EINVAL`: it does not; `EPERM`: a filter that is there already forbids another one.
pub fn has_seccomp() -> io::Result<()> {
    let action = nix::libc::SECCOMP_RET_ERRNO;
    // SAFETY: only asks; the kernel reads one number from a place that is ours.
    let asked = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_seccomp,
            nix::libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match asked {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel run this program on each system call of this thread and of all that it starts, for good (seccomp(2)).
/// Without the kernel's protection from speculation that it would give a filtered process unasked before Linux 5.16, and
/// that costs each of its branches: it is meant for those who run the code of strangers.
///
/// # Errors
/// `EACCES`: the thread may still get new privileges (PR_SET_NO_NEW_PRIVS); `EINVAL`, `ENOSYS`: the kernel has no filters.
pub fn filter_system_calls(program: &[nix::libc::sock_filter]) -> io::Result<()> {
    let program = nix::libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions, which live as long as the call, checks them, and writes nowhere.
    let installed = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_seccomp,
            nix::libc::SECCOMP_SET_MODE_FILTER,
            nix::libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    match installed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the scheduler that this thread is in no hurry: it gets its part of the processor in long turns (100 ms, the
/// longest), so that any thread with something short to do goes first as soon as it wakes up (sched(7), sched_setattr(2):
/// `sched_runtime` of SCHED_OTHER, since Linux 6.12; an older kernel takes no notice). Under another policy nothing changes.
/// Threads and processes that it starts are as any other.
///
/// # Errors
/// `EPERM`, `ENOSYS`: a filter of system calls forbids it.
pub fn be_in_no_hurry() -> io::Result<()> {
    /// The first version of what the kernel reads.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    // SAFETY: touches no memory; the answer is a number.
    let policy = unsafe { nix::libc::sched_getscheduler(0) };
    if policy != nix::libc::SCHED_OTHER {
        return Ok(());
    }
    // SAFETY: touches no memory; the answer is a number, and -1 a nice value that would only be kept.
    let nice = unsafe { nix::libc::getpriority(nix::libc::PRIO_PROCESS, 0) };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: policy as u32,
        flags: nix::libc::SCHED_FLAG_RESET_ON_FORK as u64,
        nice,
        priority: 0,
        runtime: 100_000_000,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that lives as long as the call, and writes nowhere.
    let set =
        unsafe { nix::libc::syscall(nix::libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the pages that the allocator has free back to the kernel (malloc_trim(3)); false when there were none. Takes
/// milliseconds for a heap of 100 MiB, while other threads wait for memory. Other C libraries than glibc do it unasked
/// or not at all.
pub fn trim_heap() -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: a thread-safe function of the allocator that only touches memory which nobody has.
    return unsafe { nix::libc::malloc_trim(0) } == 1;
    #[cfg(not(target_env = "gnu"))]
    false
}

/// Overwrites pieces of this process's command line with `*`, so that `ps` doesn't show a secret that was
/// given as an argument. `spans` are (argument index, byte range in that argument).
///
/// # Errors
/// /proc is not mounted or not ours to write; the command line then stays as it is.
pub fn scrub_arguments(spans: &[(usize, std::ops::Range<usize>)]) -> io::Result<()> {
    if spans.is_empty() {
        return Ok(());
    }
    let line = std::fs::read("/proc/self/cmdline")?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // proc(5): fields 48 and 49 are arg_start and arg_end; the second field may hold spaces, so count behind it.
    let start = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(45))
        .and_then(|field| field.parse::<u64>().ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/self/stat has no arg_start",
            )
        })?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    let mut offset = 0;
    for (index, argument) in line.split(|byte| *byte == 0).enumerate() {
        for (_, span) in spans.iter().filter(|(at, _)| *at == index) {
            if span.end <= argument.len() {
                memory.write_all_at(
                    &vec![b'*'; span.len()],
                    start + (offset + span.start) as u64,
                )?;
            }
        }
        offset += argument.len() + 1;
    }
    Ok(())
}
