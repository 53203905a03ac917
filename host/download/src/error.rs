//! Why a download failed.

use std::{io, path::PathBuf};

use reach::InvalidProxy;

/// A download that failed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The text is not the URL of a download.
    #[error("`{url}` is not a URL that can be fetched ({why})")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// No connection, no name, or no answer.
    #[error("cannot reach `{url}` ({why})")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the network said.
        why: String,
    },
    /// The server answered, but not with the file.
    #[error("`{url}` was answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server names another place that is not gone to.
    #[error("`{url}` redirects to `{to}`, {why}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where the server wants it to be fetched.
        to: String,
        /// Why it is not.
        why: &'static str,
    },
    /// The transfer ended early every time.
    #[error("the transfer of `{url}` breaks off ({why})")]
    Broken {
        /// What was asked for.
        url: String,
        /// What the network said.
        why: String,
    },
    /// There is more of it than may be.
    #[error("`{url}` is longer than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The largest size that is taken.
        limit: u64,
    },
    /// The server sent more in all attempts together than the file can need.
    #[error(
        "`{url}` was given up after {bytes} bytes, because its transfer begins anew again and again"
    )]
    Wasteful {
        /// What was asked for.
        url: String,
        /// What has been received.
        bytes: u64,
    },
    /// The bytes are not those that were promised.
    #[error("`{url}` has the {algorithm} digest `{found}` instead of `{wanted}`")]
    WrongDigest {
        /// What was asked for.
        url: String,
        /// The kind of digest.
        algorithm: &'static str,
        /// The digest that was promised.
        wanted: String,
        /// The digest of what came.
        found: String,
    },
    /// The text that came is not UTF-8.
    #[error("`{url}` is not a text")]
    NotText {
        /// What was asked for.
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
    /// The extra certificates cannot be used.
    #[error("the extra certificates cannot be used ({why})")]
    Certificates {
        /// The reason.
        why: String,
    },
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
}
