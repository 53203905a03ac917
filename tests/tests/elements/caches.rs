//! Caches on the helper drive, which are kept between builds.

use super::harness::{has_program, host, workshop};

#[test]
fn what_scripts_keep_on_the_drive_is_there_in_the_next_build() {
    let Some(shop) = workshop("the_drive") else { return };
    let vbuild = tests::vbuild_binary();
    let vbuild = vbuild.to_str().unwrap();
    host(vbuild, &["cache", "create", "cache.img", "--size", "256M"], shop.dir.path());
    let arguments = ["--drive", "cache.img", "--formats", "tar", "tiny-os", "probe", "pip-cache"];
    let first = shop.build(&[&["--name", "first"][..], &arguments[..]].concat());
    let second = shop.build(&[&["--name", "second"][..], &arguments[..]].concat());
    let (first, second) = (first.records("first"), second.records("second"));
    assert_eq!(first.fact("root.d", "runs-before"), "0");
    assert_eq!(second.fact("root.d", "runs-before"), "1");
    // The method of package caches: bind-mounted into the tree in root.d, used in install.d.
    assert_eq!(first.fact("install.d", "shared-cache"), "empty");
    assert_eq!(second.fact("install.d", "shared-cache"), "kept");
    // The method of pip's cache, by diskimage-builder's own element.
    assert!(second.mounts("install.d").contains_key("/tmp/pip"));
    assert_eq!(first.env("root.d")["DIB_IMAGE_CACHE"], "/helper/home/.cache/image-create");
}

#[test]
fn a_drive_with_partitions_is_used_by_its_first() {
    let Some(shop) = workshop("partitions of the drive") else { return };
    if !has_program("partitions of the drive", "mkfs.ext4")
        || !has_program("partitions of the drive", "sfdisk")
    {
        return;
    }
    let table = "label: dos\nstart=2048, size=204800\nsize=20480\n";
    shop.write("table", table);
    let make = "truncate -s 120M drive.img && sfdisk -q drive.img < table && \
                truncate -s 100M part && mkfs.ext4 -q -F part && \
                dd if=part of=drive.img bs=1M seek=1 conv=notrunc,sparse status=none && rm part table";
    host("sh", &["-c", make], shop.dir.path());
    let arguments = ["--name", "d", "--drive", "drive.img", "--formats", "tar", "tiny-os", "probe"];
    let first = shop.build(&arguments).records("d").fact("root.d", "runs-before");
    let second = shop.build(&arguments).records("d").fact("root.d", "runs-before");
    assert_eq!((first.as_str(), second.as_str()), ("0", "1"));
}

#[test]
fn builds_at_the_same_time_share_the_cache() {
    let Some(shop) = workshop("at the same time") else { return };
    let mut children: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let mut command = shop.command(&["--name", name, "--formats", "tar", "tiny-os"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert!(shop.names().contains(&"one.tar".into()) && shop.names().contains(&"two.tar".into()));
}
