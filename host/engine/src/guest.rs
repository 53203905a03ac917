//! A guest that is ready for steps: its directories, and the setup of the base mounts below the
//! context of every stage.
//!
//! ```text
//! /vbuild/lower      the appliance's root, ext4, read-only
//! /vbuild/scratch    the scratch disk: tools/{upper,work}  build/  helper/
//! /vbuild/helper     the user's helper drive, when there is one
//! /vbuild/tools      overlay of lower and scratch/tools: Place::Tools
//!     /build         = scratch/build
//!     <helper_at>    = the helper drive, or scratch/helper
//!     /dev /proc /sys /run
//! ```

use plan::{Disk, DiskRole, GuestPath, Plan};
use session::{Command, MountSpec, Output, Session, SessionError};

use crate::{Config, EngineError, State, certificates};

/// The tools root, seen from the agent.
pub(crate) const TOOLS: &str = "/vbuild/tools";
/// The scratch disk, seen from the agent.
pub(crate) const SCRATCH: &str = "/vbuild/scratch";
/// The helper drive, seen from the agent.
pub(crate) const HELPER: &str = "/vbuild/helper";
/// The mount point of a filesystem that is inspected, seen from the agent.
pub(crate) const INSPECT: &str = "/vbuild/look";
const LOWER: &str = "/vbuild/lower";
/// The `PATH` for tools of the appliance: Debian's directories without those for local programs, to
/// which a recipe may have added files.
const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The serial of the appliance's root disk.
pub const ROOT_SERIAL: &str = "vbuild-root";
/// The serial of the helper drive.
pub const HELPER_SERIAL: &str = "vbuild-helper";

/// Returns the virtio serial of the plan's disk number `index`.
pub(crate) fn disk_serial(index: usize) -> String {
    format!("vbuild-disk{index}")
}

/// A running guest whose base has been set up.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) session: Session,
    /// The name, device node and size in bytes of each disk of the plan that is attached.
    pub(crate) disks: Vec<(String, String, u64)>,
    /// The mounts of the current context, in mount order.
    pub(crate) mounted: Vec<Mounted>,
}

/// A mount of the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) spec: MountSpec,
    /// Whether the mount point was created for this mount, and must be removed with it.
    pub(crate) made_target: bool,
}

impl Guest {
    /// Returns the device node and the size in bytes of a disk of the plan, if it is attached.
    pub(crate) fn device(&self, disk: &str) -> Option<(&str, u64)> {
        self.disks
            .iter()
            .find(|(name, ..)| name == disk)
            .map(|(_, device, bytes)| (device.as_str(), *bytes))
    }

    /// Converts a path of the tools root to the path seen from the agent.
    pub(crate) fn tools_path(path: &GuestPath) -> String {
        format!("{TOOLS}{}", path.as_str().trim_end_matches('/'))
    }

    /// Runs a tool of the appliance, and returns its standard output. Fails if the tool fails.
    pub(crate) async fn run_tool(&self, argv: &[&str]) -> Result<Vec<u8>, EngineError> {
        self.run_tool_with(argv, b"").await
    }

    /// Like [`Guest::run_tool`], but with bytes for standard input.
    pub(crate) async fn run_tool_with(
        &self,
        argv: &[&str],
        input: &[u8],
    ) -> Result<Vec<u8>, EngineError> {
        let output = self.tool_output(argv, input).await?;
        if output.status.success() { Ok(output.stdout) } else { Err(tool_failed(argv, &output)) }
    }

    /// Runs a tool of the appliance, and returns its output and its exit status. An unsuccessful
    /// exit status is not an error.
    pub(crate) async fn tool_output(
        &self,
        argv: &[&str],
        input: &[u8],
    ) -> Result<Output, EngineError> {
        tool(&self.session, argv).input(input).output().await.map_err(|source| {
            EngineError::Prepare { action: format!("run `{}`", argv.join(" ")), source }
        })
    }
}

/// Sets up the base in a fresh guest: its disks, the tools root, the network and the certificates.
pub(crate) async fn establish(
    session: Session,
    plan: &Plan,
    config: &Config,
    state: &mut State,
) -> Result<Guest, EngineError> {
    let prepare =
        |action: &'static str| move |source| EngineError::Prepare { action: action.into(), source };
    let devices = session.block_devices().await.map_err(prepare("list drives"))?;
    let find = |serial: &str| {
        devices.iter().find(|device| device.serial == serial && device.partition.is_none())
    };
    let root = find(ROOT_SERIAL)
        .ok_or_else(|| EngineError::Recipe("the guest does not see the appliance's root".into()))?;
    mount(&session, &root.path, LOWER, "ext4", &["ro", "noatime"])
        .await
        .map_err(prepare("mount the appliance"))?;
    let mut disks = Vec::new();
    for (index, disk) in plan.disks.iter().enumerate() {
        if let Some(device) = find(&disk_serial(index)) {
            disks.push((disk.name.to_string(), device.path.clone(), device.bytes));
        }
    }
    let guest = Guest { session, disks, mounted: Vec::new() };
    mount_scratch(&guest, plan, state).await?;
    mount_tools(&guest).await.map_err(prepare("set up the tools root"))?;
    mount_helper(&guest, plan, config).await?;
    if config.network.is_some() {
        guest.session.network_up().await.map_err(prepare("set up the network"))?;
    }
    let resolver = if config.network.is_some() { "nameserver 127.0.0.1\n" } else { "" };
    guest
        .session
        .put_file(TOOLS, "/etc/resolv.conf", 0o644, resolver.as_bytes())
        .await
        .map_err(prepare("write resolv.conf"))?;
    if let Some(bundle) = &config.ca_bundle {
        certificates::install(&guest.session, TOOLS, bundle)
            .await
            .map_err(prepare("install certificates"))?;
    }
    Ok(guest)
}

pub(crate) async fn mount(
    session: &Session,
    source: &str,
    target: &str,
    fstype: &str,
    options: &[&str],
) -> Result<(), SessionError> {
    session
        .mount(MountSpec {
            source: source.to_owned(),
            target: target.to_owned(),
            fstype: fstype.to_owned(),
            options: options.iter().map(ToString::to_string).collect(),
        })
        .await
}

/// Formats the scratch disk if it is new, and mounts it. It has no journal, and its inode tables
/// are initialised lazily: after a crash it is discarded, never repaired.
async fn mount_scratch(guest: &Guest, plan: &Plan, state: &mut State) -> Result<(), EngineError> {
    let name = plan
        .disks
        .iter()
        .find(|disk: &&Disk| disk.role == DiskRole::Scratch)
        .map_or("", |disk| disk.name.as_str());
    let (device, _) = guest
        .device(name)
        .ok_or_else(|| EngineError::Recipe("the guest does not see the scratch disk".into()))?;
    if !state.scratch_formatted {
        let argv = [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal,^resize_inode",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,nodiscard,root_owner=0:0",
            device,
        ];
        guest.run_tool(&argv).await?;
        state.scratch_formatted = true;
    }
    let options = ["noatime", "nodiratime", "nobarrier"];
    mount(&guest.session, device, SCRATCH, "ext4", &options)
        .await
        .map_err(|source| EngineError::Prepare { action: "mount the scratch disk".into(), source })
}

async fn mount_tools(guest: &Guest) -> Result<(), SessionError> {
    let session = &guest.session;
    for directory in ["tools/upper", "tools/work", "build", "helper"] {
        session.make_directory(SCRATCH, &format!("/{directory}"), 0o755).await?;
    }
    session
        .mount(MountSpec {
            source: "vbuild-tools".into(),
            target: TOOLS.into(),
            fstype: "overlay".into(),
            options: vec![
                format!("lowerdir={LOWER}"),
                format!("upperdir={SCRATCH}/tools/upper"),
                format!("workdir={SCRATCH}/tools/work"),
            ],
        })
        .await?;
    for directory in ["/dev", "/proc", "/sys", "/run"] {
        mount(session, directory, &format!("{TOOLS}{directory}"), "", &["rbind"]).await?;
    }
    mount(session, &format!("{SCRATCH}/build"), &format!("{TOOLS}/build"), "", &["bind"]).await
}

/// Mounts the user's drive by virt-dib's rule: its first partition, or the whole drive if it has
/// none. If the user has no drive, a directory of the scratch disk takes its place.
async fn mount_helper(guest: &Guest, plan: &Plan, config: &Config) -> Result<(), EngineError> {
    let session = &guest.session;
    let target = Guest::tools_path(&plan.helper_at);
    let bind = |source| EngineError::Prepare { action: "mount the helper drive".into(), source };
    let Some(helper) = &config.helper else {
        let from = format!("{SCRATCH}/helper");
        return mount(session, &from, &target, "", &["bind"]).await.map_err(bind);
    };
    match mount_drive(session, HELPER).await.map_err(bind)? {
        Ok(()) => mount(session, HELPER, &target, "", &["bind"]).await.map_err(bind),
        Err(reason) => Err(EngineError::HelperDrive { path: helper.path.clone(), reason }),
    }
}

/// Mounts the user's drive at a path of the guest, by virt-dib's rule: its first partition, or the
/// whole drive if it has none. The inner error is a problem of the drive itself.
///
/// # Errors
/// Fails if the guest refuses a request or is gone.
pub async fn mount_drive(session: &Session, at: &str) -> Result<Result<(), String>, SessionError> {
    let devices = session.block_devices().await?;
    let ours = devices.iter().filter(|device| device.serial == HELPER_SERIAL);
    // Partitions come before the whole disk, the first one first.
    let Some(device) = ours.min_by_key(|device| device.partition.unwrap_or(u32::MAX)) else {
        return Ok(Err("the guest does not see it".into()));
    };
    session.make_directory("/", at, 0o755).await?;
    let output = tool(session, &["mount", "-o", "noatime", &device.path, at]).output().await?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(Err(format!(
        "no filesystem that can be mounted was found on it ({said}); `vbuild cache create` makes a drive that has one"
    )))
}

/// Returns a command for a tool of the appliance, which runs in the root of the agent, outside
/// every context.
pub(crate) fn tool(session: &Session, argv: &[&str]) -> Command {
    session.command(argv).envs([
        ("PATH", TOOL_PATH),
        ("LC_ALL", "C"),
        ("HOME", "/root"),
        // LVM would wait for udev to create its nodes, but no udev runs in the guest.
        ("DM_DISABLE_UDEV", "1"),
    ])
}

/// Returns the error for a tool that ended with an unsuccessful status.
pub(crate) fn tool_failed(argv: &[&str], output: &Output) -> EngineError {
    EngineError::Tool {
        argv: argv.join(" "),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    }
}
