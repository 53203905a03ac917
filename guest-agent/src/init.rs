//! PID 1: mounts filesystems, loads modules, enters the root, starts the agent, reaps processes.
//!
//! ```text
//!  kernel ─► /init of the initramfs
//!              mount /proc /sys /dev /run
//!              load /etc/vbuild/modules
//!              vbuild.root=SERIAL?  ─► mount the drive, overlay, move the mounts, chroot
//!              fork ─► agent (a child): listens on vsock
//!              reap for ever; when the agent ends: say so, power off
//! ```
//!
//! PID 1 itself changes its root, not only the agent, because the kernel threads that start
//! modprobe share the root of PID 1.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, chdir, chroot, setsid};
use vsock::VsockListener;
use wire::{AGENT_PORT, Failure, PARK_WORD, PARKED};

use crate::console::{self, say};
use crate::failure::{Doing, failure};
use crate::serve::Agent;
use crate::{block, modules, shutdown, sys};

/// The list of modules to load, in order, one path or name on each line.
const MODULE_LIST: &str = "/etc/vbuild/modules";

/// How long to wait for the root drive. Virtio drives appear as soon as their module is loaded;
/// this is for a drive that a slow emulator is still adding.
const ROOT_WAIT: Duration = Duration::from_secs(10);

/// The interval between two checks for the root drive.
const ROOT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The time limit of the last flush, which a frozen filesystem would block for ever.
const LAST_SYNC_WAIT: Duration = Duration::from_secs(5);

/// The maximum number of open files of the agent: a thousand streams with six each, and deep walks
/// through trees.
const FILES_MAX: u64 = 65_536;

/// Types of virtio devices, as the kernel writes them (virtio 1.2, section 5).
const VIRTIO_BALLOON: &str = "0x0005";
const VIRTIO_VSOCK: &str = "0x0013";

/// The interval between two checks for the vsock device of a restored machine.
const VSOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The stack size of a connection's thread, in bytes; the thread only reads frames.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// The highest descriptor of the standard streams.
const STDERR: i32 = 2;

/// An absent string argument of mount(2).
const NONE: Option<&str> = None;

/// The mounts of a new root: mount point, filesystem type, data.
const MOUNTS: [(&str, &str, &str); 6] = [
    ("/proc", "proc", ""),
    ("/sys", "sysfs", ""),
    ("/dev", "devtmpfs", "mode=0755"),
    ("/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"),
    ("/dev/shm", "tmpfs", "mode=1777"),
    ("/run", "tmpfs", "mode=0755"),
];

/// Links that programs expect in `/dev` and that the kernel does not make.
const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("fd/0", "/dev/stdin"),
    ("fd/1", "/dev/stdout"),
    ("fd/2", "/dev/stderr"),
];

/// The parameters for the agent on the kernel's command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wishes {
    root: Option<String>,
    writable: bool,
    /// The serials of the disks to park, because the machine will be saved.
    park: Vec<String>,
}

impl Wishes {
    fn parse(command_line: &str) -> Self {
        let mut wishes = Self::default();
        for word in command_line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("vbuild.root", serial)) => wishes.root = Some(serial.to_owned()),
                Some(("vbuild.rootmode", mode)) => wishes.writable = mode == "rw",
                _ => {}
            }
            if let Some(serials) = word.strip_prefix(PARK_WORD) {
                wishes.park = serials.split(',').map(str::to_owned).collect();
            }
        }
        wishes
    }
}

/// Runs as PID 1. It does not return, but powers the machine off at the end.
pub fn run() -> ! {
    let ended = boot();
    if let Err(failure) = ended {
        say(&format!("failed to {failure}"));
    }
    say("powering off");
    sync_within(LAST_SYNC_WAIT);
    shutdown::power_off();
    // The power could not be turned off; the kernel would panic if PID 1 ended.
    loop {
        thread::park();
    }
}

/// Sets the machine up, starts the agent, and returns when the agent has ended.
fn boot() -> Result<(), Failure> {
    mount_all();
    console::open();
    fill_standard_streams();
    load_modules();
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let wishes = Wishes::parse(&command_line);
    if let Some(serial) = &wishes.root {
        enter_root(serial, wishes.writable)?;
    }
    match sys::fork().doing(|| "start the agent")? {
        ForkResult::Parent { child } => reap(child),
        ForkResult::Child => {
            let code = agent(&wishes.park).map_or_else(
                |failure| {
                    say(&format!("failed to {failure}"));
                    1
                },
                |()| 0,
            );
            std::process::exit(code)
        }
    }
}

/// Mounts the filesystems that every root needs. Errors are ignored: a filesystem may be mounted
/// already, and one that the kernel lacks causes an error where it is used.
fn mount_all() {
    for (target, fstype, data) in MOUNTS {
        let _ = fs::create_dir(target);
        let flags = MsFlags::MS_NOSUID;
        let _ = mount(Some(fstype), target, Some(fstype), flags, Some(data));
    }
    for (target, link) in DEV_LINKS {
        let _ = std::os::unix::fs::symlink(target, link);
    }
}

/// Opens `/dev/null` as the missing standard streams. An initramfs without `/dev/console` starts
/// PID 1 without open files, and a file opened later must not become the standard output of a
/// process.
fn fill_standard_streams() {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    while let Ok(fd) = open("/dev/null", flags, Mode::empty()) {
        if fd.as_raw_fd() > STDERR {
            break;
        }
        let _ = fd.into_raw_fd();
    }
}

fn load_modules() {
    let list = fs::read_to_string(MODULE_LIST).unwrap_or_default();
    let lines = list.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let loaded = match line.starts_with('/') {
            true => modules::load_file(Path::new(line)),
            false => modules::load(&[line.to_owned()]),
        };
        if let Err(failure) = loaded {
            say(&format!("failed to {failure}"));
        }
    }
}

fn wait_for_drive(serial: &str) -> Result<String, Failure> {
    let end = Instant::now() + ROOT_WAIT;
    loop {
        if let Some(device) = block::find_by_serial(serial) {
            return Ok(device);
        }
        if Instant::now() >= end {
            let action = format!("find the root drive with the serial `{serial}`");
            return Err(failure(action, "it does not appear"));
        }
        thread::sleep(ROOT_POLL_INTERVAL);
    }
}

/// Mounts the root drive and makes it the root of PID 1.
fn enter_root(serial: &str, writable: bool) -> Result<(), Failure> {
    let device = wait_for_drive(serial)?;
    let new_root = "/root.new";
    if writable {
        mount_root(&device, new_root, MsFlags::MS_NOATIME)?;
    } else {
        mount_root(&device, "/root.lower", MsFlags::MS_RDONLY)?;
        overlay(new_root)?;
    }
    for (from, _, _) in MOUNTS.into_iter().filter(|(path, _, _)| !path.starts_with("/dev/")) {
        // Filesystems mounted below `/dev` move with `/dev`.
        let to = format!("{new_root}{from}");
        let _ = fs::create_dir(&to);
        mount(Some(from), to.as_str(), NONE, MsFlags::MS_MOVE, NONE)
            .doing(|| format!("move `{from}` into the root"))?;
    }
    chdir(new_root)
        .and_then(|()| mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .doing(|| "enter the root")
}

fn mount_root(device: &str, target: &str, flags: MsFlags) -> Result<(), Failure> {
    let made = fs::create_dir(target).or_else(exists_is_fine);
    made.and_then(|()| Ok(mount(Some(device), target, Some("ext4"), flags, NONE)?))
        .doing(|| format!("mount the root drive `{device}`"))
}

fn exists_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Mounts a tmpfs as an overlay on the lower root, so that every guest starts with the same files.
fn overlay(target: &str) -> Result<(), Failure> {
    let options = "lowerdir=/root.lower,upperdir=/root.upper/upper,workdir=/root.upper/work";
    let make = || -> io::Result<()> {
        for folder in ["/root.upper", target] {
            fs::create_dir(folder).or_else(exists_is_fine)?;
        }
        let (tmpfs, flags) = (Some("tmpfs"), MsFlags::empty());
        // All of the memory instead of the default half: the upper layer must not be full before
        // the memory is.
        mount(tmpfs, "/root.upper", tmpfs, flags, Some("mode=0755,size=100%"))?;
        fs::create_dir("/root.upper/upper")?;
        fs::create_dir("/root.upper/work")?;
        Ok(mount(Some("overlay"), target, Some("overlay"), flags, Some(options))?)
    };
    make().doing(|| "lay a writable layer over the root drive")
}

/// Waits for the agent to end, and reaps orphaned processes.
fn reap(agent: Pid) -> Result<(), Failure> {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(agent) => {
                let how = match status {
                    WaitStatus::Exited(_, code) => format!("it exited with {code}"),
                    WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
                    other => format!("{other:?}"),
                };
                return Err(failure("keep the agent running", how));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait for the agent"),
        }
    }
}

fn sync_within(limit: Duration) {
    let (done, wait) = mpsc::channel();
    let syncing = move || {
        nix::unistd::sync();
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(syncing).is_ok() {
        let _ = wait.recv_timeout(limit);
    }
}

/// Keeps the agent on the processor that gets the devices' interrupts. Its threads pass small
/// pieces of work to each other all the time, and waking another processor costs more than the work
/// itself, under TCG several times as much: this halves the time to start a process. Processes that
/// the agent starts may run on all processors.
fn stay_on_one_processor() {
    let mut set = CpuSet::new();
    let _ = set.set(0);
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// Waits for the vsock device. A machine that QEMU saves has none, since QEMU cannot save that
/// device. The restored machine has one on its PCI bus, but the kernel is not notified of it.
fn wait_for_vsock() {
    const RESCAN: &str = "/sys/bus/pci/rescan";
    while !has_virtio_device(VIRTIO_VSOCK) {
        // A machine without a PCI bus has the device already, so this is not reached.
        let _ = fs::write(RESCAN, "1");
        thread::sleep(VSOCK_POLL_INTERVAL);
    }
}

/// Whether the machine has a virtio device of a type, which is given in the kernel's notation.
fn has_virtio_device(kind: &str) -> bool {
    const DEVICES: &str = "/sys/bus/virtio/devices";
    let is_it = |entry: fs::DirEntry| {
        fs::read_to_string(entry.path().join("device")).is_ok_and(|id| id.trim() == kind)
    };
    fs::read_dir(DEVICES).is_ok_and(|mut all| all.any(|entry| entry.is_ok_and(is_it)))
}

/// Loads the driver that reports free pages to the host, if the machine has the device for it.
/// There is no udev here that would load it.
fn give_memory_back() {
    if has_virtio_device(VIRTIO_BALLOON)
        && let Err(error) = modules::load(&["virtio_balloon".to_owned()])
    {
        say(&format!("free memory stays with the guest: {error}"));
    }
}

/// Runs the agent. It only returns with an error, such as that it cannot listen.
fn agent(park: &[String]) -> Result<(), Failure> {
    let _ = setsid();
    // Errors are ignored: without these settings, only a guest under great load is worse off.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, FILES_MAX);
    stay_on_one_processor();
    let _ = mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), NONE);
    let action = || format!("listen on vsock port {AGENT_PORT}");
    let listener =
        VsockListener::bind_with_cid_port(vsock::VMADDR_CID_ANY, AGENT_PORT).doing(action)?;
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    say(&format!("agent listening after {} ms", uptime.as_millis()));
    let agent = Agent::of_machine();
    if !park.is_empty() {
        agent.park(park)?;
        if !has_virtio_device(VIRTIO_VSOCK) {
            modules::load(&["virtio_pci".to_owned()])?;
        }
        console::tell_host(PARKED);
        wait_for_vsock();
    }
    // Nothing waits for this thread. Without the driver, the guest only keeps memory that it has
    // used once.
    let _ = thread::Builder::new().name("balloon".into()).spawn(give_memory_back);
    loop {
        let (stream, _) = listener.accept().doing(action)?;
        let agent = std::sync::Arc::clone(&agent);
        let serving = move || {
            if let Err(error) = agent.serve(stream) {
                say(&format!("a connection ended: {error}"));
            }
        };
        thread::Builder::new()
            .name("connection".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(serving)
            .doing(|| "start a thread for a connection")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_root() {
        let wishes = Wishes::parse("console=ttyS0 vbuild.root=appliance quiet\n");
        let root = Some("appliance".into());
        assert_eq!(wishes, Wishes { root, writable: false, park: Vec::new() });
        assert_eq!(Wishes::parse("vbuild.park=a,b-1").park, ["a", "b-1"]);
        assert!(Wishes::parse("vbuild.rootmode=rw vbuild.root=x").writable);
        assert_eq!(Wishes::parse("root=/dev/vda ro"), Wishes::default());
    }
}
