//! The raw format: the file content is the disk.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::AsRawFd,
    os::unix::fs::FileExt,
};

use vm_memory::VolatileSlice;

use super::image::Image;
use crate::devices::chain::{Direction, transfer};

/// Filesystems free space in blocks of this size.
const FILE_BLOCK_BYTES: u64 = 4096;
/// Zeros written per call if holes are not supported.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    len: u64,
}

impl Raw {
    /// Wraps an open file or block device; determines its size now.
    pub(crate) fn new(mut file: File) -> io::Result<Self> {
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, len: len & !511 })
    }
}

/// Punches a hole. `Ok(false)` if the filesystem does not support it.
pub(crate) fn punch(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let count = libc::off_t::try_from(len).map_err(io::Error::other)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    loop {
        // SAFETY: fallocate takes a descriptor, which `file` keeps open, and
        // integers.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, at, count) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// Writes zeros over a range.
pub(crate) fn fill(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let step = usize::try_from(len).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_all_at(&ZEROS[..step], offset)?;
        offset += step as u64;
        len -= step as u64;
    }
    Ok(())
}

impl Image for Raw {
    fn len(&self) -> u64 {
        self.len
    }

    fn granularity(&self) -> u64 {
        FILE_BLOCK_BYTES
    }

    fn read(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        transfer(&self.file, Direction::Read, slices, offset)
    }

    fn write(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        transfer(&self.file, Direction::Write, slices, offset)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<u64> {
        if unmap && punch(&self.file, offset, len)? {
            return Ok(len);
        }
        fill(&self.file, offset, len)?;
        Ok(0)
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<u64> {
        Ok(if punch(&self.file, offset, len)? { len } else { 0 })
    }

    fn flush(&mut self, durable: bool) -> io::Result<()> {
        if durable { self.file.sync_data() } else { Ok(()) }
    }
}
