//! The black-box scenarios of vmdb2's own manual, run against the program under
//! the name `vmdb2`, in the wording of 0.26 and in that of 0.41.

use std::{fs, path::Path, process::Command};

const HAPPY: &str = "steps:\n- echo: \"foo\"\n  teardown: \"foo_teardown\"\n- echo: \"bar\"\n  teardown: \"bar_teardown\"\n";
const JINJA: &str = "steps:\n- echo: \"{{ foo }}\"\n- echo: \"{{ bar }}\"\n";
const UNHAPPY: &str = "steps:\n- echo: \"foo\"\n  teardown: \"foo_teardown\"\n- error: \"yikes\"\n  teardown: \"WAT?!\"\n- echo: \"bar_step\"\n  teardown: \"bar_teardown\"\n";
const WORDINGS: [&str; 2] = ["0.26", "0.41"];

/// Exit status, standard output and standard error.
fn vmdb2(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let program = folder.join("vmdb2");
    if !program.is_symlink() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vbuild"), &program).unwrap();
    }
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs([("HOME", folder.as_os_str()), ("PATH", "/usr/bin:/bin".as_ref())])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// That texts come in this order.
fn assert_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part} in its place in {text}"));
        rest = &rest[at + part.len()..];
    }
}

fn folder_with(name: &str, spec: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), spec).unwrap();
    folder
}

#[test]
fn happy_path() {
    let folder = folder_with("happy.vmdb", HAPPY);
    for wording in WORDINGS {
        let arguments = ["-v", "happy.vmdb", "--output=happy.img", "--wording", wording];
        let (status, out, err) = vmdb2(folder.path(), &arguments);
        assert_eq!((status, err.as_str()), (0, ""));
        // In 0.41 the spec itself comes before all texts.
        let texts = &out[out.find("\nfoo\n").unwrap()..];
        assert_order(texts, &["\nfoo\n", "bar\n", "bar_teardown\n", "foo_teardown\n"]);
    }
}

#[test]
fn templates() {
    let folder = folder_with("j2.vmdb", JINJA);
    for wording in WORDINGS {
        let arguments = ["-v", "j2.vmdb", "--output=j2.img", "--variable", "foo=FOO"];
        let more = ["--variable=bar=BAR", "--wording", wording];
        let (status, out, _) = vmdb2(folder.path(), &[&arguments[..], &more].concat());
        assert_eq!(status, 0);
        assert_order(&out, &["\nFOO\n", "BAR\n"]);
    }
}

#[test]
fn unhappy_path() {
    let folder = folder_with("unhappy.vmdb", UNHAPPY);
    let arguments = ["-v", "unhappy.vmdb", "--output=unhappy.img", "--log=unhappy.log"];
    for wording in WORDINGS {
        let (status, out, err) =
            vmdb2(folder.path(), &[&arguments[..], &["--wording", wording]].concat());
        assert_eq!(status, 1);
        let texts = &out[out.find("\nfoo\n").unwrap()..];
        assert_order(texts, &["foo", "yikes", "WAT?!", "foo_teardown"]);
        assert!(!texts.contains("bar_step") && !texts.contains("bar_teardown"), "{texts}");
        // 0.41's manual wants this word, which is there as the spec is shown.
        assert_eq!(out.contains("bar_teardown"), wording == "0.41");
        // The place of the step, and the step.
        assert_order(&err, &["unhappy.vmdb:4:3", "step 2 (error)", "- error: \"yikes\""]);
    }
    let log = fs::read_to_string(folder.path().join("unhappy.log")).unwrap();
    assert_order(&log, &["| foo", "| yikes", "| foo_teardown", "error: "]);
}

#[test]
fn version() {
    let folder = tempfile::tempdir().unwrap();
    let (status, out, err) = vmdb2(folder.path(), &["--version"]);
    let (major, minor) = out.trim_end().split_once('.').unwrap();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    assert!(is_number(major) && is_number(minor), "{out}");
    assert_eq!((status, err.as_str()), (0, ""));
}
