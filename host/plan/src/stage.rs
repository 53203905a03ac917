//! Plans, stages, and the context in which the steps of a stage run.

use std::path::{Path, PathBuf};

use architecture::Architecture;
use serde::{Deserialize, Serialize};

use crate::{Digest, DiskName, FactName, GuestPath, Node, Outputs, Step};

/// A whole build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The version of the format, [`crate::FORMAT_VERSION`].
    pub format_version: u32,
    /// The name of the build, for messages and logs.
    pub name: String,
    /// The front end that made the plan, such as `dib`.
    pub recipe: String,
    /// The architecture of the image's programs. It determines the machine that runs the build.
    pub architecture: Architecture,
    /// The disks of the machine, without the appliance's root and the user's helper drive, which
    /// belong to the engine.
    pub disks: Vec<Disk>,
    /// The stages, in order. Each can start from the disks that the stage before it left.
    pub stages: Vec<Stage>,
    /// The outputs that are written when the last stage is done.
    pub outputs: Outputs,
    /// The mount point of the helper drive in the tools root. If the user has no drive, it is a
    /// directory of the scratch disk.
    pub helper_at: GuestPath,
}

/// A disk of the build's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The name in the recipe (`image0`).
    pub name: DiskName,
    /// The purpose of the disk.
    pub role: DiskRole,
    /// The size of the disk.
    pub size: DiskSize,
    /// The logical block size in bytes: 512 or 4096.
    pub block_bytes: u32,
    /// The initial content; without one the disk is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<DiskBase>,
}

/// The initial content of a disk: a copy of a host file, followed by zeros if the disk is larger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskBase {
    /// The path of a raw disk on the host, which is only read.
    #[serde(with = "crate::unix_path::host")]
    pub path: PathBuf,
    /// The offset in the file where the copy begins, in bytes; that of a partition, for example.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// The size of the copied part of the file, in bytes.
    pub bytes: u64,
    /// The digest of the whole file, or of the files that it was converted from. Keys contain it in
    /// place of the content; the creator of the plan has computed or verified it.
    pub sha256: Digest,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The purpose of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskRole {
    /// Contains the writable layer of the tools root and the build tree. There is exactly one; the
    /// engine formats it.
    Scratch,
    /// Is written to outputs, or at least returned to the caller.
    Target,
}

/// The size of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSize {
    /// A number of bytes.
    Bytes(u64),
    /// The number of KiB in a fact, which is known after an earlier stage has set it.
    FactKib(FactName),
}

/// A part of the build after which the disks can be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// A unique name, such as `install.d`.
    pub name: String,
    /// The mounts that exist while the steps run.
    pub context: Context,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Whether the steps may use the network.
    pub network: bool,
    /// Where the result of the stage may be saved.
    #[serde(default, skip_serializing_if = "Keep::is_default")]
    pub keep: Keep,
    /// Maximum run time of each script in seconds; overrides the user's setting. It is not part of
    /// the key: a script that exceeds it fails, and failures are not saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

/// Where the result of a stage may be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// In the cache, and in a shared cache.
    #[default]
    Shared,
    /// Same as [`Keep::Shared`], and the disks are saved even if the stage took little time,
    /// because the user may want to inspect them: the result of a layer.
    Disks,
    /// Only in the user's own cache.
    Local,
    /// Nowhere: the stage and all stages behind it run in every build.
    No,
}

impl Keep {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The mounts that must exist while the steps of a stage run. For the first stage that runs, the
/// engine sets up all of them; for others, only the difference to the stage before. So a context
/// must be complete.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The directory that is the root of [`crate::Place::Image`].
    pub image_root: Option<GuestPath>,
    /// The directory below which the filesystems of the disk layout are mounted: those that steps
    /// of earlier stages have made or found, parents first.
    pub layout_at: Option<GuestPath>,
    /// Whether /proc (rw), /dev (bind), /dev/pts and /sys (read-only) are mounted in the image
    /// root.
    pub image_system_mounts: bool,
    /// Bind mounts, in order, made after the mounts above.
    pub binds: Vec<Bind>,
    /// Whether scripts of the stage trust the certificates of `--ca-bundle`, by variables such as
    /// `SSL_CERT_FILE`. Scripts of stages with network always do.
    pub ca_bundle: bool,
}

/// A bind mount inside the tools root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// The source of the bind.
    pub from: GuestPath,
    /// The mount point. If it is missing, it is created, and removed again after the unmount.
    pub to: GuestPath,
    /// Whether the mount is read-only.
    pub read_only: bool,
}

impl Plan {
    /// Returns the stage of this name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Returns the steps of all stages, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }

    /// Returns the nodes of all disk layouts that the plan makes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let layouts = self.steps().filter_map(|step| step.facets().layout);
        layouts.flat_map(|layout| &layout.nodes)
    }

    /// Returns the host directories that directories of the guest are fetched to.
    pub fn fetched(&self) -> impl Iterator<Item = &Path> {
        self.steps().filter_map(|step| step.facets().fetched_to)
    }

    /// Returns the host files that the plan reads.
    pub fn host_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.steps().flat_map(Step::host_files)
    }
}

impl Context {
    /// Returns the directory where the image is visible: its root, or else the directory where its
    /// filesystems are mounted.
    #[must_use]
    pub fn image_at(&self) -> Option<&GuestPath> {
        self.image_root.as_ref().or(self.layout_at.as_ref())
    }
}
