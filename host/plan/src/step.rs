//! The closed list of steps that a build can have. A new step is a new variant here, and the
//! compiler then finds every match that needs an arm for it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{GuestPath, Layout, TreeOutput, Upload};

/// Directories of programs in a Debian root: the `PATH` of a recipe's commands.
pub const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The name of a value that a step determines while the build runs, such as `image-size-kib` or
/// `device.root`.
pub type FactName = String;

/// Environment variables, in order; later entries override earlier ones.
pub type Env = Vec<(String, Value)>;

/// A text that is known in advance, or is determined by an earlier step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// The text itself.
    Text(String),
    /// The value of a fact. The use of a fact that no step has set is an error.
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

/// The root in which a command runs, or that a path is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The appliance's userland with the build's own writable layer. Other builders call it "the
    /// host" or "outside".
    Tools,
    /// The image, as a chroot.
    Image,
}

/// An existing partition, volume or filesystem of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundDevice {
    /// The location of the device on the disk.
    pub place: DevicePlace,
    /// The name of the layout node that the device becomes. For a volume it must be `GROUP/VOLUME`.
    pub name: String,
    /// The name of the layout node for the filesystem on the device, if it has one.
    pub filesystem: String,
}

/// The location of a device on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DevicePlace {
    /// The disk itself, without a partition table.
    Disk,
    /// A partition, by its number.
    Partition(u32),
    /// A logical volume, by the names of its group and of the volume.
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

/// One operation of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Puts host files, or texts of the plan, into the guest.
    Upload(Upload),
    /// Runs one command.
    Run(Run),
    /// Runs the scripts of a directory by the rules of diskimage-builder.
    RunParts(RunParts),
    /// Makes a small change to the file tree.
    File(FileStep),
    /// Gives the image a working resolver configuration, or restores its own.
    ResolvConf(ResolvConf),
    /// Fails unless a directory has content.
    RequireContent {
        /// The directory.
        path: GuestPath,
        /// Names of entries of the directory that do not count as content.
        ignore: Vec<String>,
        /// The error message if it has none.
        message: String,
    },
    /// Sets a fact to a text.
    SetFact {
        /// The name of the fact.
        fact: FactName,
        /// The new value of the fact.
        value: Value,
    },
    /// Computes the size of the image in KiB from a tree, and sets a fact to it.
    ImageSize(ImageSize),
    /// Makes partition tables, volumes and filesystems: everything except mounts, which belong to
    /// [`crate::Context::layout_at`]. Sets the facts `device.NAME`, `uuid.NAME` and `label.NAME` of
    /// the nodes that have such a value.
    CreateLayout(Layout),
    /// Adds the content of a disk with a base to the layout: finds the single root filesystem on
    /// the disk itself, a partition or a logical volume, and those filesystems of the disk that its
    /// fstab mounts. Later steps use them as if `CreateLayout` had made them. Sets the facts of
    /// `CreateLayout`, and `root-device`.
    FindRoot {
        /// The name of the disk.
        disk: String,
        /// Selects one of several root filesystems: the number of a partition, `GROUP/VOLUME`, or a
        /// value after `LABEL=`, `UUID=`, `PARTLABEL=` or `PARTUUID=`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<String>,
    },
    /// Adds partitions and volumes of a disk with a base to the layout, under names of the recipe,
    /// and the filesystems on them. Sets the facts of `CreateLayout`, and `fstype.NAME` for each
    /// filesystem.
    FindDevices {
        /// The name of the disk.
        disk: String,
        /// The devices to add.
        devices: Vec<FoundDevice>,
    },
    /// Makes the found root filesystem as large as the disk permits, with the partition and the
    /// volumes below it. Nothing may be mounted.
    GrowRoot {
        /// The name of the disk.
        disk: String,
    },
    /// Closes the open nodes of the layout and forgets them, so that a command can use the bare
    /// disk. Nothing may be mounted.
    ForgetLayout,
    /// Writes the fstab lines of the layout's mounts.
    WriteFstab {
        /// The path of the fstab file.
        path: GuestPath,
    },
    /// Copies the content of a directory, dot files included, with owners, modes, times, links,
    /// holes, xattrs and devices.
    CopyTree {
        /// The directory whose content is copied.
        from: GuestPath,
        /// The directory that it is copied to, which must exist.
        to: GuestPath,
    },
    /// Ends processes that still use files below a directory, such as daemons that package scripts
    /// have started.
    KillProcesses {
        /// The directory.
        root: GuestPath,
    },
    /// Sends the content of a directory of the guest to the host, unless it is empty.
    Fetch {
        /// The directory in the guest.
        from: GuestPath,
        /// The directory on the host; created if it is missing, merged into if it exists.
        #[serde(with = "crate::unix_path::host")]
        to: PathBuf,
    },
    /// Writes an output from a tree while it is mounted.
    ExportTree {
        /// The root of the tree.
        root: GuestPath,
        /// Paths to leave out; see `wire::Request::GetTar`.
        exclude: Vec<String>,
        /// The output to write.
        output: TreeOutput,
    },
    /// Discards the free blocks of all mounted filesystems of the layout.
    Trim,
    /// Sets all modification times below a directory that are later than a given time to that time.
    ClampTimes {
        /// The directory.
        root: GuestPath,
        /// The time, in seconds since 1970.
        epoch: u64,
    },
    /// Rewrites the filesystems of the layout, so that the same files give the same bytes: ext2,
    /// ext3 and ext4 are made again from their files, and FAT gets fixed times. Other filesystems
    /// stay as they are. Nothing may be mounted.
    Canonicalise {
        /// The time that replaces all times except modification times, of which it replaces the
        /// later ones; in seconds since 1970.
        epoch: u64,
    },
    /// Shows a message to the user.
    Say {
        /// The text of the message.
        text: String,
    },
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// A description for messages: the name of a script of the recipe, or a phrase for a command of
    /// vbuild itself (`make mount points`).
    pub what: String,
    /// The root in which the command runs.
    pub place: Place,
    /// The program and its arguments.
    pub argv: Vec<Value>,
    /// The complete environment.
    pub env: Env,
    /// A directory whose files bash sources before the command, seen from `place`; see
    /// [`RunParts::environment`].
    pub environment: Option<GuestPath>,
    /// The working directory, seen from `place`.
    pub cwd: GuestPath,
    /// The text of standard input; `None` for no input.
    pub stdin: Option<String>,
    /// The fact that is set to standard output, without newlines at its end.
    pub capture: Option<FactName>,
}

impl Run {
    /// Whether [`Run::what`] is the name of a script: names have no spaces.
    #[must_use]
    pub fn is_script(&self) -> bool {
        !self.what.contains(' ')
    }
}

/// A directory of scripts, run by the rules of dib-run-parts of diskimage-builder 3.43: executable
/// files named `[0-9A-Za-z_-]+`, sorted by leading number and then by bytes. The first failure ends
/// the phase. The directory is read when the step begins, because earlier steps may add scripts to
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunParts {
    /// The name of the phase, such as `install.d`.
    pub phase: String,
    /// The root in which the scripts run.
    pub place: Place,
    /// The directory, seen from `place`. If it is missing, the phase is skipped.
    pub directory: GuestPath,
    /// A directory of files (`[0-9A-Za-z_.-]+`, in byte order of the path) that bash sources under
    /// `set -ue -o pipefail` before the scripts, once per phase. The variables that they export are
    /// the environment of the scripts.
    pub environment: Option<GuestPath>,
    /// The environment in which these files are sourced.
    pub env: Env,
    /// The working directory, seen from `place`.
    pub cwd: GuestPath,
    /// The elements that scripts and environment files came from, by their names; for messages.
    pub origins: BTreeMap<String, String>,
    /// Whether an `IMAGE_BLOCK_DEVICE=` line in standard output sets the fact `image-block-device`,
    /// as in block-device.d.
    pub block_device_output: bool,
    /// Scripts that are put into the directory one by one, each right before it runs, in the order
    /// in which they run. Other scripts of the directory run between them. A script sees only those
    /// before it, so each one is an input only of what runs after it is in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<Script>,
}

/// A script of a phase that appears right before it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The name of the script in [`RunParts::directory`].
    pub name: String,
    /// The files of the script: the one in that directory, and copies elsewhere.
    pub upload: Upload,
}

/// A small change to the file tree of the tools root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FileStep {
    /// Creates a directory and its missing parents.
    MakeDirectory {
        /// The directory.
        path: GuestPath,
        /// Permission bits.
        mode: u32,
    },
    /// Writes a file; an existing one is replaced.
    Write {
        /// The file.
        path: GuestPath,
        /// The new content of the file.
        content: String,
        /// Permission bits.
        mode: u32,
    },
    /// Creates a symbolic link; an existing file or link is replaced.
    Symlink {
        /// The link.
        path: GuestPath,
        /// The target of the link.
        target: String,
    },
    /// Removes a file or tree, if it exists. Other filesystems mounted below it are not entered.
    Remove {
        /// The path.
        path: GuestPath,
        /// Whether a directory itself stays, and only its content is removed.
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
    /// Removes the regular files in a directory, but not below it, whose names have a suffix.
    RemoveBySuffix {
        /// The directory.
        path: GuestPath,
        /// The suffix of the names.
        suffix: String,
    },
}

/// Changes to the resolver configuration of the image, by diskimage-builder's rules
/// (`resolv.conf.ORIG`, an exported convention of elements).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResolvConf {
    /// Renames the image's /etc/resolv.conf to .ORIG and writes a working one.
    Prepare,
    /// Restores .ORIG, or only removes the working file if there was none. A symbolic link or an
    /// immutable file in its place stays, and .ORIG is removed.
    Restore,
}

/// The size formula of diskimage-builder 3.43: the tree's KiB, plus `extra_kib` or else divided by
/// 0.6, plus the journal, plus `fixed_kib`, rounded up to 64 KiB. With `explicit_kib` only
/// `fixed_kib` is added.
///
/// For a small tree the formula gives less than mkfs needs. The size is then the minimum for the
/// tree, the journal, the metadata of the filesystem, and the space of `beside_kib`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// The root of the tree that is measured.
    pub tree: GuestPath,
    /// The size that the user has requested, in KiB.
    pub explicit_kib: Option<u64>,
    /// The space beside the tree that the user has requested, in KiB.
    pub extra_kib: Option<u64>,
    /// The size of the journal in KiB, added if there is no explicit size.
    pub journal_kib: u64,
    /// A size that is always added, in KiB: 525 MiB with an ESP.
    pub fixed_kib: u64,
    /// The space that partitions of a fixed size and the partition table take, in KiB.
    pub beside_kib: u64,
    /// The minimum size of a root filesystem of its type, in KiB.
    pub root_least_kib: u64,
    /// The fact that is set to the size.
    pub fact: FactName,
}
