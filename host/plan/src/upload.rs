//! Files of the host, or bytes of the plan, on their way into the guest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Digest, GuestPath, UnixPath, unix_path};

/// Files to put into the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// What it is, for messages: `hooks of install.d`.
    pub what: String,
    /// The directory that paths are relative to; made when missing, merged into.
    pub to: GuestPath,
    /// The files, sorted by path, parents before children.
    pub entries: Vec<UploadEntry>,
}

/// One file of an upload. All are owned by root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadEntry {
    /// Path relative to [`Upload::to`].
    pub path: UnixPath,
    /// What it is.
    pub kind: UploadKind,
}

/// Kinds of uploaded files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UploadKind {
    /// A directory with its permission bits.
    Directory(u32),
    /// A symbolic link and what it says, to the byte.
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
        /// Which kind of device.
        kind: DeviceKind,
        /// The number of the driver.
        major: u32,
        /// The number of the device.
        minor: u32,
    },
}

/// The two kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// Where the bytes of an uploaded file come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSource {
    /// A file of the host. Its digest was taken when the recipe was read; the
    /// engine refuses the file when it has changed since.
    Host {
        /// The absolute path, without links: the engine opens it without following
        /// any, so that what stands there by then cannot be another file.
        #[serde(with = "unix_path::host")]
        path: PathBuf,
        /// The size of the file in bytes.
        bytes: u64,
        /// The SHA-256 digest of the file.
        sha256: Digest,
    },
    /// Text of the plan itself.
    Text(String),
}
