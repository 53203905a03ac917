//! What a microVM is, whichever program runs it.
//!
//! A [`MachineSpec`] is plain data. A [`Backend`] turns it into a running
//! [`Machine`], which offers only what the rest of vbuild needs: byte streams to
//! and from guest ports, a live layer swap on a drive, and the way it ended.
//! The session above never learns whether KVM or QEMU runs below.
//!
//! Architecture invariant: nothing in this crate opens `/dev/kvm` for running a
//! guest or starts a process; [`accel`] only asks what would work.

pub mod accel;
mod spec;

pub use spec::{
    BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, GuestConnect, InvalidSpec, Layer,
    MachineSpec, OnGuestConnect, QUICK_BOOT_WORDS,
};

use std::{os::unix::net::UnixStream, path::Path};

pub use confine::Confinement;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HaltReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reboot; vbuild never restarts a guest by itself.
    Reboot,
    /// The guest's kernel panicked. The console tail says why.
    Panic,
    /// vbuild ended the machine through [`Machine::kill`].
    Killed,
    /// The VMM failed or was ended by somebody else: what is known about it.
    Lost(String),
}

/// Errors of starting or driving a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The specification cannot be run by any backend.
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
    /// A file, program or device that the backend needs is missing or unusable.
    #[error("{what}: {reason}")]
    Unavailable {
        /// What is missing: a path, a program, a capability.
        what: String,
        /// Why it cannot be used.
        reason: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
    /// A system call or a file operation failed.
    #[error("{action}")]
    Io {
        /// What was being done, with the path where there is one.
        action: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The VMM refused or failed a command.
    #[error("the virtual machine monitor failed to {action}: {reason}")]
    Vmm {
        /// What was asked of it.
        action: String,
        /// What it answered, bounded.
        reason: String,
    },
    /// The machine has ended; nothing more can be asked of it.
    #[error("the virtual machine has ended: {0:?}")]
    Ended(HaltReason),
}

/// Turns a specification into a running machine.
#[async_trait::async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// A short name for messages and keys: `microvm` or `qemu`.
    fn name(&self) -> &'static str;

    /// Starts the machine. When this returns, the guest's first instruction may
    /// or may not have run; readiness is the agent's hello, not this call.
    ///
    /// # Errors
    /// Everything that can be known before the guest runs: a bad specification,
    /// files that cannot be opened, a VMM that does not start.
    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError>;
}

/// A running machine. Dropping it ends the guest at once and releases
/// everything the host holds for it.
#[async_trait::async_trait]
pub trait Machine: Send + Sync + std::fmt::Debug {
    /// Opens a stream to a vsock port on which the guest listens.
    ///
    /// The returned half of a socket pair is connected at once; a guest that
    /// refuses shows as end of file or `ECONNRESET` on the first read.
    ///
    /// # Errors
    /// When the machine has ended or too many streams are open.
    async fn connect(&self, port: u32) -> Result<UnixStream, MachineError>;

    /// Waits for the end of the machine and says how it came. May be called
    /// more than once and from several tasks; all get the same answer.
    async fn wait(&self) -> HaltReason;

    /// Ends the machine at once, without asking the guest.
    async fn kill(&self);

    /// The last bytes of the console, bounded, for error messages.
    fn console_tail(&self) -> String;

    /// Puts a new writable qcow2 layer on top of the drive with this serial.
    /// The caller has quiesced the guest; from the return on, every write goes
    /// to `new_layer`, and the old layer is immutable.
    ///
    /// # Errors
    /// When the drive is unknown or the layer cannot be created.
    async fn push_layer(&self, drive: &DriveSerial, new_layer: &Path) -> Result<(), MachineError>;

    /// What confines each process that handles what the guest writes.
    fn confinement(&self) -> Vec<Confinement>;

    /// Numbers for benchmarks and `--debug`: name and value, such as
    /// `("exits_mmio", 1234)` or `("rss_kib", 70000)`.
    fn counters(&self) -> Vec<(String, u64)>;
}
