//! Outputs that were written before: read for keeping, and filled again from what
//! was kept.

use std::{fs::File, io, path::PathBuf};

use crate::{Checksum, OutputError, Pending, Result, Target, atomic::OutFile};

impl Pending {
    /// The finished file, for reading; it has a path only for this process.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> Result<(File, PathBuf)> {
        let path = readable(self.file.file());
        let file = File::open(&path).map_err(|e| OutputError::io("open", self.path(), e))?;
        let path = readable(&file);
        Ok((file, path))
    }

    /// Its checksums in hexadecimal.
    #[must_use]
    pub fn digests(&self) -> &[(Checksum, String)] {
        &self.digests
    }
}

/// An output whose bytes come from elsewhere. `fill` gets an empty file, and the
/// path under which this process can open it.
///
/// # Errors
/// When the file cannot be made, and what `fill` fails with.
pub fn restore<E: From<OutputError>>(
    target: &Target,
    digests: Vec<(Checksum, String)>,
    fill: impl FnOnce(&mut File, &std::path::Path) -> std::result::Result<(), E>,
) -> std::result::Result<Pending, E> {
    let mut file = OutFile::create(&target.path, false)?;
    let clone = |e: io::Error| OutputError::io("open", &target.path, e);
    let mut handle = file.file().try_clone().map_err(clone)?;
    let path = readable(&handle);
    fill(&mut handle, &path)?;
    file.written_elsewhere()?;
    file.seal()?;
    Ok(Pending { file, format: target.format.name, digests })
}

/// A path that leads to an open file, whether it has a name or not.
fn readable(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
