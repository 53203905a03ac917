//! Whole plans.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use expect_test::{Expect, expect};
use plan::{Checksum, Stage, Step, Value};

use super::*;
use crate::{
    options::{FormatChoice, MadeFrom, Share},
    source::Origin,
};

/// A diskimage-builder with three elements, made for the test.
struct Small {
    root: tempfile::TempDir,
}

impl Small {
    fn new() -> Self {
        let small = Self { root: tempfile::tempdir().unwrap() };
        for (path, text) in [
            ("lib/die", ""),
            ("lib/dib-run-parts", "#!/bin/bash\n"),
            ("logging_config.py", ""),
            ("elements/base/install.d/10-base", "#!/bin/sh\n"),
            ("elements/os/element-provides", "operating-system\n"),
            ("elements/os/element-deps", "extra\n"),
            ("elements/os/root.d/50-os", "#!/bin/sh\n"),
            ("elements/os/cleanup.d/50-os", "#!/bin/sh\n"),
            ("elements/extra/environment.d/10-extra", "export X=1\n"),
            ("elements/extra/finalise.d/10-extra", "#!/bin/sh\n"),
        ] {
            small.file(path, text);
        }
        small
    }

    fn file(&self, path: &str, text: &str) {
        let file = self.root.path().join("diskimage_builder").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn located(&self) -> Located {
        let package = fs::canonicalize(self.root.path().join("diskimage_builder")).unwrap();
        Located {
            lib: package.join("lib"),
            elements: vec![package.join("elements")],
            package,
            origin: Origin::Installed,
            warnings: Vec::new(),
        }
    }

    fn lower(&self, change: impl FnOnce(&mut DibOptions)) -> Result<Lowered, DibError> {
        let mut options = DibOptions { formats: vec![qcow2()], ..options(&["os"]) };
        change(&mut options);
        let lowered = lower(&options, &self.located())?;
        assert_eq!(plan::check(&lowered.plan), []);
        Ok(lowered)
    }
}

fn qcow2() -> FormatChoice {
    format("qcow2", "qcow2", MadeFrom::Disk)
}

fn format(name: &str, extension: &str, made_from: MadeFrom) -> FormatChoice {
    FormatChoice { name: name.into(), extension: extension.into(), made_from }
}

fn options(elements: &[&str]) -> DibOptions {
    DibOptions {
        elements: elements.iter().map(|name| (*name).to_owned()).collect(),
        arch: Some("amd64".into()),
        ..DibOptions::default()
    }
}

/// A plan in short: contexts and steps, with the interesting part of each.
fn print(plan: &Plan) -> String {
    let mut out = String::new();
    for disk in &plan.disks {
        writeln!(out, "disk {} {:?} {:?} {}", disk.name, disk.role, disk.size, disk.block_bytes)
            .unwrap();
    }
    for stage in &plan.stages {
        print_stage(&mut out, stage);
    }
    for image in &plan.outputs.images {
        writeln!(out, "image {} of {} as {}", image.path.display(), image.disk, image.format)
            .unwrap();
    }
    out
}

fn print_stage(out: &mut String, stage: &Stage) {
    let context = &stage.context;
    let mut words = vec![stage.name.clone()];
    words.extend(context.image_root.as_ref().map(|path| format!("image={path}")));
    words.extend(context.layout_at.as_ref().map(|path| format!("layout={path}")));
    words.extend(context.image_system_mounts.then(|| "system".into()));
    words.extend(context.binds.iter().map(|bind| format!("{}->{}", bind.from, bind.to)));
    words.extend(context.ca_bundle.then(|| "ca".into()));
    words.extend(stage.network.then(|| "network".into()));
    writeln!(out, "== {}", words.join(" ")).unwrap();
    for step in &stage.steps {
        match step {
            Step::Upload(upload) => {
                let paths: Vec<&str> =
                    upload.entries.iter().map(|entry| entry.path.as_str()).collect();
                writeln!(out, "put {} {}", upload.to, paths.join(" ")).unwrap();
            }
            Step::RunParts(parts) => {
                writeln!(out, "parts {} in {} {:?}", parts.directory, parts.cwd, parts.origins)
                    .unwrap();
            }
            Step::Run(run) => writeln!(out, "run {}{}", run.what, arguments(&run.argv)).unwrap(),
            Step::File(file) => writeln!(out, "{}", serde_json::to_string(file).unwrap()).unwrap(),
            other => writeln!(out, "{}", other.title()).unwrap(),
        }
    }
}

fn arguments(argv: &[Value]) -> String {
    let skip = if argv.get(1) == Some(&Value::Text("-c".into())) { 4 } else { 0 };
    argv.iter()
        .skip(skip)
        .map(|word| match word {
            Value::Text(text) => format!(" {text}"),
            Value::Fact(fact) => format!(" <{fact}>"),
        })
        .collect()
}

fn check(plan: &Plan, expected: &Expect) {
    expected.assert_eq(&print(plan));
}

#[test]
fn a_small_build() {
    let lowered =
        Small::new().lower(|options| options.extra_packages = vec!["less".into()]).unwrap();
    check(
        &lowered.plan,
        &expect![[r#"
            disk scratch Scratch Bytes(68719476736) 512
            disk image0 Target FactKib("image-size-kib") 512
            == prepare
            put /usr/lib/python3/dist-packages/diskimage_builder logging_config.py
            put /usr/lib/python3/dist-packages/diskimage_builder/lib dib-run-parts die
            put /usr/local/bin dib-run-parts
            put /build/hooks dib-run-parts
            {"op":"make-directory","path":"/build/mnt","mode":493}
            {"op":"make-directory","path":"/build/image","mode":493}
            {"op":"make-directory","path":"/build/hooks","mode":493}
            {"op":"make-directory","path":"/build/block-device","mode":493}
            {"op":"make-directory","path":"/build/out/image.d","mode":493}
            put /build/hooks cleanup.d element-deps element-provides environment.d environment.d/10-extra finalise.d install.d root.d
            put /build/elements 0 0/base 0/base/install.d 0/extra 0/extra/environment.d 0/extra/environment.d/10-extra 0/extra/finalise.d 0/os 0/os/cleanup.d 0/os/element-deps 0/os/element-provides 0/os/root.d
            {"op":"write","path":"/build/block-device/config.yaml","content":"- local_loop:\n    name: image0\n    mkfs:\n      name: mkfs_root\n      mount:\n        mount_point: /\n        fstab:\n          options: defaults\n          fsck-passno: 1\n","mode":420}
            {"op":"write","path":"/build/block-device/params.yaml","content":"config: /build/block-device/config.yaml\nimage-dir: /build/image\nroot-fs-type: \"ext4\"\nroot-label: \nmount-base: /build/mnt\nbuild-dir: /build\nroot-fs-opts: \"-i 4096 -J size=64\"\n","mode":420}
            == root.d image=/build/mnt network
            put /build/hooks root.d/50-os
            put /build/elements 0/os/root.d/50-os
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            parts /build/hooks/root.d in /build/out/image.d {"50-os": "os"}
            look into /build/mnt
            prepare resolv.conf
            run note mounts /build/mnt
            == extra-data.d image=/build/mnt system network
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            run restore mounts <mounts-of-root.d>
            {"op":"make-directory","path":"/build/hooks/environment.d","mode":493}
            {"op":"write","path":"/build/hooks/environment.d/11-dib-install-type.bash","content":"export DIB_DEFAULT_INSTALLTYPE=${DIB_DEFAULT_INSTALLTYPE:-\"source\"}\n","mode":420}
            parts /build/hooks/extra-data.d in /build/out/image.d {}
            run note mounts /build/mnt
            == pre-install.d image=/build/mnt system /build/hooks->/build/mnt/tmp/in_target.d ca network
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            run restore mounts <mounts-of-extra-data.d>
            parts /tmp/in_target.d/pre-install.d in / {}
            == install.d image=/build/mnt system /build/hooks->/build/mnt/tmp/in_target.d ca network
            put /build/hooks install.d/10-base
            put /build/elements 0/base/install.d/10-base
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            run restore mounts <mounts-of-extra-data.d>
            parts /tmp/in_target.d/install.d in / {"10-base": "base"}
            == packages image=/build/mnt system ca network
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            run restore mounts <mounts-of-extra-data.d>
            run extra packages install-packages less
            == post-install.d image=/build/mnt system /build/hooks->/build/mnt/tmp/in_target.d ca network
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            run restore mounts <mounts-of-extra-data.d>
            parts /tmp/in_target.d/post-install.d in / {}
            parts /build/hooks/post-root.d in /build/out/image.d {}
            == size network
            end left-over processes
            run unmount what scripts mounted /build/mnt
            {"op":"remove","path":"/build/mnt/lost+found","content_only":false}
            {"op":"rename","from":"/build/mnt","to":"/build/built"}
            {"op":"make-directory","path":"/build/mnt","mode":493}
            compute the image's size
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            parts /build/hooks/block-device.d in /build/out/image.d {}
            == layout
            create the disk layout
            {"op":"make-directory","path":"/build/built/etc","mode":493}
            write fstab
            == copy layout=/build/mnt
            copy the tree to /build/mnt
            == finalise.d image=/build/mnt layout=/build/mnt system /build/hooks->/build/mnt/tmp/in_target.d ca network
            put /build/hooks finalise.d/10-extra
            put /build/elements 0/extra/finalise.d/10-extra
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            parts /build/hooks/pre-finalise.d in /build/out/image.d {}
            parts /tmp/in_target.d/finalise.d in / {"10-extra": "extra"}
            == cleanup.d image=/build/mnt layout=/build/mnt system network
            put /build/hooks cleanup.d/50-os
            put /build/elements 0/os/cleanup.d/50-os
            {"op":"make-directory","path":"/helper/home","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/dib/lockfiles","mode":493}
            {"op":"make-directory","path":"/helper/home/.cache/image-create","mode":493}
            parts /build/hooks/cleanup.d in /build/out/image.d {"50-os": "os"}
            restore resolv.conf
            run unmount what scripts mounted /build/mnt/tmp
            {"op":"remove","path":"/build/mnt/tmp","content_only":true}
            {"op":"truncate-all","path":"/build/mnt/var/log"}
            run remove logs of root /build/mnt/root
            == export image=/build/mnt layout=/build/mnt
            end left-over processes
            run unmount what scripts mounted /build/mnt
            fetch image.d
            == seal layout=/build/mnt
            discard free blocks
            image image.qcow2 of image0 as qcow2
        "#]],
    );
    assert_eq!(lowered.requested, ["base", "os"]);
    assert_eq!(lowered.elements, ["base", "extra", "os"]);
}

#[test]
fn debian_minimal_vm_of_the_real_release() {
    let Some(located) = crate::real::located() else { return };
    let options = DibOptions { formats: vec![qcow2()], ..options(&["debian-minimal", "vm"]) };
    let lowered = lower(&options, &located).unwrap();
    assert_eq!(plan::check(&lowered.plan), []);
    assert_eq!(
        lowered.elements.join(" "),
        "base block-device-mbr bootloader debian-minimal debootstrap dib-init-system dpkg \
         install-bin install-types manifests modprobe package-installs pkg-map sysprep vm"
    );
    // Another run gives the same bytes.
    let again = lower(&options, &located).unwrap();
    assert_eq!(again, lowered);
}
