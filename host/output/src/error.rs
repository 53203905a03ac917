//! Errors of writing outputs, each with its path.

use std::path::{Path, PathBuf};

use tar_stream::TarError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// `--formats` contains an unknown format.
    #[error("invalid format ‘{name}’ in --formats")]
    InvalidFormat {
        /// The name as given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A program is missing on the host.
    #[error("{tool} needed but not found")]
    MissingTool {
        /// The program.
        tool: String,
        /// The output that needs it, and why.
        needed_for: String,
    },
    /// The docker format was requested without a name for the image.
    #[error("docker: a target was not specified, use ‘--docker-target’")]
    MissingDockerTarget,
    /// Not a valid container image name: registries and engines would refuse it.
    #[error("`{target}` is not a name for a container image: {reason}")]
    InvalidDockerTarget {
        /// The name.
        target: String,
        /// The reason.
        reason: &'static str,
    },
    /// An output cannot be written at this path.
    #[error("cannot write `{}`: {reason}", .path.display())]
    Unwritable {
        /// The path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Two outputs have the same path.
    #[error("two outputs would both be written to `{}`", .0.display())]
    SamePath(PathBuf),
    /// A disk format was given to the tree writer, or a tree format to the disk writer.
    #[error("the format `{format}` is made from a {wants}")]
    WrongSource {
        /// The format.
        format: &'static str,
        /// The source that it needs.
        wants: &'static str,
    },
    /// An option is unknown or not supported by the format.
    #[error("{format}: option `{option}`: {reason}")]
    BadOption {
        /// The format.
        format: &'static str,
        /// The option as given.
        option: String,
        /// The reason.
        reason: String,
    },
    /// The disk exceeds the maximum size of the format.
    #[error("{format}: a disk of {bytes} bytes is too large, the format ends at {max} bytes")]
    TooLarge {
        /// The format.
        format: &'static str,
        /// Size of the disk in bytes.
        bytes: u64,
        /// Maximum size of the format in bytes.
        max: u64,
    },
    /// A file operation on the host failed.
    #[error("failed to {action} `{}`", .path.display())]
    Io {
        /// The action that failed: "write", "rename", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Reading the source disk failed.
    #[error("failed to read {bytes} bytes at {offset} of the disk")]
    ReadDisk {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        bytes: usize,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The tar stream from the guest failed or ended early.
    #[error("failed to read the tree from the guest")]
    ReadTree(#[source] std::io::Error),
    /// The tar stream from the guest is invalid, or contains something that is refused.
    #[error("the tree from the guest, entry {entry} `{path}`: {reason}")]
    BadTree {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its path, printable and truncated.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A program failed.
    #[error("`{argv}` ended with {status}: {stderr}")]
    Tool {
        /// The command line.
        argv: String,
        /// The exit status of the program.
        status: std::process::ExitStatus,
        /// The last lines of its standard error.
        stderr: String,
    },
    /// A thread of this crate ended without a result, which is a bug.
    #[error("a thread that writes outputs ended unexpectedly")]
    WorkerLost,
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

impl From<TarError> for OutputError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => Self::ReadTree(source),
            TarError::Bad { entry, path, reason } => Self::BadTree { entry, path, reason },
        }
    }
}

impl OutputError {
    /// A remedy for the user, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InvalidFormat { known, .. } => Some(format!("the formats are {known}")),
            Self::MissingTool { tool, needed_for } => Some(format!("install {tool}, {needed_for}")),
            Self::Unwritable { path, .. } if path.starts_with("~") => {
                Some("the shell expands `~` only where a word begins with it: write $HOME".into())
            }
            Self::Io { source, path, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                let dir = path.parent().unwrap_or(Path::new("."));
                Some(format!("make room on the filesystem of `{}`", dir.display()))
            }
            _ => None,
        }
    }

    /// An output that cannot be written at `path`.
    pub(crate) fn unwritable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unwritable { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Results of this crate.
pub type Result<T, E = OutputError> = std::result::Result<T, E>;
