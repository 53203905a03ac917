//! The machine as data: memory, processors, drives, kernel, and the policy for
//! connections that the guest opens.

use std::{fmt, os::unix::net::UnixStream, path::PathBuf, sync::Arc};

/// The longest serial a virtio-blk device can report (`VIRTIO_BLK_ID_BYTES`,
/// virtio 1.2 section 5.2.6).
const DRIVE_SERIAL_MAX_BYTES: usize = 20;
/// Debian's cloud kernel with the tool root needs about 100 MiB to reach the
/// agent; below this the guest only shows an out-of-memory panic.
const MEMORY_MIN_MIB: u32 = 256;
/// The own VMM numbers LAPICs in one byte and CI proves up to 16.
const VCPUS_MAX: u8 = 16;
/// 19 interrupt lines are left for virtio-mmio devices (GSI 5 to 23); three go
/// to vsock, rng and a spare.
const DRIVES_MAX: usize = 16;

/// A specification that no backend can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid machine: {0}")]
pub struct InvalidSpec(pub String);

/// The name by which the guest finds a drive: at most 20 bytes of
/// `[A-Za-z0-9_-]`, as virtio-blk reports it in GET_ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveSerial(String);

impl DriveSerial {
    /// Checks and wraps a serial.
    ///
    /// # Errors
    /// When it is empty, too long, or holds other characters.
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

/// How the bytes of a drive are laid out in its file. Always explicit: probing
/// a guest-written file would let the guest choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DriveFormat {
    /// The file is the disk.
    Raw,
    /// A qcow2 file.
    Qcow2,
}

impl DriveFormat {
    /// QEMU's name of the format, which is also what qcow2 headers hold.
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
    /// 512 bytes, what nearly every image expects.
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

/// A file that a drive's uppermost file stands on. It is only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file on the host.
    pub path: PathBuf,
    /// Its format.
    pub format: DriveFormat,
}

/// One virtio-blk device. All drives are opened with host caching and without
/// host flushes (`cache=unsafe`) unless `durable` is set: a build that dies is
/// thrown away, the user's helper drive is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// How the guest finds it.
    pub serial: DriveSerial,
    /// The file on the host; the uppermost one where there are layers.
    pub path: PathBuf,
    /// Its format.
    pub format: DriveFormat,
    /// The files under the uppermost one, nearest first, as the caller's own records name
    /// them. No other file is opened for the drive: the backing file that a header names
    /// is only compared with this list, because a guest may have written the header.
    pub below: Vec<Layer>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whether a flush of the guest reaches stable storage of the host.
    pub durable: bool,
    /// The logical block size.
    pub block_size: BlockSize,
}

/// A connection that the guest opens to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestConnect {
    /// The port of the host that the guest asked for.
    pub port: u32,
}

/// The answer to a [`GuestConnect`].
#[derive(Debug)]
pub enum ConnectDecision {
    /// Join the guest's stream to this half of a socket pair.
    Accept(UnixStream),
    /// Answer with RST.
    Refuse,
}

/// Decides about connections that the guest opens. Called on a device thread:
/// it must answer at once and never block.
pub type OnGuestConnect = Arc<dyn Fn(GuestConnect) -> ConnectDecision + Send + Sync>;

/// A machine as data.
#[derive(Clone)]
pub struct MachineSpec {
    /// A short name for process titles and messages.
    pub name: String,
    /// Number of virtual processors, 1 to 16.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// A Linux kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The initramfs, or an archive of several concatenated ones.
    pub initrd: PathBuf,
    /// Words for the kernel's command line beyond what the backend needs.
    pub cmdline: Vec<String>,
    /// The drives; their order has no meaning.
    pub drives: Vec<Drive>,
    /// Decides about connections from the guest.
    pub on_guest_connect: OnGuestConnect,
    /// Whether the kernel logs to the serial console from the start. Off is
    /// faster; panics and the agent's own complaints are shown either way.
    pub verbose_console: bool,
    /// A directory for sockets and other files of the running machine. It
    /// exists, belongs to this build, and is removed by the caller.
    pub run_dir: PathBuf,
}

impl fmt::Debug for MachineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineSpec")
            .field("name", &self.name)
            .field("vcpus", &self.vcpus)
            .field("memory_mib", &self.memory_mib)
            .field("kernel", &self.kernel)
            .field("initrd", &self.initrd)
            .field("cmdline", &self.cmdline)
            .field("drives", &self.drives)
            .field("verbose_console", &self.verbose_console)
            .finish_non_exhaustive()
    }
}

impl MachineSpec {
    /// Checks the limits that hold for every backend.
    ///
    /// # Errors
    /// The first limit that is broken.
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

/// Words for the kernel's command line that shorten the boot of Debian's cloud
/// kernel whichever backend runs it: the self-tests of the crypto API take
/// 0.4 s of a boot under TCG.
pub const QUICK_BOOT_WORDS: [&str; 1] = ["cryptomgr.notests"];

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> MachineSpec {
        MachineSpec {
            name: "test".to_owned(),
            vcpus: 1,
            memory_mib: 512,
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            cmdline: Vec::new(),
            drives: Vec::new(),
            on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
            verbose_console: false,
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
