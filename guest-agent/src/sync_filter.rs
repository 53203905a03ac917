//! The system-call filter under which build scripts run: calls that wait for disks
//! succeed at once. Scripts of package managers sync after every file, while the host
//! brings all disks to rest itself before it keeps or writes them.
//!
//! The filter is classic BPF, as seccomp(2) takes it. It is written here rather than by
//! `seccompiler`, whose filters end a process that makes a call of another architecture:
//! 32-bit programs must go on to work in a guest, and merely sync as ever.

use libc::{c_long, sock_filter};

/// Where the number of the call lies in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
/// Where the architecture of the call lies in `struct seccomp_data`.
const OFFSET_ARCHITECTURE: u32 = 4;

/// The architecture of this program's own calls, as linux/audit.h has it.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xc000_00f3;

/// The calls that wait until data has reached a disk.
const CALLS: [c_long; 6] = [
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_msync,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
];

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Length of the filter: two loads, a jump for the architecture and one for each call,
/// and two results.
const LENGTH: usize = CALLS.len() + 5;

/// The filter, ready for `PR_SET_SECCOMP`.
pub(crate) static FILTER: [sock_filter; LENGTH] = filter();

#[expect(clippy::cast_possible_truncation, reason = "codes and distances are below 256")]
#[expect(clippy::cast_sign_loss, reason = "numbers of calls are not negative")]
const fn filter() -> [sock_filter; LENGTH] {
    const ALLOW: usize = LENGTH - 2;
    const SUCCEED: usize = LENGTH - 1;
    const fn instruction(code: u32, jt: usize, jf: usize, k: u32) -> sock_filter {
        sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k }
    }
    let mut filter = [instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW); LENGTH];
    filter[0] = instruction(LOAD_WORD, 0, 0, OFFSET_ARCHITECTURE);
    filter[1] = instruction(JUMP_EQUAL, 0, ALLOW - 2, ARCHITECTURE);
    filter[2] = instruction(LOAD_WORD, 0, 0, OFFSET_NUMBER);
    let mut index = 0;
    while index < CALLS.len() {
        let at = 3 + index;
        filter[at] = instruction(JUMP_EQUAL, SUCCEED - at - 1, 0, CALLS[index] as u32);
        index += 1;
    }
    // An error of number zero is what a caller sees as success.
    filter[SUCCEED] = instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO);
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says of a call, by running it as the kernel would.
    fn verdict(architecture: u32, number: c_long) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let instruction = FILTER[at];
            match u32::from(instruction.code) {
                LOAD_WORD if instruction.k == OFFSET_ARCHITECTURE => loaded = architecture,
                LOAD_WORD => loaded = u32::try_from(number).unwrap(),
                JUMP_EQUAL if loaded == instruction.k => at += usize::from(instruction.jt),
                JUMP_EQUAL => at += usize::from(instruction.jf),
                RETURN => return instruction.k,
                other => panic!("instruction {other:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn calls_that_wait_for_disks_succeed_and_no_others_are_touched() {
        for call in CALLS {
            assert_eq!(verdict(ARCHITECTURE, call), libc::SECCOMP_RET_ERRNO, "{call}");
            assert_eq!(verdict(0x4000_0003, call), libc::SECCOMP_RET_ALLOW, "{call} of i386");
        }
        let others = (0..600).filter(|call| !CALLS.contains(call));
        for call in others {
            assert_eq!(verdict(ARCHITECTURE, call), libc::SECCOMP_RET_ALLOW, "{call}");
        }
    }
}
