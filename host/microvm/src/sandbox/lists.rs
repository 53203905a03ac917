//! The system calls of each kind of thread.

use super::Kind;

/// Calls of every thread: allocation, locks, waiting, signals, exit.
pub(super) const EVERY_THREAD: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// File operations of a disk.
const DISK: &[i64] = &[
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
];

/// Calls that transfer messages and streams.
const SOCKETS: &[i64] = &[
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
];

/// Calls of the mux on its streams.
const STREAMS: &[i64] = &[
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
];

/// Calls at the start of a thread to which the list is applied later; the thread also reads its
/// stack limit, see [`super::own_limits`].
const BEGINNING: &[i64] = &[libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_getaffinity];

/// Calls with which the vhost-user library accepts its one connection and maps the guest's memory.
const VHOST: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_getrandom,
    libc::SYS_eventfd2,
];

/// The permitted system calls of a kind of thread, apart from those with conditions.
pub(super) fn calls(kind: Kind) -> Vec<i64> {
    let own: &[&[i64]] = match kind {
        Kind::Main => &[SOCKETS, &[libc::SYS_fstat, libc::SYS_statx]],
        Kind::MainToSave => {
            &[SOCKETS, &[libc::SYS_fstat, libc::SYS_statx, libc::SYS_ftruncate, libc::SYS_pwrite64]]
        }
        Kind::Vcpu | Kind::VcpuToSave | Kind::Balloon => &[],
        // A new layer's tables are hash maps, which need a random seed.
        Kind::Block => &[DISK, &[libc::SYS_getrandom]],
        Kind::Vsock => &[SOCKETS, STREAMS],
        Kind::Vhost => &[SOCKETS, STREAMS, BEGINNING, VHOST],
        Kind::Rng => &[&[libc::SYS_getrandom]],
        // Its tables are hash maps, which need a random seed.
        Kind::Nic => &[SOCKETS, &[libc::SYS_getrandom]],
    };
    EVERY_THREAD.iter().chain(own.iter().copied().flatten()).copied().collect()
}

/// The permitted ioctls of a kind of thread.
pub(super) fn ioctls(kind: Kind) -> &'static [u64] {
    const KVM_RUN: u64 = 0xae80;
    /// Reads the registers of a failed vCPU.
    const KVM_GET_REGS: u64 = 0x8090_ae81;
    const KVM_TRANSLATE: u64 = 0xc018_ae85;
    /// Reads the state of a stopped vCPU.
    const KVM_GET_MP_STATE: u64 = 0x8004_ae98;
    const KVM_GET_MSRS: u64 = 0xc008_ae88;
    const KVM_GET_SREGS: u64 = 0x8138_ae83;
    const KVM_GET_XCRS: u64 = 0x8188_aea6;
    const KVM_GET_XSAVE: u64 = 0x9000_aea4;
    const KVM_GET_DEBUGREGS: u64 = 0x8080_aea1;
    const KVM_GET_LAPIC: u64 = 0x8400_ae8e;
    const KVM_GET_VCPU_EVENTS: u64 = 0x8040_ae9f;
    /// Reads the state of a stopped machine.
    const KVM_GET_IRQCHIP: u64 = 0xc208_ae62;
    const KVM_GET_CLOCK: u64 = 0x8030_ae7c;
    /// Makes a stream non-blocking, as the standard library does.
    const FIONBIO: u64 = 0x5421;
    match kind {
        Kind::Vcpu => &[KVM_RUN, KVM_GET_REGS, KVM_TRANSLATE],
        Kind::VcpuToSave => &[
            KVM_RUN,
            KVM_GET_REGS,
            KVM_TRANSLATE,
            KVM_GET_MP_STATE,
            KVM_GET_MSRS,
            KVM_GET_SREGS,
            KVM_GET_XCRS,
            KVM_GET_XSAVE,
            KVM_GET_DEBUGREGS,
            KVM_GET_LAPIC,
            KVM_GET_VCPU_EVENTS,
        ],
        Kind::MainToSave => &[KVM_GET_IRQCHIP, KVM_GET_CLOCK],
        Kind::Vsock | Kind::Vhost | Kind::Nic => &[FIONBIO],
        Kind::Main | Kind::Block | Kind::Rng | Kind::Balloon => &[],
    }
}
