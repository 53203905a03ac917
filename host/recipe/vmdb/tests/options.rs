//! The command line: which image is built from which input, and the names of the output files.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::{options, show, try_prepare};
use vmdb::{Failure, FormatChoice, formats::format_of, prepare};

const SPEC: &str = "steps:
  - {mkimg: \"{{ output }}\", size: 1M}
  - {mkimg: second.vmdk, size: 1M}
";

fn format(name: &str, suffix: &str) -> FormatChoice {
    let is_of_tree = ["tar", "docker"].contains(&name);
    FormatChoice { name: name.into(), suffix: suffix.into(), is_of_tree }
}

fn outputs(change: impl FnOnce(&mut vmdb::Options)) -> Vec<String> {
    let prepared = try_prepare(SPEC, &[], change).unwrap();
    let images = &prepared.lowered.plan.outputs.images;
    images.iter().map(|i| format!("{} {} {}", i.disk, i.format, i.path.display())).collect()
}

#[test]
fn formats_follow_the_ending_or_the_option() {
    assert_eq!(outputs(|_| ()), ["image raw out.img", "image2 vmdk second.vmdk"]);
    let many = outputs(|options| {
        options.output = Some("a/out.qcow2".into());
        options.formats = vec![format("qcow2", "qcow2"), format("vhd", "vhd")];
    });
    assert_eq!(many, ["image qcow2 a/out.qcow2", "image vhd a/out.vhd", "image2 vmdk second.vmdk"]);
    // Each format has one suffix, the same as for builds of elements.
    let suffixes = outputs(|options| {
        let formats = [("vhd-fixed", "fixed.vhd"), ("vmdk-stream", "stream.vmdk"), ("raw", "raw")];
        options.formats = formats.map(|(name, suffix)| format(name, suffix)).to_vec();
    });
    assert_eq!(
        suffixes[..3],
        ["image vhd-fixed out.fixed.vhd", "image vmdk-stream out.stream.vmdk", "image raw out.img"]
    );
    let only = outputs(|options| {
        options.output = Some("out.vhd".into());
        options.formats = vec![format("vhd-fixed", "fixed.vhd")];
    });
    assert_eq!(only[0], "image vhd-fixed out.vhd");
    for (path, expected) in [
        ("a.img", ("raw", "a")),
        ("a.b/c", ("raw", "a.b/c")),
        (".qcow2", ("raw", ".qcow2")),
        ("x.tar", ("raw", "x.tar")),
        ("x.vdi", ("vdi", "x")),
        ("x.fixed.vhd", ("vhd-fixed", "x")),
        ("x.stream.vmdk", ("vmdk-stream", "x")),
        ("d/.fixed.vhd", ("vhd", "d/.fixed")),
    ] {
        assert_eq!(format_of(path), expected);
    }
}

#[test]
fn an_image_that_exists_is_written_anew() {
    let text = "steps:
  - {mklabel: gpt, device: \"{{ image }}\"}
  - {mkpart: a, device: \"{{ image }}\", start: 0%, end: 100%, tag: a}
  - {kpartx: \"{{ image }}\"}
";
    let image = |options: &mut vmdb::Options| {
        options.output = None;
        options.image = Some("old.img".into());
    };
    let content = "x".repeat(4 << 20);
    let prepared = try_prepare(text, &[("old.img", &content)], image).unwrap();
    let shown = show(&prepared);
    assert!(shown.contains("disk image Target Bytes(4194304)"), "{shown}");
    assert!(shown.contains("output image raw old.img"), "{shown}");
    let error = try_prepare(text, &[], image).unwrap_err();
    assert!(error.contains("`DIR/old.img` does not exist"), "{error}");
}

#[test]
fn partitions_of_an_image_that_exists_are_taken_over() {
    let text = "steps:
  - {kpartx: \"{{ image }}\", tags: [efi, /]}
  - {lvscan: vg0, tags: [home]}
  - {mount: /}
  - {mount: home, dirname: /home, mount-on: /}
  - {fstab: /}
  - {grub: uefi, tag: /, efi: efi}
";
    let image = |name: &str| {
        let name = name.to_owned();
        move |options: &mut vmdb::Options| {
            options.output = None;
            options.image = Some(name);
        }
    };
    let content = "x".repeat(4 << 20);
    let prepared = try_prepare(text, &[("old.img", &content)], image("old.img")).unwrap();
    let plan = &prepared.lowered.plan;
    assert_eq!(plan::check(plan), []);
    let base = plan.disks.iter().find_map(|disk| disk.base.as_ref()).unwrap();
    assert_eq!(base.bytes, 4 << 20);
    let found: Vec<_> = plan
        .stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .filter_map(|step| match step {
            plan::Step::FindDevices { devices, .. } => Some(devices),
            _ => None,
        })
        .flatten()
        .map(|found| format!("{}: {} {}", found.place, found.name, found.filesystem))
        .collect();
    assert_eq!(
        found,
        [
            "partition 1: efi fs-efi",
            "partition 2: root fs-root",
            "volume `vg0/home`: vg0/home fs-home"
        ]
    );
    let shown = show(&prepared);
    assert!(shown.contains("fs <uuid.fs-home> /home <fstype.fs-home>"), "{shown}");

    let error = try_prepare(text, &[], image("old.img")).unwrap_err();
    assert!(error.contains("`DIR/old.img` does not exist"), "{error}");
    let error = try_prepare(text, &[("a.qcow2", &content)], image("a.qcow2")).unwrap_err();
    assert!(error.contains("`a.qcow2` is not a raw image"), "{error}");
    let error = try_prepare(text, &[("odd.img", "odd")], image("odd.img")).unwrap_err();
    assert!(error.contains("not a multiple of 512"), "{error}");
}

#[test]
fn wrong_options_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path(), "missing.vmdb");
    let fail = |options: &vmdb::Options| prepare(options, &mut std::io::empty()).unwrap_err();
    assert!(matches!(fail(&options), Failure::Read { path, .. } if path == "missing.vmdb"));
    options.variables = vec!["a".into()];
    assert_eq!(
        fail(&options).to_string(),
        "--variable: variable `a` must have the form NAME=VALUE"
    );
    for empty in ["--output", "--rootfs-tarball"] {
        options.output = Some(if empty == "--output" { "" } else { "x" }.into());
        options.rootfs_tarball = Some(String::new());
        assert_eq!(fail(&options).to_string(), format!("{empty} is empty"));
    }
    options.output = None;
    assert!(matches!(fail(&options), Failure::NoTarget));
}

#[test]
fn a_spec_can_come_from_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), "-");
    let prepared = prepare(&options, &mut "steps: [{echo: hello}]".as_bytes()).unwrap();
    let run = prepared.lowered.narration.run_local();
    assert_eq!(run.lines, ["Load spec from stdin", "hello", "All went fine."]);
    let error = prepare(&options, &mut "steps: [{ech: hello}]".as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("standard input:1:9: step 1: no step"), "{error}");
}

#[test]
fn sources_beside_the_spec_are_found() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("specs")).unwrap();
    fs::write(directory.path().join("specs/motd"), "beside the spec").unwrap();
    let text = "steps:
  - {mkimg: out.img, size: 4M}
  - {mklabel: gpt, device: out.img}
  - {mkpart: a, device: out.img, start: 0%, end: 100%, tag: /}
  - {mkfs: ext2, partition: /}
  - {mount: /}
  - {copy-file: /etc/motd, src: motd}
";
    fs::write(directory.path().join("specs/a.vmdb"), text).unwrap();
    let options = options(directory.path(), "specs/a.vmdb");
    let source = || {
        let prepared = prepare(&options, &mut std::io::empty()).unwrap();
        prepared.lowered.plan.host_files().next().unwrap().clone()
    };
    assert_eq!(source(), directory.path().join("specs/motd"));
    // The working directory is searched first, as in vmdb2.
    fs::write(directory.path().join("motd"), "here").unwrap();
    assert_eq!(source(), directory.path().join("motd"));
}
