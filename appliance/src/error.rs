//! The errors of building or finding an appliance, with hints for the user.

use std::{error::Error as _, io, path::PathBuf};

use download::DownloadError;

use crate::{
    archive::ArchiveError, deb::DebError, image::ImageError, kernel::KernelError,
    keys::SignatureError, mirror::MirrorError, release::ReleaseError, root::RootError,
    solve::SolveError,
};

/// An error while building or finding an appliance.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The release is not supported.
    #[error("the release `{release}` is unknown; there are `bookworm` and `trixie`")]
    UnknownRelease {
        /// The requested release.
        release: String,
    },
    /// A built-in key is damaged.
    #[error("the keys of Debian cannot be used")]
    Keys(#[from] SignatureError),
    /// No mirror is known.
    #[error("no Debian mirror is known")]
    Mirror(#[from] MirrorError),
    /// The state of the release cannot be determined or is not trusted.
    #[error("cannot read the package indices of the release")]
    Archive(#[from] ArchiveError),
    /// The packages cannot be resolved.
    #[error("cannot choose the packages of the appliance")]
    Solve(#[from] SolveError),
    /// A package cannot be downloaded.
    #[error("cannot fetch the packages of the appliance")]
    Fetch(#[from] DownloadError),
    /// A package cannot be read.
    #[error("cannot unpack the packages of the appliance")]
    Deb(#[from] DebError),
    /// The kernel cannot be extracted.
    #[error("cannot take the kernel out of its package")]
    Kernel(#[from] KernelError),
    /// The tools root cannot be assembled.
    #[error("cannot put the tool root together")]
    Root(#[from] RootError),
    /// The image cannot be written.
    #[error("cannot write the tool root")]
    Image(#[from] ImageError),
    /// The first-stage machine did not run.
    #[error("the machine that configures the appliance did not run")]
    FirstStage(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A script failed in the first stage.
    #[error("the configuration of `{package}` failed with status {status}{}", tail_text(tail))]
    Configure {
        /// The package, or the closing step.
        package: String,
        /// The exit status of the failed step.
        status: String,
        /// The last lines of output.
        tail: Vec<String>,
    },
    /// The first stage ended early.
    #[error(
        "the configuration of the appliance ended early, with status {status}{}",
        tail_text(tail)
    )]
    EndedEarly {
        /// The exit status of the driver.
        status: i32,
        /// The last lines of output.
        tail: Vec<String>,
    },
    /// The first stage did not unmount the filesystem cleanly.
    #[error("the machine that configures the appliance did not unmount `{}` cleanly", path.display())]
    Unclean {
        /// The image.
        path: PathBuf,
    },
    /// A file or directory of the cache cannot be used.
    #[error("{action} `{}`", path.display())]
    File {
        /// The action: `cannot …`.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The manifest of an appliance in the cache is damaged.
    #[error("the appliance `{}` has a damaged manifest ({why})", path.display())]
    Manifest {
        /// The path of the manifest.
        path: PathBuf,
        /// The reason.
        why: String,
    },
}

/// The kind of an error, which determines the exit code and fallbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is invalid: release, package name, mirror URL.
    Request,
    /// The mirror is unreachable or lacks files.
    MirrorUnreachable,
    /// A signature is invalid, or the mirror serves an old state.
    SignatureWrong,
    /// A file does not have the signed digest.
    HashWrong,
    /// The disk of the host is full.
    DiskFull,
    /// The first stage failed.
    FirstStage,
    /// Anything else.
    Other,
}

impl Error {
    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        if self.is_disk_full() {
            return ErrorKind::DiskFull;
        }
        match self {
            Self::UnknownRelease { .. } | Self::Mirror(_) | Self::Solve(_) => ErrorKind::Request,
            Self::Archive(ArchiveError::Fetch(error)) | Self::Fetch(error) => fetch_kind(error),
            Self::Archive(ArchiveError::Release(
                ReleaseError::Signature { .. }
                | ReleaseError::Expired { .. }
                | ReleaseError::RolledBack { .. },
            )) => ErrorKind::SignatureWrong,
            Self::FirstStage(_)
            | Self::Configure { .. }
            | Self::EndedEarly { .. }
            | Self::Unclean { .. } => ErrorKind::FirstStage,
            _ => ErrorKind::Other,
        }
    }

    /// Returns a hint for the user, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Fetch(DownloadError::Certificates { .. }) => {
                return Some("give a file with PEM certificates");
            }
            Self::Fetch(DownloadError::Proxy(_)) => {
                return Some(
                    "name a proxy that works, or say with NO_PROXY='*' that none shall be used",
                );
            }
            _ => {}
        }
        Some(match self.kind() {
            ErrorKind::MirrorUnreachable => {
                "check the network, `http_proxy` and `https_proxy`, or name another mirror with `--mirror URL`"
            }
            ErrorKind::SignatureWrong => {
                "the mirror or something on the way to it serves what Debian did not sign, or an old state; try another mirror with `--mirror URL`"
            }
            ErrorKind::HashWrong => {
                "the mirror may be in the middle of an update; try again later, or another mirror with `--mirror URL`"
            }
            ErrorKind::DiskFull => {
                "make room, or put the cache elsewhere; `vbuild appliance gc` removes appliances that are not used"
            }
            ErrorKind::Request if matches!(self, Self::Mirror(_)) => {
                "name a mirror with `--mirror URL`"
            }
            _ => return None,
        })
    }

    fn is_disk_full(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = self.source();
        while let Some(error) = source {
            let full = error.downcast_ref::<io::Error>().is_some_and(|error| {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            });
            if full {
                return true;
            }
            source = error.source();
        }
        false
    }

    pub(crate) fn file(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

fn fetch_kind(error: &DownloadError) -> ErrorKind {
    match error {
        DownloadError::Unreachable { .. }
        | DownloadError::Status { .. }
        | DownloadError::Broken { .. }
        | DownloadError::Redirect { .. }
        | DownloadError::TooLarge { .. }
        | DownloadError::Wasteful { .. }
        | DownloadError::NotText { .. } => ErrorKind::MirrorUnreachable,
        DownloadError::WrongDigest { .. } => ErrorKind::HashWrong,
        DownloadError::Certificates { .. }
        | DownloadError::Proxy(_)
        | DownloadError::Url { .. } => ErrorKind::Request,
        DownloadError::File { .. } => ErrorKind::Other,
    }
}

fn tail_text(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!("; its last words:\n{}", tail.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen_through_the_chain() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::Fetch(DownloadError::File { path: "x".into(), source });
        assert_eq!(error.kind(), ErrorKind::DiskFull);
        assert!(error.hint().unwrap().contains("make room"));
    }

    #[test]
    fn kinds() {
        let unreachable = DownloadError::Unreachable { url: "u".to_owned(), why: "w".to_owned() };
        let error = Error::Archive(ArchiveError::Fetch(unreachable));
        assert_eq!(error.kind(), ErrorKind::MirrorUnreachable);
        let error = Error::UnknownRelease { release: "x".to_owned() };
        assert_eq!(error.kind(), ErrorKind::Request);
    }
}
