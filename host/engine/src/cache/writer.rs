//! Writes the results of stages to the store, on a separate thread while later stages run. A
//! failure there makes later builds slower, but does not affect this one: it is reported once, and
//! no further result of the build is saved.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use checked::chain;
use store::{Changed, DiskName, DiskState, Known, Lease, StageRecord, StoreError};

use super::policy::STORED_LAYERS_MAX;
use crate::{
    disks::{self, Disks, Finished},
    events::{Event, SharedObserver},
};

/// A stage or checkpoint to store.
#[derive(Debug)]
pub(crate) struct Job {
    /// The record without its disks and log, which the writer adds.
    pub(crate) record: StageRecord,
    /// The log of the stage so far.
    pub(crate) log: Vec<u8>,
    /// The disk files that have become immutable; `None` if no disks are saved.
    pub(crate) finished: Option<Vec<Finished>>,
}

/// The thread that writes to the store, and its queue.
#[derive(Debug)]
pub(crate) struct CacheWriter {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

impl CacheWriter {
    /// Starts the thread for a build whose disks are new.
    pub(crate) fn start(lease: Arc<Lease>, observer: SharedObserver) -> Self {
        Self::begin(lease, BTreeMap::new(), BTreeMap::new(), observer)
    }

    /// Starts the thread for a build whose disks were restored to their raw files.
    pub(crate) fn resume(
        lease: Arc<Lease>,
        chains: BTreeMap<DiskName, DiskState>,
        files: &Disks,
        observer: SharedObserver,
    ) -> Self {
        let raw = chains.keys().map(|disk| (disk.clone(), files.raw(disk))).collect();
        Self::begin(lease, chains, raw, observer)
    }

    fn begin(
        lease: Arc<Lease>,
        chains: BTreeMap<DiskName, DiskState>,
        restored: BTreeMap<DiskName, PathBuf>,
        observer: SharedObserver,
    ) -> Self {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let failed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&failed);
        let thread = std::thread::spawn(move || {
            let mut work = Work { lease, chains, restored, known: BTreeMap::new() };
            for job in receiver {
                if flag.load(Ordering::Relaxed) {
                    continue;
                }
                if let Err(error) = work.save(job) {
                    flag.store(true, Ordering::Relaxed);
                    let text = format!("the results of this build are not kept: {}", chain(&error));
                    observer.event(&Event::Warning { text });
                }
            }
        });
        Self { jobs: Some(jobs), thread: Some(thread), failed }
    }

    /// Whether no more results can be saved.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Stops saving results, because the disk files do not have the expected content.
    pub(crate) fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn save(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after the sender has been dropped.
            let _ = jobs.send(job);
        }
    }

    /// Waits until everything is stored. Blocks.
    pub(crate) fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is a bug, but no reason to lose the build.
            let _ = thread.join();
        }
    }
}

impl Drop for CacheWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Work {
    lease: Arc<Lease>,
    chains: BTreeMap<DiskName, DiskState>,
    /// Raw files of the disks that were restored from the store. They do not change before the
    /// build ends, because layers are put over them.
    restored: BTreeMap<DiskName, PathBuf>,
    /// The content of each disk as far as this build has stored or restored it.
    known: BTreeMap<DiskName, Known>,
}

impl Work {
    fn save(&mut self, job: Job) -> Result<(), StoreError> {
        let Job { mut record, log, finished } = job;
        if let Some(finished) = finished {
            for file in &finished {
                self.add(file)?;
            }
            record.disks.clone_from(&self.chains);
        }
        if !log.is_empty() {
            record.log = Some(self.lease.put_blob(&mut log.as_slice())?);
        }
        self.lease.put_record(&record)
    }

    /// Stores a finished file, and adds it to the chain of its disk.
    fn add(&mut self, file: &Finished) -> Result<(), StoreError> {
        let known = match self.known.entry(file.disk.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(match self.restored.get(&file.disk) {
                Some(raw) => Known::of_restored_disk(File::open(raw).map_err(StoreError::Source)?),
                None => Known::of_new_disk(),
            }),
        };
        let mut source = disks::source(file)?;
        let stored = self.lease.put_layer(&mut Changed::new(source.as_mut(), known))?;
        let state = self
            .chains
            .entry(file.disk.clone())
            .or_insert_with(|| DiskState { bytes: file.bytes, layers: Vec::new() });
        // Skip empty layers, except as the base of a chain.
        if stored.content.extents > 0 || state.layers.is_empty() {
            state.layers.push(stored.digest);
        }
        if state.layers.len() > STORED_LAYERS_MAX {
            // Only the upper half is merged: it is small compared with the lowest layers, which
            // other builds share.
            let upper = state.layers.split_off(STORED_LAYERS_MAX / 2);
            let merged = self.lease.merge(&upper)?;
            state.layers.extend(merged.map(|merged| merged.digest));
        }
        Ok(())
    }
}
