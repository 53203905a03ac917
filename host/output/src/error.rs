//! What can go wrong while an output is written, with the path on every one.

use std::path::{Path, PathBuf};

use tar_stream::TarError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// `--formats` names something that is no format.
    #[error("invalid format ‘{0}’ in --formats")]
    InvalidFormat(String),
    /// A program is missing on the host.
    #[error("{tool} needed but not found")]
    MissingTool {
        /// The program.
        tool: String,
        /// Which output needs it, and why.
        needed_for: String,
    },
    /// The docker format was asked for without a name for the image.
    #[error("docker: a target was not specified, use ‘--docker-target’")]
    MissingDockerTarget,
    /// A name for a container image that registries and engines would refuse.
    #[error("`{target}` is no name for a container image: {reason}")]
    InvalidDockerTarget {
        /// The name.
        target: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path that an output cannot have.
    #[error("cannot write `{}`: {reason}", .path.display())]
    Unwritable {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two outputs would be the same file.
    #[error("two outputs would both be written to `{}`", .0.display())]
    SamePath(PathBuf),
    /// A disk format was given to the tree writer or the other way round.
    #[error("the format `{format}` is made from a {wants}")]
    WrongSource {
        /// The format.
        format: &'static str,
        /// What it is made from.
        wants: &'static str,
    },
    /// An option that the format does not know or cannot fulfil.
    #[error("{format}: option `{option}`: {reason}")]
    BadOption {
        /// The format.
        format: &'static str,
        /// The option as it was given.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk is larger than the format can describe.
    #[error("{format}: a disk of {bytes} bytes is too large, the format ends at {max} bytes")]
    TooLarge {
        /// The format.
        format: &'static str,
        /// Size of the disk.
        bytes: u64,
        /// Largest size of the format.
        max: u64,
    },
    /// A file operation on the host failed.
    #[error("failed to {action} `{}`", .path.display())]
    Io {
        /// What was being done: "write", "rename", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Reading the disk that is being converted failed.
    #[error("failed to read {bytes} bytes at {offset} of the disk")]
    ReadDisk {
        /// Offset in bytes.
        offset: u64,
        /// How many.
        bytes: usize,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The tar stream from the guest ended early or broke.
    #[error("failed to read the tree from the guest")]
    ReadTree(#[source] std::io::Error),
    /// The tar stream from the guest is not one, or asks for something refused.
    #[error("the tree from the guest, entry {entry} `{path}`: {reason}")]
    BadTree {
        /// Number of the entry, from 1.
        entry: u64,
        /// Its path, printable and bounded.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A program failed.
    #[error("`{argv}` ended with {status}: {stderr}")]
    Tool {
        /// The command line.
        argv: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Last lines of its standard error, bounded.
        stderr: String,
    },
    /// A thread of this crate ended without an answer, which is a bug here.
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
    /// What the user can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InvalidFormat(_) => {
                let names: Vec<&str> = crate::FORMATS.iter().map(|f| f.name).collect();
                Some(format!("the formats are {}", names.join(", ")))
            }
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

    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Results of this crate.
pub type Result<T, E = OutputError> = std::result::Result<T, E>;
