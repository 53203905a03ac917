//! The packages of the tool root, with the reason for each group. What is not
//! here is one `--appliance-package` away; what is here costs every user its
//! download once.

/// The kernel: the flavour for virtual machines, a quarter of the size of the
/// general one, with ext4 built in.
pub(crate) const KERNEL: &str = "linux-image-cloud-amd64";

/// The tools, beyond the essential packages and their dependencies.
pub(crate) const TOOLS: &[&str] = &[
    // Bootstrapping Debian and its relatives, with the keys to do it.
    "apt",
    "debootstrap",
    "mmdebstrap",
    "debian-archive-keyring",
    "gnupg",
    "gpgv",
    "arch-test",
    "distro-info",
    // What hooks are written in, and the Python libraries of diskimage-builder
    // itself: its package-installs and block-device helpers run in the guest.
    "perl",
    "python3",
    "python3-yaml",
    "python3-networkx",
    "python3-pbr",
    "python3-stevedore",
    "python3-jsonschema",
    // Fetching: source-repositories and the caches of many elements.
    "ca-certificates",
    "curl",
    "wget",
    "git",
    "rsync",
    // File systems and partitions, as the disk layout can ask for.
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
    "grub-pc-bin",
    "grub-efi-amd64-bin",
    // Distributions of RPM packages.
    "rpm",
    "dnf",
    "dnf-plugins-core",
    // The network of the guest, and kernel modules.
    "iproute2",
    "nftables",
    "kmod",
    "netbase",
    // What scripts take for granted.
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
