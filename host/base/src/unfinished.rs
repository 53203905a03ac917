//! Files and directories that are renamed to their final name when complete. Each is locked while
//! its creator lives. One that can be locked was left by a killed process, and is removed when the
//! next one is created in the same folder.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use tempfile::{Builder, NamedTempFile, TempDir};

/// Prefix of all their names.
const PREFIX: &str = ".vbuild-part-";

/// An unfinished file or directory. It is removed on drop, unless it has been renamed.
#[derive(Debug)]
pub(crate) struct Unfinished<T> {
    pub(crate) work: T,
    _lock: File,
}

/// Creates a file in a folder.
pub(crate) fn file(folder: &Path) -> io::Result<Unfinished<NamedTempFile>> {
    locked(folder, |builder| builder.tempfile_in(folder), NamedTempFile::path)
}

/// Creates a directory in a folder.
pub(crate) fn directory(folder: &Path) -> io::Result<Unfinished<TempDir>> {
    locked(folder, |builder| builder.tempdir_in(folder), TempDir::path)
}

fn locked<T>(
    folder: &Path,
    make: impl Fn(&mut Builder<'_, '_>) -> io::Result<T>,
    path: impl Fn(&T) -> &Path,
) -> io::Result<Unfinished<T>> {
    remove_dead(folder);
    loop {
        let work = make(Builder::new().prefix(PREFIX))?;
        let lock = File::open(path(&work))?;
        lock.lock()?;
        // Before it was locked, another process may have removed it as a leftover.
        let (own, found) = (lock.metadata()?, fs::symlink_metadata(path(&work)));
        if found.is_ok_and(|found| found.ino() == own.ino() && found.dev() == own.dev()) {
            return Ok(Unfinished { work, _lock: lock });
        }
    }
}

/// Removes leftovers of dead processes. Failures are ignored; a later run tries again.
fn remove_dead(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Some(kind) = entry.file_type().ok().filter(|kind| is_ours && !kind.is_symlink()) else {
            continue;
        };
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_has_left_goes_and_what_a_living_one_makes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join(".vbuild-part-dead");
        fs::write(&dead, "half of a download").unwrap();
        let dead_directory = folder.path().join(".vbuild-part-directory");
        fs::create_dir(&dead_directory).unwrap();
        fs::write(dead_directory.join("disk.raw"), "half of a disk").unwrap();
        let other = folder.path().join("sha256-00");
        fs::write(&other, "whole").unwrap();
        let first = file(folder.path()).unwrap();
        let second = directory(folder.path()).unwrap();
        assert!(!dead.exists() && !dead_directory.exists() && other.exists());
        assert!(first.work.path().is_file() && second.work.path().is_dir());
        drop((first, second));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
