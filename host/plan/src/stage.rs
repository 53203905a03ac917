//! Plans, stages, and the context in which a stage's steps run.

use std::path::{Path, PathBuf};

use architecture::Architecture;
use serde::{Deserialize, Serialize};

use crate::{Digest, DiskName, FactName, GuestPath, Node, Outputs, Step};

/// A whole build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`crate::FORMAT_VERSION`].
    pub format_version: u32,
    /// The build's name, for messages and logs.
    pub name: String,
    /// Which front end made it, such as `dib`.
    pub recipe: String,
    /// What its programs are made for. It decides about the machine that runs the build.
    pub architecture: Architecture,
    /// The disks of the machine, beside the appliance's root and the user's
    /// helper drive, which belong to the engine.
    pub disks: Vec<Disk>,
    /// The stages, in order. Each can be started from its parent's disks.
    pub stages: Vec<Stage>,
    /// What is written when the last stage is done.
    pub outputs: Outputs,
    /// Where the helper drive is mounted, seen from the tools root. Without a
    /// drive of the user it is a directory on the scratch disk.
    pub helper_at: GuestPath,
}

/// A disk of the build's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name in the recipe (`image0`); the virtio serial is derived from it.
    pub name: DiskName,
    /// What it is for.
    pub role: DiskRole,
    /// How large it is.
    pub size: DiskSize,
    /// Logical block size in bytes: 512 or 4096.
    pub block_bytes: u32,
    /// What it begins with; it is empty otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<DiskBase>,
}

/// What a disk begins with. The disk is a copy, followed by zeros where it is
/// larger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskBase {
    /// A raw disk, as a file of the host that is only read.
    #[serde(with = "crate::unix_path::host")]
    pub path: PathBuf,
    /// Where in the file the disk begins: that of a partition, say. In bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// The size of the copied part of the file, in bytes.
    pub bytes: u64,
    /// The digest of what the whole file was made from. It stands for the content in
    /// keys: the maker of the plan has compared it.
    pub sha256: Digest,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskRole {
    /// Holds the writable layer of the tools root and the build tree. There is
    /// exactly one; the engine formats it.
    Scratch,
    /// Becomes an output, or at least stays for the caller.
    Target,
}

/// How large a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSize {
    /// A number of bytes.
    Bytes(u64),
    /// As many KiB as the fact says; known once an earlier stage has set it.
    FactKib(FactName),
}

/// A part of the build after which the disks can be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// A unique name, such as `install.d`.
    pub name: String,
    /// What is mounted and bound while its steps run.
    pub context: Context,
    /// What is done.
    pub steps: Vec<Step>,
    /// Whether its steps may use the network.
    pub network: bool,
    /// How far its result may travel.
    #[serde(default, skip_serializing_if = "Keep::is_default")]
    pub keep: Keep,
    /// The longest that one of its scripts may run, where it differs from what
    /// the user says. No part of the key: a script that is stopped is a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

/// How far the result of a stage may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Kept in the cache, and given to others through a shared one.
    #[default]
    Shared,
    /// As [`Keep::Shared`], and its disks are saved however quick it was, because the user
    /// may want to inspect them: what a layer has made.
    Disks,
    /// Kept in the cache of this user only.
    Local,
    /// Never kept: the stage runs in every build, and so do those behind it.
    No,
}

impl Keep {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What must hold while a stage's steps run. The engine establishes it from
/// nothing for the first stage that it runs, and from the difference to the
/// stage before for the others; so it must be complete.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The directory that is the root of [`crate::Place::Image`].
    pub image_root: Option<GuestPath>,
    /// Where the filesystems of the disk layout are mounted: those made by the
    /// `CreateLayout` steps of earlier stages, parents first.
    pub layout_at: Option<GuestPath>,
    /// Whether /proc (rw), /dev (bind), /dev/pts and /sys (read-only) are
    /// mounted in the image root.
    pub image_system_mounts: bool,
    /// Binds, in order, made after the mounts above.
    pub binds: Vec<Bind>,
    /// Whether the trust store given by `--ca-bundle` is bound over the image's
    /// own for as long as the stage runs.
    pub ca_bundle: bool,
}

/// A bind mount inside the tools root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// What is seen.
    pub from: GuestPath,
    /// Where it is seen; created where missing and, when created, removed again.
    pub to: GuestPath,
    /// Whether it is read-only.
    pub read_only: bool,
}

impl Plan {
    /// The stage with this name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The steps of all stages, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }

    /// The nodes of all disk layouts that are made, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let layouts = self.steps().filter_map(|step| step.facets().layout);
        layouts.flat_map(|layout| &layout.nodes)
    }

    /// Directories of the host that directories of the machine are sent to.
    pub fn fetched(&self) -> impl Iterator<Item = &Path> {
        self.steps().filter_map(|step| step.facets().fetched_to)
    }

    /// Every file of the host that the plan reads.
    pub fn host_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.steps().flat_map(Step::host_files)
    }
}

impl Context {
    /// Where the image is seen: its root, or else where its filesystems are mounted.
    #[must_use]
    pub fn image_at(&self) -> Option<&GuestPath> {
        self.image_root.as_ref().or(self.layout_at.as_ref())
    }
}
