//! Writes a file so that it appears complete or not at all.
//!
//! The data goes to an unnamed inode in the destination's directory (`O_TMPFILE`), so a killed
//! process leaves nothing behind. When it is written and flushed, the inode gets a temporary name
//! and is renamed over the destination. Filesystems without `O_TMPFILE`, and programs that need a
//! path, get a temporary name from the start. It is locked while in use, and the next run for the
//! same destination removes unlocked leftovers.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag},
    unistd::linkat,
};
use sha2::{Digest, Sha256};

use crate::{
    OutputError, Result,
    checksum::{Checksum, Digester},
    losses::Losses,
};

/// File mode before the umask, as for any new file. It is set when the file is complete; until then
/// the file has the mode of the process.
const MODE: u32 = 0o666;

/// Maximum attempts to find an unused temporary name. Names contain the process id and a counter,
/// so they collide only with leftovers of an earlier process with the same id.
const NAME_ATTEMPTS: u32 = 100;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// An output file that is being written.
#[derive(Debug)]
pub(crate) struct OutFile {
    destination: PathBuf,
    file: File,
    /// Its current name, if any.
    temporary: Option<PathBuf>,
    /// Whether a drop before the rename removes the name.
    remove_on_drop: bool,
    position: u64,
    digester: Option<Digester>,
    /// What the format cannot represent.
    pub(crate) losses: Losses,
}

impl std::fmt::Debug for Digester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digester")
    }
}

/// The directory of a path; for a bare name, the current directory.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Refuses an existing file that a rename would silently replace, or cannot replace.
pub(crate) fn check_kind(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OutputError::unwritable(path, error.to_string())),
    };
    let what = if kind.is_file() || kind.is_symlink() {
        return Ok(());
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_block_device() {
        "block device"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "socket"
    };
    Err(OutputError::unwritable(path, format!("it is a {what}, and an output is a regular file")))
}

impl OutFile {
    /// Creates a file for `destination`; if `named`, it has a name at once.
    pub(crate) fn create(destination: &Path, named: bool) -> Result<Self> {
        check_kind(destination)?;
        remove_stale(destination);
        let dir = directory_of(destination);
        if !named {
            let unnamed = OpenOptions::new()
                .read(true)
                .write(true)
                .mode(MODE)
                .custom_flags(OFlag::O_TMPFILE.bits())
                .open(dir);
            match unnamed {
                Ok(file) => {
                    lock(&file, destination)?;
                    return Ok(Self::over(file, destination, None));
                }
                // Errors of filesystems and kernels without O_TMPFILE.
                Err(e)
                    if matches!(
                        e.raw_os_error().map(Errno::from_raw),
                        Some(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL)
                    ) && dir.is_dir() => {}
                Err(e) => return Err(OutputError::io("create a file in", dir, e)),
            }
        }
        Self::create_named(destination)
    }

    fn create_named(destination: &Path) -> Result<Self> {
        for _ in 0..NAME_ATTEMPTS {
            let name = temporary_name(destination);
            let opened =
                OpenOptions::new().read(true).write(true).create_new(true).mode(MODE).open(&name);
            let file = match opened {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(OutputError::io("create", &name, e)),
            };
            lock(&file, &name)?;
            // Between creation and locking, another run may have removed it as a leftover.
            if fs::metadata(&name).is_ok_and(|m| same_file(&m, &file)) {
                return Ok(Self::over(file, destination, Some(name)));
            }
        }
        let e = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(OutputError::io("create a temporary file for", destination, e))
    }

    fn over(file: File, destination: &Path, temporary: Option<PathBuf>) -> Self {
        Self {
            destination: destination.to_owned(),
            file,
            temporary,
            remove_on_drop: true,
            position: 0,
            digester: None,
            losses: Losses::default(),
        }
    }

    /// Adopts a finished file on the same filesystem, to be renamed. Until then it keeps its name
    /// in any case.
    pub(crate) fn adopt(from: &Path, destination: &Path) -> Result<Self> {
        check_kind(destination)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(from)
            .map_err(|e| OutputError::io("open", from, e))?;
        let len = file.metadata().map_err(|e| OutputError::io("examine", from, e))?.len();
        let mut out = Self::over(file, destination, Some(from.to_owned()));
        out.remove_on_drop = false;
        out.position = len;
        Ok(out)
    }

    /// Enables digests of the data appended from now on.
    pub(crate) fn digest(&mut self, kinds: &[Checksum]) {
        self.digester = (!kinds.is_empty()).then(|| Digester::new(kinds));
    }

    /// The destination path.
    pub(crate) fn destination(&self) -> &Path {
        &self.destination
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The temporary path for programs that write it; the file must have been created as named.
    pub(crate) fn temporary(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.destination)
    }

    /// The offset of the next append.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Appends bytes.
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<()> {
        self.patch(self.position, data)?;
        self.position += data.len() as u64;
        if let Some(digester) = &mut self.digester {
            digester.update(data);
        }
        Ok(())
    }

    /// Appends zeros as a hole.
    pub(crate) fn skip(&mut self, count: u64) {
        self.position += count;
        if let Some(digester) = &mut self.digester {
            digester.zeros(count);
        }
    }

    /// Writes at an offset, without moving the end. Not for formats that are declared sequential.
    pub(crate) fn patch(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file
            .write_all_at(data, offset)
            .map_err(|e| OutputError::io("write", &self.destination, e))
    }

    /// Takes over the size of a file that a program has written.
    pub(crate) fn written_elsewhere(&mut self) -> Result<()> {
        // The program may have replaced the file at its path.
        if let Some(name) = &self.temporary {
            self.file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(name)
                .map_err(|e| OutputError::io("open", name, e))?;
            lock(&self.file, name)?;
        }
        let meta = self.file.metadata();
        self.position = meta.map_err(|e| OutputError::io("examine", &self.destination, e))?.len();
        Ok(())
    }

    /// Sets the length of the file and flushes it. Returns the digests if they were computed while
    /// writing.
    pub(crate) fn seal(&mut self) -> Result<Option<Vec<(Checksum, String)>>> {
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |e| OutputError::Io { action, path, source: e }
        };
        self.file.set_len(self.position).map_err(fail("extend", &self.destination))?;
        rooted::allow_user_mode(&self.file, MODE)
            .map_err(fail("set the mode of", &self.destination))?;
        self.file.sync_all().map_err(fail("flush", &self.destination))?;
        self.digester.take().map(Digester::finish).transpose()
    }

    /// Renames the file to its destination, replacing an existing file.
    pub(crate) fn rename_into_place(&mut self) -> Result<()> {
        let name = match self.temporary.take() {
            Some(name) => name,
            None => self.link()?,
        };
        if let Err(e) = fs::rename(&name, &self.destination) {
            self.temporary = Some(name);
            return Err(OutputError::io("rename a finished file to", &self.destination, e));
        }
        Ok(())
    }

    /// Gives the nameless inode a temporary name.
    fn link(&self) -> Result<PathBuf> {
        use std::os::fd::AsRawFd;
        // Unprivileged processes can use linkat only through /proc.
        let inode = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        for _ in 0..NAME_ATTEMPTS {
            let name = temporary_name(&self.destination);
            match linkat(AT_FDCWD, &inode, AT_FDCWD, &name, AtFlags::AT_SYMLINK_FOLLOW) {
                Ok(()) => return Ok(name),
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(OutputError::io("name", &name, e.into())),
            }
        }
        let e = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(OutputError::io("name a finished file for", &self.destination, e))
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let Some(name) = self.temporary.take().filter(|_| self.remove_on_drop) {
            // If the temporary name cannot be removed, the next run for this destination does it.
            let _ = fs::remove_file(name);
        }
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        // Another run's cleanup may hold the lock for a moment; that is harmless, as it checks
        // whether the file is still in use.
        Ok(()) | Err(fs::TryLockError::WouldBlock) => Ok(()),
        // Without file locks, only the cleanup of leftovers is lost.
        Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(fs::TryLockError::Error(e)) => Err(OutputError::io("lock", path, e)),
    }
}

fn same_file(meta: &fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|own| own.ino() == meta.ino() && own.dev() == meta.dev())
}

/// The prefix of all temporary names for a destination. It contains a digest of the file name, not
/// the name itself, which may have the maximum length.
pub(crate) fn temporary_prefix(destination: &Path) -> String {
    let name = destination.file_name().unwrap_or_default();
    let digest = Sha256::digest(name.as_bytes());
    format!(".vbuild-{}-", hex::encode(&digest[..8]))
}

pub(crate) fn temporary_name(destination: &Path) -> PathBuf {
    let mut name = OsString::from(temporary_prefix(destination));
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    name.push(format!("{}-{count}.tmp", std::process::id()));
    directory_of(destination).join(name)
}

/// Removes temporary files for this destination that no process holds.
fn remove_stale(destination: &Path) {
    let prefix = temporary_prefix(destination);
    let Ok(entries) = fs::read_dir(directory_of(destination)) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_bytes().starts_with(prefix.as_bytes());
        if !ours || !entry.file_type().is_ok_and(|t| t.is_file()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            tracing::info!(path = %entry.path().display(), "removing a leftover");
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Flushes a directory, so that renames in it survive a power loss.
pub(crate) fn sync_directory(dir: &Path) -> Result<()> {
    let flush = File::open(dir).and_then(|d| d.sync_all());
    match flush {
        // Some filesystems cannot flush directories; they order renames.
        Err(e) if e.kind() != io::ErrorKind::InvalidInput => {
            Err(OutputError::io("flush the directory", dir, e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_seen_before_the_rename_and_all_after_it() {
        for named in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            fs::write(&path, b"old").unwrap();
            let mut out = OutFile::create(&path, named).unwrap();
            out.append(b"new ").unwrap();
            out.skip(4096);
            out.append(b"content").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"old");
            out.seal().unwrap();
            out.rename_into_place().unwrap();
            drop(out);
            let content = fs::read(&path).unwrap();
            assert_eq!(content.len(), 4 + 4096 + 7);
            assert!(content.starts_with(b"new \0") && content.ends_with(b"\0content"));
            assert_eq!(names(dir.path()), ["image"]);
        }
    }

    #[test]
    fn dropped_files_leave_nothing_and_keep_the_old_one() {
        for named in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            fs::write(&path, b"old").unwrap();
            let mut out = OutFile::create(&path, named).unwrap();
            out.append(b"half").unwrap();
            drop(out);
            assert_eq!(names(dir.path()), ["image"]);
            assert_eq!(fs::read(&path).unwrap(), b"old");
        }
    }

    #[test]
    fn leftovers_of_dead_writers_are_removed_and_live_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let dead = dir.path().join(format!("{}1-0.tmp", temporary_prefix(&path)));
        fs::write(&dead, b"leftover").unwrap();
        let other = dir.path().join(".vbuild-0000000000000000-1-0.tmp");
        fs::write(&other, b"of another output").unwrap();
        let first = OutFile::create(&path, true).unwrap();
        assert!(!dead.exists());
        let second = OutFile::create(&path, true).unwrap();
        assert!(first.temporary().exists() && second.temporary().exists() && other.exists());
    }

    #[test]
    fn directories_and_devices_are_no_destinations() {
        let dir = tempfile::tempdir().unwrap();
        let error = OutFile::create(dir.path(), false).unwrap_err();
        assert!(matches!(error, OutputError::Unwritable { .. }), "{error:?}");
        assert!(OutFile::create(Path::new("/dev/null"), false).is_err());
        let missing = OutFile::create(&dir.path().join("no/such/dir"), false).unwrap_err();
        assert!(missing.to_string().contains("no/such"), "{missing}");
    }

    #[test]
    fn an_adopted_file_keeps_its_name_until_the_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("build"), dir.path().join("image.raw"));
        fs::write(&from, b"disk").unwrap();
        drop(OutFile::adopt(&from, &to).unwrap());
        assert_eq!(names(dir.path()), ["build"]);
        let mut out = OutFile::adopt(&from, &to).unwrap();
        out.seal().unwrap();
        out.rename_into_place().unwrap();
        assert_eq!(names(dir.path()), ["image.raw"]);
    }
}
