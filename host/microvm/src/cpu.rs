//! The initial state of each virtual CPU: CPUID with the topology of N single-threaded cores in one
//! package, the few MSRs that firmware would have set, and the registers of the first CPU.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_fpu, kvm_msr_entry, kvm_regs,
};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::{
    boot::Entry,
    layout::{BOOT_PARAMS, GDT, IDT, PVH_START_INFO},
    long_mode,
};

/// Errors of setting up a CPU.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CpuError {
    /// An ioctl failed.
    #[error("{action} failed")]
    Ioctl {
        /// The ioctl.
        action: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// KVM refused an MSR.
    #[error("KVM refused to set MSR {0:#x}")]
    Msr(u32),
}

fn ioctl(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> CpuError {
    move |e| CpuError::Ioctl { action, source: e.into() }
}

/// The CPUID that this KVM supports, with the VMM's additions; the same for all CPUs until
/// [`for_vcpu`].
pub(crate) fn supported(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, CpuError> {
    let cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(ioctl("KVM_GET_SUPPORTED_CPUID"))?;
    Ok(cpuid.as_slice().to_vec())
}

/// The number of APIC id bits for the core; the package id is above them.
fn core_bits(vcpus: u8) -> u32 {
    u32::from(vcpus).next_power_of_two().trailing_zeros()
}

/// The CPUID of one CPU.
///
/// Linux reads the topology from leaf 0xb if present, otherwise from leaf 4 (Intel) or leaves
/// 0x80000008 and 0x8000001e (AMD); all must be consistent.
pub(crate) fn for_vcpu(supported: &[kvm_cpuid_entry2], id: u8, vcpus: u8) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> =
        supported.iter().filter(|entry| !is_topology(entry.function)).copied().collect();
    for entry in &mut entries {
        adjust(entry, id, vcpus);
    }
    let has_extended_topology = supported.iter().any(|entry| entry.function == LEAF_TOPOLOGY);
    if has_extended_topology {
        entries.extend(topology_leaf(id, vcpus));
    }
    entries
}

const LEAF_FEATURES: u32 = 1;
const LEAF_CACHES: u32 = 4;
const LEAF_PERFORMANCE: u32 = 0xa;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_FEATURES: u32 = 0x8000_0001;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_CACHES: u32 = 0x8000_001d;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

fn is_topology(function: u32) -> bool {
    function == LEAF_TOPOLOGY || function == LEAF_TOPOLOGY_V2
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u8, vcpus: u8) {
    /// Leaf 1 ECX: the TSC deadline timer, which KVM emulates on all hosts.
    const TSC_DEADLINE: u32 = 1 << 24;
    /// Leaf 1 ECX: a hypervisor is present.
    const HYPERVISOR: u32 = 1 << 31;
    /// Leaf 1 EDX: the package has several logical CPUs.
    const HTT: u32 = 1 << 28;
    /// Leaf 0x80000001 ECX: legacy multi-core; the topology leaves are valid.
    const CMP_LEGACY: u32 = 1 << 1;
    let (apic_id, count) = (u32::from(id), u32::from(vcpus));
    let several = vcpus > 1;
    match entry.function {
        LEAF_FEATURES => {
            entry.ecx |= TSC_DEADLINE | HYPERVISOR;
            entry.edx = entry.edx & !HTT | if several { HTT } else { 0 };
            entry.ebx = entry.ebx & 0xffff | count << 16 | apic_id << 24;
        }
        LEAF_CACHES if entry.eax & 0x1f != 0 => {
            // Bits 14 to 25: number of CPUs that share this cache, minus one. The package shares
            // the last level; others are private.
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            let cores = (1 << core_bits(vcpus)) - 1;
            entry.eax = entry.eax & 0x3fff | sharing << 14 | cores << 26;
        }
        LEAF_PERFORMANCE => {
            // No performance counters: their MSRs would cost exits, and no build needs them.
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        LEAF_AMD_FEATURES => {
            entry.ecx = entry.ecx & !CMP_LEGACY | if several { CMP_LEGACY } else { 0 };
        }
        LEAF_AMD_SIZES => {
            entry.ecx = entry.ecx & !0xf0ff | core_bits(vcpus) << 12 | (count - 1);
        }
        LEAF_AMD_CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        LEAF_AMD_TOPOLOGY => {
            entry.eax = apic_id;
            entry.ebx = apic_id; // core id; one thread per core
            entry.ecx = 0; // node 0, one node
        }
        _ => {}
    }
}

/// Leaf 0xb: one thread per core, `vcpus` cores, then the end of the list.
fn topology_leaf(id: u8, vcpus: u8) -> Vec<kvm_cpuid_entry2> {
    const KVM_CPUID_FLAG_SIGNIFICANT_INDEX: u32 = 1;
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: LEAF_TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFICANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: u32::from(id),
        ..Default::default()
    };
    vec![
        level(0, 0, 1, LEVEL_THREAD),
        level(1, core_bits(vcpus), u32::from(vcpus), LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

/// Sets CPUID, MSRs and FPU of a CPU; of the first one also its registers. KVM lets the others wait
/// for the kernel's start-up interrupts.
pub(crate) fn set_up(
    vcpu: &VcpuFd,
    cpuid: &[kvm_cpuid_entry2],
    entry: Option<Entry>,
) -> Result<(), CpuError> {
    let cpuid = CpuId::from_entries(cpuid).map_err(|_| CpuError::Ioctl {
        action: "KVM_SET_CPUID2",
        source: std::io::ErrorKind::InvalidInput.into(),
    })?;
    vcpu.set_cpuid2(&cpuid).map_err(ioctl("KVM_SET_CPUID2"))?;
    set_msrs(vcpu)?;
    if let Some(entry) = entry {
        /// The x87 control word and MXCSR after `finit`: all exceptions masked.
        const FPU: kvm_fpu = kvm_fpu {
            fcw: 0x37f,
            mxcsr: 0x1f80,
            fpr: [[0; 16]; 8],
            fsw: 0,
            ftwx: 0,
            pad1: 0,
            last_opcode: 0,
            last_ip: 0,
            last_dp: 0,
            xmm: [[0; 16]; 16],
            pad2: 0,
        };
        vcpu.set_fpu(&FPU).map_err(ioctl("KVM_SET_FPU"))?;
        set_registers(vcpu, entry)?;
    }
    Ok(())
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), CpuError> {
    /// MTRRs enabled, default type write-back.
    const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);
    /// Fast string operations.
    const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
    for (index, data) in [MTRR_DEF_TYPE, MISC_ENABLE] {
        let msrs = Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }])
            .map_err(|_| CpuError::Msr(index))?;
        match vcpu.set_msrs(&msrs).map_err(ioctl("KVM_SET_MSRS"))? {
            1 => {}
            _ => return Err(CpuError::Msr(index)),
        }
    }
    Ok(())
}

fn set_registers(vcpu: &VcpuFd, entry: Entry) -> Result<(), CpuError> {
    /// Reserved bit 1, which is always set; interrupts off.
    const RFLAGS: u64 = 2;
    let mut sregs = vcpu.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    let regs = match entry {
        Entry::Linux64 { rip } => {
            long_mode::enter(&mut sregs);
            kvm_regs { rip, rsi: BOOT_PARAMS, rflags: RFLAGS, ..Default::default() }
        }
        Entry::Pvh { rip } => {
            long_mode::enter_protected(&mut sregs);
            kvm_regs { rip, rbx: PVH_START_INFO, rflags: RFLAGS, ..Default::default() }
        }
    };
    sregs.gdt.base = GDT;
    sregs.idt.base = IDT;
    vcpu.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))?;
    vcpu.set_regs(&regs).map_err(ioctl("KVM_SET_REGS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        let mut caches: Vec<_> = (1..=3).map(|i| leaf(LEAF_CACHES, i)).collect();
        for (level, cache) in (1..).zip(&mut caches) {
            cache.eax = level << 5 | 1 | 0xfff << 14;
        }
        let mut all = vec![leaf(1, 0), leaf(0xa, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0x1f, 0)];
        all[0].ebx = 0xffff_0800;
        all[1].eax = 4;
        all.extend(caches);
        all.extend([leaf(LEAF_AMD_SIZES, 0), leaf(LEAF_AMD_TOPOLOGY, 0)]);
        all
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries.iter().find(|e| (e.function, e.index) == (function, index)).unwrap()
    }

    #[test]
    fn each_processor_knows_its_place() {
        let entries = for_vcpu(&host(), 2, 6);
        let features = find(&entries, 1, 0);
        assert_eq!(features.ebx, 2 << 24 | 6 << 16 | 0x800);
        assert_eq!(features.ecx, 1 << 24 | 1 << 31);
        assert_eq!(features.edx, 1 << 28);
        let core = find(&entries, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 2));
        assert_eq!(find(&entries, 0xb, 0).eax, 0);
        assert!(entries.iter().all(|e| e.function != 0x1f));
        assert_eq!(find(&entries, 4, 1).eax >> 14 & 0xfff, 0);
        assert_eq!(find(&entries, 4, 3).eax >> 14 & 0xfff, 5);
        assert_eq!(find(&entries, 4, 3).eax >> 26, 7);
        assert_eq!(find(&entries, LEAF_AMD_SIZES, 0).ecx, 3 << 12 | 5);
        assert_eq!(find(&entries, LEAF_AMD_TOPOLOGY, 0).eax, 2);
        assert_eq!(find(&entries, 0xa, 0).eax, 0);
    }

    #[test]
    fn a_single_processor_is_no_multiprocessor() {
        let entries = for_vcpu(&host(), 0, 1);
        assert_eq!(find(&entries, 1, 0).edx, 0);
        assert_eq!(find(&entries, 0xb, 1).eax, 0);
        assert_eq!(find(&entries, LEAF_AMD_SIZES, 0).ecx, 0);
    }
}
