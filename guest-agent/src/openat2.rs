//! Opens paths below a root that they cannot leave: the kernel resolves every `..` and every
//! symbolic link, even an absolute one, as if the root were `/`. The content of the root was
//! written by package scripts and is not trusted.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};
use wire::Failure;

/// The maximum number of attempts to open a path. The kernel requests another attempt if a rename
/// races with the lookup of `..`; more than this many in a row are an attack.
const RACES_MAX: u32 = 64;

use crate::failure::Doing;

/// A root directory.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// An open directory and a name in it; the name is `.` for the root itself.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: OwnedFd,
    pub(crate) name: OsString,
}

impl Place {
    /// Returns a path of the place for system calls that take no directory descriptor. It stays
    /// within the directory, as the name contains no slash.
    pub(crate) fn proc_path(&self) -> nix::Result<CString> {
        proc_path(&self.directory, &self.name)
    }
}

/// Returns a path of a name in an open directory, for system calls that take only paths.
pub(crate) fn proc_path(directory: impl AsFd, name: &OsStr) -> nix::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    CString::new(path).map_err(|_| Errno::EINVAL)
}

impl Root {
    /// Opens a root directory by its path in the agent's own root.
    pub(crate) fn open(path: &str) -> Result<Self, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty())
            .doing(|| format!("open the root directory `{path}`"))?;
        Ok(Self { fd })
    }

    /// Uses an open directory as the root.
    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a path below the root.
    pub(crate) fn open_at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        for _ in 0..RACES_MAX {
            match openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
        Err(Errno::ELOOP)
    }

    /// Opens a directory below the root.
    pub(crate) fn directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// Opens the parent directory of a path and splits off the last name, which is not followed if
    /// it is a link.
    pub(crate) fn place(&self, path: &Path) -> nix::Result<Place> {
        let (parent, name) = split(path)?;
        Ok(Place { directory: self.directory(&parent)?, name })
    }

    /// Same as [`Root::place`], but creates missing parents.
    pub(crate) fn place_making(&self, path: &Path) -> nix::Result<Place> {
        let (parent, name) = split(path)?;
        Ok(Place { directory: self.make_directories(&parent)?, name })
    }

    /// Opens a directory, and creates its missing components with mode 0755.
    pub(crate) fn make_directories(&self, path: &Path) -> nix::Result<OwnedFd> {
        match self.directory(path) {
            Err(Errno::ENOENT) => {}
            other => return other,
        }
        let mut reached = PathBuf::new();
        let mut directory = self.directory(&reached)?;
        for component in path.components() {
            reached.push(component);
            directory = match self.directory(&reached) {
                Err(Errno::ENOENT) => {
                    let Component::Normal(name) = component else { return Err(Errno::ENOENT) };
                    // A dangling link causes an error: `mkdirat` fails because the link exists.
                    mkdirat(&directory, name, Mode::from_bits_truncate(0o755))?;
                    self.directory(&reached)?
                }
                other => other?,
            };
        }
        Ok(directory)
    }
}

fn split(path: &Path) -> nix::Result<(PathBuf, OsString)> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => {
            let parent = path.parent().unwrap_or(Path::new(""));
            Ok((parent.to_owned(), name.to_owned()))
        }
        None | Some(Component::RootDir | Component::CurDir) => {
            Ok((PathBuf::new(), OsString::from(".")))
        }
        // The parent is only known after a lookup, and not needed.
        Some(Component::ParentDir | Component::Prefix(_)) => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/a/b")).unwrap();
        fs::write(folder.path().join("outside"), "secret").unwrap();
        fs::write(folder.path().join("root/outside"), "inside").unwrap();
        let root = Root::open(folder.path().join("root").to_str().unwrap()).unwrap();
        (folder, root)
    }

    fn read(root: &Root, path: &str) -> nix::Result<String> {
        let file = root.open_at(Path::new(path), OFlag::O_RDONLY)?;
        Ok(std::io::read_to_string(fs::File::from(file)).unwrap())
    }

    #[test]
    fn neither_dots_nor_links_leave_the_root() {
        let (folder, root) = root();
        symlink("/outside", folder.path().join("root/a/absolute")).unwrap();
        symlink("../../../outside", folder.path().join("root/a/relative")).unwrap();
        for path in ["outside", "/../outside", "a/../../outside", "a/absolute", "a/relative"] {
            assert_eq!(read(&root, path).unwrap(), "inside", "{path}");
        }
    }

    #[test]
    fn missing_directories_are_made_inside() {
        let (folder, root) = root();
        symlink("/a/b", folder.path().join("root/link")).unwrap();
        root.make_directories(Path::new("/link/c/d")).unwrap();
        assert!(folder.path().join("root/a/b/c/d").is_dir());
        symlink("/nowhere", folder.path().join("root/dangling")).unwrap();
        assert_eq!(root.make_directories(Path::new("dangling/x")).unwrap_err(), Errno::EEXIST);
    }

    #[test]
    fn places_split_off_the_last_name() {
        let (_folder, root) = root();
        assert_eq!(root.place(Path::new("/a/b/")).unwrap().name, "b");
        assert_eq!(root.place(Path::new("/")).unwrap().name, ".");
        assert_eq!(root.place(Path::new("")).unwrap().name, ".");
        assert_eq!(root.place(Path::new("a/..")).unwrap_err(), Errno::EINVAL);
    }
}
