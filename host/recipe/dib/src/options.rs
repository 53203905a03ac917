//! What a build with elements can be told, as plain data. The command line and
//! the YAML front end fill it in; nothing here looks at the world.

use std::path::PathBuf;

use plan::Checksum;

use crate::block_device::whole;

/// All options of a build. Every field has the meaning that virt-dib's or
/// disk-image-create's manual gives the option; what neither an option nor a
/// variable says gets diskimage-builder's default when the plan is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DibOptions {
    /// The elements, as given.
    pub elements: Vec<String>,
    /// `-B`: the `lib` directory of a diskimage-builder.
    pub base_path: Option<PathBuf>,
    /// `-p`: directories of elements, first one wins.
    pub element_paths: Vec<PathBuf>,
    /// The variable `ELEMENTS_PATH`, searched after [`Self::element_paths`].
    pub elements_path: Option<String>,
    /// `--arch`, in Debian's names.
    pub arch: Option<String>,
    /// `--skip-base`: do not put the element `base` first.
    pub skip_base: bool,
    /// `--ramdisk`: build a ramdisk, no image.
    pub ramdisk: bool,
    /// `--ramdisk-element`; `ramdisk` when not given.
    pub ramdisk_element: Option<String>,
    /// `--exclude-element`: removed after dependencies were expanded.
    pub exclude_elements: Vec<String>,
    /// `--exclude-script`: base names of files left out of every element.
    pub exclude_scripts: Vec<String>,
    /// `--extra-packages`, installed after install.d.
    pub extra_packages: Vec<String>,
    /// `--envvar`, resolved by [`envvar`]; later ones win.
    pub envvars: Vec<(String, String)>,
    /// `--name`, with directories or without.
    pub name: PathBuf,
    /// `--formats`.
    pub formats: Vec<FormatChoice>,
    /// `-u`: do not compress.
    pub uncompressed: bool,
    /// `--qemu-img-options`.
    pub qemu_img_options: Option<String>,
    /// `--docker-target`.
    pub docker_target: Option<String>,
    /// `--checksum`.
    pub checksums: Vec<Checksum>,
    /// Whether existing outputs are replaced instead of renamed.
    pub overwrite: bool,
    /// `--fs-type` of the root filesystem.
    pub fs_type: Option<String>,
    /// `--mkfs-options` of the root filesystem, one text.
    pub mkfs_options: Option<String>,
    /// `--root-label`.
    pub root_label: Option<String>,
    /// `--size` in bytes, see [`parse_size`]: the disk is exactly so large.
    pub size: Option<u64>,
    /// `--image-size` in GiB, with a fraction or without.
    pub image_size_gib: Option<String>,
    /// `--image-extra-size` in MiB.
    pub image_extra_size_mib: Option<String>,
    /// `--max-online-resize` in blocks.
    pub max_online_resize: Option<String>,
    /// `--mkfs-journal-size` in MiB.
    pub journal_size_mib: Option<String>,
    /// `--install-type`; `source` when not given.
    pub install_type: Option<String>,
    /// `--image-cache`: a directory on the helper drive.
    pub image_cache: Option<String>,
    /// `--offline`: elements use their caches only.
    pub offline: bool,
    /// `--no-network`: there is no network, and elements are told as by
    /// [`Self::offline`].
    pub no_network: bool,
    /// How often `-x` was given, or `--debug N`.
    pub debug_trace: u32,
    /// `--python`: the interpreter in the tools root.
    pub python: Option<String>,
    /// The arguments as typed, without the program's name, for `DIB_ARGS` in
    /// cleanup.d, where elements write it down.
    pub command_line: Vec<String>,
    /// Those of them that the content of the tree may depend on, for `DIB_ARGS` in
    /// the phases before: another output format must not begin a new build.
    pub content_line: Vec<String>,
    /// `--share`: files of the host that scripts may see.
    pub shares: Vec<Share>,
    /// `SOURCE_DATE_EPOCH`: the same inputs shall give the same bytes, and no
    /// file is younger than this.
    pub source_date_epoch: Option<u64>,
    /// Size of the scratch disk in bytes.
    pub scratch_bytes: Option<u64>,
}

/// An output format, as the `output` crate describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatChoice {
    /// Its name: `qcow2`.
    pub name: String,
    /// The end of the file's name, without the dot: `squash` for `squashfs`.
    pub extension: String,
    /// What it is made from.
    pub made_from: MadeFrom,
}

/// What an output format is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeFrom {
    /// The disk, when the machine is off.
    Disk,
    /// The file tree, while it is mounted.
    Tree,
}

/// A path of the host that is copied into the tools root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// On the host.
    pub host: PathBuf,
    /// In the guest; the same path when not given.
    pub guest: Option<String>,
}

/// Why an option's value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A variable without a name, or with a name that no shell takes.
    #[error("--envvar: `{0}` does not name a variable")]
    EnvironmentName(String),
    /// A NUL in a value.
    #[error("--envvar: the value of `{0}` contains a NUL byte")]
    EnvironmentValue(String),
    /// A size that is none.
    #[error("{0}: cannot parse size field")]
    Size(String),
    /// A number that is none.
    #[error("{option}: `{value}` is not a number")]
    Number {
        /// The option or variable.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// A block size that does not exist.
    #[error("DIB_BLOCK_SIZE: `{0}` is neither 512 nor 4096")]
    BlockSize(String),
    /// A name that cannot be the name of a file.
    #[error("--name: `{0}` does not name a file")]
    Name(String),
    /// A path that cannot be one in the guest.
    #[error("{option}: {source}")]
    GuestPath {
        /// The option.
        option: &'static str,
        /// Why.
        source: plan::InvalidPath,
    },
    /// No element at all.
    #[error("at least one distribution root element must be specified")]
    NoElements,
    /// A docker image without a name.
    #[error("docker: a target was not specified, use ‘--docker-target’")]
    NoDockerTarget,
}

/// Reads one `--envvar`: `NAME=value`, or `NAME` to carry over the caller's
/// variable, which gives nothing when that is not set.
///
/// # Errors
/// When there is no valid name before the `=`.
pub fn envvar(
    text: &str,
    caller: impl Fn(&str) -> Option<String>,
) -> Result<Option<(String, String)>, OptionError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, caller(text)),
    };
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.starts_with(starts) || !name.chars().all(goes_on) {
        return Err(OptionError::EnvironmentName(text.to_owned()));
    }
    if value.as_ref().is_some_and(|value| value.contains('\0')) {
        return Err(OptionError::EnvironmentValue(name.to_owned()));
    }
    Ok(value.map(|value| (name.to_owned(), value)))
}

/// Reads `--size`: digits with or without a fraction, and one of `b`, `K`, `M`,
/// `G`, all counting by 1024. The result is rounded up to whole sectors.
///
/// # Errors
/// When the text is something else.
pub fn parse_size(text: &str) -> Result<u64, OptionError> {
    let fail = || OptionError::Size(text.to_owned());
    let unit = text.chars().next_back().ok_or_else(fail)?;
    let factor: f64 = match unit {
        'b' => 1.0,
        'K' => 1024.0,
        'M' => 1_048_576.0,
        'G' => 1_073_741_824.0,
        _ => return Err(fail()),
    };
    let number = &text[..text.len() - 1];
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(fail());
    }
    let number: f64 = number.parse().map_err(|_| fail())?;
    let bytes = whole((number * factor).floor()).ok_or_else(fail)?;
    Some(bytes.next_multiple_of(SECTOR_BYTES)).filter(|bytes| *bytes > 0).ok_or_else(fail)
}

/// Disks are made of whole sectors.
const SECTOR_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn sizes_of_virt_dib() {
        let table = [
            ("5G", 5 << 30),
            ("1.5G", 3 << 29),
            ("512M", 512 << 20),
            ("8K", 8192),
            ("10b", 512),
            ("1024b", 1024),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_sizes_are_refused_with_virt_dibs_text() {
        for text in ["10", "1T", "10k", "1.2.3G", "G", "", "-1G", "0G", "1 G", "1é"] {
            let message = parse_size(text).unwrap_err().to_string();
            assert_eq!(message, format!("{text}: cannot parse size field"));
        }
    }

    #[test]
    fn envvar_in_both_forms() {
        let caller = |name: &str| (name == "A").then(|| "of the caller".to_owned());
        assert_eq!(envvar("A", caller), Ok(Some(("A".into(), "of the caller".into()))));
        assert_eq!(envvar("B", caller), Ok(None));
        assert_eq!(envvar("A=", caller), Ok(Some(("A".into(), String::new()))));
        assert_eq!(envvar("A=x=y", nothing), Ok(Some(("A".into(), "x=y".into()))));
    }

    #[test]
    fn variables_without_a_name_are_refused() {
        for text in ["=x", "", "=", "1A=x", "A-B=x", "A B"] {
            assert!(envvar(text, nothing).is_err(), "{text}");
        }
        assert_eq!(
            envvar("=x", nothing).unwrap_err().to_string(),
            "--envvar: `=x` does not name a variable"
        );
    }
}
