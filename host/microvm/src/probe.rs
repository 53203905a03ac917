//! Determines whether `/dev/kvm` is usable, by running guests instead of trusting flags.
//!
//! A KVM may be missing, inaccessible, old, or emulated: nested and paravirtual KVMs exist that
//! fail on the first `cmpxchg16b` of a Linux kernel, or run it at a thousandth of the speed without
//! any error. So the probe opens the device, checks the capabilities that the VMM uses, runs each
//! instruction class that a kernel needs, and times a loop. It takes about 3 ms; a watchdog ends it
//! after 2 s.

mod guest;

use std::{
    fs, io,
    os::fd::{FromRawFd, IntoRawFd},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use machine::accel::{Check, Outcome, ProbeReport};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    kick::{self, Kickable, Kicker},
    long_mode, memory,
};

/// The only stable API version.
const KVM_API_VERSION: i32 = 12;
/// The probe guest's memory: one large page.
const PROBE_MEMORY_BYTES: u64 = 2 << 20;
/// Time limit of a probe guest. A working KVM needs 3 ms, one nested in an emulated machine up to
/// 160 ms, and on a busy host several times that.
const WATCHDOG: Duration = Duration::from_secs(2);
/// Time limit for a kicked guest thread to exit before the watchdog abandons it.
const KICK_GRACE: Duration = Duration::from_millis(200);
/// Maximum time of the speed loop: 0.05 ms on hardware, 59 ms on an emulated KVM.
const SPEED_LIMIT: Duration = Duration::from_millis(10);
/// The loop is repeated for at most this long until one run is fast enough, so that a busy host is
/// not mistaken for a slow KVM.
const SPEED_BUDGET: Duration = Duration::from_millis(300);
/// Maximum exits of a probe guest, which makes ten.
const MAX_EXITS: usize = 64;
/// Code bytes shown for a failed instruction: the longest x86 instruction.
const CODE_BYTES: usize = 15;
/// The vector of the breakpoint exception.
const VECTOR_BREAKPOINT: u64 = 3;

/// The capabilities that the VMM requires, by the names in KVM's documentation.
const CAPABILITIES: [(&str, Cap); 7] = [
    ("KVM_CAP_IRQCHIP", Cap::Irqchip),
    ("KVM_CAP_USER_MEMORY", Cap::UserMemory),
    ("KVM_CAP_IRQFD", Cap::Irqfd),
    ("KVM_CAP_IOEVENTFD", Cap::Ioeventfd),
    ("KVM_CAP_IMMEDIATE_EXIT", Cap::ImmediateExit),
    ("KVM_CAP_EXT_CPUID", Cap::ExtCpuid),
    ("KVM_CAP_TSC_DEADLINE_TIMER", Cap::TscDeadlineTimer),
];

struct Failure {
    reason: String,
    hint: Option<String>,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    fn of(action: &str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |e| Self::new(format!("{action} failed: {}", io::Error::from(e)))
    }
}

/// The checks so far; after the first failure, the others are skipped.
struct Checks(Vec<Check>);

impl Checks {
    fn run<T>(
        &mut self,
        name: &str,
        check: impl FnOnce() -> Result<(T, Option<String>), Failure>,
    ) -> Option<T> {
        let (value, outcome, detail, hint) = match check() {
            Ok((value, detail)) => (Some(value), Outcome::Passed, detail, None),
            Err(Failure { reason, hint }) => (None, Outcome::Failed, Some(reason), hint),
        };
        self.0.push(Check { name: name.to_owned(), outcome, detail, hint });
        value
    }

    fn skip(&mut self, names: &[&str]) {
        let skipped = |name: &&str| Check {
            name: (*name).to_owned(),
            outcome: Outcome::Skipped,
            detail: None,
            hint: None,
        };
        self.0.extend(names.iter().map(skipped));
    }
}

const OPEN: &str = "open the device";
const VERSION: &str = "API version";
const CAPABLE: &str = "capabilities";
const RUN: &str = "instructions a kernel needs";
const SPEED: &str = "speed";

/// Probes the KVM device at this path, normally `/dev/kvm`.
#[must_use]
pub fn probe(device: &Path) -> ProbeReport {
    let mut checks = Checks(Vec::new());
    probe_in_order(device, &mut checks);
    ProbeReport { checks: checks.0 }
}

fn probe_in_order(device: &Path, checks: &mut Checks) {
    let Some(kvm) = checks.run(OPEN, || open(device).map(|kvm| (kvm, None))) else {
        return checks.skip(&[VERSION, CAPABLE, RUN, SPEED]);
    };
    if checks.run(VERSION, || version(&kvm)).is_none() {
        return checks.skip(&[CAPABLE, RUN, SPEED]);
    }
    if checks.run(CAPABLE, || capabilities(&kvm)).is_none() {
        return checks.skip(&[RUN, SPEED]);
    }
    let kvm = Arc::new(kvm);
    let instructions = Arc::clone(&kvm);
    if checks.run(RUN, || under_watchdog(move |stop| run_steps(&instructions, stop))).is_none() {
        return checks.skip(&[SPEED]);
    }
    checks.run(SPEED, || under_watchdog(move |stop| run_speed(&kvm, stop)));
}

/// Opens the device; if this process has no permission, the error names who has.
fn open(device: &Path) -> Result<Kvm, Failure> {
    // The standard library opens with O_CLOEXEC.
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|e| open_failure(device, &e))?;
    // SAFETY: the descriptor was just opened and has no other owner.
    Ok(unsafe { Kvm::from_raw_fd(file.into_raw_fd()) })
}

fn open_failure(device: &Path, error: &io::Error) -> Failure {
    let path = device.display();
    let hint = match error.kind() {
        io::ErrorKind::NotFound => Some(
            "load the module `kvm-intel` or `kvm-amd`, or switch virtualisation on in the \
             firmware; inside a virtual machine, nested virtualisation must be on"
                .to_owned(),
        ),
        io::ErrorKind::PermissionDenied => fs::metadata(device).ok().map(|m| who_may(device, &m)),
        _ => None,
    };
    Failure { reason: format!("`{path}` cannot be opened: {error}"), hint }
}

/// Describes who may open the device, and how to get permission.
fn who_may(device: &Path, metadata: &fs::Metadata) -> String {
    /// The group to which udev assigns the device, if group ids are consistent.
    const USUAL: &str = "kvm";
    /// Mode bits: read and write for the group.
    const GROUP_BITS: u32 = 0o060;
    let (path, gid) = (device.display(), metadata.gid());
    let mend = format!("`chgrp {USUAL} {path} && chmod 660 {path}`");
    if gid == 0 || metadata.mode() & GROUP_BITS != GROUP_BITS {
        return format!(
            "only root may open it; let root run {mend} and add your user to the group `{USUAL}`"
        );
    }
    let name = group_name(gid).unwrap_or_else(|| gid.to_string());
    let join = format!(
        "add your user to the group `{name}` (gid {gid}), which may open it: `usermod -aG {name} USER` as root"
    );
    if name == USUAL {
        format!("{join}, then log in again")
    } else {
        format!("{join}, then log in again; or, as that group seems wrong, let root run {mend}")
    }
}

/// The name of a group from the group file, without name services.
fn group_name(gid: u32) -> Option<String> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse::<u32>().ok()?;
        (id == gid).then(|| name.to_owned())
    })
}

fn version(kvm: &Kvm) -> Result<((), Option<String>), Failure> {
    match kvm.get_api_version() {
        KVM_API_VERSION => Ok(((), Some(KVM_API_VERSION.to_string()))),
        other => Err(Failure::new(format!(
            "KVM speaks API version {other}, but only {KVM_API_VERSION} is stable"
        ))),
    }
}

fn capabilities(kvm: &Kvm) -> Result<((), Option<String>), Failure> {
    all_of(|cap| kvm.check_extension(cap))
}

fn all_of(has: impl Fn(Cap) -> bool) -> Result<((), Option<String>), Failure> {
    match CAPABILITIES.iter().find(|(_, cap)| !has(*cap)) {
        None => Ok(((), None)),
        Some((name, _)) => Err(Failure {
            reason: format!("this KVM does not have `{name}`"),
            hint: Some("a newer host kernel may have it".to_owned()),
        }),
    }
}

/// The result of a guest run: the value is the detail to show.
type RunResult = Result<((), Option<String>), Failure>;

/// Runs a guest on its own thread and ends it after [`WATCHDOG`].
///
/// A guest that did not finish is run once more: a host that was suspended or overloaded for a
/// moment does not have a broken KVM, and the verdict is kept until reboot.
fn under_watchdog(run: impl Fn(&Stop) -> RunResult + Send + Clone + 'static) -> RunResult {
    kick::install_handler()
        .map_err(|e| Failure::new(format!("the signal handler cannot be installed: {e}")))?;
    match watched(run.clone())? {
        Some(done) => return done,
        None => tracing::debug!("a probe guest did not come to its end; trying once more"),
    }
    watched(run)?.unwrap_or_else(|| {
        Err(Failure::new(format!(
            "the test guest did not finish within {} ms, twice; this KVM probably emulates",
            WATCHDOG.as_millis()
        )))
    })
}

/// Runs the guest once; `None` if the watchdog ended it.
fn watched(
    run: impl FnOnce(&Stop) -> RunResult + Send + 'static,
) -> Result<Option<RunResult>, Failure> {
    let stop = Stop(Arc::new(AtomicBool::new(false)));
    let (send_kicker, kicker) = mpsc::channel::<Kicker>();
    let (send_result, result) = mpsc::channel();
    let theirs = Stop(Arc::clone(&stop.0));
    let body = move || {
        // The receivers live until the watchdog gives up; then errors do not matter.
        let _ = send_kicker.send(Kickable::kicker());
        let _ = send_result.send(run(&theirs));
    };
    thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(body)
        .map_err(|e| Failure::new(format!("a thread cannot be started: {e}")))?;
    if let Ok(done) = result.recv_timeout(WATCHDOG) {
        return Ok(Some(done));
    }
    stop.0.store(true, Ordering::Relaxed);
    if let Ok(kicker) = kicker.try_recv() {
        kicker.kick();
    }
    // Only lets the thread end; its result is ignored.
    let _ = result.recv_timeout(KICK_GRACE);
    Ok(None)
}

/// Set when the watchdog has given up.
struct Stop(Arc<AtomicBool>);

/// A minimal machine with the given code. Field order is drop order: the vCPU and the VM are
/// dropped before the memory that they use.
struct Tiny {
    vcpu: Kickable,
    _vm: VmFd,
    memory: GuestMemoryMmap,
}

impl Tiny {
    fn new(kvm: &Kvm, code: &[u8], breakpoint: Option<u64>) -> Result<Self, Failure> {
        let vm = kvm.create_vm().map_err(Failure::of("KVM_CREATE_VM"))?;
        let memory = memory::create(PROBE_MEMORY_BYTES)
            .map_err(|e| Failure::new(format!("no memory for the test guest: {e}")))?;
        memory::register(&vm, &memory).map_err(Failure::of("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = vm.create_vcpu(0).map_err(Failure::of("KVM_CREATE_VCPU"))?;
        let inside = |_| Failure::new("the test guest does not fit its memory");
        long_mode::write_tables(&memory).map_err(inside)?;
        memory.write_slice(code, GuestAddress(guest::CODE)).map_err(inside)?;
        if let Some(handler) = breakpoint {
            let (low, high) = gate(handler);
            let entry = guest::IDT_TABLE + VECTOR_BREAKPOINT * 16;
            memory.write_obj(low, GuestAddress(entry)).map_err(inside)?;
            memory.write_obj(high, GuestAddress(entry + 8)).map_err(inside)?;
        }
        set_registers(kvm, &vcpu)?;
        Ok(Self { vcpu: Kickable::new(vcpu), _vm: vm, memory })
    }

    /// Runs until `hlt`; returns the last step that the guest reported.
    fn run(&mut self, stop: &Stop) -> Result<u8, Failure> {
        let mut step = 0;
        for _ in 0..MAX_EXITS {
            if stop.0.load(Ordering::Relaxed) {
                return Err(Failure::new("ended by the watchdog"));
            }
            let end = match self.vcpu.vcpu().run() {
                Ok(VcpuExit::IoOut(guest::PROGRESS_PORT, data)) => {
                    step = data.first().copied().unwrap_or(0);
                    continue;
                }
                Ok(VcpuExit::Hlt) => return Ok(step),
                Ok(VcpuExit::InternalError) => None,
                Ok(other) => Some(format!("{other:?}")),
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => continue,
                Err(e) => Some(io::Error::from(e).to_string()),
            };
            let end = end.unwrap_or_else(|| internal_error(self.vcpu.vcpu()));
            return Err(self.describe(step, &end));
        }
        Err(Failure::new(format!("the test guest made more than {MAX_EXITS} exits")))
    }

    fn describe(&mut self, step: u8, end: &str) -> Failure {
        let name = guest::STEPS.get(usize::from(step)).copied().unwrap_or("");
        let rip = self.vcpu.vcpu().get_regs().map_or(0, |regs| regs.rip);
        let mut code = [0u8; CODE_BYTES];
        let read = self.memory.read(&mut code, GuestAddress(rip)).unwrap_or(0);
        let bytes: Vec<String> = code[..read].iter().map(|b| format!("{b:02x}")).collect();
        Failure {
            reason: format!(
                "step {step} ({name}) failed with {end} at rip {rip:#x}, code {}",
                bytes.join(" ")
            ),
            hint: Some("this KVM does not run a kernel on the processor itself".to_owned()),
        }
    }
}

/// The details of `KVM_EXIT_INTERNAL_ERROR`, which the exit enum does not contain.
pub(crate) fn internal_error(vcpu: &mut VcpuFd) -> String {
    let run = vcpu.get_kvm_run();
    // SAFETY: the caller just got this exit reason, so this union field is the
    // one that the kernel filled; it is plain integers for any bits.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    format!("KVM_EXIT_INTERNAL_ERROR suberror {} ndata {}", internal.suberror, internal.ndata)
}

/// An interrupt gate to `handler` in the boot code segment.
fn gate(handler: u64) -> (u64, u64) {
    /// Present, ring 0, 64-bit interrupt gate.
    const TYPE: u64 = 0x8e << 40;
    let low = (handler & 0xffff)
        | u64::from(long_mode::BOOT_CS) << 16
        | TYPE
        | (handler >> 16 & 0xffff) << 48;
    (low, handler >> 32)
}

/// Whether the guest's CPU has XSAVE. Emulated CPUs may lack it, and a nested KVM then refuses to
/// enable it.
fn has_xsave(cpuid: &kvm_bindings::CpuId) -> bool {
    const XSAVE: u32 = 1 << 26;
    cpuid.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & XSAVE != 0)
}

fn set_registers(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), Failure> {
    /// `OSFXSR`, `OSXMMEXCPT`.
    const CR4_SSE: u64 = 1 << 9 | 1 << 10;
    const CR4_OSXSAVE: u64 = 1 << 18;
    /// Reserved bit 1, which is always set.
    const RFLAGS: u64 = 2;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(Failure::of("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(Failure::of("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(Failure::of("KVM_GET_SREGS"))?;
    long_mode::enter(&mut sregs);
    sregs.cr4 |= CR4_SSE;
    if has_xsave(&cpuid) {
        sregs.cr4 |= CR4_OSXSAVE;
    }
    sregs.idt.base = guest::IDT_TABLE;
    sregs.idt.limit = guest::IDT_LIMIT;
    vcpu.set_sregs(&sregs).map_err(Failure::of("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(Failure::of("KVM_GET_REGS"))?;
    regs.rip = guest::CODE;
    regs.rsp = guest::STACK;
    regs.rflags = RFLAGS;
    vcpu.set_regs(&regs).map_err(Failure::of("KVM_SET_REGS"))
}

fn run_steps(kvm: &Kvm, stop: &Stop) -> RunResult {
    let (code, handler) = guest::steps();
    let mut machine = Tiny::new(kvm, code, Some(handler))?;
    match machine.run(stop)? {
        guest::STEP_DONE => Ok(((), None)),
        guest::STEP_WRONG => Err(Failure::new("an instruction gave a wrong result")),
        step => Err(machine.describe(step, "an early hlt")),
    }
}

fn run_speed(kvm: &Kvm, stop: &Stop) -> RunResult {
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    while best >= SPEED_LIMIT && (best == Duration::MAX || begun.elapsed() < SPEED_BUDGET) {
        let mut machine = Tiny::new(kvm, guest::speed(), None)?;
        let started = Instant::now();
        machine.run(stop)?;
        best = best.min(started.elapsed());
    }
    let ms = best.as_secs_f64() * 1e3;
    let text = format!("{ms:.2} ms for {} loops", guest::SPEED_ITERATIONS);
    if best < SPEED_LIMIT {
        return Ok(((), Some(text)));
    }
    Err(Failure {
        reason: format!("slow: {text}, where at most {} ms are expected", SPEED_LIMIT.as_millis()),
        hint: Some("this KVM emulates instructions; TCG is faster".to_owned()),
    })
}

#[cfg(test)]
mod tests;
