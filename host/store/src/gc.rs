//! What the store takes, and how it gets smaller.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::{Digest, Printable, Result, Store, layout};

/// What a store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Stages with a record.
    pub stages: u64,
    /// Number of objects.
    pub objects: u64,
    /// Bytes that objects take on the disk.
    pub bytes: u64,
    /// Running builds.
    pub sessions: u64,
}

/// What gc has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// Names of the stages that were forgotten.
    pub stages: Vec<Printable>,
    /// Objects that were removed.
    pub objects: u64,
    /// Bytes that were freed.
    pub bytes: u64,
    /// What is left.
    pub left: Usage,
}

/// Bytes of a lease's file that are read: a line of 65 bytes for each object,
/// many more than a build can have.
const SESSION_MAX_BYTES: u64 = 64 << 20;

/// Names of stages that [`Collected`] lists; the rest are only counted.
const LISTED_STAGES: usize = 1000;

impl Store {
    /// What the store takes.
    ///
    /// # Errors
    /// When it cannot be read.
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

    /// Removes leftovers of dead builds, objects that no record names, and the
    /// stages used least recently until the objects take at most `max_bytes`. What
    /// running builds need stays, even if the store then is larger.
    ///
    /// # Errors
    /// When something cannot be read or removed; gc can be run again.
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
            // The record first: without it, its objects are mere garbage if the
            // process dies in between.
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

    /// What running builds need. Files of builds that are gone are removed.
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

/// Whether a file's lock is held. A file that is gone is not held.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_err())
}

/// What a file takes on the disk.
fn size(path: &Path) -> u64 {
    /// The unit of `st_blocks`.
    const BLOCK_BYTES: u64 = 512;
    fs::metadata(path).map_or(0, |meta| meta.blocks() * BLOCK_BYTES)
}
