//! A device of a machine run by another VMM, in its own confined process: the parent's side, common
//! to all such devices.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
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
        output::LogTail,
        process::{self, Launch, Launched, Process, describe},
    },
    control::{Channel, FromVmm, Role, Start, ToVmm},
    counters::Counters,
    sandbox::Sandbox,
};

/// The names of a kind of device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Titles {
    /// The name in reports about confinement.
    pub(crate) confined: &'static str,
    /// The name in errors.
    pub(crate) who: &'static str,
    /// The program name in process listings.
    pub(crate) shown_as: &'static str,
    /// An additional argument in process listings.
    pub(crate) argument: &'static str,
}

/// The parameters of starting a device.
pub(crate) struct Device {
    /// The program, which calls [`crate::vmm_child`] if its first argument is [`VMM_VERB`].
    pub(crate) program: PathBuf,
    pub(crate) titles: Titles,
    pub(crate) role: Role,
    /// The connection to the other VMM.
    pub(crate) socket: OwnedFd,
    /// Decides about connections that the guest opens.
    pub(crate) policy: OnGuestConnect,
}

/// State shared by the device's handle and its thread.
#[derive(Debug)]
struct Shared {
    control: Channel,
    counters: Counters,
    process: Process,
    /// Whether the end was requested.
    ending: AtomicBool,
    confinement: Confinement,
}

/// A running device. It ends when the other VMM closes the connection, or when this value is
/// dropped.
#[derive(Debug)]
pub(crate) struct DeviceProcess {
    shared: Arc<Shared>,
    monitor: Option<JoinHandle<()>>,
}

impl DeviceProcess {
    /// Starts the device. `on_failure` is called on a protocol error of the other VMM, or if the
    /// process dies. Blocks while the process starts, some milliseconds.
    ///
    /// # Errors
    /// Fails if the process does not start.
    pub(crate) fn start(
        device: Device,
        on_failure: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        let (ready, started) = mpsc::sync_channel(1);
        // The thread lives as long as the process, because Linux sends the parent-death signal when
        // the thread that started a child ends.
        let monitor = thread::Builder::new()
            .name(format!("{}-monitor", device.titles.argument))
            .spawn(move || monitor(device, &ready, on_failure))?;
        let shared = started.recv().map_err(|_| io::Error::other("its thread has ended"))??;
        Ok(Self { shared, monitor: Some(monitor) })
    }

    /// The channel for messages to the device.
    pub(crate) fn control(&self) -> &Channel {
        &self.shared.control
    }

    /// The counters of the device.
    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The confinement of the process.
    pub(crate) fn confinement(&self) -> Confinement {
        self.shared.confinement.clone()
    }

    /// The process id, while it lives.
    pub(crate) fn process(&self) -> Option<u32> {
        self.shared.process.id()
    }
}

impl Drop for DeviceProcess {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.process.kill();
        if self.monitor.take().is_some_and(|monitor| monitor.join().is_err()) {
            tracing::error!("the thread of {} panicked", self.shared.confinement.process);
        }
    }
}

type Ready = mpsc::SyncSender<io::Result<Arc<Shared>>>;

/// Starts and monitors the process; runs on its own thread.
fn monitor(device: Device, ready: &Ready, on_failure: impl FnOnce(String)) {
    let who = device.titles.who;
    let (shared, mut child, words) = match begin(device) {
        Ok(begun) => begun,
        Err(error) => {
            // If the caller is gone, so is the machine.
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
    if let Some(reason) = told.or_else(|| Some(describe(who, died?, &words.last()))) {
        on_failure(reason);
    }
}

fn begin(device: Device) -> io::Result<(Shared, Child, LogTail)> {
    let counters = Counters::new().map_err(io::Error::other)?;
    let Titles { confined, who, shown_as, argument } = device.titles;
    let launch = Launch {
        program: &device.program,
        arguments: &[VMM_VERB.into()],
        name: argument,
        shown_as,
        who,
        on_guest_connect: device.policy,
        console: None,
    };
    let launched = process::launch(launch, |control, asking| {
        let fds = [counters.file().as_fd(), asking.fd(), device.socket.as_fd()];
        control.send(&ToVmm::Start(Start::new(Sandbox::Enforce, device.role)), &fds)
    });
    let Launched { control, child, words, landlock, .. } = launched.map_err(io::Error::other)?;
    let process = Process::of(&child);
    let confinement = Confinement {
        process: confined.to_owned(),
        landlock,
        system_calls: Sandbox::Enforce.into(),
    };
    let ending = AtomicBool::new(false);
    Ok((Shared { control, counters, process, ending, confinement }, child, words))
}
