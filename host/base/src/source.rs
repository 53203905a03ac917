//! Opens the files of an image once, so that checks, digest and content refer to the same open
//! file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use crate::{BaseError, Magic};

/// An open regular file.
#[derive(Debug)]
pub(crate) struct ImageFile {
    /// The path at which it was opened.
    pub(crate) path: PathBuf,
    /// Read only at explicit offsets, because clones share the file offset.
    pub(crate) file: File,
}

impl ImageFile {
    /// Opens a file that the user named, following links.
    pub(crate) fn named(path: &Path) -> Result<Self, BaseError> {
        open(path, OFlag::O_NONBLOCK)
    }

    /// Opens a file that another file names; refuses a link.
    pub(crate) fn beside(path: &Path) -> Result<Self, BaseError> {
        open(path, OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)
    }

    /// The size in bytes.
    pub(crate) fn bytes(&self) -> Result<u64, BaseError> {
        Ok(self.metadata()?.len())
    }

    /// The metadata of the open file.
    pub(crate) fn metadata(&self) -> Result<fs::Metadata, BaseError> {
        self.file.metadata().map_err(|e| BaseError::io("open", &self.path, e))
    }

    /// The format detected by magic bytes.
    pub(crate) fn magic(&self) -> Result<Option<Magic>, BaseError> {
        let read = self.rewound().and_then(Magic::read);
        read.map_err(|e| BaseError::io("read", &self.path, e))
    }

    /// A reader of the same open file from its start, for one reader at a time.
    pub(crate) fn rewound(&self) -> io::Result<impl Read + use<>> {
        let mut file = self.reopen()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// Duplicates the handle of the open file.
    pub(crate) fn reopen(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Returns the size of a file of the cache; `None` if it does not exist or cannot be read, so that
/// it must be made again.
pub(crate) fn readable_bytes(path: &Path) -> Option<u64> {
    let metadata = File::open(path).and_then(|file| file.metadata()).ok()?;
    metadata.is_file().then_some(metadata.len())
}

/// Removes a directory in the place of a file that is about to get its name.
pub(crate) fn make_way(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        // If it cannot be removed, the file cannot get its name.
        let _ = fs::remove_dir_all(path);
    }
}

/// Opens a regular file. A pipe, a device or a terminal could block or be endless; `O_NONBLOCK`
/// prevents blocking in open itself.
fn open(path: &Path, flags: OFlag) -> Result<ImageFile, BaseError> {
    let failed = |error: io::Error| {
        if flags.contains(OFlag::O_NOFOLLOW) && error.raw_os_error() == Some(nix::libc::ELOOP) {
            return BaseError::image(path, "it is a link, which is not followed here");
        }
        BaseError::io("open", path, error)
    };
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(BaseError::image(path, "it is not a regular file"));
    }
    Ok(ImageFile { path: path.to_owned(), file })
}
