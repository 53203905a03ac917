//! Checks of the user's helper drive before a machine sees it: it exists, has the format that the
//! user named, looks like a disk, and is not used by another process.
//!
//! A guest can write anything to its drive, including the header of a format that names other files
//! of the host. The content therefore never decides the format: without `--drive-format` a drive is
//! raw, and one that begins like a file of another format is refused.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base_image::Magic;
use machine::DriveFormat;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::{
    error::{CommandError, Kind},
    settings::Settings,
};

/// Minimum size of a drive in bytes; a smaller one has no room for a useful filesystem.
const DRIVE_MIN_BYTES: u64 = 64 * 1024;

/// The reason why a drive cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveError {
    /// The drive cannot be opened.
    #[error("cannot open the drive {}", path.display())]
    Open {
        /// The path of the drive.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not a disk image.
    #[error("{} is no disk image: {reason}", path.display())]
    NoDisk {
        /// The path of the drive.
        path: PathBuf,
        /// The reason why it is not a disk image.
        reason: String,
    },
    /// The content begins like a file of another format, and the user named no format.
    #[error(
        "the drive {} begins as a {} file does, but without --drive-format a drive is raw",
        path.display(), claimed.name()
    )]
    Claims {
        /// The path of the drive.
        path: PathBuf,
        /// The format that the content claims to have.
        claimed: Magic,
    },
    /// The user named the format qcow2, but the header is not valid or has a refused feature, such
    /// as a backing file.
    #[error("the drive {} cannot be used as qcow2", path.display())]
    Header {
        /// The path of the drive.
        path: PathBuf,
        /// The error in the header.
        #[source]
        source: io::Error,
    },
    /// Another process uses the drive.
    #[error("the drive {} is in use by another vbuild", .0.display())]
    InUse(PathBuf),
}

impl DriveError {
    /// Returns a hint on what the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("make one with `vbuild cache create {} --size 10G`", path.display()))
            }
            Self::Claims { claimed, .. } => {
                let guest = "a guest of an earlier build can have written that over its drive, to \
                             lead this build to other files of yours. `--drive-format raw` uses \
                             the drive as the plain disk that `vbuild cache create` makes";
                Some(match claimed {
                    Magic::Qcow2 => {
                        format!("{guest}; `--drive-format qcow2` is for a drive made as qcow2")
                    }
                    other => format!("{guest}; {} cannot be used", other.name()),
                })
            }
            Self::InUse(_) => Some("wait for the other build, or use a drive of its own".into()),
            _ => None,
        }
    }
}

/// A helper drive that is locked for this process until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldDrive {
    /// The canonical path of the drive.
    pub(crate) path: PathBuf,
    /// The format of the drive.
    pub(crate) format: DriveFormat,
    _lock: Flock<File>,
}

impl From<DriveError> for CommandError {
    fn from(error: DriveError) -> Self {
        let hint = error.hint();
        Self::new(Kind::Usage, error).maybe_hint(hint)
    }
}

impl HeldDrive {
    /// Checks and locks the drive of the settings, if they name one.
    ///
    /// # Errors
    /// Fails if the drive cannot be used.
    pub(crate) fn of(settings: &Settings) -> Result<Option<Self>, DriveError> {
        let Some(path) = &settings.drive else { return Ok(None) };
        hold(path, settings.drive_format).map(Some)
    }
}

/// Checks a drive and locks it. Without a format, the drive is raw.
///
/// # Errors
/// Fails if the drive cannot be used, with the reason.
pub(crate) fn hold(path: &Path, format: Option<DriveFormat>) -> Result<HeldDrive, DriveError> {
    let (file, format) = checked(path, format)?;
    let open = |source| DriveError::Open { path: path.to_owned(), source };
    let path = std::fs::canonicalize(path).map_err(open)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| DriveError::InUse(path.clone()))?;
    Ok(HeldDrive { path, format, _lock: lock })
}

/// Checks a drive without locking it: another build may be using it.
///
/// # Errors
/// Fails if the drive cannot be used, with the reason.
pub(crate) fn check(path: &Path, format: Option<DriveFormat>) -> Result<(), DriveError> {
    checked(path, format).map(drop)
}

fn checked(path: &Path, format: Option<DriveFormat>) -> Result<(File, DriveFormat), DriveError> {
    let open = |source| DriveError::Open { path: path.to_owned(), source };
    let no_disk =
        |reason: &str| DriveError::NoDisk { path: path.to_owned(), reason: reason.to_owned() };
    // With O_NONBLOCK, opening does not wait if there is a pipe or a terminal instead of a file.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let metadata = std::fs::metadata(path).map_err(open)?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(no_disk("it is neither a regular file nor a block device"));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(open)?;
    if format.is_none()
        && let Some(claimed) = Magic::read(&file).map_err(open)?
    {
        return Err(DriveError::Claims { path: path.to_owned(), claimed });
    }
    let format = format.unwrap_or(DriveFormat::Raw);
    if format == DriveFormat::Qcow2 {
        let header = qcow2::Header::read(&file);
        let checked = header.and_then(|header| header.check_standalone().map_err(Into::into));
        checked.map_err(|source| DriveError::Header { path: path.to_owned(), source })?;
    }
    let bytes = file.seek(SeekFrom::End(0)).map_err(open)?;
    if bytes < DRIVE_MIN_BYTES || (format == DriveFormat::Raw && bytes % 512 != 0) {
        return Err(no_disk(&format!("its size of {bytes} bytes is not that of a disk")));
    }
    Ok((file, format))
}

#[cfg(test)]
mod tests {
    use qcow2::{Backing, BackingFormat, create_layer};

    use super::*;

    fn file(bytes: &[u8], len: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file.as_file().set_len(len).unwrap();
        file
    }

    fn qcow2(backing: Option<&str>) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let backing = backing.map(|name| Backing::new(Path::new(name), BackingFormat::Raw));
        create_layer(file.as_file(), 1 << 20, backing).unwrap();
        file
    }

    #[test]
    fn a_drive_is_what_the_user_says() {
        let raw = file(b"", 1 << 20);
        assert_eq!(hold(raw.path(), None).unwrap().format, DriveFormat::Raw);
        let made = qcow2(None);
        let held = hold(made.path(), Some(DriveFormat::Qcow2)).unwrap();
        assert_eq!(held.format, DriveFormat::Qcow2);
        drop(held);
        assert_eq!(
            hold(made.path(), Some(DriveFormat::Raw)).unwrap().format,
            DriveFormat::Raw,
            "raw is the user's word too"
        );
        let text = file(b"hello", 5);
        assert!(matches!(hold(text.path(), None), Err(DriveError::NoDisk { .. })));
        let wrong = hold(raw.path(), Some(DriveFormat::Qcow2)).unwrap_err();
        assert!(matches!(wrong, DriveError::Header { .. }), "{wrong:?}");
    }

    /// What root in the guest of an earlier build can do.
    #[test]
    fn a_drive_that_claims_a_format_is_refused_by_name() {
        let heads: [&[u8]; 4] = [b"QFI\xfb\0\0\0\x03", b"KDMV", b"vhdxfile", b"conectix"];
        for head in heads {
            let drive = file(head, 1 << 20);
            let error = hold(drive.path(), None).unwrap_err();
            assert!(matches!(error, DriveError::Claims { .. }), "{error:?}");
            let name = drive.path().display().to_string();
            assert!(error.to_string().contains(&name), "{error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("a guest") && hint.contains("--drive-format raw"), "{hint}");
            assert!(hold(drive.path(), Some(DriveFormat::Raw)).is_ok());
        }
    }

    #[test]
    fn a_qcow2_drive_stands_alone() {
        let over = qcow2(Some("/etc/passwd"));
        let error = hold(over.path(), Some(DriveFormat::Qcow2)).unwrap_err();
        let DriveError::Header { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("/etc/passwd"), "{source}");
        let made = qcow2(None);
        for (at, byte, reason) in [(79, 4, "external data"), (72, 1, "not known")] {
            let file = qcow2(None);
            let head = std::fs::read(made.path()).unwrap();
            let mut head = head[..128].to_vec();
            head[at] = byte;
            std::os::unix::fs::FileExt::write_all_at(file.as_file(), &head, 0).unwrap();
            let error = hold(file.path(), Some(DriveFormat::Qcow2)).unwrap_err();
            let DriveError::Header { source, .. } = &error else { panic!("{error:?}") };
            assert!(source.to_string().contains(reason), "{source}");
        }
    }

    #[test]
    fn a_held_drive_is_in_use_and_a_missing_one_says_how_to_make_it() {
        let raw = file(b"", 1 << 20);
        let held = hold(raw.path(), None).unwrap();
        assert!(matches!(hold(raw.path(), None), Err(DriveError::InUse(_))));
        drop(held);
        assert!(hold(raw.path(), None).is_ok());
        let missing = hold(Path::new("/nonexistent/cache.img"), None).unwrap_err();
        assert!(missing.hint().unwrap().contains("vbuild cache create"));
        let directory = hold(Path::new("/"), None).unwrap_err();
        assert!(directory.to_string().contains("neither a regular file"));
    }
}
