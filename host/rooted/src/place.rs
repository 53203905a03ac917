//! Where a path leads, before anything is opened.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// A path without `.` and `..`, which are taken as they are written.
#[must_use]
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// Where a path would be, without links as far as it exists.
#[must_use]
pub fn real_place(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real_place(parent).join(name),
        _ => path.to_owned(),
    }
}
