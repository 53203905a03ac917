//! Debian 12 from the specs in `tests/vmdb`, each booted to a root shell on the serial
//! console. The first build creates the tarball of the root filesystem; with
//! `VBUILD_TEST_DIR`, the others start from it without running debootstrap.

use std::{fs, os::unix::fs::MetadataExt as _};

use appliance::Mirror;
use tests::accelerator;

use crate::ground::{Ground, debian_mirror};

struct Specs {
    ground: Ground,
    mirror: Mirror,
}

impl Specs {
    fn new() -> Self {
        let ground = Ground::new("vmdb");
        ground.copy("vmdb", &ground.at("specs"));
        Self { ground, mirror: debian_mirror() }
    }

    /// Builds a spec. The output of `-v` shows whether the tarball was used.
    fn build(&self, name: &str) {
        let (ground, image) = (&self.ground, format!("{name}.img"));
        let had_tarball = ground.out("root.tar.gz").exists();
        let _ = fs::remove_file(ground.out(&image));
        let (spec, log) = (ground.at(&format!("specs/{name}.vmdb")), format!("{name}.log"));
        let mirror = format!("mirror={}", self.mirror.main);
        let words = ["vmdb", "-v", spec.to_str().unwrap(), "--variable", &mirror, "--output"];
        let more = [image.as_str(), "--rootfs-tarball", "root.tar.gz", "--log", log.as_str()];
        let ran = ground.build(&[words.as_slice(), &more].concat());
        // Without the tarball, the tree may have come from the cache of an earlier build.
        let bootstrapped = ran.says("Exec: ['debootstrap'");
        assert!(!(had_tarball && bootstrapped), "{name}: debootstrap ran beside a tarball");
        assert!(ground.out("root.tar.gz").exists(), "{name}: no tarball was made");
        // Empty blocks must be holes.
        let file = fs::metadata(ground.out(&image)).unwrap();
        assert!(file.blocks() * 512 < file.len() / 2, "{name}: {} blocks taken", file.blocks());
    }

    /// Boots an image, logs in as root without a password, and checks the system.
    fn boot(&self, name: &str, options: &[&str], first: &[(&str, Option<&str>)]) {
        let look = "echo user $(id -u) on $(findmnt -no SOURCE,FSTYPE / | tr -s \" \")";
        let talk = [
            ("pc-vmdb2 login:", Some("root")),
            ("root@pc-vmdb2:~#", Some(look)),
            ("user 0 on /dev/", Some("poweroff")),
            ("reboot: Power down", None),
        ];
        self.ground.boot(&format!("{name}.img"), options, &[first, &talk].concat());
    }

    /// Runs a script in a fresh guest that has a copy of the image as `$D`.
    fn look(&self, name: &str, script: &str) -> String {
        let ground = &self.ground;
        fs::copy(ground.out(&format!("{name}.img")), ground.out("copy.img")).unwrap();
        ground.give(&ground.out("copy.img"));
        let sectors = fs::metadata(ground.out("copy.img")).unwrap().len() / 512;
        let script = format!(
            "for D in /sys/block/vd*; do [ \"$(cat $D/size)\" -ne {sectors} ] || break; done\n\
             D=/dev/${{D##*/}}\nmkdir -p /run/at\n{script}"
        );
        let accel = accelerator();
        let words = ["exec", "--no-network", "--drive", "copy.img", "--accel", &accel, "--"];
        let ran = ground.ok(&[words.as_slice(), &["sh", "-euc", &script]].concat());
        fs::remove_file(ground.out("copy.img")).unwrap();
        ran.said
    }
}

/// One partition with GRUB for BIOS.
#[test]
#[ignore = "slow proof: half an hour"]
fn bios() {
    let specs = Specs::new();
    specs.build("bios");
    specs.boot("bios", &[], &[]);
}

/// GPT with an EFI system partition.
#[test]
#[ignore = "slow proof: half an hour, some minutes from the tarball"]
fn uefi() {
    let specs = Specs::new();
    specs.build("uefi");
    specs.boot("uefi", &["--uefi"], &[]);
}

/// Root and /home in a volume group on two partitions.
#[test]
#[ignore = "slow proof: half an hour, some minutes from the tarball"]
fn lvm() {
    let specs = Specs::new();
    specs.build("lvm");
    let seen = specs.look(
        "lvm",
        "vgchange -ay vg0; lvs vg0
         mount -o ro /dev/vg0/rootfs /run/at; mount -o ro /dev/vg0/home /run/at/home
         cat /run/at/home/note /run/at/etc/fstab
         umount -R /run/at; vgchange -an vg0",
    );
    assert!(seen.contains("there"), "{seen}");
    specs.boot("lvm", &[], &[]);
}

/// Root in a LUKS2 container; the console asks for the password.
#[test]
#[ignore = "slow proof: half an hour, some minutes from the tarball"]
fn luks() {
    let specs = Specs::new();
    specs.build("luks");
    let seen = specs.look(
        "luks",
        "cryptsetup luksDump ${D}2 | grep -E 'Version|PBKDF'
         printf asdf | cryptsetup open --key-file - ${D}2 root_crypt
         mount -o ro /dev/mapper/root_crypt /run/at
         cat /run/at/etc/crypttab /run/at/etc/fstab; grep 12 /run/at/etc/debian_version
         umount /run/at; cryptsetup close root_crypt",
    );
    assert!(seen.contains("root_crypt"), "{seen}");
    specs.boot("luks", &[], &[("lease unlock disk", Some("asdf"))]);
}

/// An Ansible playbook on an image that does not boot; creates its own appliance.
#[test]
#[ignore = "slow proof: half an hour, some minutes from the tarball"]
fn ansible() {
    let specs = Specs::new();
    specs.build("ansible");
    // `exec` mounts its only partition as the drive.
    let seen = specs.look("ansible", "cat /helper/etc/motd /helper/etc/asked");
    assert!(seen.contains("hello from the playbook") && seen.contains("bookworm"), "{seen}");
}
