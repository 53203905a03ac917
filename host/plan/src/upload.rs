//! Files of the host, or bytes of the plan, on their way into the guest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Digest, GuestPath};

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
    pub path: String,
    /// What it is.
    pub kind: UploadKind,
}

/// Kinds of uploaded files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UploadKind {
    /// A directory with its permission bits.
    Directory(u32),
    /// A symbolic link and what it says.
    Symlink(String),
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Its bytes.
        source: FileSource,
    },
}

/// Where the bytes of an uploaded file come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSource {
    /// A file of the host. Its digest was taken when the recipe was read; the
    /// engine refuses the file when it has changed since.
    Host {
        /// The path.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// Its digest.
        sha256: Digest,
    },
    /// Text of the plan itself.
    Text(String),
}
