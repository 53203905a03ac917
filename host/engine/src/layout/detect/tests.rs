//! Tests the interpretation of fstab, and the nodes that are made from the content of a disk.

use super::*;

fn candidate(node: &str, number: Option<u32>, tags: &[(&str, &str)]) -> Candidate {
    Candidate {
        node: node.into(),
        device: format!("/dev/{node}"),
        number,
        tags: tags.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    }
}

fn disk() -> Vec<Candidate> {
    vec![
        candidate("disk", None, &[("PTTYPE", "gpt")]),
        candidate("disk-part1", Some(1), &[("TYPE", "vfat"), ("UUID", "ABCD-1234")]),
        candidate(
            "disk-part2",
            Some(2),
            &[("TYPE", "ext4"), ("LABEL", "boot"), ("PART_ENTRY_UUID", "aa-bb")],
        ),
        candidate("disk-part3", Some(3), &[("TYPE", "LVM2_member")]),
        candidate("my-vg/root", None, &[("TYPE", "xfs"), ("UUID", "u1")]),
        candidate("my-vg/var-log", None, &[("TYPE", "ext4"), ("UUID", "u2")]),
    ]
}

fn found(source: &str) -> Option<String> {
    let line =
        FstabLine { source: source.into(), place: "/x".into(), subvolume: None, optional: false };
    resolve(&line, &disk()).map(|candidate| candidate.node.clone())
}

#[test]
fn every_way_to_name_a_device() {
    let node = |name: &str| Some(name.to_owned());
    assert_eq!(found("UUID=abcd-1234"), node("disk-part1"));
    assert_eq!(found("UUID=\"u2\""), node("my-vg/var-log"));
    assert_eq!(found("LABEL=boot"), node("disk-part2"));
    assert_eq!(found("PARTUUID=AA-BB"), node("disk-part2"));
    assert_eq!(found("/dev/disk/by-uuid/u1"), node("my-vg/root"));
    assert_eq!(found("/dev/disk/by-label/boot"), node("disk-part2"));
    assert_eq!(found("/dev/mapper/my--vg-var--log"), node("my-vg/var-log"));
    assert_eq!(found("/dev/my-vg/root"), node("my-vg/root"));
    assert_eq!(found("/dev/sda2"), node("disk-part2"));
    assert_eq!(found("/dev/nvme0n1p1"), node("disk-part1"));
    for unknown in ["UUID=nothing", "LABEL=BOOT", "/dev/sda9", "/dev/md0", "server:/export", "ID=1"]
    {
        assert_eq!(found(unknown), None, "{unknown}");
    }
}

#[test]
fn fstab_lines_that_mount() {
    let text = "# a comment\n\nUUID=u1 / xfs defaults 0 0\n/dev/sda1 /boot/efi vfat umask=077,nofail 0 1\n\
                UUID=u3 none swap sw 0 0\ntmpfs /tmp tmpfs defaults 0 0\n/srv /mnt none bind\n\
                UUID=u4 /home btrfs compress=zstd,subvol=@home\nUUID=u5 /a/../b ext4\nshort line\n\
                LABEL=usb /media ext4 noauto 0 0\n";
    let line = |source: &str, place: &str, subvolume: Option<&str>, optional| FstabLine {
        source: source.into(),
        place: place.into(),
        subvolume: subvolume.map(str::to_owned),
        optional,
    };
    assert_eq!(
        parse_fstab(text),
        [
            line("UUID=u1", "/", None, false),
            line("/dev/sda1", "/boot/efi", None, true),
            line("UUID=u4", "/home", Some("@home"), false),
        ]
    );
}

#[test]
fn nodes_have_their_bases_before_them() {
    let candidates = disk();
    let mounts = [
        (&candidates[4], "/".to_owned(), None),
        (&candidates[2], "/boot".to_owned(), None),
        (&candidates[4], "/home".to_owned(), Some("home".to_owned())),
    ];
    let groups = vec![("my-vg".to_owned(), vec!["root".to_owned(), "var-log".to_owned()])];
    let nodes = nodes("disk", &candidates, groups, &mounts);
    let names: Vec<&str> = nodes.iter().map(|made| made.node.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "disk-table",
            "my-vg",
            "my-vg/root",
            "my-vg/var-log",
            "my-vg/root:fs",
            "my-vg/root:/",
            "disk-part2:fs",
            "disk-part2:/boot",
            "my-vg/root:/home",
        ]
    );
    let partitions: Vec<u32> = nodes[0].partitions.iter().map(|(_, number)| *number).collect();
    assert_eq!(partitions, [1, 2, 3]);
    let NodeKind::Mount(home) = &nodes[8].node.kind else { panic!("{:?}", nodes[8]) };
    assert_eq!(home.fstab.as_ref().unwrap().options, "subvol=home");
}

#[test]
fn reports_of_the_tools() {
    let pv = "  vg0|/dev/vdb3\n  |/dev/vdc\n  -x|/dev/vdd\nnoise\n";
    assert_eq!(pairs(pv).collect::<Vec<_>>(), [("vg0".to_owned(), "/dev/vdb3".to_owned())]);
    let tags = parse_export("DEVNAME=/dev/vdb1\nLABEL=my\\ disk\nTYPE=ext4\n");
    assert_eq!(tags["LABEL"], "my disk");
    assert_eq!(tags["TYPE"], "ext4");
}
