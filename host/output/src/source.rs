//! Sources of a disk's data: a sparse raw file, or any source with a map of its data.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{OutputError, Result};

/// A disk with random access from several threads.
pub trait BlockSource: Send + Sync {
    /// Size of the disk in bytes.
    fn len(&self) -> u64;

    /// Whether the disk has a size of zero.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`; the range must be within the disk.
    ///
    /// # Errors
    /// Fails if the data cannot be read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The next range at or after `offset` that may contain non-zero data, or `None` if only zeros
    /// follow.
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>>;

    /// The raw file that is exactly this disk, if any: the raw format can clone it, and programs
    /// can read it by path.
    fn raw_file(&self) -> Option<(&Path, &File)> {
        None
    }
}

/// A sparse raw disk image.
#[derive(Debug)]
pub struct RawFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl RawFile {
    /// Opens an image for reading.
    ///
    /// # Errors
    /// Fails if it cannot be opened or its size cannot be determined.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| OutputError::io("open", path, e))?;
        let len = file.metadata().map_err(|e| OutputError::io("examine", path, e))?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }
}

impl BlockSource for RawFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.len {
            return Ok(None);
        }
        let Some(data) = sparse::next_data(&self.file, offset)? else { return Ok(None) };
        let end = data.end.min(self.len);
        Ok((data.start < end).then_some(data.start..end))
    }

    fn raw_file(&self) -> Option<(&Path, &File)> {
        Some((&self.path, &self.file))
    }
}

/// The unit in which a disk is passed to the writers: a multiple of every format's cluster, block
/// or grain (qcow2 clusters and VHD blocks have at most 2 MiB), and small enough that some tens of
/// them fit in memory.
pub(crate) const STRIDE_BYTES: usize = 2 << 20;

/// A stride of a disk that is not all zeros. The last one may be shorter.
#[derive(Debug)]
pub(crate) struct Stride {
    /// Its offset in the disk; a multiple of [`STRIDE_BYTES`].
    pub(crate) offset: u64,
    /// The bytes of the stride.
    pub(crate) data: Vec<u8>,
}

/// Reads the strides of a disk in order, without those that are all zeros.
pub(crate) struct Strides<'a> {
    source: &'a dyn BlockSource,
    next: u64,
}

impl<'a> Strides<'a> {
    pub(crate) fn new(source: &'a dyn BlockSource) -> Self {
        Self { source, next: 0 }
    }

    /// The next stride that is not all zeros.
    pub(crate) fn next_stride(&mut self) -> Result<Option<Stride>> {
        let len = self.source.len();
        while self.next < len {
            let Some(extent) = self.extent(self.next)? else { return Ok(None) };
            let offset = extent.start - extent.start % STRIDE_BYTES as u64;
            let end = (offset + STRIDE_BYTES as u64).min(len);
            self.next = end;
            let data = self.read(offset..end, extent)?;
            if !is_zero(&data) {
                return Ok(Some(Stride { offset, data }));
            }
        }
        Ok(None)
    }

    fn extent(&self, from: u64) -> Result<Option<Range<u64>>> {
        self.source.next_data(from).map_err(|source| OutputError::ReadDisk {
            offset: from,
            bytes: 0,
            source,
        })
    }

    fn read(&self, range: Range<u64>, first: Range<u64>) -> Result<Vec<u8>> {
        let size = usize::try_from(range.end - range.start).unwrap_or(STRIDE_BYTES);
        let mut data = vec![0; size];
        let mut extent = Some(first);
        while let Some(found) = extent {
            let (from, to) = (found.start.max(range.start), found.end.min(range.end));
            if from >= to {
                break;
            }
            let within = |at: u64| usize::try_from(at - range.start).unwrap_or(size);
            let part = &mut data[within(from)..within(to)];
            let bytes = part.len();
            self.source.read_at(from, part).map_err(|source| OutputError::ReadDisk {
                offset: from,
                bytes,
                source,
            })?;
            extent = if to < range.end { self.extent(to)? } else { None };
        }
        Ok(data)
    }
}

/// Whether every byte is zero. The code lets the compiler use wide registers.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    let mut chunks = data.chunks_exact(64);
    chunks.all(|c| c.iter().fold(0, |a, b| a | b) == 0)
        && data.chunks_exact(64).remainder().iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_detection_sees_every_position() {
        assert!(is_zero(&[]));
        assert!(is_zero(&[0; 300]));
        for at in 0..300 {
            let mut data = [0; 300];
            data[at] = 1;
            assert!(!is_zero(&data), "a one at {at}");
        }
    }

    #[test]
    fn strides_skip_holes_and_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(20 * STRIDE_BYTES as u64 + 700).unwrap();
        file.write_all_at(b"a", 5).unwrap();
        file.write_all_at(&[0; 9000], 4 * STRIDE_BYTES as u64).unwrap();
        file.write_all_at(b"bc", 7 * STRIDE_BYTES as u64 - 1).unwrap();
        file.write_all_at(b"end", 20 * STRIDE_BYTES as u64 + 697).unwrap();
        let source = RawFile::open(&path).unwrap();
        let mut strides = Strides::new(&source);
        let mut seen = Vec::new();
        while let Some(stride) = strides.next_stride().unwrap() {
            let ones = stride.data.iter().filter(|b| **b != 0).count();
            seen.push((stride.offset / STRIDE_BYTES as u64, stride.data.len(), ones));
        }
        let full = STRIDE_BYTES;
        assert_eq!(seen, [(0, full, 1), (6, full, 1), (7, full, 1), (20, 700, 3)]);
    }

    #[test]
    fn a_source_that_fails_says_where() {
        struct Bad;
        impl BlockSource for Bad {
            fn len(&self) -> u64 {
                1 << 30
            }
            fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
                Err(io::Error::other("bad sector"))
            }
            fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
                Ok((offset < 8192).then_some(4096..8192))
            }
        }
        let error = Strides::new(&Bad).next_stride().unwrap_err();
        assert_eq!(error.to_string(), "failed to read 4096 bytes at 4096 of the disk");
    }
}
