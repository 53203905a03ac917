//! What a format cannot represent of a tree: reported once per kind, with a count and the first
//! path.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::Scope,
};

use tar_stream::{Archive, Entry};

/// Maximum length of a path in messages, in bytes.
const SHOWN_PATH_BYTES: usize = 200;
/// Chunks of a tree that may wait for inspection.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Members with losses, by kind of loss.
#[derive(Debug, Default)]
pub(crate) struct Losses(BTreeMap<&'static str, (u64, String)>);

impl Losses {
    /// Records a loss of a member.
    pub(crate) fn add(&mut self, what: &'static str, path: &[Vec<u8>]) {
        let (count, _) = self.0.entry(what).or_insert_with(|| {
            let path = path.join(&b'/');
            let shown = &path[..path.len().min(SHOWN_PATH_BYTES)];
            (0, shown.escape_ascii().to_string())
        });
        *count += 1;
    }

    /// Each kind of loss: description, number of members, and the first member.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'static str, u64, &str)> {
        self.0.iter().map(|(what, (count, first))| (*what, *count, first.as_str()))
    }
}

/// Inspects the members of a stream while it is read by a writer.
pub(crate) struct Watch<'a> {
    input: &'a mut dyn Read,
    /// Channel for copies of the data; `None` once the inspection has ended.
    copies: Option<SyncSender<Vec<u8>>>,
}

impl<'a> Watch<'a> {
    /// Starts the inspection thread. Its result has what `look` found, and is available once this
    /// is dropped. The writer reports a stream that is not an archive.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        input: &'a mut dyn Read,
        look: fn(&Entry, &mut Losses),
    ) -> (Self, std::thread::ScopedJoinHandle<'scope, Losses>) {
        let (copies, chunks) = sync_channel(CHUNKS_IN_FLIGHT);
        let thread = scope.spawn(move || {
            let mut losses = Losses::default();
            let mut archive = Archive::new(Chunks { chunks, chunk: Vec::new(), at: 0 });
            while let Ok(Some(entry)) = archive.next_entry() {
                look(&entry, &mut losses);
            }
            losses
        });
        (Self { input, copies: Some(copies) }, thread)
    }
}

impl Read for Watch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        let copy = || buffer[..count].to_vec();
        if self.copies.as_ref().is_some_and(|copies| copies.send(copy()).is_err()) {
            self.copies = None;
        }
        Ok(count)
    }
}

struct Chunks {
    chunks: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.chunk[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}
