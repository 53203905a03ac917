//! What a build leaves on the host.

use std::path::PathBuf;

use checked::DiskName;
use serde::{Deserialize, Serialize};

/// Before the name of a disk, the fact that says how much of it is written to image
/// files, from its beginning, in KiB. Without the fact all of it is written.
pub const LENGTH_FACT: &str = "length-kib.";

/// Everything that is written when the stages are done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outputs {
    /// Images of target disks.
    pub images: Vec<ImageOutput>,
    /// Checksums written beside each output.
    pub checksums: Vec<Checksum>,
    /// Whether an existing output is replaced. Otherwise it is renamed with its
    /// time of change, as diskimage-builder does.
    pub overwrite: bool,
    /// The moment that outputs carry where their format has room for one, in
    /// seconds since 1970; their identifiers are then the same in every build.
    /// Without one they have the present time and random identifiers.
    pub epoch: Option<u64>,
}

/// One image file of a target disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOutput {
    /// The disk, as named in [`crate::Plan::disks`].
    pub disk: DiskName,
    /// The format's name in the `output` crate: `qcow2`, `raw`, …
    pub format: String,
    /// The file.
    #[serde(with = "crate::unix_path::host")]
    pub path: PathBuf,
    /// Whether the format compresses, where it can.
    pub compress: bool,
    /// Options for the format, `k=v,k=v` as `qemu-img -o` takes them.
    pub options: Option<String>,
}

/// One archive of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeOutput {
    /// The format's name in the `output` crate: `tar`, `tgz`, `squashfs`, …
    pub format: String,
    /// The file.
    #[serde(with = "crate::unix_path::host")]
    pub path: PathBuf,
    /// Repository and tag for the container formats.
    pub target: Option<String>,
}

/// A checksum file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// `FILE.md5`.
    Md5,
    /// `FILE.sha256`.
    Sha256,
    /// `FILE.sha512`.
    Sha512,
}
