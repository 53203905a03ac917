//! What can go wrong with a shared cache.

use std::io;

use crate::Place;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The text does not name a place.
    #[error("`{text}` is no place for a shared cache: {reason}")]
    Place {
        /// As it was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing there failed.
    #[error("cannot {action} {what} in the shared cache {place}")]
    Transfer {
        /// What was being done.
        action: &'static str,
        /// The file there.
        what: String,
        /// The shared cache.
        place: String,
        /// The cause.
        #[source]
        source: Failure,
    },
    /// Something there is not what its name says.
    #[error("{what} in the shared cache {place} is damaged: {reason}")]
    Damaged {
        /// The shared cache.
        place: String,
        /// The file there.
        what: String,
        /// What is wrong with the file.
        reason: String,
    },
    /// The user's own store.
    #[error("cannot use the store")]
    Store {
        /// The cause.
        #[source]
        source: store::StoreError,
    },
    /// A file on the way.
    #[error("cannot write a temporary file")]
    Temporary {
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A record that no reader would take.
    #[error(
        "what is known about the stage takes {bytes} bytes, more than the {} that are read",
        crate::RECORD_MAX_BYTES
    )]
    RecordTooLarge {
        /// Its size as JSON, in bytes.
        bytes: usize,
    },
    /// A record that cannot be written down.
    #[error("cannot encode what is known about a stage")]
    Encode {
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// Why a transfer failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

impl RemoteError {
    pub(crate) fn transfer(
        action: &'static str,
        place: &Place,
        what: &str,
        source: Failure,
    ) -> Self {
        Self::Transfer { action, what: what.to_owned(), place: place.to_string(), source }
    }
}
