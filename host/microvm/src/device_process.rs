//! A device of a machine that another VMM runs, in a confined process of its own: the
//! parent's side, the same for every such device.

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
    control::{Channel, FromVmm, Role, Sandbox, Start, ToVmm},
    counters::Counters,
};

/// What a kind of device is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Titles {
    /// Where people read what confines it.
    pub(crate) confined: &'static str,
    /// In errors.
    pub(crate) who: &'static str,
    /// In a list of processes.
    pub(crate) shown_as: &'static str,
    /// As one more argument there.
    pub(crate) argument: &'static str,
}

/// A device that shall start.
pub(crate) struct Device {
    /// What calls [`crate::vmm_child`] when its first argument is [`VMM_VERB`].
    pub(crate) program: PathBuf,
    pub(crate) titles: Titles,
    pub(crate) role: Role,
    /// What leads to the other VMM.
    pub(crate) socket: OwnedFd,
    /// Asked about connections that the guest opens.
    pub(crate) policy: OnGuestConnect,
}

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

/// A running device. It ends with the other VMM's end of the connection or with this
/// value, whichever comes first.
#[derive(Debug)]
pub(crate) struct DeviceProcess {
    shared: Arc<Shared>,
    monitor: Option<JoinHandle<()>>,
}

impl DeviceProcess {
    /// Starts the device. `on_failure` is called when it does not understand the other
    /// VMM, or dies. Blocks for the start of a process, some milliseconds.
    ///
    /// # Errors
    /// When the process does not start.
    pub(crate) fn start(
        device: Device,
        on_failure: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        let (ready, started) = mpsc::sync_channel(1);
        // The thread lives as long as the process, because the death signal of
        // Linux follows the thread that started a child.
        let monitor = thread::Builder::new()
            .name(format!("{}-monitor", device.titles.argument))
            .spawn(move || monitor(device, &ready, on_failure))?;
        let shared = started.recv().map_err(|_| io::Error::other("its thread has ended"))??;
        Ok(Self { shared, monitor: Some(monitor) })
    }

    /// The connection over which the device is told what to do.
    pub(crate) fn control(&self) -> &Channel {
        &self.shared.control
    }

    /// What the device counts.
    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// What confines the process.
    pub(crate) fn confinement(&self) -> Confinement {
        self.shared.confinement.clone()
    }

    /// The process, while it lives.
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

/// The life of the process, on its own thread.
fn monitor(device: Device, ready: &Ready, on_failure: impl FnOnce(String)) {
    let who = device.titles.who;
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
