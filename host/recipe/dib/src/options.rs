//! The options of a build with elements, as plain data. The command line and the YAML front end
//! fill them in; no code here performs I/O.

use std::path::PathBuf;

use plan::Checksum;

/// All options of a build. Every field has the meaning that the manuals of virt-dib or
/// disk-image-create give to the option. If neither an option nor a variable sets a value, lowering
/// applies diskimage-builder's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DibOptions {
    /// The requested elements.
    pub elements: Vec<String>,
    /// `-B`: the `lib` directory of a diskimage-builder.
    pub base_path: Option<PathBuf>,
    /// `-p`: directories of elements; the first one wins.
    pub element_paths: Vec<PathBuf>,
    /// The variable `ELEMENTS_PATH`, searched after [`Self::element_paths`].
    pub elements_path: Option<String>,
    /// `--arch`: Debian's name of the architecture.
    pub arch: Option<String>,
    /// `--skip-base`: do not put the element `base` first.
    pub skip_base: bool,
    /// `--ramdisk`: build a ramdisk instead of an image.
    pub ramdisk: bool,
    /// `--ramdisk-element`; default: `ramdisk`.
    pub ramdisk_element: Option<String>,
    /// `--exclude-element`: removed after dependencies are expanded.
    pub exclude_elements: Vec<String>,
    /// `--exclude-script`: base names of files to leave out of every element.
    pub exclude_scripts: Vec<String>,
    /// `--extra-packages`, installed after install.d.
    pub extra_packages: Vec<String>,
    /// `--envvar`, with their values; later ones win.
    pub envvars: Vec<(String, String)>,
    /// `--name`, with optional directories.
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
    /// `--size`: the exact disk size in bytes.
    pub size: Option<u64>,
    /// `--image-size` in GiB, with an optional fraction.
    pub image_size_gib: Option<String>,
    /// `--image-extra-size` in MiB.
    pub image_extra_size_mib: Option<String>,
    /// `--max-online-resize` in blocks.
    pub max_online_resize: Option<String>,
    /// `--mkfs-journal-size` in MiB.
    pub journal_size_mib: Option<String>,
    /// `--install-type`; default: `source`.
    pub install_type: Option<String>,
    /// `--image-cache`: a directory on the helper drive.
    pub image_cache: Option<String>,
    /// `--offline`: elements use only their caches.
    pub offline: bool,
    /// `--no-network`: there is no network, and elements see the variables of [`Self::offline`].
    pub no_network: bool,
    /// The number of `-x` options, or `--debug N`.
    pub debug_trace: u32,
    /// `--python`: the interpreter in the tools root.
    pub python: Option<String>,
    /// The arguments as typed, without the program name: `DIB_ARGS` of cleanup.d, where elements
    /// record it.
    pub command_line: Vec<String>,
    /// The arguments that can affect the content of the tree: `DIB_ARGS` of all earlier phases. A
    /// different output format must not invalidate them.
    pub content_line: Vec<String>,
    /// `--share`: host files that scripts may read.
    pub shares: Vec<Share>,
    /// The user's home directory, for paths that begin with `~`.
    pub home: Option<PathBuf>,
    /// `SOURCE_DATE_EPOCH`: makes outputs reproducible; no file has a later time.
    pub source_date_epoch: Option<u64>,
    /// Size of the scratch disk in bytes.
    pub scratch_bytes: Option<u64>,
}

/// An output format, as the `output` crate describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatChoice {
    /// Its name: `qcow2`.
    pub name: String,
    /// The file name extension, without the dot: `squash` for `squashfs`.
    pub extension: String,
    /// The source from which it is made.
    pub made_from: MadeFrom,
}

/// The source of an output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeFrom {
    /// The disk, after the machine is off.
    Disk,
    /// The file tree, while it is mounted.
    Tree,
}

/// A host path that is copied into the tools root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The host path.
    pub host: PathBuf,
    /// The guest path; default: the host path.
    pub guest: Option<String>,
}

/// Why the value of an option is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// An architecture of which vbuild has no machine.
    #[error("{option}: {reason}")]
    Architecture {
        /// The option or variable.
        option: &'static str,
        /// The reason for the refusal.
        reason: String,
    },
    /// Not a size above zero.
    #[error("{option}: `{value}` is no number of {unit} above zero")]
    Size {
        /// The option or variable.
        option: &'static str,
        /// The refused value of the option or variable.
        value: String,
        /// The unit of the option.
        unit: &'static str,
    },
    /// Not a number of blocks.
    #[error("{option}: `{value}` is no number of blocks, with or without one of K, M, G, T")]
    Blocks {
        /// The option or variable.
        option: &'static str,
        /// The refused value of the option or variable.
        value: String,
    },
    /// Not a number.
    #[error("{option}: `{value}` is not a number")]
    Number {
        /// The option or variable.
        option: &'static str,
        /// The refused value of the option or variable.
        value: String,
    },
    /// Unsupported block size.
    #[error("DIB_BLOCK_SIZE: `{0}` is neither 512 nor 4096")]
    BlockSize(String),
    /// A name that cannot be a file name.
    #[error("--name: `{0}` does not name a file")]
    Name(String),
    /// A path that is not valid in the guest.
    #[error("{option}: {source}")]
    GuestPath {
        /// The option.
        option: &'static str,
        /// The cause.
        source: plan::InvalidPath,
    },
    /// No element was requested.
    #[error("at least one distribution root element must be specified")]
    NoElements,
    /// A docker image was requested without a name.
    #[error("docker: a target was not specified, use ‘--docker-target’")]
    NoDockerTarget,
}
