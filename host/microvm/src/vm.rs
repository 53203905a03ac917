//! Assembles a virtual machine: memory, devices in their slots, CPUs on their threads.

use std::{
    fs::File,
    io,
    sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError, atomic::AtomicBool, mpsc},
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
    saving::{self, Chips, MachineState, SavingError},
    vcpu::{self, Bus, End},
    vcpu_state::{self, VcpuState, VcpuStateError},
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
    /// A saved machine cannot be restored.
    #[error(transparent)]
    Restore(#[from] SavingError),
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

/// How a machine begins.
#[derive(Debug)]
pub(crate) enum Origin {
    /// With a kernel.
    Kernel {
        /// The kernel image.
        kernel: File,
        /// The initramfs.
        initrd: File,
        /// The complete command line.
        cmdline: String,
        /// Whether it may be saved later.
        to_save: bool,
    },
    /// Where a saved machine was stopped.
    Saved {
        /// The file with the saved machine's memory.
        memory: File,
        /// Everything else.
        state: Box<MachineState>,
    },
}

/// The parts of a machine, apart from its devices.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The KVM device.
    pub(crate) kvm: Kvm,
    /// Number of CPUs.
    pub(crate) vcpus: u8,
    /// RAM in bytes.
    pub(crate) memory_bytes: u64,
    /// How it begins.
    pub(crate) origin: Origin,
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
    /// The MSRs to save, if the machine may be saved.
    to_save: Option<Arc<[u32]>>,
    vm: VmFd,
    memory: GuestMemoryMmap,
}

impl Vm {
    /// Builds the machine; the devices get slots in their order.
    pub(crate) fn build(parts: Parts, devices: Vec<Box<dyn Device>>) -> Result<Self, VmError> {
        let Parts { kvm, vcpus, memory_bytes, mut origin, .. } = parts;
        if devices.len() > MMIO_SLOTS_MAX as usize {
            return Err(VmError::TooManyDevices(devices.len()));
        }
        let vm = create(&kvm)?;
        let slots: Vec<Slot> =
            (0..MMIO_SLOTS_MAX).take(devices.len()).map(|index| Slot { index }).collect();
        let memory = match &origin {
            Origin::Kernel { .. } => memory::create(memory_bytes)?,
            Origin::Saved { memory, state } => {
                state.check_shape(vcpus, memory_bytes, slots.len())?;
                memory::restore(memory_bytes, memory)?
            }
        };
        memory::register(&vm, &memory).map_err(ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        let entry = match &mut origin {
            Origin::Kernel { kernel, initrd, cmdline, .. } => {
                let rsdp = Tables::new(vcpus, &slots).write(&memory)?;
                Some(boot::load(&memory, Payload { kernel, initrd, cmdline, rsdp })?)
            }
            Origin::Saved { .. } => None,
        };

        let supported = cpu::supported(&kvm)?;
        let vcpus = (0..vcpus)
            .map(|id| {
                let vcpu = vm.create_vcpu(id.into()).map_err(ioctl("KVM_CREATE_VCPU"))?;
                let cpuid = cpu::for_vcpu(&supported, id, vcpus);
                cpu::set_up(&vcpu, &cpuid, entry.filter(|_| id == 0))?;
                Ok(vcpu)
            })
            .collect::<Result<Vec<_>, VmError>>()?;
        let listed = || vcpu_state::listed_msrs(&kvm).map_err(SavingError::from);
        let to_save = match &origin {
            Origin::Kernel { to_save: false, .. } => None,
            Origin::Kernel { to_save: true, .. } => Some(listed()?.into()),
            Origin::Saved { state, .. } => {
                vcpu_state::restore(&vcpus, &state.vcpus, &listed()?).map_err(SavingError::from)?;
                state.chips.restore(&vm)?;
                None
            }
        };

        let panicked = Arc::new(AtomicBool::new(false));
        let counters = &parts.counters;
        let line = event().map_err(resource("an event"))?;
        vm.register_irqfd(&line, COM1_GSI).map_err(ioctl("KVM_IRQFD"))?;
        let console_line = line.try_clone().map_err(resource("an event"))?;
        let mut console =
            Console::new(console_line, parts.console, Arc::clone(&panicked), Arc::clone(counters));
        let mut transports = slots
            .into_iter()
            .zip(devices)
            .map(|(slot, device)| plug(&vm, slot, device, &memory, counters))
            .collect::<Result<Vec<_>, _>>()?;
        if let Origin::Saved { state, .. } = &origin {
            // Last, because devices raise interrupts as soon as they have their queues.
            console =
                console.restore(line, &state.console).map_err(resource("the serial console"))?;
            for (slot, (transport, state)) in transports.iter_mut().zip(&state.slots).enumerate() {
                let restored = transport.restore(state);
                restored.map_err(|source| SavingError::Device { slot, source })?;
            }
        }
        let bus = Arc::new(Bus {
            memory: memory.clone(),
            console: Mutex::new(console),
            slots: transports.into_iter().map(Mutex::new).collect(),
            panicked,
            counters: parts.counters,
        });
        Ok(Self { bus, end: parts.end, vcpus, to_save, vm, memory })
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
        let stopped = Arc::new(Barrier::new(self.vcpus.len()));
        for (index, vcpu) in (0u8..).zip(self.vcpus) {
            let (bus, end) = (Arc::clone(&self.bus), Arc::clone(&self.end));
            let (confine, gate) = (confine.clone(), gate.clone());
            let saver =
                self.to_save.clone().map(|msrs| Saver { msrs, stopped: Arc::clone(&stopped) });
            let (send, kicker) = mpsc::sync_channel(1);
            let body = move || {
                let mut vcpu = Kickable::new(vcpu);
                // The starter waits for this in the next lines.
                let _ = send.send(Kickable::kicker());
                gate.pass(confine);
                vcpu::run(&mut vcpu, index, &bus, &end);
                saver.map(|saver| saver.read(&mut vcpu, &bus))
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
        Ok(Running {
            threads,
            to_save: self.to_save.is_some(),
            end: self.end,
            bus: self.bus,
            vm: self.vm,
            memory: self.memory,
        })
    }
}

/// Reads the state of a CPU on its thread, when all CPUs have stopped.
struct Saver {
    msrs: Arc<[u32]>,
    stopped: Arc<Barrier>,
}

impl Saver {
    fn read(&self, vcpu: &mut Kickable, bus: &Bus) -> Result<VcpuState, VcpuStateError> {
        let settled = vcpu::settle(vcpu.vcpu(), bus);
        self.stopped.wait();
        if !settled {
            return Err(VcpuStateError::Running);
        }
        VcpuState::read(vcpu.vcpu(), &self.msrs)
    }
}

/// Creates a machine with interrupt controllers.
fn create(kvm: &Kvm) -> Result<VmFd, VmError> {
    let vm = kvm.create_vm().map_err(ioctl("KVM_CREATE_VM"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP).map_err(ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(KVM_TSS).map_err(ioctl("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(ioctl("KVM_CREATE_IRQCHIP"))?;
    Ok(vm)
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
) -> Result<Transport, VmError> {
    let interrupt = Interrupt::new(Arc::clone(counters)).map_err(resource("an event"))?;
    vm.register_irqfd(interrupt.line(), slot.gsi()).map_err(ioctl("KVM_IRQFD"))?;
    let transport = Transport::new(device, memory.clone(), interrupt)
        .map_err(resource("the queues of a device"))?;
    let notify = IoEventAddress::Mmio(u64::from(slot.base()) + REG_QUEUE_NOTIFY);
    for (queue, event) in (0u32..).zip(transport.notify_events()) {
        vm.register_ioevent(event, &notify, queue).map_err(ioctl("KVM_IOEVENTFD"))?;
    }
    Ok(transport)
}

/// A running machine. The fields are in drop order.
#[derive(Debug)]
pub(crate) struct Running {
    threads: Vec<(JoinHandle<Stopped>, Kicker)>,
    /// Whether it may be saved.
    to_save: bool,
    end: Arc<End>,
    bus: Arc<Bus>,
    vm: VmFd,
    memory: GuestMemoryMmap,
}

/// What the thread of a CPU leaves: its state, if the machine may be saved.
type Stopped = Option<Result<VcpuState, VcpuStateError>>;

impl Running {
    /// Readable once the machine has ended.
    pub(crate) fn ended(&self) -> &EventFd {
        self.end.event()
    }

    /// Ends the machine from outside.
    pub(crate) fn end(&self, reason: HaltReason) {
        self.end.because(reason);
    }

    /// Stops the machine forever, and writes it into two empty files. It still has to be ended.
    pub(crate) fn save(&mut self, memory: &File, state: &File) -> Result<(), SavingError> {
        if !std::mem::take(&mut self.to_save) {
            return Err(SavingError::NotNow("it was not started for that, or is saved already"));
        }
        let expected = self.threads.len();
        self.end.pause();
        let stopped: Vec<_> = self.stop_cpus().into_iter().flatten().collect();
        if self.end.reason().is_some() || stopped.len() != expected {
            return Err(SavingError::NotNow("its processors have ended or do not stop"));
        }
        let vcpus = stopped
            .into_iter()
            .enumerate()
            .map(|(index, state)| state.map_err(|source| SavingError::Vcpu { index, source }))
            .collect::<Result<_, _>>()?;
        let slots = self.bus.slots.iter().map(|slot| lock(slot).save()).collect();
        let (chips, console) = (Chips::read(&self.vm)?, lock(&self.bus.console).state());
        saving::write_memory(&self.memory, memory)?;
        MachineState::new(&self.memory, vcpus, chips, console, slots).write(state)
    }

    /// Lets the CPUs stop, which were told to, and returns what those leave that do.
    fn stop_cpus(&mut self) -> Vec<Stopped> {
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
        let threads = self.threads.drain(..).filter(|(thread, _)| thread.is_finished());
        // A panicked CPU thread has ended the process.
        threads.filter_map(|(thread, _)| thread.join().ok()).collect()
    }

    /// Stops the CPUs and then the devices, which finally make their images consistent, and returns
    /// how the machine ended.
    pub(crate) fn stop(mut self) -> HaltReason {
        self.end.because(HaltReason::Killed);
        drop(self.stop_cpus());
        for slot in &self.bus.slots {
            lock(slot).shut_down();
        }
        self.end.reason().unwrap_or(HaltReason::Killed)
    }
}

/// Locks a part of the bus; see [`crate::backend::lock`].
fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
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
