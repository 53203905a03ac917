//! How vbuild runs things, beside what it builds: resolved from the command
//! line once, used by every verb that starts a machine.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use engine::cache::Rules;
use machine::{DriveFormat, MachineArchitecture, accel::Accel};
use plan::Plan;
use session::WarmMachines;

use crate::error::{CommandError, Kind};

/// Memory of the guest when nothing is said, in MiB. debootstrap and dpkg need
/// 700; mkfs of large disks and initramfs generation more.
pub(crate) const MEMORY_DEFAULT_MIB: u32 = 2048;
/// The most processors that are used when nothing is said: package scripts are
/// serial, and a second one serves compression and the agent.
pub(crate) const VCPUS_DEFAULT_MAX: u8 = 4;

/// The directory of saved machines in the cache.
const WARM_DIRECTORY: &str = "warm";

pub(crate) use engine::cache::MAX_AGE_DEFAULT;

/// How results of earlier builds are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageCache {
    /// Whether at all: nothing is read or kept otherwise.
    pub enabled: bool,
    /// What is taken from it.
    pub rules: Rules,
}

impl Default for StageCache {
    fn default() -> Self {
        let rules = Rules { max_age: Some(MAX_AGE_DEFAULT), ..Rules::default() };
        Self { enabled: true, rules }
    }
}

/// Where trusted certificates come from.
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
    /// Which accelerator the machine uses.
    pub accel: Accel,
    /// Whether a kernel that does not grant every layer of the confinement is an error.
    pub require_confinement: bool,
    /// The number of virtual processors.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The user's cache directory of vbuild.
    pub cache_dir: PathBuf,
    /// Root of the Debian mirror for the appliance; the host's apt sources
    /// otherwise.
    pub mirror: Option<String>,
    /// Certificates that guests trust beside their own.
    pub ca_bundle: Option<CaSource>,
    /// Packages that the appliance holds beside the usual ones.
    pub appliance_packages: Vec<String>,
    /// Whether the guest gets a way out.
    pub network: bool,
    /// The only hosts that the guest may reach; all public ones when empty.
    pub allow_hosts: Vec<String>,
    /// Whether private addresses may be reached too.
    pub allow_private: bool,
    /// Whether the user's proxy is given names that are not resolved on this host.
    pub proxy_resolves: bool,
    /// The user's helper drive.
    pub drive: Option<PathBuf>,
    /// The format of the helper drive, as the user says; raw otherwise.
    pub drive_format: Option<DriveFormat>,
    /// The longest that one script may run.
    pub script_timeout: Option<Duration>,
    /// Whether syncs of scripts reach the disks.
    pub keep_sync: bool,
    /// Whether every machine boots, even where saved memory could be restored.
    pub cold: bool,
    /// Whether the guest's kernel logs to the console from the start.
    pub verbose_console: bool,
    /// The vbuild binary that becomes the machine's processes; this very program
    /// when it is not said. Tests are other programs, so they say it.
    pub program: Option<PathBuf>,
    /// A fresh machine for every stage.
    pub fresh_machine_per_stage: bool,
    /// Keep the build directory after a failure, and write what there is of the
    /// outputs.
    pub keep_failed: bool,
    /// Results of earlier builds.
    pub stage_cache: StageCache,
    /// Where results are shared with others.
    pub remote_cache: Option<remote::Place>,
    /// The file with the secret that what is shared is signed with.
    pub remote_key: Option<PathBuf>,
    /// Whether unsigned results of a shared cache are used.
    pub remote_unsigned: bool,
    /// Open a shell in the machine when a script fails.
    pub shell_on_failure: bool,
    /// Where the build stops for a shell: `before-install`, `after-root`.
    pub breaks: Vec<String>,
    /// What runs there instead of an interactive shell.
    pub break_command: Option<String>,
    /// Identifiers are derived from it instead of being random.
    pub seed: Option<String>,
}

impl Settings {
    /// These settings with the machine of a plan's architecture.
    ///
    /// # Errors
    /// When vbuild has no such machine.
    pub(crate) fn for_plan(&self, plan: &Plan) -> Result<Self, CommandError> {
        let architecture = plan.architecture.machine().map_err(|error| {
            CommandError::new(Kind::Usage, error).context(format!("cannot build `{}`", plan.name))
        })?;
        Ok(Self { architecture, ..self.clone() })
    }

    /// Where machines are saved and restored; `None` if all of them boot.
    pub(crate) fn warm_machines(&self) -> Option<WarmMachines> {
        (!self.cold).then(|| warm_machines_of(&self.cache_dir))
    }

    /// Whether a shell may open in the machine of a build.
    pub(crate) fn may_open_shell(&self) -> bool {
        self.shell_on_failure || !self.breaks.is_empty()
    }
}

/// The saved machines of a cache.
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

/// As many processors as the host has, up to [`VCPUS_DEFAULT_MAX`].
pub(crate) fn default_vcpus() -> u8 {
    let host = std::thread::available_parallelism().map_or(1, usize::from);
    u8::try_from(host).unwrap_or(VCPUS_DEFAULT_MAX).min(VCPUS_DEFAULT_MAX)
}

/// `$XDG_CACHE_HOME/vbuild`, else `~/.cache/vbuild`, else a directory of the
/// user below the temporary directory, for users without a home. Whether the directory
/// can be trusted is for [`crate::cache_root`] to say.
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
