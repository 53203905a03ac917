//! QEMU's microvm machine as a [`Backend`]: used without KVM, and for comparison with KVM.
//!
//! ```text
//!  vbuild ──spawn──► vbuild __qemu-child ──exec──► QEMU        (child)
//!    │                 confines itself             │
//!    ├─ fd 3 ◄──────── QMP, layers ───────────────┤            (qmp)
//!    │  fd 4 ◄──────── vhost-user ────────────────┤
//!    ├─ fds ─────────► drives, as sets ──────────►│            (handed)
//!    ├──spawn──► vbuild __vmm, confined ◄─────────┘            (microvm)
//!    ├─ stdout ◄────── serial console ────────────┤            (console)
//!    └─ stderr ◄────── complaints ────────────────┘            (process)
//! ```
//!
//! The machine has the same devices as vbuild's own VMM: virtio-blk, vsock and rng over
//! virtio-mmio, found through ACPI, a serial port for panics, no PCI, no network card. The vsock
//! device runs in a separate confined process.
//!
//! QEMU is confined like the process of the own VMM, as far as possible for a third-party program:
//! `needs` determines the files that it must open itself, `child` removes access to everything
//! else.
//!
//! [`boot`] uses the same program for another purpose: it boots a finished image on a standard PC,
//! for a user or for tests.
//!
//! Architecture invariant: the command line is a pure function (`argv`), and no child of this crate
//! outlives the process that started it.

mod args;
mod argv;
pub mod boot;
mod child;
mod console;
pub mod fuzzing;
mod halt;
mod handed;
mod needs;
mod process;
mod program;
mod qmp;
mod running;
mod saving;
mod trial;
mod tsc;

pub use argv::QemuAccel;
pub use child::{CHILD_VERB, exec_child};
pub use program::{emulator, find};
pub use trial::try_out;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use confine::Paths;
use machine::{Backend, Machine, MachineArchitecture, MachineError, MachineSpec};

/// The executable of this process, even if its file was replaced.
const SELF: &str = "/proc/self/exe";
/// The device of QEMU's accelerator of that name.
const KVM_DEVICE: &str = "/dev/kvm";

/// The QEMU backend.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    helper: PathBuf,
    accel: QemuAccel,
    /// The paths that it opens itself, once known.
    needs: Arc<OnceLock<Paths>>,
}

impl Qemu {
    /// The backend of an architecture with the QEMU named, or the one in `PATH`.
    ///
    /// This process's program must call [`exec_child`] if its first argument is [`CHILD_VERB`], and
    /// [`microvm::vmm_child`] if it is [`microvm::VMM_VERB`]. Where it does not, as in tests, use
    /// [`Qemu::with_helper`] to name a program that does.
    ///
    /// # Errors
    /// When there is no QEMU.
    pub fn new(
        architecture: MachineArchitecture,
        named: Option<&Path>,
        accel: QemuAccel,
    ) -> Result<Self, MachineError> {
        let program = std::path::absolute(find(architecture, named)?).map_err(|source| {
            MachineError::Io { action: "find the folder of QEMU".to_owned(), source }
        })?;
        Ok(Self { program, helper: SELF.into(), accel, needs: Arc::default() })
    }

    /// Starts QEMU through this program instead of the current one.
    #[must_use]
    pub fn with_helper(mut self, helper: PathBuf) -> Self {
        self.helper = helper;
        self
    }

    /// The facts about this host that a machine depends on.
    async fn host(&self, spec: &MachineSpec) -> argv::Host {
        let tsc_khz = match (spec.architecture, self.accel) {
            (MachineArchitecture::Arm64, _) | (_, QemuAccel::Kvm) => None,
            (MachineArchitecture::Amd64, QemuAccel::Tcg) => {
                tokio::task::spawn_blocking(tsc::khz).await.ok().flatten()
            }
        };
        argv::Host { accel: self.accel, tsc_khz }
    }

    /// The paths that QEMU opens itself on this host.
    async fn paths(&self) -> Result<Paths, MachineError> {
        let this = self.clone();
        let asking = tokio::task::spawn_blocking(move || match this.needs.get() {
            Some(known) => Ok(known.clone()),
            None => needs::of(&this.program).map(|found| this.needs.get_or_init(|| found).clone()),
        });
        let mut paths = asking.await.map_err(|panic| MachineError::Io {
            action: "ask QEMU for its files".to_owned(),
            source: std::io::Error::other(panic),
        })??;
        if self.accel == QemuAccel::Kvm {
            paths.devices.push(KVM_DEVICE.into());
        }
        Ok(paths)
    }
}

#[async_trait::async_trait]
impl Backend for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn saving_identity(&self, spec: &MachineSpec) -> Option<String> {
        // With KVM, the state would depend on the processor; there is the own VMM for that.
        if self.accel == QemuAccel::Kvm {
            return None;
        }
        let program = std::fs::metadata(&self.program).ok()?;
        // The rate of the host's time stamp counter is in the saved kernel. It cannot be compared,
        // because it is measured, but stays the same until the host starts again.
        let boot = machine::host_boot_id().ok()?;
        let (path, bytes, changed) = (self.program.display(), program.len(), program.mtime());
        Some(format!("{path} {bytes} {changed} {boot} {}", argv::board(spec)))
    }

    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError> {
        spec.check()?;
        let host = self.host(&spec).await;
        Ok(Box::new(running::QemuMachine::start(self, host, spec).await?))
    }
}
