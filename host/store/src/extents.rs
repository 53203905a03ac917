//! The changes of a disk as a sequence of extents, read from and written to files.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::{Result, StoreError};

/// Maximum size of one extent of data in bytes; bounds the memory for storing and restoring.
pub const MAX_EXTENT_BYTES: usize = 1 << 20;

/// A part of a disk that a layer replaces. Outside of its extents, the layers below show through,
/// and zeros below the lowest layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// The layer replaces the range with data.
    Data {
        /// The offset on the disk in bytes.
        offset: u64,
        /// The data: at least one byte, at most [`MAX_EXTENT_BYTES`].
        bytes: Vec<u8>,
    },
    /// The layer replaces the range with zeros.
    Zeros {
        /// The offset on the disk in bytes.
        offset: u64,
        /// The length in bytes.
        length: u64,
    },
}

impl Extent {
    /// Returns the offset of the first byte on the disk.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Data { offset, .. } | Self::Zeros { offset, .. } => *offset,
        }
    }

    /// Returns the offset behind the last byte on the disk.
    #[must_use]
    pub fn end(&self) -> u64 {
        match self {
            Self::Data { offset, bytes } => offset.saturating_add(bytes.len() as u64),
            Self::Zeros { offset, length } => offset.saturating_add(*length),
        }
    }
}

/// A source of a layer's extents, in ascending order and without overlaps.
pub trait ExtentSource {
    /// Returns the size of the disk in bytes.
    fn disk_bytes(&self) -> u64;

    /// Returns the next extent; `None` at the end.
    ///
    /// # Errors
    /// Fails if the extent cannot be read.
    fn next_extent(&mut self) -> io::Result<Option<Extent>>;
}

/// A target of a layer's extents.
pub trait ExtentTarget {
    /// Takes an extent. Extents come in ascending order within each layer.
    ///
    /// # Errors
    /// Fails if the extent cannot be written.
    fn extent(&mut self, extent: &Extent) -> io::Result<()>;
}

/// The data of a sparse raw file, as the lowest layer of a disk.
#[derive(Debug)]
pub struct RawSource {
    file: File,
    len: u64,
    at: u64,
    /// The end of the data range that `at` is in.
    end: u64,
}

impl RawSource {
    /// Opens a raw image.
    ///
    /// # Errors
    /// Fails if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
        Self::new(file).map_err(|e| StoreError::io("examine", path, e))
    }

    /// Same as [`RawSource::open`], for an open file.
    ///
    /// # Errors
    /// Fails if the size of the file cannot be read.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len, at: 0, end: 0 })
    }

    /// Skips everything before an offset.
    pub fn skip_to(&mut self, offset: u64) {
        (self.at, self.end) = (offset, offset);
    }
}

impl ExtentSource for RawSource {
    fn disk_bytes(&self) -> u64 {
        self.len
    }

    fn next_extent(&mut self) -> io::Result<Option<Extent>> {
        loop {
            if self.at >= self.end {
                if self.at >= self.len {
                    return Ok(None);
                }
                let Some(data) = sparse::next_data(&self.file, self.at)? else { return Ok(None) };
                self.at = data.start;
                self.end = data.end.min(self.len);
                continue;
            }
            let offset = self.at;
            // Extents end at multiples of the maximum, so that equal data gives equal extents.
            let next = (offset / MAX_EXTENT_BYTES as u64 + 1) * MAX_EXTENT_BYTES as u64;
            let end = next.min(self.end);
            let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or(MAX_EXTENT_BYTES)];
            self.file.read_exact_at(&mut bytes, offset)?;
            self.at = end;
            if bytes.iter().any(|b| *b != 0) {
                return Ok(Some(Extent::Data { offset, bytes }));
            }
        }
    }
}

/// A raw file to which layers are applied, from the lowest to the topmost.
#[derive(Debug)]
pub struct RawTarget {
    path: PathBuf,
    file: File,
    len: u64,
}

impl RawTarget {
    /// Creates an empty disk of `disk_bytes` bytes. The file must not exist yet.
    ///
    /// # Errors
    /// Fails if the file exists or cannot be created.
    pub fn create(path: &Path, disk_bytes: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| StoreError::io("create", path, e))?;
        file.set_len(disk_bytes).map_err(|e| StoreError::io("extend", path, e))?;
        Ok(Self { path: path.to_owned(), file, len: disk_bytes })
    }

    /// Opens an existing disk, to apply further layers to it.
    ///
    /// # Errors
    /// Fails if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|e| StoreError::io("open", path, e))?;
        let len = file.metadata().map_err(|e| StoreError::io("examine", path, e))?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }

    /// Applies all extents of a source.
    ///
    /// # Errors
    /// Fails if an extent cannot be read or written, or is beyond the end of the disk.
    pub fn apply(&mut self, source: &mut dyn ExtentSource) -> Result<()> {
        while let Some(extent) = source.next_extent().map_err(StoreError::Source)? {
            self.extent(&extent).map_err(StoreError::Target)?;
        }
        Ok(())
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl ExtentTarget for RawTarget {
    fn extent(&mut self, extent: &Extent) -> io::Result<()> {
        if extent.end() > self.len {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an extent beyond the disk"));
        }
        match extent {
            Extent::Data { offset, bytes } => self.file.write_all_at(bytes, *offset),
            Extent::Zeros { offset, length } => {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let wide = |n: u64| i64::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
                match fallocate(&self.file, flags, wide(*offset)?, wide(*length)?) {
                    Err(nix::errno::Errno::EOPNOTSUPP) => self.write_zeros(*offset, *length),
                    done => done.map_err(Into::into),
                }
            }
        }
    }
}

impl RawTarget {
    /// Writes zeros, for filesystems that do not support holes.
    fn write_zeros(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        let zeros = vec![0; MAX_EXTENT_BYTES];
        while length > 0 {
            let part = usize::try_from(length).unwrap_or(usize::MAX).min(zeros.len());
            self.file.write_all_at(&zeros[..part], offset)?;
            offset += part as u64;
            length -= part as u64;
        }
        Ok(())
    }
}

/// Two layers merged into one: where the upper one has no extents, the lower one shows through.
pub struct Merged<L, U> {
    lower: L,
    upper: U,
    low: Option<Extent>,
    high: Option<Extent>,
    begun: bool,
}

impl<L, U> std::fmt::Debug for Merged<L, U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Merged")
    }
}

impl<L: ExtentSource, U: ExtentSource> Merged<L, U> {
    /// Merges an upper layer over a lower one.
    pub fn new(lower: L, upper: U) -> Self {
        Self { lower, upper, low: None, high: None, begun: false }
    }
}

impl<L: ExtentSource, U: ExtentSource> ExtentSource for Merged<L, U> {
    fn disk_bytes(&self) -> u64 {
        self.upper.disk_bytes()
    }

    fn next_extent(&mut self) -> io::Result<Option<Extent>> {
        if !self.begun {
            self.begun = true;
            self.low = self.lower.next_extent()?;
            self.high = self.upper.next_extent()?;
        }
        loop {
            // Skip extents of the lower layer behind the end of a disk that has shrunk.
            if self.low.as_ref().is_some_and(|low| low.offset() >= self.disk_bytes()) {
                self.low = None;
            }
            let Some(low) = self.low.take() else {
                let next = self.upper.next_extent()?;
                return Ok(std::mem::replace(&mut self.high, next));
            };
            let limit = self.high.as_ref().map_or(self.disk_bytes(), Extent::offset);
            if low.offset() < limit {
                let (before, rest) = split(low, limit);
                self.low = match rest {
                    Some(rest) => Some(rest),
                    None => self.lower.next_extent()?,
                };
                return Ok(Some(before));
            }
            // The lower extent begins within the upper one or behind it.
            let end = self.high.as_ref().map_or(0, Extent::end);
            if low.offset() >= end {
                self.low = Some(low);
                let next = self.upper.next_extent()?;
                return Ok(std::mem::replace(&mut self.high, next));
            }
            self.low = match split(low, end).1 {
                Some(rest) => Some(rest),
                None => self.lower.next_extent()?,
            };
        }
    }
}

/// Splits an extent that begins before `at` there; without a second part if it ends before.
fn split(extent: Extent, at: u64) -> (Extent, Option<Extent>) {
    if extent.end() <= at {
        return (extent, None);
    }
    match extent {
        Extent::Data { offset, mut bytes } => {
            let rest = bytes.split_off(usize::try_from(at - offset).unwrap_or(usize::MAX));
            (Extent::Data { offset, bytes }, Some(Extent::Data { offset: at, bytes: rest }))
        }
        Extent::Zeros { offset, length } => {
            let first = at - offset;
            let rest = Extent::Zeros { offset: at, length: length - first };
            (Extent::Zeros { offset, length: first }, Some(rest))
        }
    }
}
