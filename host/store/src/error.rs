//! Errors of the store.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use crate::Digest;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("failed to {action} `{}`", .path.display())]
    Io {
        /// The action that failed: "open", "write", …
        action: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directory contains a store of another version.
    #[error("the store `{}` has version {found}, this vbuild knows version {known}", .path.display())]
    OtherVersion {
        /// The directory of the store.
        path: PathBuf,
        /// The version of the store.
        found: u32,
        /// The version that this program supports.
        known: u32,
    },
    /// The directory contains something that is not a store.
    #[error("`{}` is no store of vbuild: {reason}", .path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// The source of the data to store cannot be read.
    #[error("failed to read what is to be stored")]
    Source(#[source] io::Error),
    /// The extents of a layer to store are invalid.
    #[error("a layer cannot be stored: {0}")]
    BadLayer(&'static str),
    /// Data from the store cannot be written to its target.
    #[error("failed to write what comes out of the store")]
    Target(#[source] io::Error),
    /// The object is not in the store.
    #[error("the object {0} is not in the store")]
    Missing(Digest),
    /// The object is damaged, and has been removed from the store.
    #[error("the object {digest} is damaged and was removed: {reason}")]
    Damaged {
        /// The digest that names the object.
        digest: Digest,
        /// The reason why it is damaged.
        reason: String,
    },
    /// A qcow2 file cannot be read.
    #[error("`{}` cannot be read as qcow2: {reason}", .path.display())]
    Qcow2 {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
}

impl StoreError {
    /// Whether the error only means that something must be built again: an object is missing or
    /// damaged.
    #[must_use]
    pub fn is_miss(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Damaged { .. })
    }

    /// Returns what the user can do about the error, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherVersion { path, .. } => Some(format!(
                "use the vbuild that made it, another --cache-dir, or remove `{}`",
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

    /// Whether the cause is a shortage of this moment, and says nothing about the file.
    pub(crate) fn is_passing(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let passing = [Errno::ENOMEM, Errno::ENFILE, Errno::EMFILE, Errno::ESTALE];
        source.raw_os_error().is_some_and(|code| passing.contains(&Errno::from_raw(code)))
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// The result type of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
