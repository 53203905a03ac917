//! The paths of the files of a store, and the durable writing of a file.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{DIRECTORY_MODE, Digest, Result, StoreError};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Points in the writing of a file at which a process may die. Tests kill it at each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The temporary file exists and is empty.
    Created,
    /// The file has its content, perhaps only in memory.
    Written,
    /// The content of the file is on the disk.
    Flushed,
    /// The file has its final name, perhaps only in memory.
    Renamed,
    /// The final name of the file is on the disk.
    Durable,
    /// A file is about to be removed.
    Removing,
}

/// A function that is called at each [`Step`].
pub type OnStep = Arc<dyn Fn(Step) + Send + Sync>;

/// The paths of a store.
#[derive(Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    on_step: Option<OnStep>,
}

impl std::fmt::Debug for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Layout({})", self.root.display())
    }
}

/// The directories of a store.
const DIRECTORIES: [&str; 4] = ["objects", "stages", "sessions", "tmp"];

impl Layout {
    pub(crate) fn new(root: PathBuf, on_step: Option<OnStep>) -> Self {
        Self { root, on_step }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn step(&self, step: Step) {
        if let Some(on_step) = &self.on_step {
            on_step(step);
        }
    }

    pub(crate) fn create_directories(&self) -> Result<()> {
        for name in DIRECTORIES {
            let dir = self.root.join(name);
            let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&dir);
            made.map_err(|e| StoreError::io("create", &dir, e))?;
        }
        Ok(())
    }

    pub(crate) fn format_file(&self) -> PathBuf {
        self.root.join("format")
    }

    pub(crate) fn salt_file(&self) -> PathBuf {
        self.root.join("salt")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    pub(crate) fn temporaries(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    pub(crate) fn stages(&self) -> PathBuf {
        self.root.join("stages")
    }

    pub(crate) fn object(&self, digest: &Digest) -> PathBuf {
        named(self.objects(), digest, "")
    }

    pub(crate) fn stage(&self, key: &Digest) -> PathBuf {
        named(self.stages(), key, ".json")
    }

    /// Creates a new locked file in `tmp`.
    pub(crate) fn temporary(&self) -> Result<Temporary> {
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = self.temporaries().join(format!("{}-{count}", std::process::id()));
            let opened = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            let file = match opened {
                Ok(file) => file,
                // An earlier process with the same ID left the file.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(StoreError::io("create", &path, e)),
            };
            file.lock().map_err(|e| StoreError::io("lock", &path, e))?;
            // Before it was locked, gc may have removed it as the file of a dead process.
            let meta = file.metadata().map_err(|e| StoreError::io("examine", &path, e))?;
            if meta.nlink() == 0 {
                continue;
            }
            self.step(Step::Created);
            return Ok(Temporary { path, file, keep: false, layout: self.clone() });
        }
    }

    /// Writes a small file durably under its final name.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let mut temporary = self.temporary()?;
        temporary
            .file
            .write_all(content)
            .map_err(|e| StoreError::io("write", &temporary.path, e))?;
        temporary.rename(path)
    }

    /// Removes a file that its creator keeps locked while it lives, unless it is locked. Returns
    /// whether it is locked; a file that does not exist is not.
    pub(crate) fn remove_abandoned(&self, path: &Path) -> Result<bool> {
        // A process that has just created the file may be waiting for this lock; it then sees that
        // the file has no name any more.
        let Ok(file) = File::open(path) else { return Ok(false) };
        if file.try_lock().is_err() {
            return Ok(true);
        }
        self.remove(path).map(|()| false)
    }

    /// Removes a file, or a directory in its place. It is no error if the file does not exist.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        self.step(Step::Removing);
        let removed = match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                // Without permission to list it, it could not be emptied.
                let _ = fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE));
                fs::remove_dir_all(path)
            }
            removed => removed,
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
            _ => Ok(()),
        }
    }
}

/// Returns the path `dir/ab/cdef…suffix`. The subdirectory, named by the first two digits, keeps
/// directories small.
fn named(dir: PathBuf, digest: &Digest, suffix: &str) -> PathBuf {
    let hex = digest.to_string();
    dir.join(&hex[..2]).join(format!("{}{suffix}", &hex[2..]))
}

/// Returns the digest of a path that [`named`] has made.
pub(crate) fn digest_of(path: &Path) -> Option<Digest> {
    let rest = path.file_name()?.to_str()?;
    let rest = rest.strip_suffix(".json").unwrap_or(rest);
    let first = path.parent()?.file_name()?.to_str()?;
    format!("{first}{rest}").parse().ok()
}

/// Returns all files below `dir` whose paths [`named`] has made, with their digests. What is in
/// subdirectories that cannot be listed is missing: see [`unlisted`].
pub(crate) fn all_named(dir: &Path) -> Result<Vec<(Digest, PathBuf)>> {
    let mut found = Vec::new();
    for sub in list(dir)?.into_iter().filter(|sub| sub.is_dir()) {
        match list(&sub) {
            Ok(paths) => {
                found.extend(paths.into_iter().filter_map(|path| Some((digest_of(&path)?, path))));
            }
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => {
                let (path, reason) = (sub.display(), checked::chain(&error));
                tracing::warn!(%path, reason, "a directory of the store is of no use");
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Returns what is in the place of subdirectories of `dir` and cannot be listed as one.
pub(crate) fn unlisted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for sub in list(dir)? {
        match list(&sub) {
            Err(error) if error.is_passing() => return Err(error),
            Ok(_) if sub.is_dir() => {}
            _ => found.push(sub),
        }
    }
    Ok(found)
}

/// Returns the paths in a directory; empty if it does not exist.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e| StoreError::io("list", dir, e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    entries.map(|entry| entry.map(|e| e.path()).map_err(fail)).collect()
}

/// Reads at most `limit` bytes of a file; `None` if it does not exist.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let fail = |e| StoreError::io("read", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content).map_err(fail)?;
    Ok(Some(content))
}

/// A file without its final name; it is removed when dropped before [`Self::rename`].
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    keep: bool,
    layout: Layout,
}

impl Temporary {
    /// Flushes the content, gives the file its final name, and flushes the directory.
    pub(crate) fn rename(mut self, to: &Path) -> Result<()> {
        self.layout.step(Step::Written);
        self.file.sync_all().map_err(|e| StoreError::io("flush", &self.path, e))?;
        self.layout.step(Step::Flushed);
        let dir = to.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(|e| StoreError::io("create", dir, e))?;
        let mut renamed = fs::rename(&self.path, to);
        if renamed.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::IsADirectory) {
            // The store has no directories with such names, so this one is damage.
            self.layout.remove(to)?;
            renamed = fs::rename(&self.path, to);
        }
        renamed.map_err(|e| StoreError::io("rename a file to", to, e))?;
        self.keep = true;
        self.layout.step(Step::Renamed);
        sync_directory(dir)?;
        self.layout.step(Step::Durable);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            // If this fails, the next gc removes the file, since its lock is free then.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sync_directory(dir: &Path) -> Result<()> {
    let flush = |dir: &Path| File::open(dir).and_then(|d| d.sync_all());
    // The directory itself may be new.
    let parent = dir.parent().unwrap_or(dir);
    flush(dir).and_then(|()| flush(parent)).map_err(|e| StoreError::io("flush", dir, e))
}
