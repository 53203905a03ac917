//! The content-addressed cache on disk. This page specifies its files, version 1.
//!
//! ```text
//!   format                 "vbuild store 1\n"
//!   salt                   32 random bytes that only this user can read; the keys of stages
//!                          are made with them
//!   lock                   locked shared by every operation, exclusively by gc
//!   objects/ab/cdef…       an object, named by the SHA-256 of its bytes
//!   stages/ab/cdef….json   the record of a stage, named by its key
//!   sessions/PID-N         locked by a running build; the digests that it needs,
//!                          one per line
//!   tmp/PID-N              a file being written, locked by its writer
//! ```
//!
//! An **object** is a layer ([`LayerContent`]: the blocks of a disk that a stage wrote, as one zstd
//! stream), a log, or another file of a build. It is written to `tmp`, flushed, renamed, and its
//! directory is flushed, in this order; so a file under its final name is complete. Later damage is
//! detected, since the digest is checked when an object is used. A damaged object is removed and is
//! a miss, never a wrong image.
//!
//! A **stage record** ([`StageRecord`]) is written after all objects that it names. It names whole
//! chains of layers, so it needs no other record. A stage whose disks were not worth saving has a
//! record without layers, which only describes it. The finished files of a build have a record of
//! their own. The modification time of a record's file is the time of its last use; if the store
//! becomes too large, the least recently used results are removed first.
//!
//! **Many builds** can share a store. Each opens a [`Lease`]. Everything that it looks up or stores
//! is noted in the lease's file before the lock of the store is released, and gc removes nothing
//! that is noted there while the lease's file is locked. The kernel releases that lock when the
//! process ends, however it ends.
//!
//! **Secrets**: values of variables are not in records, neither in plain text nor as plain digests.
//! Keys and digests of inputs are made with the store's salt, so they differ between stores; the
//! shared cache has its own salt, too.
//!
//! **Versions**: a store with another number in `format` is not touched. Records of another
//! version, and records that cannot be read, are misses.
//!
//! Architecture invariant: this crate does not use plans, machines or guests.

mod changed;
mod content;
mod error;
mod extents;
pub mod fuzzing;
mod gc;
mod layer;
mod layout;
mod lease;
mod overlay;
mod record;
mod salt;
mod verify;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

pub use changed::{Changed, Known};
pub use checked::{Digest, DiskName, Hex, Printable};
pub use content::Content;
pub use error::{Result, StoreError};
pub use extents::{
    Extent, ExtentSource, ExtentTarget, MAX_EXTENT_BYTES, Merged, RawSource, RawTarget,
};
pub use gc::{Collected, Usage};
pub use layer::{LayerContent, layer_max_bytes};
use layout::Layout;
pub use layout::{OnStep, Step};
pub use lease::{Lease, StoredLayer};
pub use overlay::OverlaySource;
pub use record::{
    Checksums, Connection, DiskState, Fetched, FileRole, InvalidRecord, KeyId, Origin,
    RECORD_VERSION, Ran, RanKind, RecordKind, StageRecord, StoredFile,
};
pub use verify::{Problem, Verified};

/// The version of the layout above.
pub const STORE_VERSION: u32 = 1;

/// The permissions of directories. Only the user has access: disks in the store contain password
/// files, and logs contain secrets.
const DIRECTORY_MODE: u32 = 0o700;

/// The text before the version number in `format`.
const FORMAT_WORDS: &str = "vbuild store ";

/// Maximum number of bytes that are read of `format`.
const FORMAT_MAX_BYTES: u64 = 64;

/// Maximum number of bytes that are read of a record, which lists layers, facts, inputs and
/// connections.
const RECORD_MAX_BYTES: u64 = 64 << 20;

/// The size of the salt in bytes.
const SALT_BYTES: usize = 32;

/// A store in a directory.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    salt: salt::Salt,
}

impl Store {
    /// Opens the store in a directory, and creates it if there is none.
    ///
    /// # Errors
    /// Fails if the directory cannot be used, or contains other files or a store of another
    /// version.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_observed(root, None)
    }

    /// Same as [`Self::open`], but calls `on_step` at each step of writing, for tests in which the
    /// process dies there.
    ///
    /// # Errors
    /// Fails if the directory cannot be used, or contains other files or a store of another
    /// version.
    pub fn open_observed(root: &Path, on_step: Option<OnStep>) -> Result<Self> {
        // The caller has ensured that only the user has access to the directory.
        let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(root);
        made.map_err(|e| StoreError::io("create", root, e))?;
        // Sessions outlive changes of the working directory.
        let root = fs::canonicalize(root).map_err(|e| StoreError::io("find", root, e))?;
        let layout = Layout::new(root, on_step);
        if !has_format(&layout)? {
            refuse_foreign(&layout)?;
            layout.create_directories()?;
            let format = format!("{FORMAT_WORDS}{STORE_VERSION}\n");
            layout.write(&layout.format_file(), format.as_bytes())?;
        }
        layout.create_directories()?;
        let salt = salt::read_or_make(&layout)?;
        Ok(Self { layout, salt })
    }

    /// Opens the store in a directory; `None` if there is none. Nothing is created there; only a
    /// salt that others can read is protected.
    ///
    /// # Errors
    /// Fails if the directory cannot be read, or contains a store with another version or an
    /// invalid salt.
    pub fn open_existing(root: &Path) -> Result<Option<Self>> {
        let Ok(root) = fs::canonicalize(root) else { return Ok(None) };
        let layout = Layout::new(root, None);
        if !has_format(&layout)? {
            return Ok(None);
        }
        Ok(salt::read(&layout)?.map(|salt| Self { layout, salt }))
    }

    /// Returns the secret with which the keys of stages are made; it never leaves this user.
    #[must_use]
    pub fn salt(&self) -> [u8; SALT_BYTES] {
        self.salt.0
    }

    /// Returns the directory of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// Locks the store for one operation.
    fn lock(&self, exclusive: bool) -> Result<File> {
        let path = self.layout.lock_file();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
        let locked = if exclusive { file.lock() } else { file.lock_shared() };
        locked.map_err(|e| StoreError::io("lock", &path, e))?;
        Ok(file)
    }

    /// Begins the use of the store by one build.
    ///
    /// # Errors
    /// Fails if the lease's file cannot be created or locked.
    pub fn lease(&self) -> Result<Lease> {
        Lease::begin(self.clone())
    }

    /// Reads a record. `None` if it does not exist, or, with a log message, if it cannot be read or
    /// is invalid: it is built again then.
    ///
    /// # Errors
    /// Fails if the host is short of memory or descriptors at the moment.
    pub(crate) fn read_record(&self, key: &Digest) -> Result<Option<StageRecord>> {
        Ok(self.record_at(key)?.unwrap_or_else(|reason| {
            let path = self.layout.stage(key);
            tracing::warn!(path = %path.display(), %reason, "a stage's record is of no use");
            None
        }))
    }

    /// Reads a record; `None` if it does not exist, the reason if it cannot be read, is damaged or
    /// has another version.
    ///
    /// # Errors
    /// Fails if the host is short of memory or descriptors at the moment.
    pub(crate) fn record_at(&self, key: &Digest) -> Result<Result<Option<StageRecord>, Printable>> {
        Ok(match layout::read_small(&self.layout.stage(key), RECORD_MAX_BYTES) {
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => Err(Printable::from(checked::chain(&error))),
            Ok(None) => Ok(None),
            Ok(Some(content)) => {
                StageRecord::from_json(&content, key).map(Some).map_err(|error| error.reason())
            }
        })
    }

    /// Returns all records with the time of their last use, least recently used first.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn records(&self) -> Result<Vec<(std::time::SystemTime, StageRecord)>> {
        let mut records = Vec::new();
        for (key, path) in layout::all_named(&self.layout.stages())? {
            let used = fs::metadata(&path).and_then(|m| m.modified());
            if let (Ok(used), Some(record)) = (used, self.read_record(&key)?) {
                records.push((used, record));
            }
        }
        records.sort_by_key(|(used, record)| (*used, record.key));
        Ok(records)
    }
}

fn has_format(layout: &Layout) -> Result<bool> {
    let path = layout.root().to_owned();
    let Some(content) = layout::read_small(&layout.format_file(), FORMAT_MAX_BYTES)? else {
        return Ok(false);
    };
    let text = String::from_utf8_lossy(&content);
    let number = text.strip_prefix(FORMAT_WORDS).and_then(|rest| rest.trim_end().parse().ok());
    match number {
        Some(STORE_VERSION) => Ok(true),
        Some(found) => Err(StoreError::OtherVersion { path, found, known: STORE_VERSION }),
        None => Err(StoreError::NoStore { path, reason: "its `format` says something else" }),
    }
}

/// Fails if the directory contains files that do not belong to a store.
fn refuse_foreign(layout: &Layout) -> Result<()> {
    let ours = ["objects", "stages", "sessions", "tmp", "lock", "format", "salt"];
    let foreign =
        |path: &PathBuf| path.file_name().is_none_or(|name| ours.iter().all(|own| name != *own));
    if layout::list(layout.root())?.iter().any(foreign) {
        let path = layout.root().to_owned();
        return Err(StoreError::NoStore { path, reason: "it has other files in it" });
    }
    Ok(())
}
