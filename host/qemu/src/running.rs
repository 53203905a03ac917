//! A running machine: the process, its monitor and its vsock device behind the
//! [`Machine`] trait.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    os::unix::{
        fs::{FileTypeExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use machine::{DriveFormat, DriveSerial, HaltReason, Machine, MachineError, MachineSpec};
use microvm::VsockProcess;
use nix::fcntl::OFlag;
use qapi::qmp::{BlockdevSnapshotSync, NewImageMode, blockdev_snapshot_sync};
use qcow2::Header;
use tokio::sync::watch;

use crate::{
    argv::{Host, argv, node_name, utf8},
    console::TAIL_MAX_BYTES,
    halt::{self, Seen},
    process::{Exit, Input, Launch, Process},
    qmp::{Notice, Qmp},
};

/// How long the last events are waited for after QEMU has ended; they are in
/// the socket by then, and reading them takes a wake-up of the runtime.
const LAST_EVENTS_LIMIT: Duration = Duration::from_secs(2);

/// What the observers of a machine share.
#[derive(Debug, Default)]
struct Watched {
    seen: Mutex<Seen>,
    process: Mutex<Option<Process>>,
}

impl Watched {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_process(&self) {
        if let Some(process) = &*self.process() {
            process.kill();
        }
    }

    /// The vsock device has broken with QEMU. A guest without it is of no use.
    fn vsock_failed(&self, cause: String) {
        tracing::error!(%cause, "the vsock device failed");
        self.seen().vsock_failure = Some(cause);
        self.end_process();
    }

    /// Takes an event of QEMU.
    fn observe(&self, notice: Notice) {
        let stopped = matches!(notice, Notice::IoError { .. });
        if stopped {
            tracing::error!("{}", halt::io_error(&notice));
        }
        self.seen().notices.push(notice);
        if stopped {
            // The machine stands still and nobody would ever wake it.
            self.end_process();
        }
    }
}

/// A machine under QEMU.
#[derive(Debug)]
pub(crate) struct QemuMachine {
    watched: Arc<Watched>,
    process: Process,
    qmp: Qmp,
    vsock: VsockProcess,
    /// The node at the top of each drive, and how many layers it has got.
    layers: tokio::sync::Mutex<HashMap<DriveSerial, Layers>>,
    ended: watch::Receiver<Option<HaltReason>>,
}

#[derive(Debug)]
struct Layers {
    top: String,
    pushed: u32,
}

impl QemuMachine {
    /// Starts QEMU and shakes hands with its monitor.
    pub(crate) async fn start(
        helper: &Path,
        program: &Path,
        host: Host,
        spec: MachineSpec,
    ) -> Result<Self, MachineError> {
        let args = argv(&spec, host)?;
        let io = |action: &str| {
            let action = action.to_owned();
            move |source| MachineError::Io { action, source }
        };
        let watched = Arc::new(Watched::default());
        let at_failure = Arc::clone(&watched);
        let on_failure = move |cause| at_failure.vsock_failed(cause);
        let policy = Arc::clone(&spec.on_guest_connect);
        let (starter, run_dir) = (helper.to_owned(), spec.run_dir.clone());
        let starting = tokio::task::spawn_blocking(move || {
            VsockProcess::start(&starter, &run_dir, policy, on_failure)
        });
        let started = starting.await.map_err(std::io::Error::other).flatten();
        let (vsock, vhost) = started.map_err(io("start the vsock device"))?;
        let (qmp, qmp_of_qemu) = UnixStream::pair().map_err(io("make the monitor's connection"))?;
        tracing::debug!(program = %program.display(), ?args, "starting QEMU");
        let launch = Launch {
            helper: helper.to_owned(),
            program: program.to_owned(),
            args,
            // In this order they become the numbers that the arguments name.
            descriptors: vec![qmp_of_qemu.into(), vhost.into()],
            input: Input::Null,
            console_max_bytes: TAIL_MAX_BYTES,
        };

        let (all_seen, last_event) = mpsc::channel::<()>();
        let (tell, ended) = watch::channel(None);
        let at_exit = Arc::clone(&watched);
        let process = Process::start(launch, move |exit| {
            // The sender is dropped with the observer of events, after the last.
            let _ = last_event.recv_timeout(LAST_EVENTS_LIMIT);
            let _ = tell.send(Some(why(&at_exit, &exit)));
        })
        .await
        .map_err(io("start QEMU"))?;
        *watched.process() = Some(process.clone());

        let observed = Arc::clone(&watched);
        let observer = move |notice| {
            let _until_the_end = &all_seen;
            observed.observe(notice);
        };
        let qmp = match Qmp::negotiate(qmp, observer).await {
            Ok(qmp) => qmp,
            Err(cause) => return Err(not_started(&process, ended, &cause.to_string()).await),
        };
        let layers = spec
            .drives
            .iter()
            .map(|drive| (drive.serial.clone(), Layers { top: node_name(drive), pushed: 0 }));
        Ok(Self {
            layers: tokio::sync::Mutex::new(layers.collect()),
            watched,
            process,
            qmp,
            vsock,
            ended,
        })
    }

    fn has_ended(&self) -> Result<(), MachineError> {
        match &*self.ended.borrow() {
            Some(reason) => Err(MachineError::Ended(reason.clone())),
            None => Ok(()),
        }
    }
}

/// Checks what QEMU would only complain about in its own words, and what it would not:
/// qcow2 files that name other files.
pub(crate) fn check_files(spec: &MachineSpec) -> Result<(), MachineError> {
    for path in [&spec.kernel, &spec.initrd] {
        open_file(path, false)?;
    }
    for drive in &spec.drives {
        check_image(&drive.path, drive.format, !drive.read_only, drive.below.is_empty())?;
        for (index, layer) in drive.below.iter().enumerate() {
            check_image(&layer.path, layer.format, false, index + 1 == drive.below.len())?;
        }
    }
    Ok(())
}

/// Checks one file of a drive; the lowest must not name a file below it.
fn check_image(
    path: &Path,
    format: DriveFormat,
    write: bool,
    lowest: bool,
) -> Result<(), MachineError> {
    let file = open_file(path, write)?;
    if format == DriveFormat::Raw {
        return Ok(());
    }
    let header = Header::read(&file);
    let checked = header.and_then(|header| {
        if lowest { header.check_standalone().map_err(Into::into) } else { Ok(()) }
    });
    checked.map_err(|cause| unusable(path, format!("it cannot be used as qcow2: {cause}")))
}

fn open_file(path: &Path, write: bool) -> Result<File, MachineError> {
    // O_NONBLOCK so that a pipe in the place of a file is an error and not a wait.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let options =
        || OpenOptions::new().read(true).write(write).custom_flags(nonblocking).open(path);
    let usage = if write { "writing" } else { "reading" };
    let file = options()
        .map_err(|cause| unusable(path, format!("it cannot be opened for {usage}: {cause}")))?;
    let kind = file.metadata().map(|metadata| metadata.file_type());
    match kind {
        Ok(kind) if kind.is_file() || kind.is_block_device() => Ok(file),
        _ => Err(unusable(path, "it is neither a regular file nor a block device".to_owned())),
    }
}

fn unusable(path: &Path, reason: String) -> MachineError {
    MachineError::Unavailable { what: format!("`{}`", path.display()), reason, hint: None }
}

/// The reason of the end; to be called when nothing more will be seen.
fn why(watched: &Watched, exit: &Exit) -> HaltReason {
    let console_panic =
        watched.process().as_ref().is_some_and(|process| process.console.shows_panic());
    let mut seen = watched.seen();
    seen.console_panic = console_panic;
    halt::reason(&seen, exit)
}

/// The error when QEMU did not get as far as its monitor: as a rule it has said
/// why on its standard error and left.
async fn not_started(
    process: &Process,
    mut ended: watch::Receiver<Option<HaltReason>>,
    monitor: &str,
) -> MachineError {
    let left = tokio::time::timeout(LAST_EVENTS_LIMIT, ended.wait_for(Option::is_some)).await;
    let said = match left {
        Ok(Ok(reason)) => match &*reason {
            Some(HaltReason::Lost(text)) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    };
    process.kill();
    let reason = said.unwrap_or_else(|| monitor.to_owned());
    if let Some(image) = image_in_use(&reason) {
        return MachineError::Unavailable {
            what: format!("`{image}`"),
            reason: "another process is using it".to_owned(),
            hint: Some("wait for the other vbuild or QEMU to end".to_owned()),
        };
    }
    MachineError::Vmm { action: "start".to_owned(), reason }
}

/// The image that QEMU could not lock, if that is what it complains about.
fn image_in_use(complaint: &str) -> Option<&str> {
    let rest = complaint.split_once("Failed to get ")?.1.split_once("using the image [")?.1;
    Some(rest.split_once("]?")?.0)
}

#[async_trait::async_trait]
impl Machine for QemuMachine {
    async fn connect(&self, port: u32) -> Result<UnixStream, MachineError> {
        self.has_ended()?;
        self.vsock.connect(port).map_err(|source| MachineError::Io {
            action: format!("connect to port {port} of the guest"),
            source,
        })
    }

    async fn wait(&self) -> HaltReason {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(HaltReason::Killed),
            Err(_) => HaltReason::Lost("the thread that watches QEMU is gone".to_owned()),
        }
    }

    async fn kill(&self) {
        self.watched.seen().killed = true;
        self.process.kill();
        self.wait().await;
    }

    fn console_tail(&self) -> String {
        self.process.console.text()
    }

    async fn push_layer(&self, drive: &DriveSerial, new_layer: &Path) -> Result<(), MachineError> {
        self.has_ended()?;
        let mut layers = self.layers.lock().await;
        let failed = |reason: String| MachineError::Vmm {
            action: format!("put the layer `{}` on the drive `{drive}`", new_layer.display()),
            reason,
        };
        let layer = layers.get_mut(drive).ok_or_else(|| failed("no such drive".to_owned()))?;
        let node = format!("drive-{drive}.{}", layer.pushed + 1);
        let command = blockdev_snapshot_sync(BlockdevSnapshotSync {
            device: None,
            format: Some("qcow2".to_owned()),
            mode: Some(NewImageMode::absolute_paths),
            node_name: Some(layer.top.clone()),
            snapshot_node_name: Some(node.clone()),
            snapshot_file: utf8(new_layer)?.to_owned(),
        });
        self.qmp.execute(command).await.map_err(|cause| failed(cause.to_string()))?;
        layer.top = node;
        layer.pushed += 1;
        Ok(())
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = self.vsock.counters();
        counters.extend(self.process.cpu_ms().map(|ms| ("cpu_ms".to_owned(), ms)));
        counters.extend(self.process.resident_kib().map(|kib| ("rss_kib".to_owned(), kib)));
        counters
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.watched.seen().killed = true;
        self.process.kill();
        // Image locks and memory are gone when the process is: wait for that,
        // some milliseconds, so that the caller can use the files at once.
        self.process.wait_gone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_image_is_recognised() {
        let said = "QEMU ended with status 1: qemu-system-x86_64: -blockdev {..}: Failed to get \
                    \"write\" lock\nIs another process using the image [/tmp/a b.raw]?";
        assert_eq!(image_in_use(said), Some("/tmp/a b.raw"));
        assert_eq!(image_in_use("no such file"), None);
    }
}
