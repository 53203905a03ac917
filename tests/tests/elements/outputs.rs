//! All formats of one build, and builds without an image.

use std::{collections::BTreeMap, fs, path::Path};

use tests::{archive::members, names};

use super::{
    harness::{has_program, host, workshop},
    image::{blkid, ext_header, ext_names},
};

const DISKS: [&str; 7] = ["qcow2", "vdi", "vhd", "vhd-fixed", "vhdx", "vmdk", "vmdk-stream"];
const FORMATS: &str = "raw,qcow2,vdi,vhd,vhd-fixed,vhdx,vmdk,vmdk-stream,tar,tgz,tar.zst,\
                       squashfs,docker,oci";

fn suffix(format: &str) -> &str {
    match format {
        "vhd-fixed" => "fixed.vhd",
        "vmdk-stream" => "stream.vmdk",
        other => other,
    }
}

#[test]
fn every_format_comes_out_of_one_build() {
    let Some(shop) = workshop("every_format") else { return };
    shop.write("out.tar", "of an earlier build");
    let arguments = [
        "--name",
        "out",
        "--formats",
        FORMATS,
        "--docker-target",
        "probe:1",
        "--checksum=md5,sha256,sha512",
        "tiny-os",
        "keepsakes",
    ];
    shop.build(&arguments);
    disks_hold_the_same(shop.dir.path());
    the_filesystem_is_made_as_asked(&shop.path("out.raw"));
    archives_hold_the_same(shop.dir.path());
    containers_name_their_image(shop.dir.path());
    checksums_verify(shop.dir.path());
}

fn disks_hold_the_same(dir: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let raw = fs::metadata(dir.join("out.raw")).unwrap();
    assert_eq!(raw.len() % 65_536, 0, "the size is a multiple of 64 KiB");
    assert!(raw.blocks() * 512 <= raw.len());
    if !has_program("every_format", "qemu-img") {
        return;
    }
    for format in DISKS {
        let file = format!("out.{}", suffix(format));
        let kind = match format {
            "vhd" | "vhd-fixed" => "vpc",
            "vmdk-stream" => "vmdk",
            other => other,
        };
        let options = if kind == "vpc" {
            format!("driver=vpc,force_size_calc=current_size,file.driver=file,file.filename={file}")
        } else {
            format!("driver={kind},file.driver=file,file.filename={file}")
        };
        let raw = "driver=raw,file.driver=file,file.filename=out.raw";
        host("qemu-img", &["compare", "--image-opts", &options, raw], dir);
    }
    host("qemu-img", &["check", "out.qcow2"], dir);
}

fn the_filesystem_is_made_as_asked(raw: &Path) {
    assert_eq!(blkid(raw, "TYPE"), "ext4");
    assert_eq!(blkid(raw, "LABEL"), "cloudimg-rootfs");
    let number = |key: &str| ext_header(raw, key).parse::<u64>().unwrap();
    let bytes = number("Block count") * number("Block size");
    assert_eq!(bytes, fs::metadata(raw).unwrap().len());
    let inodes = number("Inode count");
    let ratio = bytes / inodes;
    assert!((3500..=4200).contains(&ratio), "one inode for each {ratio} bytes");
    assert_eq!(ext_header(raw, "Total journal size"), "8M");
    let top = ext_names(raw, "/");
    assert!(top.iter().any(|name| name == ".top-level-file"), "{top:?}");
}

fn archives_hold_the_same(dir: &Path) {
    let plain = members(&dir.join("out.tar"));
    let first = host("tar", &["-tf", "out.tar"], dir);
    assert!(first.lines().all(|name| name.starts_with("./")), "{first}");
    assert!(plain.contains_key("keep/file"), "the older out.tar was replaced");
    assert!(!names(dir).iter().any(|name| name.starts_with("out-")), "and is nowhere else");
    for (packed, program) in [("out.tgz", "gzip"), ("out.tar.zst", "zstd")] {
        if !has_program("every_format", program) {
            continue;
        }
        let copy = format!("{packed}.unpacked");
        host("sh", &["-c", &format!("{program} -dc {packed} > {copy}")], dir);
        assert_eq!(members(&dir.join(&copy)), plain, "{packed}");
        fs::remove_file(dir.join(copy)).unwrap();
    }
    if has_program("every_format", "unsquashfs") {
        let listing = host("unsquashfs", &["-ll", "out.squash"], dir);
        let paths: Vec<&str> = listing
            .lines()
            .filter_map(|line| line.split_once("squashfs-root/"))
            .map(|l| l.1)
            .collect();
        assert!(paths.contains(&"keep/capable") && paths.contains(&".top-level-file"));
        assert!(paths.contains(&"proc") && paths.contains(&"dev"));
        assert!(!paths.iter().any(|path| path.starts_with("dev/") || path.starts_with("proc/")));
        let about = host("unsquashfs", &["-s", "out.squash"], dir);
        assert!(about.contains("Compression xz"), "{about}");
    }
}

fn containers_name_their_image(dir: &Path) {
    let docker = members(&dir.join("out.docker.tar"));
    let manifest: serde_json::Value =
        serde_json::from_slice(&docker["manifest.json"].content).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], "probe:1");
    let oci = members(&dir.join("out.oci.tar"));
    assert!(oci.contains_key("oci-layout") && oci.contains_key("index.json"));
}

fn checksums_verify(dir: &Path) {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names(dir) {
        for kind in ["md5", "sha256", "sha512"] {
            if name.ends_with(&format!(".{kind}")) {
                host(&format!("{kind}sum"), &["--check", "--quiet", &name], dir);
                *kinds.entry(kind).or_default() += 1;
            }
        }
    }
    let outputs = FORMATS.split(',').count();
    assert_eq!(kinds, BTreeMap::from([("md5", outputs), ("sha256", outputs), ("sha512", outputs)]));
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let Some(shop) = workshop("same bytes") else { return };
    let formats = format!("{FORMATS},");
    let arguments = [
        "--name",
        "same",
        "--formats",
        formats.trim_end_matches(','),
        "--docker-target",
        "probe:1",
        "--size",
        "700M",
        "tiny-os",
        "keepsakes",
        "block-device-efi",
    ];
    let build = || {
        let mut command = shop.command(&arguments);
        let output = command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
        let built = shop.built(&output);
        assert_eq!(built.status, Some(0), "{}\n{}", built.stdout, built.stderr);
    };
    build();
    fs::create_dir(shop.path("first")).unwrap();
    let outputs: Vec<String> =
        shop.names().into_iter().filter(|name| name.starts_with("same.")).collect();
    assert_eq!(outputs.len(), FORMATS.split(',').count());
    for name in &outputs {
        fs::rename(shop.path(name), shop.path(&format!("first/{name}"))).unwrap();
    }
    build();
    for name in &outputs {
        host("cmp", &[name, &format!("first/{name}")], shop.dir.path());
    }
    // No part of the files is lost.
    let archive = members(&shop.path("same.tar"));
    assert!(archive.values().all(|member| member.seconds <= 1_700_000_000));
    let image = shop.path("same.raw");
    let table = super::image::partitions(&image);
    let root = super::image::cut(&image, table.last().unwrap());
    host("e2fsck", &["-fn", root.to_str().unwrap()], shop.dir.path());
    let stat = |path: &str| {
        host("debugfs", &["-R", &format!("stat {path}"), root.to_str().unwrap()], Path::new("/"))
    };
    let file = stat("/keep/file");
    assert!(file.contains("Links: 2") && file.contains("user.colour"), "{file}");
    assert!(file.contains("User:  1234") && file.contains("Mode:  0640"), "{file}");
    assert!(stat("/keep/capable").contains("security.capability"));
    assert!(stat("/keep/with-acl").contains("posix_acl_access"));
    assert!(stat("/keep/setuid").contains("Mode:  04755"));
    assert!(stat("/keep/disk").contains("07:200"), "{}", stat("/keep/disk"));
    assert!(stat("/root").contains("Mode:  0700"));
}

#[test]
fn a_container_is_loaded_into_the_engine() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(shop) = workshop("--load-into") else { return };
    let formats = ["--name", "box", "--formats", "docker", "--docker-target", "box:2"];
    let arguments = [&formats[..], &["--load-into", "podman", "tiny-os"][..]].concat();
    let run = |path: &str| {
        let output = shop.command(&arguments).env("PATH", path).output().unwrap();
        shop.built(&output)
    };
    fs::create_dir(shop.path("bin")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let with_engine = format!("{}:{path}", shop.path("bin").display());
    if has_program("--load-into", "podman") {
        println!("a podman of this machine is not used");
    } else {
        let built = run(&path);
        assert!(built.stderr.contains("podman needed but not found"), "{}", built.stderr);
        assert_eq!(shop.names(), ["bin", "events", "log"], "it was told before the build");
    }
    // The build runs one command of the container engine.
    shop.write("bin/podman", "#!/bin/sh\n[ -s \"$3\" ] && echo \"$*\" > loaded\n");
    fs::set_permissions(shop.path("bin/podman"), fs::Permissions::from_mode(0o755)).unwrap();
    let built = run(&with_engine);
    assert_eq!(built.status, Some(0), "{}", built.stderr);
    assert_eq!(fs::read_to_string(shop.path("loaded")).unwrap(), "load --input box.docker.tar\n");
}

#[test]
fn sizes_and_compression_are_what_was_asked_for() {
    let Some(shop) = workshop("sizes") else { return };
    shop.build(&["--name", "big.raw", "--formats", "raw", "--size", "1.5G", "tiny-os"]);
    assert_eq!(fs::metadata(shop.path("big.raw")).unwrap().len(), 3 << 29);
    assert!(!shop.names().iter().any(|name| name == "big.raw.raw"), "{:?}", shop.names());
    let arguments = [
        "--name",
        "small",
        "-u",
        "--qemu-img-options",
        "cluster_size=2M",
        "--image-extra-size",
        "40",
        "--envvar",
        "TMPDIR=/nowhere",
        "tiny-os",
        "rough",
    ];
    // Scripts that need bash, and one that leaves a process running in the image.
    let built = shop.build(&arguments);
    for script in ["40-no-first-line", "41-empty", "42-leaves-a-process", "43-temporary"] {
        assert!(built.scripts().contains(&format!("install.d/{script}")), "{:?}", built.scripts());
    }
    let ended = "ended processes that scripts have left behind: sleep (";
    assert!(built.stderr.contains(ended), "{}", built.stderr);
    if has_program("sizes", "qemu-img") {
        let text = host("qemu-img", &["info", "--output=json", "small.qcow2"], shop.dir.path());
        let info: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(info["cluster-size"], 2 << 20);
        let bytes = info["virtual-size"].as_u64().unwrap();
        assert!(bytes > 40 << 20 && bytes < 120 << 20, "{bytes}");
    }
}

#[test]
fn a_ramdisk_build_leaves_only_what_cleanup_left() {
    let Some(shop) = workshop("ramdisk") else { return };
    let arguments = [
        "--name",
        "rd",
        "--ramdisk",
        "--ramdisk-element",
        "keepsakes",
        "--formats",
        "qcow2,tar,squashfs",
        "--checksum",
        "tiny-os",
        "probe",
    ];
    let built = shop.build(&arguments);
    assert_eq!(shop.names(), ["events", "log", "rd.d"]);
    assert!(built.records("rd").env("root.d")["IMAGE_ELEMENT"].contains("keepsakes"));
}

#[test]
fn no_final_image_means_none() {
    let Some(shop) = workshop("no_final_image") else { return };
    let built = shop.build(&["--name", "none", "tiny-os", "probe", "no-final-image"]);
    assert_eq!(shop.names(), ["events", "log", "none.d"]);
    assert_eq!(built.records("none").fact("cleanup.d", "proc"), "mounted");
}
