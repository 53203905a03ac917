//! The interface of a microVM, independent of the program that runs it.
//!
//! A [`MachineSpec`] is plain data. A [`Backend`] turns it into a running [`Machine`], which offers
//! only what the rest of vbuild needs: byte streams to and from guest ports, a live layer swap on a
//! drive, and the reason of its end. Callers do not know whether KVM or QEMU runs the machine.
//!
//! Architecture invariant: nothing in this crate opens `/dev/kvm` to run a guest, or starts a
//! process; [`accel`] only decides what would work.

pub mod accel;
mod spec;

pub use spec::{
    BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, GuestConnect, InvalidSpec, Layer,
    MachineSpec, OnGuestConnect, QUICK_BOOT_WORDS, SavedMachine, Start,
};

use std::{os::unix::net::UnixStream, path::Path};

pub use architecture::MachineArchitecture;
pub use confine::Confinement;

/// The identifier of the host's current boot, which changes with each start of its kernel; see
/// random(4).
///
/// # Errors
/// Fails without `/proc`.
pub fn host_boot_id() -> std::io::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HaltReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest requested a reboot; vbuild never restarts a guest by itself.
    Reboot,
    /// The guest's kernel panicked. The console tail has the reason.
    Panic,
    /// vbuild ended the machine through [`Machine::kill`].
    Killed,
    /// The VMM failed or was killed from outside; the text has what is known.
    Lost(String),
}

/// Errors of starting or controlling a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No backend can run the specification.
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
    /// A file, program or device that the backend needs is missing or unusable.
    #[error("{what}: {reason}")]
    Unavailable {
        /// The missing resource: a path, a program, a capability.
        what: String,
        /// The reason.
        reason: String,
        /// A remedy for the user.
        hint: Option<String>,
    },
    /// A system call or a file operation failed.
    #[error("{action}")]
    Io {
        /// The action that failed, with its path if there is one.
        action: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The VMM refused or failed a command.
    #[error("the virtual machine monitor failed to {action}: {reason}")]
    Vmm {
        /// The command.
        action: String,
        /// The VMM's error message, truncated.
        reason: String,
    },
    /// The machine has ended; it accepts no more requests.
    #[error("the virtual machine has ended: {0:?}")]
    Ended(HaltReason),
}

impl MachineError {
    /// For `map_err`: an action that failed, with its path if there is one.
    pub fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// Turns a specification into a running machine.
#[async_trait::async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// A short name for messages and cache keys: `microvm` or `qemu`.
    fn name(&self) -> &'static str;

    /// Starts the machine. On return, the guest may or may not have executed its first instruction;
    /// the guest is ready when the agent has sent its hello.
    ///
    /// # Errors
    /// Fails on everything that can be known before the guest runs: an invalid specification, files
    /// that cannot be opened, a VMM that does not start.
    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError>;

    /// What a saved machine depends on beside its specification, as text for a cache key: the
    /// VMM's version, the accelerator, the processor. A machine that was saved under another
    /// identity must not be restored. `None` if this backend cannot save machines.
    async fn saving_identity(&self, spec: &MachineSpec) -> Option<String>;
}

/// A running machine. Dropping it kills the guest at once and frees its resources on the host.
#[async_trait::async_trait]
pub trait Machine: Send + Sync + std::fmt::Debug {
    /// Opens a stream to a vsock port on which the guest listens.
    ///
    /// The returned end of a socket pair is connected at once; if the guest refuses, the first read
    /// gives end of file or `ECONNRESET`.
    ///
    /// # Errors
    /// Fails if the machine has ended or too many streams are open.
    async fn connect(&self, port: u32) -> Result<UnixStream, MachineError>;

    /// Waits until the machine ends, and returns the reason. May be called repeatedly and from
    /// several tasks; all get the same result.
    async fn wait(&self) -> HaltReason;

    /// Kills the machine at once, without notifying the guest.
    async fn kill(&self);

    /// The tail of the console output, for error messages.
    fn console_tail(&self) -> String;

    /// Adds a writable qcow2 layer on top of the drive with this serial. The caller must have
    /// quiesced the guest; after the return, every write goes to `new_layer`, and the old layer is
    /// immutable.
    ///
    /// # Errors
    /// Fails if there is no such drive, or if the layer cannot be created.
    async fn push_layer(&self, drive: &DriveSerial, new_layer: &Path) -> Result<(), MachineError>;

    /// Stops a machine that was started by [`Start::BootToSave`] forever, and writes its memory
    /// and devices into a directory, which must exist. Its writable drives must have no driver.
    ///
    /// # Errors
    /// Fails if the VMM refuses, or if the files cannot be written.
    async fn save(&self, into: &SavedMachine) -> Result<(), MachineError>;

    /// The confinement of each process that handles guest data.
    fn confinement(&self) -> Vec<Confinement>;

    /// Counters for benchmarks and `--debug`: name and value, such as `("exits_mmio", 1234)` or
    /// `("rss_kib", 70000)`.
    fn counters(&self) -> Vec<(String, u64)>;
}
