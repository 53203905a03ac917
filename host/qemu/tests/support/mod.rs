//! Starts a machine with the test guest, or reports why that is impossible.
//!
//! The kernel is Debian's cloud kernel (`VBUILD_TEST_KERNEL`). The initramfs (`VBUILD_TEST_INITRD`)
//! is packed by the example `pack_initrd` from the statically linked example `testguest` and the
//! modules virtio_ring, virtio, virtio_mmio, virtio_blk, vsock, vmw_vsock_virtio_transport_common,
//! vmw_vsock_virtio_transport, rng-core and virtio-rng. `VBUILD_TEST_QEMU` names a QEMU other than
//! the one in `PATH`.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use machine::{Backend, BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, Machine};
use machine::{HaltReason, MachineArchitecture, MachineSpec};
use qemu::{Qemu, QemuAccel};
use tokio::sync::mpsc;

/// The ports of the test guest.
pub(crate) const UP_PORT: u32 = 1;
pub(crate) const ECHO_PORT: u32 = 10;
pub(crate) const SINK_PORT: u32 = 11;
pub(crate) const SOURCE_PORT: u32 = 12;
pub(crate) const COMMAND_PORT: u32 = 13;

/// A boot takes 3 s on an idle host; the tests run in parallel.
const UP_LIMIT: Duration = Duration::from_secs(120);

/// A shutdown takes a second on an idle host.
const END_LIMIT: Duration = Duration::from_secs(60);

/// The files needed for a boot, or `None` after printing what is missing.
pub(crate) fn guest_files() -> Option<(PathBuf, PathBuf)> {
    let file = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from).filter(|path| path.exists());
        if path.is_none() {
            println!("skipped: {name} names no file");
        }
        path
    };
    if let Err(cause) = qemu::find(MachineArchitecture::Amd64, None) {
        println!("skipped: {cause}");
        return None;
    }
    Some((file("VBUILD_TEST_KERNEL")?, file("VBUILD_TEST_INITRD")?))
}

/// The example that stands in for vbuild's binary; cargo builds it with the tests.
pub(crate) fn helper() -> PathBuf {
    let mut path = env::current_exe().expect("tests know their path");
    path.pop();
    path.pop();
    path.join("examples/helper")
}

pub(crate) fn backend() -> Qemu {
    let named = env::var_os("VBUILD_TEST_QEMU").map(PathBuf::from);
    Qemu::new(MachineArchitecture::Amd64, named.as_deref(), QemuAccel::Tcg)
        .expect("checked by guest_files")
        .with_helper(helper())
}

/// A guest that has reported that it is up.
pub(crate) struct Guest {
    pub(crate) machine: Box<dyn Machine>,
    /// The connection of that report; closing it makes the guest power off.
    pub(crate) up: UnixStream,
    pub(crate) greeting: String,
    pub(crate) dir: tempfile::TempDir,
}

/// A specification without drives.
pub(crate) fn spec(kernel: PathBuf, initrd: PathBuf, run_dir: PathBuf) -> MachineSpec {
    MachineSpec {
        architecture: machine::MachineArchitecture::Amd64,
        name: "test".to_owned(),
        vcpus: 2,
        memory_mib: 512,
        kernel,
        initrd,
        cmdline: Vec::new(),
        drives: Vec::new(),
        on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
        verbose_console: env::var_os("VBUILD_TEST_VERBOSE").is_some(),
        start: machine::Start::Boot,
        run_dir,
    }
}

pub(crate) fn drive(serial: &str, path: PathBuf, format: DriveFormat) -> Drive {
    Drive {
        serial: DriveSerial::new(serial).expect("tests use good serials"),
        path,
        format,
        below: Vec::new(),
        read_only: false,
        durable: false,
        block_size: BlockSize::B512,
    }
}

/// Boots a guest; `adjust` may add drives in its directory.
pub(crate) async fn boot(adjust: impl FnOnce(&mut MachineSpec)) -> Option<Guest> {
    guest_files()?;
    boot_with(&backend(), adjust).await
}

/// Boots a guest on this backend.
pub(crate) async fn boot_with(
    backend: &Qemu,
    adjust: impl FnOnce(&mut MachineSpec),
) -> Option<Guest> {
    let (kernel, initrd) = guest_files()?;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (send, mut arrived) = mpsc::unbounded_channel();
    let mut spec = spec(kernel, initrd, dir.path().to_owned());
    spec.on_guest_connect = Arc::new(move |connect| {
        if connect.port != UP_PORT {
            return ConnectDecision::Refuse;
        }
        let Ok((ours, theirs)) = UnixStream::pair() else { return ConnectDecision::Refuse };
        let _ = send.send(ours);
        ConnectDecision::Accept(theirs)
    });
    adjust(&mut spec);
    let machine = backend.start(spec).await.expect("QEMU starts");
    let up = tokio::select! {
        up = arrived.recv() => up.expect("the sender lives in the machine"),
        reason = machine.wait() => panic!("{reason:?}\n{}", machine.console_tail()),
        () = tokio::time::sleep(UP_LIMIT) => panic!("not up\n{}", machine.console_tail()),
    };
    let mut greeting = String::new();
    BufReader::new(&up).read_line(&mut greeting).expect("a greeting");
    Some(Guest { machine, up, greeting, dir })
}

impl Guest {
    /// Sends a command and returns the reply, which is empty at the end of the stream.
    pub(crate) async fn command(&self, line: &str) -> String {
        let mut stream = self.machine.connect(COMMAND_PORT).await.expect("connects");
        let line = format!("{line}\n");
        tokio::task::spawn_blocking(move || {
            stream.write_all(line.as_bytes()).expect("writes");
            let mut answer = String::new();
            // A guest that powers off resets the connection.
            let _ = BufReader::new(&stream).read_line(&mut answer);
            answer.trim_end().to_owned()
        })
        .await
        .expect("no panic")
    }

    /// Requests the end and waits for it.
    pub(crate) async fn end(&self, command: &str) -> HaltReason {
        let line = format!("{command}\n");
        let mut stream = self.machine.connect(COMMAND_PORT).await.expect("connects");
        stream.write_all(line.as_bytes()).expect("writes");
        let Ok(reason) = tokio::time::timeout(END_LIMIT, self.machine.wait()).await else {
            panic!("it does not end after `{command}`\n{}", self.machine.console_tail());
        };
        reason
    }
}
