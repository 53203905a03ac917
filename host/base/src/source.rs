//! The files of an image, opened once: what was checked is what is hashed and read.

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
    /// Where it was found.
    pub(crate) path: PathBuf,
    /// Read by position only, because clones share the offset.
    pub(crate) file: File,
}

impl ImageFile {
    /// Opens a file that the user named. Links are followed.
    pub(crate) fn named(path: &Path) -> Result<Self, BaseError> {
        open(path, OFlag::O_NONBLOCK)
    }

    /// Opens a file that another file names: a link in its place is refused.
    pub(crate) fn beside(path: &Path) -> Result<Self, BaseError> {
        open(path, OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)
    }

    /// The size in bytes.
    pub(crate) fn bytes(&self) -> Result<u64, BaseError> {
        Ok(self.metadata()?.len())
    }

    /// Size and times, of the open file.
    pub(crate) fn metadata(&self) -> Result<fs::Metadata, BaseError> {
        self.file.metadata().map_err(|e| BaseError::io("open", &self.path, e))
    }

    /// What the file claims to be by how it begins.
    pub(crate) fn magic(&self) -> Result<Option<Magic>, BaseError> {
        let read = self.rewound().and_then(Magic::read);
        read.map_err(|e| BaseError::io("read", &self.path, e))
    }

    /// The same open file, to be read from its beginning by one reader at a time.
    pub(crate) fn rewound(&self) -> io::Result<impl Read + use<>> {
        let mut file = self.reopen()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// Another handle of the same open file.
    pub(crate) fn reopen(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Opens a regular file. A pipe, a device or a terminal would be an endless read or a
/// wait; `O_NONBLOCK` keeps the opening itself from waiting.
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
