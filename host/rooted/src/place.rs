//! Normalizes paths without opening them.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// Removes `.` and `..` from a path lexically.
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

/// Resolves the links of a path as far as it exists.
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
