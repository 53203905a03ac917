//! Files that are put into the guest: copies of host files, or texts of the plan.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Digest, GuestPath, UnixPath, unix_path};

/// Files to put into the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// A description for messages: `hooks of install.d`.
    pub what: String,
    /// The directory that the paths are relative to. It is created if it is missing, and merged
    /// into if it exists.
    pub to: GuestPath,
    /// The files, sorted by path, parents before children.
    pub entries: Vec<UploadEntry>,
}

/// One file of an upload. All files are owned by root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadEntry {
    /// The path, relative to [`Upload::to`].
    pub path: UnixPath,
    /// The type of the file.
    pub kind: UploadKind,
}

/// Types of uploaded files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UploadKind {
    /// A directory with its permission bits.
    Directory(u32),
    /// A symbolic link with its exact target.
    Symlink(UnixPath),
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// The source of the file's bytes.
        source: FileSource,
    },
    /// A named pipe with its permission bits.
    Fifo(u32),
    /// A device node.
    Device {
        /// Permission bits.
        mode: u32,
        /// The type of the device.
        kind: DeviceKind,
        /// The major number, which selects the driver.
        major: u32,
        /// The minor number, which selects the device.
        minor: u32,
    },
}

/// The types of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// The source of the content of an uploaded file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSource {
    /// A host file. Its digest was taken when the recipe was read; the engine refuses the file if
    /// it has changed since.
    Host {
        /// The absolute path, without links. The engine opens it without following links, so that a
        /// link that has taken the file's place cannot lead to another file.
        #[serde(with = "unix_path::host")]
        path: PathBuf,
        /// The size of the file in bytes.
        bytes: u64,
        /// The SHA-256 digest of the file.
        sha256: Digest,
    },
    /// Text in the plan itself.
    Text(String),
}
