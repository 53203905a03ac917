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
    /// A digest that is none.
    #[error("`{0}` is no digest, such as sha256:HEX or sha512:HEX")]
    NoDigest(String),
    /// A download that failed.
    #[error("cannot download {url}: {reason}")]
    Download {
        /// From where.
        url: String,
        /// Why.
        reason: String,
    },
    /// A file that is no image, or one that cannot be read here.
    #[error("{} cannot be a base image: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A qcow2 file that is damaged.
    #[error("cannot read {}", path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: store::StoreError,
    },
}

impl BaseError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn image(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Image { path: path.into(), reason: reason.into() }
    }
}
