//! The parent's side of the device's process.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use confine::Confinement;
use machine::OnGuestConnect;

use crate::{
    backend::{
        VMM_VERB,
        output::Words,
        process::{self, Launch, Launched, Process, describe},
    },
    control::{Channel, FromVmm, Role, Sandbox, Start, ToVmm},
    counters::Counters,
};

/// What the process is called in errors.
const WHO: &str = "the process of the vsock device";
/// What it is called where people read what confines it.
pub(crate) const NAME: &str = "vsock device";
/// The name of the socket for the moment in which it exists.
const SOCKET_NAME: &str = "vhost-vsock";
/// How the names of its counters begin; the others stay zero.
const COUNTERS: &str = "vsock_";

/// What the device's handle and its thread share.
#[derive(Debug)]
struct Shared {
    control: Channel,
    counters: Counters,
    process: Process,
    /// Its end is wanted.
    ending: AtomicBool,
    confinement: Confinement,
}

/// A running vsock device in a confined process. It ends with the other VMM's
/// end of the connection or with this value, whichever comes first.
#[derive(Debug)]
pub struct VsockProcess {
    shared: Arc<Shared>,
    monitor: Option<JoinHandle<()>>,
}

/// What the process is started with.
struct Device {
    program: PathBuf,
    listener: UnixListener,
    policy: OnGuestConnect,
}

impl VsockProcess {
    /// Starts the device and returns the connection that the other VMM is to
    /// inherit. `program` calls [`crate::vmm_child`] when its first argument is
    /// [`VMM_VERB`]. The socket exists in `run_dir` only for a moment.
    /// `on_failure` is called when the two sides do not understand each other, or
    /// the process dies. Blocks for the start of a process, some milliseconds.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn start(
        program: &Path,
        run_dir: &Path,
        policy: OnGuestConnect,
        on_failure: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<(Self, UnixStream)> {
        let (listener, for_vmm) = rendezvous(run_dir)?;
        let device = Device { program: program.to_owned(), listener, policy };
        let (ready, started) = mpsc::sync_channel(1);
        // The thread lives as long as the process, because the death signal of
        // Linux follows the thread that started a child.
        let monitor = thread::Builder::new()
            .name("vhost-monitor".to_owned())
            .spawn(move || monitor(device, &ready, on_failure))?;
        let shared = started.recv().map_err(|_| io::Error::other("its thread has ended"))??;
        Ok((Self { shared, monitor: Some(monitor) }, for_vmm))
    }

    /// Opens a connection to a port of the guest. Returns at once: a guest that
    /// refuses, and a device that is gone, show as the end of the stream.
    ///
    /// # Errors
    /// When descriptors ran out, too many streams are open, or the process is gone.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let Shared { control, counters, .. } = &*self.shared;
        process::connect(control, counters, port).map_err(io::Error::other)
    }

    /// What the device has counted, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = self.shared.counters.snapshot();
        counters.retain(|(name, _)| name.starts_with(COUNTERS));
        counters
    }

    /// What confines the process.
    #[must_use]
    pub fn confinement(&self) -> Confinement {
        self.shared.confinement.clone()
    }

    /// The process, while it lives.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.shared.process.id()
    }
}

impl Drop for VsockProcess {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.process.kill();
        if self.monitor.take().is_some_and(|monitor| monitor.join().is_err()) {
            tracing::error!("the thread of the vsock device panicked");
        }
    }
}

type Ready = mpsc::SyncSender<io::Result<Arc<Shared>>>;

/// The life of the process, on its own thread.
fn monitor(device: Device, ready: &Ready, on_failure: impl FnOnce(String)) {
    let (shared, mut child, words) = match begin(device) {
        Ok(begun) => begun,
        Err(error) => {
            // If the caller has gone, so has the machine.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let shared = Arc::new(shared);
    if ready.send(Ok(Arc::clone(&shared))).is_err() {
        shared.process.kill();
    }
    let told = match shared.control.receive::<FromVmm>() {
        Ok(Some((FromVmm::Failed { reason }, _))) => Some(reason),
        _ => None,
    };
    let status = shared.process.reap(&mut child);
    if shared.ending.load(Ordering::SeqCst) {
        return;
    }
    let died = status.filter(|status| !status.success());
    if let Some(reason) = told.or_else(|| Some(describe(WHO, died?, &words.last()))) {
        on_failure(reason);
    }
}

fn begin(device: Device) -> io::Result<(Shared, Child, Words)> {
    let counters = Counters::new().map_err(io::Error::other)?;
    let launch = Launch {
        program: &device.program,
        arguments: &[VMM_VERB.into()],
        name: SOCKET_NAME,
        shown_as: "vbuild-vsock",
        who: WHO,
        on_guest_connect: device.policy,
        console: None,
    };
    let launched = process::launch(launch, |control, asking| {
        let fds = [counters.file().as_fd(), asking.fd(), device.listener.as_fd()];
        control.send(&ToVmm::Start(Start::new(Sandbox::Enforce, Role::Vsock)), &fds)
    });
    let Launched { control, child, words, landlock, .. } = launched.map_err(io::Error::other)?;
    let process = Process::of(&child);
    let confinement =
        Confinement { process: NAME.to_owned(), landlock, system_calls: Sandbox::Enforce.into() };
    let ending = AtomicBool::new(false);
    Ok((Shared { control, counters, process, ending, confinement }, child, words))
}

/// A listener with one connection waiting, and that connection's other end: the
/// library accepts connections but does not take them ready-made.
fn rendezvous(run_dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let directory = File::open(run_dir)?;
    // Socket addresses hold 108 bytes; through the descriptor, a path of any
    // length fits.
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path);
    std::fs::remove_file(&path)?;
    Ok((listener, connected?))
}
