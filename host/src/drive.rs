//! The user's helper drive, before any machine sees it: it exists, its format is
//! known, it looks like a disk, and nobody else uses it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use machine::DriveFormat;
use nix::fcntl::{Flock, FlockArg};

/// A drive smaller than this holds no filesystem worth mounting.
const DRIVE_MIN_BYTES: u64 = 64 * 1024;

/// Why a drive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// It cannot be opened.
    #[error("cannot open the drive {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is no disk image.
    #[error("{} is no disk image: {reason}", path.display())]
    NoDisk {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another process holds it.
    #[error("the drive {} is in use by another vbuild", .0.display())]
    InUse(PathBuf),
}

impl DriveError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("make one with `vbuild cache create {} --size 10G`", path.display()))
            }
            Self::InUse(_) => Some("wait for the other build, or use a drive of its own".into()),
            _ => None,
        }
    }
}

/// A drive that is held for this process until dropped.
#[derive(Debug)]
pub struct HeldDrive {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DriveFormat,
    _lock: Flock<File>,
}

/// Checks a drive and takes it.
///
/// # Errors
/// When it cannot be used, with the reason.
pub fn hold(path: &Path, format: Option<DriveFormat>) -> Result<HeldDrive, DriveError> {
    let open = |source| DriveError::Open { path: path.to_owned(), source };
    let no_disk =
        |reason: &str| DriveError::NoDisk { path: path.to_owned(), reason: reason.to_owned() };
    let metadata = std::fs::metadata(path).map_err(open)?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(no_disk("it is neither a regular file nor a block device"));
    }
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(open)?;
    let found = probe(&mut file).map_err(open)?;
    let format = match (format, found) {
        (Some(format), _) => format,
        (None, Probed::Qcow2) => DriveFormat::Qcow2,
        (None, Probed::Other(name)) => {
            return Err(no_disk(&format!("it is a {name} file; raw and qcow2 can be used")));
        }
        (None, Probed::Raw) => DriveFormat::Raw,
    };
    if format == DriveFormat::Qcow2 && found != Probed::Qcow2 {
        return Err(no_disk("it does not begin as a qcow2 file does"));
    }
    let bytes = file.seek(SeekFrom::End(0)).map_err(open)?;
    if bytes < DRIVE_MIN_BYTES || (format == DriveFormat::Raw && bytes % 512 != 0) {
        return Err(no_disk(&format!("its size of {bytes} bytes is not that of a disk")));
    }
    let path = std::fs::canonicalize(path).map_err(open)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| DriveError::InUse(path.clone()))?;
    Ok(HeldDrive { path, format, _lock: lock })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probed {
    Raw,
    Qcow2,
    Other(&'static str),
}

/// Looks at the first bytes of a file that the user named. Only the user's own
/// word makes a file with a foreign magic a raw disk, so that a guest that wrote
/// one cannot turn its raw drive into something else.
fn probe(file: &mut File) -> io::Result<Probed> {
    let mut head = Vec::new();
    file.by_ref().take(16).read_to_end(&mut head)?;
    Ok(match head.as_slice() {
        [b'Q', b'F', b'I', 0xfb, ..] => Probed::Qcow2,
        [b'K', b'D', b'M', b'V', ..] => Probed::Other("vmdk"),
        [b'v', b'h', b'd', b'x', b'f', b'i', b'l', b'e', ..] => Probed::Other("vhdx"),
        [b'c', b'o', b'n', b'e', b'c', b't', b'i', b'x', ..] => Probed::Other("vhd"),
        [0x1f, 0x8b, ..] => Probed::Other("gzip"),
        [b'P', b'K', 3, 4, ..] => Probed::Other("zip"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Probed::Other("xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Probed::Other("zstd"),
        _ => Probed::Raw,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8], len: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file.as_file().set_len(len).unwrap();
        file
    }

    #[test]
    fn formats_are_found_or_refused() {
        let raw = file(b"", 1 << 20);
        assert_eq!(hold(raw.path(), None).unwrap().format, DriveFormat::Raw);
        let qcow2 = file(b"QFI\xfb\0\0\0\x03", 1 << 20);
        assert_eq!(hold(qcow2.path(), None).unwrap().format, DriveFormat::Qcow2);
        let text = file(b"hello", 5);
        assert!(matches!(hold(text.path(), None), Err(DriveError::NoDisk { .. })));
        let vmdk = file(b"KDMV", 1 << 20);
        assert!(matches!(hold(vmdk.path(), None), Err(DriveError::NoDisk { .. })));
        let wrong = hold(raw.path(), Some(DriveFormat::Qcow2));
        assert!(matches!(wrong, Err(DriveError::NoDisk { .. })));
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
