//! The closed list of what a build can do. A new step is a new variant here,
//! and the compiler then names every place that must know it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{GuestPath, Layout, TreeOutput, Upload};

/// Directories of programs in a Debian root: the `PATH` of a recipe's commands.
pub const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The name of a value that a step finds out while the build runs, such as
/// `image-size-kib` or `device.root`.
pub type FactName = String;

/// An environment, in order; later entries win.
pub type Env = Vec<(String, Value)>;

/// Text that is known now or found out by an earlier step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// The text itself.
    Text(String),
    /// The value of a fact. Using one that no step has set is an error.
    Fact(FactName),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Where a command runs or a path is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The appliance's userland with the build's own writable layer. What other
    /// builders call "the host" or "outside".
    Tools,
    /// The image, chrooted into.
    Image,
}

/// A partition or volume that stands on a disk already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundDevice {
    /// Which one.
    pub place: DevicePlace,
    /// The node of the layout that it becomes. Of a volume it must be
    /// `GROUP/VOLUME`.
    pub name: String,
    /// The node that the filesystem on it becomes, if there is one.
    pub filesystem: String,
}

/// Where a device stands on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DevicePlace {
    /// The disk itself, which has no partition table.
    Disk,
    /// A partition, by its number.
    Partition(u32),
    /// A logical volume: its group and its name.
    Volume(String, String),
}

impl std::fmt::Display for DevicePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk => f.write_str("filesystem"),
            Self::Partition(number) => write!(f, "partition {number}"),
            Self::Volume(group, name) => write!(f, "volume `{group}/{name}`"),
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Puts files of the host, or bytes of the plan, into the guest.
    Upload(Upload),
    /// Runs one command.
    Run(Run),
    /// Runs the scripts of a directory in diskimage-builder's way.
    RunParts(RunParts),
    /// A small change to the file tree.
    File(FileStep),
    /// Gives the image a working resolver, or puts its own back.
    ResolvConf(ResolvConf),
    /// Fails unless a directory holds something.
    RequireContent {
        /// The directory.
        path: GuestPath,
        /// Names at its top that do not count.
        ignore: Vec<String>,
        /// The message of the failure.
        message: String,
    },
    /// Sets a fact to a text.
    SetFact {
        /// The fact.
        fact: FactName,
        /// The new value of the fact.
        value: Value,
    },
    /// Computes the size of the image in KiB from a tree and sets a fact.
    ImageSize(ImageSize),
    /// Makes partition tables, volumes, filesystems: everything but mounting,
    /// which is the business of [`crate::Context::layout_at`]. Sets the facts
    /// `device.NAME`, `uuid.NAME` and `label.NAME` for each node.
    CreateLayout(Layout),
    /// Takes over what stands on a disk that did not begin empty: finds the one
    /// root filesystem on it, on the disk itself, a partition or a logical
    /// volume, and the filesystems of the disk that its fstab mounts. They are
    /// the layout from then on, as if `CreateLayout` had made them. Sets the
    /// facts of `CreateLayout`, and `root-device`.
    FindRoot {
        /// The disk.
        disk: String,
        /// Which one, where there are several: the number of a partition,
        /// `GROUP/VOLUME`, or `LABEL=`, `UUID=`, `PARTLABEL=` or `PARTUUID=` and a value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<String>,
    },
    /// Takes over partitions and volumes of a disk that did not begin empty, by
    /// names of the recipe, and the filesystems on them. Sets the facts of
    /// `CreateLayout`, and `fstype.NAME` for each filesystem.
    FindDevices {
        /// The disk.
        disk: String,
        /// What is taken over.
        devices: Vec<FoundDevice>,
    },
    /// Makes the found root filesystem as large as the disk allows, with the
    /// partition and the volumes below it. Only where nothing is mounted.
    GrowRoot {
        /// The disk.
        disk: String,
    },
    /// Closes what is open of the layout and forgets it, so that a command can
    /// work on the bare disk. Only where nothing is mounted.
    ForgetLayout,
    /// Writes fstab (and crypttab) lines for the layout's mounts.
    WriteFstab {
        /// The fstab file.
        path: GuestPath,
    },
    /// Copies what is in a directory, everything kept (owners, modes, times,
    /// links, sparse files, xattrs, devices), dot files included.
    CopyTree {
        /// The directory whose content is copied.
        from: GuestPath,
        /// The directory that it is copied to, which must exist.
        to: GuestPath,
    },
    /// Ends processes that still have their root below a directory, as daemons
    /// started by package scripts do.
    KillProcesses {
        /// The directory.
        root: GuestPath,
    },
    /// Sends a directory of the guest to the host, if anything is in it.
    Fetch {
        /// The directory in the guest.
        from: GuestPath,
        /// The directory on the host; made when needed, merged into.
        #[serde(with = "crate::unix_path::host")]
        to: PathBuf,
    },
    /// Writes an output from a tree while it is mounted.
    ExportTree {
        /// The root of the tree.
        root: GuestPath,
        /// What is left out; see `wire::Request::GetTar`.
        exclude: Vec<String>,
        /// The output.
        output: TreeOutput,
    },
    /// Discards the free blocks of every filesystem of the layout.
    Trim,
    /// Sets the times of change that are later than a moment to that moment, in
    /// everything below a directory.
    ClampTimes {
        /// The directory.
        root: GuestPath,
        /// The moment, in seconds since 1970.
        epoch: u64,
    },
    /// Writes the content of the layout's filesystems again, so that the same files
    /// give the same bytes: ext2 to ext4 are made again from their files, and
    /// FAT gets its times set. Others stay as they are. Only where nothing is
    /// mounted.
    Canonicalise {
        /// The moment that all else is said to have happened at, in seconds
        /// since 1970.
        epoch: u64,
    },
    /// Shows a message to the user.
    Say {
        /// The text.
        text: String,
    },
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// What it is, for messages: the name of a script of the recipe, or a sentence for a
    /// command of vbuild's own (`make mount points`).
    pub what: String,
    /// Where it runs.
    pub place: Place,
    /// Program and arguments.
    pub argv: Vec<Value>,
    /// The whole environment.
    pub env: Env,
    /// Directory in whose `environment.d` way files are sourced by bash before
    /// the command, seen from `place`; see [`RunParts::environment`].
    pub environment: Option<GuestPath>,
    /// The working directory, seen from `place`.
    pub cwd: GuestPath,
    /// Standard input.
    pub stdin: Option<String>,
    /// Sets this fact to the standard output without trailing newlines.
    pub capture: Option<FactName>,
}

impl Run {
    /// Whether [`Run::what`] is the name of a script, which has no blank.
    #[must_use]
    pub fn is_script(&self) -> bool {
        !self.what.contains(' ')
    }
}

/// A directory of scripts, run by the rules of dib-run-parts of
/// diskimage-builder 3.43: executable files named `[0-9A-Za-z_-]+`, sorted by
/// leading number and then by bytes; the first failure ends the phase. The
/// directory is read when the step runs, because earlier scripts may add to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunParts {
    /// The name of the phase, such as `install.d`.
    pub phase: String,
    /// Where the scripts run.
    pub place: Place,
    /// The directory, seen from `place`. When missing, the phase is skipped.
    pub directory: GuestPath,
    /// A directory of files (`[0-9A-Za-z_.-]+`, byte order of the path) that
    /// bash sources under `set -ue -o pipefail` before the scripts, once per
    /// phase; what they export is the environment of the scripts.
    pub environment: Option<GuestPath>,
    /// The environment before that.
    pub env: Env,
    /// The working directory, seen from `place`.
    pub cwd: GuestPath,
    /// Which element each script came from, for messages.
    pub origins: BTreeMap<String, String>,
    /// Reads `IMAGE_BLOCK_DEVICE=` lines from standard output into the fact
    /// `image-block-device`, as block-device.d does.
    pub block_device_output: bool,
    /// Scripts that are put into the directory one by one, each right before it
    /// runs, in the order in which they run. What is found in the directory runs
    /// between them. A script sees those before it and none behind it, so each
    /// of them is an input of what follows it alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<Script>,
}

/// A script of a phase that appears right before it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Its name in [`RunParts::directory`].
    pub name: String,
    /// Puts it there, and wherever else it is seen.
    pub upload: Upload,
}

/// A small change to the file tree of the tools root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FileStep {
    /// Makes a directory with its parents.
    MakeDirectory {
        /// The directory.
        path: GuestPath,
        /// Permission bits.
        mode: u32,
    },
    /// Writes a file, replacing it.
    Write {
        /// The file.
        path: GuestPath,
        /// The new content of the file.
        content: String,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a symbolic link, replacing a file or link.
    Symlink {
        /// The link.
        path: GuestPath,
        /// What it says.
        target: String,
    },
    /// Removes a file or tree; a missing one is fine. Never crosses into
    /// another filesystem.
    Remove {
        /// The path.
        path: GuestPath,
        /// Keep the directory itself.
        content_only: bool,
    },
    /// Renames a file or directory.
    Rename {
        /// The present path.
        from: GuestPath,
        /// The new path.
        to: GuestPath,
    },
    /// Truncates every regular file below a directory.
    TruncateAll {
        /// The directory.
        path: GuestPath,
    },
    /// Removes regular files directly in a directory whose names end so.
    RemoveBySuffix {
        /// The directory.
        path: GuestPath,
        /// The end of the names.
        suffix: String,
    },
}

/// The resolver of the image during the build, by diskimage-builder's rules
/// (`resolv.conf.ORIG`, an exported convention of elements).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResolvConf {
    /// Renames the image's /etc/resolv.conf to .ORIG and writes a working one.
    Prepare,
    /// Puts .ORIG back; removes the working one when there was none; leaves a
    /// symbolic link or an immutable file alone.
    Restore,
}

/// The size formula of diskimage-builder 3.43: the tree's KiB, plus `extra_kib`
/// or else divided by 0.6, plus the journal, plus `fixed_kib`, rounded up to
/// 64 KiB. With `explicit_kib` only `fixed_kib` is added.
///
/// Small trees come to less than mkfs needs: then it is the least that can hold the tree, the
/// journal, what a filesystem needs for itself, and what else stands on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// The tree that is measured.
    pub tree: GuestPath,
    /// The size that the user asked for.
    pub explicit_kib: Option<u64>,
    /// Room beside the tree that the user asked for.
    pub extra_kib: Option<u64>,
    /// Size of the journal, added when there is no explicit size.
    pub journal_kib: u64,
    /// Always added: 525 MiB with an ESP.
    pub fixed_kib: u64,
    /// What partitions of a given size and the partition table take.
    pub beside_kib: u64,
    /// The smallest root filesystem of its type.
    pub root_least_kib: u64,
    /// The fact that is set.
    pub fact: FactName,
}
