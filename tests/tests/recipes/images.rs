//! Debian systems from diskimage-builder's elements: built as an ordinary user, checked, and
//! booted to a shell on the serial console. An image takes ten minutes to half an hour
//! without KVM.

use std::{fs, path::PathBuf};

use appliance::Mirror;
use tests::archive::members;

use crate::ground::{Ground, debian_mirror, tool};

/// Arguments that the element `bootloader` adds to the kernel command line.
const PARAMETERS: &str =
    "console=tty0 console=ttyS0,115200 no_timer_check nofb nomodeset gfxpayload=text";

/// Options that create a user with sudo rights, for checks on the console.
const WITH_USER: [&str; 8] = [
    "--envvar",
    "DIB_DEV_USER_USERNAME=looker",
    "--envvar",
    "DIB_DEV_USER_PASSWORD=looker",
    "--envvar",
    "DIB_DEV_USER_PWDLESS_SUDO=yes",
    "--envvar",
    "DIB_DEV_USER_SHELL=/bin/bash",
];

/// Command typed to show the kernel command line, mounts and block devices.
const LOOK: &str = "cat /proc/cmdline; findmnt -rno TARGET,FSTYPE,SOURCE; \
    lsblk -rno NAME,FSTYPE,LABEL,SIZE; /sbin/swapon --show; systemctl is-active ssh; \
    echo looked-around";

/// An image that a test builds.
struct Image {
    ground: Ground,
    mirror: Mirror,
    name: &'static str,
}

impl Image {
    fn build(name: &'static str, options: &[&str], elements: &[&str]) -> Self {
        let image = Self { ground: Ground::new("images"), mirror: debian_mirror(), name };
        // One of these elements reduces the initrds.
        image.ground.copy("elements", &image.ground.at("elements"));
        image.build_as(name, options, elements);
        image
    }

    fn build_as(&self, name: &str, options: &[&str], elements: &[&str]) {
        let folder = self.ground.at("elements");
        let (log, mirror) = (format!("{name}.log"), &self.mirror);
        let settings = [
            "DIB_RELEASE=bookworm".to_owned(),
            format!("DIB_DISTRIBUTION_MIRROR={}", mirror.main),
            format!("DIB_DEBIAN_SECURITY_MIRROR={}", mirror.security),
            // debootstrap runs once; its result is cached on the helper drive, as the element
            // debootstrap documents: it is the same for all of these images.
            "DIB_DEBOOTSTRAP_CACHE=1".to_owned(),
            "DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE=1".to_owned(),
        ];
        let mut words = vec!["-v", "-p", folder.to_str().unwrap(), "--drive", self.ground.drive()];
        words.extend(["--name", name, "--logfile", &log]);
        words.extend(settings.iter().flat_map(|setting| ["--envvar", setting]));
        words.extend(options);
        words.extend(elements);
        self.ground.build(&words);
    }

    /// Logs in and runs the check command, whose output must contain the texts in this order.
    fn boot(&self, file: &str, options: &[&str], texts: &[&str]) {
        let mut talk =
            vec![("login:", Some("looker")), ("Password:", Some("looker")), ("$", Some(LOOK))];
        talk.extend(texts.iter().map(|text| (*text, None)));
        talk.push(("looked-around", None));
        self.ground.boot(file, options, &talk);
    }

    fn file(&self, end: &str) -> PathBuf {
        self.ground.out(&format!("{}{end}", self.name))
    }

    fn tree(&self) -> Tree {
        Tree(members(&self.file(".tar")))
    }
}

/// The members of an image's archive.
struct Tree(std::collections::BTreeMap<String, tests::archive::Member>);

impl Tree {
    #[track_caller]
    fn has(&self, path: &str) {
        assert!(self.0.contains_key(path), "{path} is missing");
    }

    /// Checks that no path begins with a prefix.
    #[track_caller]
    fn lacks(&self, beginning: &str) {
        let found: Vec<_> = self.0.keys().filter(|path| path.starts_with(beginning)).collect();
        assert!(found.is_empty(), "{found:?} should not be there");
    }

    #[track_caller]
    fn contains(&self, path: &str, text: &str) {
        let member = self.0.get(path).unwrap_or_else(|| panic!("{path} is missing"));
        let content = String::from_utf8_lossy(&member.content);
        assert!(content.contains(text), "{path} has no `{text}`:\n{content}");
    }
}

/// Checks which files the archive of `debian-minimal` contains, and which it does not.
#[test]
#[ignore = "slow proof: half an hour"]
fn minimal() {
    let elements = ["debian-minimal", "element-manifest"];
    let image = Image::build("minimal", &["--formats", "tar,tgz"], &elements);
    let (tree, mirror) = (image.tree(), &image.mirror);
    tree.has("etc/apt/apt.conf.d/95disable-recommends");
    tree.has("etc/apt/apt.conf.d/95no-translations");
    for beginning in [
        "etc/apt/apt.conf.d/60img-build-proxy",
        "etc/apt/apt.conf.d/02apt-speedup",
        "var/lib/apt/lists/",
        "usr/sbin/policy-rc.d",
        "proc/",
        "sbin/start-stop-daemon.REAL",
        "usr/sbin/start-stop-daemon.REAL",
    ] {
        tree.lacks(beginning);
    }
    for device in ["kvm", "vd", "loop", "vsock", "mapper", "ttyS", "hvc", "rtc"] {
        tree.lacks(&format!("dev/{device}"));
    }
    let archives = "var/cache/apt/archives/";
    let packages = tree.0.keys().filter(|path| path.starts_with(archives));
    assert_eq!(packages.filter(|path| path.ends_with(".deb")).count(), 0);
    let list = |name: &str| format!("etc/apt/sources.list.d/{name}.list");
    tree.contains("etc/hostname", "debian");
    tree.contains("etc/machine-id", "uninitialized");
    tree.contains("etc/network/interfaces.d/eth0", "dhcp");
    tree.contains(&list("default"), &format!("{} bookworm main", mirror.main));
    tree.contains(&list("updates"), &format!("{} bookworm-updates main", mirror.main));
    tree.contains(&list("security"), &format!("{} bookworm-security main", mirror.security));
    tree.contains("etc/dib-manifests/dib-manifest-dpkg-minimal", "base-files");
    for manifest in ["dib-element-manifest", "dib-manifest-dpkg-minimal"] {
        let manifest = image.file(".d").join("dib-manifests").join(manifest);
        assert!(fs::metadata(&manifest).unwrap().len() > 0, "{}", manifest.display());
    }
}

const SYSTEM: [&str; 4] = ["debian-minimal", "vm", "devuser", "small-initrd"];

/// Elements of the system with another layout.
fn with_layout(layout: &'static str) -> Vec<&'static str> {
    let mut elements = SYSTEM.to_vec();
    elements.insert(2, layout);
    elements
}

/// Boots from a DOS partition table.
#[test]
#[ignore = "slow proof: half an hour"]
fn vm_mbr() {
    let image = Image::build("vm-mbr", &WITH_USER, &SYSTEM);
    image.boot("vm-mbr.qcow2", &[], &[PARAMETERS]);
}

/// Boots from GPT with BIOS.
#[test]
#[ignore = "slow proof: half an hour"]
fn vm_gpt() {
    let image = Image::build("vm-gpt", &WITH_USER, &with_layout("block-device-gpt"));
    image.boot("vm-gpt.qcow2", &[], &["cloudimg-rootfs"]);
}

/// Boots with BIOS and with UEFI.
#[test]
#[ignore = "slow proof: half an hour"]
fn vm_efi() {
    let image = Image::build("vm-efi", &WITH_USER, &with_layout("block-device-efi"));
    image.boot("vm-efi.qcow2", &[], &["/boot/efi"]);
    image.boot("vm-efi.qcow2", &["--uefi"], &["/boot/efi"]);
}

/// Separate partitions for /boot, swap and root.
#[test]
#[ignore = "slow proof: half an hour"]
fn boot() {
    const LAYOUT: &str = r#"DIB_BLOCK_DEVICE_CONFIG=
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: boot, flags: [boot, primary], size: 384MiB, mkfs: {type: ext4, label: BOOT, mount: {mount_point: /boot, fstab: {options: defaults, fsck-passno: 2}}}}
      - {name: swap, flags: [primary], type: "0x82", size: 128MiB, mkfs: {type: swap, label: SWAP, mount: {mount_point: swap, fstab: {}}}}
      - {name: root, flags: [primary], size: 100%, mkfs: {name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}}"#;
    let options = [WITH_USER.as_slice(), &["--size", "4G", "--envvar", LAYOUT]].concat();
    let image = Image::build("boot", &options, &SYSTEM);
    image.boot("boot.qcow2", &[], &["boot=LABEL=BOOT", "/boot ext4", "partition 128M"]);
}

/// The element `debian` with a user, DHCP and SSH, with separate partitions for /home, swap
/// and root; kernel and initrd are beside the image, and the root grows on a larger disk.
#[test]
#[ignore = "slow proof: an hour"]
fn debian() {
    const LAYOUT: &str = r#"DIB_BLOCK_DEVICE_CONFIG=
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: home, flags: [primary], size: 512MiB, mkfs: {type: ext4, label: HOME, mount: {mount_point: /home, fstab: {options: defaults, fsck-passno: 2}}}}
      - {name: swap, flags: [primary], type: "0x82", size: 256MiB, mkfs: {type: swap, label: SWAP, mount: {mount_point: swap, fstab: {}}}}
      - {name: root, flags: [boot, primary], size: 100%, mkfs: {name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}}"#;
    // The computed size is the size of the files, without /home and swap.
    let more = ["--size", "6G", "--formats", "qcow2,tar", "--envvar", LAYOUT];
    let cloud = ["--envvar", "DIB_CLOUD_INIT_DATASOURCES=None"];
    let options = [WITH_USER.as_slice(), &more, &cloud].concat();
    let elements = [
        "debian",
        "vm",
        "devuser",
        "dhcp-all-interfaces",
        "growroot",
        "openssh-server",
        "runtime-ssh-host-keys",
        "cloud-init-datasources",
        "baremetal",
        "small-initrd",
    ];
    let image = Image::build("debian", &options, &elements);
    let tree = image.tree();
    let keys = tree.0.keys().filter(|path| path.starts_with("etc/ssh/ssh_host_"));
    assert_eq!(keys.filter(|path| path.ends_with("key")).count(), 0);
    tree.has("etc/systemd/system/multi-user.target.wants/ssh-keygen.service");
    tree.has("etc/udev/rules.d/99-dhcp-all-interfaces.rules");
    for name in ["debian.vmlinuz", "debian.initrd"] {
        assert!(image.file(".d").join(name).is_file(), "{name} is missing");
    }
    let (small, large) = (image.file(".qcow2"), image.ground.out("larger.qcow2"));
    let (small, large) = (small.to_str().unwrap(), large.to_str().unwrap());
    tool(&["qemu-img", "create", "-q", "-f", "qcow2", "-b", small, "-F", "qcow2", large, "20G"]);
    image.ground.give(large.as_ref());
    // The rest of 20 GiB without /home and swap.
    let texts = [PARAMETERS, "/home ext4", "cloudimg-rootfs 19", "partition 256M"];
    let backing = format!("--allow-backing={small}");
    image.boot("larger.qcow2", &["--with-network", &backing], &texts);
}

/// Logical volumes with xfs, booted with UEFI.
#[test]
#[ignore = "slow proof: half an hour"]
fn efi_lvm() {
    let more = ["--size", "45G", "--extra-packages", "lvm2,xfsprogs"];
    let options = [WITH_USER.as_slice(), &more].concat();
    let image = Image::build("efi-lvm", &options, &with_layout("block-device-efi-lvm"));
    image.boot("efi-lvm.qcow2", &["--uefi"], &["vg-lv_var"]);
}

/// An image with a second disk.
#[test]
#[ignore = "slow proof: half an hour"]
fn data() {
    const LAYOUT: &str = r#"DIB_BLOCK_DEVICE_CONFIG=
- local_loop: {name: image0}
- local_loop: {name: data0, size: 512MiB, directory: .}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: root, flags: [boot, primary], size: 100%, mkfs: {name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}}
- mkfs: {name: data, base: data0, type: ext4, mount: {mount_point: /srv, fstab: {options: "defaults,nofail", fsck-passno: 2}}}"#;
    let image =
        Image::build("data", &[WITH_USER.as_slice(), &["--envvar", LAYOUT]].concat(), &SYSTEM);
    assert!(fs::metadata(image.ground.out("data0.raw")).unwrap().len() > 0);
    image.boot("data.qcow2", &[], &["cloudimg-rootfs"]);
}

fn with_root(name: &'static str, filesystem: &str, package: &str, mount: &str) {
    let more = ["--fs-type", filesystem, "--extra-packages", package];
    let image = Image::build(name, &[WITH_USER.as_slice(), &more].concat(), &SYSTEM);
    image.boot(&format!("{name}.qcow2"), &[], &[mount]);
}

#[test]
#[ignore = "slow proof: half an hour"]
fn xfs() {
    with_root("xfs", "xfs", "xfsprogs", "/ xfs");
}

#[test]
#[ignore = "slow proof: half an hour"]
fn btrfs() {
    with_root("btrfs", "btrfs", "btrfs-progs", "/ btrfs");
}

/// Kernel and initrd of a ramdisk build.
#[test]
#[ignore = "slow proof: half an hour"]
fn ramdisk() {
    let packages = "wget,tgt,kmod,iproute2,busybox";
    let options = ["--ramdisk", "--envvar", "DIB_PYTHON_VERSION=3", "--extra-packages", packages];
    let image = Image::build("ramdisk", &options, &["debian-minimal", "small-initrd"]);
    let made = tests::names(&image.file(".d"));
    for part in ["kernel", "init"] {
        assert!(made.iter().any(|name| name.contains(part)), "{made:?}");
    }
}

/// Builds again from the caches of the drive, without a network.
#[test]
#[ignore = "slow proof: half an hour"]
fn offline() {
    let elements = ["debian-minimal", "small-initrd"];
    let image = Image::build("first", &["--no-cache", "--formats", "tar"], &elements);
    let updates = ["--envvar", "DIB_AVOID_PACKAGES_UPDATE=1"];
    let options = ["--no-cache", "--formats", "tar", "--no-network"];
    image.build_as("second", &[options.as_slice(), &updates].concat(), &elements);
}
