//! House rules for source files.

use std::{fs, path::Path};

use super::{metadata, none, root};

/// Maximum lines of a file without an entry in [`LONG_FILES`].
const LINES_MAX: usize = 500;
/// Maximum lines of a test file; tests are lists of cases.
const TEST_LINES_MAX: usize = 800;
/// Longer files: maximum lines, and why they are not split.
const LONG_FILES: &[(&str, usize, &str)] = &[
    ("guest-agent/src/sys.rs", 600, "the room for unsafe code has one door"),
    ("guest-agent/wire/src/message.rs", 650, "the protocol is read in one piece"),
    ("host/egress/src/http.rs", 560, "one exchange is read by one state machine"),
    ("host/egress/src/serve.rs", 550, "one connection from its request to its end"),
    ("host/qcow2/src/header.rs", 670, "the header of the format, with the rules for hostile ones"),
    ("host/microvm/src/backend.rs", 700, "the VMM process from its start to its end"),
    ("host/microvm/src/devices/block/qcow2.rs", 600, "one format, read and written"),
];
/// The folders and files in which `unsafe` code is permitted.
const UNSAFE_ROOMS: &[&str] = &["host/microvm/", "guest-agent/src/sys.rs"];

/// Returns all Rust files of the repository: path from its root, and text.
pub(crate) fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["appliance", "guest-agent", "host", "man", "tests"] {
        walk(&root().join(folder), &mut found);
    }
    assert!(found.len() > 100, "only {} files found", found.len());
    found
}

fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != "target" {
                walk(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = files().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    none(&silent.map(|(path, _)| format!("{path} does not begin with `//!`")).collect::<Vec<_>>());
}

#[test]
fn files_are_short_or_have_a_reason() {
    let mut complaints = Vec::new();
    for (path, text) in files() {
        let lines = text.lines().count();
        let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
        let usual = if is_test { TEST_LINES_MAX } else { LINES_MAX };
        let limit = LONG_FILES.iter().find(|(long, ..)| *long == path).map_or(usual, |long| long.1);
        if lines > limit {
            complaints.push(format!("{path} has {lines} lines, more than {limit}"));
        }
    }
    for (path, _, reason) in LONG_FILES {
        assert!(!reason.is_empty());
        if !root().join(path).is_file() {
            complaints.push(format!("{path} is listed as long, but is not there"));
        }
    }
    none(&complaints);
}

#[test]
fn unsafe_code_is_in_its_two_rooms() {
    let mut complaints = Vec::new();
    for (path, text) in files() {
        if UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) || path.ends_with("sources.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let used = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "(unsafe_code"]
                .iter()
                .any(|form| code.contains(form));
            if used {
                complaints.push(format!("{path}:{}: unsafe code outside its rooms", number + 1));
            }
        }
    }
    none(&complaints);
}

/// Paths in recipes are looked up and opened by `inputs` and `rooted`, which follow no links. Other
/// code of a front end that reads the host must give a reason.
#[test]
fn front_ends_read_the_host_through_rooted() {
    const MAY: &[(&str, &str)] = &[
        ("host/recipe/dib/src/source", "finds diskimage-builder itself, and pip's configuration"),
        ("host/recipe/dib/src/block_device/choose.rs", "a file that the user's variable names"),
        ("host/recipe/b9/src/vectors", "unit tests read their vectors"),
        ("host/recipe/vmdb/src/cli.rs", "the spec that the command line names"),
    ];
    const READS: &[&str] =
        &["fs::read(", "fs::read_to_string(", "fs::read_dir(", "File::open(", "fs::metadata("];
    assert!(MAY.iter().all(|(_, reason)| !reason.is_empty()));
    let mut complaints = Vec::new();
    for (path, text) in files() {
        let is_library = path.starts_with("host/recipe/") && path.contains("/src/");
        let is_test = path.ends_with("tests.rs");
        if !is_library || is_test || MAY.iter().any(|(may, _)| path.starts_with(may)) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            if READS.iter().any(|read| line.contains(read)) {
                complaints.push(format!("{path}:{}: reads the host by itself", number + 1));
            }
        }
    }
    none(&complaints);
}

#[test]
fn exceptions_from_lints_have_a_reason() {
    let mut complaints = Vec::new();
    for (path, text) in files() {
        for attribute in ["#[expect(", "#![expect("] {
            for (at, _) in text.match_indices(attribute) {
                let whole = &text[at..text[at..].find(']').map_or(text.len(), |end| at + end)];
                let quoted = text[..at].ends_with('"') || text[..at].ends_with('`');
                if !whole.contains("reason") && !quoted {
                    let number = text[..at].lines().count();
                    complaints.push(format!("{path}:{number}: an exception without a reason"));
                }
            }
        }
    }
    none(&complaints);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let mut complaints = Vec::new();
    for package in metadata().workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        if !manifest.contains("[lints]\nworkspace = true") {
            complaints.push(format!("{} has lints of its own", package.manifest_path));
        }
        if package.publish.as_deref() != Some(&[]) {
            complaints.push(format!("`{}` could be published by accident", package.name));
        }
    }
    none(&complaints);
}

#[test]
fn only_the_view_and_the_edge_write_to_the_terminal() {
    // No other code may write there.
    const MAY: &[&str] = &[
        "host/src/ui/",
        "host/src/machine/shell.rs",
        "guest-agent/",
        "host/qemu/src/child.rs",
        "host/microvm/src/child.rs",
        "host/confine/src/trial.rs",
    ];
    let mut complaints = Vec::new();
    for (path, text) in files() {
        let is_library = path.contains("/src/") && !path.contains("tests");
        if !is_library || MAY.iter().any(|may| path.starts_with(may)) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            if line.contains("io::stdout()") || line.contains("io::stderr()") {
                complaints.push(format!("{path}:{}: writes to the terminal", number + 1));
            }
        }
    }
    none(&complaints);
}
