//! Assembles a virtual machine: memory, devices in their slots, CPUs on their threads.

use std::{
    fs::File,
    io,
    sync::{Arc, Barrier, Mutex, PoisonError, atomic::AtomicBool, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use machine::HaltReason;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    acpi::Tables,
    boot::{self, BootError, Payload},
    counters::Counters,
    cpu::{self, CpuError},
    devices::{
        mmio::{REG_QUEUE_NOTIFY, Transport},
        serial::Console,
        virtio::{Device, Interrupt, event},
    },
    kick::{self, Kickable, Kicker},
    layout::{COM1_GSI, KVM_IDENTITY_MAP, KVM_TSS, MMIO_SLOTS_MAX, Slot},
    memory::{self, MemoryError},
    vcpu::{self, Bus, End},
};

/// Errors of building a machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// A KVM ioctl failed.
    #[error("{action} failed")]
    Ioctl {
        /// The ioctl.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A thread or an event cannot be created.
    #[error("failed to create {what}")]
    Resource {
        /// The resource.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There are more devices than slots.
    #[error("{0} devices, but there are {MMIO_SLOTS_MAX} slots")]
    TooManyDevices(usize),
    /// Guest memory cannot be created.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel and initramfs cannot be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A CPU cannot be set up.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The tables do not fit guest memory.
    #[error("the guest's memory does not hold its tables")]
    Tables(#[from] vm_memory::GuestMemoryError),
}

fn ioctl(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |e| VmError::Ioctl { action, source: e.into() }
}

fn resource(what: &'static str) -> impl FnOnce(io::Error) -> VmError {
    move |source| VmError::Resource { what, source }
}

/// Delay before a vCPU that has not left KVM after a kick is kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(20);
/// Time limit for all vCPUs together to stop; after that, their threads are left until the process
/// exits.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The parts of a machine, apart from its devices.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The KVM device.
    pub(crate) kvm: Kvm,
    /// Number of CPUs.
    pub(crate) vcpus: u8,
    /// RAM in bytes.
    pub(crate) memory_bytes: u64,
    /// The kernel image.
    pub(crate) kernel: File,
    /// The initramfs.
    pub(crate) initrd: File,
    /// The complete command line.
    pub(crate) cmdline: String,
    /// The destination of console output.
    pub(crate) console: Option<File>,
    /// The counters.
    pub(crate) counters: Arc<Counters>,
    /// Records the end of the machine; devices that fail use it too.
    pub(crate) end: Arc<End>,
}

/// A machine whose CPUs have not started yet. The fields are in drop order: devices release guest
/// memory before it is unmapped.
#[derive(Debug)]
pub(crate) struct Vm {
    bus: Arc<Bus>,
    end: Arc<End>,
    vcpus: Vec<kvm_ioctls::VcpuFd>,
    _vm: VmFd,
    _memory: GuestMemoryMmap,
}

impl Vm {
    /// Builds the machine; the devices get slots in their order.
    pub(crate) fn build(parts: Parts, devices: Vec<Box<dyn Device>>) -> Result<Self, VmError> {
        let Parts { kvm, vcpus, memory_bytes, mut kernel, mut initrd, .. } = parts;
        if devices.len() > MMIO_SLOTS_MAX as usize {
            return Err(VmError::TooManyDevices(devices.len()));
        }
        let vm = kvm.create_vm().map_err(ioctl("KVM_CREATE_VM"))?;
        vm.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(KVM_TSS).map_err(ioctl("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(ioctl("KVM_CREATE_IRQCHIP"))?;
        let memory = memory::create(memory_bytes)?;
        memory::register(&vm, &memory).map_err(ioctl("KVM_SET_USER_MEMORY_REGION"))?;

        let slots: Vec<Slot> =
            (0..MMIO_SLOTS_MAX).take(devices.len()).map(|index| Slot { index }).collect();
        let rsdp = Tables::new(vcpus, &slots).write(&memory)?;
        let entry = boot::load(
            &memory,
            Payload { kernel: &mut kernel, initrd: &mut initrd, cmdline: &parts.cmdline, rsdp },
        )?;

        let panicked = Arc::new(AtomicBool::new(false));
        let console =
            console(&vm, parts.console, Arc::clone(&panicked), Arc::clone(&parts.counters))?;
        let transports = slots
            .into_iter()
            .zip(devices)
            .map(|(slot, device)| plug(&vm, slot, device, &memory, &parts.counters))
            .collect::<Result<Vec<_>, _>>()?;
        let bus = Arc::new(Bus {
            memory: memory.clone(),
            console: Mutex::new(console),
            slots: transports,
            panicked,
            counters: parts.counters,
        });

        let supported = cpu::supported(&kvm)?;
        let vcpus = (0..vcpus)
            .map(|id| {
                let vcpu = vm.create_vcpu(id.into()).map_err(ioctl("KVM_CREATE_VCPU"))?;
                let cpuid = cpu::for_vcpu(&supported, id, vcpus);
                cpu::set_up(&vcpu, &cpuid, (id == 0).then_some(entry))?;
                Ok(vcpu)
            })
            .collect::<Result<Vec<_>, VmError>>()?;
        Ok(Self { bus, end: parts.end, vcpus, _vm: vm, _memory: memory })
    }

    /// Starts the CPUs. Each thread runs `confine` first and this one `confine_starter`; no CPU
    /// begins before all have.
    pub(crate) fn start(
        self,
        confine: impl Fn() + Clone + Send + 'static,
        confine_starter: impl FnOnce(),
    ) -> Result<Running, VmError> {
        kick::install_handler().map_err(resource("a signal handler"))?;
        let mut threads = Vec::new();
        // All CPUs wait for the last one's thread, so that an error on the way leaves none of them
        // running.
        let gate = Gate::new(self.vcpus.len());
        for (index, vcpu) in (0u8..).zip(self.vcpus) {
            let (bus, end) = (Arc::clone(&self.bus), Arc::clone(&self.end));
            let (confine, gate) = (confine.clone(), gate.clone());
            let (send, kicker) = mpsc::sync_channel(1);
            let body = move || {
                let vcpu = Kickable::new(vcpu);
                // The starter waits for this in the next lines.
                let _ = send.send(Kickable::kicker());
                gate.pass(confine);
                vcpu::run(vcpu, index, &bus, &end);
            };
            let thread = thread::Builder::new()
                .name(format!("vcpu-{index}"))
                .spawn(body)
                .map_err(resource("a processor thread"))?;
            let kicker = kicker.recv().map_err(|_| VmError::Resource {
                what: "a processor thread",
                source: io::ErrorKind::BrokenPipe.into(),
            })?;
            threads.push((thread, kicker));
        }
        gate.pass(confine_starter);
        Ok(Running { threads, end: self.end, bus: self.bus, _vm: self._vm, _memory: self._memory })
    }
}

/// A barrier that all threads pass together, each after it has confined itself: so the guest's
/// first instruction finds only confined threads.
#[derive(Debug, Clone)]
struct Gate(Arc<Barrier>);

impl Gate {
    /// A gate for the CPUs and their starter.
    fn new(vcpus: usize) -> Self {
        Self(Arc::new(Barrier::new(vcpus + 1)))
    }

    fn pass(&self, confine: impl FnOnce()) {
        confine();
        self.0.wait();
    }
}

/// Attaches a device to its slot: interrupt by irqfd, notifications by ioeventfd.
fn plug(
    vm: &VmFd,
    slot: Slot,
    device: Box<dyn Device>,
    memory: &GuestMemoryMmap,
    counters: &Arc<Counters>,
) -> Result<Mutex<Transport>, VmError> {
    let interrupt = Interrupt::new(Arc::clone(counters)).map_err(resource("an event"))?;
    vm.register_irqfd(interrupt.line(), slot.gsi()).map_err(ioctl("KVM_IRQFD"))?;
    let transport = Transport::new(device, memory.clone(), interrupt)
        .map_err(resource("the queues of a device"))?;
    let notify = IoEventAddress::Mmio(u64::from(slot.base()) + REG_QUEUE_NOTIFY);
    for (queue, event) in (0u32..).zip(transport.notify_events()) {
        vm.register_ioevent(event, &notify, queue).map_err(ioctl("KVM_IOEVENTFD"))?;
    }
    Ok(Mutex::new(transport))
}

fn console(
    vm: &VmFd,
    sink: Option<File>,
    panicked: Arc<AtomicBool>,
    counters: Arc<Counters>,
) -> Result<Console, VmError> {
    let line = event().map_err(resource("an event"))?;
    vm.register_irqfd(&line, COM1_GSI).map_err(ioctl("KVM_IRQFD"))?;
    Ok(Console::new(line, sink, panicked, counters))
}

/// A running machine. The fields are in drop order.
#[derive(Debug)]
pub(crate) struct Running {
    threads: Vec<(JoinHandle<()>, Kicker)>,
    end: Arc<End>,
    bus: Arc<Bus>,
    _vm: VmFd,
    _memory: GuestMemoryMmap,
}

impl Running {
    /// Readable once the machine has ended.
    pub(crate) fn ended(&self) -> &EventFd {
        self.end.event()
    }

    /// Ends the machine from outside.
    pub(crate) fn end(&self, reason: HaltReason) {
        self.end.because(reason);
    }

    /// Stops the CPUs and then the devices, which finally make their images consistent, and returns
    /// how the machine ended.
    pub(crate) fn stop(mut self) -> HaltReason {
        self.end.because(HaltReason::Killed);
        let started = Instant::now();
        while self.threads.iter().any(|(thread, _)| !thread.is_finished()) {
            if started.elapsed() > STOP_LIMIT {
                break;
            }
            for (_, kicker) in self.threads.iter().filter(|(thread, _)| !thread.is_finished()) {
                kicker.kick();
            }
            thread::sleep(KICK_INTERVAL.min(started.elapsed() + Duration::from_micros(200)));
        }
        for (thread, _) in self.threads.drain(..).filter(|(thread, _)| thread.is_finished()) {
            // A panicked CPU thread has ended; its reason is below.
            let _ = thread.join();
        }
        for slot in &self.bus.slots {
            slot.lock().unwrap_or_else(PoisonError::into_inner).shut_down();
        }
        self.end.reason().unwrap_or(HaltReason::Killed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn count(confined: &AtomicUsize) {
        confined.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn no_processor_begins_before_every_thread_is_confined() {
        const VCPUS: usize = 3;
        let (gate, confined) = (Gate::new(VCPUS), Arc::new(AtomicUsize::new(0)));
        let processors: Vec<_> = (0..VCPUS)
            .map(|_| {
                let (gate, confined) = (gate.clone(), Arc::clone(&confined));
                thread::spawn(move || {
                    gate.pass(|| count(&confined));
                    confined.load(Ordering::SeqCst)
                })
            })
            .collect();
        while confined.load(Ordering::SeqCst) < VCPUS {
            thread::yield_now();
        }
        assert!(processors.iter().all(|thread| !thread.is_finished()));
        gate.pass(|| count(&confined));
        for thread in processors {
            assert_eq!(thread.join().unwrap(), VCPUS + 1);
        }
    }
}
