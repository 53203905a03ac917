//! What stays on the helper drive from build to build.

use super::harness::{host, workshop};

#[test]
fn what_scripts_keep_on_the_drive_is_there_in_the_next_build() {
    let Some(shop) = workshop("the_drive") else { return };
    let vbuild = super::harness::vbuild_binary();
    let vbuild = vbuild.to_str().unwrap();
    host(vbuild, &["cache", "create", "cache.img", "--size", "256M"], shop.dir.path());
    let arguments = ["--drive", "cache.img", "--formats", "tar", "tiny-os", "probe", "pip-cache"];
    let first = shop.build(&[&["--name", "first"][..], &arguments[..]].concat());
    let second = shop.build(&[&["--name", "second"][..], &arguments[..]].concat());
    let (first, second) = (first.records("first"), second.records("second"));
    assert_eq!(first.fact("root.d", "runs-before"), "0");
    assert_eq!(second.fact("root.d", "runs-before"), "1");
    // The way of package caches: bound into the tree in root.d, used in install.d.
    assert_eq!(first.fact("install.d", "shared-cache"), "empty");
    assert_eq!(second.fact("install.d", "shared-cache"), "kept");
    // And of pip's, by the element that diskimage-builder has for it.
    assert!(second.mounts("install.d").contains_key("/tmp/pip"));
    assert_eq!(first.env("root.d")["DIB_IMAGE_CACHE"], "/helper/home/.cache/image-create");
}
