//! A running machine: process, monitor and vsock device behind the [`Machine`] trait.

use std::{
    collections::HashMap,
    fs::File,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use confine::Confinement;
use machine::{
    DriveFormat, DriveSerial, HaltReason, Machine, MachineError, MachineSpec, SavedMachine, Start,
};
use microvm::{OpenDrive, VsockProcess, create_layer, file_bytes_max, open_drive};
use qapi::qmp::{BlockdevSnapshot, blockdev_snapshot};
use tokio::sync::watch;

use crate::{
    Qemu,
    argv::{Given, Host, argv, layer_node, memory_mib, node_name},
    console::TAIL_MAX_BYTES,
    halt::{self, Seen},
    handed::{Handed, Names, SetId, read_only},
    process::{Exit, Input, Launch, Process},
    qmp::{BlockdevAdd, Notice, Qmp, QmpError},
    saving,
};

/// Time limit for the last events after QEMU has exited; they are in the socket by then, and
/// reading them takes one wake-up of the runtime.
const LAST_EVENTS_LIMIT: Duration = Duration::from_secs(2);

/// State that the observers of a machine share.
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

    /// Handles a failure of the vsock device: the guest is useless without it, so the machine ends.
    fn vsock_failed(&self, cause: String) {
        tracing::error!(%cause, "the vsock device failed");
        self.seen().vsock_failure = Some(cause);
        self.end_process();
    }

    /// Handles an event of QEMU.
    fn observe(&self, notice: Notice) {
        let stopped = matches!(notice, Notice::IoError { .. });
        if stopped {
            tracing::error!("{}", halt::io_error(&notice));
        }
        self.seen().notices.push(notice);
        if stopped {
            // The machine is stopped, and nothing would resume it.
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
    memory: Arc<File>,
    layers: tokio::sync::Mutex<Layers>,
    ended: watch::Receiver<Option<HaltReason>>,
}

/// The files of the drives, which change while the machine runs.
#[derive(Debug)]
struct Layers {
    names: Names,
    tops: HashMap<DriveSerial, Top>,
}

/// The topmost layer of a drive.
#[derive(Debug, Clone)]
struct Top {
    node: String,
    path: PathBuf,
    format: DriveFormat,
    disk_bytes: u64,
    read_only: bool,
    durable: bool,
    /// The number of layers added to it.
    pushed: u32,
}

/// The opened drives of a machine.
struct Drives {
    /// QEMU's names of each drive's files.
    sets: Vec<Vec<SetId>>,
    tops: HashMap<DriveSerial, Top>,
    /// Maximum size of any file of the machine.
    file_bytes: u64,
}

fn open_drives(spec: &MachineSpec, handed: &mut Handed) -> Result<Drives, MachineError> {
    // The guest's memory is a file too.
    let mut file_bytes = u64::from(memory_mib(spec)) << 20;
    let (mut sets, mut tops) = (Vec::new(), HashMap::new());
    for drive in &spec.drives {
        let OpenDrive { files, disk_bytes } = open_drive(drive)?;
        file_bytes = file_bytes.max(file_bytes_max(disk_bytes));
        let below = drive.below.iter().map(|layer| &layer.path);
        let paths = std::iter::once(&drive.path).chain(below);
        let mut own = Vec::new();
        for (index, (path, file)) in paths.zip(files).enumerate() {
            let writable = index == 0 && !drive.read_only;
            let set = handed.give_image(path, file, writable);
            own.push(
                set.map_err(MachineError::io(format!("open `{}` once more", path.display())))?,
            );
        }
        sets.push(own);
        let top = Top {
            node: node_name(drive),
            path: drive.path.clone(),
            format: drive.format,
            disk_bytes,
            read_only: drive.read_only,
            durable: drive.durable,
            pushed: 0,
        };
        tops.insert(drive.serial.clone(), top);
    }
    Ok(Drives { sets, tops, file_bytes })
}

impl QemuMachine {
    /// Starts QEMU and negotiates with its monitor.
    pub(crate) async fn start(
        qemu: &Qemu,
        host: Host,
        spec: MachineSpec,
    ) -> Result<Self, MachineError> {
        let watched = Arc::new(Watched::default());
        let (vsock, vhost) = start_vsock(qemu, &spec, &watched).await?;
        let (qmp, qmp_of_qemu) =
            UnixStream::pair().map_err(MachineError::io("make the monitor's connection"))?;
        let mut handed = Handed::default();
        let (qmp_fd, vhost_fd) = (handed.give(qmp_of_qemu.into()), handed.give(vhost.into()));
        let memory = guest_memory(&spec).await?;
        let for_qemu = memory.try_clone().map_err(MachineError::io("share the guest's memory"))?;
        let memory_fd = handed.give(for_qemu.into());
        let drives = open_drives(&spec, &mut handed)?;
        let given = Given { qmp: qmp_fd, vhost: vhost_fd, memory: memory_fd, images: &drives.sets };
        let mut args = argv(&spec, host, given)?;
        handed.arguments(&mut args);
        let mut paths = qemu.paths().await?;
        paths.read.extend(boot_files(&spec)?);
        let names = handed.names.clone();
        tracing::debug!(program = %qemu.program.display(), ?args, "starting QEMU");
        let launch = Launch {
            helper: qemu.helper.clone(),
            program: qemu.program.clone(),
            args: args.0,
            descriptors: handed.into_descriptors(),
            paths,
            file_bytes: drives.file_bytes,
            input: Input::Null,
            console_max_bytes: TAIL_MAX_BYTES,
        };

        let (all_seen, last_event) = mpsc::channel::<()>();
        let (tell, ended) = watch::channel(None);
        let at_exit = Arc::clone(&watched);
        let process = Process::start(launch, move |exit| {
            // The sender is dropped with the event observer, after the last event.
            let _ = last_event.recv_timeout(LAST_EVENTS_LIMIT);
            let _ = tell.send(Some(why(&at_exit, &exit)));
        })
        .await
        .map_err(MachineError::io("start QEMU"))?;
        *watched.process() = Some(process.clone());

        let observed = Arc::clone(&watched);
        let observer = move |notice| {
            let _until_the_end = &all_seen;
            observed.observe(notice);
        };
        let qmp = match Qmp::negotiate(qmp, observer).await {
            Ok(qmp) => qmp,
            Err(cause) => return Err(not_started(&process, ended, &names, &cause).await),
        };
        let layers = tokio::sync::Mutex::new(Layers { names, tops: drives.tops });
        let machine = Self { layers, watched, process, qmp, vsock, memory, ended };
        // An error drops the machine, which ends it.
        if let Start::Restore(saved) = &spec.start {
            saving::restore(&machine.qmp, saved).await?;
        }
        Ok(machine)
    }

    /// Adds a layer to a drive: sends the file to QEMU, creates its node, and switches the drive to
    /// it.
    async fn put_layer(
        &self,
        set: SetId,
        node: &str,
        top: &Top,
        file: &File,
    ) -> Result<(), QmpError> {
        for file in [read_only(file)?.as_fd(), file.as_fd()] {
            self.qmp.add_fd(set, file).await?;
        }
        self.qmp.execute(BlockdevAdd(layer_node(node, set, top.durable))).await?;
        let snapshot = BlockdevSnapshot { node: top.node.clone(), overlay: node.to_owned() };
        self.qmp.execute(blockdev_snapshot(snapshot)).await.map(drop)
    }

    fn has_ended(&self) -> Result<(), MachineError> {
        match &*self.ended.borrow() {
            Some(reason) => Err(MachineError::Ended(reason.clone())),
            None => Ok(()),
        }
    }
}

/// Starts the vsock device and returns QEMU's end of its connection.
async fn start_vsock(
    qemu: &Qemu,
    spec: &MachineSpec,
    watched: &Arc<Watched>,
) -> Result<(VsockProcess, UnixStream), MachineError> {
    let at_failure = Arc::clone(watched);
    let on_failure = move |cause| at_failure.vsock_failed(cause);
    let policy = Arc::clone(&spec.on_guest_connect);
    let (starter, run_dir) = (qemu.helper.clone(), spec.run_dir.clone());
    let starting = tokio::task::spawn_blocking(move || {
        VsockProcess::start(&starter, &run_dir, policy, on_failure)
    });
    let started = starting.await.map_err(std::io::Error::other).flatten();
    started.map_err(MachineError::io("start the vsock device"))
}

/// The guest's memory as a file.
async fn guest_memory(spec: &MachineSpec) -> Result<Arc<File>, MachineError> {
    let (bytes, start) = (u64::from(memory_mib(spec)) << 20, spec.start.clone());
    let making = tokio::task::spawn_blocking(move || saving::memory(bytes, &start));
    let made = making.await.map_err(std::io::Error::other).flatten();
    made.map(Arc::new).map_err(MachineError::io("make the guest's memory"))
}

/// The files that QEMU accepts only by path. Checked here, because QEMU's own errors are less
/// clear.
fn boot_files(spec: &MachineSpec) -> Result<Vec<PathBuf>, MachineError> {
    let check = |path: &PathBuf| {
        let unusable = |cause: std::io::Error| MachineError::Unavailable {
            what: format!("`{}`", path.display()),
            reason: format!("it cannot be opened for reading: {cause}"),
            hint: None,
        };
        File::open(path).map_err(unusable)?;
        Ok(path.clone())
    };
    [&spec.kernel, &spec.initrd].into_iter().map(check).collect()
}

/// The reason of the end; called after all observations are complete.
fn why(watched: &Watched, exit: &Exit) -> HaltReason {
    let console_panic =
        watched.process().as_ref().is_some_and(|process| process.console.shows_panic());
    let mut seen = watched.seen();
    seen.console_panic = console_panic;
    halt::reason(&seen, exit)
}

/// The error if QEMU ended before its monitor was ready: usually its standard error contains the
/// reason.
async fn not_started(
    process: &Process,
    mut ended: watch::Receiver<Option<HaltReason>>,
    names: &Names,
    monitor: &QmpError,
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
    let reason = names.with_file_names(&said.unwrap_or_else(|| monitor.to_string()));
    if let Some(image) = image_in_use(&reason) {
        return MachineError::Unavailable {
            what: format!("`{image}`"),
            reason: "another process is using it".to_owned(),
            hint: Some("wait for the other vbuild or QEMU to end".to_owned()),
        };
    }
    MachineError::Vmm { action: "start".to_owned(), reason }
}

/// The image that QEMU could not lock, if its message reports that.
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
        let top = layers.tops.get(drive).cloned();
        let top = top.ok_or_else(|| failed("no such drive".to_owned()))?;
        if top.read_only {
            return Err(failed("the drive is read-only".to_owned()));
        }
        let file = create_layer(new_layer, top.disk_bytes, &top.path, top.format)?;
        let set = layers.names.add(new_layer);
        let pushed = top.pushed + 1;
        let node = format!("drive-{drive}.{pushed}");
        let put = self.put_layer(set, &node, &top, &file).await;
        put.map_err(|cause| failed(layers.names.with_file_names(&cause.to_string())))?;
        let path = new_layer.to_owned();
        let top = Top { node, path, format: DriveFormat::Qcow2, pushed, ..top };
        layers.tops.insert(drive.clone(), top);
        Ok(())
    }

    async fn save(&self, into: &SavedMachine) -> Result<(), MachineError> {
        self.has_ended()?;
        saving::save(&self.qmp, &self.memory, into).await
    }

    fn confinement(&self) -> Vec<Confinement> {
        let own = self.process.confinement.clone();
        own.into_iter().chain([self.vsock.confinement()]).collect()
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
        // Image locks and memory are released when the process is gone: wait for that, some
        // milliseconds, so that the caller can use the files at once.
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
