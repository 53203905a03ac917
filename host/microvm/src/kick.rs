//! Makes a vCPU thread leave `KVM_RUN`.
//!
//! A signal alone can arrive just before the ioctl and be lost. So the handler also sets
//! `immediate_exit` in the kvm_run page of its thread: the next `KVM_RUN` then returns `EINTR` at
//! once.

use std::{cell::Cell, ptr, sync::OnceLock};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The first real-time signal that the C library leaves to applications.
fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is set by `Kickable::new` to a byte of a live
        // mapping and cleared before that mapping goes away, on this thread.
        // A volatile store of one byte is async-signal-safe.
        unsafe { ptr::write_volatile(flag, 1) };
    }
}

/// Installs the handler once per process.
pub(crate) fn install_handler() -> std::io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = INSTALLED
        .get_or_init(|| register_signal_handler(kick_signal(), on_kick).map_err(|e| e.errno()));
    result.map_err(std::io::Error::from_raw_os_error)
}

/// The target of a kick: a thread of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kicker {
    tid: libc::pid_t,
}

impl Kicker {
    /// Makes the thread leave `KVM_RUN`, or not enter it. A thread that has ended is not an error.
    pub(crate) fn kick(self) {
        // SAFETY: tgkill takes three integers. A thread id reused inside this
        // process meets the same handler, which does nothing there.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), self.tid, kick_signal());
        }
    }
}

/// A vCPU that the current thread is about to run, with its registered `immediate_exit` byte.
#[derive(Debug)]
pub(crate) struct Kickable {
    vcpu: VcpuFd,
    /// The registration is per thread, so the value must not be sent to another.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Kickable {
    /// Registers the vCPU for the current thread.
    pub(crate) fn new(mut vcpu: VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        Self { vcpu, _not_send: std::marker::PhantomData }
    }

    /// The kicker of the current thread, for other threads.
    pub(crate) fn kicker() -> Kicker {
        // SAFETY: gettid has no arguments and cannot fail.
        Kicker { tid: unsafe { libc::gettid() } }
    }

    /// The vCPU.
    pub(crate) fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        // Before the field drops, which unmaps kvm_run.
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
