//! Confines the VMM process and its siblings.
//!
//! After the first package script the guest is untrusted. So the process that emulates its devices
//! has no access to paths, network or other processes: it has the passed descriptors, and may use
//! them with the system calls that its threads need. The layers, from outside in: no new
//! privileges, death with the parent, resource limits, a Landlock ruleset without exceptions, and a
//! seccomp list per kind of thread. Everything but the lists is in the crate `confine`.

mod lists;

use std::{collections::BTreeMap, io, sync::Arc};

use confine::{ConfineError, Landlock, Paths, SystemCalls};
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::{SigHandler, Signal, signal},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use self::lists::{calls, ioctls};

/// Maximum descriptors: 1024 guest connections, as many ends in flight to the parent, and some
/// hundred for layers and events.
const DESCRIPTORS_MAX: u64 = 4096;
/// The highest standard stream.
const LAST_STANDARD_FD: i32 = 2;

/// How the VMM process confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// A system call outside of a thread's list kills the process.
    #[default]
    Enforce,
    /// A system call outside of a thread's list is allowed and logged by the kernel, to find calls
    /// missing from a list.
    Log,
}

impl From<Sandbox> for SystemCalls {
    fn from(sandbox: Sandbox) -> Self {
        match sandbox {
            Sandbox::Enforce => Self::Listed,
            Sandbox::Log => Self::Noted,
        }
    }
}

/// Errors of confining the process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// A confinement step common to all processes failed.
    #[error(transparent)]
    Process(#[from] ConfineError),
    /// A system call failed.
    #[error("failed to {action}")]
    System {
        /// The purpose of the call.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A seccomp list could not be compiled.
    #[error("failed to compile the system call list of {kind:?} threads: {reason}")]
    Compile {
        /// The kind of thread.
        kind: Kind,
        /// The reason.
        reason: String,
    },
}

/// Closes descriptors that were inherited without the close-on-exec flag. Must be called before
/// anything else is opened.
pub(crate) fn close_inherited() -> Result<(), SandboxError> {
    Ok(confine::close_above(LAST_STANDARD_FD)?)
}

/// The confinement of the process, with the lists for its threads.
#[derive(Debug)]
pub(crate) struct Confined {
    /// The seccomp lists.
    pub(crate) lists: Lists,
    /// The Landlock restrictions that the kernel enforces.
    pub(crate) landlock: Landlock,
}

/// Confines the whole process; must be called before any thread is started. Every process of this
/// crate that handles guest data calls this. Its files may not grow beyond `file_bytes`.
pub(crate) fn confine_process(mode: Sandbox, file_bytes: u64) -> Result<Confined, SandboxError> {
    confine::forbid_privileges()?;
    confine::forbid_memory_images()?;
    confine::limit_descriptors(DESCRIPTORS_MAX)?;
    limit_file_size(file_bytes)
        .map_err(|source| SandboxError::System { action: "limit the size of files", source })?;
    let landlock = confine::restrict(&Paths::default())?;
    Ok(Confined { lists: Lists::compile(mode)?, landlock })
}

/// Limits the size of files, including memory files, of this process and of the program that it
/// executes: a disk may not grow beyond the needs of its format. A write beyond the limit is an I/O
/// error of that disk.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn limit_file_size(bytes: u64) -> io::Result<()> {
    // SAFETY: ignoring a signal installs no handler code.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    Ok(setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes)?)
}

/// Declares the kinds of threads and the list of all of them, so that none can be missing
/// from it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// Kinds of threads, each with its list of system calls.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum Kind {
            $($(#[$doc])* $kind,)*
        }

        /// All kinds.
        pub(crate) const KINDS: &[Kind] = &[$(Kind::$kind),*];
    };
}

kinds! {
    /// The thread that exchanges messages with the parent.
    Main,
    /// The same of a machine that may be saved. Such a machine runs nothing but the appliance.
    MainToSave,
    /// A virtual CPU.
    Vcpu,
    /// A virtual CPU of a machine that may be saved.
    VcpuToSave,
    /// A disk.
    Block,
    /// The vsock device.
    Vsock,
    /// The random number device.
    Rng,
    /// The balloon device.
    Balloon,
    /// Any thread of a vsock device for another VMM.
    Vhost,
    /// The network behind another VMM's card.
    Nic,
}

impl Kind {
    /// Whether all threads of its process have this list, because a library starts them.
    pub(crate) fn is_of_whole_process(self) -> bool {
        match self {
            Self::Vhost => true,
            Self::Main
            | Self::MainToSave
            | Self::Vcpu
            | Self::VcpuToSave
            | Self::Block
            | Self::Vsock
            | Self::Rng
            | Self::Balloon
            | Self::Nic => false,
        }
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(kind: Kind, pid: u64) -> Result<Rules, seccompiler::Error> {
    use SeccompCmpArgLen::{Dword, Qword};
    let mut rules: Rules = calls(kind).into_iter().map(|call| (call, Vec::new())).collect();
    let one = |index, len, op, value| {
        let condition = SeccompCondition::new(index, len, op, value)?;
        SeccompRule::new(vec![condition])
    };
    let requests = ioctls(kind)
        .iter()
        .map(|request| one(1, Dword, SeccompCmpOp::Eq, *request))
        .collect::<Result<Vec<_>, _>>()?;
    if !requests.is_empty() {
        rules.insert(libc::SYS_ioctl, requests);
    }
    rules.extend(REFUSED.map(|call| (call, Vec::new())));
    // Memory may be mapped, but not as executable.
    const PROT_EXEC: u64 = 4;
    let data_only = || one(2, Dword, SeccompCmpOp::MaskedEq(PROT_EXEC), 0);
    rules.insert(libc::SYS_mmap, vec![data_only()?]);
    rules.insert(libc::SYS_mprotect, vec![data_only()?]);
    // A debug build of the standard library checks that a descriptor is open when it closes it.
    const F_GETFD: u64 = 1;
    let mut controls = vec![one(1, Dword, SeccompCmpOp::Eq, F_GETFD)?];
    if kind == Kind::Vhost {
        /// Duplicates descriptors, for the guest's memory and its events.
        const F_DUPFD_CLOEXEC: u64 = 1030;
        /// Sets the name of a thread.
        const PR_SET_NAME: u64 = 15;
        controls.push(one(1, Dword, SeccompCmpOp::Eq, F_DUPFD_CLOEXEC)?);
        rules.insert(libc::SYS_prctl, vec![one(0, Dword, SeccompCmpOp::Eq, PR_SET_NAME)?]);
        rules.insert(libc::SYS_prlimit64, vec![own_limits()?]);
    }
    rules.insert(libc::SYS_fcntl, controls);
    // Kicks of this process's own threads only.
    rules.insert(libc::SYS_tgkill, vec![one(0, Qword, SeccompCmpOp::Eq, pid)?]);
    Ok(rules)
}

/// Permits reading a limit of the process itself: process 0, and no new limit. For another process
/// id, prlimit64 could change the limits of any process of the user.
fn own_limits() -> Result<SeccompRule, seccompiler::BackendError> {
    let itself = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    let nothing_new = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    SeccompRule::new(vec![itself, nothing_new])
}

/// Calls that fail with "permission denied" instead of killing the process: a C library reads some
/// settings from files at times, and works without them. The threads' lists pass these calls on to
/// this refusal.
const REFUSED: [i64; 2] = [libc::SYS_open, libc::SYS_openat];

#[derive(Debug)]
struct Programs {
    refuse: BpfProgram,
    kinds: BTreeMap<Kind, BpfProgram>,
}

/// The compiled lists of all kinds of threads.
#[derive(Debug, Clone)]
pub(crate) struct Lists(Arc<Programs>);

fn refusal() -> Result<BpfProgram, seccompiler::Error> {
    let rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let errno = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, TargetArch::x86_64)?;
    Ok(BpfProgram::try_from(filter)?)
}

impl Lists {
    /// Compiles the lists for this process.
    pub(crate) fn compile(mode: Sandbox) -> Result<Self, SandboxError> {
        let pid = u64::from(std::process::id());
        let action = match mode {
            Sandbox::Enforce => SeccompAction::KillProcess,
            Sandbox::Log => SeccompAction::Log,
        };
        let refuse = refusal()
            .map_err(|e| SandboxError::Compile { kind: Kind::Main, reason: e.to_string() })?;
        let mut kinds = BTreeMap::new();
        for &kind in KINDS {
            let failed = |reason: String| SandboxError::Compile { kind, reason };
            let rules = rules(kind, pid).map_err(|e| failed(e.to_string()))?;
            let filter =
                SeccompFilter::new(rules, action.clone(), SeccompAction::Allow, TargetArch::x86_64)
                    .map_err(|e| failed(e.to_string()))?;
            let program = BpfProgram::try_from(filter).map_err(|e| failed(e.to_string()))?;
            kinds.insert(kind, program);
        }
        Ok(Self(Arc::new(Programs { refuse, kinds })))
    }

    /// Confines the current thread. A thread that cannot be confined must not handle guest data, so
    /// a failure ends the process.
    pub(crate) fn apply(&self, kind: Kind) {
        self.apply_by(kind, seccompiler::apply_filter);
    }

    /// Confines all existing threads of the process.
    pub(crate) fn apply_to_all(&self, kind: Kind) {
        self.apply_by(kind, seccompiler::apply_filter_all_threads);
    }

    fn apply_by(
        &self,
        kind: Kind,
        apply: impl Fn(seccompiler::BpfProgramRef<'_>) -> Result<(), seccompiler::Error>,
    ) {
        let own = self.0.kinds.get(&kind);
        let applied = own.map(|program| {
            apply(&self.0.refuse)?;
            apply(program)
        });
        if !matches!(applied, Some(Ok(()))) {
            std::process::abort();
        }
    }

    /// The function that a device thread runs first.
    pub(crate) fn confine(&self, kind: Kind) -> Box<dyn FnOnce() + Send> {
        let lists = self.clone();
        Box::new(move || lists.apply(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::{lists::EVERY_THREAD, *};

    #[test]
    fn lists_compile_for_every_kind() {
        let lists = Lists::compile(Sandbox::Enforce).unwrap();
        assert_eq!(lists.0.kinds.len(), KINDS.len());
        assert!(!lists.0.refuse.is_empty());
        assert!(lists.0.kinds.values().all(|program| program.len() > EVERY_THREAD.len()));
    }

    #[test]
    fn a_confined_thread_is_refused_paths_and_lives() {
        let lists = Lists::compile(Sandbox::Enforce).unwrap();
        let thread = std::thread::spawn(move || {
            lists.apply(Kind::Block);
            std::fs::File::open("/proc/self/stat").map(drop).map_err(|e| e.raw_os_error())
        });
        assert_eq!(thread.join().unwrap(), Err(Some(libc::EACCES)));
    }

    /// Set in the environment of the process that confines itself.
    const CONFINED: &str = "VBUILD_TEST_CONFINED";

    /// Runs this test again in a separate process, because confinement cannot be undone.
    #[test]
    fn a_confined_process_has_lost_paths_privileges_and_memory_dumps() {
        const NAME: &str = "a_confined_process_has_lost_paths_privileges_and_memory_dumps";
        if std::env::var_os(CONFINED).is_none() {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args([NAME, "--nocapture", "--test-threads=1"])
                .env(CONFINED, "1")
                .status();
            assert!(status.unwrap().success());
            return;
        }
        let confined = confine_process(Sandbox::Enforce, 1 << 20).unwrap();
        assert!(nix::sys::prctl::get_no_new_privs().unwrap());
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        let getrlimit = nix::sys::resource::getrlimit;
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert_eq!(getrlimit(Resource::RLIMIT_FSIZE).unwrap(), (1 << 20, 1 << 20));
        assert!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().1 <= DESCRIPTORS_MAX);
        if let Landlock::Held { .. } = confined.landlock {
            let error = std::fs::File::open("/etc/passwd").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(std::fs::write("/tmp/vbuild-test-confined", "").is_err());
        } else {
            println!("skipped a part: this kernel has no landlock");
        }
    }

    #[test]
    fn the_log_mode_lets_through_what_the_list_lacks() {
        if std::env::var_os(CONFINED).is_some() {
            return;
        }
        let lists = Lists::compile(Sandbox::Log).unwrap();
        let thread = std::thread::spawn(move || {
            lists.apply(Kind::Rng);
            nix::unistd::getppid().as_raw() // not in the list
        });
        assert!(thread.join().unwrap() > 0);
    }

    #[test]
    fn only_processors_may_run_kvm_and_nobody_may_reach_out() {
        for &kind in KINDS {
            let rules = rules(kind, 1).unwrap();
            for forbidden in [
                libc::SYS_execve,
                libc::SYS_connect,
                libc::SYS_socket,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_ptrace,
                libc::SYS_kill,
                libc::SYS_process_vm_readv,
            ] {
                assert!(!rules.contains_key(&forbidden), "{kind:?} may call {forbidden}");
            }
            let run = ioctls(kind).iter().any(|request| request & 0xffff == 0xae80);
            assert_eq!(run, matches!(kind, Kind::Vcpu | Kind::VcpuToSave));
            let kvm = ioctls(kind).iter().any(|request| request & 0xff00 == 0xae00);
            assert_eq!(kvm, run || kind == Kind::MainToSave);
        }
    }
}
