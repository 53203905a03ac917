//! One directory for everything that a build leaves on the host while it runs.
//!
//! It is locked for as long as its owner lives. A directory whose lock can be
//! taken belongs to a build that died; whoever comes next removes it.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

const PREFIX: &str = "vbuild-run-";
const LOCK: &str = "lock";
/// Marks a directory that the user wanted to keep.
const KEPT: &str = "kept";
/// Attempts at an unused name.
const NAMES_TRIED: u32 = 1000;

/// The directory of a build. Removed when dropped, unless kept.
#[derive(Debug)]
pub struct BuildDir {
    path: PathBuf,
    keep: bool,
    _lock: Flock<File>,
}

impl BuildDir {
    /// Makes a directory below `$TMPDIR`, or below `cache_dir` when that is
    /// not set, and removes those of builds that died.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(cache_dir: &Path) -> io::Result<Self> {
        let base = std::env::var_os("TMPDIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| cache_dir.join("run"), PathBuf::from);
        fs::create_dir_all(&base)?;
        remove_dead(&base);
        for attempt in 0..NAMES_TRIED {
            let path = base.join(format!("{PREFIX}{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let lock = lock(&path).ok_or(io::ErrorKind::WouldBlock)?;
                    return Ok(Self { path, keep: false, _lock: lock });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        if self.keep {
            let _ = File::create(self.path.join(KEPT));
        } else {
            // What cannot be removed now is removed by the next build.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn lock(path: &Path) -> Option<Flock<File>> {
    let file = File::create(path.join(LOCK)).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Removes directories of builds that died. A directory that was made but not
/// yet locked by its living owner is told apart by its process id.
fn remove_dead(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let pid = owner.split('-').next().unwrap_or("");
        let alive = pid == std::process::id().to_string()
            || (Path::new("/proc").join(pid).exists() && !entry.path().join(LOCK).exists());
        if alive || entry.path().join(KEPT).exists() {
            continue;
        }
        if lock(&entry.path()).is_some() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_directories_go_and_living_ones_stay() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join("vbuild-run-999999999-0");
        let living = base.path().join("vbuild-run-999999998-0");
        let other = base.path().join("somebody-else");
        for dir in [&dead, &living, &other] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(dead.join(LOCK), "").unwrap();
        let _held = lock(&living).unwrap();
        remove_dead(base.path());
        assert!(!dead.exists());
        assert!(living.exists());
        assert!(other.exists());
    }
}
