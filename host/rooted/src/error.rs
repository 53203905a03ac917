//! Why a file beneath a directory cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::walk::{DEPTH_MAX, ENTRIES_MAX, Kind};

/// A file or directory that cannot be used, by name and reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: `open`, `list`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A symbolic link stands where none is followed.
    #[error("`{}` is a symbolic link or lies behind one, which is not followed here", .0.display())]
    Link(PathBuf),
    /// The path, or a link in it, leads out of the directory.
    #[error("`{}` leads out of `{}`", path.display(), root.display())]
    Outside {
        /// The path as it was given.
        path: PathBuf,
        /// The directory.
        root: PathBuf,
    },
    /// The file is of another kind than the one that is needed.
    #[error("`{}` is a {found}, not a {wanted}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: Kind,
        /// What it must be.
        wanted: Kind,
    },
    /// A directory that must be the user's own belongs to somebody else.
    #[error("`{}` belongs to the user {owner}, not to {user}", path.display())]
    Owner {
        /// The directory, or the link in its place.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who needs it.
        user: u32,
    },
    /// Other users could have put something into a directory that must be the
    /// user's own.
    #[error("`{}` can be written by other users (mode {mode:04o})", path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Other users can read a secret, or change it.
    #[error("`{}` can be read or changed by other users (mode {mode:04o})", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Other users can replace a directory, because the one it lies in lets everybody
    /// rename what is in it.
    #[error("`{}` lets every user replace what is in it (mode {mode:04o})", path.display())]
    NotSticky {
        /// The outer directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A tree is nested too deeply.
    #[error("`{}` is nested more than {DEPTH_MAX} directories deep", .0.display())]
    TooDeep(PathBuf),
    /// A tree holds too many files.
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

    /// Whether the directory exists but is not the user's alone, or cannot be made so.
    #[must_use]
    pub fn is_distrust(&self) -> bool {
        matches!(
            self,
            Self::Owner { .. } | Self::Writable { .. } | Self::NotSticky { .. } | Self::Link(_)
        ) || matches!(self, Self::Io { action, .. } if *action == crate::private::MAKE_PRIVATE)
    }

    /// What the user can do about it.
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

/// As an I/O error, for functions that give those.
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
