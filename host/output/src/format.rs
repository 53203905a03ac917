//! What a format and an output are. Each format has a file of its own in `formats`, which lists
//! them all.

use std::{io::Read, path::PathBuf};

use architecture::Architecture;

use crate::{Checksum, OutputError, Result, atomic::OutFile, disk_input::DiskInput};

/// The source from which a format is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The finished disk, after the guest has powered off.
    Disk,
    /// The mounted tree, streamed out of the guest as tar.
    Tree,
}

/// Whether a container image must have a repository and a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// A name is required.
    Required,
    /// The image may have no name.
    Optional,
}

/// A format's descriptor.
#[derive(Debug)]
pub struct Format {
    /// The name in `--formats`.
    pub name: &'static str,
    /// The file name suffix, without the dot.
    pub suffix: &'static str,
    /// One line for `--help` and the manual.
    pub about: &'static str,
    /// The source from which it is made.
    pub origin: Origin,
    /// For container images: whether a name is required.
    pub container: Option<Naming>,
    /// Maximum disk size of the format in bytes.
    pub(crate) max_bytes: u64,
    /// Whether it is written front to back, so that checksums need no second pass.
    pub(crate) sequential: bool,
    /// The program that this target needs if its options are not supported in process; an error if
    /// an option is invalid.
    pub(crate) needs: fn(&Target) -> Result<Option<Need>>,
    /// The function that writes it.
    pub(crate) write: Writer,
}

/// A program on the host that an output needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The program's name.
    pub tool: &'static str,
    /// The reason, as a clause: "for …".
    pub reason: String,
}

/// The writer function of a format, by source.
pub(crate) enum Writer {
    Disk(fn(&mut DiskInput<'_>, &mut OutFile, &Target) -> Result<()>),
    Tree(fn(&mut dyn Read, &mut OutFile, &Target) -> Result<()>),
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk(_) => "Disk",
            Self::Tree(_) => "Tree",
        })
    }
}

/// An output to write.
#[derive(Debug, Clone)]
pub struct Target {
    /// The format.
    pub format: &'static Format,
    /// The path of the file.
    pub path: PathBuf,
    /// Whether to compress, if that is optional for the format.
    pub compress: bool,
    /// Options as `qemu-img -o` takes them: `k=v,k=v`.
    pub options: Option<String>,
    /// Name and tag of a container image.
    pub container: Option<String>,
    /// The architecture of a container image, in the names of container engines.
    pub architecture: String,
    /// Checksum files to write beside it.
    pub checksums: Vec<Checksum>,
    /// Identifiers of this image, for formats that store one.
    pub identity: Identity,
    /// Whether a raw source file may become the output by a rename.
    pub adopt: bool,
    /// The size of the disk in bytes, if known in advance.
    pub disk_bytes: Option<u64>,
}

impl Target {
    /// An output with the command line's defaults: compressed, no options.
    #[must_use]
    pub fn new(format: &'static Format, path: impl Into<PathBuf>) -> Self {
        Self {
            format,
            path: path.into(),
            compress: true,
            options: None,
            container: None,
            architecture: host_architecture(),
            checksums: Vec::new(),
            identity: Identity::random(),
            adopt: false,
            disk_bytes: None,
        }
    }
}

/// The name of this host's architecture in container images.
fn host_architecture() -> String {
    Architecture::of_host().map_or(std::env::consts::ARCH, Architecture::oci).to_owned()
}

/// The identifier and the time that some formats contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Random, or derived from the input for reproducible builds.
    pub uuid: uuid::Uuid,
    /// Seconds since 1970.
    pub unix_time: u64,
}

impl Identity {
    /// A random identity with the current time.
    #[must_use]
    pub fn random() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { uuid: uuid::Uuid::new_v4(), unix_time: now.map_or(0, |d| d.as_secs()) }
    }

    /// An identity derived from `seed`, for SOURCE_DATE_EPOCH.
    #[must_use]
    pub fn fixed(seed: &[u8], unix_time: u64) -> Self {
        Self { uuid: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, seed), unix_time }
    }

    /// Derives another identifier for the same image.
    pub(crate) fn derive(&self, what: &str) -> uuid::Uuid {
        uuid::Uuid::new_v5(&self.uuid, what.as_bytes())
    }
}

/// Splits `k=v,k=v` like `qemu-img -o`: a doubled comma stands for one in a value, and a key
/// without a value is a switch that is on.
pub(crate) fn split_options(options: &str) -> Vec<(String, String)> {
    let joined = options.replace(",,", "\0");
    let parts = joined.split(',').filter(|p| !p.is_empty()).map(|p| p.replace('\0', ","));
    parts
        .map(|part| match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (part, "on".to_owned()),
        })
        .collect()
}

/// `needs` of formats that are written in process and have no options.
pub(crate) fn no_options(target: &Target) -> Result<Option<Need>> {
    match target.options.as_deref().map(split_options).unwrap_or_default().first() {
        None => Ok(None),
        Some((key, _)) => Err(OutputError::BadOption {
            format: target.format.name,
            option: key.clone(),
            reason: "this format has no options".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_strings_split_as_qemu_img_does() {
        assert_eq!(
            split_options("compat=1.1,lazy_refcounts,x=a,,b"),
            [("compat", "1.1"), ("lazy_refcounts", "on"), ("x", "a,b")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }
}
