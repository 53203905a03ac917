//! What the engine is given beside the plan.

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

/// The appliance that the build runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplianceFiles {
    /// What it is made for.
    pub architecture: MachineArchitecture,
    /// The kernel; see [`machine::MachineSpec`] for its format.
    pub kernel: PathBuf,
    /// An initramfs with the agent.
    pub initrd: PathBuf,
    /// The tool root: ext4, raw, never written.
    pub root: PathBuf,
    /// The digest of all of it.
    pub digest: Digest,
}

/// The user's helper drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperDrive {
    /// The file.
    pub path: PathBuf,
    /// The format of the drive's file.
    pub format: DriveFormat,
}

/// Takes trees that leave the guest while it runs. Implemented where the output
/// formats are known; the engine only knows streams.
pub trait TreeSink: Send + Sync {
    /// Writes an output from a tar stream.
    ///
    /// # Errors
    /// Anything; the output must then not exist, or be what it was before.
    fn export(
        &self,
        output: &TreeOutput,
        archive: Box<dyn Read + Send>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Unpacks a tar stream into a directory of the host, made when missing.
    ///
    /// # Errors
    /// Anything, in particular entries that would leave the directory.
    fn unpack(
        &self,
        directory: &Path,
        archive: Box<dyn Read + Send>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Called while the guest is paused between steps (`--debug-shell`).
#[async_trait::async_trait]
pub trait PauseHook: Send + Sync {
    /// Inspects the guest; the build continues when this returns.
    async fn inspect(&self, context: PauseContext<'_>);
}

/// What a [`PauseHook`] may inspect.
#[derive(Debug)]
pub struct PauseContext<'a> {
    /// The session of the paused guest.
    pub session: &'a Session,
    /// The stage that is about to run, or has failed.
    pub stage: &'a plan::Stage,
    /// The tools root, seen from the agent.
    pub tools: &'a str,
    /// The root of the image, seen from the agent, where the stage has one.
    pub image: Option<String>,
    /// Whether a script of the stage has failed.
    pub failed: bool,
}

/// When a build pauses for inspection, and what is called then.
#[derive(Clone)]
pub struct Pause {
    /// The hook that is called.
    pub hook: Arc<dyn PauseHook>,
    /// Pause after this number of stages, and end the build then.
    pub after: Option<usize>,
    /// Pause before each of these stages, counted from zero, and continue the build then.
    pub before: Vec<usize>,
    /// Pause when a script has failed.
    pub on_failure: bool,
    /// The record from which the state after `after` stages is restored, whatever the
    /// keys of the stages are.
    pub from: Option<StageRecord>,
}

impl std::fmt::Debug for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pause").field("after", &self.after).finish_non_exhaustive()
    }
}

/// The guest's network, which the engine opens for the stages that may use it.
pub trait Network: Send + Sync {
    /// Decides about the connections that a guest opens.
    fn on_guest_connect(&self) -> OnGuestConnect;

    /// Lets the guest reach what the user allows.
    fn open(&self);

    /// Refuses everything from now on, for a reason in words, and ends what is open.
    fn close(&self, reason: &str);
}

/// How a plan is run.
#[derive(Clone)]
pub struct Config {
    /// Runs the machines.
    pub backend: Arc<dyn Backend>,
    /// How the backend is described to people: `TCG (QEMU 10.0)`.
    pub accel: String,
    /// The appliance.
    pub appliance: ApplianceFiles,
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The user's helper drive.
    pub helper: Option<HelperDrive>,
    /// A directory of this build alone, for disks and sockets.
    pub build_dir: PathBuf,
    /// The network; `None` when the run has none.
    pub network: Option<Arc<dyn Network>>,
    /// Certificates (PEM) that scripts trust while they run.
    pub ca_bundle: Option<Vec<u8>>,
    /// The longest that one script may run.
    pub script_timeout: Option<Duration>,
    /// Whether scripts wait for disks when they ask for it. Otherwise such calls succeed
    /// at once: the engine itself brings all disks to rest before it keeps or writes them.
    pub keep_sync: bool,
    /// Whether every stage gets a fresh machine; for tests and debugging.
    pub fresh_machine_per_stage: bool,
    /// Seed of identifiers (UUIDs, disk signatures); random ones without.
    pub seed: Option<String>,
    /// Where machines are saved and restored; `None` if all of them boot.
    pub warm: Option<session::WarmMachines>,
    /// Whether the guest's kernel logs to the console from the start.
    pub verbose_console: bool,
    /// Takes events.
    pub observer: SharedObserver,
    /// Takes trees.
    pub trees: Arc<dyn TreeSink>,
    /// Becomes true when the build shall stop.
    pub cancel: watch::Receiver<bool>,
    /// Where results of stages are kept, and taken from.
    pub cache: Option<Cache>,
    /// When the build pauses for inspection.
    pub pause: Option<Pause>,
}

impl Config {
    /// An identifier for a named thing: from the seed, or random without one.
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
