//! The files that a build writes on the host.

use std::path::PathBuf;

use checked::DiskName;
use serde::{Deserialize, Serialize};

/// The prefix of facts that limit the size of image files. The fact `length-kib.DISK` has the
/// number of KiB of the disk, from its beginning, that are written; without the fact, the whole
/// disk is written.
pub const LENGTH_FACT: &str = "length-kib.";

/// The outputs that are written when the stages are done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outputs {
    /// The image files of target disks.
    pub images: Vec<ImageOutput>,
    /// The kinds of checksums that are written beside each output.
    pub checksums: Vec<Checksum>,
    /// Whether an existing output is replaced. Otherwise it is renamed with its modification time,
    /// as diskimage-builder does.
    pub overwrite: bool,
    /// The time that is stored in outputs, in seconds since 1970, if their format stores one. With
    /// an epoch, identifiers in outputs are the same in every build; without one, outputs have the
    /// present time and random identifiers.
    pub epoch: Option<u64>,
}

/// One image file of a target disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOutput {
    /// The disk, as named in [`crate::Plan::disks`].
    pub disk: DiskName,
    /// The name of the format in the `output` crate: `qcow2`, `raw`, …
    pub format: String,
    /// The path of the image file.
    #[serde(with = "crate::unix_path::host")]
    pub path: PathBuf,
    /// Whether the file is compressed, if that is optional for the format.
    pub compress: bool,
    /// Options of the format, `k=v,k=v` as `qemu-img -o` takes them.
    pub options: Option<String>,
}

/// One archive of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeOutput {
    /// The name of the format in the `output` crate: `tar`, `tgz`, `squashfs`, …
    pub format: String,
    /// The path of the archive.
    #[serde(with = "crate::unix_path::host")]
    pub path: PathBuf,
    /// Repository and tag, for container formats.
    pub target: Option<String>,
}

/// A kind of checksum file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// An MD5 checksum in `FILE.md5`.
    Md5,
    /// A SHA-256 checksum in `FILE.sha256`.
    Sha256,
    /// A SHA-512 checksum in `FILE.sha512`.
    Sha512,
}
