//! Where outputs go, against the whole program: what a path can be is found out before
//! anything else happens, by every verb, and `plan` refuses what a build refuses.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{make_home, run};

const SPEC: &str =
    "steps:\n- {mkimg: \"{{ output }}\", size: 8M}\n- {mklabel: msdos, device: \"{{ output }}\"}\n";

/// A home with everything that a path can be and an output cannot.
fn ground() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    make_home(&home);
    fs::write(home.join("s.vmdb"), SPEC).unwrap();
    fs::create_dir(home.join("folder.img")).unwrap();
    fs::create_dir(home.join("folder.qcow2")).unwrap();
    fs::create_dir(home.join("folder.raw")).unwrap();
    fs::create_dir(home.join("x.img.sha256")).unwrap();
    mkfifo(&home.join("pipe.img"), Mode::from_bits_truncate(0o600)).unwrap();
    fs::create_dir(home.join("ro")).unwrap();
    fs::set_permissions(home.join("ro"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::create_dir_all(home.join("L/10_a")).unwrap();
    let script = home.join("L/10_a/build-layer");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(home.join("b.raw"), vec![0; 1 << 20]).unwrap();
    (folder, home)
}

/// Runs a command line that must be refused; gives status and errors.
fn refused(home: &std::path::Path, line: &str) -> (i32, String) {
    let output = run(home, line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{line}: {errors}");
    assert!(!errors.contains("Starting the machine"), "{line}: {errors}");
    // Nothing was fetched for it: not even a cache has been made.
    assert!(!errors.contains("appliance"), "{line}: {errors}");
    (output.status.code().unwrap(), errors)
}

#[test]
fn an_output_that_cannot_be_written_is_refused_at_once() {
    let (_folder, home) = ground();
    let long = "n".repeat(300);
    let mut cases = vec![
        ("--output nodir/x.img", "there is no directory `nodir`"),
        ("--output folder.img", "it is a directory"),
        ("--output folder.img/", "it names no file"),
        ("--output s.vmdb/x.img", "s.vmdb"),
        ("--output pipe.img", "it is a named pipe"),
        ("--output /dev/full", "it is a character device"),
        ("--output ~/x.img", "the shell expands `~`"),
        ("--output x.img --checksum=sha256", "x.img.sha256"),
        ("--qemu-img-options cluster_sise=2M --output x.qcow2", "cluster_sise=2M"),
        ("--qemu-img-options refcount_bits=17 --output x.qcow2", "refcount_bits=17"),
        ("--qemu-img-options a=1 --output y.img", "this format has no options"),
    ];
    let too_long = format!("--output {long}");
    cases.push((&too_long, "the filesystem takes 255"));
    if !nix::unistd::geteuid().is_root() {
        cases.push(("--output ro/x.img", "you may not write to the directory `ro`"));
    }
    for (options, reason) in cases {
        let (status, errors) = refused(&home, &format!("vbuild vmdb --no-cache {options} s.vmdb"));
        assert!(errors.contains(reason), "{options}: {errors}");
        assert_eq!(status, 2, "{options}: {errors}");
        let (_, planned) = refused(&home, &format!("vbuild plan vmdb {options} s.vmdb"));
        assert!(planned.contains(reason), "{options}: {planned}");
    }
}

#[test]
fn every_format_with_its_options_is_there_for_specs_and_layers() {
    let (_folder, home) = ground();
    let tail = "- {mkpart: primary, device: \"{{ output }}\", start: 1MiB, end: 100%, tag: /}\n\
                - {mkfs: ext4, partition: /}\n- {mount: /}\n- {cache-rootfs: /}\n";
    fs::write(home.join("t.vmdb"), format!("{SPEC}{tail}")).unwrap();
    let tarball = "--rootfs-tarball t.tgz";
    let (status, errors) =
        refused(&home, &format!("vbuild vmdb --output o.img --formats docker {tarball} t.vmdb"));
    assert!(status == 2 && errors.contains("use ‘--docker-target’"), "{errors}");
    let line = "vbuild vmdb --output o.img --rootfs-tarball nodir/t.tgz t.vmdb";
    assert!(refused(&home, line).1.contains("/nodir`"));
    let docker = "o.img --formats docker --docker-target a:1";
    for line in [
        format!("vbuild plan vmdb --output {docker} {tarball} t.vmdb"),
        format!("vbuild plan layers --base b.raw -o {docker} L"),
    ] {
        let output = run(&home, &line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("o.docker.tar (docker)"), "{line}: {output:?}");
    }
}

#[test]
fn builds_of_elements_and_layers_refuse_the_same() {
    let (_folder, home) = ground();
    let build = "-B [HOME]/diskimage_builder/lib -n --size 1G os";
    for (options, reason) in [
        ("--name nodir/x", "--name: there is no directory `nodir`"),
        ("--name folder", "it is a directory"),
        ("--name folder --formats raw", "it is a directory"),
        ("--name s.vmdb/x", "s.vmdb"),
    ] {
        for verb in ["vbuild", "vbuild plan"] {
            let (_, errors) = refused(&home, &format!("{verb} {options} {build}"));
            assert!(errors.contains(reason), "{verb} {options}: {errors}");
        }
    }
    for (options, reason) in [
        ("-o nodir/x.qcow2", "there is no directory `nodir`"),
        ("-o folder.qcow2", "it is a directory"),
        ("-o folder.raw", "it is a directory"),
        ("-o folder.img/x.txt", "its suffix is no format of a disk"),
    ] {
        for verb in ["layers", "plan layers"] {
            let line = format!("vbuild {verb} --base b.raw {options} L");
            let (_, errors) = refused(&home, &line);
            assert!(errors.contains(reason), "{line}: {errors}");
        }
    }
    // The project's own folder of results is made by the build, where it is missing.
    let planned = run(&home, "vbuild plan layers --base b.raw L");
    assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));
    assert!(!home.join("L/build").exists(), "a question makes no folder");
    let text = String::from_utf8_lossy(&planned.stdout);
    assert!(text.contains("image.qcow2 (") && !text.contains(".raw (raw)"), "{text}");
}

#[test]
fn a_plan_neither_builds_nor_downloads_the_base_image() {
    let (_folder, home) = ground();
    let mirror = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    mirror.set_nonblocking(true).unwrap();
    let url = format!("http://{}/base.raw", mirror.local_addr().unwrap());
    let digest = "0".repeat(64);
    for (base, reason) in [
        ("recipe: vmdb\n  arguments: [s.vmdb]\n".to_owned(), "is not built yet"),
        (format!("url: {url}\n  sha256: {digest}\n"), "is not downloaded yet"),
    ] {
        fs::write(home.join("L/vbuild.yaml"), format!("base:\n  {base}")).unwrap();
        let (status, errors) = refused(&home, "vbuild plan layers L");
        assert!(status == 1 && errors.contains(reason), "{errors}");
        assert!(!home.join("L/build").exists() && !home.join(".cache/vbuild/bases").exists());
        assert!(mirror.accept().is_err(), "a question was asked of the mirror");
    }
}

#[test]
fn exit_statuses_of_vmdb_are_those_of_the_manual() {
    let (_folder, home) = ground();
    fs::write(home.join("e.vmdb"), "steps:\n- echo: x\n").unwrap();
    fs::write(home.join("bad.vmdb"), "steps:\n- ech: x\n").unwrap();
    for (line, status) in [
        ("vbuild vmdb e.vmdb", 2),
        ("vbuild vmdb --output o.img --variable a e.vmdb", 2),
        ("vbuild vmdb --output o.img --variable a=1 --variable a=2 e.vmdb", 2),
        ("vbuild vmdb --output '' e.vmdb", 2),
        ("vbuild vmdb --image '' e.vmdb", 2),
        ("vbuild vmdb --output o.img", 2),
        ("vbuild vmdb --output o.img --share gone:/x e.vmdb", 2),
        ("vbuild vmdb --output o.img --allow-host-path gone e.vmdb", 2),
        ("vbuild vmdb --output o.img --load-into docker s.vmdb", 2),
        ("vbuild vmdb --output o.img bad.vmdb", 1),
        ("vbuild vmdb --output o.img gone.vmdb", 1),
        ("vbuild vmdb --output o.img e.vmdb", 0),
        ("vbuild layers compare-layers gone.raw b.raw", 2),
        ("vbuild layers compare-layers b.raw", 2),
    ] {
        let output = run(&home, line);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{line}: {errors}");
    }
}

#[test]
fn formats_are_called_the_same_by_every_verb() {
    let (_folder, home) = ground();
    let outputs = |line: &str| {
        let output = run(&home, line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        text[text.find("\noutputs\n").unwrap()..]
            .lines()
            .skip(2)
            .map(|l| l.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let formats: Vec<&str> = output::FORMATS
        .iter()
        .filter(|format| format.origin == output::Origin::Disk)
        .map(|format| format.name)
        .collect();
    let expected: Vec<String> = output::FORMATS
        .iter()
        .filter(|format| format.origin == output::Origin::Disk)
        .map(|format| format!("o.{} ({})", format.suffix, format.name))
        .collect();
    let formats = formats.join(",");
    assert_eq!(
        outputs(&format!("vbuild plan vmdb --output o.raw --formats {formats} s.vmdb")),
        expected
    );
    let build = "-B [HOME]/diskimage_builder/lib -n --size 1G --name o os";
    assert_eq!(outputs(&format!("vbuild plan --formats {formats} {build}")), expected);
    for format in output::FORMATS.iter().filter(|format| format.origin == output::Origin::Disk) {
        let (name, suffix) = (format.name, format.suffix);
        let line = format!("vbuild plan layers --base b.raw --flatten -o o.{suffix} L");
        assert_eq!(outputs(&line), [format!("o.{suffix} ({name})")]);
        let line = format!("vbuild plan vmdb --output o.{suffix} s.vmdb");
        assert_eq!(outputs(&line), [format!("o.{suffix} ({name})")]);
    }
    // The endings that specs know are those that are written, and two older names.
    for (ending, name) in vmdb::formats::FORMATS {
        let known = output::format(name).unwrap();
        assert!(known.suffix == *ending || ["vpc", "img"].contains(ending), "{ending}");
    }
}
