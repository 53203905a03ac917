//! Visits a tree, entry by entry, without following links.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::{File, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};

use crate::{Dir, Error, Result};

/// Maximum depth of directories. Each keeps a descriptor open while it is read, of which a process
/// has 1024; trees of package managers stay below 60.
pub const DEPTH_MAX: usize = 256;
/// Maximum entries of a tree. Sending a tree of this size already takes minutes; a larger one is
/// likely a mistake.
pub const ENTRIES_MAX: usize = 200_000;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device with its major and minor number.
    Character(u32, u32),
    /// A block device with its major and minor number.
    Block(u32, u32),
}

impl Kind {
    /// The type in the metadata.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let kind = metadata.file_type();
        let number = |part: fn(u64) -> u64| u32::try_from(part(metadata.rdev())).unwrap_or(0);
        if kind.is_dir() {
            Self::Directory
        } else if kind.is_symlink() {
            Self::Link
        } else if kind.is_fifo() {
            Self::Fifo
        } else if kind.is_socket() {
            Self::Socket
        } else if kind.is_char_device() {
            Self::Character(number(major), number(minor))
        } else if kind.is_block_device() {
            Self::Block(number(major), number(minor))
        } else {
            Self::File
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "regular file",
            Self::Directory => "directory",
            Self::Link => "symbolic link",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
            Self::Character(..) => "character device",
            Self::Block(..) => "block device",
        })
    }
}

/// An entry of a visited tree.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its path, relative to the root of the walk.
    pub path: &'a Path,
    /// The file type of the entry.
    pub kind: Kind,
    /// Its metadata; of a link, those of the link itself.
    pub metadata: &'a Metadata,
    directory: &'a Dir,
    name: &'a OsStr,
}

impl Entry<'_> {
    /// Its permission bits, including set-user-ID and the like.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.metadata.mode() & 0o7777
    }

    /// The target of a link.
    ///
    /// # Errors
    /// Fails if it is not a link, or cannot be read.
    pub fn target(&self) -> Result<OsString> {
        self.directory.read_link(Path::new(self.name))
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// Fails if it is not a regular file, or cannot be read.
    pub fn open(&self) -> Result<File> {
        self.directory.file(Path::new(self.name))
    }
}

/// Whether to descend into a visited directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// Visit its content.
    Yes,
    /// Skip its content.
    No,
}

/// Visits everything below a directory: names in byte order, a directory before its content.
///
/// # Errors
/// Returns the errors of `visit`, and fails if a directory cannot be read or if the tree exceeds
/// [`DEPTH_MAX`] or [`ENTRIES_MAX`].
pub fn walk<E: From<Error>>(
    top: &Dir,
    visit: &mut dyn FnMut(&Entry<'_>) -> std::result::Result<Descend, E>,
) -> std::result::Result<(), E> {
    let mut walk = Walk { top, visit, seen: 0 };
    walk.directory(top, Path::new(""), 0)
}

struct Walk<'a, E> {
    top: &'a Dir,
    visit: &'a mut dyn FnMut(&Entry<'_>) -> std::result::Result<Descend, E>,
    seen: usize,
}

impl<E: From<Error>> Walk<'_, E> {
    fn directory(
        &mut self,
        directory: &Dir,
        prefix: &Path,
        depth: usize,
    ) -> std::result::Result<(), E> {
        if depth > DEPTH_MAX {
            return Err(Error::TooDeep(self.top.path().to_owned()).into());
        }
        for name in directory.names()? {
            self.seen += 1;
            if self.seen > ENTRIES_MAX {
                return Err(Error::TooMany(self.top.path().to_owned()).into());
            }
            let path: PathBuf = prefix.join(&name);
            let metadata = directory.metadata(Path::new(&name))?;
            let kind = Kind::of(&metadata);
            let entry = Entry { path: &path, kind, metadata: &metadata, directory, name: &name };
            let descend = (self.visit)(&entry)?;
            if kind == Kind::Directory && descend == Descend::Yes {
                let inner = directory.directory(Path::new(&name))?;
                self.directory(&inner, &path, depth + 1)?;
            }
        }
        Ok(())
    }
}
