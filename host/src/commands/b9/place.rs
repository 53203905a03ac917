//! Creates the build directory of a run, and identifies the run by its number and its date.
//!
//! ```text
//! ROOT/BUILD-ID/artifact-instances/ARTIFACT-ID/...   generated files
//!              /shared-images/...                    images on their way into the cache
//!              /.vbuild                              the directory is removed when the run ends
//! ```
//!
//! A run keeps its directory locked until it ends. A directory with the mark `.vbuild` that is not
//! locked belongs to a run that was killed; the next run removes it.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rooted::Dir;
use sha2::{Digest as _, Sha256};

use super::configuration::Configuration;
use crate::{
    error::{CommandError, Kind},
    ui::Utc,
};

/// The prefix of build directories' names.
const PREFIX: &str = "BUILD-";
/// The name of the file that marks a directory for removal when its run ends.
const MARK: &str = ".vbuild";
/// Permissions of directories and files that only the user may read.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The identity and the build directory of a run.
#[derive(Debug)]
pub(super) struct RunPlace {
    /// The number of the run.
    pub(super) build_id: String,
    /// The time at which the run began, in b9c's format.
    pub(super) build_date: String,
    /// The directory that contains the build directory.
    pub(super) root: PathBuf,
    /// The path of the build directory.
    pub(super) directory: PathBuf,
    held: Option<Held>,
}

/// A build directory that exists and is locked. Dropping it removes the directory unless it is
/// kept.
#[derive(Debug)]
struct Held {
    keep: bool,
    directory: PathBuf,
    _lock: File,
}

impl RunPlace {
    /// Names a run without creating its build directory.
    ///
    /// # Errors
    /// Fails if the directory that would contain it cannot be found.
    pub(super) fn planned(configuration: &Configuration<'_>) -> Result<Self, CommandError> {
        let root = configuration.build_root().unwrap_or_else(|| PathBuf::from("."));
        let root = std::path::absolute(&root)
            .map(|root| fs::canonicalize(&root).unwrap_or(root))
            .map_err(|error| at(&root, "find", error))?;
        let now = SystemTime::now();
        let first = first_number(configuration);
        // In nanoseconds, so that of two builds within a second the later one has the greater
        // number: it is the newer revision.
        let second = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let build_id = match configuration.has_predictable_build_directory() {
            true => format!("{first:08X}"),
            false => format!("{first:08X}-{second:08X}"),
        };
        let directory = root.join(format!("{PREFIX}{build_id}"));
        let build_date = Utc::from(now).build_date();
        Ok(Self { build_id, build_date, root, directory, held: None })
    }

    /// Creates the build directory of a run.
    ///
    /// # Errors
    /// Fails if the directory cannot be created, or if another run uses it.
    pub(super) fn made(configuration: &Configuration<'_>) -> Result<Self, CommandError> {
        if let Some(root) = configuration.build_root() {
            rooted::make_user_directories(&root).map_err(|error| at(&root, "make", error))?;
        }
        let mut it = Self::planned(configuration)?;
        remove_dead(&it.root);
        let directory = it.directory.clone();
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|error| at(&directory, "make", error))?,
        }
        let lock = File::open(&directory).map_err(|error| at(&directory, "open", error))?;
        if lock.try_lock().is_err() {
            let text = format!("another build is running in `{}`", directory.display());
            return Err(CommandError::message(Kind::Usage, text));
        }
        // Remove what an earlier run of this name has left.
        for name in [INSTANCES, SHARED] {
            match fs::remove_dir_all(directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(&directory, "empty", error));
                }
                _ => {}
            }
        }
        let keep = configuration.keeps_build_directory()
            || configuration.has_predictable_build_directory();
        if !keep {
            Dir::open(&directory)
                .and_then(|opened| opened.open_or_create(Path::new(MARK), FILE_MODE))
                .map_err(|error| CommandError::new(Kind::Host, error))?;
        }
        it.held = Some(Held { keep, directory, _lock: lock });
        Ok(it)
    }

    /// Returns a run without a directory.
    #[cfg(test)]
    pub(super) fn named(build_id: &str, build_date: &str) -> Self {
        let (root, directory) = (PathBuf::new(), PathBuf::new());
        let (build_id, build_date) = (build_id.to_owned(), build_date.to_owned());
        Self { build_id, build_date, root, directory, held: None }
    }

    /// The directory of the artifacts' generated files.
    pub(super) fn instances(&self) -> PathBuf {
        self.directory.join(INSTANCES)
    }

    /// The directory in which shared images are written before they are moved to the cache.
    pub(super) fn shared_images(&self) -> PathBuf {
        self.directory.join(SHARED)
    }
}

const INSTANCES: &str = "artifact-instances";
const SHARED: &str = "shared-images";

impl Drop for Held {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed now is removed by the next run.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Returns the first half of a run's number, which stays the same as long as the configuration
/// does.
fn first_number(configuration: &Configuration<'_>) -> u64 {
    let digest = Sha256::digest(configuration.digest_input());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Removes the directories of runs that were killed.
fn remove_dead(root: &Path) {
    let Ok(opened) = Dir::open(root) else { return };
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_of_build = name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !is_of_build || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if path.join(MARK).is_file() && File::open(&path).is_ok_and(|dir| dir.try_lock().is_ok()) {
            let _ = opened.remove_tree(Path::new(&name));
        }
    }
}

fn at(path: &Path, action: &str, error: io::Error) -> CommandError {
    CommandError::new(Kind::Host, error)
        .context(format!("cannot {action} the build directory `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows 115 to 118, and what a kill leaves.
    #[test]
    fn only_directories_of_killed_runs_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, marked: bool| {
            let path = root.path().join(name);
            fs::create_dir_all(path.join("inside")).unwrap();
            if marked {
                fs::write(path.join(MARK), "").unwrap();
            }
            path
        };
        let dead = make("BUILD-1-2", true);
        let kept = make("BUILD-3-4", false);
        let other = make("SRC-1", true);
        let alive = make("BUILD-5-6", true);
        let held = File::open(&alive).unwrap();
        held.try_lock().unwrap();
        remove_dead(root.path());
        assert!(!dead.exists());
        assert!(kept.exists() && other.exists() && alive.exists());
    }
}
