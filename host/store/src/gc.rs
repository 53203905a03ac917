//! The disk usage of a store, and its garbage collection.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::{Digest, Printable, Result, Store, layout};

/// The size of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The number of stage records.
    pub stages: u64,
    /// The number of objects.
    pub objects: u64,
    /// The disk space of the objects in bytes.
    pub bytes: u64,
    /// The number of running builds.
    pub sessions: u64,
}

/// The result of a garbage collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// Names of the stages whose records were removed; only the first 1000.
    pub stages: Vec<Printable>,
    /// The number of further stages whose records were removed.
    pub more_stages: u64,
    /// The number of objects that were removed.
    pub objects: u64,
    /// The disk space that was freed, in bytes.
    pub bytes: u64,
    /// The size of the store afterwards.
    pub left: Usage,
}

/// Maximum number of bytes that are read of a lease's file: with 65 bytes for each object, far more
/// than a build can need.
const SESSION_MAX_BYTES: u64 = 64 << 20;

/// Maximum number of stages in [`Collected::stages`]; further ones are only counted.
const LISTED_STAGES: usize = 1000;

impl Store {
    /// Returns the size of the store.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let _lock = self.lock(false)?;
        self.usage_locked()
    }

    fn usage_locked(&self) -> Result<Usage> {
        let objects = layout::all_named(&self.layout.objects())?;
        Ok(Usage {
            stages: layout::all_named(&self.layout.stages())?.len() as u64,
            objects: objects.len() as u64,
            bytes: objects.iter().map(|(_, path)| size(path)).sum(),
            sessions: layout::list(&self.layout.sessions())?
                .iter()
                .filter(|path| is_locked(path))
                .count() as u64,
        })
    }

    /// Removes leftovers of dead builds, objects that no record names, and the least recently used
    /// records with their objects, until the objects take at most `max_bytes`. What running builds
    /// need stays, even if the store is then larger.
    ///
    /// # Errors
    /// Fails if a file cannot be read or removed; gc can be run again.
    pub fn gc(&self, max_bytes: Option<u64>) -> Result<Collected> {
        let _lock = self.lock(true)?;
        let pinned = self.pinned()?;
        for path in layout::list(&self.layout.temporaries())? {
            self.layout.remove_abandoned(&path)?;
        }
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        for (digest, path) in layout::all_named(&self.layout.objects())? {
            sizes.insert(digest, size(&path));
        }
        let records = self.records()?;
        let mut users: HashMap<Digest, u64> = HashMap::new();
        for (_, record) in &records {
            for digest in record.objects() {
                *users.entry(digest).or_default() += 1;
            }
        }
        let mut collected = Collected::default();
        let unused = |digest: &Digest, users: &HashMap<Digest, u64>| {
            !pinned.contains(digest) && users.get(digest).copied().unwrap_or_default() == 0
        };
        let garbage: Vec<Digest> = sizes.keys().filter(|d| unused(d, &users)).copied().collect();
        for digest in garbage {
            self.remove_object(&digest, &mut sizes, &mut collected)?;
        }
        let mut total: u64 = sizes.values().sum();
        for (_, record) in records {
            if max_bytes.is_none_or(|max| total <= max) {
                break;
            }
            if pinned.contains(&record.key) {
                continue;
            }
            // Remove the record first: if the process dies in between, its objects are only
            // garbage.
            self.layout.remove(&self.layout.stage(&record.key))?;
            for digest in record.objects() {
                if let Some(count) = users.get_mut(&digest) {
                    *count = count.saturating_sub(1);
                }
                if unused(&digest, &users) {
                    self.remove_object(&digest, &mut sizes, &mut collected)?;
                }
            }
            total = sizes.values().sum();
            if collected.stages.len() < LISTED_STAGES {
                collected.stages.push(record.name);
            } else {
                collected.more_stages += 1;
            }
        }
        collected.left = self.usage_locked()?;
        Ok(collected)
    }

    fn remove_object(
        &self,
        digest: &Digest,
        sizes: &mut HashMap<Digest, u64>,
        collected: &mut Collected,
    ) -> Result<()> {
        let Some(bytes) = sizes.remove(digest) else { return Ok(()) };
        self.layout.remove(&self.layout.object(digest))?;
        collected.objects += 1;
        collected.bytes += bytes;
        Ok(())
    }

    /// Returns the digests that running builds need, and removes the files of dead leases.
    fn pinned(&self) -> Result<HashSet<Digest>> {
        let mut pinned = HashSet::new();
        for path in layout::list(&self.layout.sessions())? {
            if !self.layout.remove_abandoned(&path)? {
                continue;
            }
            let lines = layout::read_small(&path, SESSION_MAX_BYTES)?.unwrap_or_default();
            let lines = String::from_utf8_lossy(&lines).into_owned();
            pinned.extend(lines.lines().filter_map(|line| line.parse::<Digest>().ok()));
        }
        Ok(pinned)
    }
}

/// Whether a file is locked. A file that does not exist is not.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_err())
}

/// Returns the disk space of a file in bytes.
fn size(path: &Path) -> u64 {
    /// The unit of `st_blocks`.
    const BLOCK_BYTES: u64 = 512;
    fs::metadata(path).map_or(0, |meta| meta.blocks() * BLOCK_BYTES)
}
