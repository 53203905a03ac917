//! What can be wrong with a base image.

use std::{io, path::PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A file of the host.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another content than was promised.
    #[error("{what} has the {algorithm} {found}, not {expected}")]
    Digest {
        /// The file or URL.
        what: String,
        /// Its name.
        algorithm: &'static str,
        /// What was promised.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The text is not a digest.
    #[error("`{0}` is no digest, such as sha256:HEX or sha512:HEX")]
    NoDigest(String),
    /// A download that failed.
    #[error(transparent)]
    Download(#[from] download::DownloadError),
    /// A file that is no image, or one that cannot be read here.
    #[error("{} cannot be a base image: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A qcow2 file names a backing file that no other source confirms.
    #[error(
        "{} stands on the backing file `{}`, and vbuild opens no file because an image names it",
        path.display(), name.display()
    )]
    Backing {
        /// The image.
        path: PathBuf,
        /// The name in its header.
        name: PathBuf,
    },
    /// A qcow2 header that is damaged, or has a feature that is refused.
    #[error("{} cannot be a base image", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A qcow2 file that is damaged.
    #[error("cannot read {}", path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: store::StoreError,
    },
}

impl BaseError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Backing { .. } => Some(
                "if you know that file: `--allow-backing` allows files in the folder of the image, \
                 `--allow-backing=FILE` one file wherever it is",
            ),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn image(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Image { path: path.into(), reason: reason.into() }
    }
}
