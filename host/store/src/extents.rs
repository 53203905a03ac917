//! A disk's changes as a sequence of extents, read from and written to files.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::{Result, StoreError};

/// Bytes of one extent of data at most; bounds memory while storing and
/// restoring.
pub const MAX_EXTENT_BYTES: usize = 1 << 20;

/// A part of a disk that a layer says something about. Where no extent is, the
/// layers below show through, and zeros below the lowest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// These bytes are there.
    Data {
        /// Offset in bytes.
        offset: u64,
        /// Which; at most [`MAX_EXTENT_BYTES`], at least one.
        bytes: Vec<u8>,
    },
    /// Zeros are there, whatever is below.
    Zeros {
        /// Offset in bytes.
        offset: u64,
        /// How many.
        length: u64,
    },
}

impl Extent {
    /// Where it begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Data { offset, .. } | Self::Zeros { offset, .. } => *offset,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        match self {
            Self::Data { offset, bytes } => offset.saturating_add(bytes.len() as u64),
            Self::Zeros { offset, length } => offset.saturating_add(*length),
        }
    }
}

/// Gives a layer's extents in ascending order, without overlaps.
pub trait ExtentSource {
    /// Size of the disk.
    fn disk_bytes(&self) -> u64;

    /// The next extent.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next_extent(&mut self) -> io::Result<Option<Extent>>;
}

/// Takes extents.
pub trait ExtentTarget {
    /// Takes one; they come in ascending order within each layer.
    ///
    /// # Errors
    /// When it cannot be written.
    fn extent(&mut self, extent: &Extent) -> io::Result<()>;
}

/// The data of a sparse raw file: a lowest layer.
#[derive(Debug)]
pub struct RawSource {
    file: File,
    len: u64,
    at: u64,
    /// End of the data extent that `at` is in.
    end: u64,
}

impl RawSource {
    /// Opens a raw image.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
        Self::new(file).map_err(|e| StoreError::io("examine", path, e))
    }

    /// As [`RawSource::open`], for a file that is open.
    ///
    /// # Errors
    /// When its size cannot be found out.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len, at: 0, end: 0 })
    }

    /// Leaves out what is before an offset.
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
            // Ends at multiples of the largest extent keep equal data equal.
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

/// A raw file that layers are applied to, from the lowest to the topmost.
#[derive(Debug)]
pub struct RawTarget {
    path: PathBuf,
    file: File,
    len: u64,
}

impl RawTarget {
    /// Creates an empty disk of that size. The file must not exist yet.
    ///
    /// # Errors
    /// When it cannot be created.
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

    /// Opens a disk that exists, to put further layers on it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|e| StoreError::io("open", path, e))?;
        let len = file.metadata().map_err(|e| StoreError::io("examine", path, e))?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }

    /// Takes all extents of a source.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn apply(&mut self, source: &mut dyn ExtentSource) -> Result<()> {
        while let Some(extent) = source.next_extent().map_err(StoreError::Source)? {
            self.extent(&extent).map_err(StoreError::Target)?;
        }
        Ok(())
    }

    /// Where it is.
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
    /// For filesystems without holes.
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

/// Two layers as one: where the upper one says nothing, the lower one does.
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
            // A disk that shrank has no lower extents behind its end.
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

/// Cuts an extent that begins before `at` there; the rest is `None` when it ends
/// before.
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
