//! Disk layouts, inspected in the raw image with the host's own tools.

use std::fs;

use super::{
    harness::{has_program, host, workshop},
    image::{blkid, cut, ext_file, ext_header, ext_names, partitions},
};

const MIB: u64 = 1 << 20;
/// Sectors per mebibyte.
const PER_MIB: u64 = 2048;

#[test]
fn the_element_for_mbr() {
    let Some(shop) = workshop("mbr") else { return };
    let built =
        shop.build(&["--name", "mbr", "--formats", "raw", "tiny-os", "probe", "block-device-mbr"]);
    let image = shop.path("mbr.raw");
    let disk = fs::metadata(&image).unwrap().len();
    let table = partitions(&image);
    assert_eq!(table.len(), 1);
    let root = &table[0];
    assert_eq!((root.number, root.start, root.boot), (1, 2048, true));
    assert_eq!(root.kind, "83");
    assert_eq!(root.sectors * 512, disk - 2 * MIB, "a mebibyte at each end, to the sector");
    chs_is_valid(&image, root.start, root.sectors);
    let part = cut(&image, root);
    assert_eq!(blkid(&part, "LABEL"), "cloudimg-rootfs");
    assert_eq!(ext_file(&part, "/etc/fstab"), "LABEL=cloudimg-rootfs / ext4 defaults 0 1\n");
    let uuid = ext_header(&part, "Filesystem UUID");
    let records = built.records("mbr");
    assert_eq!(records.env("install.d")["DIB_IMAGE_ROOT_FS_UUID"], uuid);
}

/// Checks that the CHS addresses of a partition match its sector numbers, as far as they reach.
fn chs_is_valid(image: &std::path::Path, start: u64, sectors: u64) {
    let entry = fs::read(image).unwrap()[446..462].to_vec();
    for (bytes, block) in [(&entry[1..4], start), (&entry[5..8], start + sectors - 1)] {
        let head = u64::from(bytes[0]);
        let sector = u64::from(bytes[1] & 0x3f);
        let cylinder = u64::from(bytes[2]) | (u64::from(bytes[1] & 0xc0) << 2);
        // For any geometry, sector numbers are 1 to 63.
        assert!((1..=63).contains(&sector) && cylinder < 1024, "{bytes:?}");
        let of = |heads: u64| (cylinder * heads + head) * 63 + sector - 1;
        assert!([255, 254, 16].iter().any(|heads| of(*heads) == block), "{bytes:?} for {block}");
    }
}

#[test]
fn the_elements_for_gpt_and_efi() {
    let Some(shop) = workshop("gpt and efi") else { return };
    shop.build(&[
        "--name",
        "gpt",
        "--formats",
        "raw",
        "--size",
        "100M",
        "tiny-os",
        "block-device-gpt",
    ]);
    let table = partitions(&shop.path("gpt.raw"));
    let names: Vec<&str> = table.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["BSP", "root"]);
    assert_eq!(table[0].sectors, 8 * PER_MIB);
    assert_eq!(table[0].kind, "21686148-6449-6E6F-744E-656564454649");
    assert_eq!(table[1].kind, "0FC63DAF-8483-4772-8E79-3D69D8477DE4");

    shop.build(&[
        "--name",
        "efi",
        "--formats",
        "raw",
        "--size",
        "700M",
        "tiny-os",
        "block-device-efi",
    ]);
    let image = shop.path("efi.raw");
    let table = partitions(&image);
    let shape: Vec<(&str, u64)> =
        table.iter().map(|part| (part.name.as_str(), part.sectors / PER_MIB)).collect();
    assert_eq!(shape[..2], [("ESP", 550), ("BSP", 8)]);
    assert_eq!(table[0].kind, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    let esp = cut(&image, &table[0]);
    assert_eq!(blkid(&esp, "TYPE"), "vfat");
    let root = cut(&image, &table[2]);
    assert_eq!(
        ext_file(&root, "/etc/fstab"),
        "LABEL=cloudimg-rootfs / ext4 defaults 0 1\nLABEL=MKFS_ESP /boot/efi vfat defaults 0 2\n"
    );
    let boot = ext_names(&root, "/boot");
    assert!(boot.iter().any(|name| name == "efi"), "the mount point stays: {boot:?}");
    if has_program("gpt and efi", "sgdisk") {
        let verified = host("sgdisk", &["--verify", "efi.raw"], shop.dir.path());
        assert!(verified.contains("No problems found"), "{verified}");
    }
}

const MANY: &str = "
- local_loop: {name: image0}
- local_loop: {name: data0, size: 64MiB, directory: .}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: boot, flags: [boot, primary], size: 64MiB, mkfs: {type: ext2, mount: {mount_point: /boot, fstab: {options: 'noatime'}}}}
      - {name: root, flags: [primary], size: 200MiB, mkfs: {name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}}
      - {name: swap, size: 32MiB, type: '0x82', mkfs: {type: swap, label: swapspace, mount: {mount_point: swap, fstab: {}}}}
      - {name: var, size: 160MiB, mkfs: {type: btrfs, mount: {mount_point: /var, fstab: {}}}}
      - {name: home, size: '100%', mkfs: {type: xfs, label: homes, mount: {mount_point: /home}}}
- mkfs: {name: data, base: data0, type: ext3, mount: {mount_point: /srv, fstab: {}}}
";

#[test]
fn filesystems_of_many_kinds_over_two_disks() {
    let Some(shop) = workshop("many filesystems") else { return };
    shop.write("many.yaml", MANY);
    let config = format!("DIB_BLOCK_DEVICE_CONFIG=file://{}", shop.path("many.yaml").display());
    let arguments = [
        "--name",
        "many",
        "--formats",
        "raw,tar",
        "--size",
        "900M",
        "--envvar",
        &config,
        "tiny-os",
        "probe",
        "keepsakes",
    ];
    let built = shop.build(&arguments);
    let records = built.records("many");
    let table = partitions(&shop.path("many.raw"));
    let shape: Vec<(u64, &str, u64)> = table
        .iter()
        .map(|part| (part.number, part.kind.as_str(), part.sectors / PER_MIB))
        .collect();
    assert_eq!(shape[..2], [(1, "83", 64), (2, "83", 200)]);
    assert!(shape[2].1 == "f" || shape[2].1 == "5", "an extended one: {shape:?}");
    assert_eq!(shape[3..5], [(5, "82", 32), (6, "83", 160)]);
    assert_eq!(shape[5].0, 7);
    let fstab = "LABEL=cloudimg-rootfs / ext4 defaults 0 1\n\
                 LABEL=mkfs_boot /boot ext2 noatime 0 2\n\
                 LABEL=data /srv ext3 defaults 0 2\n\
                 LABEL=mkfs_var /var btrfs defaults 0 2\n\
                 LABEL=swapspace none swap sw 0 0\n";
    let mut lines: Vec<String> = records.text("fstab").lines().map(str::to_owned).collect();
    lines.sort();
    let mut expected: Vec<String> = fstab.lines().map(str::to_owned).collect();
    expected.sort();
    assert_eq!(lines, expected);
    // The value from which the element `bootloader` makes boot=LABEL=….
    assert_eq!(records.env("finalise.d")["DIB_BOOT_LABEL"], "mkfs_boot");
    let mounts = records.mounts("finalise.d");
    for (place, kind) in [("/boot", "ext2"), ("/var", "btrfs"), ("/home", "xfs"), ("/srv", "ext3")]
    {
        assert_eq!(mounts[place].0, kind);
    }
    // Each file is on its own filesystem, and not hidden below it on the root.
    let cut = |number: u64| {
        cut(&shop.path("many.raw"), table.iter().find(|p| p.number == number).unwrap())
    };
    let root = cut(2);
    assert!(!ext_names(&root, "/boot").iter().any(|name| name == "keep"));
    assert!(ext_names(&root, "/").iter().any(|name| name == "keep"));
    let boot = cut(1);
    assert_eq!(ext_file(&boot, "/keep/file"), "content\n");
    assert_eq!(blkid(&cut(5), "TYPE"), "swap");
    assert_eq!(blkid(&shop.path("data0.raw"), "LABEL"), "data");
    the_same_on_every_filesystem(&records.text("keepsakes"), &records.text("attributes"));
}

/// Checks the files of the element `keepsakes`, which creates the same files in four places.
fn the_same_on_every_filesystem(listing: &str, attributes: &str) {
    let of = |place: &str| -> Vec<String> {
        let prefix = format!("{place}keep/");
        listing
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            // The size of directories depends on the filesystem, and only one time was set.
            .map(|line| {
                let words: Vec<&str> = line.split('|').collect();
                match words[..] {
                    [name, "d", mode, owner, ..] => format!("{name} d {mode} {owner}"),
                    ["file" | "hard-link", ..] => line.to_owned(),
                    [name, kind, mode, owner, links, size, target, ..] => {
                        format!("{name} {kind} {mode} {owner} {links} {size} {target}")
                    }
                    _ => line.to_owned(),
                }
            })
            .collect()
    };
    let root = of("");
    assert!(root.len() > 20, "{listing}");
    for place in ["boot/", "var/", "home/"] {
        assert_eq!(of(place), root, "{place}");
        assert!(attributes.contains(&format!("{place}keep/capable cap_net_raw=ep")));
        assert!(attributes.contains(&format!("# file: {place}keep/with-acl")));
        assert!(attributes.contains(&format!("{place}keep/null 1,3")));
    }
}

const LEVELS: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: one, type: 8E00, size: 120MiB}
      - {name: two, type: 8E00, size: 200MiB}
      - {name: left, type: FD00, size: 48MiB}
      - {name: right, type: FD00, size: 48MiB}
      - {name: sealed, type: '8309', size: 64MiB}
- lvm:
    name: lvm
    base: [one, two]
    pvs:
      - {name: pv1, base: one, options: ['--force']}
      - {name: pv2, base: two}
    vgs:
      - {name: vg, base: [pv1, pv2]}
    lvs:
      - {name: lv_root, base: vg, size: 150MiB}
      - {name: lv_var, base: vg, extents: '60%FREE'}
- mkfs: {name: mkfs_root, base: lv_root, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}
- mkfs: {name: fs_var, base: lv_var, type: ext4, mount: {mount_point: /var, fstab: {}}}
- md: {name: mirror, base: [left, right], level: '1'}
- mkfs: {name: fs_boot, base: mirror, type: ext4, mount: {mount_point: /boot, fstab: {}}}
- luks: {name: vault, base: sealed, passphrase: 'a secret of tests', options: ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000']}
- mkfs: {name: fs_home, base: vault, type: ext4, mount: {mount_point: /home, fstab: {}}}
";

#[test]
fn volumes_arrays_and_containers() {
    let Some(shop) = workshop("volumes, arrays, containers") else { return };
    let config = format!("DIB_BLOCK_DEVICE_CONFIG={LEVELS}");
    let arguments = [
        "--name",
        "levels",
        "--formats",
        "raw",
        "--size",
        "512M",
        "--envvar",
        &config,
        "tiny-os",
        "probe",
        "keepsakes",
    ];
    let built = shop.build(&arguments);
    let records = built.records("levels");
    let listed = records.text("lsblk");
    for name in ["vg-lv_root lvm ", "vg-lv_var lvm ", "vault crypt "] {
        assert!(listed.contains(name), "{name} in {listed}");
    }
    // Both halves of the mirror list it, under the kernel's name.
    let mirrors = listed.lines().filter(|line| line.contains(" raid1 ")).count();
    assert_eq!(mirrors, 2, "{listed}");
    let boot = &records.mounts("finalise.d")["/boot"].0;
    assert_eq!(boot, "ext4", "the mirror is mounted");
    let table = partitions(&shop.path("levels.raw"));
    let image = shop.path("levels.raw");
    assert_eq!(blkid(&cut(&image, &table[0]), "TYPE"), "LVM2_member");
    assert_eq!(blkid(&cut(&image, &table[1]), "TYPE"), "LVM2_member");
    assert_eq!(blkid(&cut(&image, &table[4]), "TYPE"), "crypto_LUKS");
    // The superblock of the mirror is at its end, so a half can be read as a plain filesystem.
    let (left, right) = (cut(&image, &table[2]), cut(&image, &table[3]));
    for half in [&left, &right] {
        assert_eq!(blkid(half, "TYPE"), "linux_raid_member");
        assert!(blkid(half, "LABEL").ends_with("mirror"), "{}", blkid(half, "LABEL"));
    }
    assert_eq!(blkid(&left, "UUID"), blkid(&right, "UUID"), "one array");
    assert_eq!(ext_file(&left, "/keep/file"), "content\n");
    assert_eq!(ext_file(&right, "/keep/file"), "content\n");
    let fstab = records.text("fstab");
    assert!(fstab.contains("LABEL=fs_home /home ext4 defaults 0 2"), "{fstab}");
    the_same_on_every_filesystem(&records.text("keepsakes"), &records.text("attributes"));
}

#[test]
fn thin_volumes() {
    let Some(shop) = workshop("thin volumes") else { return };
    let config = "DIB_BLOCK_DEVICE_CONFIG=
- local_loop: {name: image0}
- lvm:
    name: lvm
    pvs: [{name: pv, base: image0}]
    vgs: [{name: thinvg, base: [pv]}]
    lvs:
      - {name: pool, type: thin-pool, base: thinvg, extents: '70%VG'}
      - {name: thinroot, type: thin, thin-pool: pool, base: thinvg, size: 1GiB}
- mkfs: {name: mkfs_root, base: thinroot, mount: {mount_point: /, fstab: {}}}
";
    let arguments = [
        "--name",
        "thin",
        "--formats",
        "raw",
        "--size",
        "400M",
        "--envvar",
        config,
        "tiny-os",
        "probe",
    ];
    let built = shop.build(&arguments);
    let listed = built.records("thin").text("lsblk");
    let root = listed.lines().find(|line| line.contains("thinvg-thinroot")).unwrap();
    assert!(root.ends_with("1G"), "{listed}");
    assert_eq!(built.records("thin").mounts("finalise.d")["/"].0, "ext4");
    assert_eq!(blkid(&shop.path("thin.raw"), "TYPE"), "LVM2_member");
}

#[test]
fn roots_of_xfs_and_btrfs_and_large_sectors() {
    let Some(shop) = workshop("xfs and btrfs") else { return };
    let arguments =
        ["--name", "large", "--formats", "raw", "--size", "700M", "tiny-os", "block-device-efi-4k"];
    shop.build(&arguments);
    let header = &fs::read(shop.path("large.raw")).unwrap()[4096..4104].to_vec();
    assert_eq!(header, b"EFI PART", "the table's header is in the second sector of 4096 bytes");

    let arguments = [
        "--name",
        "xfs",
        "--formats",
        "raw",
        "--size",
        "400M",
        "--fs-type",
        "xfs",
        "tiny-os",
        "probe",
    ];
    let built = shop.build(&arguments);
    let image = shop.path("xfs.raw");
    let records = built.records("xfs");
    assert_eq!(records.text("fstab"), "LABEL=img-rootfs / xfs defaults 0 1\n");
    assert_eq!(records.mounts("finalise.d")["/"].0, "xfs");
    let env = records.env("install.d");
    assert_eq!(env["DIB_ROOT_LABEL"], "img-rootfs");
    assert_eq!(env["DIB_IMAGE_ROOT_FS_UUID"], blkid(&image, "UUID"));
    assert_eq!(
        (blkid(&image, "TYPE"), blkid(&image, "LABEL")),
        ("xfs".into(), "img-rootfs".into())
    );

    let arguments = [
        "--name",
        "btrfs",
        "--formats",
        "raw",
        "--size",
        "300M",
        "--fs-type",
        "btrfs",
        "--root-label",
        "a label",
        "--mkfs-options",
        "--nodesize 8k",
        "tiny-os",
        "probe",
    ];
    let built = shop.build(&arguments);
    let image = shop.path("btrfs.raw");
    assert_eq!((blkid(&image, "TYPE"), blkid(&image, "LABEL")), ("btrfs".into(), "a label".into()));
    assert_eq!(built.records("btrfs").mounts("finalise.d")["/"].0, "btrfs");
}

#[test]
fn too_large_partitions_are_refused_by_name() {
    let Some(shop) = workshop("overcommitted") else { return };
    let config = "DIB_BLOCK_DEVICE_CONFIG=
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions: [{name: root, size: 40GiB, mkfs: {name: mkfs_root, mount: {mount_point: /}}}]
";
    let built = shop.run(&["--name", "much", "--size", "200M", "--envvar", config, "tiny-os"]);
    assert_eq!(built.status, Some(1));
    assert!(built.stderr.contains("root"), "{}", built.stderr);
    assert_eq!(shop.names(), ["events", "log"]);
}

#[test]
fn a_device_that_block_device_d_made_is_used() {
    let Some(shop) = workshop("block-device.d") else { return };
    let arguments = ["--name", "old", "--formats", "tar", "tiny-os", "probe", "block-device-old"];
    let built = shop.build(&arguments);
    let records = built.records("old");
    assert!(records.env("finalise.d")["IMAGE_BLOCK_DEVICE"].starts_with("/dev/loop"));
    assert!(!built.log.contains("Create the disk layout"));
    let built = shop.run(&[&["--envvar", "OLD_TWICE=1"][..], &arguments[..]].concat());
    assert!(built.stderr.contains("more than one"), "{}", built.stderr);
}
