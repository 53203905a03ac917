//! Compares steps with the real vmdb2, where it runs without device-mapper: what it refuses,
//! renders, prints, creates and copies. The results are recorded in the table
//! `tests/conformance/vmdb2.md`; an unintended difference fails. Skipped, with a reason, where
//! vmdb2 is missing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

mod common;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
};

use common::options;
use expect_test::expect_file;
use plan::{FileSource, FileStep, Step, UploadKind, Value};
use vmdb::{Prepared, prepare};

/// The steps up to a filesystem mounted at `/`. The real vmdb2 cannot create the filesystem, as its
/// partition is not a device here.
fn head(with_mkfs: bool) -> String {
    let mkfs = if with_mkfs { "  - {mkfs: ext4, partition: root}\n" } else { "" };
    format!(
        "  - {{mkimg: out.img, size: 64M}}
  - {{mklabel: msdos, device: out.img}}
  - {{mkpart: primary, device: out.img, start: 0%, end: 100%, tag: root}}
  - {{kpartx: out.img}}
{mkfs}  - {{mount: root, zerofree: false}}
"
    )
}

fn vmdb2(directory: &Path, spec: &str, arguments: &[&str]) -> Output {
    fs::write(directory.join("spec.vmdb"), spec).unwrap();
    let tools = directory.join("tools");
    fs::create_dir_all(&tools).unwrap();
    let stub = |name: &str, text: &str| {
        let path = tools.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    // Stubs for programs that need device-mapper.
    stub("kpartx", "case $1 in -a*) echo 'add map loop9p1 (254:0): 0 1 linear 7:9 2048' ;; esac");
    stub("losetup", "echo '{\"loopdevices\":[{\"back-file\":null}]}'");
    stub("mount", "exit 0");
    let mounts = directory.join("mounts");
    fs::create_dir_all(&mounts).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
    Command::new("vmdb2")
        .args(["-v", "spec.vmdb", "--output=out.img"])
        .args(arguments)
        .current_dir(directory)
        .env("PATH", path)
        .env("TMPDIR", &mounts)
        .output()
        .unwrap()
}

fn is_installed() -> bool {
    let found = Command::new("vmdb2").arg("--help").output().is_ok_and(|out| out.status.success());
    if !found {
        println!("skipped: vmdb2 is not installed");
    }
    found
}

fn ours(directory: &Path, spec: &str, variables: &[&str]) -> Result<Prepared, String> {
    fs::write(directory.join("spec.vmdb"), spec).unwrap();
    let mut options = options(directory, "spec.vmdb");
    options.variables = variables.iter().map(ToString::to_string).collect();
    prepare(&options, &mut std::io::empty()).map_err(|error| error.to_string())
}

/// Why a difference is intended; `None` if there must be no difference.
type Meant = Option<&'static str>;

/// Steps to check, after an `error` that stops the real vmdb2.
const CHECKS: &[(&str, &str, Meant)] = &[
    ("a full step", "{create-file: /x, contents: y}", None),
    ("a missing key", "{create-file: /x}", None),
    ("no known step", "{nothing: at all}", None),
    ("an octal mode", "{create-file: /x, contents: y, perm: 0600}", None),
    ("a mode in quotes", "{create-file: /x, contents: y, perm: '0600'}", None),
    ("a number for a string", "{create-file: /x, contents: 5}", None),
    ("a boolean for a string", "{create-file: /x, contents: yes}", None),
    ("a boolean for a number", "{create-file: /x, contents: y, uid: true}", None),
    ("a number for a boolean", "{apt: install, tag: root, recommends: 0}", None),
    ("off for a boolean", "{apt: install, tag: root, recommends: off}", None),
    ("a string for a list", "{apt: install, tag: root, packages: less}", None),
    ("null", "{create-file: /x, contents: null}", None),
    ("a float", "{create-file: /x, contents: y, uid: 1.5}", None),
    ("a date", "{create-file: /x, contents: 2001-12-14}", None),
    ("a wrong template", "{create-file: /x, contents: '{% if %}'}", None),
    ("an old alias", "{apt: install, fs-tag: root}", None),
    ("unless with a flag", "{create-file: /x, contents: y, unless: rootfs_unpacked}", None),
    ("unless with a list", "{create-file: /x, contents: y, unless: [rootfs_unpacked]}", None),
    ("an unknown key", "{create-file: /x, contents: y, colour: red}", Some("typos are found")),
    ("an unknown tag", "{chroot: nobody, shell: x}", Some("found before anything runs")),
    (
        "a source that is missing",
        "{copy-file: /x, src: nothing}",
        Some("found before anything runs"),
    ),
    ("an unknown flavor of grub", "{grub: lilo, tag: root}", Some("found before anything runs")),
    ("an unknown flag", "{echo: x, unless: never_set}", Some("a flag that no step sets")),
    ("no image size", "{mkimg: other.img, size: large}", Some("found before anything runs")),
    (
        "a negative mode",
        "{create-file: /x, contents: y, perm: -1}",
        Some("found before anything runs"),
    ),
];

fn check_table(table: &mut String, differences: &mut Vec<String>) {
    writeln!(table, "## What is refused\n\n| Step | vmdb2 | vbuild | Why they differ |").unwrap();
    writeln!(table, "|---|---|---|---|").unwrap();
    for (name, step, meant) in CHECKS {
        let directory = tempfile::tempdir().unwrap();
        let steps = |mkfs| {
            format!("steps:\n  - {{error: reached, teardown: x}}\n{}  - {step}\n", head(mkfs))
        };
        let output = vmdb2(directory.path(), &steps(false), &[]);
        let theirs = String::from_utf8_lossy(&output.stdout).contains("reached");
        let ours = ours(directory.path(), &steps(true), &[]).is_ok();
        let word = |accepted| if accepted { "taken" } else { "refused" };
        let why = if theirs == ours { "" } else { meant.unwrap_or("NOT MEANT") };
        if (theirs == ours) != meant.is_none() {
            differences.push(format!("{name}: {} there, {} here", word(theirs), word(ours)));
        }
        let step = step.replace('|', "\\|");
        writeln!(table, "| {name}: `{step}` | {} | {} | {why} |", word(theirs), word(ours))
            .unwrap();
    }
}

/// Specs that only print messages: all standard output is compared.
const SPEAKING: &[(&str, &str, &[&str])] = &[
    (
        "happy path",
        "- {echo: foo, teardown: foo_teardown}\n- {echo: bar, teardown: bar_teardown}\n",
        &[],
    ),
    (
        "unhappy path",
        "- {echo: foo, teardown: t}\n- {error: yikes, teardown: WAT}\n- {echo: bar, teardown: u}\n",
        &[],
    ),
    ("variables", "- echo: '{{ foo }} {{ bar }}'\n", &["foo=FOO", "bar='BAR'"]),
    ("variables of vmdb2", "- echo: '{{ output }} {{ image }} {{ rootfs_tarball }}'\n", &[]),
    ("its own state", "- echo: '{{ arch }} {{ tags }}'\n", &[]),
    ("its own state wins", "- echo: '{{ arch }}'\n", &["arch=mine"]),
    ("undefined", "- echo: '[{{ nobody }}]'\n", &[]),
    ("folded text", "- echo: >\n    a\n    b\n  teardown: |\n    c\n    d\n", &[]),
    ("unless", "- {echo: a, teardown: b, unless: rootfs_unpacked}\n- {echo: c}\n", &[]),
    ("unless of an empty list", "- {echo: a, teardown: b, unless: []}\n- {echo: c}\n", &[]),
    ("no steps", "  []\n", &[]),
    ("merge keys", "- &a {echo: foo, teardown: bar}\n- {<<: *a, echo: baz}\n", &[]),
];

/// The output lines and the exit status of a spec that only prints messages.
fn said(directory: &Path, spec: &str, variables: &[&str]) -> (Vec<String>, i32) {
    let run = ours(directory, spec, variables).unwrap().lowered.narration.run_local();
    let lines = run.lines.join("\n").lines().map(str::to_owned).collect();
    (lines, i32::from(run.failed.is_some()))
}

fn speaking_table(table: &mut String, differences: &mut Vec<String>) {
    writeln!(table, "\n## What is said\n\n| Spec | Lines | Same | Status |\n|---|---|---|---|")
        .unwrap();
    for (name, steps, variables) in SPEAKING {
        let directory = tempfile::tempdir().unwrap();
        let spec = format!("steps:\n{steps}");
        let arguments: Vec<String> =
            variables.iter().map(|variable| format!("--variable={variable}")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = vmdb2(directory.path(), &spec, &arguments);
        let theirs: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with("Exec:"))
            .map(str::to_owned)
            .collect();
        let (lines, status) = said(directory.path(), &spec, variables);
        let same = theirs == lines && output.status.code() == Some(status);
        if !same {
            differences.push(format!("{name}: {theirs:?} there, {lines:?} here"));
        }
        writeln!(
            table,
            "| {name} | {} | {} | {status} |",
            lines.len(),
            if same { "yes" } else { "NO" }
        )
        .unwrap();
    }
}

/// An intended difference: the reason, and a line of the listing that shows it.
type MeantFile = Option<(&'static str, &'static str)>;

/// Steps that create files.
const FILES: &[(&str, &str, MeantFile)] = &[
    ("create-file", "{create-file: /x, contents: \"a\\nb\"}", None),
    ("create-file", "{create-file: x, contents: y, perm: 0600, uid: 3, gid: 4}", None),
    ("create-dir", "{create-dir: /a/b}", None),
    ("create-dir", "{create-dir: /a/b, perm: 0700, uid: 3, gid: 4}", None),
    (
        "create-dir",
        "{create-dir: /a, perm: 0777}",
        Some(("the mode is the one that was asked for", "a 777")),
    ),
    ("copy-file", "{copy-file: /x, src: file}", None),
    ("copy-file", "{copy-file: /x, src: file, perm: 0755, uid: 3, gid: 4}", None),
    (
        "copy-file",
        "{copy-file: /a/b/x, src: file}",
        Some(("directories that are missing get 0755, not 0511", "a/b 755")),
    ),
    ("copy-dir", "{copy-dir: /a, src: tree}", None),
    ("copy-dir", "{copy-dir: /a/b, src: tree/, umask: 0027, uid: 3, gid: 4}", None),
    ("copy-dir", "{copy-dir: /, src: tree}", None),
    ("copy-dir", "{copy-dir: /a, src: links}", Some(("links stay links", "a/file 777"))),
];

/// Everything below a directory: mode, owner, group, content.
fn listing(directory: &Path, prefix: &str, out: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    for path in names {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
        let owner = format!("{}:{}", metadata.uid(), metadata.gid());
        let what = if metadata.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if metadata.is_dir() {
            "directory".into()
        } else {
            format!("{:?}", fs::read_to_string(&path).unwrap())
        };
        let mode = metadata.mode() & 0o7777;
        out.push(format!("{name} {mode:o} {owner} {what}"));
        if metadata.is_dir() {
            listing(&path, &format!("{name}/"), out);
        }
    }
}

/// Applies the file operations of a plan, with the guest below a directory.
fn carry_out(prepared: &Prepared, guest: &Path) {
    let at = |path: &str| guest.join(path.trim_start_matches('/'));
    let stages = prepared.lowered.plan.stages.iter();
    for step in stages
        .filter(|s| s.name.contains("copy") || s.name.contains("create"))
        .flat_map(|s| &s.steps)
    {
        match step {
            Step::Upload(upload) => {
                fs::create_dir_all(at(upload.to.as_str())).unwrap();
                for entry in &upload.entries {
                    let path = at(&format!("{}/{}", upload.to, entry.path));
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    match &entry.kind {
                        UploadKind::Directory(mode) => {
                            fs::create_dir_all(&path).unwrap();
                            fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
                        }
                        UploadKind::Symlink(target) => {
                            symlink(target.to_path_buf(), &path).unwrap();
                        }
                        UploadKind::File { mode, source } => {
                            match source {
                                FileSource::Text(text) => fs::write(&path, text).unwrap(),
                                FileSource::Host { path: from, .. } => {
                                    fs::copy(from, &path).unwrap();
                                }
                            }
                            fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
                        }
                        other => panic!("the trees have no {other:?}"),
                    }
                }
            }
            Step::File(FileStep::MakeDirectory { path, mode }) => {
                let path = at(path.as_str());
                fs::create_dir_all(&path).unwrap();
                fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Step::File(FileStep::Remove { path, .. }) => {
                fs::remove_dir_all(at(path.as_str())).unwrap();
            }
            Step::Run(run) => {
                let words = run.argv.iter().map(|word| match word {
                    Value::Text(text) if text.starts_with("/build/") => {
                        at(text).to_str().unwrap().to_owned()
                    }
                    Value::Text(text) => text.clone(),
                    Value::Fact(fact) => panic!("the fact {fact} in a step about files"),
                });
                let words: Vec<String> = words.collect();
                let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
                assert!(output.status.success(), "{words:?}: {output:?}");
            }
            other => panic!("{other:?} in a step about files"),
        }
    }
}

/// A directory with the files that the steps copy.
fn sources() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    fs::write(place.join("file"), "content\n").unwrap();
    fs::set_permissions(place.join("file"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::create_dir_all(place.join("tree/deep")).unwrap();
    fs::write(place.join("tree/deep/one"), "1").unwrap();
    fs::write(place.join("tree/two"), "2").unwrap();
    fs::set_permissions(place.join("tree/two"), PermissionsExt::from_mode(0o777)).unwrap();
    fs::create_dir(place.join("links")).unwrap();
    symlink("../file", place.join("links/file")).unwrap();
    directory
}

/// A spec with a filesystem at `/` and one more step.
fn spec_of(step: &str, with_mkfs: bool) -> String {
    format!("steps:\n{}  - {step}\n", head(with_mkfs))
}

/// The listing of what the step creates here.
fn made(place: &Path, step: &str) -> Vec<String> {
    let prepared = ours(place, &spec_of(step, true), &[]).unwrap();
    let guest = place.join("guest");
    let root = guest.join("build/image/root");
    fs::create_dir_all(&root).unwrap();
    carry_out(&prepared, &guest);
    let mut ours = Vec::new();
    listing(&root, "", &mut ours);
    ours
}

fn files_table(table: &mut String, differences: &mut Vec<String>) {
    writeln!(table, "\n## What is made\n\n| Step | Same | Why they differ |\n|---|---|---|")
        .unwrap();
    for (name, step, meant) in FILES {
        let directory = sources();
        let place = directory.path();
        vmdb2(place, &spec_of(step, false), &[]);
        let mut theirs = Vec::new();
        let mounts: Vec<_> = fs::read_dir(place.join("mounts")).unwrap().collect();
        for mount in mounts {
            listing(&mount.unwrap().path(), "", &mut theirs);
        }
        let ours = made(place, step);
        let same = theirs == ours;
        if same != meant.is_none() {
            differences.push(format!("{name}: {theirs:#?} there, {ours:#?} here"));
        }
        let word = if same { "yes" } else { "no" };
        writeln!(table, "| {name}: `{step}` | {word} | {} |", meant.map_or("", |(why, _)| why))
            .unwrap();
    }
}

/// Where vmdb2 is not installed, the recorded table must still match this side.
#[test]
fn this_side_of_the_table_is_true() {
    let table = include_str!("../../../../tests/conformance/vmdb2.md");
    for (name, step, _) in CHECKS {
        let directory = tempfile::tempdir().unwrap();
        let taken = ours(directory.path(), &spec_of(step, true), &[]).is_ok();
        let start = format!("| {name}: `{}` | ", step.replace('|', "\\|"));
        let line = table.lines().find_map(|line| line.strip_prefix(&start)).expect(name);
        let word = line.split(" | ").nth(1).unwrap();
        assert_eq!(word, if taken { "taken" } else { "refused" }, "{name}");
    }
    for (name, steps, variables) in SPEAKING {
        let directory = tempfile::tempdir().unwrap();
        let (lines, status) = said(directory.path(), &format!("steps:\n{steps}"), variables);
        let line = format!("| {name} | {} | yes | {status} |", lines.len());
        assert!(table.contains(&line), "{line}");
    }
    for (name, step, meant) in FILES {
        let Some((why, shown)) = meant else { continue };
        let directory = sources();
        let made = made(directory.path(), step);
        assert!(made.iter().any(|line| line.starts_with(&format!("{shown} "))), "{made:?}");
        assert!(table.contains(&format!("| {name}: `{step}` | no | {why} |")), "{name}");
    }
}

#[test]
fn steps_do_what_those_of_vmdb2_do() {
    if !is_installed() {
        return;
    }
    let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n");
    if !root {
        println!("skipped: not root, so files cannot get owners");
        return;
    }
    let mut table = String::from(
        "# vbuild beside vmdb2 0.26, step by step\n\nWritten by the test `conformance`, which runs both.\n\n",
    );
    let mut differences = Vec::new();
    check_table(&mut table, &mut differences);
    speaking_table(&mut table, &mut differences);
    files_table(&mut table, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    expect_file!["../../../../tests/conformance/vmdb2.md"].assert_eq(&table);
}
