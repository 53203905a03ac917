//! A virtual CPU on its thread: run, handle the exit, run again.
//!
//! ```text
//!            ┌──────────── port or register access ◄────────────┐
//!            ▼                                                  │
//!  start ─► KVM_RUN ─► exit ─┬─ power-off, reset ─► End ◄─ fault, internal error
//!            ▲               │
//!            └── EINTR ◄─────┘ a kick: stop if told to
//! ```

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use machine::HaltReason;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    counters::{Counter, Counters},
    devices::{mmio::Transport, serial::Console, virtio::event},
    kick::Kickable,
    layout::{
        COM1, COM1_PORTS, MMIO_BASE, MMIO_SLOT_BYTES, RESET_PORT, RESET_VALUE, S5_TYPE,
        SLEEP_CONTROL_PORT,
    },
    probe::internal_error,
};

/// Code bytes shown for a failed instruction: the longest x86 instruction.
const CODE_BYTES: usize = 15;

/// The end of the machine; the first reason is kept.
#[derive(Debug)]
pub(crate) struct End {
    reason: Mutex<Option<HaltReason>>,
    stopping: AtomicBool,
    event: EventFd,
}

impl End {
    /// The state of a machine that has not ended.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { reason: Mutex::new(None), stopping: AtomicBool::new(false), event: event()? })
    }

    /// Ends the machine with this reason, unless it has ended already.
    pub(crate) fn because(&self, reason: HaltReason) {
        // No code panics while it holds the lock, so a poisoned one is still consistent.
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.stopping.store(true, Ordering::SeqCst);
        // Fails only if the count overflows; then the event is already signalled.
        let _ = self.event.write(1);
    }

    /// Ends the machine because a part of it failed; replaces any reason but an earlier failure:
    /// if a guest powered off normally but the last data of its disk was lost, the machine failed.
    pub(crate) fn failed(&self, text: String) {
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*reason, Some(HaltReason::Lost(_))) {
            *reason = Some(HaltReason::Lost(text));
        }
        drop(reason);
        self.stopping.store(true, Ordering::SeqCst);
        // Fails only if the count overflows; then the event is already signalled.
        let _ = self.event.write(1);
    }

    /// Lets the CPUs stop without an end, to be saved.
    pub(crate) fn pause(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// The reason of the end, if the machine has ended.
    pub(crate) fn reason(&self) -> Option<HaltReason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Readable once the machine has ended.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// The devices that CPUs access through ports and addresses.
#[derive(Debug)]
pub(crate) struct Bus {
    /// Guest RAM, to show the code of a failed instruction.
    pub(crate) memory: GuestMemoryMmap,
    /// The first serial port.
    pub(crate) console: Mutex<Console>,
    /// The virtio-mmio slots in order.
    pub(crate) slots: Vec<Mutex<Transport>>,
    /// Set by the console when the kernel panics.
    pub(crate) panicked: Arc<AtomicBool>,
    /// What is counted.
    pub(crate) counters: Arc<Counters>,
}

impl Bus {
    fn panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    fn reset_reason(&self) -> HaltReason {
        if self.panicked() { HaltReason::Panic } else { HaltReason::Reboot }
    }

    fn port_out(&self, port: u16, data: &[u8]) -> Option<HaltReason> {
        /// `SLP_EN` of the sleep control register; the type is in bits 2 to 4.
        const SLEEP_ENABLE: u8 = 1 << 5;
        if let Some(register) = com1_register(port) {
            self.console.lock().unwrap_or_else(PoisonError::into_inner).write(register, data);
            return None;
        }
        let value = data.first().copied().unwrap_or(0);
        match port {
            RESET_PORT if value == RESET_VALUE => Some(self.reset_reason()),
            SLEEP_CONTROL_PORT if value == SLEEP_ENABLE | S5_TYPE << 2 => {
                Some(HaltReason::PowerOff)
            }
            _ => None,
        }
    }

    fn port_in(&self, port: u16, data: &mut [u8]) {
        match com1_register(port) {
            Some(register) => {
                self.console.lock().unwrap_or_else(PoisonError::into_inner).read(register, data);
            }
            // No device: the bus floats. The sleep status register reads as 0.
            None if port == crate::layout::SLEEP_STATUS_PORT => data.fill(0),
            None => data.fill(0xff),
        }
    }

    fn slot(&self, address: u64) -> Option<(&Mutex<Transport>, u64)> {
        let offset = address.checked_sub(MMIO_BASE.into())?;
        let index = usize::try_from(offset / u64::from(MMIO_SLOT_BYTES)).ok()?;
        Some((self.slots.get(index)?, offset % u64::from(MMIO_SLOT_BYTES)))
    }

    fn read(&self, address: u64, data: &mut [u8]) {
        match self.slot(address) {
            Some((slot, offset)) => {
                slot.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        if let Some((slot, offset)) = self.slot(address) {
            slot.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }
}

fn com1_register(port: u16) -> Option<u8> {
    let register = port.checked_sub(COM1)?;
    u8::try_from(register).ok().filter(|_| register < COM1_PORTS)
}

/// The consequence of an exit.
enum Next {
    Run,
    /// As `Run`; the CPU has nothing pending.
    Interrupted,
    End(HaltReason),
    /// End the machine with this message, to which the location is added.
    Fault(String),
    InternalError,
}

/// Runs a vCPU until the machine ends or pauses.
pub(crate) fn run(vcpu: &mut Kickable, index: u8, bus: &Bus, end: &End) {
    while !end.stopping() {
        let next = step(vcpu.vcpu(), bus);
        let reason = match next {
            Next::Run | Next::Interrupted => continue,
            Next::End(reason) => reason,
            Next::Fault(what) => lost(vcpu.vcpu(), index, bus, &what),
            Next::InternalError => {
                let what = internal_error(vcpu.vcpu());
                lost(vcpu.vcpu(), index, bus, &what)
            }
        };
        end.because(reason);
    }
}

/// Lets KVM complete the last access of a stopped vCPU to a device: it reads the result only when
/// it is called again. Returns whether nothing is pending any more.
pub(crate) fn settle(vcpu: &mut VcpuFd, bus: &Bus) -> bool {
    /// An access of 64 bytes has eight parts, each with an exit.
    const STEPS_MAX: usize = 16;
    (0..STEPS_MAX).any(|_| {
        vcpu.set_kvm_immediate_exit(1);
        matches!(step(vcpu, bus), Next::Interrupted)
    })
}

fn step(vcpu: &mut VcpuFd, bus: &Bus) -> Next {
    /// Types of `KVM_EXIT_SYSTEM_EVENT`.
    const SYSTEM_SHUTDOWN: u32 = 1;
    const SYSTEM_RESET: u32 = 2;
    const SYSTEM_CRASH: u32 = 3;
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => return interrupted(vcpu, bus, error),
    };
    match exit {
        VcpuExit::IoOut(port, data) => {
            bus.counters.add(Counter::ExitsPort, 1);
            bus.port_out(port, data).map_or(Next::Run, Next::End)
        }
        VcpuExit::IoIn(port, data) => {
            bus.counters.add(Counter::ExitsPort, 1);
            bus.port_in(port, data);
            Next::Run
        }
        VcpuExit::MmioRead(address, data) => {
            bus.counters.add(Counter::ExitsMmio, 1);
            bus.read(address, data);
            Next::Run
        }
        VcpuExit::MmioWrite(address, data) => {
            bus.counters.add(Counter::ExitsMmio, 1);
            bus.write(address, data);
            Next::Run
        }
        VcpuExit::InternalError => Next::InternalError,
        VcpuExit::Shutdown if bus.panicked() => Next::End(HaltReason::Panic),
        VcpuExit::Shutdown => Next::Fault("a triple fault".to_owned()),
        VcpuExit::FailEntry(reason, cpu) => {
            Next::Fault(format!("KVM_EXIT_FAIL_ENTRY reason {reason:#x} on host processor {cpu}"))
        }
        VcpuExit::SystemEvent(SYSTEM_SHUTDOWN, _) => Next::End(HaltReason::PowerOff),
        VcpuExit::SystemEvent(SYSTEM_RESET, _) => Next::End(bus.reset_reason()),
        VcpuExit::SystemEvent(SYSTEM_CRASH, _) => Next::End(HaltReason::Panic),
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => {
            bus.counters.add(Counter::ExitsOther, 1);
            Next::Run
        }
        other => Next::Fault(format!("an unexpected exit {other:?}")),
    }
}

fn interrupted(vcpu: &mut VcpuFd, bus: &Bus, error: kvm_ioctls::Error) -> Next {
    match error.errno() {
        libc::EINTR => {
            bus.counters.add(Counter::ExitsSignal, 1);
            vcpu.set_kvm_immediate_exit(0);
            Next::Interrupted
        }
        libc::EAGAIN => Next::Run,
        _ => Next::Fault(format!("KVM_RUN: {}", io::Error::from(error))),
    }
}

/// Describes a fault with its location.
fn lost(vcpu: &VcpuFd, index: u8, bus: &Bus, what: &str) -> HaltReason {
    let Ok(regs) = vcpu.get_regs() else {
        return HaltReason::Lost(format!("processor {index} ended with {what}"));
    };
    let mut code = [0; CODE_BYTES];
    let read = vcpu
        .translate_gva(regs.rip)
        .ok()
        .filter(|translation| translation.valid != 0)
        .and_then(|t| bus.memory.read(&mut code, GuestAddress(t.physical_address)).ok())
        .unwrap_or(0);
    let bytes: Vec<String> = code[..read].iter().map(|byte| format!("{byte:02x}")).collect();
    let code = if bytes.is_empty() { "not readable".to_owned() } else { bytes.join(" ") };
    HaltReason::Lost(format!(
        "processor {index} ended with {what} at rip {:#x}, code {code}",
        regs.rip
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        let counters = Arc::new(Counters::new().unwrap());
        let panicked = Arc::new(AtomicBool::new(false));
        let line = event().unwrap();
        let console = Console::new(line, None, Arc::clone(&panicked), Arc::clone(&counters));
        Bus {
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap(),
            console: Mutex::new(console),
            slots: Vec::new(),
            panicked,
            counters,
        }
    }

    #[test]
    fn power_off_and_reset_are_different_ends() {
        let bus = bus();
        assert_eq!(bus.port_out(SLEEP_CONTROL_PORT, &[0x34]), Some(HaltReason::PowerOff));
        assert_eq!(bus.port_out(SLEEP_CONTROL_PORT, &[0x80]), None);
        assert_eq!(bus.port_out(SLEEP_CONTROL_PORT, &[0x20]), None, "another sleep state");
        assert_eq!(bus.port_out(RESET_PORT, &[0]), None);
        assert_eq!(bus.port_out(RESET_PORT, &[1]), Some(HaltReason::Reboot));
        assert_eq!(bus.port_out(COM1, b"Kernel panic - not syncing: y"), None);
        assert_eq!(bus.port_out(RESET_PORT, &[1]), Some(HaltReason::Panic));
    }

    #[test]
    fn nobody_there_reads_as_ones_at_any_address() {
        let bus = bus();
        let mut data = [0; 8];
        for address in [0, u64::from(MMIO_BASE) - 1, MMIO_BASE.into(), u64::MAX] {
            data.fill(0);
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 8]);
            bus.write(address, &data);
        }
        bus.port_in(0xcfc, &mut data[..4]);
        assert_eq!(data[..4], [0xff; 4]);
        bus.port_in(COM1 + 5, &mut data[..1]);
        assert_eq!(data[0] & 0x20, 0x20);
    }

    #[test]
    fn the_first_end_wins() {
        let end = End::new().unwrap();
        assert_eq!(end.reason(), None);
        end.because(HaltReason::Reboot);
        end.because(HaltReason::PowerOff);
        assert_eq!(end.reason(), Some(HaltReason::Reboot));
        assert!(end.event().read().is_ok());
    }
}
