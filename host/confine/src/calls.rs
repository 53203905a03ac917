//! The system calls that an emulator is denied.
//!
//! The calls that QEMU makes depend on its version and build options, so an exact allow list is
//! impossible. This list has calls that QEMU does not need once it runs, and that would let the
//! code of a guest that has taken over QEMU reach something: sockets, other processes, file
//! attributes (which Landlock does not cover), namespaces, mounts, and kernel interfaces with
//! access paths of their own. They fail with "operation not permitted". QEMU's own `-sandbox`
//! denies more calls, mainly executing new programs.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::ConfineError;

/// Call numbers with this bit belong to the x32 ABI, which offers the same calls on kernels that
/// support it.
const X32: i64 = 0x4000_0000;

/// Calls that are denied whatever their arguments.
const REFUSED: &[&[i64]] = &[SOCKETS, PROCESSES, ATTRIBUTES, WORLDS, DOORS];

/// Connections to other processes or hosts. QEMU's own connections are opened before it starts.
const SOCKETS: &[i64] = &[libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// Access to other processes.
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

/// Changes of files that need no open file.
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

/// Linux 6.13; not in the libc crate yet.
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;

/// Namespaces, root directories and mounts.
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

/// Kernel interfaces with access paths of their own: io_uring, for example, can open and connect
/// past this list.
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

/// Flags of clone(2) that create a namespace.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// ioctls that inject terminal input or control the console.
const TERMINAL_INPUT: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Applies the list to this thread, its later threads, and the program that it executes.
///
/// # Errors
/// Fails if the kernel does not support seccomp.
pub fn refuse_calls_of_emulators() -> Result<(), ConfineError> {
    let own = u64::from(std::process::id());
    for program in [refusals(own), absences()] {
        program
            .and_then(|program| seccompiler::apply_filter(&program).map_err(Into::into))
            .map_err(|error: Failure| ConfineError::Calls(error.0))?;
    }
    Ok(())
}

/// The library's two error types as text.
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
    // abort(3) and raise(3) send signals to the process itself.
    for signal in
        [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo]
    {
        rules.insert(signal, vec![one(0, Dword, SeccompCmpOp::Ne, own)?]);
    }
    // Zero means the calling process.
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

/// The arguments of clone3 are in memory, which seccomp cannot inspect. If the call does not exist
/// (ENOSYS), the C library uses clone.
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

    /// Runs on its own thread, because confinement cannot be undone.
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
