//! A stopped machine as two files: its memory, sparse, and the state of everything else.
//!
//! ```text
//!  memory   RAM below the gap, RAM above it; pages of zeros are holes
//!  state    JSON: version, shape, CPUs, interrupt controllers, clock, console, register files
//! ```
//!
//! The files are those of the same program on the same host since its boot
//! ([`machine::Backend::saving_identity`]), so the version only guards against mistakes. Nothing
//! in them is believed: sizes and types are checked here and in [`TransportState`], values of
//! processors by KVM.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
};

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::{
    bounded::at_most,
    devices::{
        mmio::state::{TransportError, TransportState},
        serial::ConsoleState,
    },
    vcpu_state::{VcpuState, VcpuStateError},
};

/// Version of the format; raised with every change of it.
const VERSION: u32 = 1;
/// Maximum size of a state. A processor takes some 30 KiB, and there are at most 16.
const STATE_MAX_BYTES: u64 = 4 << 20;
/// Maximum CPUs and devices in a state: more than any machine has.
const VCPUS_MAX: usize = 32;
const SLOTS_MAX: usize = 32;
/// The unit in which memory is read.
const MEMORY_CHUNK_BYTES: usize = 1 << 20;
/// The unit in which memory is kept.
const PAGE: usize = 4096;
/// The interrupt controllers of a machine that are not part of a processor.
const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// Errors of saving and restoring.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavingError {
    /// An ioctl failed.
    #[error("{action} failed")]
    Ioctl {
        /// The ioctl.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A processor cannot be read or restored.
    #[error("processor {index}: {source}")]
    Vcpu {
        /// The number of the processor.
        index: usize,
        /// The cause.
        #[source]
        source: VcpuStateError,
    },
    /// The processors cannot be restored.
    #[error(transparent)]
    Vcpus(#[from] VcpuStateError),
    /// A device cannot be restored.
    #[error("the device in slot {slot} cannot be restored: {source}")]
    Device {
        /// The slot.
        slot: usize,
        /// The cause.
        #[source]
        source: TransportError,
    },
    /// The machine was not started to be saved, or has ended.
    #[error("the machine cannot be saved: {0}")]
    NotNow(&'static str),
    /// The machine of the state has another shape than that of its specification.
    #[error("the saved machine has {0}")]
    Shape(String),
    /// The state is not one.
    #[error("the saved state cannot be read: {0}")]
    Malformed(String),
    /// The machine's memory cannot be read.
    #[error("guest memory cannot be read")]
    Memory(#[from] GuestMemoryError),
    /// A file cannot be read or written.
    #[error("failed to {action}")]
    File {
        /// The action.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn ioctl(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> SavingError {
    move |e| SavingError::Ioctl { action, source: e.into() }
}

fn file_error(action: &'static str) -> impl FnOnce(io::Error) -> SavingError {
    move |source| SavingError::File { action, source }
}

/// The state of a machine apart from its memory.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineState {
    version: u32,
    memory_bytes: u64,
    #[serde(deserialize_with = "at_most::<_, _, VCPUS_MAX>")]
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) chips: Chips,
    pub(crate) console: ConsoleState,
    #[serde(deserialize_with = "at_most::<_, _, SLOTS_MAX>")]
    pub(crate) slots: Vec<TransportState>,
}

impl MachineState {
    /// The state of a machine with this memory.
    pub(crate) fn new(
        memory: &GuestMemoryMmap,
        vcpus: Vec<VcpuState>,
        chips: Chips,
        console: ConsoleState,
        slots: Vec<TransportState>,
    ) -> Self {
        Self { version: VERSION, memory_bytes: bytes_of(memory), vcpus, chips, console, slots }
    }

    /// Checks that the state belongs to a machine of this shape.
    pub(crate) fn check_shape(
        &self,
        vcpus: u8,
        memory_bytes: u64,
        slots: usize,
    ) -> Result<(), SavingError> {
        let shape = (self.vcpus.len(), self.memory_bytes, self.slots.len());
        if shape == (usize::from(vcpus), memory_bytes, slots) {
            return Ok(());
        }
        let (vcpus, bytes, slots) = shape;
        let mib = bytes >> 20;
        Err(SavingError::Shape(format!("{vcpus} processors, {mib} MiB and {slots} devices")))
    }

    /// Writes the state into a file.
    pub(crate) fn write(&self, mut file: &File) -> Result<(), SavingError> {
        let written = serde_json::to_vec(self).map_err(io::Error::other).and_then(|text| {
            if text.len() as u64 > STATE_MAX_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            file.write_all(&text)
        });
        written.map_err(file_error("write the state"))
    }

    /// Reads a state from a file.
    pub(crate) fn read(file: &File) -> Result<Self, SavingError> {
        let mut text = Vec::new();
        let read = file.take(STATE_MAX_BYTES + 1).read_to_end(&mut text);
        read.map_err(file_error("read the state"))?;
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self, SavingError> {
        /// The part of a state that every version has.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let malformed = |error: serde_json::Error| SavingError::Malformed(error.to_string());
        if text.len() as u64 > STATE_MAX_BYTES {
            return Err(SavingError::Malformed("it is too long".to_owned()));
        }
        let Head { version } = serde_json::from_slice(text).map_err(malformed)?;
        if version != VERSION {
            return Err(SavingError::Malformed(format!("it has version {version}")));
        }
        serde_json::from_slice(text).map_err(malformed)
    }
}

/// The interrupt controllers and the clock of a machine.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
pub(crate) struct Chips {
    /// In the order of [`IRQCHIPS`].
    irqchips: [kvm_irqchip; IRQCHIPS.len()],
    /// Nanoseconds of the guest's KVM clock.
    clock: u64,
}

impl Chips {
    /// Reads them from a machine whose processors are stopped.
    pub(crate) fn read(vm: &VmFd) -> Result<Self, SavingError> {
        let mut irqchips = IRQCHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut irqchips {
            vm.get_irqchip(chip).map_err(ioctl("KVM_GET_IRQCHIP"))?;
        }
        let clock = vm.get_clock().map_err(ioctl("KVM_GET_CLOCK"))?.clock;
        Ok(Self { irqchips, clock })
    }

    /// Restores them. The processors must have their state, since the controllers pass pending
    /// interrupts on to them.
    pub(crate) fn restore(&self, vm: &VmFd) -> Result<(), SavingError> {
        for (chip, id) in self.irqchips.iter().zip(IRQCHIPS) {
            if chip.chip_id != id {
                return Err(SavingError::Malformed("another interrupt controller".to_owned()));
            }
            vm.set_irqchip(chip).map_err(ioctl("KVM_SET_IRQCHIP"))?;
        }
        // Without flags, the clock goes on where it was: for the guest no time has passed. The
        // agent sets the time of day.
        let clock = kvm_clock_data { clock: self.clock, ..Default::default() };
        vm.set_clock(&clock).map_err(ioctl("KVM_SET_CLOCK"))
    }
}

fn bytes_of(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().map(GuestMemoryRegion::len).sum()
}

/// Writes guest memory into an empty file: the regions one after the other, without pages of
/// zeros.
pub(crate) fn write_memory(memory: &GuestMemoryMmap, file: &File) -> Result<(), SavingError> {
    let failed = || file_error("write the memory");
    file.set_len(bytes_of(memory)).map_err(failed())?;
    let mut buffer = vec![0; MEMORY_CHUNK_BYTES];
    let mut region_offset = 0;
    for region in memory.iter() {
        for start in (0..region.len()).step_by(MEMORY_CHUNK_BYTES) {
            let len = usize::try_from(region.len() - start).unwrap_or(usize::MAX);
            let chunk = &mut buffer[..len.min(MEMORY_CHUNK_BYTES)];
            memory.read_slice(chunk, GuestAddress(region.start_addr().0 + start))?;
            let mut offset = region_offset + start;
            let mut rest: &[u8] = chunk;
            while !rest.is_empty() {
                let zero = is_zero(&rest[..rest.len().min(PAGE)]);
                let pages = rest.chunks(PAGE).take_while(|page| is_zero(page) == zero);
                let (run, behind) = rest.split_at(pages.map(<[u8]>::len).sum());
                if !zero {
                    file.write_all_at(run, offset).map_err(failed())?;
                }
                offset += run.len() as u64;
                rest = behind;
            }
        }
        region_offset += region.len();
    }
    Ok(())
}

/// Reads a state and restores its devices, for the fuzz target. Processors and interrupt
/// controllers are checked by KVM, which is not there.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(state) = MachineState::parse(bytes) else { return };
    let _ = state.check_shape(1, 1 << 20, 1);
    state.slots.iter().for_each(crate::devices::mmio::fuzz::restore);
}

fn is_zero(page: &[u8]) -> bool {
    const ZEROS: [u8; PAGE] = [0; PAGE];
    ZEROS.get(..page.len()) == Some(page)
}

#[cfg(test)]
mod tests;
