//! The whole binary against a script of commands with their outputs and exit
//! statuses: what users and scripts see when something is wrong.
//!
//! `session.txt` is the script. `$ ` begins a command, `> ` a line of its
//! standard output, `! ` one of its standard error, `? ` its exit status; all
//! other lines are remarks. `UPDATE_SNAPSHOTS=1` writes the outputs anew.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod b9;
mod b9_shares;
mod completions;
mod originals;
mod outputs;
mod paths;
mod signals;
mod verbs;
mod vmdb2;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/session.txt");

/// A home with a diskimage-builder that has a handful of elements.
pub(crate) fn make_home(home: &Path) {
    let package = home.join("diskimage_builder");
    let write = |path: &str, text: &str| {
        let path = package.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        if text.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    };
    write("lib/die", "");
    write("lib/img-functions", "");
    write("logging_config.py", "");
    for (element, file, text) in [
        ("base", "README.rst", ""),
        ("os", "element-provides", "operating-system\n"),
        ("os", "root.d/10-os", "#!/bin/sh\n"),
        ("other-os", "element-provides", "operating-system\n"),
        ("block-device-mbr", "element-provides", "block-device\n"),
        ("mbr-too", "element-provides", "block-device\n"),
        ("needs-missing", "element-deps", "no-such-element\n"),
        ("twin", "root.d/10-os", "#!/bin/sh\n"),
        ("new-base", "element-provides", "base\nextras\n"),
        ("extras", "README.rst", ""),
    ] {
        write(&format!("elements/{element}/{file}"), text);
    }
    fs::create_dir(home.join("empty")).unwrap();
    fs::write(home.join("text.txt"), "hello").unwrap();
    // What a guest can have made of its raw drive.
    let claims = [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 1 << 16]].concat();
    fs::write(home.join("claims.img"), claims).unwrap();
    let specs = [
        ("happy", "- echo: \"{{ who }}\"\n  teardown: bye\n- echo: bar\n"),
        ("unhappy", "- echo: foo\n  teardown: bye\n- error: yikes\n  teardown: 'WAT?!'\n"),
        ("typo", "- echo: foo\n  teardwon: bye\n- mkfss: x\n"),
    ];
    let images = "- imagename: a\n  environment: {DIB_X: a b}\n  elements: [os, missing]\n- imagename: b\n  types: [tar]\n  elements: [os]\n";
    fs::write(home.join("images.yaml"), images).unwrap();
    let fails = "- imagename: a\n  elements: [os, missing]\n- imagename: b\n  elements: [absent]\n";
    fs::write(home.join("fails.yaml"), fails).unwrap();
    fs::write(home.join("wrong.yaml"), "- elemnts: [os]\n").unwrap();
    for (name, steps) in specs {
        fs::write(home.join(format!("{name}.vmdb")), format!("steps:\n{steps}")).unwrap();
    }
    for name in ["virt-dib", "disk-image-create", "vmdb2", "vbuild"] {
        symlink(env!("CARGO_BIN_EXE_vbuild"), home.join(name)).unwrap();
    }
}

/// Runs one line of the script: words are split at blanks, `''` is an empty
/// word, `[HOME]` the home.
pub(crate) fn run(home: &Path, line: &str) -> Output {
    let home_text = home.to_str().unwrap();
    let mut words = line.split(' ').map(|word| match word {
        "''" => String::new(),
        word => word.replace("[HOME]", home_text),
    });
    Command::new(home.join(words.next().unwrap()))
        .args(words)
        .current_dir(home)
        .env_clear()
        .envs([("HOME", home_text), ("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")])
        .env("SET_HERE", "1")
        .output()
        .unwrap()
}

fn transcript(home: &Path, line: &str) -> String {
    let output = run(home, line);
    let mut text = format!("$ {line}\n");
    for (mark, bytes) in [('>', &output.stdout), ('!', &output.stderr)] {
        let shown = String::from_utf8(bytes.clone()).unwrap();
        let shown = shown.replace(home.to_str().unwrap(), "[HOME]");
        for line in shown.replace(env!("CARGO_PKG_VERSION"), "[VERSION]").lines() {
            text += format!("{mark} {line}").trim_end();
            text.push('\n');
        }
    }
    text + &format!("? {}\n", output.status.code().expect("no signal ended it"))
}

#[test]
fn the_session_is_as_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    make_home(&home);
    let recorded = fs::read_to_string(SCRIPT).unwrap();
    let mut played = String::new();
    for line in recorded.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => played += &transcript(&home, command),
            None if line.starts_with(['>', '!', '?']) => {}
            None => played.extend([line, "\n"]),
        }
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(SCRIPT, played).unwrap();
        return;
    }
    for (number, (was, is)) in recorded.lines().zip(played.lines()).enumerate() {
        assert_eq!(was, is, "at line {} of session.txt", number + 1);
    }
    assert_eq!(recorded, played);
}

#[test]
fn capabilities_are_one_fact_per_line() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    make_home(&home);
    let output = run(&home, "vbuild --machine-readable");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "vbuild");
    for format in ["docker", "qcow2", "raw", "squashfs", "tar", "tgz", "vhd"] {
        assert!(lines.contains(&format!("output:{format}").as_str()), "{format} in {text}");
    }
    assert!(lines[1..].is_sorted() && lines[1..].iter().all(|line| line.starts_with("output:")));
}

/// A program that reads JSON lines from a descriptor gets nothing else there.
#[test]
fn json_lines_go_where_they_are_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    make_home(&home);
    let line =
        "vbuild -B [HOME]/diskimage_builder/lib --machine-readable=file:[HOME]/events missing os";
    assert_eq!(run(&home, line).status.code(), Some(1));
    let events = fs::read_to_string(home.join("events")).unwrap();
    let types: Vec<String> = events
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["timestamp"].is_string() && value["message"].is_string());
            value["type"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(types, ["info", "error"]);
}
