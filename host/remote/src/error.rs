//! Errors of the shared cache.

use std::io;

use crate::Place;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A text does not name a valid place, or the place cannot be used.
    #[error("`{text}` is no place for a shared cache: {reason}")]
    Place {
        /// The text of the user.
        text: String,
        /// The reason.
        reason: String,
    },
    /// A file of the shared cache cannot be read or written.
    #[error("cannot {action} {what} in the shared cache {place}")]
    Transfer {
        /// The action that failed: "get", "put", …
        action: &'static str,
        /// The path of the file in the shared cache.
        what: String,
        /// The place of the shared cache.
        place: String,
        /// The cause.
        #[source]
        source: Failure,
    },
    /// A file of the shared cache does not have the content that its name requires.
    #[error("{what} in the shared cache {place} is damaged: {reason}")]
    Damaged {
        /// The place of the shared cache.
        place: String,
        /// The path of the file in the shared cache.
        what: String,
        /// The reason why the file is damaged.
        reason: String,
    },
    /// The user's own store cannot be read or written.
    #[error("cannot use the store")]
    Store {
        /// The cause.
        #[source]
        source: store::StoreError,
    },
    /// A temporary file, for data on the way, cannot be used.
    #[error("cannot write a temporary file")]
    Temporary {
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A record is larger than readers accept.
    #[error(
        "what is known about the stage takes {bytes} bytes, more than the {} that are read",
        crate::RECORD_MAX_BYTES
    )]
    RecordTooLarge {
        /// The size of the record as JSON, in bytes.
        bytes: usize,
    },
    /// A record cannot be encoded as JSON.
    #[error("cannot encode what is known about a stage")]
    Encode {
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// The cause of a failed transfer.
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
