//! What can go wrong in the store, with the path on every one.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::Digest;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("failed to {action} `{}`", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directory is a store of a newer vbuild.
    #[error("the store `{}` has version {found}, this vbuild knows version {known}", .path.display())]
    Newer {
        /// The store.
        path: PathBuf,
        /// The version of the store.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// The directory holds something that is no store.
    #[error("`{}` is no store of vbuild: {reason}", .path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// What should be stored could not be read.
    #[error("failed to read what is to be stored")]
    Source(#[source] io::Error),
    /// What is to be stored breaks the rules of its form.
    #[error("a layer cannot be stored: {0}")]
    BadLayer(&'static str),
    /// What comes out of the store could not be written.
    #[error("failed to write what comes out of the store")]
    Target(#[source] io::Error),
    /// The object is not in the store.
    #[error("the object {0} is not in the store")]
    Missing(Digest),
    /// The object is damaged; it has been taken out of the store.
    #[error("the object {digest} is damaged and was removed: {reason}")]
    Damaged {
        /// The object.
        digest: Digest,
        /// How that was seen.
        reason: String,
    },
    /// A qcow2 file cannot be read.
    #[error("`{}` cannot be read as qcow2: {reason}", .path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

impl StoreError {
    /// Whether the error only means that something has to be built again: an
    /// object that is missing or damaged.
    #[must_use]
    pub fn is_miss(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Damaged { .. })
    }

    /// What the user can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Newer { path, .. } => Some(format!(
                "use a newer vbuild, another --cache-dir, or remove `{}`",
                path.display()
            )),
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::StorageFull => {
                let dir = path.parent().unwrap_or(Path::new("."));
                let dir = dir.display();
                Some(format!("make room on the filesystem of `{dir}`, or run `vbuild store gc`"))
            }
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Results of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
