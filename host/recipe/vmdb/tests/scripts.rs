//! Runs the scripts of the crate on directories of the host where possible. Those that set owners
//! need root.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
};

fn run(script: &str, arguments: &[&str]) -> Output {
    Command::new("sh").args(["-c", script, "script"]).args(arguments).output().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn is_root() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n");
    if !root {
        println!("skipped: not root");
    }
    root
}

fn image() -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for directory in ["etc/default", "var/log", "usr/lib"] {
        fs::create_dir_all(image.path().join(directory)).unwrap();
    }
    fs::write(image.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nwww:x:33:44::/:/bin/sh\n")
        .unwrap();
    fs::write(image.path().join("etc/group"), "root:x:0:\nwww:x:44:\n").unwrap();
    image
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

const RESOLVER: &str = include_str!("../scripts/resolver.sh");

#[test]
fn the_resolver_is_lent_and_taken_back() {
    let here = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if here.is_empty() {
        println!("skipped: this machine has no /etc/resolv.conf");
        return;
    }
    let image = image();
    let root = path(image.path());
    let file = image.path().join("etc/resolv.conf");
    let look = "cat \"$1/etc/resolv.conf\"; exit 7";

    // Without resolv.conf before, there is none after; the status is the command's.
    let output = run(RESOLVER, &[root, "sh", "-c", look, "sh", root]);
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(7), here));
    assert!(!file.exists());

    // An existing file is restored.
    fs::write(&file, "own\n").unwrap();
    assert!(run(RESOLVER, &[root, "true"]).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "own\n");

    // An existing link is restored, even a dangling one.
    fs::remove_file(&file).unwrap();
    symlink("../run/stub.conf", &file).unwrap();
    assert!(run(RESOLVER, &[root, "true"]).status.success());
    assert_eq!(fs::read_link(&file).unwrap(), Path::new("../run/stub.conf"));

    // Changes by the command are kept.
    let write = "rm \"$1/etc/resolv.conf\"; echo new >\"$1/etc/resolv.conf\"";
    assert!(run(RESOLVER, &[root, "sh", "-c", write, "sh", root]).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "new\n");
    let remove = "rm \"$1/etc/resolv.conf\"";
    assert!(run(RESOLVER, &[root, "sh", "-c", remove, "sh", root]).status.success());
    assert!(!file.exists());
}

#[test]
fn a_directory_is_merged_with_links_and_owners() {
    const COPY: &str = include_str!("../scripts/copy-dir.sh");
    if !is_root() {
        return;
    }
    let image = image();
    let root = path(image.path());
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("lib/a b")).unwrap();
    fs::write(tree.path().join("lib/a b/file"), "x").unwrap();
    fs::set_permissions(tree.path().join("lib/a b/file"), PermissionsExt::from_mode(0o640))
        .unwrap();
    symlink("a b", tree.path().join("lib/link")).unwrap();
    symlink("/nowhere", tree.path().join("dangling")).unwrap();
    fs::create_dir(tree.path().join("log")).unwrap();
    fs::write(tree.path().join("log/x"), "y").unwrap();
    // In the image, lib is a link and log has its own mode.
    symlink("usr/lib", image.path().join("lib")).unwrap();
    fs::rename(image.path().join("var/log"), image.path().join("log")).unwrap();
    fs::set_permissions(image.path().join("log"), PermissionsExt::from_mode(0o700)).unwrap();

    let output = run(COPY, &[root, "/", path(tree.path()), "0755", "www", "7"]);
    assert!(output.status.success(), "{output:?}");
    let file = image.path().join("usr/lib/a b/file");
    assert_eq!(mode(&file), 0o640);
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (33, 7));
    assert_eq!(fs::read_link(image.path().join("usr/lib/link")).unwrap(), Path::new("a b"));
    assert_eq!(fs::read_link(image.path().join("dangling")).unwrap(), Path::new("/nowhere"));
    assert!(fs::symlink_metadata(image.path().join("lib")).unwrap().is_symlink());
    assert_eq!(mode(&image.path().join("log")), 0o700);
    assert_eq!(fs::metadata(image.path().join("log")).unwrap().uid(), 0);

    // Created parent directories get mode and owner.
    let output = run(COPY, &[root, "/srv/deep", path(tree.path()), "0750", "33", "0"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(mode(&image.path().join("srv")), 0o750);
    assert_eq!(fs::metadata(image.path().join("srv/deep")).unwrap().uid(), 33);

    let output = run(COPY, &[root, "/x", path(tree.path()), "0755", "nobody-there", "0"]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no nobody-there"));

    // Absolute links of the image must not lead into the host.
    symlink("/tmp", image.path().join("out")).unwrap();
    let output = run(COPY, &[root, "/out/x", path(tree.path()), "0755", "0", "0"]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("leads out of the image"));
}

#[test]
fn owners_are_set_inside_only() {
    const OWN: &str = include_str!("../scripts/own.sh");
    if !is_root() {
        return;
    }
    let image = image();
    let root = path(image.path());
    assert!(run(OWN, &[root, "etc/passwd", "0600", "3:4"]).status.success());
    let metadata = fs::metadata(image.path().join("etc/passwd")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (3, 4, 0o600));
    symlink("/etc", image.path().join("out")).unwrap();
    assert!(!run(OWN, &[root, "out/passwd", "-", "0:0"]).status.success());
}

#[test]
fn fstab_and_crypttab() {
    const FSTAB: &str = include_str!("../scripts/fstab.sh");
    let image = image();
    let root = path(image.path());
    let fs_args = ["fs", "1-2", "/", "ext4", "-", "fs", "AB-CD", "/boot/efi", "vfat", "-"];
    let mut arguments = vec![root];
    arguments.extend(fs_args);
    assert!(run(FSTAB, &arguments).status.success());
    let fstab = fs::read_to_string(image.path().join("etc/fstab")).unwrap();
    assert_eq!(fstab, "UUID=1-2 / ext4 defaults 0 1\nUUID=AB-CD /boot/efi vfat defaults 0 1\n");
    assert!(!image.path().join("etc/crypttab").exists());
    arguments.extend(["crypt", "9", "crypt0", "-", "-"]);
    assert!(run(FSTAB, &arguments).status.success());
    let crypttab = fs::read_to_string(image.path().join("etc/crypttab")).unwrap();
    assert_eq!(crypttab, "crypt0 UUID=9 none luks,discard\n");
}

#[test]
fn grub_defaults_replace_the_command_line() {
    const DEFAULTS: &str = include_str!("../scripts/grub-defaults.sh");
    let image = image();
    let file = image.path().join("etc/default/grub");
    fs::write(&file, "GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n").unwrap();
    let root = path(image.path());
    assert!(run(DEFAULTS, &[root, "rw console=ttyS0", "3", "serial"]).status.success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT=\"rw console=ttyS0\"\n"));
    assert!(text.contains("GRUB_TIMEOUT=3\nGRUB_TERMINAL=serial\n"), "{text}");
    assert!(!text.contains("quiet"));
}

#[test]
fn shell_steps_see_the_image_by_its_path() {
    const SHELL: &str = include_str!("../scripts/shell.sh");
    let place = tempfile::tempdir().unwrap();
    let device = place.path().join("device");
    fs::write(&device, "sectors").unwrap();
    let image = place.path().join("deep/out.img");
    let text = format!("cat {}; false; echo not reached", image.display());
    let output = run(SHELL, &[&text, "/nowhere", path(&image), path(&device)]);
    assert_eq!(output.stdout, b"sectors");
    assert_eq!(output.status.code(), Some(1));

    // A relative path is created if the working directory is writable.
    let writable = place.path().join("files");
    fs::create_dir(&writable).unwrap();
    let text = format!("cd {}; cat out/x.img", writable.display());
    let output = run(SHELL, &[&text, path(&writable), "out/x.img", path(&device)]);
    assert_eq!(output.stdout, b"sectors");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_a_tree_is_lent_is_taken_back_if_it_is_still_the_same() {
    const LENT: &str = include_str!("../scripts/lent.sh");
    let here = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let image = image();
    let root = path(image.path());
    let notes = image.path().join("notes");
    let lent = |what: &str| {
        let names = if what == "give" { &["resolv.conf", "hostname", "gone"][..] } else { &[] };
        let output = run(LENT, &[&[what, root, path(&notes)], names].concat());
        assert!(output.status.success(), "{what}: {output:?}");
    };
    let at = |name: &str| image.path().join("etc").join(name);
    lent("give");
    assert_eq!(fs::read_to_string(at("resolv.conf")).unwrap(), here);
    assert!(!at("gone").exists());
    lent("hide");
    assert!(!at("resolv.conf").exists());
    lent("show");
    assert_eq!(fs::read_to_string(at("resolv.conf")).unwrap(), here);
    // A file changed by a step is kept, and a file removed by it stays removed.
    fs::write(at("hostname"), "pi\n").unwrap();
    lent("take");
    assert!(!at("resolv.conf").exists() && !notes.exists());
    assert_eq!(fs::read_to_string(at("hostname")).unwrap(), "pi\n");
    lent("give");
    fs::remove_file(at("resolv.conf")).unwrap();
    for what in ["hide", "show", "take"] {
        lent(what);
        assert!(!at("resolv.conf").exists(), "{what}");
    }
    // The tree's own files are left alone, dangling links too.
    fs::write(at("hostname"), "own\n").unwrap();
    symlink("../run/stub.conf", at("resolv.conf")).unwrap();
    for what in ["give", "hide", "show", "take"] {
        lent(what);
        assert_eq!(fs::read_to_string(at("hostname")).unwrap(), "own\n");
        assert!(at("resolv.conf").is_symlink(), "{what}");
    }
}

#[test]
fn a_target_of_debootstrap_must_be_empty() {
    const EMPTY: &str = include_str!("../scripts/empty-target.sh");
    let target = tempfile::tempdir().unwrap();
    fs::create_dir(target.path().join("lost+found")).unwrap();
    assert!(run(EMPTY, &[path(target.path())]).status.success());
    fs::create_dir(target.path().join("boot")).unwrap();
    let output = run(EMPTY, &[path(target.path())]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("it holds: boot"));
}

#[test]
fn every_script_is_valid_for_the_shell() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut seen = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "service") {
            continue;
        }
        let output = Command::new("sh").arg("-n").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", file.display());
        seen += 1;
    }
    assert!(seen >= 12, "{seen} scripts");
}
