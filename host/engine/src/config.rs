//! The configuration of a run: the engine's input beside the plan.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use machine::{Backend, DriveFormat, MachineArchitecture, OnGuestConnect};
use plan::{Digest, TreeOutput};
use session::Session;
use store::StageRecord;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{cache::Cache, events::SharedObserver};

/// The files of the appliance that the build runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplianceFiles {
    /// The architecture of the appliance.
    pub architecture: MachineArchitecture,
    /// The path of the kernel; see [`machine::MachineSpec`] for its format.
    pub kernel: PathBuf,
    /// The path of the initramfs, which contains the agent.
    pub initrd: PathBuf,
    /// The path of the tools root: a raw disk with ext4, which is never written to.
    pub root: PathBuf,
    /// The digest of the whole appliance.
    pub digest: Digest,
}

/// The user's helper drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperDrive {
    /// The path of the drive's file.
    pub path: PathBuf,
    /// The format of the drive's file.
    pub format: DriveFormat,
}

/// A receiver of trees that leave the guest during the build. It is implemented by code that has
/// the output formats; the engine only passes streams.
pub trait TreeSink: Send + Sync {
    /// Writes an output from a tar stream.
    ///
    /// # Errors
    /// Fails if the output cannot be written. The output must then not exist, or be unchanged.
    fn export(
        &self,
        output: &TreeOutput,
        archive: Box<dyn Read + Send>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Unpacks a tar stream into a directory of the host, which is created if it is missing.
    ///
    /// # Errors
    /// Fails if the stream cannot be unpacked, in particular if an entry would leave the directory.
    fn unpack(
        &self,
        directory: &Path,
        archive: Box<dyn Read + Send>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// A hook that is called while the guest is paused between steps (`--debug-shell`).
#[async_trait::async_trait]
pub trait PauseHook: Send + Sync {
    /// Inspects the guest; the build continues when this returns.
    async fn inspect(&self, context: PauseContext<'_>);
}

/// The guest and the stage that a [`PauseHook`] may inspect.
#[derive(Debug)]
pub struct PauseContext<'a> {
    /// The session of the paused guest.
    pub session: &'a Session,
    /// The stage that will run next, or that has failed. At the end of the plan, it is the last
    /// stage.
    pub stage: &'a plan::Stage,
    /// The path of the tools root, seen from the agent.
    pub tools: &'a str,
    /// The path of the image's root, seen from the agent, if the stage has an image.
    pub image: Option<String>,
    /// Whether a step of the stage has failed.
    pub failed: bool,
}

/// The moments when a build pauses for inspection, and the hook that is called then.
#[derive(Clone)]
pub struct Pause {
    /// The hook that is called.
    pub hook: Arc<dyn PauseHook>,
    /// The number of stages after which the build pauses and then ends; `None` to run all stages.
    pub after: Option<usize>,
    /// The stages before which the build pauses and then continues, counted from zero. The number
    /// of all stages means the end of the plan.
    pub before: Vec<usize>,
    /// Whether the build pauses when a step has failed.
    pub on_failure: bool,
    /// The record from which the state after `after` stages is restored, regardless of the keys of
    /// the stages.
    pub from: Option<StageRecord>,
}

impl std::fmt::Debug for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pause").field("after", &self.after).finish_non_exhaustive()
    }
}

/// The guest's network, which the engine opens for the stages that may use it.
pub trait Network: Send + Sync {
    /// Returns the function that decides about connections that the guest opens.
    fn on_guest_connect(&self) -> OnGuestConnect;

    /// Permits the connections that the user allows.
    fn open(&self);

    /// Refuses all connections from now on, with `reason` as the explanation, and closes open ones.
    fn close(&self, reason: &str);
}

/// The configuration of a run.
#[derive(Clone)]
pub struct Config {
    /// The backend that runs the machines.
    pub backend: Arc<dyn Backend>,
    /// A description of the backend for the user, such as `TCG (QEMU 10.0)`.
    pub accel: String,
    /// The appliance that the machines run.
    pub appliance: ApplianceFiles,
    /// The number of virtual processors.
    pub vcpus: u8,
    /// The memory of the guest in MiB.
    pub memory_mib: u32,
    /// The user's helper drive; `None` if the build has none.
    pub helper: Option<HelperDrive>,
    /// A directory for the disks and sockets of this build, which no other build uses.
    pub build_dir: PathBuf,
    /// The guest's network; `None` if the run has none.
    pub network: Option<Arc<dyn Network>>,
    /// Certificates (PEM) that scripts trust while they run.
    pub ca_bundle: Option<Vec<u8>>,
    /// The time limit of each script; `None` for no limit.
    pub script_timeout: Option<Duration>,
    /// Whether scripts really wait when they flush files or disks. Otherwise such calls succeed at
    /// once: the engine itself flushes all disks before it saves or writes them.
    pub keep_sync: bool,
    /// Whether every stage gets a fresh machine; for tests and debugging.
    pub fresh_machine_per_stage: bool,
    /// The seed of identifiers (UUIDs, disk signatures); `None` for random ones.
    pub seed: Option<String>,
    /// The saved machines that are restored instead of booted; `None` if all machines boot.
    pub warm: Option<session::WarmMachines>,
    /// Whether the guest's kernel logs to the console from the start.
    pub verbose_console: bool,
    /// The observer that receives the events of the build.
    pub observer: SharedObserver,
    /// The receiver of trees that leave the guest.
    pub trees: Arc<dyn TreeSink>,
    /// A flag that becomes true when the build must stop.
    pub cancel: watch::Receiver<bool>,
    /// The cache in which results of stages are saved and looked up; `None` for a build without
    /// one.
    pub cache: Option<Cache>,
    /// The pauses for inspection, if there are any.
    pub pause: Option<Pause>,
}

impl Config {
    /// Returns the identifier for a name: derived from the seed, or random if there is no seed.
    pub(crate) fn identifier(&self, name: &str) -> Uuid {
        match &self.seed {
            Some(seed) => Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{seed}/{name}").as_bytes()),
            None => Uuid::new_v4(),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("backend", &self.backend)
            .field("appliance", &self.appliance)
            .field("vcpus", &self.vcpus)
            .field("memory_mib", &self.memory_mib)
            .field("helper", &self.helper)
            .field("build_dir", &self.build_dir)
            .finish_non_exhaustive()
    }
}
