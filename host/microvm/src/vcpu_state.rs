//! The state of a stopped virtual CPU, to be saved and restored.
//!
//! The order of the calls matters (KVM's documentation says little of it, its code does):
//!
//! - `KVM_GET_MP_STATE` accepts pending start-up events, so it comes first when reading.
//! - `KVM_SET_SREGS` has the address and mode of the LAPIC, so it precedes the LAPIC.
//! - The TSC deadline needs a LAPIC in deadline mode and the right TSC, so it follows both.
//! - `KVM_SET_REGS` drops a pending exception, so the events come after it, and last.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use crate::bounded::at_most;

/// The time stamp counter.
const MSR_TSC: u32 = 0x10;
/// The time at which the LAPIC's timer fires.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// The registers of Hyper-V's interface, which the guest is not offered. KVM lists them, and some
/// differ at each read.
const HYPERV: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_01ff;
/// Memory types, which KVM does not list: eight variable ranges, fixed ranges, the default.
const MEMORY_TYPES: [std::ops::RangeInclusive<u32>; 5] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x2ff..=0x2ff];
/// MSRs of one call; KVM takes at most 256.
const MSRS_PER_CALL: usize = 128;
/// Maximum MSRs of a saved CPU; KVM lists some 200.
const MSRS_MAX: usize = 1024;
/// A TSC further away than the second within which KVM takes a write for a synchronisation with
/// the last one, whatever the frequency.
const FAR: u64 = 1 << 42;

/// Errors of reading or restoring a CPU.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VcpuStateError {
    /// An ioctl failed.
    #[error("{action} failed")]
    Ioctl {
        /// The ioctl.
        action: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The processor does not stop.
    #[error("the processor does not stop")]
    Running,
    /// KVM refused an MSR.
    #[error("KVM refused to set MSR {0:#x}")]
    Msr(u32),
    /// The saved state has an MSR that this KVM does not list.
    #[error("the saved processor has MSRs that this KVM does not know")]
    UnknownMsr,
}

fn ioctl(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VcpuStateError {
    move |e| VcpuStateError::Ioctl { action, source: e.into() }
}

/// The MSRs that make up the state of a CPU of this KVM, except for the TSC and its deadline.
pub(crate) fn listed_msrs(kvm: &Kvm) -> Result<Vec<u32>, VcpuStateError> {
    let list = kvm.get_msr_index_list().map_err(ioctl("KVM_GET_MSR_INDEX_LIST"))?;
    let apart =
        |index: &u32| *index == MSR_TSC || *index == MSR_TSC_DEADLINE || HYPERV.contains(index);
    let listed = list.as_slice().iter().copied().filter(|index| !apart(index));
    let mut msrs: Vec<u32> = listed.chain(MEMORY_TYPES.into_iter().flatten()).collect();
    msrs.sort_unstable();
    msrs.dedup();
    Ok(msrs)
}

/// The state of a CPU. Its CPUID is not part of it: that is the same for the same KVM.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
pub(crate) struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// Pairs of index and value.
    #[serde(deserialize_with = "at_most::<_, _, MSRS_MAX>")]
    msrs: Vec<(u32, u64)>,
    tsc: u64,
    tsc_deadline: u64,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// Reads the state of a CPU that has left `KVM_RUN` with nothing pending, while no other CPU
    /// runs.
    pub(crate) fn read(vcpu: &VcpuFd, listed: &[u32]) -> Result<Self, VcpuStateError> {
        let mp_state = vcpu.get_mp_state().map_err(ioctl("KVM_GET_MP_STATE"))?;
        let mut own = [MSR_TSC, MSR_TSC_DEADLINE].map(|index| (index, 0));
        for (index, value) in &mut own {
            // A processor without the deadline timer has no deadline.
            *value = read_msrs(vcpu, &[*index])?.first().map_or(0, |(_, value)| *value);
        }
        let [(_, tsc), (_, tsc_deadline)] = own;
        Ok(Self {
            mp_state,
            regs: vcpu.get_regs().map_err(ioctl("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?,
            xcrs: vcpu.get_xcrs().map_err(ioctl("KVM_GET_XCRS"))?,
            xsave: vcpu.get_xsave().map_err(ioctl("KVM_GET_XSAVE"))?,
            debug: vcpu.get_debug_regs().map_err(ioctl("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.get_lapic().map_err(ioctl("KVM_GET_LAPIC"))?,
            msrs: read_msrs(vcpu, listed)?,
            tsc,
            tsc_deadline,
            events: vcpu.get_vcpu_events().map_err(ioctl("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Restores the state in a CPU that has its CPUID and has not run, except for the time.
    fn restore(&self, vcpu: &VcpuFd, listed: &[u32]) -> Result<(), VcpuStateError> {
        vcpu.set_sregs(&self.sregs).map_err(ioctl("KVM_SET_SREGS"))?;
        if self.xcrs.nr_xcrs != 0 {
            // A processor without XSAVE has none.
            vcpu.set_xcrs(&self.xcrs).map_err(ioctl("KVM_SET_XCRS"))?;
        }
        // SAFETY: KVM reads as many bytes as the guest's permitted features take, which is the
        // size of the structure unless the process has asked for more of them (AMX) by
        // arch_prctl; this one never does, and its sandbox forbids it.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(ioctl("KVM_SET_XSAVE"))?;
        vcpu.set_debug_regs(&self.debug).map_err(ioctl("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&self.lapic).map_err(ioctl("KVM_SET_LAPIC"))?;
        self.set_msrs(vcpu, listed)?;
        vcpu.set_regs(&self.regs).map_err(ioctl("KVM_SET_REGS"))?;
        vcpu.set_vcpu_events(&self.events).map_err(ioctl("KVM_SET_VCPU_EVENTS"))?;
        vcpu.set_mp_state(self.mp_state).map_err(ioctl("KVM_SET_MP_STATE"))
    }

    /// Sets the MSRs that differ. Those that cannot be set have the same value in every CPU.
    fn set_msrs(&self, vcpu: &VcpuFd, listed: &[u32]) -> Result<(), VcpuStateError> {
        let known = |(index, _): &(u32, u64)| listed.binary_search(index).is_ok();
        if !self.msrs.iter().all(known) {
            return Err(VcpuStateError::UnknownMsr);
        }
        let now = read_msrs(vcpu, listed)?;
        let differs = |msr: &&(u32, u64)| !now.contains(msr);
        let changed: Vec<(u32, u64)> = self.msrs.iter().filter(differs).copied().collect();
        write_msrs(vcpu, &changed)
    }
}

/// Restores the states in CPUs that have their CPUIDs and have not run.
pub(crate) fn restore(
    vcpus: &[VcpuFd],
    states: &[VcpuState],
    listed: &[u32],
) -> Result<(), VcpuStateError> {
    for (vcpu, state) in vcpus.iter().zip(states) {
        state.restore(vcpu, listed)?;
    }
    // The counters of all CPUs are equal and do not go back. KVM takes a value within a second of
    // what it expects for a synchronisation with the last write, and ignores the difference: hence
    // the first write is far from what any counter is, and the others follow it at once.
    let tsc = states.iter().map(|state| state.tsc).max().unwrap_or(0);
    if let Some(first) = vcpus.first() {
        write_msrs(first, &[(MSR_TSC, tsc.wrapping_add(FAR))])?;
    }
    for vcpu in vcpus {
        write_msrs(vcpu, &[(MSR_TSC, tsc)])?;
    }
    for (vcpu, state) in vcpus.iter().zip(states).filter(|(_, state)| state.tsc_deadline != 0) {
        write_msrs(vcpu, &[(MSR_TSC_DEADLINE, state.tsc_deadline)])?;
    }
    Ok(())
}

fn msrs(entries: impl Iterator<Item = (u32, u64)>) -> Result<Msrs, VcpuStateError> {
    let entries: Vec<_> =
        entries.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    Msrs::from_entries(&entries).map_err(|_| VcpuStateError::UnknownMsr)
}

/// Reads those of the MSRs that can be read.
fn read_msrs(vcpu: &VcpuFd, mut indices: &[u32]) -> Result<Vec<(u32, u64)>, VcpuStateError> {
    let mut found = Vec::new();
    while !indices.is_empty() {
        let call = &indices[..indices.len().min(MSRS_PER_CALL)];
        let mut values = msrs(call.iter().map(|index| (*index, 0)))?;
        let read = vcpu.get_msrs(&mut values).map_err(ioctl("KVM_GET_MSRS"))?.min(call.len());
        let values = values.as_slice().iter().take(read);
        found.extend(values.map(|entry| (entry.index, entry.data)));
        // KVM stops at one that cannot be read.
        let done = if read < call.len() { read + 1 } else { read };
        indices = &indices[done..];
    }
    Ok(found)
}

/// Sets MSRs in their order.
fn write_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), VcpuStateError> {
    for call in values.chunks(MSRS_PER_CALL) {
        let set = vcpu.set_msrs(&msrs(call.iter().copied())?).map_err(ioctl("KVM_SET_MSRS"))?;
        if let Some((refused, _)) = call.get(set) {
            return Err(VcpuStateError::Msr(*refused));
        }
    }
    Ok(())
}
