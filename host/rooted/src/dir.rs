//! An open directory, and the operations below it.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    dir,
    errno::Errno,
    fcntl::{OFlag, open, readlinkat},
    sys::stat::{Mode, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use crate::{
    Error, Kind, Result,
    lookup::{self, LookupMethod},
};

/// An open directory. Whatever the names are, files opened through it are always below it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    method: LookupMethod,
}

/// Opens a regular file for reading by its absolute path, in which no component may be a symbolic
/// link.
///
/// # Errors
/// Fails if the file does not exist, is not a regular file, or if the path contains a link.
pub fn open_file(path: &Path) -> Result<File> {
    let below = path.strip_prefix("/").unwrap_or(path);
    root(LookupMethod::detect())?.file(below)
}

fn root(method: LookupMethod) -> Result<Dir> {
    let path = Path::new("/");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e))?;
    Ok(Dir { fd, path: path.to_owned(), method })
}

impl Dir {
    /// Opens a directory that the user named; links in this path are the user's own and are
    /// followed. [`Dir::path`] contains none.
    ///
    /// # Errors
    /// Fails if the directory does not exist.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_by(path, LookupMethod::detect())
    }

    pub(crate) fn open_by(path: &Path, method: LookupMethod) -> Result<Self> {
        let real = fs::canonicalize(path).map_err(|e| Error::io("open", path, e))?;
        let below = real.strip_prefix("/").unwrap_or(&real);
        root(method)?.directory(below)
    }

    /// The directory's absolute path, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.path.clone() } else { self.path.join(path) }
    }

    fn fail(&self, action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
        let (at, path, root) = (self.at(path), path.to_owned(), self.path.clone());
        move |error| match error {
            Errno::ELOOP => Error::Link(at),
            Errno::EXDEV => Error::Outside { path, root },
            other => Error::io(action, &at, other),
        }
    }

    fn raw(&self, path: &Path, flags: OFlag, mode: u32) -> nix::Result<OwnedFd> {
        lookup::open(&self.fd, path, flags, Mode::from_bits_truncate(mode), self.method)
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    /// Fails if it does not exist, or if the path contains a link.
    pub fn directory(&self, path: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let fd = self.raw(path, flags, 0).map_err(self.fail("open", path))?;
        Ok(Self { fd, path: self.at(path), method: self.method })
    }

    /// Opens a regular file below the directory for reading.
    ///
    /// # Errors
    /// Fails if it does not exist or is not a regular file, or if the path contains a link.
    pub fn file(&self, path: &Path) -> Result<File> {
        self.regular(path, "open", OFlag::O_RDONLY, 0)
    }

    /// Opens a regular file without ever blocking. Unless it is to be created, its type is checked
    /// first, because merely opening a device can have effects.
    fn regular(&self, path: &Path, action: &'static str, flags: OFlag, mode: u32) -> Result<File> {
        let check = |metadata: Metadata| match Kind::of(&metadata) {
            Kind::File => Ok(()),
            found => Err(Error::Kind { path: self.at(path), found, wanted: Kind::File }),
        };
        match self.metadata(path) {
            Ok(metadata) if metadata.is_symlink() => return Err(Error::Link(self.at(path))),
            Ok(metadata) => check(metadata)?,
            Err(error) if error.is_missing() && flags.contains(OFlag::O_CREAT) => {}
            Err(error) => return Err(error),
        }
        let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.raw(path, flags, mode).map_err(self.fail(action, path))?);
        check(file.metadata().map_err(|e| Error::io("examine", &self.at(path), e))?)?;
        Ok(file)
    }

    /// Opens a regular file for reading and writing, and creates it with this mode if it does not
    /// exist. Existing content is kept.
    ///
    /// Fails if it cannot be created or is not a regular file, or if the path contains a link.
    /// Fails if it cannot be created or is not a regular file, or if the path contains a link.
    pub fn open_or_create(&self, path: &Path, mode: u32) -> Result<File> {
        self.regular(path, "open", OFlag::O_RDWR | OFlag::O_CREAT, mode)
    }

    /// Opens an existing regular file for reading and writing.
    ///
    /// # Errors
    /// Fails like [`Dir::file`].
    pub fn open_to_write(&self, path: &Path) -> Result<File> {
        self.regular(path, "open", OFlag::O_RDWR, 0)
    }

    /// Creates a file for reading and writing, which must not exist.
    ///
    /// # Errors
    /// Fails if the name exists, or if the path contains a link.
    pub fn create_new(&self, path: &Path, mode: u32) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(File::from(self.raw(path, flags, mode).map_err(self.fail("create", path))?))
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// Fails if the name exists, or if the path contains a link.
    pub fn make_directory(&self, path: &Path, mode: u32) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        mkdirat(&parent.fd, name.as_path(), Mode::from_bits_truncate(mode))
            .map_err(self.fail("make", path))
    }

    /// Removes a file or a link, if it exists.
    ///
    /// # Errors
    /// Fails if it cannot be removed, or is a directory.
    pub fn remove_file(&self, path: &Path) -> Result<()> {
        self.unlink(path, UnlinkatFlags::NoRemoveDir)
    }

    fn unlink(&self, path: &Path, flag: UnlinkatFlags) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match unlinkat(&parent.fd, name.as_path(), flag) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.fail("remove", path)(error)),
        }
    }

    /// Removes a directory and everything in it. Links in it are removed, not followed.
    ///
    /// # Errors
    /// Fails if a file cannot be removed; others may be removed by then.
    pub fn remove_tree(&self, path: &Path) -> Result<()> {
        let inner = self.directory(path)?;
        for name in inner.names()? {
            let name = Path::new(&name);
            match inner.metadata(name) {
                Ok(metadata) if metadata.is_dir() => inner.remove_tree(name)?,
                _ => inner.remove_file(name)?,
            }
        }
        self.unlink(path, UnlinkatFlags::RemoveDir)
    }

    fn parent(&self, path: &Path) -> Result<(Self, PathBuf)> {
        let name = path.file_name().ok_or_else(|| self.fail("name", path)(Errno::EXDEV))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.directory(parent)?, name.into()))
    }

    /// The metadata of a path; if the last component is a link, of the link itself.
    ///
    /// # Errors
    /// Fails if it does not exist, or if a link precedes the last component.
    pub fn metadata(&self, path: &Path) -> Result<Metadata> {
        let file = File::from(self.raw(path, OFlag::O_PATH, 0).map_err(self.fail("find", path))?);
        file.metadata().map_err(|e| Error::io("examine", &self.at(path), e))
    }

    /// The target of a link.
    ///
    /// # Errors
    /// Fails if it is not a link, or if another link precedes the last component.
    pub fn read_link(&self, path: &Path) -> Result<OsString> {
        let link = self.raw(path, OFlag::O_PATH, 0).map_err(self.fail("find", path))?;
        readlinkat(&link, "").map_err(self.fail("read the link", path))
    }

    /// Resolves a path to one below this directory, following links that stay below it. An absolute
    /// path, given or in a link, is valid if it begins with [`Dir::path`]. The result is opened
    /// without following links, so a link that changes meanwhile causes an error.
    ///
    /// # Errors
    /// Fails if the path or a link leads out, is a loop or dangles.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        lookup::resolve(&self.fd, &self.path, path).map_err(|error| match error {
            Errno::ELOOP => {
                let source = io::Error::from_raw_os_error(Errno::ELOOP as i32);
                Error::io("follow", &self.at(path), source)
            }
            other => self.fail("find", path)(other),
        })
    }

    /// The names in the directory, in byte order.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let list = || -> nix::Result<Vec<OsString>> {
            let fd = self.raw(Path::new(""), OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
            let mut names = Vec::new();
            for entry in dir::Dir::from_fd(fd)?.iter() {
                let name = entry?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    names.push(std::os::unix::ffi::OsStringExt::from_vec(name));
                }
            }
            names.sort();
            Ok(names)
        };
        list().map_err(self.fail("list", Path::new("")))
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}
