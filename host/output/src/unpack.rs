//! Unpacks the directory `NAME.d`, the files that a build leaves for the host, from the guest's
//! stream.
//!
//! The guest is untrusted. Files are unpacked to a new directory beside the destination, or in it
//! if it exists. This directory contains no symbolic links while files are written; links are
//! created last, and only those whose target is inside. Owners, devices and set-id bits are
//! dropped. On commit the directory gets its final name, or its files move into the existing one.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use tar_stream::{Archive, Entry, Kind, TRAILING_MAX_BYTES};

use crate::{
    OutputError, Progress, Result,
    atomic::{directory_of, sync_directory, temporary_name, temporary_prefix},
};

/// Limits on what a guest may leave.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Bytes of all files together, including holes.
    pub bytes: u64,
    /// Members of the archive, including directories that only paths imply.
    pub entries: u64,
}

impl Default for UnpackLimits {
    /// Kernels, ramdisks and manifests are far below these limits, which stop a misbehaving guest
    /// from filling the disk.
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 100_000 }
    }
}

/// An unpacked tree without its final name. Dropping it removes it.
#[derive(Debug)]
pub struct PendingTree {
    staging: PathBuf,
    destination: PathBuf,
    entries: u64,
    /// Keeps other runs from removing the directory as a leftover.
    _lock: File,
}

/// Memory limit for symbolic links, which are created last, in bytes: the default number of
/// members, with 300 bytes of path and target each.
const LINKS_MAX_BYTES: usize = 32 << 20;

/// Stream bytes allowed per member beside its data: its header, the padding, and records with a
/// path and some attributes. This bounds the stream, because it is copied to the store of build
/// results.
const ENTRY_OVERHEAD_BYTES: u64 = 16 << 10;

/// Memory charged for a link beside its bytes: two vectors, and their entry in a list that grows by
/// doubling.
const LINK_BYTES: usize = 128;

/// Bytes copied per operation.
const COPY_BYTES: usize = 256 << 10;

/// Unpacks a tar stream for the directory `destination`. `None` if the stream is empty.
///
/// # Errors
/// Fails if the stream fails, contains something that is refused, exceeds the limits, or if the
/// host's disk fails.
pub fn unpack_tree(
    tar: &mut dyn Read,
    destination: &Path,
    limits: UnpackLimits,
    progress: &dyn Progress,
) -> Result<Option<PendingTree>> {
    let mut tree = PendingTree::create(destination)?;
    let allowed = limits.entries.saturating_mul(ENTRY_OVERHEAD_BYTES);
    let mut tar = tar.take(limits.bytes.saturating_add(allowed).saturating_add(TRAILING_MAX_BYTES));
    let mut archive = Archive::new(&mut tar as &mut dyn Read);
    let mut unpacker = Unpacker {
        root: tree.staging.clone(),
        limits,
        bytes_left: limits.bytes,
        entries_left: limits.entries,
        links: Vec::new(),
        links_left: LINKS_MAX_BYTES,
    };
    while let Some(entry) = archive.next_entry()? {
        if progress.cancelled() {
            return Err(OutputError::Cancelled);
        }
        if entry.path.is_empty() {
            continue;
        }
        tree.entries += 1;
        unpacker.unpack(&mut archive, entry)?;
    }
    unpacker.make_links()?;
    Ok((tree.entries > 0).then_some(tree))
}

impl PendingTree {
    fn create(destination: &Path) -> Result<Self> {
        let beside = Self::beside(destination);
        remove_stale(&beside);
        let staging = temporary_name(&beside);
        fs::create_dir(&staging)
            .and_then(|()| rooted::allow_user_mode_at(&staging, 0o777))
            .map_err(|e| OutputError::io("create", &staging, e))?;
        let lock = File::open(&staging).map_err(|e| OutputError::io("open", &staging, e))?;
        // Without locks (some network filesystems), leftovers are not removed.
        let _ = lock.try_lock();
        Ok(Self { staging, destination: destination.to_owned(), entries: 0, _lock: lock })
    }

    /// The path beside which the new directory is created: the destination, or a path in it if it
    /// exists, because the user may have write permission only there.
    fn beside(destination: &Path) -> PathBuf {
        let is_there = fs::symlink_metadata(destination).is_ok_and(|meta| meta.is_dir());
        match destination.file_name() {
            Some(name) if is_there => destination.join(name),
            None => destination.join("tree"),
            Some(_) => destination.to_owned(),
        }
    }

    /// The final path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.destination
    }

    /// Renames the tree to its final name, or moves its files into the existing directory, where
    /// files of the same name are replaced.
    ///
    /// # Errors
    /// Fails if a rename fails, or if the destination exists and is not a directory.
    pub fn commit(self) -> Result<PathBuf> {
        let destination = self.destination.clone();
        // Following a link here would let the guest's files go wherever it leads.
        match fs::symlink_metadata(&destination) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::rename(&self.staging, &destination)
                    .map_err(|e| OutputError::io("rename the unpacked tree to", &destination, e))?;
            }
            Ok(meta) if meta.is_dir() => merge(&self.staging, &destination)?,
            Ok(meta) if meta.is_symlink() => {
                let e = io::Error::other("it is a symbolic link, which is not followed");
                return Err(OutputError::io("unpack into", &destination, e));
            }
            Ok(_) => {
                let e = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(OutputError::io("unpack into", &destination, e));
            }
            Err(e) => return Err(OutputError::io("examine", &destination, e)),
        }
        sync_directory(directory_of(&destination))?;
        Ok(destination)
    }
}

impl Drop for PendingTree {
    fn drop(&mut self) {
        // After a commit by rename it does not exist; otherwise the next run for this destination
        // removes leftovers.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

fn remove_stale(destination: &Path) {
    let prefix = temporary_prefix(destination);
    let Ok(entries) = fs::read_dir(directory_of(destination)) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_bytes().starts_with(prefix.as_bytes());
        if !ours || !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn merge(from: &Path, to: &Path) -> Result<()> {
    let list = |e| OutputError::io("list", from, e);
    for entry in fs::read_dir(from).map_err(list)? {
        let entry = entry.map_err(list)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        // Not `metadata`: a link of an earlier build must not be followed.
        let existing = fs::symlink_metadata(&target);
        let is_dir = entry.file_type().map_err(list)?.is_dir();
        if is_dir && existing.as_ref().is_ok_and(fs::Metadata::is_dir) {
            merge(&source, &target)?;
        } else {
            fs::rename(&source, &target)
                .map_err(|e| OutputError::io("move an unpacked file to", &target, e))?;
        }
    }
    sync_directory(to)
}

struct Unpacker {
    root: PathBuf,
    limits: UnpackLimits,
    bytes_left: u64,
    entries_left: u64,
    /// Symbolic links, created after everything else: path and target.
    links: Vec<(PathBuf, Vec<u8>)>,
    /// Memory left for further links, in bytes.
    links_left: usize,
}

impl Unpacker {
    fn unpack(&mut self, archive: &mut Archive<&mut dyn Read>, entry: Entry) -> Result<()> {
        let shown = entry.path.join(&b'/');
        let path = self.place(&entry.path);
        self.count(1).map_err(|reason| archive.bad(&shown, reason))?;
        let make_error = |e| OutputError::io("create", &path, e);
        let made = make_parents(&path).map_err(make_error)?;
        self.count(made).map_err(|reason| archive.bad(&shown, reason))?;
        match entry.kind {
            Kind::Directory => {
                let mode = entry.mode & 0o777 | 0o700;
                match DirBuilder::new().mode(mode).create(&path) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
                    done => done
                        .and_then(|()| rooted::allow_user_mode_at(&path, mode))
                        .map_err(make_error),
                }
            }
            Kind::File => self.file(archive, &entry, &path),
            Kind::HardLink => {
                let target = self.place(&entry.hard_link);
                // There is no symbolic link below the root yet.
                if !fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_file()) {
                    return Err(archive.bad(&shown, "a hard link to no file before it").into());
                }
                fs::hard_link(&target, &path).map_err(make_error)
            }
            Kind::Symlink => {
                if !stays_inside(&entry) {
                    let reason = "a symbolic link that leads out of the tree";
                    return Err(archive.bad(&shown, reason).into());
                }
                let bytes = path.as_os_str().len() + entry.link.len() + LINK_BYTES;
                let Some(left) = self.links_left.checked_sub(bytes) else {
                    return Err(archive.bad(&shown, "more symbolic links than are kept").into());
                };
                self.links_left = left;
                self.links.push((path, entry.link));
                Ok(())
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let reason = "a device or pipe, which has no place on the host";
                Err(archive.bad(&shown, reason).into())
            }
        }
    }

    /// Counts created files and directories.
    fn count(&mut self, made: u64) -> Result<(), String> {
        let left = self.entries_left.checked_sub(made);
        self.entries_left =
            left.ok_or_else(|| format!("more than {} members", self.limits.entries))?;
        Ok(())
    }

    fn place(&self, components: &[Vec<u8>]) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(components.iter().map(|c| OsStr::from_bytes(c)));
        path
    }

    fn file(
        &mut self,
        archive: &mut Archive<&mut dyn Read>,
        entry: &Entry,
        path: &Path,
    ) -> Result<()> {
        // Including holes: a copy of the directory may not preserve them.
        let Some(left) = self.bytes_left.checked_sub(entry.size) else {
            let reason = "the files are larger than the limit for all of them together";
            return Err(archive.bad(&entry.path.join(&b'/'), reason).into());
        };
        self.bytes_left = left;
        let fail = |e| OutputError::io("write", path, e);
        // As in tar, later members replace earlier ones of the same name.
        let _ = fs::remove_file(path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(entry.mode & 0o777 | 0o600)
            .open(path)
            .map_err(fail)?;
        let whole = [(0, entry.size)];
        let mut buffer = vec![0; COPY_BYTES];
        for (offset, length) in entry.extents.as_deref().unwrap_or(&whole) {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let count = archive.read_data(&mut buffer[..part])?;
                file.write_all_at(&buffer[..count], at).map_err(fail)?;
                at += count as u64;
            }
        }
        file.set_len(entry.size).map_err(fail)?;
        rooted::allow_user_mode(&file, entry.mode & 0o777).map_err(fail)?;
        file.sync_all().map_err(fail)
    }

    fn make_links(&self) -> Result<()> {
        for (path, target) in &self.links {
            symlink(OsStr::from_bytes(target), path)
                .map_err(|e| OutputError::io("create", path, e))?;
        }
        Ok(())
    }
}

/// Creates the missing parent directories of a path; returns their number.
fn make_parents(path: &Path) -> io::Result<u64> {
    let Some(parent) = path.parent() else { return Ok(0) };
    let make = || {
        DirBuilder::new().create(parent)?;
        rooted::allow_user_mode_at(parent, 0o777)
    };
    match make() {
        Ok(()) => Ok(1),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && parent.is_dir() => Ok(0),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = make_parents(parent)?;
            make()?;
            Ok(made + 1)
        }
        Err(e) => Err(e),
    }
}

/// Whether a link's target is relative and, after at most as many `..` as the link is deep, only
/// descends. If all links do so, no chain of links leads out.
fn stays_inside(entry: &Entry) -> bool {
    if entry.link.first().is_none_or(|b| *b == b'/') {
        return false;
    }
    let parts = entry.link.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
    let mut parts = parts.peekable();
    let mut up = 0;
    while parts.next_if(|p| *p == b"..").is_some() {
        up += 1;
    }
    up < entry.path.len() && parts.all(|p| p != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    /// Creates an archive from (path, type, content or target).
    fn archive(members: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o6755);
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            let mut data = content.as_bytes();
            if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
                header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(data);
                data = b"";
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpack(tar: &[u8], to: &Path) -> Result<Option<PathBuf>> {
        let limits = UnpackLimits { bytes: 1000, entries: 20 };
        unpack_tree(&mut &tar[..], to, limits, &Silent)?.map(PendingTree::commit).transpose()
    }

    use tar::EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn a_link_in_the_place_of_a_tree_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (autostart, to) = (folder.path().join("autostart"), folder.path().join("image.d"));
        fs::create_dir(&autostart).unwrap();
        std::os::unix::fs::symlink("autostart", &to).unwrap();
        let error = unpack(&archive(&[("x.desktop", Regular, "Exec=sh")]), &to).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("symbolic link"), "{error}: {cause}");
        assert_eq!(fs::read_dir(&autostart).unwrap().count(), 0);
    }

    #[test]
    fn files_come_out_and_merge() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("image.d");
        let first = archive(&[
            ("./", Directory, ""),
            ("./manifests/a", Regular, "one"),
            ("/vmlinuz", Regular, "kernel"),
            ("again", Link, "vmlinuz"),
            ("manifests/link", Symlink, "../vmlinuz"),
        ]);
        assert_eq!(unpack(&first, &to).unwrap(), Some(to.clone()));
        assert_eq!(fs::read(to.join("manifests/link")).unwrap(), b"kernel");
        assert_eq!(fs::read(to.join("again")).unwrap(), b"kernel");
        fs::write(to.join("own"), "the user's").unwrap();
        let second = archive(&[("manifests/a", Regular, "two"), ("manifests/b", Regular, "new")]);
        unpack(&second, &to).unwrap();
        assert_eq!(fs::read(to.join("manifests/a")).unwrap(), b"two");
        assert_eq!(fs::read(to.join("manifests/b")).unwrap(), b"new");
        assert_eq!(fs::read(to.join("vmlinuz")).unwrap(), b"kernel");
        assert_eq!(fs::read(to.join("own")).unwrap(), b"the user's");
        let mode = fs::metadata(to.join("vmlinuz")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o7000, 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_tree_makes_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("image.d");
        assert_eq!(unpack(&archive(&[("./", Directory, "")]), &to).unwrap(), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn ways_out_are_refused_and_leave_nothing() {
        let big = "x".repeat(600);
        for (members, message) in [
            (vec![("../out", Regular, "")], "leads out"),
            (vec![("l", Symlink, "/etc")], "leads out"),
            (vec![("l", Symlink, "..")], "leads out"),
            (vec![("a/l", Symlink, "../../x")], "leads out"),
            (vec![("a/up", Symlink, ".."), ("a/l", Symlink, "up/../..")], "leads out"),
            (vec![("h", Link, "../../etc/passwd")], "leads out"),
            (vec![("h", Link, "nothing")], "a hard link to no file before it"),
            (vec![("l", Symlink, "d"), ("h", Link, "l")], "a hard link to no file before it"),
            (vec![("dev", tar::EntryType::Char, "")], "a device or pipe"),
            (vec![("a", Regular, &big), ("b", Regular, &big)], "larger than the limit"),
            (vec![("d", Directory, ""); 21], "more than 20 members"),
            // A link at the path of a directory, detected when the link is created.
            (vec![("l", Symlink, "d"), ("l/x", Regular, "")], "failed to create"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let error = unpack(&archive(&members), &dir.path().join("image.d")).unwrap_err();
            assert!(error.to_string().contains(message), "{members:?}: {error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{members:?}");
        }
    }

    #[test]
    fn links_of_an_earlier_build_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (to, outside) = (dir.path().join("image.d"), dir.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&to).unwrap();
        symlink(&outside, to.join("sub")).unwrap();
        assert!(unpack(&archive(&[("sub/file", Regular, "x")]), &to).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
