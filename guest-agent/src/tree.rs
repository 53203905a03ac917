//! Walks through file trees by directory descriptors, so that a process that moves files meanwhile
//! cannot lead the agent elsewhere. Names are sorted by bytes.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use wire::Failure;

use crate::failure::Doing;

/// The maximum depth of a tree. Each level keeps a descriptor open; real trees are below fifty, and
/// the agent may have 65,536 descriptors.
const DEPTH_MAX: usize = 1024;

/// An entry found on a walk.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// The open directory that contains the entry.
    pub(crate) directory: &'a OwnedFd,
    /// The name of the entry in its directory.
    pub(crate) name: &'a OsStr,
    /// The path of the entry, relative to the directory where the walk started.
    pub(crate) path: &'a Path,
    /// The status of the entry; links are not followed.
    pub(crate) stat: FileStat,
}

impl Entry<'_> {
    /// Returns the type bits of the entry's mode.
    pub(crate) fn kind(&self) -> SFlag {
        kind(&self.stat)
    }
}

/// Returns the type bits of a mode.
pub(crate) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether a walk descends into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Descend {
    /// Visit its content, then call [`Visitor::leave`].
    Yes,
    /// Skip its content, without calling [`Visitor::leave`].
    No,
}

/// The actions on a walk.
pub(crate) trait Visitor {
    /// Called for every entry, for directories before their content.
    fn enter(&mut self, entry: &Entry<'_>) -> Result<Descend, Failure>;

    /// Called for each directory after its content.
    fn leave(&mut self, _entry: &Entry<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Returns the names in an open directory, sorted by bytes.
pub(crate) fn names(directory: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let copy = openat(directory, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(copy)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// Returns the status of a name in a directory; `None` if it does not exist.
pub(crate) fn stat(directory: impl AsFd, name: &OsStr) -> nix::Result<Option<FileStat>> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory by its name in another; a link is refused.
pub(crate) fn open_directory(directory: impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

struct Level {
    directory: OwnedFd,
    names: std::vec::IntoIter<OsString>,
    /// The name of the directory in its parent, and its status; `None` for the top directory.
    own: Option<(OsString, FileStat)>,
}

impl Level {
    fn new(directory: OwnedFd, own: Option<(OsString, FileStat)>) -> nix::Result<Self> {
        let names = names(&directory)?.into_iter();
        Ok(Self { directory, names, own })
    }
}

/// Walks through everything in a directory, except the directory itself.
pub(crate) fn walk(top: OwnedFd, visitor: &mut impl Visitor) -> Result<(), Failure> {
    let mut path = PathBuf::new();
    let mut levels = vec![Level::new(top, None).doing(|| "list the directory")?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            leave(&mut levels, &path, visitor)?;
            path.pop();
            continue;
        };
        path.push(&name);
        let action = || format!("look at `{}`", path.display());
        // An entry that has vanished since the listing is ignored.
        let found = stat(&level.directory, &name).doing(action)?;
        if let Some(stat) = found {
            let directory = &level.directory;
            let entry = Entry { directory, name: &name, path: &path, stat };
            let descend = visitor.enter(&entry)?;
            if descend == Descend::Yes && kind(&stat) == SFlag::S_IFDIR {
                let opened = open_directory(directory, &name);
                let opened = opened.and_then(|fd| Level::new(fd, Some((name, stat))));
                if levels.len() >= DEPTH_MAX {
                    return Err(Errno::ELOOP).doing(|| format!("enter `{}`", path.display()));
                }
                levels.push(opened.doing(|| format!("list `{}`", path.display()))?);
                continue;
            }
        }
        path.pop();
    }
    Ok(())
}

fn leave(levels: &mut Vec<Level>, path: &Path, visitor: &mut impl Visitor) -> Result<(), Failure> {
    let left = levels.pop().and_then(|level| level.own);
    if let (Some((name, stat)), Some(parent)) = (left, levels.last()) {
        let directory = &parent.directory;
        visitor.leave(&Entry { directory, name: &name, path, stat })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[derive(Default)]
    struct Log(Vec<String>);

    impl Visitor for Log {
        fn enter(&mut self, entry: &Entry<'_>) -> Result<Descend, Failure> {
            self.0.push(format!("+{}", entry.path.display()));
            Ok(if entry.name == "skipped" { Descend::No } else { Descend::Yes })
        }

        fn leave(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
            self.0.push(format!("-{}", entry.path.display()));
            Ok(())
        }
    }

    #[test]
    fn the_order_is_sorted_and_links_are_not_entered() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/c", "a/deep/er", "skipped/x"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        fs::write(folder.path().join("a/file"), "").unwrap();
        let mut log = Log::default();
        walk(OwnedFd::from(fs::File::open(folder.path()).unwrap()), &mut log).unwrap();
        let expected = "+a +a/deep +a/deep/er -a/deep/er -a/deep +a/file -a \
                        +b +b/c -b/c -b +link +skipped";
        assert_eq!(log.0.join(" "), expected);
    }
}
