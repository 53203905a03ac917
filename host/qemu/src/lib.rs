//! QEMU's microvm machine as a [`Backend`]: where there is no KVM, and for
//! comparison where there is.
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
//! The machine has the same devices as the own VMM: virtio-blk, vsock and rng
//! over virtio-mmio, found through ACPI, a serial port for panics, no PCI, no
//! network card. The vsock device runs in a confined process of its own.
//!
//! QEMU is confined as the own VMM's process is, as far as a program can be that
//! others wrote: `needs` finds out which files it must open by itself, `child` takes
//! everything else away.
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
pub mod fuzzing;
mod halt;
mod handed;
mod needs;
mod process;
mod program;
mod qmp;
mod running;
mod trial;
mod tsc;

pub use argv::QemuAccel;
pub use child::{CHILD_VERB, exec_child};
pub use program::{emulator, find};
pub use trial::try_out;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use confine::Paths;
use machine::{Backend, Machine, MachineError, MachineSpec};

/// The program of this process, whatever has become of its file.
const SELF: &str = "/proc/self/exe";
/// The device that QEMU opens for its accelerator of that name.
const KVM_DEVICE: &str = "/dev/kvm";

/// The QEMU backend.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    helper: PathBuf,
    accel: QemuAccel,
    /// What it opens by itself, once that is known.
    needs: Arc<OnceLock<Paths>>,
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
        let program = std::path::absolute(find(named)?).map_err(|source| MachineError::Io {
            action: "find the folder of QEMU".to_owned(),
            source,
        })?;
        Ok(Self { program, helper: SELF.into(), accel, needs: Arc::default() })
    }

    /// Starts QEMU by way of this program instead of the present one.
    #[must_use]
    pub fn with_helper(mut self, helper: PathBuf) -> Self {
        self.helper = helper;
        self
    }

    /// What QEMU opens by itself on this host.
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

    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError> {
        spec.check()?;
        let tsc_khz = match self.accel {
            QemuAccel::Kvm => None,
            QemuAccel::Tcg => tokio::task::spawn_blocking(tsc::khz).await.ok().flatten(),
        };
        let host = argv::Host { accel: self.accel, tsc_khz };
        Ok(Box::new(running::QemuMachine::start(self, host, spec).await?))
    }
}
