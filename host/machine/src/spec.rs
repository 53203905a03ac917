//! The specification of a machine: memory, CPUs, drives, kernel, and the policy for connections
//! that the guest opens.

use std::{fmt, os::unix::net::UnixStream, path::PathBuf, sync::Arc};

use architecture::MachineArchitecture;

/// Maximum length of a virtio-blk serial (`VIRTIO_BLK_ID_BYTES`, virtio 1.2 section 5.2.6).
const DRIVE_SERIAL_MAX_BYTES: usize = 20;
/// Minimum memory: Debian's cloud kernel with the tools root needs about 100 MiB to start the
/// agent; below this the guest only shows an out-of-memory panic.
const MEMORY_MIN_MIB: u32 = 256;
/// Maximum CPUs: vbuild's own VMM has one-byte LAPIC ids, and CI tests up to 16.
const VCPUS_MAX: u8 = 16;
/// Maximum drives: 19 interrupt lines are available for virtio-mmio devices (GSI 5 to 23), of which
/// three are for vsock, rng and a spare.
const DRIVES_MAX: usize = 16;

/// A specification that no backend can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid machine: {0}")]
pub struct InvalidSpec(pub String);

/// The serial by which the guest identifies a drive: at most 20 bytes of `[A-Za-z0-9_-]`, reported
/// by virtio-blk in GET_ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveSerial(String);

impl DriveSerial {
    /// Checks a serial.
    ///
    /// # Errors
    /// Fails if it is empty, too long, or contains other characters.
    pub fn new(serial: impl Into<String>) -> Result<Self, InvalidSpec> {
        let serial = serial.into();
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if serial.is_empty() || serial.len() > DRIVE_SERIAL_MAX_BYTES || !serial.bytes().all(fine) {
            return Err(InvalidSpec(format!(
                "drive serial `{serial}` must be 1 to {DRIVE_SERIAL_MAX_BYTES} characters of A-Z, a-z, 0-9, `-` and `_`"
            )));
        }
        Ok(Self(serial))
    }

    /// The serial as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriveSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The format of a drive's file. It is always explicit: detecting the format of a file that the
/// guest writes would let the guest choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DriveFormat {
    /// The file content is the disk.
    Raw,
    /// A qcow2 file.
    Qcow2,
}

impl DriveFormat {
    /// QEMU's name of the format, also used in qcow2 headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// The logical block size that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BlockSize {
    /// 512 bytes, which nearly all images expect.
    #[default]
    B512,
    /// 4096 bytes (4Kn), for `block_size: 4096` layouts.
    B4096,
}

impl BlockSize {
    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

/// A read-only file below a drive's topmost file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The path on the host.
    pub path: PathBuf,
    /// The format of the layer's file.
    pub format: DriveFormat,
}

/// A virtio-blk device. All drives are opened with host caching and without host flushes
/// (`cache=unsafe`) unless `durable` is set: the disks of a failed build are discarded, the user's
/// helper drive is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// The serial by which the guest identifies it.
    pub serial: DriveSerial,
    /// The path on the host; with layers, that of the topmost file.
    pub path: PathBuf,
    /// The format of the drive's file; with layers, that of the topmost file.
    pub format: DriveFormat,
    /// The files below the topmost one, nearest first, as recorded by the caller. No other file is
    /// opened for the drive: a backing file name in a header is only compared with this list,
    /// because the guest may have written the header.
    pub below: Vec<Layer>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whether a guest's flush reaches stable storage on the host.
    pub durable: bool,
    /// The logical block size.
    pub block_size: BlockSize,
}

/// A connection that the guest opens to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestConnect {
    /// The host port that the guest connects to.
    pub port: u32,
}

/// The decision about a [`GuestConnect`].
#[derive(Debug)]
pub enum ConnectDecision {
    /// Connect the guest's stream to this end of a socket pair.
    Accept(UnixStream),
    /// Refuse with RST.
    Refuse,
}

/// Decides about connections that the guest opens. Called on a device thread: it must return at
/// once and never block.
pub type OnGuestConnect = Arc<dyn Fn(GuestConnect) -> ConnectDecision + Send + Sync>;

/// The directory that holds the memory and the devices of a machine, as [`Machine::save`] wrote
/// them. Its files belong to the backend that wrote them.
///
/// A machine restored from it must have the same processors, memory and number of drives; drives
/// that were parked when it was saved may be others.
///
/// [`Machine::save`]: crate::Machine::save
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedMachine(pub PathBuf);

impl SavedMachine {
    /// The file with the guest's memory: a sparse file in which a page has the offset of its
    /// place in the backend's memory.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.0.join("memory")
    }

    /// The file with the state of processors and devices.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

/// How a machine begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// The machine's kernel boots.
    #[default]
    Boot,
    /// The machine's kernel boots, and [`Machine::save`] follows. The machine may lack devices that a restored
    /// machine has, such as the one behind [`Machine::connect`].
    ///
    /// [`Machine::save`]: crate::Machine::save
    /// [`Machine::connect`]: crate::Machine::connect
    BootToSave,
    /// The machine goes on where a saved machine was stopped.
    Restore(SavedMachine),
}

/// The specification of a machine.
#[derive(Clone)]
pub struct MachineSpec {
    /// A short name for process titles and messages.
    pub name: String,
    /// The architecture. The own VMM runs only that of the host.
    pub architecture: MachineArchitecture,
    /// Number of virtual CPUs, 1 to 16.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// A Linux kernel. On amd64 an ELF file with a PVH entry, or a bzImage; on arm64 an
    /// `Image` (Documentation/arch/arm64/booting.rst).
    pub kernel: PathBuf,
    /// The initramfs, or several concatenated ones.
    pub initrd: PathBuf,
    /// Additional words for the kernel's command line.
    pub cmdline: Vec<String>,
    /// The drives, in any order.
    pub drives: Vec<Drive>,
    /// Decides about connections that the guest opens.
    pub on_guest_connect: OnGuestConnect,
    /// Whether the kernel logs to the serial console from the start. Without this, booting is
    /// faster; panics and the agent's own errors are shown in any case.
    pub verbose_console: bool,
    /// How the machine begins.
    pub start: Start,
    /// A directory for sockets and other files of the running machine. It must exist and belong to
    /// this build; the caller removes it.
    pub run_dir: PathBuf,
}

impl fmt::Debug for MachineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineSpec")
            .field("name", &self.name)
            .field("architecture", &self.architecture)
            .field("vcpus", &self.vcpus)
            .field("memory_mib", &self.memory_mib)
            .field("kernel", &self.kernel)
            .field("initrd", &self.initrd)
            .field("cmdline", &self.cmdline)
            .field("drives", &self.drives)
            .field("verbose_console", &self.verbose_console)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

impl MachineSpec {
    /// Checks the limits that apply to every backend.
    ///
    /// # Errors
    /// Fails on the first limit that is exceeded.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return Err(InvalidSpec(format!(
                "{} processors, but 1 to {VCPUS_MAX} are possible",
                self.vcpus
            )));
        }
        if self.memory_mib < MEMORY_MIN_MIB {
            return Err(InvalidSpec(format!(
                "{} MiB of memory, but the appliance needs at least {MEMORY_MIN_MIB} MiB",
                self.memory_mib
            )));
        }
        if self.drives.len() > DRIVES_MAX {
            return Err(InvalidSpec(format!(
                "{} drives, but at most {DRIVES_MAX} fit",
                self.drives.len()
            )));
        }
        for (index, drive) in self.drives.iter().enumerate() {
            if self.drives[..index].iter().any(|other| other.serial == drive.serial) {
                return Err(InvalidSpec(format!("two drives have the serial `{}`", drive.serial)));
            }
            let formats = std::iter::once(drive.format).chain(drive.below.iter().map(|l| l.format));
            if formats.take(drive.below.len()).any(|format| format == DriveFormat::Raw) {
                return Err(InvalidSpec(format!(
                    "a raw file of the drive `{}` has layers below it",
                    drive.serial
                )));
            }
        }
        Ok(())
    }
}

/// Kernel command line words that save time under every backend. The self-tests of the crypto API
/// take 0.4 s of a boot under TCG. Mitigations protect processes of a kernel from each other, which
/// have one owner here; a guest is kept from the host by the VMM and the host's own kernel.
pub const QUICK_BOOT_WORDS: [&str; 2] = ["cryptomgr.notests", "mitigations=off"];

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> MachineSpec {
        MachineSpec {
            architecture: MachineArchitecture::default(),
            name: "test".to_owned(),
            vcpus: 1,
            memory_mib: 512,
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            cmdline: Vec::new(),
            drives: Vec::new(),
            on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
            verbose_console: false,
            start: Start::Boot,
            run_dir: PathBuf::new(),
        }
    }

    fn drive(serial: &str) -> Drive {
        Drive {
            serial: DriveSerial::new(serial).unwrap(),
            path: PathBuf::new(),
            format: DriveFormat::Raw,
            below: Vec::new(),
            read_only: false,
            durable: false,
            block_size: BlockSize::default(),
        }
    }

    #[test]
    fn serials() {
        assert_eq!(DriveSerial::new("scratch-1_a").unwrap().as_str(), "scratch-1_a");
        for bad in ["", "a b", "a,b", "äöü", "twenty-one-characters"] {
            assert!(DriveSerial::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        assert_eq!(spec().check(), Ok(()));
        let below = vec![Layer { path: PathBuf::new(), format: DriveFormat::Qcow2 }];
        let over_raw = Drive { below, ..drive("raw") };
        let broken = [
            MachineSpec { vcpus: 0, ..spec() },
            MachineSpec { vcpus: VCPUS_MAX + 1, ..spec() },
            MachineSpec { memory_mib: MEMORY_MIN_MIB - 1, ..spec() },
            MachineSpec { drives: vec![drive("a"), drive("a")], ..spec() },
            MachineSpec { drives: vec![over_raw], ..spec() },
            MachineSpec {
                drives: (0..=DRIVES_MAX).map(|n| drive(&format!("d{n}"))).collect(),
                ..spec()
            },
        ];
        for spec in broken {
            assert!(spec.check().is_err(), "{spec:?}");
        }
    }
}
