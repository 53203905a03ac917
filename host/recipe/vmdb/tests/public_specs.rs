//! Behaviour that public specs rely on: files beside them, files that vmdb2 leaves in the tree,
//! keys that it ignores, and partitions wherever parted places them.

mod common;

use common::{show, try_prepare};
use vmdb::{FormatChoice, Options, Prepared};

/// The steps up to a filesystem mounted at `/`.
const HEAD: &str = "steps:
  - {mkimg: \"{{ output }}\", size: 64M}
  - {mklabel: msdos, device: \"{{ output }}\"}
  - {mkpart: primary, device: \"{{ output }}\", start: 1MiB, end: 100%, tag: root}
  - {mkfs: ext4, partition: root}
  - {mount: root}
";

fn prepared(
    tail: &str,
    files: &[(&str, &str)],
    change: impl FnOnce(&mut Options),
) -> Result<Prepared, String> {
    try_prepare(&format!("{HEAD}{tail}"), files, change)
}

const SHELL: &str = "  - {shell: cp skel/fstab $ROOT/etc, root-fs: root}\n";

fn with_folder(options: &mut Options) {
    options.shares_folder = true;
}

#[test]
fn shell_steps_work_in_the_folder_of_the_spec() {
    let files = [("skel/fstab", "x"), ("out.img", "old"), (".config", "y")];
    let again = "  - {shell: ls, root-fs: root}\n";
    let prepared = prepared(&format!("{SHELL}{again}"), &files, with_folder).unwrap();
    let shown = show(&prepared);
    let upload = "  upload to /build/vmdb/spec
    .config: file 644 1 bytes
    skel: directory 755
    skel/fstab: file 644 1 bytes
    spec.vmdb: file 644 ";
    assert!(shown.contains(&format!("06-shell-files in -\n{upload}")), "{shown}");
    assert_eq!(shown.matches("upload to").count(), 1, "{shown}");
    assert!(shown.contains("bound read only /build/vmdb/spec -> /build/spec"), "{shown}");
    // If the directory is writable, the image is available by its name.
    assert!(
        shown.contains("skel/fstab $ROOT/etc\" /build/vmdb/spec out.img <device.image>"),
        "{shown}"
    );
    let notes = &prepared.lowered.notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("(4 entries), read only") && notes[0].contains("--no-share-spec"));
    let other = prepared.lowered.plan.stages.iter().filter(|s| !s.name.ends_with("-shell"));
    assert!(other.flat_map(|stage| &stage.context.binds).next().is_none());
}

#[test]
fn the_folder_of_a_spec_is_kept_away_where_it_is_more_than_that() {
    let seen = |change: &dyn Fn(&mut Options)| {
        let files = [("skel/fstab", "x"), ("home/user/file", "x")];
        let prepared = prepared(SHELL, &files, |options| {
            options.shares_folder = true;
            change(options);
        });
        let prepared = prepared.unwrap();
        let shown = show(&prepared);
        assert!(!shown.contains("/build/vmdb/spec"), "{shown}");
        assert!(shown.contains("mkdir /build/spec 755"), "{shown}");
        prepared.lowered.notes.join("\n")
    };
    assert_eq!(seen(&|options| options.shares_folder = false), "");
    // A home or a directory for temporary files, and a directory that contains one.
    for below in ["", "home/user"] {
        let notes = seen(&|options| options.broad = vec![options.directory.join(below)]);
        assert!(notes.contains("put the spec into a folder of its own"), "{notes}");
    }
}

#[test]
fn what_is_shared_is_there_before_the_first_command() {
    let share = |guest: &str| {
        let guest = guest.to_owned();
        move |options: &mut Options| {
            options.shares_folder = true;
            let host = options.directory.join("skel");
            options.shares = vec![vmdb::Share { host, guest }];
        }
    };
    let files = [("skel/fstab", "x")];
    let own = prepared(SHELL, &files, share("/build/spec")).unwrap();
    let shown = show(&own);
    assert!(shown.contains("upload to /build/spec\n    fstab: file 644 1 bytes"), "{shown}");
    assert!(!shown.contains("/build/vmdb/spec") && own.lowered.notes.is_empty(), "{shown}");
    let other = show(&prepared(SHELL, &files, share("/srv/skel")).unwrap());
    assert!(
        other.contains("upload to /srv/skel\n") && other.contains("upload to /build/vmdb/spec")
    );
    let unseen = prepared("", &files, share("/srv/skel")).unwrap();
    assert!(unseen.lowered.notes[0].contains("only `shell` and `ansible` steps see"), "{unseen:?}");
    let missing = prepared(SHELL, &[], share("/srv/skel")).unwrap_err();
    assert!(missing.starts_with("--share: "), "{missing}");
}

#[test]
fn what_vmdb2_leaves_in_the_tree_is_there_and_gone_in_the_end() {
    let give = "/build/vmdb/lent/build/image/root";
    let tail = "  - {debootstrap: bookworm, mirror: http://m, target: root}
  - {cache-rootfs: root}
  - {shell: rm $ROOT/etc/resolv.conf, root-fs: root}
";
    let tarball = |options: &mut Options| options.rootfs_tarball = Some("root.tgz".into());
    let shown = show(&prepared(tail, &[], tarball).unwrap());
    let order = [
        "remove /build/image/root/etc/resolv.conf",
        &format!("give /build/image/root {give} resolv.conf hostname"),
        &format!("hide /build/image/root {give}"),
        "export /build/image/root as tgz root.tgz",
        &format!("show /build/image/root {give}"),
        "rm $ROOT/etc/resolv.conf",
        "finish in -",
        &format!("take /build/image/root {give}"),
        "  trim",
    ];
    let mut rest = shown.as_str();
    for part in order {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part} in its place in {shown}"));
        rest = &rest[at + part.len()..];
    }
    let unpacked = prepared("  - {unpack-rootfs: root}\n", &[("root.tgz", "x")], tarball).unwrap();
    let shown = show(&unpacked);
    assert!(shown.contains(&format!("give /build/image/root {give} resolv.conf\n")), "{shown}");
    // If nothing was lent to a tree, nothing needs removing.
    assert!(!show(&prepared("", &[], tarball).unwrap()).contains("lent"));
}

#[test]
fn keys_that_vmdb2_passes_over_name_the_option_that_does_so_too() {
    for tail in [
        "  - {create-file: /x, contents: y, trailing-newline: '1'}\n",
        "  - {echo: x, unless: never_set}\n",
        "mirror: x\n",
    ] {
        let error = prepared(tail, &[], |_| ()).unwrap_err();
        assert!(error.contains("`--lenient` takes the spec as vmdb2 does"), "{error}");
        let lenient = prepared(tail, &[], |options| options.lenient = true).unwrap();
        assert_eq!(lenient.lowered.warnings.len(), 1, "{tail}");
    }
    // Faults that vmdb2 refuses too are not ignored.
    let error = prepared("  - {create-file: /x}\n", &[], |_| ()).unwrap_err();
    assert!(!error.contains("--lenient"), "{error}");
}

#[test]
fn a_key_that_holds_an_anchor_is_no_mistake() {
    for (head, step) in [
        ("common: &n {echo: built}\n", "*n"),
        ("parts:\n- &a {echo: a}\n- &b {echo: b}\n", "*a"),
        (".defaults: {deep: [&t text]}\n", "{echo: *t}"),
        ("merged: &m {echo: x}\n", "{<<: *m, teardown: y}"),
    ] {
        let text = format!("{head}{HEAD}  - {step}\n");
        let prepared = try_prepare(&text, &[], |_| ()).unwrap();
        assert!(prepared.lowered.warnings.is_empty(), "{head}");
    }
    // A key that only uses an anchor does not define it.
    let text = format!("a: &n {{echo: x}}\nb: *n\n{HEAD}");
    let error = try_prepare(&text, &[], |_| ()).unwrap_err();
    assert!(error.contains("unknown key 'b'") && !error.contains("'a'"), "{error}");
}

/// The complaints about partitions: label, disk size, and kind, start and end of each.
fn complaint(label: &str, size: &str, parts: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "steps:\n- {{mkimg: out.img, size: {size}}}\n- {{mklabel: {label}, device: out.img}}\n"
    );
    for (kind, start, end) in parts {
        let place = format!("start: \"{start}\", end: \"{end}\"");
        text.extend(["- {mkpart: ", kind, ", device: out.img, ", &place, "}\n"]);
    }
    let error = try_prepare(&text, &[], |_| ()).err().unwrap_or_default();
    error.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn impossible_tables_are_refused_at_the_step_that_asks_for_them() {
    let primary = ("primary", "10M", "20M");
    let five = [
        primary,
        ("primary", "20M", "30M"),
        ("primary", "30M", "40M"),
        ("primary", "40M", "50M"),
        ("primary", "50M", "60M"),
    ];
    for (label, size, parts, step, reason) in [
        ("msdos", "100M", &five[..], "step 7 (mkpart)", "4 primary partitions at most"),
        (
            "msdos",
            "3T",
            &[("primary", "0%", "100%")],
            "step 3 (mkpart)",
            "beyond the 4294967295 sectors",
        ),
        (
            "msdos",
            "100M",
            &[("extended", "1MiB", "50%"), ("extended", "50%", "100%")],
            "step 4 (mkpart)",
            "an extended partition already",
        ),
        ("msdos", "100M", &[("logical", "1MiB", "50%")], "step 3 (mkpart)", "there is none yet"),
        (
            "msdos",
            "100M",
            &[("extended", "1MiB", "50%"), ("logical", "60%", "70%")],
            "step 4 (mkpart)",
            "which the extended partition leaves free",
        ),
        (
            "gpt",
            "100M",
            &[primary, ("primary", "15M", "30M")],
            "step 4 (mkpart)",
            "overlaps the partition",
        ),
        (
            "gpt",
            "100M",
            &[("primary", "33s", "100s")],
            "step 3 (mkpart)",
            "which the table leaves free",
        ),
        ("gpt", "100M", &[("primary", "20M", "10M")], "step 3 (mkpart)", "before the start"),
        ("gpt", "100M", &[("primary", "20M", "200M")], "step 3 (mkpart)", "outside of the disk"),
        ("gpt", "100M", &[("primary", "1P", "200M")], "step 3 (mkpart)", "TB (powers of 1000)"),
        ("gpt", "16K", &[], "step 2 (mklabel)", "too small for a gpt label"),
    ] {
        let shown = complaint(label, size, parts);
        assert!(
            shown.contains(step) && shown.contains(reason),
            "{label} {size} {parts:?}: {shown}"
        );
    }
}

#[test]
fn extended_partitions_and_those_made_out_of_order_are_in_the_table() {
    let text = "steps:
- {mkimg: out.img, size: 100M}
- {mklabel: msdos, device: out.img}
- {mkpart: primary, device: out.img, start: 50%, end: 100%}
- {mkpart: extended, device: out.img, start: 1MiB, end: 50%}
- {mkpart: logical, device: out.img, start: 2MiB, end: 10MiB}
";
    let shown = show(&try_prepare(text, &[], |_| ()).unwrap());
    assert!(shown.contains("    extended 2 from 1048576 to 52428800\n"), "{shown}");
    assert!(shown.contains("image-part1 Some(52428800) EndAt(104857600)"), "{shown}");
    assert!(shown.contains("image-part3 Some(2097152) EndAt(10485760)"), "{shown}");
}

#[test]
fn formats_of_the_tree_are_made_of_what_is_mounted_at_the_root() {
    let trees = |options: &mut Options| {
        let tree = |name: &str, suffix: &str| FormatChoice {
            name: name.into(),
            suffix: suffix.into(),
            is_of_tree: true,
        };
        options.formats = vec![tree("docker", "docker.tar"), tree("tgz", "tgz")];
        options.docker_target = Some("a:1".into());
    };
    let prepared_trees = prepared("", &[], trees).unwrap();
    let shown = show(&prepared_trees);
    assert!(
        shown.contains("finish in -\n  export /build/image/root as docker out.docker.tar\n"),
        "{shown}"
    );
    assert!(shown.contains("  export /build/image/root as tgz out.tgz\n  trim\n"), "{shown}");
    assert!(prepared_trees.lowered.plan.outputs.images.is_empty(), "{shown}");
    let nothing = "steps:\n- {mkimg: \"{{ output }}\", size: 8M}\n";
    let error = try_prepare(nothing, &[], trees).unwrap_err();
    assert!(error.contains("no step mounts a filesystem at `/`"), "{error}");
}
