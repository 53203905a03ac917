//! Small plans for tests, which use every kind of step.

use std::path::Path;

use plan::{
    Context, Disk, DiskRole, DiskSize, FileSource, Filesystem, FstabEntry, GuestPath, ImageOutput,
    Layout, Mount, Node, NodeKind, Outputs, Partition, PartitionTable, Place, Placing, Plan, Run,
    RunParts, Size, Stage, Step, TableLabel, TreeOutput, Upload, UploadEntry, UploadKind,
};

pub const MIB: u64 = 1 << 20;

pub fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

pub fn plan(stages: Vec<Stage>) -> Plan {
    Plan {
        format_version: plan::FORMAT_VERSION,
        name: "test".into(),
        recipe: "test".into(),
        architecture: plan::Architecture::Amd64,
        disks: vec![
            disk("scratch", DiskRole::Scratch, 2048 * MIB),
            disk("image0", DiskRole::Target, 256 * MIB),
        ],
        stages,
        outputs: Outputs::default(),
        helper_at: path("/helper"),
    }
}

pub fn disk(name: &str, role: DiskRole, bytes: u64) -> Disk {
    Disk {
        name: plan::DiskName::new(name).unwrap(),
        role,
        size: DiskSize::Bytes(bytes),
        block_bytes: 512,
        base: None,
    }
}

pub fn stage(name: &str, context: Context, steps: Vec<Step>) -> Stage {
    Stage {
        name: name.into(),
        context,
        steps,
        network: false,
        keep: plan::Keep::Shared,
        timeout_s: None,
    }
}

/// Runs a shell script in the tools root.
pub fn sh(what: &str, script: &str) -> Step {
    Step::Run(Run {
        what: what.into(),
        place: Place::Tools,
        argv: ["/bin/bash", "-euc", script].map(Into::into).to_vec(),
        env: vec![
            ("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("LC_ALL".into(), "C".into()),
        ],
        environment: None,
        cwd: path("/"),
        stdin: None,
        capture: None,
    })
}

fn script(name: &str, text: &str) -> UploadEntry {
    UploadEntry {
        path: name.into(),
        kind: UploadKind::File {
            mode: 0o755,
            source: FileSource::Text(format!("#!/bin/bash\nset -eu\n{text}\n")),
        },
    }
}

/// Creates a tree with everything that copying loses easily, by phases of scripts; binds a cache
/// into it, copies it to partitioned disks, and exports it.
pub fn whole(tar: &Path, raw: &Path) -> Plan {
    let image = || Some(path("/build/mnt"));
    let mut plan = plan(vec![
        stage("prepare", Context::default(), vec![hooks()]),
        stage("root.d", Context::default(), vec![parts("root.d", Place::Tools)]),
        stage(
            "inside",
            Context { image_root: image(), image_system_mounts: true, ..Context::default() },
            vec![busybox(
                "touch /inside; test -e /proc/self/status; test -d /sys/kernel; test -c /dev/null",
            )],
        ),
        stage(
            "cached",
            Context { image_root: image(), ..Context::default() },
            vec![sh(
                "use the cache",
                "test -e /build/mnt/var/cache/thing/one && touch /build/mnt/var/cache/thing/two",
            )],
        ),
        stage(
            "layout",
            Context::default(),
            vec![
                sh("look", "test ! -e /build/mnt/var/cache/thing/one; test -e /build/cache/two"),
                layout(),
            ],
        ),
        stage(
            "copy",
            Context { layout_at: Some(path("/build/target")), ..Context::default() },
            vec![
                Step::CopyTree { from: path("/build/mnt"), to: path("/build/target") },
                Step::WriteFstab { path: path("/build/target/etc/fstab") },
            ],
        ),
        stage(
            "export",
            Context {
                layout_at: Some(path("/build/target")),
                image_root: Some(path("/build/target")),
                ..Context::default()
            },
            vec![
                Step::ExportTree {
                    root: path("/build/target"),
                    exclude: vec!["proc/*".into(), "sys/*".into()],
                    output: TreeOutput { format: "tar".into(), path: tar.to_owned(), target: None },
                },
                Step::Trim,
            ],
        ),
    ]);
    plan.outputs.overwrite = true;
    plan.outputs.images = vec![ImageOutput {
        disk: plan::DiskName::new("image0").unwrap(),
        format: "raw".into(),
        path: raw.to_owned(),
        compress: false,
        options: None,
    }];
    plan
}

fn hooks() -> Step {
    Step::Upload(Upload {
        what: "hooks".into(),
        to: path("/build/hooks"),
        entries: vec![
            UploadEntry { path: "environment.d".into(), kind: UploadKind::Directory(0o755) },
            UploadEntry {
                path: "environment.d/10-x.bash".into(),
                kind: UploadKind::File {
                    mode: 0o644,
                    source: FileSource::Text("export FROM_ENVIRONMENT=\"two words\"\n".into()),
                },
            },
            UploadEntry { path: "root.d".into(), kind: UploadKind::Directory(0o755) },
            script(
                "root.d/10-tree",
                r#"
mkdir -p $T/etc $T/bin $T/proc $T/sys $T/dev $T/var/cache/thing $T/boot
cp /bin/busybox $T/bin/busybox
for file in $(ldd /bin/busybox | grep -o '/[^ ]*'); do mkdir -p "$T${file%/*}"; cp "$file" "$T$file"; done
ln -s busybox $T/bin/touch
echo hello > $T/etc/one; ln $T/etc/one $T/etc/hard; ln -s one $T/etc/soft
chmod 4755 $T/bin/busybox; chown 12:34 $T/etc/one
mknod $T/dev-node c 1 3
truncate -s 16M $T/sparse; printf x | dd of=$T/sparse bs=1 seek=8000000 conv=notrunc status=none
touch $T/.dotfile
setfattr -n user.test -v value $T/etc/one
setcap_bytes=0100000200040000000000000000000000000000
setfattr -n security.capability -v 0x$setcap_bytes $T/bin/busybox
setfacl -m u:7:r $T/etc/soft
echo boot > $T/boot/kernel"#,
            ),
            script(
                "root.d/20-environment",
                r#"echo "$FROM_ENVIRONMENT" > $T/etc/environment-seen"#,
            ),
            script(
                "root.d/30-cache",
                "mkdir -p /build/cache; touch /build/cache/one; mount --bind /build/cache $T/var/cache/thing",
            ),
            script("root.d/9-first", "test ! -e $T/etc; mkdir -p $T"),
            UploadEntry {
                path: "root.d/99-not.a.script".into(),
                kind: UploadKind::File { mode: 0o755, source: FileSource::Text("exit 1".into()) },
            },
        ],
    })
}

fn parts(phase: &str, place: Place) -> Step {
    Step::RunParts(RunParts {
        phase: phase.into(),
        place,
        directory: path(&format!("/build/hooks/{phase}")),
        environment: Some(path("/build/hooks/environment.d")),
        env: vec![
            ("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("T".into(), "/build/mnt".into()),
        ],
        cwd: path("/"),
        origins: std::iter::once(("10-tree".to_owned(), "test-element".to_owned())).collect(),
        block_device_output: false,
        scripts: Vec::new(),
    })
}

fn busybox(script: &str) -> Step {
    let Step::Run(run) = sh("inside", "") else { unreachable!("sh makes a run") };
    Step::Run(Run {
        place: Place::Image,
        argv: ["/bin/busybox", "sh", "-euc", script].map(Into::into).to_vec(),
        env: vec![("PATH".into(), "/bin".into())],
        ..run
    })
}

fn layout() -> Step {
    let node = |name: &str, kind| Node { name: name.into(), kind };
    let partition = |name: &str, size| Partition {
        name: name.into(),
        start: None,
        size,
        type_code: "83".into(),
        boot: name == "root",
        primary: true,
    };
    let filesystem = |base: &str| {
        NodeKind::Filesystem(Filesystem {
            base: base.into(),
            fstype: "ext4".into(),
            label: Some(base.into()),
            uuid: None,
            options: Vec::new(),
        })
    };
    let mount = |base: &str, place: &str| {
        NodeKind::Mount(Mount {
            base: base.into(),
            mount_point: place.into(),
            fstab: Some(FstabEntry {
                options: "defaults".into(),
                dump: 0,
                pass: 1,
                by_uuid: false,
            }),
        })
    };
    Step::CreateLayout(Layout {
        nodes: vec![
            node(
                "table",
                NodeKind::Table(PartitionTable {
                    disk: "image0".into(),
                    label: TableLabel::Mbr,
                    placing: Placing::InOrder { align: MIB },
                    partitions: vec![
                        partition("boot", Size::Bytes(64 * MIB)),
                        partition("root", Size::Percent(plan::Percent::ALL)),
                    ],
                }),
            ),
            node("fs_boot", filesystem("boot")),
            node("fs_root", filesystem("root")),
            node("mount_root", mount("fs_root", "/")),
            node("mount_boot", mount("fs_boot", "/boot")),
        ],
    })
}
