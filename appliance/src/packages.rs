//! The packages of the tools root, with the reason for each group. A package that is not listed can
//! be added with `--appliance-package`; a listed package costs every user one download.

use architecture::MachineArchitecture;

/// Returns the name of the kernel package: the flavour for virtual machines, a quarter of the size
/// of the general one, with ext4 built in.
pub(crate) fn kernel(architecture: MachineArchitecture) -> &'static str {
    match architecture {
        MachineArchitecture::Amd64 => "linux-image-cloud-amd64",
        MachineArchitecture::Arm64 => "linux-image-cloud-arm64",
    }
}

/// Returns the tools of an architecture, in addition to the essential packages and their
/// dependencies.
pub(crate) fn tools(architecture: MachineArchitecture) -> impl Iterator<Item = &'static str> {
    let boot_loaders = match architecture {
        MachineArchitecture::Amd64 => ["grub-pc-bin", "grub-efi-amd64-bin"].as_slice(),
        MachineArchitecture::Arm64 => ["grub-efi-arm64-bin"].as_slice(),
    };
    TOOLS.iter().chain(boot_loaders).copied()
}

/// The tools of every architecture.
const TOOLS: &[&str] = &[
    // Bootstrapping Debian and its derivatives, with the required keys.
    "apt",
    "debootstrap",
    "mmdebstrap",
    "debian-archive-keyring",
    "gnupg",
    "gpgv",
    "arch-test",
    "distro-info",
    // Languages of hooks, and the Python libraries of diskimage-builder itself: its
    // package-installs and block-device helpers run in the guest.
    "perl",
    "python3",
    "python3-yaml",
    "python3-networkx",
    "python3-pbr",
    "python3-stevedore",
    "python3-jsonschema",
    // Downloading: source-repositories and the caches of many elements.
    "ca-certificates",
    "curl",
    "wget",
    "git",
    "rsync",
    // Filesystems and partitions that a disk layout can contain.
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "dosfstools",
    "gdisk",
    "parted",
    "fdisk",
    "lvm2",
    "cryptsetup-bin",
    "mdadm",
    "kpartx",
    "dmsetup",
    "udev",
    "squashfs-tools",
    "util-linux",
    "mount",
    // Image formats and boot loaders that elements install from outside.
    "qemu-utils",
    "grub2-common",
    // RPM-based distributions.
    "rpm",
    "dnf",
    "dnf-plugins-core",
    // The guest's network, and kernel modules.
    "iproute2",
    "nftables",
    "kmod",
    "netbase",
    // Tools that scripts expect to exist.
    "sudo",
    "gawk",
    "uuid-runtime",
    "genisoimage",
    "procps",
    "psmisc",
    "file",
    "less",
    "jq",
    "cpio",
    "attr",
    "acl",
    "bsdextrautils",
    "busybox",
    "xz-utils",
    "zstd",
    "bzip2",
    "pigz",
    "unzip",
    "lsb-release",
];
