//! The only module of the agent with `unsafe` code: system calls that neither std nor nix offers in
//! the form needed here. Each function checks its own arguments, so that its callers can be safe
//! code.

#![expect(unsafe_code, reason = "system calls without a safe wrapper elsewhere")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

/// The stack size of a child between clone and exec, in bytes. The child only makes system calls;
/// 32 KiB leave room for the frames of the C library's wrappers.
const CHILD_STACK_BYTES: usize = 32 * 1024;

/// Soft limit of open files of a child: what programs expect (select(2) fails above it).
const CHILD_FILES_SOFT: u64 = 1024;

/// Hard limit of open files of a child: the one that systemd sets for services.
const CHILD_FILES_HARD: u64 = 524_288;

/// The step at which starting a process failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaunchStep {
    /// Creating the process.
    Clone,
    /// Setting up its session, terminal or standard streams.
    Streams,
    /// Installing the filter for calls that wait for disks.
    Filter,
    /// Changing the root directory.
    Root,
    /// Changing the working directory.
    Directory,
    /// Running the program.
    Exec,
}

/// A process to start. Everything is prepared, so that the child allocates nothing.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Paths to try as the program, in order.
    pub(crate) programs: &'a [CString],
    /// The arguments, starting with the program's name.
    pub(crate) argv: &'a [CString],
    /// The environment: `NAME=value` strings.
    pub(crate) env: &'a [CString],
    /// The new root directory, if it is changed.
    pub(crate) root: Option<&'a CStr>,
    /// The working directory inside the root.
    pub(crate) cwd: &'a CStr,
    /// The descriptors that become standard input, output and error.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// Whether standard input is a terminal that becomes the controlling one of the session.
    pub(crate) terminal: bool,
    /// Whether calls that wait for disks succeed immediately.
    pub(crate) ignore_sync: bool,
}

/// The data of the child. It is in the parent's memory, which both share.
struct ChildView {
    programs: Vec<*const libc::c_char>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    root: *const libc::c_char,
    cwd: *const libc::c_char,
    stdio: [i32; 3],
    terminal: bool,
    filter: Option<libc::sock_fprog>,
    failed: Option<(LaunchStep, i32)>,
}

/// Returns the filter of [`crate::sync_filter`] in the form that prctl(2) takes.
fn sync_filter_program() -> libc::sock_fprog {
    let filter = &crate::sync_filter::FILTER;
    // The kernel only reads the filter, although the field is a mutable pointer.
    libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or_default(),
        filter: filter.as_ptr().cast_mut(),
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// Starts a process in a session of its own. Like vfork(2), it shares the memory until the program
/// runs, so the cost does not grow with the agent.
pub(crate) fn launch(launch: &Launch<'_>) -> Result<Pid, (LaunchStep, Errno)> {
    let mut view = ChildView {
        programs: pointers(launch.programs),
        argv: pointers(launch.argv),
        env: pointers(launch.env),
        root: launch.root.map_or(ptr::null(), CStr::as_ptr),
        cwd: launch.cwd.as_ptr(),
        stdio: launch.stdio.map(|fd| fd.as_raw_fd()),
        terminal: launch.terminal,
        filter: launch.ignore_sync.then(sync_filter_program),
        failed: None,
    };
    // Aligned to 16 bytes by its element type, as the ABI requires of a stack. It is not
    // initialised, because nothing reads it before it is written.
    let mut stack: Vec<u128> = Vec::with_capacity(CHILD_STACK_BYTES / size_of::<u128>());
    let mut all = nix::sys::signal::SigSet::all();
    let mut before = nix::sys::signal::SigSet::empty();
    // A signal handler must not run in the child, on the shared memory.
    nix::sys::signal::pthread_sigmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&all),
        Some(&mut before),
    )
    .map_err(|e| (LaunchStep::Clone, e))?;
    all.clear();
    // SAFETY: the stack top is the end of a live, 16-byte aligned allocation; CLONE_VFORK suspends
    // this thread until the child has called execve or _exit, so `view`, the strings it points to
    // and the stack outlive the child's use of them, and no other thread accesses them meanwhile.
    let pid = unsafe {
        libc::clone(
            child_main,
            stack.as_mut_ptr().add(stack.capacity()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut view).cast(),
        )
    };
    let result = Errno::result(pid).map(Pid::from_raw);
    let restored = before.thread_set_mask();
    drop(stack);
    let pid = result.map_err(|e| (LaunchStep::Clone, e))?;
    // SAFETY: `view` is a live local; the read is volatile because the child wrote to it, which the
    // compiler cannot see.
    match unsafe { ptr::read_volatile(&raw const view.failed) } {
        None => restored.map(|()| pid).map_err(|e| (LaunchStep::Clone, e)),
        Some((step, errno)) => {
            // The process has ended already; only its entry in the process table is left.
            let _ = nix::sys::wait::waitpid(pid, None);
            Err((step, Errno::from_raw(errno)))
        }
    }
}

extern "C" fn child_main(view: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `launch` passes a pointer to its `ChildView` and is suspended
    // until this function ends the process or replaces its program.
    let view = unsafe { &mut *view.cast::<ChildView>() };
    let step = child_prepare(view);
    // SAFETY: errno of this thread; reading it has no preconditions.
    view.failed = Some((step, unsafe { *libc::__errno_location() }));
    // SAFETY: ends only the child, without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

/// Runs the program. If it returns, the returned step has failed and errno contains the reason. It
/// makes only system calls: no allocation, no locks, no panics.
fn child_prepare(view: &ChildView) -> LaunchStep {
    // SAFETY: every pointer was built by `launch` from live C strings and
    // NULL-terminated vectors; descriptors are open ones of the parent.
    unsafe {
        libc::setsid();
        if view.terminal && libc::ioctl(view.stdio[0], libc::TIOCSCTTY, 0) < 0 {
            return LaunchStep::Streams;
        }
        for (target, source) in (0..).zip(view.stdio) {
            if libc::dup2(source, target) < 0 {
                return LaunchStep::Streams;
            }
        }
        // No descriptor of the agent leaks, no matter which code opened it. Kernels before 5.11
        // refuse the flag, but the agent's descriptors are close-on-exec anyway.
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        child_limits();
        // The filter is installed without `no_new_privs`, which would prevent scripts from using
        // sudo. The kernel allows this only to a process with CAP_SYS_ADMIN.
        if let Some(filter) = &view.filter
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
                &raw const *filter,
            ) < 0
        {
            return LaunchStep::Filter;
        }
        if !view.root.is_null() && libc::chroot(view.root) < 0 {
            return LaunchStep::Root;
        }
        if libc::chdir(view.cwd) < 0 {
            return LaunchStep::Directory;
        }
        libc::umask(0o022);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        let mut denied = false;
        for program in view.programs.iter().take_while(|p| !p.is_null()) {
            libc::execve(*program, view.argv.as_ptr(), view.env.as_ptr());
            // As in execvp(3), a directory of PATH that lacks the program is skipped, and
            // "permission denied" is only reported if no later directory has it.
            match *libc::__errno_location() {
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ENOTDIR => {}
                _ => return LaunchStep::Exec,
            }
        }
        if denied {
            *libc::__errno_location() = libc::EACCES;
        }
        LaunchStep::Exec
    }
}

/// The processors on which a child may run: all. The kernel ignores those that do not exist.
const CHILD_PROCESSORS: [u64; 16] = [u64::MAX; 16];

/// Resets what the agent has for itself and its children must not have: protection from the
/// out-of-memory killer, a high limit of open files, the restriction to one processor.
///
/// # Safety
/// May only be called in the child of [`launch`].
unsafe fn child_limits() {
    let files = libc::rlimit { rlim_cur: CHILD_FILES_SOFT, rlim_max: CHILD_FILES_HARD };
    // SAFETY: plain system calls on constants and locals of this frame.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
        let (size, every) = (size_of_val(&CHILD_PROCESSORS), CHILD_PROCESSORS.as_ptr());
        libc::syscall(libc::SYS_sched_setaffinity, 0, size, every);
        let none: *mut libc::rlimit = ptr::null_mut();
        libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, &raw const files, none);
    }
}

/// Forks the calling process. Only PID 1 calls this, while it has one thread.
pub(crate) fn fork() -> nix::Result<nix::unistd::ForkResult> {
    // SAFETY: PID 1 has a single thread at this point, so the child may do everything that the
    // parent could do.
    unsafe { nix::unistd::fork() }
}

/// Returns a descriptor of a process, which is readable when the process has ended.
pub(crate) fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for a child. Returns its raw status and its processor time in milliseconds, including that
/// of children for which it waited.
pub(crate) fn wait_with_usage(pid: Pid) -> nix::Result<(i32, u64)> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of the plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals.
        let waited = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) };
        match Errno::result(waited) {
            Err(Errno::EINTR) => {}
            other => break other.map(|_| ())?,
        }
    }
    let milliseconds = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1000
            + u64::try_from(time.tv_usec).unwrap_or(0) / 1000
    };
    Ok((status, milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime)))
}

/// Sets the size of a terminal.
pub(crate) fn set_terminal_size(fd: impl AsFd, rows: u16, columns: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(done).map(drop)
}

/// Returns the number of bytes that wait in a pipe or terminal.
pub(crate) fn bytes_waiting(fd: impl AsFd) -> nix::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int through the pointer.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(done)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

mod request {
    //! Numbers of ioctls that libc does not define.
    pub(super) const FIFREEZE: libc::c_ulong = 0xc004_5877;
    pub(super) const FITHAW: libc::c_ulong = 0xc004_5878;
    pub(super) const BLKRRPART: libc::c_ulong = 0x125f;
    /// Requests of `random.c`; see random(4).
    pub(super) const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    pub(super) const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
}

fn plain_ioctl(fd: BorrowedFd<'_>, request: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: the requests passed here take no argument, or ignore it.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, 0) }).map(drop)
}

/// Freezes the filesystem of an open directory.
pub(crate) fn freeze(fd: impl AsFd) -> nix::Result<()> {
    plain_ioctl(fd.as_fd(), request::FIFREEZE)
}

/// Thaws the filesystem of an open directory.
pub(crate) fn thaw(fd: impl AsFd) -> nix::Result<()> {
    plain_ioctl(fd.as_fd(), request::FITHAW)
}

/// Makes the kernel read the partition table of a disk again.
pub(crate) fn reread_partitions(fd: impl AsFd) -> nix::Result<()> {
    plain_ioctl(fd.as_fd(), request::BLKRRPART)
}

/// The argument of RNDADDENTROPY: `struct rand_pool_info` with a buffer of this length.
#[repr(C)]
struct Entropy {
    bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; wire::ENTROPY_BYTES],
}

/// Mixes random bytes into the kernel's random number generator, credits them, and makes every
/// processor take a new key from it.
///
/// # Errors
/// Fails if the kernel refuses, for example for lack of privilege.
pub(crate) fn reseed(entropy: &[u8; wire::ENTROPY_BYTES]) -> std::io::Result<()> {
    let bytes = libc::c_int::try_from(entropy.len()).map_err(std::io::Error::other)?;
    let random = std::fs::File::options().write(true).open("/dev/random")?;
    let entropy = Entropy { bits: bytes * 8, bytes, buffer: *entropy };
    // SAFETY: the request reads one `rand_pool_info` with `bytes` bytes of buffer after the two
    // numbers, which is the layout of `Entropy`; the value lives until the call returns.
    let added =
        unsafe { libc::ioctl(random.as_raw_fd(), request::RNDADDENTROPY, &raw const entropy) };
    Errno::result(added)?;
    match plain_ioctl(random.as_fd(), request::RNDRESEEDCRNG) {
        // The generator was not seeded before, so the added bytes have just made its first keys.
        Ok(()) | Err(Errno::ENODATA) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The maximum size of an extended attribute's value that the kernel allows, in bytes. The list of
/// names has the same limit.
const XATTR_MAX_BYTES: usize = 64 * 1024;

/// Returns the names of the extended attributes of a path; a final symlink is not followed.
pub(crate) fn list_xattrs(path: &CStr) -> nix::Result<Vec<CString>> {
    // SAFETY: with size 0 the kernel only returns the size.
    let size = unsafe { libc::llistxattr(path.as_ptr(), ptr::null_mut(), 0) };
    if Errno::result(size)? == 0 {
        return Ok(Vec::new());
    }
    let mut names = vec![0_u8; XATTR_MAX_BYTES];
    // SAFETY: the buffer has the given length.
    let size = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(Errno::result(size)?).unwrap_or(0));
    Ok(names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| CString::new(name).ok())
        .collect())
}

/// Returns the value of an extended attribute; a final symlink is not followed.
pub(crate) fn get_xattr(path: &CStr, name: &CStr) -> nix::Result<Vec<u8>> {
    let mut value = vec![0_u8; XATTR_MAX_BYTES];
    // SAFETY: the buffer has the given length.
    let size = unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    value.truncate(usize::try_from(Errno::result(size)?).unwrap_or(0));
    Ok(value)
}

/// Sets an extended attribute; a final symlink is not followed.
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: the pointers and the length are those of live slices.
    let done = unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(done).map(drop)
}

/// An instruction of a BPF program, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    /// The operation code.
    pub(crate) code: u8,
    /// Destination register in the low half, source register in the high one.
    pub(crate) dst_src: u8,
    /// The offset of a jump or of a memory access.
    pub(crate) offset: i16,
    /// The constant operand.
    pub(crate) value: i32,
}

/// The first of the two instructions that put the map into register 1. Its value, the number of the
/// map, is filled in by [`bpf_load_socket_lookup`].
pub(crate) const MAP_LOW: Instruction =
    Instruction { code: 0x18, dst_src: 0x11, offset: 0, value: 0 };
/// The second of the two instructions that put the map into register 1.
pub(crate) const MAP_HIGH: Instruction = Instruction { code: 0, dst_src: 0, offset: 0, value: 0 };

mod bpf {
    //! Constants of bpf(2).
    pub(super) const MAP_CREATE: libc::c_int = 0;
    pub(super) const MAP_UPDATE: libc::c_int = 2;
    pub(super) const PROG_LOAD: libc::c_int = 5;
    pub(super) const LINK_CREATE: libc::c_int = 28;
    pub(super) const MAP_TYPE_SOCKMAP: u32 = 15;
    pub(super) const PROG_TYPE_SK_LOOKUP: u32 = 30;
    pub(super) const ATTACH_SK_LOOKUP: u32 = 36;
}

/// Calls bpf(2).
///
/// # Safety
/// `attributes` must be the structure that the command reads, and pointers in it must be valid for
/// what the command does with them.
unsafe fn bpf_call<T>(command: libc::c_int, attributes: &T) -> nix::Result<i32> {
    // SAFETY: the pointer and the size are those of a live value; the caller guarantees its
    // content.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)
}

fn bpf_fd<T>(command: libc::c_int, attributes: &T) -> nix::Result<OwnedFd> {
    // SAFETY: all callers are below; they pass structures of plain numbers and of pointers to
    // slices that live until the call returns.
    let fd = unsafe { bpf_call(command, attributes) }?;
    // SAFETY: these commands return a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a map for one socket.
pub(crate) fn bpf_socket_map() -> nix::Result<OwnedFd> {
    // Type, size of a key, size of a value, number of entries.
    bpf_fd(bpf::MAP_CREATE, &[bpf::MAP_TYPE_SOCKMAP, 4, 4, 1])
}

/// Puts a socket into the map.
pub(crate) fn bpf_put_socket(map: &OwnedFd, socket: impl AsFd) -> nix::Result<()> {
    #[repr(C)]
    struct Update {
        map: u64,
        key: *const u32,
        value: *const i32,
        flags: u64,
    }
    let (key, value) = (0_u32, socket.as_fd().as_raw_fd());
    let map = u64::try_from(map.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let update = Update { map, key: &raw const key, value: &raw const value, flags: 0 };
    // SAFETY: the fields are those of the command; key and value have the four bytes each with
    // which the map was created.
    unsafe { bpf_call(bpf::MAP_UPDATE, &update) }.map(drop)
}

/// Loads a program that chooses sockets (`sk_lookup`), with the number of the map filled in.
pub(crate) fn bpf_load_socket_lookup(
    program: &[Instruction],
    map: &OwnedFd,
) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: *const Instruction,
        license: *const libc::c_char,
        log: [u64; 2],
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach: u32,
    }
    let mut program = program.to_vec();
    for instruction in &mut program {
        if *instruction == MAP_LOW {
            instruction.value = map.as_raw_fd();
        }
    }
    let load = Load {
        kind: bpf::PROG_TYPE_SK_LOOKUP,
        count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr(),
        license: c"Apache-2.0".as_ptr(),
        log: [0; 2],
        kernel_version: 0,
        flags: 0,
        name: *b"vbuild_door\0\0\0\0\0",
        interface: 0,
        attach: bpf::ATTACH_SK_LOOKUP,
    };
    bpf_fd(bpf::PROG_LOAD, &load)
}

/// Attaches an `sk_lookup` program to a network namespace, until the returned descriptor is closed.
pub(crate) fn bpf_attach_socket_lookup(
    program: &OwnedFd,
    namespace: impl AsFd,
) -> nix::Result<OwnedFd> {
    let number = |fd: i32| u32::try_from(fd).map_err(|_| Errno::EBADF);
    let namespace = number(namespace.as_fd().as_raw_fd())?;
    let link = [number(program.as_raw_fd())?, namespace, bpf::ATTACH_SK_LOOKUP, 0];
    bpf_fd(bpf::LINK_CREATE, &link)
}
