//! QEMU's microvm machine as a [`Backend`]: where there is no KVM, and for
//! comparison where there is.
//!
//! ```text
//!  vbuild ──spawn──► vbuild __qemu-child ──exec──► QEMU        (child)
//!    │                 parent-death signal, no-new-privs
//!    ├─ fd 3 ◄──────── QMP ───────────────────────┤            (qmp)
//!    │  fd 4 ◄──────── vhost-user ────────────────┤
//!    ├──spawn──► vbuild __vmm, confined ◄─────────┘            (microvm)
//!    ├─ stdout ◄────── serial console ────────────┤            (console)
//!    └─ stderr ◄────── complaints ────────────────┘            (process)
//! ```
//!
//! The machine has the same devices as the own VMM: virtio-blk, vsock and rng
//! over virtio-mmio, found through ACPI, a serial port for panics, no PCI, no
//! network card. The vsock device runs in a confined process of its own.
//!
//! [`boot`] is something else with the same program: it boots a finished image
//! on an ordinary PC, to look at it or to test it.
//!
//! Architecture invariant: the command line is a pure function (`argv`), and no
//! child of this crate outlives the process that started it.

mod argv;
pub mod boot;
mod child;
mod console;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod halt;
mod process;
mod program;
mod qmp;
mod running;
mod tsc;

pub use argv::QemuAccel;
pub use child::{CHILD_VERB, exec_child};
pub use program::{emulator, find};

use std::path::{Path, PathBuf};

use machine::{Backend, Machine, MachineError, MachineSpec};

/// The program of this process, whatever has become of its file.
const SELF: &str = "/proc/self/exe";

/// The QEMU backend.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    helper: PathBuf,
    accel: QemuAccel,
}

impl Qemu {
    /// The backend with the QEMU named, or the one in `PATH`.
    ///
    /// The program of this process must call [`exec_child`] when its first
    /// argument is [`CHILD_VERB`], and [`microvm::vmm_child`] when it is
    /// [`microvm::VMM_VERB`]; where it does not, as in tests, name one that
    /// does by [`Qemu::with_helper`].
    ///
    /// # Errors
    /// When there is no QEMU.
    pub fn new(named: Option<&Path>, accel: QemuAccel) -> Result<Self, MachineError> {
        Ok(Self { program: find(named)?, helper: SELF.into(), accel })
    }

    /// Starts QEMU by way of this program instead of the present one.
    #[must_use]
    pub fn with_helper(mut self, helper: PathBuf) -> Self {
        self.helper = helper;
        self
    }
}

#[async_trait::async_trait]
impl Backend for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError> {
        spec.check()?;
        running::check_files(&spec)?;
        let tsc_khz = match self.accel {
            QemuAccel::Kvm => None,
            QemuAccel::Tcg => tokio::task::spawn_blocking(tsc::khz).await.ok().flatten(),
        };
        let host = argv::Host { accel: self.accel, tsc_khz };
        let machine = running::QemuMachine::start(&self.helper, &self.program, host, spec).await?;
        Ok(Box::new(machine))
    }
}
