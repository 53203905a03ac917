//! Errors of downloads.

use std::{io, path::PathBuf};

use reach::InvalidProxy;

/// A download that failed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The text is not a supported URL.
    #[error("`{url}` is not a URL that can be fetched ({why})")]
    Url {
        /// The text.
        url: String,
        /// The reason.
        why: String,
    },
    /// The name cannot be resolved, or the server is unreachable or does not respond.
    #[error("cannot reach `{url}` ({why})")]
    Unreachable {
        /// The requested URL.
        url: String,
        /// The network error.
        why: String,
    },
    /// The server responded with an error status.
    #[error("`{url}` was answered with status {status}")]
    Status {
        /// The requested URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server redirects to a refused URL.
    #[error("`{url}` redirects to `{to}`, {why}")]
    Redirect {
        /// The requested URL.
        url: String,
        /// The redirect target.
        to: String,
        /// The reason.
        why: &'static str,
    },
    /// Every attempt of the transfer ended early.
    #[error("the transfer of `{url}` breaks off ({why})")]
    Broken {
        /// The requested URL.
        url: String,
        /// The network error.
        why: String,
    },
    /// The file exceeds the size limit.
    #[error("`{url}` is longer than {limit} bytes")]
    TooLarge {
        /// The requested URL.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// All attempts together transferred more than the file can need.
    #[error(
        "`{url}` was given up after {bytes} bytes, because its transfer restarts again and again"
    )]
    Wasteful {
        /// The requested URL.
        url: String,
        /// Bytes received.
        bytes: u64,
    },
    /// The data has another digest than expected.
    #[error("`{url}` has the {algorithm} digest `{found}` instead of `{wanted}`")]
    WrongDigest {
        /// The requested URL.
        url: String,
        /// The digest algorithm.
        algorithm: &'static str,
        /// The expected digest.
        wanted: String,
        /// The actual digest.
        found: String,
    },
    /// The received text is not UTF-8.
    #[error("`{url}` is not a text")]
    NotText {
        /// The requested URL.
        url: String,
    },
    /// A file cannot be written or read.
    #[error("cannot write `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The additional certificates cannot be used.
    #[error("the extra certificates cannot be used ({why})")]
    Certificates {
        /// The reason.
        why: String,
    },
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
}
