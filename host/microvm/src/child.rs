//! The VMM process: receives a machine description on its standard input, confines itself, runs the
//! machine, and serves its parent until the end.
//!
//! Initial descriptors: 0 is the control socket, 1 the pipe for the guest's console, 2 the pipe for
//! error messages. Everything else arrives with the first message.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::ExitCode,
    sync::{Arc, mpsc},
    time::Duration,
};

use confine::Landlock;
use kvm_ioctls::Kvm;
use machine::{BlockSize, DriveSerial, HaltReason};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vsock_mux::{Connector, GUEST_CID, Mux};

use crate::{
    child_error::{ChildError, io_error},
    connections::{ask_parent, connect},
    control::{
        BOOT_DESCRIPTORS, Begin, Boot, BootDrive, Channel, Format, FromVmm, Role, Start, ToVmm,
    },
    counters::Counters,
    devices::{
        balloon::Balloon,
        block::{
            Block, Report, Setup, Swap,
            image::{Image, NewLayer},
            qcow2::Qcow2,
            raw::Raw,
        },
        rng::Rng,
        virtio::Device,
        vsock::Vsock,
        worker::Requests,
    },
    nic,
    sandbox::{self, Confined, Kind, Sandbox, SandboxError},
    saving::{MachineState, SavingError},
    trial,
    vcpu::End,
    vhost,
    vm::{Origin, Parts, Running, Vm},
};

/// Time limit for a disk to swap its layer: one request in flight and a flush.
const SWAP_TIMEOUT: Duration = Duration::from_secs(60);
/// File size allowed beyond the size of the disk: qcow2 metadata and rounding.
const FILE_SLACK_BYTES: u64 = 256 << 20;

/// Runs a VMM process from start to end; `main` calls this when started as one. It must be called
/// before any thread is started and any descriptor is opened.
#[must_use]
pub fn vmm_child() -> ExitCode {
    // SAFETY: descriptor 0 was given by the parent for this purpose; nothing
    // in this process has used standard input, and nothing else will.
    let control = Channel::from_fd(unsafe { OwnedFd::from_raw_fd(0) });
    die_of_panics();
    limit_arenas();
    let begun = sandbox::close_inherited().map_err(ChildError::from).and_then(|()| begin(&control));
    let ended = match begun {
        Ok((Start { role: Role::Machine(boot), sandbox, .. }, fds)) => {
            match build(boot, sandbox, fds) {
                Ok(machine) => Ok(machine.serve(&control)),
                Err(error) => Err((error, control)),
            }
        }
        Ok((Start { role: Role::Vsock, sandbox, .. }, fds)) => vhost::serve(sandbox, fds, control),
        Ok((Start { role: Role::Nic { egress_port }, sandbox, .. }, fds)) => {
            nic::serve(sandbox, egress_port, fds, &control).map_err(|error| (error, control))
        }
        Ok((Start { role: Role::Trial { kind, attempt }, sandbox, .. }, _)) => {
            trial::serve(sandbox, kind, attempt, &control).map_err(|error| (error, control))
        }
        Err(error) => Err((error, control)),
    };
    ended.unwrap_or_else(|(error, control)| {
        let reason = checked::chain(&error);
        // If the parent is gone, the error cannot be reported.
        let _ = control.send(&FromVmm::Failed { reason }, &[]);
        ExitCode::FAILURE
    })
}

/// Makes a panic on any thread end the process, with its message as the last output: a machine must
/// not continue without one of its parts.
fn die_of_panics() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

/// Limits the allocator to one arena for all threads. By default it creates more when threads
/// compete, and reads files to size and shrink them, which the sandbox refuses. One arena also
/// keeps the process small, and the threads here allocate little.
fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    {
        const ARENAS: libc::c_int = 1;
        // SAFETY: mallopt takes integers and is called before any thread starts.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    }
}

/// The state of the process after the start.
struct Machine {
    running: Running,
    connector: Connector,
    disks: Vec<(String, Requests<Swap>)>,
    landlock: Landlock,
    /// The open `/proc/self/smaps`, which tells the parent the memory usage of this process.
    mappings: Option<File>,
}

fn build(boot: Boot, mode: Sandbox, fds: Vec<OwnedFd>) -> Result<Machine, ChildError> {
    let layers: usize = boot.drives.iter().map(|drive| drive.layers.len()).sum();
    if fds.len() != BOOT_DESCRIPTORS + layers {
        return Err(ChildError::Message(format!("{} files came with it", fds.len())));
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| ChildError::Message("too few files".to_owned()));
    let (kvm, first, second, counters, policy) = (next()?, next()?, next()?, next()?, next()?);
    let images = boot
        .drives
        .iter()
        .map(|drive| {
            let files = drive.layers.iter().map(|_| next()).collect::<Result<Vec<_>, _>>()?;
            open_drive(drive, files)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let counters = Arc::new(Counters::open(File::from(counters))?);
    let console = console_pipe()?;
    // Without /proc, memory usage is not reported.
    let mappings = File::open("/proc/self/smaps").ok();

    let largest = images.iter().map(|image| image.len()).max().unwrap_or(0);
    // A machine to be saved writes its memory into a file.
    let (largest, [main_kind, vcpu_kind]) = match boot.begin {
        Begin::Boot | Begin::Restore => (largest, [Kind::Main, Kind::Vcpu]),
        Begin::BootToSave => (largest.max(boot.memory_bytes), [Kind::MainToSave, Kind::VcpuToSave]),
    };
    let Confined { lists, landlock } = sandbox::confine_process(mode, file_bytes_max(largest))?;

    let end = Arc::new(End::new().map_err(io_error("create an event"))?);
    let ending = Arc::clone(&end);
    let report: Report = Arc::new(move |text| ending.failed(text));
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    let mut disks = Vec::new();
    for (drive, image) in boot.drives.iter().zip(images) {
        let setup = setup(drive)?;
        let confine = lists.confine(Kind::Block);
        let disk = Block::start(setup, image, Arc::clone(&counters), Arc::clone(&report), confine)
            .map_err(io_error("start a disk's thread"))?;
        disks.push((drive.serial.clone(), disk.requests()));
        devices.push(Box::new(disk));
    }
    let (mux, connector) = Mux::new(GUEST_CID, ask_parent(Channel::from_fd(policy))?)?;
    let vsock =
        Vsock::start((mux, connector.clone()), Arc::clone(&counters), lists.confine(Kind::Vsock))
            .map_err(io_error("start the vsock thread"))?;
    devices.push(Box::new(vsock));
    let rng = Rng::start(Arc::clone(&counters), lists.confine(Kind::Rng))
        .map_err(io_error("start the random number thread"))?;
    devices.push(Box::new(rng));
    let balloon = Balloon::start(Arc::clone(&counters), lists.confine(Kind::Balloon))
        .map_err(io_error("start the balloon's thread"))?;
    devices.push(Box::new(balloon));

    // SAFETY: the descriptor is the open KVM device from the parent, with no other owner
    // in this process; an ioctl on anything else fails.
    let kvm = unsafe { Kvm::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(kvm)) };
    let origin = origin(boot.begin, boot.cmdline, [first, second].map(File::from))?;
    let vm = Vm::build(
        Parts {
            kvm,
            vcpus: boot.vcpus,
            memory_bytes: boot.memory_bytes,
            origin,
            console: Some(console),
            counters,
            end,
        },
        devices,
    )?;
    let vcpu_lists = lists.clone();
    let running = vm.start(move || vcpu_lists.apply(vcpu_kind), || lists.apply(main_kind))?;
    Ok(Machine { running, connector, disks, landlock, mappings })
}

fn origin(begin: Begin, cmdline: String, files: [File; 2]) -> Result<Origin, ChildError> {
    let boots =
        |[kernel, initrd]: [File; 2], to_save| Origin::Kernel { kernel, initrd, cmdline, to_save };
    Ok(match begin {
        Begin::Boot => boots(files, false),
        Begin::BootToSave => boots(files, true),
        Begin::Restore => {
            let [memory, state] = files;
            Origin::Saved { memory, state: Box::new(MachineState::read(&state)?) }
        }
    })
}

/// The file size limit of a process whose largest disk has `disk_bytes`.
#[must_use]
pub fn file_bytes_max(disk_bytes: u64) -> u64 {
    disk_bytes.saturating_add(disk_bytes / 8).saturating_add(FILE_SLACK_BYTES)
}

/// Receives the first message; from then on the process dies with its parent.
fn begin(control: &Channel) -> Result<(Start, Vec<OwnedFd>), ChildError> {
    let received = control.receive::<ToVmm>().map_err(|e| ChildError::Message(e.to_string()))?;
    let Some((ToVmm::Start(start), fds)) = received else {
        return Err(ChildError::Message("it does not say what to be".to_owned()));
    };
    if start.version != env!("CARGO_PKG_VERSION") {
        return Err(ChildError::Message(format!(
            "it comes from version {}, this is {}; was the program replaced?",
            start.version,
            env!("CARGO_PKG_VERSION")
        )));
    }
    confine::die_with(start.parent).map_err(SandboxError::from)?;
    Ok((start, fds))
}

fn setup(drive: &BootDrive) -> Result<Setup, ChildError> {
    let failed = |reason: String| ChildError::Drive { serial: drive.serial.clone(), reason };
    Ok(Setup {
        serial: DriveSerial::new(drive.serial.clone()).map_err(|e| failed(e.to_string()))?,
        read_only: drive.read_only,
        durable: drive.durable,
        block_size: match drive.block_bytes {
            512 => BlockSize::B512,
            4096 => BlockSize::B4096,
            other => return Err(failed(format!("block size {other} is not known"))),
        },
    })
}

/// Opens the layers of a drive, which are given topmost first, from the bottom up.
fn open_drive(drive: &BootDrive, files: Vec<OwnedFd>) -> Result<Box<dyn Image>, ChildError> {
    let failed = |error: io::Error| ChildError::Drive {
        serial: drive.serial.clone(),
        reason: error.to_string(),
    };
    let mut below: Option<Box<dyn Image>> = None;
    for (index, (file, format)) in files.into_iter().zip(&drive.layers).enumerate().rev() {
        let file = File::from(file);
        let read_only = drive.read_only || index > 0;
        below = Some(match format {
            Format::Raw => Box::new(Raw::new(file).map_err(failed)?),
            Format::Qcow2 => {
                Box::new(Qcow2::open(file, below, read_only).map_err(|(_, e)| failed(e))?)
            }
        });
    }
    below.ok_or_else(|| failed(io::Error::other("it has no file")))
}

/// The write end of the console pipe, made non-blocking.
fn console_pipe() -> Result<File, ChildError> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let failed = io_error("set up the console pipe");
    let stdout = io::stdout();
    fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(io::Error::from)
        .and_then(|_| stdout.as_fd().try_clone_to_owned())
        .map(File::from)
        .map_err(failed)
}

impl Machine {
    fn serve(mut self, control: &Channel) -> ExitCode {
        let mappings = self.mappings.take();
        let files: Vec<_> = mappings.iter().map(AsFd::as_fd).collect();
        let started = FromVmm::Started { landlock: self.landlock.clone() };
        if control.send(&started, &files).is_err() {
            self.running.end(HaltReason::Killed);
        }
        drop(mappings);
        while let Ok(Turn::Message) = self.wait(control) {
            match control.receive::<ToVmm>() {
                Ok(Some((message, fds))) => self.carry_out(control, message, fds),
                // The parent is gone or sends invalid messages: nothing else can be done.
                Ok(None) | Err(_) => {
                    self.running.end(HaltReason::Killed);
                    break;
                }
            }
        }
        let reason = self.running.stop();
        // If the parent is gone, the end cannot be reported.
        let _ = control.send(&FromVmm::Ended { reason: reason.into() }, &[]);
        ExitCode::SUCCESS
    }

    fn wait(&self, control: &Channel) -> io::Result<Turn> {
        let ended = self.running.ended().as_raw_fd();
        // SAFETY: the event lives as long as `self.running`.
        let ended = unsafe { std::os::fd::BorrowedFd::borrow_raw(ended) };
        let mut fds =
            [PollFd::new(ended, PollFlags::POLLIN), PollFd::new(control.fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(if fds[0].any().unwrap_or(true) { Turn::Ended } else { Turn::Message })
    }

    fn carry_out(&mut self, control: &Channel, message: ToVmm, mut fds: Vec<OwnedFd>) {
        match message {
            ToVmm::Start(_) => self.running.end(HaltReason::Lost("started twice".to_owned())),
            ToVmm::Connect { port } => connect(&self.connector, port, fds),
            ToVmm::PushLayer { id, serial } => {
                let result = match fds.pop() {
                    Some(file) => self.push_layer(&serial, File::from(file)),
                    None => Err("no file came with the layer".to_owned()),
                };
                // If the parent is gone, the next wait detects it.
                let _ = control.send(&FromVmm::Answer { id, error: result.err() }, &[]);
            }
            ToVmm::Save { id } => {
                let files = <[OwnedFd; 2]>::try_from(fds);
                let result = match files.map(|files| files.map(File::from)) {
                    Ok([memory, state]) => self.running.save(&memory, &state),
                    Err(_) => Err(SavingError::NotNow("its files did not come with the request")),
                };
                let error = result.err().map(|error| checked::chain(&error));
                // If the parent is gone, the next wait detects it.
                let _ = control.send(&FromVmm::Answer { id, error }, &[]);
            }
        }
    }

    fn push_layer(&self, serial: &str, file: File) -> Result<(), String> {
        let (_, disk) = self
            .disks
            .iter()
            .find(|(name, _)| name == serial)
            .ok_or_else(|| format!("there is no drive `{serial}`"))?;
        let layer: NewLayer = Box::new(move |below| match Qcow2::open(file, Some(below), false) {
            Ok(image) => Ok(Box::new(image) as Box<dyn Image>),
            Err((below, error)) => Err((
                below.unwrap_or_else(|| Box::new(crate::devices::block::image::Absent)),
                error,
            )),
        });
        let (done, result) = mpsc::sync_channel(1);
        if !disk.send(Swap { layer, done }) {
            return Err("the drive's thread has ended".to_owned());
        }
        match result.recv_timeout(SWAP_TIMEOUT) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the drive does not answer".to_owned()),
        }
    }
}

enum Turn {
    Ended,
    Message,
}
