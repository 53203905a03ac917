//! Access to finished outputs for the cache: reads them to store, and recreates them from stored
//! data.

use std::{fs::File, io, path::PathBuf};

use crate::{Checksum, OutputError, Pending, Result, Target, atomic::OutFile};

impl Pending {
    /// Opens the finished file for reading; its path is valid in this process only.
    ///
    /// # Errors
    /// Fails if it cannot be opened.
    pub fn open(&self) -> Result<(File, PathBuf)> {
        let path = readable(self.file.file());
        let file = File::open(&path).map_err(|e| OutputError::io("open", self.path(), e))?;
        let path = readable(&file);
        Ok((file, path))
    }

    /// The checksums of the output, in hexadecimal digits.
    #[must_use]
    pub fn digests(&self) -> &[(Checksum, String)] {
        &self.digests
    }
}

/// Recreates an output. `fill` gets an empty file, with the path at which this process can open it.
///
/// # Errors
/// Fails if the file cannot be created, or with the error of `fill`.
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

/// A path to an open file, whether or not it has a name.
fn readable(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
