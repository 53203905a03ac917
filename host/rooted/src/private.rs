//! Directories that only the user can access.

use std::{
    fs::{DirBuilder, Metadata},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::stat::{FchmodatFlags, Mode, fchmodat},
    unistd::geteuid,
};

use crate::{Dir, Error, Result};

/// Mode of private directories.
const PRIVATE_MODE: u32 = 0o700;
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITE: u32 = 0o020;
/// The action in errors of setting the mode.
pub(crate) const MAKE_PRIVATE: &str = "make private";

/// Opens a private directory, and creates it with its parents if it does not exist.
///
/// It must belong to the user. A mode that lets others read is corrected. A mode that lets others
/// write is refused, because they may have written something; a writable group is refused only in a
/// world-writable directory such as `/tmp`, since in a home directory the group is often the user's
/// own. A link in its place is followed if it belongs to the user or to root.
///
/// # Errors
/// Fails if it cannot be created, or is not private.
pub fn private(path: &Path) -> Result<Dir> {
    open(path, true)
}

/// Like [`private`], for an existing directory.
///
/// # Errors
/// Fails if it does not exist, or is not private.
pub fn private_existing(path: &Path) -> Result<Dir> {
    open(path, false)
}

fn open(path: &Path, make: bool) -> Result<Dir> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Error::io("open", path, Errno::EINVAL));
    };
    let name = Path::new(name);
    if make {
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_MODE)
            .create(parent)
            .map_err(|e| Error::io("make", parent, e))?;
    }
    let parent = Dir::open(parent)?;
    let around = parent.metadata(Path::new(""))?.mode() & 0o7777;
    if around & OTHERS_WRITE != 0 && around & STICKY == 0 {
        return Err(Error::NotSticky { path: parent.path().to_owned(), mode: around });
    }
    if make {
        match parent.make_directory(name, PRIVATE_MODE) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            }
            other => other?,
        }
    }
    let found = parent.metadata(name)?;
    let directory = if found.is_symlink() {
        if found.uid() != 0 {
            check_owner(&parent.path().join(name), &found)?;
        }
        Dir::open(&parent.path().join(name))?
    } else {
        parent.directory(name)?
    };
    check(&directory, around & OTHERS_WRITE != 0)?;
    Ok(directory)
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<()> {
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    if owner == user {
        return Ok(());
    }
    Err(Error::Owner { path: path.to_owned(), owner, user })
}

fn check(directory: &Dir, in_shared: bool) -> Result<()> {
    let metadata = directory.metadata(Path::new(""))?;
    check_owner(directory.path(), &metadata)?;
    let mode = metadata.mode() & 0o7777;
    let refused = if in_shared { OTHERS_WRITE | GROUP_WRITE } else { OTHERS_WRITE };
    if mode & refused != 0 {
        return Err(Error::Writable { path: directory.path().to_owned(), mode });
    }
    if mode & 0o077 != 0 {
        let private = Mode::from_bits_truncate(mode & PRIVATE_MODE);
        fchmodat(directory.fd(), ".", private, FchmodatFlags::FollowSymlink)
            .map_err(|e| Error::io(MAKE_PRIVATE, directory.path(), e))?;
    }
    Ok(())
}
