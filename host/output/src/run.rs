//! Reads the source once for any number of outputs, each of which has its own thread.
//!
//! ```text
//!   source ──► reader ──┬─► channel ─► writer of qcow2 ─► pool of compressors
//!                       ├─► channel ─► writer of raw
//!                       └─► …
//! ```
//!
//! The first error of any thread stops all of them and is reported.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use crate::{
    BlockSource, OutputError, Pending, Progress, Result, Target,
    atomic::OutFile,
    checksum,
    disk_input::{DiskInput, FirstError},
    format::{Origin, Writer},
    progress::Event,
    source::Strides,
};

/// Strides that may wait for one writer. With the depth of the pools, this limits the memory of a
/// conversion to some tens of MiB.
const STRIDES_IN_FLIGHT: usize = 2;

/// Bytes of a tree passed to the writers per chunk.
const TREE_CHUNK_BYTES: usize = 1 << 20;

/// Chunks of a tree that may wait for one writer.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Writes disk images from one source. On return they are complete and flushed; [`crate::commit`]
/// gives them their names.
///
/// # Errors
/// Returns the first error of any output; then no output leaves anything behind.
pub fn write_disks(
    source: &dyn BlockSource,
    targets: &[Target],
    progress: &dyn Progress,
) -> Result<Vec<Pending>> {
    let first_error = FirstError::default();
    let files = open_all(targets, Origin::Disk, Some(source.len()), progress)?;
    let done = std::thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for (target, mut file) in targets.iter().zip(files) {
            let (sender, strides) = sync_channel(STRIDES_IN_FLIGHT);
            senders.push(sender);
            let first_error = &first_error;
            threads.push(scope.spawn(move || {
                let path = target.path.as_path();
                let input = DiskInput { source, strides, first_error, progress, path };
                let outcome = write_disk(input, &mut file, target);
                settle(outcome, file, target, progress).map_err(|e| first_error.set(e))
            }));
        }
        let mut strides = Strides::new(source);
        broadcast(senders, &first_error, || Ok(strides.next_stride()?.map(Arc::new)));
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    collect(done, first_error)
}

fn write_disk(mut input: DiskInput<'_>, file: &mut OutFile, target: &Target) -> Result<()> {
    let Writer::Disk(write) = &target.format.write else { return Err(wrong_source(target)) };
    write(&mut input, file, target)
}

/// Sends items to all receivers until the source ends or no receiver is left. A receiver that is
/// gone either needs no more items or has set the error.
fn broadcast<T: Clone>(
    mut senders: Vec<SyncSender<T>>,
    first_error: &FirstError,
    mut next: impl FnMut() -> Result<Option<T>>,
) {
    while !senders.is_empty() && !first_error.is_set() {
        match next() {
            Ok(Some(item)) => senders.retain(|s| s.send(item.clone()).is_ok()),
            Ok(None) => return,
            Err(e) => first_error.set(e),
        }
    }
}

fn wrong_source(target: &Target) -> OutputError {
    let wants = match target.format.origin {
        Origin::Disk => "disk",
        Origin::Tree => "tree",
    };
    OutputError::WrongSource { format: target.format.name, wants }
}

fn open_all(
    targets: &[Target],
    origin: Origin,
    total: Option<u64>,
    progress: &dyn Progress,
) -> Result<Vec<OutFile>> {
    targets
        .iter()
        .map(|target| {
            if target.format.origin != origin {
                return Err(wrong_source(target));
            }
            let named = (target.format.needs)(target)?.is_some();
            let mut file = OutFile::create(&target.path, named)?;
            if target.format.sequential {
                file.digest(&target.checksums);
            }
            let format = target.format.name;
            progress.event(Event::Started { format, path: &target.path, total });
            Ok(file)
        })
        .collect()
}

/// Flushes a written file and computes its checksums.
fn settle(
    outcome: Result<()>,
    mut file: OutFile,
    target: &Target,
    progress: &dyn Progress,
) -> Result<Pending> {
    outcome?;
    let path = &target.path;
    for (what, count, first) in file.losses.entries() {
        progress.event(Event::Lost { format: target.format.name, path, what, count, first });
    }
    if !target.checksums.is_empty() {
        progress.event(Event::Digesting { path });
    }
    let digests = match file.seal()? {
        Some(digests) => digests,
        None if target.checksums.is_empty() => Vec::new(),
        None => checksum::of_file(&target.checksums, file.file(), path, progress)?,
    };
    progress.event(Event::Finished { path, bytes: file.position() });
    Ok(Pending { file, format: target.format.name, digests })
}

type Joined = std::thread::Result<Result<Pending, ()>>;

fn collect(done: Vec<Joined>, first_error: FirstError) -> Result<Vec<Pending>> {
    let pending: Option<Vec<Pending>> =
        done.into_iter().map(|joined| joined.ok().and_then(Result::ok)).collect();
    match (first_error.take(), pending) {
        (Some(error), _) => Err(error),
        (None, Some(pending)) => Ok(pending),
        (None, None) => Err(OutputError::WorkerLost),
    }
}

/// Writes archives of one tree, from a tar stream of the guest. On return they are complete and
/// flushed; [`crate::commit`] gives them their names.
///
/// # Errors
/// Returns the first error of any output, or an error if the stream fails or lacks the end of a tar
/// archive; then no output leaves anything behind.
pub fn write_trees(
    tar: &mut dyn Read,
    targets: &[Target],
    progress: &dyn Progress,
) -> Result<Vec<Pending>> {
    let first_error = FirstError::default();
    let files = open_all(targets, Origin::Tree, None, progress)?;
    let done = std::thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for (target, mut file) in targets.iter().zip(files) {
            let (sender, chunks) = sync_channel(CHUNKS_IN_FLIGHT);
            senders.push(sender);
            let first_error = &first_error;
            threads.push(scope.spawn(move || {
                let mut input = TreeInput {
                    chunks,
                    chunk: None,
                    at: 0,
                    done: 0,
                    first_error,
                    progress,
                    target,
                };
                let Writer::Tree(write) = &target.format.write else {
                    first_error.set(wrong_source(target));
                    return Err(());
                };
                let outcome = write(&mut input, &mut file, target);
                settle(outcome, file, target, progress).map_err(|e| first_error.set(e))
            }));
        }
        let mut ending = ArchiveEnd::default();
        broadcast(senders, &first_error, || next_chunk(tar, &mut ending, progress));
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    collect(done, first_error)
}

fn next_chunk(
    tar: &mut dyn Read,
    ending: &mut ArchiveEnd,
    progress: &dyn Progress,
) -> Result<Option<Arc<Vec<u8>>>> {
    if progress.cancelled() {
        return Err(OutputError::Cancelled);
    }
    let mut chunk = Vec::with_capacity(TREE_CHUNK_BYTES);
    tar.take(TREE_CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(OutputError::ReadTree)?;
    if chunk.is_empty() {
        ending.check()?;
        return Ok(None);
    }
    ending.see(&chunk);
    Ok(Some(Arc::new(chunk)))
}

/// Checks that a tar stream ends correctly: whole blocks, of which the last two are zeros.
#[derive(Default)]
struct ArchiveEnd {
    bytes: u64,
    trailing_zeros: u64,
}

impl ArchiveEnd {
    fn see(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        let zeros = chunk.iter().rev().take_while(|b| **b == 0).count();
        self.trailing_zeros =
            if zeros == chunk.len() { self.trailing_zeros + zeros as u64 } else { zeros as u64 };
    }

    fn check(&self) -> Result<()> {
        if self.bytes.is_multiple_of(512) && self.trailing_zeros >= 1024 {
            return Ok(());
        }
        let text = format!("it ended after {} bytes without the end of an archive", self.bytes);
        Err(OutputError::ReadTree(io::Error::new(io::ErrorKind::UnexpectedEof, text)))
    }
}

/// The input of a tree format.
struct TreeInput<'a> {
    chunks: Receiver<Arc<Vec<u8>>>,
    chunk: Option<Arc<Vec<u8>>>,
    at: usize,
    done: u64,
    first_error: &'a FirstError,
    progress: &'a dyn Progress,
    target: &'a Target,
}

impl Read for TreeInput<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &self.chunk {
                let rest = &chunk[self.at..];
                if !rest.is_empty() {
                    let count = rest.len().min(buf.len());
                    buf[..count].copy_from_slice(&rest[..count]);
                    self.at += count;
                    return Ok(count);
                }
            }
            match self.chunks.recv() {
                Ok(chunk) => {
                    self.done += chunk.len() as u64;
                    let path = &self.target.path;
                    self.progress.event(Event::Advanced { path, done: self.done });
                    (self.chunk, self.at) = (Some(chunk), 0);
                }
                Err(_) if self.first_error.is_set() => {
                    return Err(io::Error::other("the stream broke off"));
                }
                Err(_) => return Ok(0),
            }
        }
    }
}
