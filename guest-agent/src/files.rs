//! Reads and writes single files, and carries out small operations on files, below a root.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{
    FchmodatFlags, FileStat as Stat, Mode, SFlag, fchmod, fchmodat, fstat, mkdirat,
};
use nix::unistd::{UnlinkatFlags, fchown, getegid, symlinkat, unlinkat};
use wire::{DATA_MAX_BYTES, Failure, FileKind, FileOperation, FileStat, Reply};

use crate::failure::{Doing, failure};
use crate::openat2::{Place, Root};
use crate::stream::{Stream, StreamWriter};
use crate::tree::{self, Descend, Entry, Visitor};

/// The counter that makes temporary names unique.
static TEMPORARY: AtomicU64 = AtomicU64::new(0);

fn temporary_name() -> OsString {
    let number = TEMPORARY.fetch_add(1, Ordering::Relaxed);
    format!(".vbuild-{}-{number}", std::process::id()).into()
}

/// Converts the permission bits of a request to a mode.
fn mode_of(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits & 0o7777)
}

/// Creates or replaces a file with the bytes that the host sends.
pub(crate) fn put(stream: &Stream, root: &str, path: &str, mode: u32) -> Result<(), Failure> {
    let action = || format!("write the file `{path}`");
    let place = Root::open(root)?.place(Path::new(path)).doing(action)?;
    if place.name == "." {
        return Err(failure(action(), "it is a directory"));
    }
    let temporary = temporary_name();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let fd =
        openat(&place.directory, temporary.as_os_str(), flags, mode_of(0o600)).doing(action)?;
    let written = write_all(stream, fd, mode).and_then(|()| {
        let (from, to) = (temporary.as_os_str(), place.name.as_os_str());
        Ok(renameat(&place.directory, from, &place.directory, to)?)
    });
    if written.is_err() {
        let flag = UnlinkatFlags::NoRemoveDir;
        let _ = unlinkat(&place.directory, temporary.as_os_str(), flag);
    }
    written.doing(action)
}

fn write_all(stream: &Stream, fd: OwnedFd, mode: u32) -> std::io::Result<()> {
    let mut file = File::from(fd);
    while let Some(bytes) = stream.receive()? {
        file.write_all(&bytes)?;
    }
    // In a directory with the setgid bit, a new file has the group of the directory.
    fchown(&file, None, Some(getegid()))?;
    // The mode is set after the owner, whose change clears the setuid bit.
    Ok(fchmod(&file, mode_of(mode))?)
}

/// Sends a file to the host.
pub(crate) fn get(stream: &Stream, root: &str, path: &str, max_bytes: u64) -> Result<(), Failure> {
    let action = || format!("read the file `{path}`");
    // O_NONBLOCK, because opening a named pipe would wait for its other end.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let fd = Root::open(root)?.open_at(Path::new(path), flags).doing(action)?;
    let stat = fstat(&fd).doing(action)?;
    if tree::kind(&stat) != SFlag::S_IFREG {
        return Err(failure(action(), "it is no regular file"));
    }
    let too_large = || failure(action(), format!("it is larger than {max_bytes} bytes"));
    if u64::try_from(stat.st_size).unwrap_or(0) > max_bytes {
        return Err(too_large());
    }
    let file = File::from(fd);
    let mut left = max_bytes;
    loop {
        let mut bytes = Vec::with_capacity(DATA_MAX_BYTES);
        let room = DATA_MAX_BYTES as u64;
        let count = (&file).take(room).read_to_end(&mut bytes).doing(action)?;
        if count == 0 {
            return StreamWriter::new(stream).finish().doing(action);
        }
        // The size may be wrong: files can grow, and files in /proc report no size.
        left = left.checked_sub(count as u64).ok_or_else(too_large)?;
        stream.send(wire::Channel::Main, bytes).doing(action)?;
    }
}

/// Carries out a small operation on files.
pub(crate) fn operate(operation: &FileOperation) -> Result<Reply, Failure> {
    use FileOperation as Op;
    match operation {
        Op::Stat { root, path } => stat(root, path),
        Op::List { root, path } => list(root, path),
        Op::MakeDirectory { root, path, mode } => make_directory(root, path, *mode),
        Op::Symlink { root, path, target } => symlink(root, path, target),
        Op::Remove { root, path, content_only } => remove(root, path, *content_only),
        Op::Rename { root, from, to } => rename(root, from, to),
        Op::TruncateAll { root, path } => {
            let action = || format!("truncate the files below `{path}`");
            let top = Root::open(root)?.directory(Path::new(path)).doing(action)?;
            tree::walk(top, &mut Truncate)?;
            Ok(Reply::Done {})
        }
        Op::Usage { root, path } => usage(root, path),
    }
}

fn describe(place: &Place, stat: &Stat) -> nix::Result<FileStat> {
    let kind = match tree::kind(stat) {
        SFlag::S_IFREG => FileKind::File,
        SFlag::S_IFDIR => FileKind::Directory,
        SFlag::S_IFLNK => FileKind::Symlink,
        _ => FileKind::Special,
    };
    let link = match kind {
        FileKind::Symlink => {
            let target = readlinkat(&place.directory, place.name.as_os_str())?;
            Some(target.to_string_lossy().into_owned())
        }
        _ => None,
    };
    Ok(FileStat { kind, mode: stat.st_mode & 0o7777, link })
}

fn stat(root: &str, path: &str) -> Result<Reply, Failure> {
    let action = || format!("look at `{path}`");
    let place = match Root::open(root)?.place(Path::new(path)) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Reply::Stat { stat: None }),
        other => other.doing(action)?,
    };
    let stat = tree::stat(&place.directory, &place.name).doing(action)?;
    let stat = stat.map(|stat| describe(&place, &stat)).transpose().doing(action)?;
    Ok(Reply::Stat { stat })
}

fn list(root: &str, path: &str) -> Result<Reply, Failure> {
    let action = || format!("list `{path}`");
    let directory = Root::open(root)?.directory(Path::new(path)).doing(action)?;
    let names = tree::names(&directory).doing(action)?;
    let mut place = Place { directory, name: OsString::new() };
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        place.name = name;
        if let Some(stat) = tree::stat(&place.directory, &place.name).doing(action)? {
            let name = place.name.to_string_lossy().into_owned();
            entries.push((name, describe(&place, &stat).doing(action)?));
        }
    }
    Ok(Reply::Entries { entries })
}

fn make_directory(root: &str, path: &str, mode: u32) -> Result<Reply, Failure> {
    let action = || format!("make the directory `{path}`");
    let (root, path) = (Root::open(root)?, Path::new(path));
    let place = root.place_making(path).doing(action)?;
    let name = place.name.as_os_str();
    match mkdirat(&place.directory, name, mode_of(mode)) {
        Err(Errno::EEXIST) if root.directory(path).is_ok() => {}
        made => {
            made.doing(action)?;
            // The mode is set again, because mkdir applies the umask.
            let follow = FchmodatFlags::FollowSymlink;
            fchmodat(&place.directory, name, mode_of(mode), follow).doing(action)?;
        }
    }
    Ok(Reply::Done {})
}

fn symlink(root: &str, path: &str, target: &str) -> Result<Reply, Failure> {
    let action = || format!("make the link `{path}`");
    let place = Root::open(root)?.place(Path::new(path)).doing(action)?;
    let temporary = temporary_name();
    symlinkat(target, &place.directory, temporary.as_os_str()).doing(action)?;
    let (from, to) = (temporary.as_os_str(), place.name.as_os_str());
    renameat(&place.directory, from, &place.directory, to)
        .inspect_err(|_| {
            let _ = unlinkat(&place.directory, from, UnlinkatFlags::NoRemoveDir);
        })
        .doing(action)?;
    Ok(Reply::Done {})
}

fn remove(root: &str, path: &str, content_only: bool) -> Result<Reply, Failure> {
    let action = || format!("remove `{path}`");
    let place = match Root::open(root)?.place(Path::new(path)) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Reply::Done {}),
        other => other.doing(action)?,
    };
    let Some(stat) = tree::stat(&place.directory, &place.name).doing(action)? else {
        return Ok(Reply::Done {});
    };
    if tree::kind(&stat) != SFlag::S_IFDIR {
        let flag = UnlinkatFlags::NoRemoveDir;
        unlinkat(&place.directory, place.name.as_os_str(), flag).doing(action)?;
        return Ok(Reply::Done {});
    }
    let top = tree::open_directory(&place.directory, &place.name).doing(action)?;
    tree::walk(top, &mut Remove { below: path, device: stat.st_dev })?;
    if !content_only {
        let flag = UnlinkatFlags::RemoveDir;
        unlinkat(&place.directory, place.name.as_os_str(), flag).doing(action)?;
    }
    Ok(Reply::Done {})
}

struct Remove<'a> {
    below: &'a str,
    /// The device number of the filesystem to stay on.
    device: u64,
}

impl Remove<'_> {
    fn unlink(&self, entry: &Entry<'_>, flag: UnlinkatFlags) -> Result<(), Failure> {
        match unlinkat(entry.directory, entry.name, flag) {
            // A directory that contains the mount point of another filesystem is kept.
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EBUSY) => Ok(()),
            other => other.doing(|| format!("remove `{}/{}`", self.below, entry.path.display())),
        }
    }
}

impl Visitor for Remove<'_> {
    fn enter(&mut self, entry: &Entry<'_>) -> Result<Descend, Failure> {
        if entry.kind() != SFlag::S_IFDIR {
            self.unlink(entry, UnlinkatFlags::NoRemoveDir)?;
        }
        let elsewhere = entry.stat.st_dev != self.device;
        Ok(if elsewhere { Descend::No } else { Descend::Yes })
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        self.unlink(entry, UnlinkatFlags::RemoveDir)
    }
}

fn rename(root: &str, from: &str, to: &str) -> Result<Reply, Failure> {
    let action = || format!("rename `{from}` to `{to}`");
    let root = Root::open(root)?;
    let source = root.place(Path::new(from)).doing(action)?;
    let target = root.place(Path::new(to)).doing(action)?;
    let names = (source.name.as_os_str(), target.name.as_os_str());
    renameat(&source.directory, names.0, &target.directory, names.1).doing(action)?;
    Ok(Reply::Done {})
}

struct Truncate;

impl Visitor for Truncate {
    fn enter(&mut self, entry: &Entry<'_>) -> Result<Descend, Failure> {
        if entry.kind() == SFlag::S_IFREG && entry.stat.st_size > 0 {
            let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(entry.directory, entry.name, flags, Mode::empty())
                .doing(|| format!("truncate `{}`", entry.path.display()))?;
        }
        Ok(Descend::Yes)
    }
}

fn usage(root: &str, path: &str) -> Result<Reply, Failure> {
    let action = || format!("add up `{path}`");
    let top = Root::open(root)?.directory(Path::new(path)).doing(action)?;
    let stat = fstat(&top).doing(action)?;
    let mut usage = Usage { device: stat.st_dev, blocks: 0, seen: HashSet::new() };
    usage.add(&stat);
    tree::walk(top, &mut usage)?;
    // Two blocks of 512 bytes are one KiB; du rounds the sum up.
    Ok(Reply::Usage { kib: usage.blocks.div_ceil(2) })
}

struct Usage {
    device: u64,
    blocks: u64,
    /// Device and inode numbers of files with several names, which are counted once.
    seen: HashSet<(u64, u64)>,
}

impl Usage {
    fn add(&mut self, stat: &Stat) {
        self.blocks += u64::try_from(stat.st_blocks).unwrap_or(0);
    }
}

impl Visitor for Usage {
    fn enter(&mut self, entry: &Entry<'_>) -> Result<Descend, Failure> {
        let stat = &entry.stat;
        // Only directories are compared: on an overlay, files have the device number of their
        // layer.
        if entry.kind() == SFlag::S_IFDIR && stat.st_dev != self.device {
            return Ok(Descend::No);
        }
        let linked = entry.kind() != SFlag::S_IFDIR && stat.st_nlink > 1;
        if !linked || self.seen.insert((stat.st_dev, stat.st_ino)) {
            self.add(&entry.stat);
        }
        Ok(Descend::Yes)
    }
}
