//! The system calls that an emulator is refused.
//!
//! Which calls QEMU makes depends on its version and on how it was built, so
//! nobody can write the list of those that it may make. This is the list of those
//! that it never needs once it runs, and with which code of a guest that has broken
//! out of it would reach something: sockets, other processes, the attributes of
//! files (landlock does not know them), namespaces, mounts, and parts of the kernel
//! that are a door of their own. They fail with "operation not permitted". QEMU's
//! own `-sandbox` refuses further ones, new programs above all.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::ConfineError;

/// Numbers with this bit are calls of the x32 ABI, which does the same where a
/// kernel has it.
const X32: i64 = 0x4000_0000;

/// Calls that are refused whatever their arguments are.
const REFUSED: &[&[i64]] = &[SOCKETS, PROCESSES, ATTRIBUTES, WORLDS, DOORS];

/// Ways to another process of this host or of another one. What QEMU speaks with
/// is connected before it starts.
const SOCKETS: &[i64] = &[libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// Other processes.
const PROCESSES: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_ioprio_set,
];

/// Changes of files that need no opening.
const ATTRIBUTES: &[i64] = &[
    libc::SYS_truncate,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_lchown,
    libc::SYS_fchownat,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
];

/// Of Linux 6.13; the libc crate does not know them yet.
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;

/// Namespaces, roots and mounts.
const WORLDS: &[i64] = &[
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
];

/// Doors into the kernel. A ring of io_uring can open and connect past this list.
const DOORS: &[i64] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_fanotify_init,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_iopl,
    libc::SYS_ioperm,
];

/// Flags of clone(2) that make a namespace.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// What a terminal takes as if somebody had typed it, or lets the console do.
const TERMINAL_INPUT: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Puts the list on this thread, its later threads and the program that it becomes.
///
/// # Errors
/// When the kernel has no seccomp.
pub fn refuse_calls_of_emulators() -> Result<(), ConfineError> {
    let own = u64::from(std::process::id());
    for program in [refusals(own), absences()] {
        program
            .and_then(|program| seccompiler::apply_filter(&program).map_err(Into::into))
            .map_err(|error: Failure| ConfineError::Calls(error.0))?;
    }
    Ok(())
}

/// The library's errors as text; it has two types of them.
struct Failure(String);

impl From<seccompiler::Error> for Failure {
    fn from(error: seccompiler::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<seccompiler::BackendError> for Failure {
    fn from(error: seccompiler::BackendError) -> Self {
        Self(error.to_string())
    }
}

fn refusals(own: u64) -> Result<BpfProgram, Failure> {
    let calls = REFUSED.iter().copied().flatten();
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    let one = |index, len, op, value| -> Result<SeccompRule, Failure> {
        Ok(SeccompRule::new(vec![SeccompCondition::new(index, len, op, value)?])?)
    };
    // Signals to itself are how abort(3) and raise(3) work.
    for signal in
        [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo]
    {
        rules.insert(signal, vec![one(0, Dword, SeccompCmpOp::Ne, own)?]);
    }
    // Zero is the calling process.
    rules.insert(libc::SYS_prlimit64, vec![one(0, Dword, SeccompCmpOp::Ne, 0)?]);
    let namespaces = NAMESPACES.iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        one(0, Qword, SeccompCmpOp::MaskedEq(flag), flag)
    });
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    let typing = TERMINAL_INPUT.iter().map(|request| one(1, Dword, SeccompCmpOp::Eq, *request));
    rules.insert(libc::SYS_ioctl, typing.collect::<Result<_, _>>()?);
    compile(rules, libc::EPERM)
}

/// The arguments of clone3 lie in memory, where no list can look. A C library that
/// is told that there is no such call takes clone.
fn absences() -> Result<BpfProgram, Failure> {
    compile(Rules::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}

fn compile(mut rules: Rules, errno: i32) -> Result<BpfProgram, Failure> {
    let other: Rules = rules.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
    rules.extend(other);
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?;
    Ok(BpfProgram::try_from(filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, because there is no way back.
    fn confined<T: Send + 'static>(attempt: impl FnOnce() -> T + Send + 'static) -> T {
        let body = move || {
            crate::forbid_privileges().unwrap();
            refuse_calls_of_emulators().unwrap();
            attempt()
        };
        std::thread::spawn(body).join().unwrap()
    }

    fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
        result.unwrap_err().raw_os_error()
    }

    #[test]
    fn sockets_and_attributes_are_refused_and_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        confined(move || {
            assert_eq!(errno(std::net::UdpSocket::bind("127.0.0.1:0")), Some(libc::EPERM));
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            assert_eq!(errno(std::fs::set_permissions(&file, mode)), Some(libc::EPERM));
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
            let set = std::fs::File::options().write(true).open(&file).unwrap().set_len(2);
            assert!(set.is_ok(), "a descriptor that it holds is its own");
        });
    }

    #[test]
    fn threads_start_and_namespaces_do_not() {
        confined(|| {
            std::thread::spawn(|| ()).join().unwrap();
            let flags = nix::sched::CloneFlags::CLONE_NEWUSER;
            assert_eq!(nix::sched::unshare(flags), Err(nix::errno::Errno::EPERM));
        });
    }

    #[test]
    fn itself_may_be_signalled_and_limited_and_nobody_else() {
        use nix::{sys::signal::kill, unistd::Pid};
        use rustix::process::{Resource, getrlimit, prlimit};
        let parent = Pid::parent();
        confined(move || {
            assert_eq!(kill(Pid::this(), None), Ok(()));
            assert_eq!(kill(parent, None), Err(nix::errno::Errno::EPERM));
            let limit = getrlimit(Resource::Core);
            assert!(prlimit(None, Resource::Core, limit).is_ok());
            let parent = rustix::process::Pid::from_raw(parent.as_raw());
            assert_eq!(prlimit(parent, Resource::Core, limit), Err(rustix::io::Errno::PERM));
        });
    }
}
