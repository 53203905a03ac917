//! Reads a tar stream as members: each header, combined with the extensions before it.

use std::io::{self, Read};

use crate::{
    BLOCK_BYTES, DEPTH_MAX, EXTENSIONS_MAX_BYTES, Kind, PATH_MAX_BYTES, TRAILING_MAX_BYTES,
    header::Header,
    records::{Extended, Xattr},
    sparse,
};

/// The maximum number of bytes of a path in error messages.
const SHOWN_PATH_BYTES: usize = 120;

/// An error after which a stream cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream failed, or ended within an archive.
    #[error("the tar stream breaks off")]
    Read(#[source] io::Error),
    /// The archive contains something that is refused.
    #[error("member {entry}{}: {reason}", shown(path))]
    Bad {
        /// The number of the member in the stream, from 1.
        entry: u64,
        /// The path of the member, escaped and shortened; empty if it is not known.
        path: String,
        /// The reason why the member is refused.
        reason: String,
    },
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a member")
}

fn shown(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" (`{path}`)") }
}

impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => source,
            bad @ TarError::Bad { .. } => Self::new(io::ErrorKind::InvalidData, bad),
        }
    }
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The components of the path below the root, without empty, `.` and `..` ones. The root itself
    /// has none.
    pub path: Vec<Vec<u8>>,
    /// The type of the member.
    pub kind: Kind,
    /// The permission bits, with the set-id and sticky bits.
    pub mode: u32,
    /// Numeric ID of the owner.
    pub uid: u32,
    /// Numeric ID of the group.
    pub gid: u32,
    /// The time of the last modification: seconds since 1970, rounded down, and nanoseconds.
    pub mtime: (i64, u32),
    /// Size of a regular file in bytes, holes included.
    pub size: u64,
    /// The target of a symbolic link, as stored in the archive.
    pub link: Vec<u8>,
    /// The target of a hard link, as components like those of `path`.
    pub hard_link: Vec<Vec<u8>>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, each name once.
    pub xattrs: Vec<Xattr>,
    /// The parts of a sparse file that contain data: offset and length in bytes, in order and
    /// within `size`. `None` if the file is not sparse.
    pub extents: Option<Vec<(u64, u64)>>,
}

/// A reader of the members of a tar stream.
#[derive(Debug)]
pub struct Archive<R> {
    input: R,
    number: u64,
    /// The number of bytes of the current member's data that were not read yet.
    data_left: u64,
    /// The number of bytes between the data and the next header.
    padding: u64,
}

impl<R: Read> Archive<R> {
    /// Creates a reader of a stream, which should be buffered if its reads are expensive.
    pub fn new(input: R) -> Self {
        Self { input, number: 0, data_left: 0, padding: 0 }
    }

    /// Returns the next member, after skipping the rest of the current one. Returns `None` at the
    /// end, after reading the whole stream.
    ///
    /// # Errors
    /// Fails if the stream fails or ends within a member, or if the next member is refused.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extended = Extended::default();
        let mut room = EXTENSIONS_MAX_BYTES;
        loop {
            self.pass_data()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            match header.kind {
                b'x' => extended
                    .records(&self.read_extension(&header, &mut room)?)
                    .map_err(|reason| self.bad(&header.path, reason))?,
                // Global records contain nothing that a member's own records lack.
                b'g' => drop(self.read_extension(&header, &mut room)?),
                b'L' => extended.path = Some(until_nul(self.read_extension(&header, &mut room)?)),
                b'K' => extended.link = Some(until_nul(self.read_extension(&header, &mut room)?)),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// Reads stored data of the current member, without its holes, until the buffer is full or the
    /// data ends. Returns the number of bytes read.
    ///
    /// # Errors
    /// Fails if the stream fails or ends early.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        self.read_exact(&mut buffer[..want])?;
        self.data_left -= want as u64;
        Ok(want)
    }

    /// Returns the number of bytes of the current member's data that were not read yet, without the
    /// holes.
    #[must_use]
    pub fn data_left(&self) -> u64 {
        self.data_left
    }

    /// Creates an error about the current member. The path is given as its bytes.
    #[must_use]
    pub fn bad(&self, path: &[u8], reason: impl Into<String>) -> TarError {
        let shown = &path[..path.len().min(SHOWN_PATH_BYTES)];
        let path = shown.escape_ascii().to_string();
        TarError::Bad { entry: self.number, path, reason: reason.into() }
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        let read = self.input.read_exact(buffer);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Read(ends_early()),
            _ => TarError::Read(error),
        })
    }

    fn pass_data(&mut self) -> Result<(), TarError> {
        let left = self.data_left.checked_add(self.padding);
        let left = left.ok_or_else(|| self.bad(b"", "its size is absurd"))?;
        let passed =
            io::copy(&mut (&mut self.input).take(left), &mut io::sink()).map_err(TarError::Read)?;
        if passed < left {
            return Err(TarError::Read(ends_early()));
        }
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        self.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            // The end is two blocks of zeros; whatever follows is padding.
            self.read_exact(&mut block)?;
            if block.iter().any(|byte| *byte != 0) {
                return Err(self.bad(b"", "a single block of zeros between members"));
            }
            let behind = (&mut self.input).take(TRAILING_MAX_BYTES + 1);
            if io::copy(&mut { behind }, &mut io::sink()).map_err(TarError::Read)?
                > TRAILING_MAX_BYTES
            {
                let reason = format!("more than {TRAILING_MAX_BYTES} bytes behind the end");
                return Err(self.bad(b"", reason));
            }
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

    /// Reads the data of an extension, and subtracts its size from the `room` left for all of them.
    fn read_extension(&mut self, header: &Header, room: &mut u64) -> Result<Vec<u8>, TarError> {
        let Some(left) = room.checked_sub(header.size) else {
            let reason = format!("its attributes are larger than {EXTENSIONS_MAX_BYTES} bytes");
            return Err(self.bad(&header.path, reason));
        };
        *room = left;
        let mut data = vec![0; usize::try_from(header.size).unwrap_or_default()];
        self.read_exact(&mut data)?;
        self.data_left = 0;
        Ok(data)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, TarError> {
        let name = extended.path.as_ref().unwrap_or(&header.path).clone();
        let kind =
            Kind::of(header.kind).ok_or_else(|| self.bad(&name, "an unknown kind of member"))?;
        if let Some(size) = extended.size {
            self.set_data(size);
        }
        if kind != Kind::File && self.data_left > 0 {
            // Some packers give links the size of their target, and directories a size of their
            // own, without storing data.
            if !matches!(kind, Kind::HardLink | Kind::Symlink | Kind::Directory) {
                return Err(self.bad(&name, "data for something that is no regular file"));
            }
            self.set_data(0);
        }
        let path = components(&name).map_err(|reason| self.bad(&name, reason))?;
        let link = extended.link.unwrap_or_else(|| header.link.clone());
        if link.len() > PATH_MAX_BYTES {
            return Err(self.bad(&name, format!("a target of more than {PATH_MAX_BYTES} bytes")));
        }
        let hard_link = match kind {
            Kind::HardLink => components(&link).map_err(|reason| self.bad(&name, reason))?,
            _ => Vec::new(),
        };
        if kind == Kind::Symlink && (link.is_empty() || link.contains(&0)) {
            return Err(self.bad(&name, "a symbolic link without a target that can be"));
        }
        let mut entry = Entry {
            path,
            kind,
            mode: header.mode & 0o7777,
            uid: extended.uid.unwrap_or(header.uid),
            gid: extended.gid.unwrap_or(header.gid),
            mtime: extended.mtime.unwrap_or((header.mtime, 0)),
            size: self.data_left,
            link,
            hard_link,
            device: header.device,
            xattrs: extended.xattrs,
            extents: None,
        };
        self.sparse(header, extended.sparse_size, &mut entry).map_err(|error| match error {
            sparse::MapError::Read(source) => TarError::Read(source),
            sparse::MapError::Bad(reason) => self.bad(&name, reason),
        })?;
        Ok(entry)
    }

    /// Reads the map of a sparse file in either format; does nothing for other members.
    fn sparse(
        &mut self,
        header: &Header,
        pax_size: Option<u64>,
        entry: &mut Entry,
    ) -> Result<(), sparse::MapError> {
        let extents = if header.kind == b'S' {
            sparse::gnu_map(&mut self.input, header, &mut entry.size)?
        } else if let Some(real) = pax_size {
            if entry.kind != Kind::File {
                return Err(sparse::MapError::Bad("a sparse file that is no regular file"));
            }
            let (map, used) = sparse::pax_map(&mut self.input, self.data_left)?;
            self.data_left -= used;
            entry.size = real;
            map
        } else {
            return Ok(());
        };
        sparse::check(&extents, entry.size, self.data_left).map_err(sparse::MapError::Bad)?;
        entry.extents = Some(extents);
        Ok(())
    }
}

/// Reads the data of the current member as it is stored, without holes.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(ends_early());
        }
        self.data_left -= count as u64;
        Ok(count)
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Splits a path into components and checks that it stays below the root.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    if path.len() > PATH_MAX_BYTES {
        return Err("a path that is longer than Linux takes");
    }
    if path.contains(&0) {
        return Err("a path with a NUL byte");
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Vec<Vec<u8>> = parts.take(DEPTH_MAX + 1).map(<[u8]>::to_vec).collect();
    if parts.len() > DEPTH_MAX {
        return Err("a path with too many components");
    }
    if parts.iter().any(|part| part == b"..") {
        return Err("a path that leads out of the tree");
    }
    Ok(parts)
}
