//! Tests of complete plans.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use expect_test::expect_file;
use plan::{Checksum, Stage, Step, Value};

use super::*;
use crate::{
    options::{FormatChoice, MadeFrom, Share},
    source::Origin,
};

/// A diskimage-builder with three elements, created for the test.
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

/// Prints a plan briefly: contexts and steps with their relevant values.
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
                for script in &parts.scripts {
                    let paths: Vec<&str> =
                        script.upload.entries.iter().map(|entry| entry.path.as_str()).collect();
                    let (name, to) = (&script.name, &script.upload.to);
                    writeln!(out, "  {name}: put {to} {}", paths.join(" ")).unwrap();
                }
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

#[test]
fn a_small_build() {
    let lowered =
        Small::new().lower(|options| options.extra_packages = vec!["less".into()]).unwrap();
    expect_file!["../../testdata/small-plan.txt"].assert_eq(&print(&lowered.plan));
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
    // A second run gives the same bytes.
    let again = lower(&options, &located).unwrap();
    assert_eq!(again, lowered);
}

fn image_paths(plan: &Plan) -> Vec<String> {
    plan.outputs.images.iter().map(|image| image.path.display().to_string()).collect()
}

fn trees(plan: &Plan) -> Vec<(String, Vec<String>)> {
    plan.stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .filter_map(|step| match step {
            Step::ExportTree { output, exclude, .. } => {
                Some((output.path.display().to_string(), exclude.clone()))
            }
            _ => None,
        })
        .collect()
}

fn fetched(plan: &Plan) -> PathBuf {
    plan.stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .find_map(|step| match step {
            Step::Fetch { to, .. } => Some(to.clone()),
            _ => None,
        })
        .unwrap()
}

#[test]
fn outputs_and_their_names() {
    let small = Small::new();
    let formats = vec![
        qcow2(),
        format("raw", "raw", MadeFrom::Disk),
        format("tgz", "tgz", MadeFrom::Tree),
        format("squashfs", "squash", MadeFrom::Tree),
    ];
    let plan = small
        .lower(|options| {
            options.formats = formats;
            options.name = "out/my.qcow2".into();
            options.checksums = vec![Checksum::Sha256];
            options.uncompressed = true;
            options.overwrite = true;
        })
        .unwrap()
        .plan;
    assert_eq!(image_paths(&plan), ["out/my.qcow2.qcow2", "out/my.qcow2.raw"]);
    let common = vec!["proc/*".to_owned(), "sys/*".to_owned()];
    let with_dev = [common.clone(), vec!["dev/*".to_owned()]].concat();
    assert_eq!(
        trees(&plan),
        [("out/my.qcow2.tgz".to_owned(), common), ("out/my.qcow2.squash".to_owned(), with_dev)]
    );
    assert_eq!(fetched(&plan), PathBuf::from("out/my.qcow2.d"));
    assert_eq!(plan.outputs.checksums, [Checksum::Sha256]);
    assert!(plan.outputs.images.iter().all(|image| !image.compress));
    assert!(plan.outputs.overwrite);
    // The suffix of a single format is not repeated.
    for (name, path) in [
        ("x.qcow2", "x.qcow2"),
        ("x", "x.qcow2"),
        ("x.qcow2.qcow2", "x.qcow2.qcow2"),
        ("", "image.qcow2"),
    ] {
        let plan = small.lower(|options| options.name = name.into()).unwrap().plan;
        assert_eq!(image_paths(&plan), [path]);
        assert!(plan.outputs.images[0].compress && !plan.outputs.overwrite);
    }
    for name in ["a/", "/", "..", ".qcow2"] {
        let error = small.lower(|options| options.name = name.into()).unwrap_err();
        assert_eq!(error.to_string(), format!("--name: `{name}` does not name a file"));
    }
}

#[test]
fn builds_without_an_image() {
    let small = Small::new();
    small.file("elements/no-final-image/element-deps", "");
    small.file("elements/ramdisk/element-deps", "");
    small.file("elements/ironic-agent/element-deps", "");
    let formats = || vec![qcow2(), format("tar", "tar", MadeFrom::Tree)];
    let with = |change: fn(&mut DibOptions)| {
        small
            .lower(|options| {
                options.formats = formats();
                options.checksums = vec![Checksum::Md5];
                change(options);
            })
            .unwrap()
            .plan
    };
    let plan = with(|options| options.elements.push("no-final-image".into()));
    assert!(image_paths(&plan).is_empty());
    assert_eq!(trees(&plan).len(), 1);
    let changes: [fn(&mut DibOptions); 2] =
        [|options| options.ramdisk = true, |options| options.elements.push("ironic-agent".into())];
    for change in changes {
        let plan = with(change);
        assert!(image_paths(&plan).is_empty() && trees(&plan).is_empty());
        assert!(plan.outputs.checksums.is_empty());
        assert_eq!(fetched(&plan), PathBuf::from("image.d"));
    }
}

fn size_of(plan: &Plan) -> DiskSize {
    plan.disks.iter().find(|disk| disk.name == "image0").unwrap().size.clone()
}

fn size_step(plan: &Plan) -> Option<plan::ImageSize> {
    plan.stages.iter().flat_map(|stage| &stage.steps).find_map(|step| match step {
        Step::ImageSize(size) => Some(size.clone()),
        _ => None,
    })
}

#[test]
fn image_sizes() {
    let small = Small::new();
    small.file("elements/block-device-efi-x/element-deps", "");
    let with = |change: fn(&mut DibOptions)| small.lower(change).unwrap().plan;
    let step = size_step(&with(|_| ())).unwrap();
    assert_eq!((step.extra_kib, step.journal_kib, step.fixed_kib), (None, 65_536, 0));
    let step = size_step(&with(|options| {
        options.image_extra_size_mib = Some("200".into());
        options.fs_type = Some("xfs".into());
        options.elements.push("block-device-efi-x".into());
    }))
    .unwrap();
    assert_eq!((step.extra_kib, step.journal_kib, step.fixed_kib), (Some(204_800), 0, 537_600));
    let plan = with(|options| options.size = Some(5 << 30));
    assert_eq!((size_of(&plan), size_step(&plan)), (DiskSize::Bytes(5 << 30), None));
    // 0.9 GiB, rounded up to 64 KiB.
    let plan = with(|options| options.image_size_gib = Some("0.9".into()));
    assert_eq!(size_of(&plan), DiskSize::Bytes(943_744 * 1024));
    // An ESP is still added.
    let plan = with(|options| {
        options.image_size_gib = Some("1".into());
        options.elements.push("block-device-efi-x".into());
    });
    assert_eq!(size_of(&plan), DiskSize::Bytes((1_048_576 + 537_600) * 1024));
}

fn root_filesystem(plan: &Plan) -> plan::Filesystem {
    plan.stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .find_map(|step| match step {
            Step::CreateLayout(layout) => layout.nodes.iter().find_map(|node| match &node.kind {
                plan::NodeKind::Filesystem(fs) if node.name == "mkfs_root" => Some(fs.clone()),
                _ => None,
            }),
            _ => None,
        })
        .unwrap()
}

#[test]
fn options_of_the_root_filesystem() {
    let small = Small::new();
    let with = |change: fn(&mut DibOptions)| root_filesystem(&small.lower(change).unwrap().plan);
    assert_eq!(with(|_| ()).options.join(" "), "-i 4096 -J size=64");
    let by_variables = with(|options| {
        for (name, value) in [("DIB_JOURNAL_SIZE", "32"), ("MAX_ONLINE_RESIZE", "9")] {
            options.envvars.push((name.into(), value.into()));
        }
    });
    assert_eq!(by_variables.options.join(" "), "-E resize=9 -i 4096 -J size=32");
    let ext4 = with(|options| {
        options.mkfs_options = Some("-O x  -q".into());
        options.journal_size_mib = Some("32".into());
        options.max_online_resize = Some("9".into());
        options.envvars.push(("DIB_RELEASE".into(), "trusty".into()));
    });
    assert_eq!(ext4.options.join(" "), "-E resize=9 -O ^metadata_csum -i 4096 -J size=32 -O x -q");
    let xfs = with(|options| {
        options.fs_type = Some("xfs".into());
        options.root_label = Some("label".into());
    });
    assert_eq!((xfs.options.len(), xfs.label.as_deref()), (0, Some("label")));
    // UUIDs are stable for the same input, and differ between images.
    assert_eq!(with(|_| ()).uuid, with(|_| ()).uuid);
    assert_ne!(with(|_| ()).uuid, with(|options| options.name = "other".into()).uuid);
}

#[test]
fn the_block_device_configuration_that_counts() {
    let small = Small::new();
    let origin = |change: &dyn Fn(&mut DibOptions)| {
        small.lower(|options| change(options)).unwrap().block_device_config
    };
    assert_eq!(origin(&|_| ()), ConfigOrigin::Fallback);
    let text = "- local_loop: {name: image0, mkfs: {name: mkfs_root, mount: {mount_point: /}}}";
    small.file("elements/extra/block-device-default.yaml", text);
    let element = small.located().elements[0].join("extra");
    assert_eq!(origin(&|_| ()), ConfigOrigin::Element(element.join("block-device-default.yaml")));
    small.file("elements/extra/block-device-arm64.yaml", text);
    assert_eq!(
        origin(&|options| options.arch = Some("arm64".into())),
        ConfigOrigin::Element(element.join("block-device-arm64.yaml"))
    );
    let variable = |value: &str| {
        let value = value.to_owned();
        move |options: &mut DibOptions| {
            options.envvars.push(("DIB_BLOCK_DEVICE_CONFIG".into(), value.clone()));
        }
    };
    assert_eq!(origin(&variable(text)), ConfigOrigin::Variable);
    let file = element.join("block-device-default.yaml");
    assert_eq!(origin(&variable(&format!("file://{}", file.display()))), ConfigOrigin::File(file));
    let error = small.lower(variable("file:///not/there")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the block-device configuration"));
}

#[test]
fn an_element_keeps_disks_below_the_current_directory_alone() {
    let small = Small::new();
    let config = |name: &str, directory: &str| {
        format!(
            "
- local_loop: {{name: image0, mkfs: {{name: mkfs_root, mount: {{mount_point: /}}}}}}
- local_loop: {{name: '{name}', size: 1MiB, directory: '{directory}'}}
"
        )
    };
    let of_element = |text: String| {
        small.file("elements/extra/block-device-default.yaml", &text);
        small.lower(|_| ()).map(|lowered| image_paths(&lowered.plan))
    };
    assert_eq!(of_element(config("data", "a/b")).unwrap()[1], "a/b/data.raw");
    for directory in ["/etc", "..", "a/../../b"] {
        let error = of_element(config("data", directory)).unwrap_err();
        assert!(error.to_string().contains("not below the current directory"), "{error}");
        assert!(error.hints().concat().contains("DIB_BLOCK_DEVICE_CONFIG"));
    }
    let error = of_element(config("../data", "a")).unwrap_err();
    assert!(error.to_string().contains("cannot name a disk"), "{error}");
    // The user may choose any directory.
    let own = small.lower(|options| {
        let text = config("data", "/srv");
        options.envvars.push(("DIB_BLOCK_DEVICE_CONFIG".into(), text));
    });
    assert_eq!(image_paths(&own.unwrap().plan)[1], "/srv/data.raw");
}

#[test]
fn an_element_that_another_overrides_is_not_in_the_machine() {
    let small = Small::new();
    let text = "less:\n";
    small.file("elements/extra/package-installs.yaml", text);
    let own = fs::canonicalize(small.root.path()).unwrap().join("own");
    fs::create_dir_all(own.join("extra")).unwrap();
    fs::write(own.join("extra/package-installs.yaml"), text).unwrap();
    let mut located = small.located();
    located.elements.insert(0, own.clone());
    let plan = lower(&options(&["os"]), &located).unwrap().plan;
    let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
    let files: Vec<PathBuf> = steps
        .flat_map(Step::host_files)
        .filter(|path| path.ends_with("package-installs.yaml"))
        .cloned()
        .collect();
    assert!(!files.is_empty() && files.iter().all(|path| path.starts_with(&own)), "{files:?}");
}

#[test]
fn the_usage_report_is_made_when_it_is_asked_for() {
    let small = Small::new();
    let with = |variables: &[&str]| {
        let pairs = variables.iter().map(|name| ((*name).to_owned(), "1".to_owned()));
        print(&small.lower(|options| options.envvars.extend(pairs)).unwrap().plan)
    };
    assert!(!with(&[]).contains("image size report"));
    let report = "run image size report /build/dib_build.0/built";
    let plain = with(&["DIB_SHOW_IMAGE_USAGE"]);
    assert!(plain.contains(&format!("{report}\n")), "{plain}");
    let full = with(&["DIB_SHOW_IMAGE_USAGE", "DIB_SHOW_IMAGE_USAGE_FULL"]);
    assert!(full.contains(&format!("{report} full\n")), "{full}");
}

#[test]
fn an_architecture_reaches_scripts_as_it_was_written() {
    let small = Small::new();
    let refused = small.lower(|options| options.arch = Some("a \"b\" $c".into())).unwrap_err();
    assert!(refused.to_string().contains("is not an architecture"), "{refused}");
    let arch = "aarch64";
    let plan = small.lower(|options| options.arch = Some(arch.into())).unwrap().plan;
    assert_eq!(plan.architecture, plan::Architecture::Arm64);
    let mut phases = 0;
    for step in plan.stages.iter().flat_map(|stage| &stage.steps) {
        if let Step::RunParts(parts) = step {
            let of_arch = parts.env.iter().find(|(name, _)| name == "ARCH").unwrap();
            assert_eq!(of_arch.1, Value::Text(arch.into()), "{}", parts.directory);
            phases += 1;
        }
    }
    assert_eq!(phases, crate::Phase::ALL.len());
}

#[test]
fn data_disks_keep_their_raw_file_where_they_say() {
    let small = Small::new();
    let plan = small
        .lower(|options| {
            let config = "
- local_loop: {name: image0, mkfs: {name: mkfs_root, mount: {mount_point: /}}}
- local_loop: {name: data, size: 1000B, directory: disks, mkfs: {type: ext4}}
- local_loop: {name: scratchpad, size: 1MiB}
";
            options.envvars.push(("DIB_BLOCK_DEVICE_CONFIG".into(), config.into()));
        })
        .unwrap()
        .plan;
    assert_eq!(image_paths(&plan), ["image.qcow2", "disks/data.raw"]);
    assert_eq!(plan.disks[2].size, DiskSize::Bytes(1024));
}

#[test]
fn shares_become_uploads() {
    let small = Small::new();
    let host = small.root.path().join("shared");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("key"), "k").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", host.join("link")).unwrap();
    let plan = small
        .lower(|options| {
            options.shares = vec![
                Share { host: host.clone(), guest: Some("/srv/s".into()) },
                Share { host: host.join("key"), guest: None },
            ];
        })
        .unwrap()
        .plan;
    // Links in a path that the user names are followed; links in the tree stay links.
    let entries = plan.stages[0].steps.iter().flat_map(Step::uploads);
    let link = entries.flat_map(|upload| &upload.entries).find(|entry| entry.path == "link");
    assert_eq!(link.unwrap().kind, plan::UploadKind::Symlink("/etc/passwd".into()));
    let uploads: Vec<(String, String)> = plan.stages[0]
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Upload(upload) if upload.what.starts_with("shared") => {
                Some((upload.to.to_string(), upload.entries[0].path.to_string()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        uploads,
        [
            ("/srv/s".to_owned(), "key".to_owned()),
            (fs::canonicalize(&host).unwrap().display().to_string(), "key".to_owned())
        ]
    );
    let error = small
        .lower(|options| {
            options.shares = vec![Share { host, guest: Some("relative".into()) }];
        })
        .unwrap_err();
    assert!(error.to_string().starts_with("--share: "), "{error}");
}

#[test]
fn faults_have_kinds_and_hints() {
    use crate::error::DibErrorKind;
    let small = Small::new();
    let fault = |change: fn(&mut DibOptions)| {
        let error = small.lower(change).unwrap_err();
        (error.to_string(), error.kind(), !error.hints().is_empty())
    };
    assert_eq!(
        fault(|options| options.elements.clear()),
        (
            "at least one distribution root element must be specified".into(),
            DibErrorKind::Usage,
            false
        )
    );
    assert_eq!(
        fault(|options| options.elements.push("nope".into())),
        ("Element 'nope' not found".into(), DibErrorKind::Recipe, true)
    );
    assert_eq!(
        fault(|options| options.formats = vec![format("docker", "tar", MadeFrom::Tree)]),
        (
            "docker: a target was not specified, use ‘--docker-target’".into(),
            DibErrorKind::Usage,
            false
        )
    );
}

#[test]
fn no_network_is_no_network_and_offline() {
    let small = Small::new();
    let plan = small.lower(|options| options.no_network = true).unwrap().plan;
    assert!(plan.stages.iter().all(|stage| !stage.network));
    let offline = plan.stages.iter().flat_map(|stage| &stage.steps).find_map(|step| match step {
        Step::RunParts(parts) => {
            parts.env.iter().find(|(name, _)| name == "DIB_OFFLINE").map(|(_, v)| v.clone())
        }
        _ => None,
    });
    assert_eq!(offline, Some(Value::Text("1".into())));
}

#[test]
fn an_excluded_element_leaves_its_dependencies() {
    let small = Small::new();
    let lowered = small
        .lower(|options| {
            options.exclude_elements = vec!["os".into(), "unknown".into()];
        })
        .unwrap();
    assert_eq!(lowered.elements, ["base", "extra"]);
}

#[test]
fn every_block_device_element_of_the_real_release() {
    let Some(located) = crate::real::located() else { return };
    let expected = [
        ("block-device-mbr", "partitioning_image0 mkfs_root mount_mkfs_root"),
        ("block-device-gpt", "partitioning_image0 mkfs_root mount_mkfs_root"),
        (
            "block-device-efi",
            "partitioning_image0 mkfs_ESP mkfs_root mount_mkfs_root mount_mkfs_ESP",
        ),
        (
            "block-device-efi-4k",
            "partitioning_image0 mkfs_ESP mkfs_root mount_mkfs_root mount_mkfs_ESP",
        ),
        (
            "block-device-efi-lvm",
            "partitioning_image0 mkfs_ESP pv vg lv_root lv_var lv_home fs_root fs_var fs_home \
             mount_fs_root mount_mkfs_ESP mount_fs_home mount_fs_var",
        ),
    ];
    for (element, nodes) in expected {
        let options = DibOptions {
            formats: vec![qcow2()],
            ..options(&["debian", "vm", element, "devuser", "growroot"])
        };
        let lowered = lower(&options, &located).unwrap();
        assert_eq!(plan::check(&lowered.plan), [], "{element}");
        let layout = lowered.plan.stage("layout").unwrap();
        let Step::CreateLayout(layout) = &layout.steps[0] else { panic!() };
        let names: Vec<&str> = layout.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names.join(" "), nodes, "{element}");
        let block_bytes = if element.ends_with("4k") { 4096 } else { 512 };
        assert_eq!(lowered.plan.disks[1].block_bytes, block_bytes, "{element}");
    }
}

#[test]
fn the_real_clash_of_modprobe_elements_is_found() {
    let Some(located) = crate::real::located() else { return };
    let error = lower(&options(&["debian-minimal", "modprobe-blacklist"]), &located).unwrap_err();
    assert_eq!(
        error.to_string(),
        "There is a duplicated hook in your elements: install.d/80-modprobe-blacklist in: \
         modprobe modprobe-blacklist"
    );
}

#[test]
fn later_phases_are_not_part_of_earlier_stages() {
    let Some(located) = crate::real::located() else { return };
    let lowered = lower(&options(&["debian-minimal", "vm"]), &located).unwrap();
    for (index, stage) in lowered.plan.stages.iter().enumerate() {
        for path in stage.steps.iter().flat_map(Step::host_files) {
            let path = path.display().to_string();
            let Some(phase) = crate::Phase::ALL
                .into_iter()
                .find(|phase| path.contains(&format!("/{}/", phase.directory())))
            else {
                continue;
            };
            let own = lowered.plan.stages.iter().position(|s| s.name == phase.directory());
            assert_eq!(own, Some(index), "{path} is put in stage {}", stage.name);
        }
    }
}
