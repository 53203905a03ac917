//! The probe's guest code: a few hundred bytes of 64-bit code.
//!
//! It is entered at [`CODE`] in long mode with interrupts disabled. Before each step it writes the
//! step number to [`PROGRESS_PORT`], and it ends with `hlt`. An instruction that this KVM cannot
//! execute ends it earlier: with an internal error of KVM, or with a triple fault, because its IDT
//! has only the breakpoint gate.

use std::{arch::global_asm, slice};

/// Guest address of the code.
pub(super) const CODE: u64 = 0x1_0000;
/// Top of the stack, which grows down.
pub(super) const STACK: u64 = 0x2_0000;
/// The probe's IDT: four gates, of which only the breakpoint's is present.
pub(super) const IDT_TABLE: u64 = 0x3_2000;
/// Offset of the IDT's last byte.
pub(super) const IDT_LIMIT: u16 = 4 * 16 - 1;
/// The port to which the guest writes step numbers.
pub(super) const PROGRESS_PORT: u16 = 0xf4;
/// The step number that reports a wrong result.
pub(super) const STEP_WRONG: u8 = 0xff;
/// The step number after the last one.
pub(super) const STEP_DONE: u8 = 9;

/// The instructions of each step, for messages; index = step number.
pub(super) const STEPS: [&str; 9] = [
    "",
    "entry into 64-bit mode",
    "lock cmpxchg16b",
    "xgetbv, xsetbv, xsave",
    "xrstor",
    "int3 through the IDT, iretq",
    "wrmsr KERNEL_GS_BASE, swapgs",
    "rep movsq, lock xadd, lock bts, popcnt",
    "locked write to a mapped page, invlpg, CR3 reload",
];

/// Iterations of the speed loop: about 0.05 ms on hardware, 60 ms on a KVM that emulates each
/// instruction.
pub(super) const SPEED_ITERATIONS: u32 = 100_000;

global_asm!(
    ".pushsection .rodata.vbuild_probe, \"a\"",
    ".balign 16",
    ".globl vbuild_probe_steps",
    ".hidden vbuild_probe_steps",
    "vbuild_probe_steps:",
    "mov al, 1",
    "out 0xf4, al",
    // 2: memory is zero, so rdx:rax = 0 matches and 1 is stored.
    "mov al, 2",
    "out 0xf4, al",
    "mov edi, 0x30000",
    "xor eax, eax",
    "xor edx, edx",
    "xor ecx, ecx",
    "mov ebx, 1",
    "lock cmpxchg16b [rdi]",
    "jnz 9f",
    "cmp qword ptr [rdi], 1",
    "jne 9f",
    // 3 and 4 only if CR4.OSXSAVE could be set: a CPU model without XSAVE is not a fault of this
    // KVM, and Linux supports it.
    "mov rax, cr4",
    "bt eax, 18",
    "jnc 5f",
    "mov al, 3",
    "out 0xf4, al",
    "xor ecx, ecx",
    "xgetbv",
    "xsetbv",
    "mov edi, 0x31000",
    "xsave [rdi]",
    // 4
    "mov al, 4",
    "out 0xf4, al",
    "xor ecx, ecx",
    "xgetbv",
    "xrstor [rdi]",
    // 5: the handler increments a counter.
    "5: mov al, 5",
    "out 0xf4, al",
    "int3",
    "mov edi, 0x30100",
    "cmp qword ptr [rdi], 1",
    "jne 9f",
    // 6
    "mov al, 6",
    "out 0xf4, al",
    "mov ecx, 0xc0000102",
    "mov eax, 0x30000",
    "xor edx, edx",
    "wrmsr",
    "swapgs",
    "cmp qword ptr gs:[0], 1",
    "jne 9f",
    "swapgs",
    // 7
    "mov al, 7",
    "out 0xf4, al",
    "cld",
    "mov esi, 0x30000",
    "mov edi, 0x30200",
    "mov ecx, 2",
    "rep movsq",
    "mov edi, 0x30200",
    "mov eax, 2",
    "lock xadd [rdi], rax",
    "cmp rax, 1",
    "jne 9f",
    "lock bts qword ptr [rdi], 4",
    "jc 9f",
    "popcnt rax, qword ptr [rdi]",
    "cmp rax, 3",
    "jne 9f",
    // 8
    "mov al, 8",
    "out 0xf4, al",
    "mov edi, 0x1ff000",
    "lock or qword ptr [rdi], 1",
    "invlpg [rdi]",
    "mov rax, cr3",
    "mov cr3, rax",
    "cmp qword ptr [rdi], 1",
    "jne 9f",
    "mov al, 9",
    "out 0xf4, al",
    "hlt",
    "9: mov al, 0xff",
    "out 0xf4, al",
    "hlt",
    ".balign 16",
    ".globl vbuild_probe_breakpoint",
    ".hidden vbuild_probe_breakpoint",
    "vbuild_probe_breakpoint:",
    "inc qword ptr [0x30100]",
    "iretq",
    ".globl vbuild_probe_steps_end",
    ".hidden vbuild_probe_steps_end",
    "vbuild_probe_steps_end:",
    ".balign 16",
    ".globl vbuild_probe_speed",
    ".hidden vbuild_probe_speed",
    "vbuild_probe_speed:",
    "mov ecx, {iterations}",
    "2: dec ecx",
    "jnz 2b",
    "hlt",
    ".globl vbuild_probe_speed_end",
    ".hidden vbuild_probe_speed_end",
    "vbuild_probe_speed_end:",
    ".popsection",
    iterations = const SPEED_ITERATIONS,
);

// SAFETY: the symbols are defined above, in a read-only section; only their
// addresses are used here.
unsafe extern "C" {
    #[link_name = "vbuild_probe_steps"]
    static STEPS_START: u8;
    #[link_name = "vbuild_probe_breakpoint"]
    static BREAKPOINT: u8;
    #[link_name = "vbuild_probe_steps_end"]
    static STEPS_END: u8;
    #[link_name = "vbuild_probe_speed"]
    static SPEED_START: u8;
    #[link_name = "vbuild_probe_speed_end"]
    static SPEED_END: u8;
}

fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    let len = end.addr() - start.addr();
    // SAFETY: both symbols lie in the same read-only section, end after start,
    // and everything between them is bytes of assembled code.
    unsafe { slice::from_raw_parts(start, len) }
}

/// The code of the steps, and the address of its breakpoint handler.
pub(super) fn steps() -> (&'static [u8], u64) {
    let start = &raw const STEPS_START;
    let code = between(start, &raw const STEPS_END);
    let handler = (&raw const BREAKPOINT).addr() - start.addr();
    (code, CODE + handler as u64)
}

/// The speed loop.
pub(super) fn speed() -> &'static [u8] {
    between(&raw const SPEED_START, &raw const SPEED_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_fits_below_its_stack_and_holds_the_instruction_under_test() {
        let (code, handler) = steps();
        assert!(code.len() < usize::try_from(STACK - CODE).unwrap() / 2);
        assert!((CODE..CODE + code.len() as u64).contains(&handler));
        let cmpxchg16b = [0xf0, 0x48, 0x0f, 0xc7, 0x0f];
        assert!(code.windows(5).any(|w| w == cmpxchg16b));
        assert_eq!(speed().last(), Some(&0xf4));
    }
}
