//! What a format is: one descriptor in one file each, and the one list of them.

use std::{io::Read, path::PathBuf};

use crate::{
    Checksum, OutputError, Result, atomic::OutFile, formats, place, run::DiskInput, tools,
};

/// What a format is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The finished disk, after the guest has powered off.
    Disk,
    /// The mounted tree, streamed out of the guest as tar.
    Tree,
}

/// A format's descriptor.
#[derive(Debug)]
pub struct Format {
    /// The name in `--formats`.
    pub name: &'static str,
    /// What is appended to the image's name, without the dot before it.
    pub suffix: &'static str,
    /// One line for `--help` and the manual.
    pub about: &'static str,
    /// What it is made from.
    pub origin: Origin,
    /// The largest disk that it describes, in bytes.
    pub(crate) max_bytes: u64,
    /// Whether it is written front to back, so that checksums cost no pass.
    pub(crate) sequential: bool,
    /// The program this target needs, if its options are not done in process;
    /// an error when an option is wrong.
    pub(crate) needs: fn(&Target) -> Result<Option<Need>>,
    /// Writes it.
    pub(crate) write: Writer,
}

/// A program on the host that an output needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The program's name.
    pub tool: &'static str,
    /// Why, as a clause: "for …".
    pub reason: String,
}

/// How a format is written.
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

/// Every format, in the order in which `--help` shows them.
pub const FORMATS: &[&Format] = &[
    &formats::qcow2::FORMAT,
    &formats::raw::FORMAT,
    &formats::vhd::DYNAMIC,
    &formats::vhd::FIXED,
    &formats::vhdx::FORMAT,
    &formats::vmdk::SPARSE,
    &formats::vmdk::STREAM,
    &formats::vdi::FORMAT,
    &formats::tar::FORMAT,
    &formats::tgz::FORMAT,
    &formats::tar_zst::FORMAT,
    &formats::squashfs::FORMAT,
    &formats::docker::DOCKER,
    &formats::docker::OCI,
];

/// One output to be written.
#[derive(Debug, Clone)]
pub struct Target {
    /// The format.
    pub format: &'static Format,
    /// The file.
    pub path: PathBuf,
    /// Whether to compress, where the format can do without.
    pub compress: bool,
    /// Options as `qemu-img -o` takes them: `k=v,k=v`.
    pub options: Option<String>,
    /// Name and tag of a container image.
    pub container: Option<String>,
    /// The architecture of a container image, as container engines name it.
    pub architecture: String,
    /// Checksum files to write beside it.
    pub checksums: Vec<Checksum>,
    /// What tells this image from others where the format has room for it.
    pub identity: Identity,
    /// Whether a raw file that is the source may become the output by a rename.
    pub adopt: bool,
    /// The size of the disk in bytes, where it is known before it is written.
    pub disk_bytes: Option<u64>,
}

impl Target {
    /// An output with the defaults of the command line: compressed, no options.
    #[must_use]
    pub fn new(format: &'static Format, path: impl Into<PathBuf>) -> Self {
        Self {
            format,
            path: path.into(),
            compress: true,
            options: None,
            container: None,
            architecture: container_architecture(std::env::consts::ARCH).to_owned(),
            checksums: Vec::new(),
            identity: Identity::random(),
            adopt: false,
            disk_bytes: None,
        }
    }
}

/// The name that container engines have for an architecture of Rust or Debian.
#[must_use]
pub fn container_architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i686" => "386",
        "ppc64el" | "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Identifiers and the time that some formats carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Random, or derived from the input for reproducible images.
    pub uuid: uuid::Uuid,
    /// Seconds since 1970.
    pub unix_time: u64,
}

impl Identity {
    /// An image that is unlike all others, made now.
    #[must_use]
    pub fn random() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { uuid: uuid::Uuid::new_v4(), unix_time: now.map_or(0, |d| d.as_secs()) }
    }

    /// The identity that always belongs to `seed`: for SOURCE_DATE_EPOCH.
    #[must_use]
    pub fn fixed(seed: &[u8], unix_time: u64) -> Self {
        Self { uuid: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, seed), unix_time }
    }

    /// Another identifier that belongs to the same image.
    pub(crate) fn derive(&self, what: &str) -> uuid::Uuid {
        uuid::Uuid::new_v5(&self.uuid, what.as_bytes())
    }
}

/// The format of that name.
#[must_use]
pub fn format(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|f| f.name == name)
}

/// Reads the value of `--formats`: names separated by commas. A name given
/// twice counts once.
///
/// # Errors
/// For a name that is no format, the empty one included.
pub fn parse_formats(list: &str) -> Result<Vec<&'static Format>> {
    let mut formats: Vec<&'static Format> = Vec::new();
    for name in list.split(',') {
        let found = format(name).ok_or_else(|| OutputError::InvalidFormat(name.to_owned()))?;
        if !formats.iter().any(|f| f.name == found.name) {
            formats.push(found);
        }
    }
    Ok(formats)
}

/// Checks before the build what would make an output fail after it: options,
/// missing programs, disks that are too large, outputs that would overwrite each other, paths
/// that cannot be written. With `are_made`, directories of outputs are made where they are missing.
///
/// # Errors
/// Every complaint, not only the first.
pub fn check(targets: &[Target], are_made: bool) -> Result<(), Vec<OutputError>> {
    let mut complaints = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        if targets[..index].iter().any(|t| t.path == target.path) {
            complaints.push(OutputError::SamePath(target.path.clone()));
        }
        complaints.extend(place::check_file(&target.path, &target.checksums, are_made).err());
        let (format, max) = (target.format.name, target.format.max_bytes);
        if let Some(bytes) = target.disk_bytes.filter(|bytes| *bytes > max) {
            complaints.push(OutputError::TooLarge { format, bytes, max });
        }
        match (target.format.needs)(target) {
            Ok(Some(need)) if tools::find(need.tool).is_none() => {
                let needed_for = need.reason;
                complaints.push(OutputError::MissingTool { tool: need.tool.into(), needed_for });
            }
            Ok(_) => {}
            Err(e) => complaints.push(e),
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints) }
}

/// Splits `k=v,k=v` as `qemu-img -o` does: a doubled comma is one in a value, a
/// key without a value is a switch that is on.
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

/// For formats that are done in process and have no options.
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
    fn lists_of_formats_and_their_exact_errors() {
        let names = |list| parse_formats(list).unwrap().iter().map(|f| f.name).collect::<Vec<_>>();
        assert_eq!(names("qcow2,raw"), ["qcow2", "raw"]);
        assert_eq!(names("raw,qcow2,raw"), ["raw", "qcow2"]);
        for (list, bad) in [("bogus", "bogus"), ("", ""), (",", ""), ("raw,", ""), ("RAW", "RAW")] {
            let error = parse_formats(list).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid format ‘{bad}’ in --formats"));
            assert!(error.hint().unwrap().contains("qcow2, raw"));
        }
    }

    #[test]
    fn names_and_suffixes_are_distinct() {
        for (index, one) in FORMATS.iter().enumerate() {
            for other in &FORMATS[..index] {
                assert_ne!(one.name, other.name);
                assert_ne!(one.suffix, other.suffix, "{} and {}", one.name, other.name);
            }
        }
    }

    #[test]
    fn option_strings_split_as_qemu_img_does() {
        assert_eq!(
            split_options("compat=1.1,lazy_refcounts,x=a,,b"),
            [("compat", "1.1"), ("lazy_refcounts", "on"), ("x", "a,b")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn disks_that_are_too_large_are_refused_before_they_are_built() {
        for (name, bytes) in [("vhd", 3 << 40), ("vmdk", 3 << 40), ("vhdx", 65 << 40)] {
            let target = |bytes| Target {
                disk_bytes: Some(bytes),
                ..Target::new(format(name).unwrap(), "a.image")
            };
            check(&[target(1 << 40)], false).unwrap();
            let complaints = check(&[target(bytes)], false).unwrap_err();
            assert!(matches!(complaints[..], [OutputError::TooLarge { .. }]), "{complaints:?}");
        }
    }

    #[test]
    fn two_outputs_of_one_name_are_refused() {
        let raw = format("raw").unwrap();
        let complaints = check(&[Target::new(raw, "a.raw"), Target::new(raw, "a.raw")], false);
        assert!(matches!(complaints.unwrap_err()[..], [OutputError::SamePath(_)]));
    }
}
