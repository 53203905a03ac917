//! Unpacks a tar stream to a file tree.
//!
//! Existing directories are merged. A link to a directory counts as one, as in a tree whose `/lib`
//! is a link to `usr/lib`. Other existing files are replaced. Directories get their owner, mode,
//! attributes and time last, after their content was created.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use tar_stream::{Archive, Entry, Kind};
use wire::Failure;

use crate::failure::Doing;
use crate::openat2::{Place, Root, proc_path};
use crate::stream::{Stream, StreamReader};
use crate::sys;

/// The size of the pieces in which content is copied, in bytes.
const COPY_BYTES: usize = 64 * 1024;

/// The size of an aligned run of zeros that becomes a hole, in bytes: the block size of the usual
/// filesystems.
const HOLE_BYTES: usize = 4096;

/// Unpacks the tar stream that the host sends below a directory.
pub(crate) fn unpack(stream: &Stream, root: &str, path: &str) -> Result<(), Failure> {
    let action = || format!("unpack below `{path}`");
    let top = Root::open(root)?.make_directories(Path::new(path)).doing(action)?;
    let mut unpacker = Unpacker {
        root: Root::of(top),
        directories: Vec::new(),
        parent: None,
        buffer: vec![0; COPY_BYTES],
    };
    let mut archive = Archive::new(StreamReader::new(stream));
    while let Some(entry) = archive.next_entry().map_err(io::Error::from).doing(action)? {
        unpacker.entry(&entry, &mut archive).doing(|| {
            let shown = String::from_utf8_lossy(&entry.path.join(&b'/')).into_owned();
            format!("unpack `{shown}` below `{path}`")
        })?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: Root,
    /// Directories whose attributes are still to be set.
    directories: Vec<(PathBuf, Entry)>,
    /// The parent directory of the previous member, which is mostly that of the next one, too.
    parent: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
}

fn refused(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

/// Joins components to a path below the directory; empty for the directory itself.
fn relative(components: &[Vec<u8>]) -> PathBuf {
    components.iter().map(|component| OsStr::from_bytes(component)).collect()
}

impl Unpacker {
    fn entry(&mut self, member: &Entry, content: &mut impl Read) -> io::Result<()> {
        let path = relative(&member.path);
        if member.kind == Kind::Directory {
            self.directory(&path, member)?;
            return Ok(());
        }
        if path.as_os_str().is_empty() {
            return Err(refused("the member has no name"));
        }
        let place = self.place(&path)?;
        let made = self.make(&place, member, content);
        match made {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {
                self.replace(&place)?;
                self.make(&place, member, content)
            }
            other => other,
        }
    }

    fn place(&mut self, path: &Path) -> nix::Result<Place> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or(Errno::EINVAL)?.to_owned();
        let known = self.parent.as_ref().filter(|(known, _)| known == parent);
        let directory = match known {
            Some((_, directory)) => directory.try_clone().map_err(|_| Errno::EMFILE)?,
            None => {
                let directory = self.root.make_directories(parent)?;
                let copy = directory.try_clone().map_err(|_| Errno::EMFILE)?;
                self.parent = Some((parent.to_owned(), copy));
                directory
            }
        };
        Ok(Place { directory, name })
    }

    /// Removes an existing file of any kind, or an empty directory, to make room for a member.
    fn replace(&mut self, place: &Place) -> nix::Result<()> {
        let name = place.name.as_os_str();
        match unlinkat(&place.directory, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                self.parent = None;
                unlinkat(&place.directory, name, UnlinkatFlags::RemoveDir)
            }
            other => other,
        }
    }

    /// Creates a member that is not a directory. Its content is only read after the file was
    /// created.
    fn make(&mut self, place: &Place, member: &Entry, content: &mut impl Read) -> io::Result<()> {
        let (directory, name) = (&place.directory, place.name.as_os_str());
        match member.kind {
            Kind::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                let mode = Mode::from_bits_truncate(0o600);
                let file = File::from(openat(directory, name, flags, mode)?);
                self.copy(content, &file, member)?;
                return set_file(&file, place, member);
            }
            Kind::HardLink => {
                let target = self.root.place(&relative(&member.hard_link))?;
                let from = target.name.as_os_str();
                linkat(&target.directory, from, directory, name, AtFlags::empty())?;
                return Ok(());
            }
            Kind::Symlink => symlinkat(OsStr::from_bytes(&member.link), directory, name)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match member.kind {
                    Kind::CharDevice => SFlag::S_IFCHR,
                    Kind::BlockDevice => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let (major, minor) = member.device;
                let device = makedev(u64::from(major), u64::from(minor));
                mknodat(directory, name, kind, Mode::from_bits_truncate(0o600), device)?;
            }
            Kind::Directory => return Err(refused("a directory is no file")),
        }
        set_special(place, member)
    }

    fn copy(&mut self, content: &mut impl Read, file: &File, member: &Entry) -> io::Result<()> {
        let whole = [(0, member.size)];
        for (start, length) in member.extents.as_deref().unwrap_or(&whole) {
            let (mut offset, end) = (*start, start + length);
            while offset < end {
                let room = usize::try_from(end - offset).unwrap_or(usize::MAX).min(COPY_BYTES);
                let piece = &mut self.buffer[..room];
                content.read_exact(piece)?;
                write_sparse(file, piece, offset)?;
                offset += room as u64;
            }
        }
        // A hole at the end is not written, so it does not give the file its size.
        let has_holes = member.extents.is_some() || member.size >= HOLE_BYTES as u64;
        if has_holes { file.set_len(member.size) } else { Ok(()) }
    }

    fn directory(&mut self, path: &Path, member: &Entry) -> io::Result<()> {
        if !path.as_os_str().is_empty() {
            let place = self.place(path)?;
            let (directory, name) = (&place.directory, place.name.as_os_str());
            let mode = Mode::from_bits_truncate(0o700);
            match mkdirat(directory, name, mode) {
                Err(Errno::EEXIST) if self.root.directory(path).is_ok() => {}
                Err(Errno::EEXIST) => {
                    self.replace(&place)?;
                    mkdirat(directory, name, mode)?;
                }
                other => other?,
            }
        }
        let member = Entry { path: Vec::new(), link: Vec::new(), ..member.clone() };
        self.directories.push((path.to_owned(), member));
        Ok(())
    }

    /// Sets the deferred attributes of directories, the deepest first, as this changes nothing in
    /// the directories above.
    fn finish(&mut self) -> Result<(), Failure> {
        for (path, member) in self.directories.iter().rev() {
            let set = || {
                let directory = self.root.directory(path)?;
                let xattrs = proc_path(&directory, OsStr::new("."))?;
                set_attributes(&directory, &xattrs, member)
            };
            set().doing(|| format!("set the attributes of `{}`", path.display()))?;
        }
        Ok(())
    }
}

/// Writes a piece, leaving out aligned blocks of zeros.
fn write_sparse(file: &File, piece: &[u8], offset: u64) -> io::Result<()> {
    if piece.len() < HOLE_BYTES {
        return file.write_all_at(piece, offset);
    }
    // The first byte decides nearly always, so this costs little.
    let is_hole = |block: &[u8]| block.len() == HOLE_BYTES && block.iter().all(|byte| *byte == 0);
    let mut start = 0;
    for (index, block) in piece.chunks(HOLE_BYTES).enumerate() {
        if is_hole(block) {
            let hole = index * HOLE_BYTES;
            if start < hole {
                file.write_all_at(&piece[start..hole], offset + start as u64)?;
            }
            start = hole + HOLE_BYTES;
        }
    }
    match piece.get(start..) {
        Some(rest) if !rest.is_empty() => file.write_all_at(rest, offset + start as u64),
        _ => Ok(()),
    }
}

fn owner(member: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
}

fn time(member: &Entry) -> TimeSpec {
    TimeSpec::new(member.mtime.0, member.mtime.1.into())
}

fn set_file(file: &File, place: &Place, member: &Entry) -> io::Result<()> {
    let path = match member.xattrs.is_empty() {
        true => CString::default(),
        false => place.proc_path()?,
    };
    set_attributes(file, &path, member)
}

fn set_attributes(fd: &impl std::os::fd::AsFd, path: &CString, member: &Entry) -> io::Result<()> {
    let (uid, gid) = owner(member);
    fchown(fd, uid, gid)?;
    // Mode and capabilities are set after the owner, whose change clears them.
    fchmod(fd, Mode::from_bits_truncate(member.mode))?;
    set_xattrs(path, member)?;
    Ok(futimens(fd, &time(member), &time(member))?)
}

fn set_xattrs(path: &CString, member: &Entry) -> io::Result<()> {
    for (name, value) in &member.xattrs {
        let name = CString::new(name.clone())?;
        sys::set_xattr(path, &name, value)?;
    }
    Ok(())
}

/// Sets the attributes of a file that cannot be opened, such as a link or a device.
fn set_special(place: &Place, member: &Entry) -> io::Result<()> {
    let (directory, name) = (&place.directory, place.name.as_os_str());
    let (uid, gid) = owner(member);
    fchownat(directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if member.kind != Kind::Symlink {
        let mode = Mode::from_bits_truncate(member.mode);
        fchmodat(directory, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    set_xattrs(&place.proc_path()?, member)?;
    let flag = UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(directory, name, &time(member), &time(member), flag)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_become_holes_and_read_the_same() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 10 * HOLE_BYTES + 17];
        bytes[3 * HOLE_BYTES] = 1;
        bytes[5 * HOLE_BYTES + 4095] = 2;
        write_sparse(&file, &bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let mut read = vec![9; bytes.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes);
        assert!(file.metadata().unwrap().blocks() * 512 < bytes.len() as u64);
    }
}
