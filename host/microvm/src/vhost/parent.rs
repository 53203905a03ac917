//! The parent's side of the device's process.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use machine::OnGuestConnect;

use crate::{
    backend::{
        VMM_VERB, WORDS_TAIL_BYTES,
        output::{Tail, Words, follow},
        process::{Process, decide, describe, wait_for_start},
    },
    control::{BootVsock, Channel, FromVmm, Sandbox, ToVmm},
    counters::Counters,
};

/// What the process is called in errors.
const WHO: &str = "the process of the vsock device";
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
}

/// A running vsock device in a confined process. It ends with the other VMM's
/// end of the connection or with this value, whichever comes first.
#[derive(Debug)]
pub struct VsockProcess {
    shared: Arc<Shared>,
    monitor: Option<JoinHandle<()>>,
}

/// What the process is started with.
struct Launch {
    program: std::path::PathBuf,
    listener: UnixListener,
    policy: OnGuestConnect,
    sandbox: Sandbox,
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
        let launch =
            Launch { program: program.to_owned(), listener, policy, sandbox: Sandbox::Enforce };
        let (ready, started) = mpsc::sync_channel(1);
        // The thread lives as long as the process, because the death signal of
        // Linux follows the thread that started a child.
        let monitor = thread::Builder::new()
            .name("vhost-monitor".to_owned())
            .spawn(move || monitor(launch, &ready, on_failure))?;
        let shared = started.recv().map_err(|_| io::Error::other("its thread has ended"))??;
        Ok((Self { shared, monitor: Some(monitor) }, for_vmm))
    }

    /// Opens a connection to a port of the guest. Returns at once: a guest that
    /// refuses, and a device that is gone, show as the end of the stream.
    ///
    /// # Errors
    /// When descriptors ran out, or the process is gone.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.shared.control.send(&ToVmm::Adopt { port }, &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// What the device has counted, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = self.shared.counters.snapshot();
        counters.retain(|(name, _)| name.starts_with(COUNTERS));
        counters
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
fn monitor(launch: Launch, ready: &Ready, on_failure: impl FnOnce(String)) {
    let (shared, mut child, words) = match begin(launch) {
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

fn begin(launch: Launch) -> io::Result<(Shared, Child, Words)> {
    let counters = Counters::new().map_err(io::Error::other)?;
    let (ours, theirs) = Channel::pair()?;
    let (policy, asking) = Channel::pair()?;
    let mut child = Command::new(&launch.program)
        .arg(VMM_VERB)
        .arg(SOCKET_NAME)
        .arg0("vbuild-vsock")
        .env_clear()
        .stdin(Stdio::from(theirs.into_fd()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut words = Words::default();
    let started = (|| {
        if let Some(pipe) = child.stderr.take() {
            let tail = Arc::new(Mutex::new(Tail::new(WORDS_TAIL_BYTES)));
            words.reader = Some(follow(pipe, Arc::clone(&tail))?);
            words.tail = Some(tail);
        }
        decide(policy, launch.policy)?;
        let boot = BootVsock {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            parent: nix::unistd::getpid().as_raw(),
            sandbox: launch.sandbox,
        };
        let fds = [counters.file().as_fd(), asking.fd(), launch.listener.as_fd()];
        ours.send(&ToVmm::BootVsock(boot), &fds)?;
        wait_for_start(&ours).map_err(io::Error::other)
    })();
    if let Err(error) = started {
        // It has ended by itself or has nothing to lose yet.
        let _ = child.kill();
        let status = child.wait()?;
        let reason = error.to_string();
        return Err(match reason.is_empty() {
            true => io::Error::other(describe(WHO, status, &words.last())),
            false => io::Error::other(reason),
        });
    }
    let process = Process::of(&child);
    let ending = AtomicBool::new(false);
    Ok((Shared { control: ours, counters, process, ending }, child, words))
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
