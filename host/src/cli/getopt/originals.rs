//! The options of the original programs, whose prefixes keep their meaning.

/// The options of virt-dib 1.48. If a prefix is ambiguous only because of options that vbuild
/// added, it has the meaning that it has in virt-dib.
pub(crate) const VIRT_DIB_OPTIONS: &[&str] = &[
    "arch",
    "checksum",
    "color",
    "colors",
    "colour",
    "colours",
    "debug",
    "docker-target",
    "drive",
    "drive-format",
    "element-path",
    "envvar",
    "exclude-element",
    "exclude-script",
    "extra-packages",
    "formats",
    "fs-type",
    "help",
    "image-cache",
    "install-type",
    "long-options",
    "machine-readable",
    "memsize",
    "mkfs-options",
    "name",
    "network",
    "no-delete-on-failure",
    "no-network",
    "python",
    "qemu-img-options",
    "quiet",
    "ramdisk",
    "ramdisk-element",
    "root-label",
    "short-options",
    "size",
    "skip-base",
    "smp",
    "verbose",
    "version",
    "wrap",
];

/// The options of disk-image-create 3.43, to which the same rule applies.
const DISK_IMAGE_CREATE_OPTIONS: &[&str] = &[
    "checksum",
    "docker-target",
    "help",
    "image-cache",
    "image-size",
    "install-type",
    "logfile",
    "max-online-resize",
    "min-tmpfs",
    "mkfs-options",
    "no-tmpfs",
    "offline",
    "qemu-img-options",
    "ramdisk-element",
    "root-label",
    "version",
];

/// The getopt rules that a command line follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Syntax {
    /// The rules of virt-dib's `getopt_long_only`: a long option may have one dash.
    #[default]
    LongOnly,
    /// The rules of disk-image-create's getopt(1): one dash begins only letters, and a prefix of
    /// one of its own options takes precedence over all options that vbuild added.
    Long,
}

impl Syntax {
    pub(super) fn options_of_old(self) -> &'static [&'static str] {
        match self {
            Self::LongOnly => VIRT_DIB_OPTIONS,
            Self::Long => DISK_IMAGE_CREATE_OPTIONS,
        }
    }
}
