//! The system calls that a worker never needs once it has started: a seccomp filter refuses them with EPERM, so that who
//! finds a way to run code in a worker finds no tools there. Called by `privileges`.
//!
//! What is listed is denied, and all else allowed. A list of what is allowed would be stricter, until the next version of libc
//! or of a database client makes a call that is not in it, in production and under load.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::sys;

/// What is denied, by what it would be good for.
const DENIED: &[i64] = &[
    // Other programs, and other processes' memory and descriptors.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Other identities.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // Other views of the host.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // The host itself.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    // Large parts of the kernel in which faults are found time and again.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

/// Numbers of the x32 interface, which a kernel may have beside its own: this bit, and for calls that take structures
/// other numbers (arch/x86/entry/syscalls/syscall_64.tbl): execve, ptrace, kexec_load, process_vm_readv and
/// process_vm_writev, execveat.
#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const X32_OWN: &[i64] = &[520, 521, 528, 539, 540, 545];

/// The number of every system call that is denied.
pub fn denied() -> Vec<i64> {
    let native = DENIED.iter().chain(DENIED_HERE).copied();
    #[cfg(target_arch = "x86_64")]
    let native = native.clone().chain(
        native
            .chain(X32_OWN.iter().copied())
            .map(|call| X32_BIT | call),
    );
    native.collect()
}

/// Denies them to this thread and to all that it starts, for good. Takes a thread that can get no new privileges.
///
/// # Errors
/// The kernel has no filters, or one that is there forbids it; or this processor is none that filters are made for.
pub fn deny() -> io::Result<()> {
    let program = compile().map_err(io::Error::other)?;
    let program: Vec<libc::sock_filter> = program
        .iter()
        .map(|step| libc::sock_filter {
            code: step.code,
            jt: step.jt,
            jf: step.jf,
            k: step.k,
        })
        .collect();
    sys::filter_system_calls(&program)
}

fn compile() -> Result<BpfProgram, seccompiler::BackendError> {
    // No condition on the arguments.
    let rules: BTreeMap<i64, _> = denied().into_iter().map(|call| (call, vec![])).collect();
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        TargetArch::try_from(ARCH)?,
    )?
    .try_into()
}
