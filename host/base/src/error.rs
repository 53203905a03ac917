//! Errors of base images.

use std::{io, path::PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A file operation on the host failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The content has another digest than expected.
    #[error("{what} has the {algorithm} {found}, not {expected}")]
    Digest {
        /// The file or URL.
        what: String,
        /// The digest algorithm.
        algorithm: &'static str,
        /// The expected digest.
        expected: String,
        /// The actual digest.
        found: String,
    },
    /// Not a valid digest.
    #[error("`{0}` is not a digest, such as sha256:HEX or sha512:HEX")]
    NoDigest(String),
    /// A download that failed.
    #[error(transparent)]
    Download(#[from] download::DownloadError),
    /// The file is not an image, or its format is not supported.
    #[error("{} cannot be a base image: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A qcow2 file names a backing file that neither the user nor a note confirms.
    #[error(
        "{} has the backing file `{}`, and vbuild opens no file because an image names it",
        path.display(), name.display()
    )]
    Backing {
        /// The image.
        path: PathBuf,
        /// The name in its header.
        name: PathBuf,
    },
    /// A qcow2 header is damaged, or has an unsupported feature.
    #[error("{} cannot be a base image", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A qcow2 file is damaged.
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
    /// A remedy for the user.
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
