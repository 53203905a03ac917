//! Puts the results of stages into the store, on a thread of its own while later
//! stages run. A failure there costs later builds time, and this one nothing: it is
//! reported once, and no further result of the build is saved.

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

use store::{Changed, DiskName, DiskState, Known, Session, StageRecord, StoreError};

use super::policy::STORED_LAYERS_MAX;
use crate::{
    disks::{self, Disks, Finished},
    events::{Event, SharedObserver},
};

/// A stage that has run.
#[derive(Debug)]
pub(crate) struct Job {
    /// Everything but what the store finds out: disks and log.
    pub(crate) record: StageRecord,
    /// What was written since the last job.
    pub(crate) log: Vec<u8>,
    /// Files that are finished; none when the disks are not kept.
    pub(crate) finished: Option<Vec<Finished>>,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

impl Keeper {
    /// Starts without any disk.
    pub(crate) fn start(session: Arc<Session>, observer: SharedObserver) -> Self {
        Self::begin(session, BTreeMap::new(), BTreeMap::new(), observer)
    }

    /// Starts with disks that were restored to their raw files.
    pub(crate) fn resume(
        session: Arc<Session>,
        chains: BTreeMap<DiskName, DiskState>,
        files: &Disks,
        observer: SharedObserver,
    ) -> Self {
        let raw = chains.keys().map(|disk| (disk.clone(), files.raw(disk))).collect();
        Self::begin(session, chains, raw, observer)
    }

    fn begin(
        session: Arc<Session>,
        chains: BTreeMap<DiskName, DiskState>,
        restored: BTreeMap<DiskName, PathBuf>,
        observer: SharedObserver,
    ) -> Self {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let failed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&failed);
        let thread = std::thread::spawn(move || {
            let mut work = Work { session, chains, restored, known: BTreeMap::new() };
            for job in receiver {
                if flag.load(Ordering::Relaxed) {
                    continue;
                }
                if let Err(error) = work.keep(job) {
                    flag.store(true, Ordering::Relaxed);
                    let text = format!("the results of this build are not kept: {}", chain(&error));
                    observer.event(&Event::Warning { text });
                }
            }
        });
        Self { jobs: Some(jobs), thread: Some(thread), failed }
    }

    /// Whether there is no point in giving it more.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Nothing more can be kept: the files do not hold what they should.
    pub(crate) fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn keep(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // It ends only after the sender.
            let _ = jobs.send(job);
        }
    }

    /// Waits until everything is kept. Blocks.
    pub(crate) fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there is a bug, and no reason to lose the build.
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Work {
    session: Arc<Session>,
    chains: BTreeMap<DiskName, DiskState>,
    /// Raw files of disks that were there before this build; overlays lie over
    /// them until it ends.
    restored: BTreeMap<DiskName, PathBuf>,
    /// What the layers of each disk say, as far as they are from here.
    known: BTreeMap<DiskName, Known>,
}

impl Work {
    fn keep(&mut self, job: Job) -> Result<(), StoreError> {
        let Job { mut record, log, finished } = job;
        if let Some(finished) = finished {
            for file in &finished {
                self.add(file)?;
            }
            record.disks.clone_from(&self.chains);
        }
        if !log.is_empty() {
            record.log = Some(self.session.put_blob(&mut log.as_slice())?);
        }
        self.session.put_record(&record)
    }

    /// Adds a finished file to the chain of its disk.
    fn add(&mut self, file: &Finished) -> Result<(), StoreError> {
        let known = match self.known.entry(file.disk.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(match self.restored.get(&file.disk) {
                Some(raw) => Known::of_restored_disk(File::open(raw).map_err(StoreError::Source)?),
                None => Known::of_new_disk(),
            }),
        };
        let mut source = disks::source(file)?;
        let stored = self.session.put_layer(&mut Changed::new(source.as_mut(), known))?;
        let state = self
            .chains
            .entry(file.disk.clone())
            .or_insert_with(|| DiskState { bytes: file.bytes, layers: Vec::new() });
        // Skip empty layers, except as the base of a chain.
        if stored.content.extents > 0 || state.layers.is_empty() {
            state.layers.push(stored.digest);
        }
        if state.layers.len() > STORED_LAYERS_MAX {
            // The upper half is small beside the lowest layers, which other
            // builds share.
            let upper = state.layers.split_off(STORED_LAYERS_MAX / 2);
            let merged = self.session.merge(&upper)?;
            state.layers.extend(merged.map(|merged| merged.digest));
        }
        Ok(())
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
