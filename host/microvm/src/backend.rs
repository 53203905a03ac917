//! The parent's side: starts one VMM process per machine and communicates with it.
//!
//! Each machine has a monitor thread, which starts the process, reads its messages and waits for
//! its exit. The thread lives as long as the process, because Linux sends the parent-death signal
//! when the thread that started the child ends, not the process.

mod identity;
mod inputs;
pub(crate) mod output;
pub(crate) mod process;
mod resident;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use confine::Confinement;
use machine::{
    Backend, DriveFormat, DriveSerial, HaltReason, Machine, MachineError, MachineSpec, SavedMachine,
};
use tokio::sync::{oneshot, watch};
use vsock_mux::ConnectError;

use self::{
    inputs::{Opened, open_everything},
    output::{LogTail, Tail},
    process::{Launch, Launched, Process, StartError, describe},
    resident::Mappings,
};
use crate::{
    control::{Boot, Channel, FromVmm, Role, Start, ToVmm},
    counters::Counters,
    drives,
    sandbox::Sandbox,
};

/// The device opened for the VMM process.
const KVM_DEVICE: &str = "/dev/kvm";
/// The name of the process in errors.
const WHO: &str = "the VMM process";
/// The first argument by which a program recognizes that it must call [`crate::vmm_child`].
pub const VMM_VERB: &str = "__vmm";
/// The running program, even if its file was replaced.
const SELF: &str = "/proc/self/exe";
/// Bytes of the console's tail kept for error messages.
const CONSOLE_TAIL_BYTES: usize = 64 << 10;

/// The backend: vbuild's own VMM on KVM.
#[derive(Debug, Clone)]
pub struct Microvm {
    program: PathBuf,
    arguments: Vec<OsString>,
    sandbox: Sandbox,
}

impl Default for Microvm {
    fn default() -> Self {
        Self::new()
    }
}

impl Microvm {
    /// Creates the backend. VMM processes run the current program with the verb `__vmm`, on which
    /// its `main` must call [`crate::vmm_child`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_program(SELF, [VMM_VERB])
    }

    /// Creates the backend with another program, which calls [`crate::vmm_child`] if it is started
    /// with these arguments.
    #[must_use]
    pub fn with_program(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            sandbox: Sandbox::Enforce,
        }
    }

    /// Sets how the processes confine themselves; [`Sandbox::Log`] finds system calls missing from
    /// a list.
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = sandbox;
        self
    }
}

#[async_trait::async_trait]
impl Backend for Microvm {
    fn name(&self) -> &'static str {
        "microvm"
    }

    async fn saving_identity(&self, spec: &MachineSpec) -> Option<String> {
        let vcpus = spec.vcpus;
        let asked = tokio::task::spawn_blocking(move || identity::of_host(vcpus)).await;
        let identity = asked.map_err(io::Error::other).flatten();
        let told = identity.inspect_err(|error| {
            tracing::debug!(%error, "machines cannot be saved: this host has no identity");
        });
        told.ok()
    }

    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError> {
        spec.check()?;
        let (ready, started) = oneshot::channel();
        let this = self.clone();
        thread::Builder::new()
            .name("microvm-monitor".to_owned())
            .spawn(move || monitor(&this, &spec, ready))
            .map_err(|source| MachineError::Io {
                action: "failed to start a thread for the virtual machine".to_owned(),
                source,
            })?;
        let gone = |_| MachineError::Vmm {
            action: "start".to_owned(),
            reason: "its monitor thread has ended".to_owned(),
        };
        let shared = started.await.map_err(gone)??;
        Ok(Box::new(Handle { shared }))
    }
}

/// The kernel's command line: the VMM's requirements, then the caller's words.
fn cmdline(spec: &MachineSpec) -> String {
    /// No PCI scan, one serial port to probe, no clock to check against, and a panic ends the
    /// machine at once. Reboots use ACPI: otherwise Debian's 6.1 uses the BIOS here, jumps into
    /// empty memory in real mode, and loops forever.
    const BASE: &str = "console=ttyS0 panic=-1 reboot=a pci=off 8250.nr_uarts=1 tsc=reliable \
                        no_timer_check";
    // Emergencies only: every character costs an exit.
    let console = if spec.verbose_console { "ignore_loglevel" } else { "quiet loglevel=1" };
    let words = [BASE, console].into_iter().chain(machine::QUICK_BOOT_WORDS);
    words.chain(spec.cmdline.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

/// State shared by the machine's handle and its threads.
struct Shared {
    control: Channel,
    counters: Counters,
    pending: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_id: AtomicU64,
    process: Process,
    mappings: Mutex<Option<Mappings>>,
    killed: std::sync::atomic::AtomicBool,
    end: watch::Sender<Option<HaltReason>>,
    console: Arc<Mutex<Tail>>,
    drives: Mutex<BTreeMap<DriveSerial, Top>>,
    confinement: Confinement,
}

/// The topmost layer of a drive.
#[derive(Debug, Clone)]
struct Top {
    path: PathBuf,
    format: DriveFormat,
    size: u64,
    read_only: bool,
}

/// The error message of a failed request.
type Answer = Option<String>;

/// Locks a mutex. No code panics while it holds one of the locks here, so a poisoned one is still
/// consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Ready = oneshot::Sender<Result<Arc<Shared>, MachineError>>;

/// Starts and monitors one machine; runs on its own thread.
fn monitor(backend: &Microvm, spec: &MachineSpec, ready: Ready) {
    match start(backend, spec) {
        Err(error) => {
            // If the caller is gone, so is the machine.
            let _ = ready.send(Err(error));
        }
        Ok((shared, mut child, words)) => {
            if let Err(Ok(shared)) = ready.send(Ok(Arc::clone(&shared))) {
                kill(&shared); // kill(&shared); // the machine has no owner
            }
            let told = listen(&shared);
            let status = shared.process.reap(&mut child);
            let reason = told.unwrap_or_else(|| died(&shared, status, &words.last()));
            lock(&shared.pending).clear();
            shared.end.send_replace(Some(reason));
        }
    }
}

type Running = (Arc<Shared>, Child, LogTail);

fn start(backend: &Microvm, spec: &MachineSpec) -> Result<Running, MachineError> {
    let opened = open_everything(spec)?;
    let counters = Counters::new().map_err(|e| MachineError::Vmm {
        action: "share its counters".to_owned(),
        reason: e.to_string(),
    })?;
    let console = Arc::new(Mutex::new(Tail::new(CONSOLE_TAIL_BYTES)));
    let launch = Launch {
        program: &backend.program,
        arguments: &backend.arguments,
        name: &spec.name,
        shown_as: "vbuild-vmm",
        who: WHO,
        on_guest_connect: Arc::clone(&spec.on_guest_connect),
        console: Some(Arc::clone(&console)),
    };
    let launched = process::launch(launch, |control, asking| {
        let own = [counters.file().as_fd(), asking.fd()];
        let files = opened.files.iter().map(AsFd::as_fd).chain(own);
        let fds: Vec<BorrowedFd<'_>> = files.chain(opened.layers.iter().map(AsFd::as_fd)).collect();
        control.send(&ToVmm::Start(Start::new(backend.sandbox, machine(spec, &opened))), &fds)
    });
    let Launched { control, child, words, landlock, mappings } =
        launched.map_err(|error| match error {
            StartError::Io { action, source } => {
                MachineError::io(format!("failed to {action}"))(source)
            }
            StartError::Process(reason) => MachineError::Vmm { action: "start".to_owned(), reason },
        })?;
    let shared = Arc::new(Shared {
        control,
        counters,
        pending: Mutex::default(),
        next_id: AtomicU64::new(0),
        process: Process::of(&child),
        mappings: Mutex::new(mappings),
        killed: std::sync::atomic::AtomicBool::new(false),
        end: watch::Sender::new(None),
        console,
        drives: Mutex::new(opened.tops),
        confinement: Confinement {
            process: "VMM".to_owned(),
            landlock,
            system_calls: backend.sandbox.into(),
        },
    });
    Ok((shared, child, words))
}

/// The description of the machine for its process.
fn machine(spec: &MachineSpec, opened: &Opened) -> Role {
    Role::Machine(Boot {
        begin: opened.begin,
        vcpus: spec.vcpus,
        memory_bytes: u64::from(spec.memory_mib) << 20,
        cmdline: cmdline(spec),
        drives: opened.drives.clone(),
    })
}

/// Reads messages until the machine has ended; returns the reason if the VMM reported it.
fn listen(shared: &Shared) -> Option<HaltReason> {
    loop {
        match shared.control.receive::<FromVmm>() {
            Ok(Some((FromVmm::Ended { reason }, _))) => return Some(reason.into()),
            Ok(Some((FromVmm::Answer { id, error }, _))) => {
                if let Some(asker) = lock(&shared.pending).remove(&id) {
                    // A caller that gave up no longer receives.
                    let _ = asker.send(error);
                }
            }
            Ok(Some((
                FromVmm::Started { .. } | FromVmm::Failed { .. } | FromVmm::Tried { .. },
                _,
            ))) => {}
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(%error, "the VMM sent a message that cannot be read");
                kill(shared);
                return None;
            }
        }
    }
}

/// The reason why a VMM died without reporting one.
fn died(shared: &Shared, status: Option<ExitStatus>, words: &str) -> HaltReason {
    if shared.killed.load(Ordering::SeqCst) {
        return HaltReason::Killed;
    }
    match status {
        Some(status) => HaltReason::Lost(describe(WHO, status, words)),
        None => HaltReason::Lost("the VMM process cannot be waited for".to_owned()),
    }
}

fn kill(shared: &Shared) {
    shared.killed.store(true, Ordering::SeqCst);
    shared.process.kill();
}

/// A running machine.
struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Microvm")
            .field("process", &self.shared.process)
            .field("end", &*self.shared.end.borrow())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        kill(&self.shared);
    }
}

impl Handle {
    fn ended(&self) -> MachineError {
        let reason = self.shared.end.borrow().clone();
        MachineError::Ended(reason.unwrap_or(HaltReason::Killed))
    }

    /// Sends a request and waits for its reply.
    async fn ask(
        &self,
        action: &str,
        make: impl FnOnce(u64) -> ToVmm,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), MachineError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        lock(&self.shared.pending).insert(id, asker);
        let sent = self.shared.control.send(&make(id), fds);
        if sent.is_err() || self.shared.end.borrow().is_some() {
            lock(&self.shared.pending).remove(&id);
            self.wait().await;
            return Err(self.ended());
        }
        match answer.await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(MachineError::Vmm { action: action.to_owned(), reason }),
            Err(_) => {
                self.wait().await;
                Err(self.ended())
            }
        }
    }
}

#[async_trait::async_trait]
impl Machine for Handle {
    async fn connect(&self, port: u32) -> Result<UnixStream, MachineError> {
        let Shared { control, counters, end, .. } = &*self.shared;
        match process::connect(control, counters, port) {
            Ok(stream) if end.borrow().is_none() => Ok(stream),
            Ok(_) | Err(ConnectError::Gone) => {
                self.wait().await;
                Err(self.ended())
            }
            Err(error) => Err(MachineError::Vmm {
                action: format!("connect to guest port {port}"),
                reason: error.to_string(),
            }),
        }
    }

    async fn wait(&self) -> HaltReason {
        let mut end = self.shared.end.subscribe();
        match end.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(HaltReason::Killed),
            // Unreachable: the sender is in `self.shared`.
            Err(_) => HaltReason::Lost("its monitor is gone".to_owned()),
        }
    }

    async fn kill(&self) {
        kill(&self.shared);
        self.wait().await;
    }

    fn console_tail(&self) -> String {
        lock(&self.shared.console).text()
    }

    async fn push_layer(&self, drive: &DriveSerial, new_layer: &Path) -> Result<(), MachineError> {
        let action = format!("put a layer on drive `{drive}`");
        let refuse =
            |reason: &str| MachineError::Vmm { action: action.clone(), reason: reason.to_owned() };
        let top = lock(&self.shared.drives).get(drive).cloned();
        let top = top.ok_or_else(|| refuse("there is no such drive"))?;
        if top.read_only {
            return Err(refuse("the drive is read-only"));
        }
        let file = drives::create_layer(new_layer, top.size, &top.path, top.format)?;
        let serial = drive.as_str().to_owned();
        self.ask(&action, |id| ToVmm::PushLayer { id, serial }, &[file.as_fd()]).await?;
        let top = Top { path: new_layer.to_owned(), format: DriveFormat::Qcow2, ..top };
        lock(&self.shared.drives).insert(drive.clone(), top);
        Ok(())
    }

    async fn save(&self, into: &SavedMachine) -> Result<(), MachineError> {
        let create = |path: PathBuf| {
            File::create(&path)
                .map_err(MachineError::io(format!("failed to create `{}`", path.display())))
        };
        let (memory, state) = (create(into.memory())?, create(into.state())?);
        let fds = [memory.as_fd(), state.as_fd()];
        self.ask("save the machine", |id| ToVmm::Save { id }, &fds).await
    }

    fn confinement(&self) -> Vec<Confinement> {
        vec![self.shared.confinement.clone()]
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = self.shared.counters.snapshot();
        let resident = lock(&self.shared.mappings).as_mut().and_then(Mappings::resident_kib);
        if let Some((own, guest)) = resident {
            counters.extend([("rss_kib".to_owned(), own), ("rss_guest_kib".to_owned(), guest)]);
        }
        counters
    }
}

#[cfg(test)]
mod tests;
