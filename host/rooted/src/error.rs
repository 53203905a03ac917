//! Why a file below a directory is refused.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::walk::{DEPTH_MAX, ENTRIES_MAX, Kind};

/// A file or directory that cannot be used, and the reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// The action: `open`, `list`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The path contains a symbolic link where none is followed.
    #[error("`{}` is a symbolic link or lies behind one, which is not followed here", .0.display())]
    Link(PathBuf),
    /// The path, or a link in it, leads out of the directory.
    #[error("`{}` leads out of `{}`", path.display(), root.display())]
    Outside {
        /// The path as given.
        path: PathBuf,
        /// The directory.
        root: PathBuf,
    },
    /// The file has the wrong type.
    #[error("`{}` is a {found}, not a {wanted}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The actual type.
        found: Kind,
        /// The required type.
        wanted: Kind,
    },
    /// A directory that must belong to the user has another owner.
    #[error("`{}` belongs to the user {owner}, not to {user}", path.display())]
    Owner {
        /// The directory, or a link in its place.
        path: PathBuf,
        /// The actual owner.
        owner: u32,
        /// The required owner.
        user: u32,
    },
    /// Other users may have written to a directory that must be private.
    #[error("`{}` can be written by other users (mode {mode:04o})", path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// The permission bits of the directory.
        mode: u32,
    },
    /// Other users can read or change a secret.
    #[error("`{}` can be read or changed by other users (mode {mode:04o})", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The permission bits of the file.
        mode: u32,
    },
    /// Other users can replace a directory, because its parent directory is world-writable without
    /// the sticky bit.
    #[error("`{}` lets every user replace what is in it (mode {mode:04o})", path.display())]
    NotSticky {
        /// The parent directory.
        path: PathBuf,
        /// The permission bits of the parent directory.
        mode: u32,
    },
    /// A tree is nested too deeply.
    #[error("`{}` is nested more than {DEPTH_MAX} directories deep", .0.display())]
    TooDeep(PathBuf),
    /// A tree has too many files.
    #[error("`{}` holds more than {ENTRIES_MAX} files", .0.display())]
    TooMany(PathBuf),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Whether the file does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the directory exists but is not private and cannot be made so.
    #[must_use]
    pub fn is_distrust(&self) -> bool {
        matches!(
            self,
            Self::Owner { .. } | Self::Writable { .. } | Self::NotSticky { .. } | Self::Link(_)
        ) || matches!(self, Self::Io { action, .. } if *action == crate::private::MAKE_PRIVATE)
    }

    /// A remedy for the user.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Owner { path, .. } => {
                format!("choose another directory, or remove `{}` if you may", path.display())
            }
            Self::Writable { path, .. } => format!(
                "remove `{0}`, or, if only you have written to it, `chmod 700 {0}`",
                path.display()
            ),
            Self::Exposed { path, .. } => format!("`chmod 600 {}`", path.display()),
            Self::NotSticky { path, .. } => {
                format!("choose another directory, or `chmod +t {}`", path.display())
            }
            _ => return None,
        })
    }
}

/// Converts to an I/O error, for functions that return those.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::Owner { .. }
            | Error::Writable { .. }
            | Error::Exposed { .. }
            | Error::NotSticky { .. } => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
