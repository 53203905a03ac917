//! What a build with elements can be told, as plain data. The command line and
//! the YAML front end fill it in; nothing here looks at the world.

use std::path::PathBuf;

use plan::Checksum;

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
    /// `--envvar`, with their values; later ones win.
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
    /// `--size` in bytes: the disk is exactly so large.
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
    /// The user's home, for paths that begin with `~`.
    pub home: Option<PathBuf>,
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
    /// A size that is none.
    #[error("{option}: `{value}` is no number of {unit} above zero")]
    Size {
        /// The option or variable.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it counts.
        unit: &'static str,
    },
    /// A number of blocks that is none.
    #[error("{option}: `{value}` is no number of blocks, with or without one of K, M, G, T")]
    Blocks {
        /// The option or variable.
        option: &'static str,
        /// Its value.
        value: String,
    },
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
        /// The cause.
        source: plan::InvalidPath,
    },
    /// No element at all.
    #[error("at least one distribution root element must be specified")]
    NoElements,
    /// A docker image without a name.
    #[error("docker: a target was not specified, use ‘--docker-target’")]
    NoDockerTarget,
}
