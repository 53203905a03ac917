//! Tests of the grammar: on our own examples, and against the original layer if Python can run it.

use std::{fs, path::Path, process::Command};

use expect_test::{Expect, expect};
use plan::{LvSize, NodeKind, Placing, Size};

use super::*;
use crate::real::release;

fn root() -> RootParameters {
    RootParameters { fstype: "ext4".into(), label: None, options: "-i 4096".into() }
}

fn configuration(text: &str) -> Result<Configuration, BlockDeviceError> {
    let mut configuration = Configuration::parse(text)?;
    configuration.merge_root(&root());
    Ok(configuration)
}

fn lower(text: &str) -> Result<BlockDevices, BlockDeviceError> {
    configuration(text)?.lower(None, &|node| format!("uuid-of-{node}"))
}

fn size(size: Size) -> String {
    match size {
        Size::Bytes(bytes) => format!("{bytes}B"),
        Size::Percent(percent) => percent.to_string(),
        other => format!("{other:?}"),
    }
}

/// Prints a layout, one line per node.
fn print(devices: &BlockDevices) -> String {
    let mut lines: Vec<String> = devices.disks.iter().map(|disk| format!("{disk:?}")).collect();
    for node in &devices.layout.nodes {
        lines.push(format!("{}: {}", node.name, kind(&node.kind)));
        if let NodeKind::Table(table) = &node.kind {
            lines.extend(table.partitions.iter().map(|part| {
                let flags = [(part.boot, " boot"), (part.primary, " primary")];
                let flags: String =
                    flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
                format!("  {} {} type {}{flags}", part.name, size(part.size), part.type_code)
            }));
        }
    }
    lines.join("\n") + "\n"
}

fn kind(kind: &NodeKind) -> String {
    match kind {
        NodeKind::Table(table) => {
            let Placing::InOrder { align } = table.placing else { panic!("{table:?}") };
            format!("{:?} on {} align {align}", table.label, table.disk)
        }
        NodeKind::LogicalVolume(volume) => {
            let size = match &volume.size {
                LvSize::Bytes(bytes) => format!("{bytes}B"),
                LvSize::Extents(extents) => extents.clone(),
            };
            format!(
                "lv in {} {size} pool={} {:?}",
                volume.group, volume.is_thin_pool, volume.thin_pool
            )
        }
        NodeKind::Filesystem(fs) => format!(
            "{} on {} label {:?} uuid {:?} {:?}",
            fs.fstype, fs.base, fs.label, fs.uuid, fs.options
        ),
        NodeKind::Mount(mount) => {
            let fstab = mount
                .fstab
                .as_ref()
                .map(|entry| format!(" fstab {} {} {}", entry.options, entry.dump, entry.pass));
            format!("{} at {}{}", mount.base, mount.mount_point, fstab.unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}

fn check(text: &str, expected: &Expect) {
    let devices = lower(text).unwrap();
    let disks: Vec<&str> = devices.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(devices.layout.check(&disks), []);
    expected.assert_eq(&print(&devices));
}

fn fails(text: &str) -> String {
    lower(text).unwrap_err().to_string()
}

/// A configuration of a disk, a table of `kind` with these partitions, and a root filesystem.
fn table(kind: &str, partitions: &str) -> String {
    format!(
        "- local_loop: {{name: image0}}\n- partitioning:\n    base: image0\n    \
         label: {kind}\n    partitions:\n{partitions}"
    )
}

const ROOT: &str =
    "      - {name: root, size: 100%, flags: [primary], mkfs: {mount: {mount_point: /}}}\n";

#[test]
fn a_tree_with_everything() {
    check(
        "
- local_loop: {name: image0}
- local_loop: {name: data, size: 2GiB, block_size: 4096, directory: out,
               mkfs: {type: xfs, mount: {mount_point: /srv}}}
- partitioning:
    base: image0
    label: mbr
    align: 2MiB
    partitions:
      - {name: boot, size: 512MiB, flags: [boot, primary], type: '0x41',
         mkfs: {type: ext3, mount: {mount_point: /boot, fstab: {options: nodev}}}}
      - {name: swap, size: 1G, mkfs: {type: swap, opts: -f, mount: {mount_point: swap, fstab: {}}}}
      - {name: root, size: 33.5%, mkfs: {label: the-root, mount: {mount_point: /, fstab: {fsck-passno: 1}}}}
      - {name: efi, size: 8MiB, mkfs: {type: vfat, name: esp, mount: {mount_point: boot/efi}}}
",
        &expect![[r#"
            DiskDeclaration { name: "image0", bytes: None, block_bytes: 512, directory: None }
            DiskDeclaration { name: "data", bytes: Some(2147483648), block_bytes: 4096, directory: Some("out") }
            partitioning_image0: Mbr on image0 align 2097152
              boot 536870912B type 41 boot primary
              swap 1000000000B type 83
              root 33.5% type 83
              efi 8388608B type 83
            mkfs_data: xfs on data label Some("mkfs_data") uuid Some("uuid-of-mkfs_data") []
            mkfs_boot: ext3 on boot label Some("mkfs_boot") uuid Some("uuid-of-mkfs_boot") []
            mkfs_swap: swap on swap label Some("mkfs_swap") uuid Some("uuid-of-mkfs_swap") []
            mkfs_root: ext4 on root label Some("the-root") uuid Some("uuid-of-mkfs_root") ["-i", "4096"]
            mount_mkfs_root: mkfs_root at / fstab defaults 0 1
            esp: vfat on efi label Some("ESP") uuid None []
            mount_mkfs_boot: mkfs_boot at /boot fstab nodev 0 2
            mount_mkfs_data: mkfs_data at /srv
            mount_esp: esp at /boot/efi
            mount_mkfs_swap: mkfs_swap at none fstab sw 0 0
        "#]],
    );
}

#[test]
fn volumes_and_thin_volumes() {
    check(
        &(table(
            "gpt",
            "      - {name: ESP, size: 550MiB, type: EF00}\n      - {name: pvs, size: 40G}\n",
        ) + "
- lvm:
    base: [pvs]
    pvs: [{name: pv, base: pvs, options: [--force]}]
    vgs: [{name: vg, base: [pv]}]
    lvs:
      - {name: pool, base: vg, type: thin-pool, size: 30G}
      - {name: lv_root, base: vg, type: thin, thin-pool: pool, size: 1800M, options: -y}
      - {name: lv_var, base: vg, extents: 20%VG}
- mkfs: {name: mkfs_root, base: lv_root, type: xfs, mount: {mount_point: /}}
- mkfs: {base: lv_var, type: btrfs, uuid: '1-2', mount: {mount_point: /var}}
"),
        &expect![[r#"
            DiskDeclaration { name: "image0", bytes: None, block_bytes: 512, directory: None }
            partitioning_image0: Gpt on image0 align 1048576
              ESP 576716800B type EF00
              pvs 40000000000B type 8300
            pv: PhysicalVolume { base: "pvs", options: ["--force"] }
            vg: VolumeGroup { bases: ["pv"], options: [] }
            pool: lv in vg 29997662208B pool=true None
            lv_root: lv in vg 1799356416B pool=false Some("pool")
            lv_var: lv in vg 20%VG pool=false None
            mkfs_root: xfs on lv_root label Some("img-rootfs") uuid Some("uuid-of-mkfs_root") ["-i", "4096"]
            mkfs_lv_var: btrfs on lv_var label Some("mkfs_lv_var") uuid Some("1-2") []
            mount_mkfs_root: mkfs_root at /
            mount_mkfs_lv_var: mkfs_lv_var at /var
        "#]],
    );
}

#[test]
fn containers_and_arrays() {
    check(
        "
- local_loop: {name: image0}
- local_loop: {name: image1, size: 1GiB}
- partitioning: {base: image0, label: gpt, partitions: [{name: a, size: 1GiB}]}
- partitioning: {base: image1, label: gpt, partitions: [{name: b, size: 100%}]}
- md:
    name: mirror
    base: [a, b]
    level: 1
    luks:
      name: crypt
      passphrase: secret
      options: [--type, luks1]
      mkfs: {name: mkfs_root, mount: {mount_point: /}}
",
        &expect![[r#"
            DiskDeclaration { name: "image0", bytes: None, block_bytes: 512, directory: None }
            DiskDeclaration { name: "image1", bytes: Some(1073741824), block_bytes: 512, directory: None }
            partitioning_image0: Gpt on image0 align 1048576
              a 1073741824B type 8300
            partitioning_image1: Gpt on image1 align 1048576
              b 100% type 8300
            mirror: Md(MdArray { bases: ["a", "b"], level: "1", metadata: "1.0" })
            crypt: Luks(Luks { base: "mirror", passphrase: "secret", options: ["--type", "luks1"] })
            mkfs_root: ext4 on crypt label Some("cloudimg-rootfs") uuid Some("uuid-of-mkfs_root") ["-i", "4096"]
            mount_mkfs_root: mkfs_root at /
        "#]],
    );
}

#[test]
fn faults_of_entries() {
    let cases = [
        ("", "the block-device configuration is empty"),
        ("a: b", "Config entry not a dict: a"),
        ("- x", "Config entry not a dict: x"),
        (
            "- {mkfs: {name: a}, mount: {name: b}}",
            "Config entry top-level should be a single dict: \
             {'mkfs': {'name': 'a'}, 'mount': {'name': 'b'}}",
        ),
        (
            "- {zzz: {foo: bar, n: 1}}",
            "Config entry is not a plugin value: {'zzz': {'foo': 'bar', 'n': 1}}",
        ),
        ("- mkfs: {name: x, base: y, type: ext4}", "Edge not defined: y->x"),
        (
            "- local_loop: {name: x, size: 1X}",
            "`x`: `size` is `1X`: unit_str [X] not known (TiB, GiB, MiB and KiB count by 1024; TB, \
             GB, MB, KB and T, G, M, K by 1000; B and no unit are bytes)",
        ),
        (
            "- local_loop: {name: x, block_size: 520}",
            "`x`: `block_size` is `520`, which is neither 512 nor 4096",
        ),
        (
            "- local_loop: {name: x, mkfs: {type: xfs, label: longer-than-12}}",
            "Label [longer-than-12] too long for filesystem [xfs]: 14 > 12",
        ),
        (
            "- local_loop: {name: x, mkfs: {type: ext4, label: l}}\n\
             - local_loop: {name: y, mkfs: {type: ext4, label: l}}",
            "File system label [l] used more than once",
        ),
        (
            "- local_loop: {name: x, mkfs: {type: ext4, mount: {mount_point: /}}}\n\
             - local_loop: {name: y, mkfs: {type: ext4, mount: {mount_point: /}}}",
            "Mount point [/] specified more than once",
        ),
        ("- local_loop: {name: x}\n- local_loop: {name: x}", "Duplicate node name: x"),
        (
            "- local_loop: {name: x, mount: {mount_point: /}}",
            "`mount_x` is based on `x`, which is not a filesystem",
        ),
        (
            "- local_loop: {name: x, mkfs: {type: ext4, mkfs: {type: xfs}}}",
            "`mkfs_mkfs_x` is based on `mkfs_x`, which is not a block device",
        ),
        (
            "- luks: {name: a, base: b, passphrase: p}\n- luks: {name: b, base: a, passphrase: p}",
            "the block-device configuration has a cycle through `a`",
        ),
        (
            "- local_loop: {name: x}",
            "the block-device configuration has no local_loop named `image0`",
        ),
        ("- local_loop: {name: x, luks: {}}", "Luks config needs [passphrase]"),
        ("- md: {name: x, level: 1}", "Md config needs [base]"),
        ("[", "the block-device configuration is not YAML: "),
    ];
    for (text, message) in cases {
        let found = fails(text);
        if message.ends_with(": ") {
            assert!(found.starts_with(message), "{text}: {found}");
        } else {
            assert_eq!(found, message, "{text}");
        }
    }
}

#[test]
fn what_entries_need() {
    let cases = [
        ("- mkfs: ext4", "`mkfs` needs settings, found 'ext4'"),
        ("- mkfs: {type: ext4}", "`mkfs` needs a `name`, as it has no `base`"),
        ("- mkfs: {name: x, type: ext4}", "Mkfs config needs [base]"),
        ("- mkfs: {name: x, base: y}", "Mkfs config needs [type]"),
        ("- mount: {name: x, base: y}", "MountPoint config needs [mount_point]"),
    ];
    for (text, message) in cases {
        assert_eq!(fails(text), message, "{text}");
    }
}

#[test]
fn faults_of_tables() {
    let cases = [
        ("gtp", ROOT, "Label must be 'mbr' or 'gpt'"),
        ("gpt", ROOT, "Primary flag not supported for GPT partitions"),
        ("mbr", "      - {name: a, size: 1, flags: [active]}\n", "Unknown flag: active"),
        ("mbr", "      - {name: a}\n", "No size in partition a"),
        ("mbr", "      - {size: 1}\n", "partition without a name: {'size': 1}"),
        (
            "mbr",
            "      - {name: a, size: 1}\n      - {name: b, size: 1, flags: [primary]}\n",
            "All primary partitions must be given first",
        ),
        ("mbr", "      - {name: a, size: 1, type: EF00}\n", "`a`: `type` cannot be EF00"),
        ("mbr", "      - {name: image0, size: 1}\n", "Duplicate node name: image0"),
    ];
    for (label, partitions, message) in cases {
        assert_eq!(fails(&table(label, partitions)), message);
    }
    let needs =
        |text: &str| fails(&format!("- local_loop: {{name: image0}}\n- partitioning: {text}"));
    assert_eq!(needs("{name: x, label: mbr, partitions: []}"), "Partitioning config needs 'base'");
    assert_eq!(needs("{base: image0, label: mbr}"), "Partitioning config needs 'partitions'");
    assert_eq!(needs("{base: image0, partitions: []}"), "Partitioning config needs 'label'");
    assert_eq!(
        fails(&table("mbr", ROOT).replace("{name: image0}", "{name: image0, block_size: 4096}")),
        "`partitioning_image0`: an mbr partition table needs blocks of 512 bytes"
    );
}

#[test]
fn faults_of_volumes() {
    let lvm = |text: &str| {
        fails(&format!("- local_loop: {{name: image0}}\n- lvm: {{name: lvm, {text}}}"))
    };
    let pvs = "pvs: [{name: pv, base: image0}]";
    let vgs = "vgs: [{name: vg, base: [pv]}]";
    let cases = [
        ("x: 1".to_owned(), "Lvm config requires a 'pvs'"),
        (pvs.to_owned(), "Lvm config needs 'vgs'"),
        (format!("{pvs}, {vgs}"), "Lvm config needs 'lvs'"),
        ("pvs: [{}], vgs: [], lvs: []".into(), "Missing 'name' in pvs config"),
        ("pvs: [{name: a}], vgs: [], lvs: []".into(), "Missing 'base' in pvs_config"),
        (format!("{pvs}, vgs: [{{}}], lvs: []"), "Missing 'name' in vgs config"),
        (format!("{pvs}, vgs: [{{name: vg}}], lvs: []"), "Missing 'base' in vgs config"),
        (
            format!("{pvs}, vgs: [{{name: vg, base: [px]}}], lvs: []"),
            "base:px in vgs does not match a valid pvs",
        ),
        (format!("{pvs}, {vgs}, lvs: [{{}}]"), "Missing 'name' in lvs config"),
        (format!("{pvs}, {vgs}, lvs: [{{name: l}}]"), "Missing 'base' in lvs config"),
        (
            format!("{pvs}, {vgs}, lvs: [{{name: l, base: vg}}]"),
            "Missing 'size' or 'extents' in lvs config",
        ),
        (
            format!("{pvs}, {vgs}, lvs: [{{name: l, base: vx, size: 1G}}]"),
            "base:vx in lvs does not match a valid vg",
        ),
        (
            format!("{pvs}, {vgs}, lvs: [{{name: l, base: vg, size: 1G, type: raid}}]"),
            "Unsupported type:raid, supported types: thin, thin-pool",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(lvm(&text), message, "{text}");
    }
}

#[test]
fn the_root_filesystem_gets_the_options_and_no_other() {
    let text = "
- local_loop: {name: image0, mkfs: {name: mkfs_root, mount: {mount_point: /}}}
- local_loop: {name: data, mkfs: {type: ext4, mount: {mount_point: /data}}}
";
    let merged = |root: &RootParameters| {
        let mut configuration = Configuration::parse(text).unwrap();
        configuration.merge_root(root);
        (
            configuration.symbols().unwrap(),
            print(&configuration.lower(None, &|_| "u".into()).unwrap()),
        )
    };
    let (symbols, layout) = merged(&root());
    assert_eq!(symbols.root_label, "cloudimg-rootfs");
    assert_eq!(symbols.mount_points, ["/", "/data"]);
    assert!(layout.contains("mkfs_root: ext4 on image0 label Some(\"cloudimg-rootfs\") uuid Some(\"u\") [\"-i\", \"4096\"]"), "{layout}");
    assert!(
        layout.contains("mkfs_data: ext4 on data label Some(\"mkfs_data\") uuid Some(\"u\") []"),
        "{layout}"
    );
    let xfs = RootParameters { fstype: "xfs".into(), ..root() };
    assert_eq!(merged(&xfs).0.root_label, "img-rootfs");
    let named = RootParameters { label: Some("mine".into()), ..xfs };
    assert_eq!(merged(&named).0.root_label, "mine");
}

#[test]
fn symbols_need_a_root() {
    let configuration = configuration("- local_loop: {name: image0}").unwrap();
    assert_eq!(configuration.symbols(), Err(BlockDeviceError::NoRoot));
}

#[test]
fn the_real_layer_agrees() {
    let Some(package) = release() else { return };
    let mut files = yaml_files(&package.join("block_device/tests/config"));
    let elements = fs::read_dir(package.join("elements")).unwrap();
    files.extend(elements.flat_map(|element| yaml_files(&element.unwrap().path())));
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !path.starts_with(package.join("elements")) || name.starts_with("block-device-")
    });
    assert!(files.len() > 20, "{files:?}");
    let oracle = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/block_device_oracle.py");
    let python = Command::new("python3")
        .args([oracle.as_ref(), package.parent().unwrap()])
        .args(&files)
        .output();
    let output = match python {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("ModuleNotFoundError"), "{text}");
            println!("skipped: {}", text.lines().last().unwrap_or_default());
            return;
        }
        Err(error) => {
            println!("skipped: python3: {error}");
            return;
        }
    };
    assert_eq!(output.lines().count(), files.len());
    for (file, line) in files.iter().zip(output.lines()) {
        compare(file, &serde_json::from_str(line).unwrap());
    }
}

fn yaml_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

/// Compares one configuration with the recorded result of the original layer.
fn compare(file: &Path, real: &serde_json::Value) {
    let name = file.display();
    let text = fs::read_to_string(file).unwrap();
    let ours = configuration(&text).and_then(|configuration| {
        let graph = graph::Graph::build(&configuration.entries, None)?;
        let order: Vec<String> =
            graph.order()?.into_iter().map(|at| graph.nodes[at].name.clone()).collect();
        Ok((configuration, order))
    });
    let (configuration, order) = match (ours, real.get("error")) {
        (Ok(ours), None) => ours,
        (Err(error), Some(message)) => {
            assert_eq!(error.to_string(), message.as_str().unwrap(), "{name}");
            return;
        }
        // The original rejects a GPT type on an MBR later, when it writes the table.
        (Err(error), None) => {
            assert_eq!(error.to_string(), "`ESP`: `type` cannot be EF00", "{name}");
            return;
        }
        (Ok(_), Some(message)) => panic!("{name}: only the original says {message}"),
    };
    let ours = serde_json::Value::from(configuration.to_json());
    assert_eq!(ours, real["config"], "{name}");
    assert_eq!(serde_json::Value::from(order), real["order"], "{name}");
    let Ok(symbols) = configuration.symbols() else {
        assert!(real["symbols"].get("root-fstype").is_none(), "{name}");
        return;
    };
    for (symbol, value) in [
        ("root-label", symbols.root_label),
        ("root-fstype", symbols.root_fstype),
        ("boot-label", symbols.boot_label),
        ("mount-points", symbols.mount_points.join("|")),
    ] {
        // The original fails for a root filesystem without a label of its own.
        if let Some(real) = real["symbols"].get(symbol) {
            assert_eq!(Some(value.as_str()), real.as_str(), "{name}: {symbol}");
        } else {
            assert_eq!(symbol, "root-label", "{name}");
        }
    }
}
