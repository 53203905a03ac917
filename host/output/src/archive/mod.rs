//! Reading a tar stream that a hostile guest has written.
//!
//! Understands what packers produce today: ustar, PAX with extended attributes
//! (`SCHILY.xattr.`), GNU long names, and the two current ways of sparse files.
//! Every size is bounded, every path is made relative and free of `..` before
//! anybody sees it.

mod content;
mod header;
mod pax;
mod sparse;
mod write;

use std::io::{self, Read};

use crate::{OutputError, Result};
pub(crate) use content::Content;
pub(crate) use header::Kind;
use header::{BLOCK_BYTES, Header};
use pax::Extended;
pub(crate) use write::file_header;

/// Bytes of PAX records or of a long name that are read: the longest path of
/// Linux and the largest set of extended attributes of one file fit well.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Components of a path, far beyond any real tree and far below what would
/// make recursion or path building expensive.
const MAX_DEPTH: usize = 256;

/// Bytes of a path in messages.
const SHOWN_PATH_BYTES: usize = 120;

/// One member of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path below the root, without empty, `.` and `..` components. The root
    /// itself has none.
    pub(crate) path: Vec<Vec<u8>>,
    /// What it is.
    pub(crate) kind: Kind,
    /// Permissions with set-id and sticky bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Seconds since 1970; earlier times are 1970.
    pub(crate) mtime: u64,
    /// Size of a regular file, holes included.
    pub(crate) size: u64,
    /// Target of a symbolic link, as it is.
    pub(crate) link: Vec<u8>,
    /// Target of a hard link, in the form of `path`.
    pub(crate) hard_link: Vec<Vec<u8>>,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// Extended attributes by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data of a sparse file lies in it: offset and length. `None`
    /// when it is not sparse.
    pub(crate) extents: Option<Vec<(u64, u64)>>,
}

/// The members of a tar stream, one after another.
pub(crate) struct Archive<R> {
    input: R,
    number: u64,
    /// Data of the current member that has not been read yet.
    data_left: u64,
    /// Bytes behind the data up to the next header.
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, number: 0, data_left: 0, padding: 0 }
    }

    /// The next member; what was not read of the current one is passed over.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            self.pass_data()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            match header.kind {
                b'x' => extended
                    .records(&self.read_extension(&header)?)
                    .map_err(|reason| self.bad(&header.path, reason))?,
                // Global records say nothing that a member's own do not.
                b'g' => drop(self.read_extension(&header)?),
                b'L' => extended.path = Some(until_nul(self.read_extension(&header)?)),
                b'K' => extended.link = Some(until_nul(self.read_extension(&header)?)),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// Reads data of the current member as it is stored: without the holes.
    pub(crate) fn read_data(&mut self, buf: &mut [u8]) -> Result<usize> {
        let want = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        self.read_exact(&mut buf[..want])?;
        self.data_left -= want as u64;
        Ok(want)
    }

    /// Bytes of data of the current member that were not read yet.
    pub(crate) fn data_left(&self) -> u64 {
        self.data_left
    }

    /// An error about the current member.
    pub(crate) fn bad(&self, path: &[u8], reason: impl Into<String>) -> OutputError {
        let shown = &path[..path.len().min(SHOWN_PATH_BYTES)];
        let path = shown.escape_ascii().to_string();
        OutputError::BadTree { entry: self.number, path, reason: reason.into() }
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        self.input.read_exact(buf).map_err(OutputError::ReadTree)
    }

    fn pass_data(&mut self) -> Result<()> {
        let left = self.data_left.checked_add(self.padding);
        let left = left.ok_or_else(|| self.bad(b"", "its size is absurd"))?;
        let passed = io::copy(&mut (&mut self.input).take(left), &mut io::sink())
            .map_err(OutputError::ReadTree)?;
        if passed < left {
            return Err(OutputError::ReadTree(io::ErrorKind::UnexpectedEof.into()));
        }
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK_BYTES];
        self.read_exact(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            // The end is two blocks of zeros; whatever follows is padding.
            self.read_exact(&mut block)?;
            if block.iter().any(|b| *b != 0) {
                return Err(self.bad(b"", "a single block of zeros between members"));
            }
            io::copy(&mut self.input, &mut io::sink()).map_err(OutputError::ReadTree)?;
            return Ok(None);
        }
        self.number += 1;
        let header = Header::parse(block).map_err(|reason| self.bad(b"", reason))?;
        self.set_data(header.size);
        Ok(Some(header))
    }

    fn set_data(&mut self, size: u64) {
        self.data_left = size;
        let block = BLOCK_BYTES as u64;
        self.padding = (block - size % block) % block;
    }

    fn read_extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        if header.size > MAX_EXTENSION_BYTES {
            let reason = format!("its attributes are larger than {MAX_EXTENSION_BYTES} bytes");
            return Err(self.bad(&header.path, reason));
        }
        let mut data = vec![0; usize::try_from(header.size).unwrap_or_default()];
        self.read_exact(&mut data)?;
        self.data_left = 0;
        Ok(data)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry> {
        let name = extended.path.as_ref().unwrap_or(&header.path).clone();
        let bad = |this: &Self, reason: &str| this.bad(&name, reason);
        let kind = Kind::of(header.kind).ok_or_else(|| bad(self, "an unknown kind of member"))?;
        if let Some(size) = extended.size {
            self.set_data(size);
        }
        if kind != Kind::File && self.data_left > 0 {
            // Some packers give links the size of their target, without data.
            if kind != Kind::HardLink {
                return Err(bad(self, "data for something that is no regular file"));
            }
            self.set_data(0);
        }
        let path = components(&name).map_err(|reason| bad(self, reason))?;
        let link = extended.link.unwrap_or_else(|| header.link.clone());
        let hard_link = match kind {
            Kind::HardLink => components(&link).map_err(|reason| bad(self, reason))?,
            _ => Vec::new(),
        };
        let mut entry = Entry {
            path,
            kind,
            mode: header.mode & 0o7777,
            uid: extended.uid.unwrap_or(header.uid),
            gid: extended.gid.unwrap_or(header.gid),
            mtime: extended.mtime.unwrap_or(header.mtime),
            size: self.data_left,
            link,
            hard_link,
            device: header.device,
            xattrs: extended.xattrs,
            extents: None,
        };
        if header.kind == b'S' {
            entry.extents = Some(
                sparse::gnu_map(&mut self.input, header, &mut entry.size)
                    .map_err(|e| sparse_error(self, &name, e))?,
            );
        } else if let Some(real) = extended.sparse_size {
            let stored = self.data_left;
            let (map, used) = sparse::pax_map(&mut self.input, stored)
                .map_err(|e| sparse_error(self, &name, e))?;
            self.data_left -= used;
            entry.size = real;
            entry.extents = Some(map);
        }
        if let Some(extents) = &entry.extents {
            sparse::check(extents, entry.size, self.data_left).map_err(|r| bad(self, r))?;
        }
        Ok(entry)
    }
}

fn sparse_error<R: Read>(
    archive: &Archive<R>,
    name: &[u8],
    error: sparse::MapError,
) -> OutputError {
    match error {
        sparse::MapError::Read(e) => OutputError::ReadTree(e),
        sparse::MapError::Bad(reason) => archive.bad(name, reason),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The components of a path, which must stay below the root.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    if path.contains(&0) {
        return Err("a path with a NUL byte");
    }
    let parts = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
    let parts: Vec<Vec<u8>> = parts.take(MAX_DEPTH + 1).map(<[u8]>::to_vec).collect();
    if parts.len() > MAX_DEPTH {
        return Err("a path with too many components");
    }
    if parts.iter().any(|p| p == b"..") {
        return Err("a path that leads out of the tree");
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
