//! Helpers shared by the tests that run builds, and the repository's tests of itself.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod archive;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the path of the `vbuild` binary that cargo built with this test.
///
/// # Panics
/// Panics if the binary has not been built.
#[must_use]
pub fn vbuild_binary() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let binary = test.ancestors().nth(2).expect("target/release/deps/TEST").join("vbuild");
    assert!(binary.is_file(), "{} is missing: run `cargo build`", binary.display());
    binary
}

/// Returns the accelerator of the machines that tests start: `VBUILD_TEST_ACCEL`, or else `auto`.
#[must_use]
pub fn accelerator() -> String {
    std::env::var("VBUILD_TEST_ACCEL").unwrap_or_else(|_| "auto".into())
}

/// Creates a command for a guest, whose program is looked up in the appliance's PATH.
pub fn command(session: &session::Session, words: &[&str]) -> session::Command {
    session.command(words).envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])
}

/// Returns the sorted names in a directory; the list is empty if the directory does not exist.
#[must_use]
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

/// Whether the command line of any process contains a word.
#[must_use]
pub fn process_with(word: &str) -> bool {
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    names(Path::new("/proc")).iter().filter(|name| is_number(name)).any(|pid| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(word.len()).any(|part| part == word.as_bytes()))
    })
}
