//! The repository's tests of itself: layering, house rules that lints do not cover, licences, the
//! changelog.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod changelog;
mod conformance;
mod docs;
mod imports;
mod licences;
mod modules;
mod security;
mod sources;

use std::path::{Path, PathBuf};

/// Returns the root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in a folder of the repository")
        .to_owned()
}

/// Reads a file of the repository.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Reads the workspace's metadata with cargo. This may download crates of other platforms, which no
/// build needs.
fn metadata() -> cargo_metadata::Metadata {
    cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked".into()])
        .exec()
        .unwrap()
}

/// Fails with all complaints at once.
#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
