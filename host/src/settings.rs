//! The settings of a run: how vbuild builds, as opposed to what it builds. They are resolved once
//! from the command line and used by every verb that starts a machine.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use engine::cache::Rules;
use machine::{DriveFormat, MachineArchitecture, accel::Accel};
use plan::Plan;
use session::WarmMachines;

use crate::error::{CommandError, Kind};

/// Default memory of the guest in MiB. debootstrap and dpkg need 700; mkfs of large disks and the
/// generation of an initramfs need more.
pub(crate) const MEMORY_DEFAULT_MIB: u32 = 2048;
/// Maximum of the default number of processors: package scripts are serial, and a second processor
/// serves compression and the agent.
pub(crate) const VCPUS_DEFAULT_MAX: u8 = 4;

/// The subdirectory of the cache directory for saved machines.
const WARM_DIRECTORY: &str = "warm";

pub(crate) use engine::cache::MAX_AGE_DEFAULT;

/// The settings for results of earlier builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageCache {
    /// Whether results are used and saved at all. If not, a build neither reads nor writes the
    /// store.
    pub enabled: bool,
    /// Which results may be used.
    pub rules: Rules,
}

impl Default for StageCache {
    fn default() -> Self {
        let rules = Rules { max_age: Some(MAX_AGE_DEFAULT), ..Rules::default() };
        Self { enabled: true, rules }
    }
}

/// The source of trusted certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// A PEM file.
    File(PathBuf),
    /// The host's own trust store.
    Host,
}

/// The settings of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The architecture of the machine: that of the plan, or that of this host.
    pub architecture: MachineArchitecture,
    /// The accelerator that the user asked for.
    pub accel: Accel,
    /// Whether a kernel that does not grant every layer of the confinement is an error.
    pub require_confinement: bool,
    /// The number of virtual processors.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// vbuild's cache directory.
    pub cache_dir: PathBuf,
    /// The root URL of the Debian mirror for the appliance; `None` means the host's apt sources.
    pub mirror: Option<String>,
    /// The source of the certificates that guests trust in addition to their own.
    pub ca_bundle: Option<CaSource>,
    /// The packages of the appliance in addition to the usual ones.
    pub appliance_packages: Vec<String>,
    /// Whether the guest has a network.
    pub network: bool,
    /// The only hosts that the guest may reach; if empty, all public ones.
    pub allow_hosts: Vec<String>,
    /// Whether the guest may also reach private addresses.
    pub allow_private: bool,
    /// Whether the user's proxy, instead of this host, resolves the names that the guest asks for.
    pub proxy_resolves: bool,
    /// The path of the user's helper drive.
    pub drive: Option<PathBuf>,
    /// The format of the helper drive that the user named; `None` means raw.
    pub drive_format: Option<DriveFormat>,
    /// The time limit of each script.
    pub script_timeout: Option<Duration>,
    /// Whether syncs of scripts reach the disks.
    pub keep_sync: bool,
    /// Whether every machine boots, even if it could be restored from saved memory.
    pub cold: bool,
    /// Whether the guest's kernel logs to the console from the start.
    pub verbose_console: bool,
    /// The vbuild binary that the machine's processes run; `None` means the current program. Tests
    /// set it, because they are other programs.
    pub program: Option<PathBuf>,
    /// Whether every stage runs in a fresh machine.
    pub fresh_machine_per_stage: bool,
    /// Whether a failed build keeps its build directory, and writes the outputs as far as they
    /// exist.
    pub keep_failed: bool,
    /// The settings for results of earlier builds.
    pub stage_cache: StageCache,
    /// The shared cache in which results are exchanged with others.
    pub remote_cache: Option<remote::Place>,
    /// The file with the secret that signs results in the shared cache.
    pub remote_key: Option<PathBuf>,
    /// Whether unsigned results of the shared cache are used.
    pub remote_unsigned: bool,
    /// Whether a shell opens in the machine when a script fails.
    pub shell_on_failure: bool,
    /// The points at which the build opens a shell, such as `before-install` and `after-root`.
    pub breaks: Vec<String>,
    /// The command that runs instead of an interactive shell.
    pub break_command: Option<String>,
    /// The seed of identifiers, by default `SOURCE_DATE_EPOCH`; without it they are random.
    pub seed: Option<String>,
}

impl Settings {
    /// Returns these settings with the machine architecture of a plan.
    ///
    /// # Errors
    /// Fails if vbuild has no machine of this architecture.
    pub(crate) fn for_plan(&self, plan: &Plan) -> Result<Self, CommandError> {
        let architecture = plan.architecture.machine().map_err(|error| {
            CommandError::new(Kind::Usage, error).context(format!("cannot build `{}`", plan.name))
        })?;
        Ok(Self { architecture, ..self.clone() })
    }

    /// Returns where machines are saved and restored; `None` if all of them boot.
    pub(crate) fn warm_machines(&self) -> Option<WarmMachines> {
        (!self.cold).then(|| warm_machines_of(&self.cache_dir))
    }

    /// Whether a shell may open in the machine during a build.
    pub(crate) fn may_open_shell(&self) -> bool {
        self.shell_on_failure || !self.breaks.is_empty()
    }
}

/// Returns the saved machines of a cache directory.
pub(crate) fn warm_machines_of(cache_dir: &Path) -> WarmMachines {
    WarmMachines::new(cache_dir.join(WARM_DIRECTORY))
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            architecture: MachineArchitecture::of_host(),
            accel: Accel::Auto,
            require_confinement: false,
            vcpus: default_vcpus(),
            memory_mib: MEMORY_DEFAULT_MIB,
            cache_dir: default_cache_dir(),
            mirror: None,
            ca_bundle: None,
            appliance_packages: Vec::new(),
            network: true,
            allow_hosts: Vec::new(),
            allow_private: false,
            proxy_resolves: false,
            drive: None,
            drive_format: None,
            script_timeout: None,
            keep_sync: false,
            cold: false,
            verbose_console: false,
            program: None,
            fresh_machine_per_stage: false,
            keep_failed: false,
            stage_cache: StageCache::default(),
            remote_cache: None,
            remote_key: None,
            remote_unsigned: false,
            shell_on_failure: false,
            breaks: Vec::new(),
            break_command: None,
            seed: std::env::var("SOURCE_DATE_EPOCH").ok().filter(|epoch| !epoch.is_empty()),
        }
    }
}

/// Returns the number of the host's processors, but at most [`VCPUS_DEFAULT_MAX`].
pub(crate) fn default_vcpus() -> u8 {
    let host = std::thread::available_parallelism().map_or(1, usize::from);
    u8::try_from(host).unwrap_or(VCPUS_DEFAULT_MAX).min(VCPUS_DEFAULT_MAX)
}

/// Returns the default cache directory: `$XDG_CACHE_HOME/vbuild`, else `~/.cache/vbuild`, else, for
/// users without a home directory, `vbuild-UID` in the directory for temporary files.
/// [`crate::cache_root`] checks whether the directory can be trusted.
pub(crate) fn default_cache_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(base) = variable("XDG_CACHE_HOME") {
        return PathBuf::from(base).join("vbuild");
    }
    if let Some(home) = variable("HOME") {
        return PathBuf::from(home).join(".cache/vbuild");
    }
    std::env::temp_dir().join(format!("vbuild-{}", nix::unistd::getuid()))
}
