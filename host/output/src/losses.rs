//! What a format cannot hold of a tree: said once for each kind, with a count and the first
//! path.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::Scope,
};

use tar_stream::{Archive, Entry};

/// Bytes of a path in messages.
const SHOWN_PATH_BYTES: usize = 200;
/// Chunks of a tree that wait to be looked at.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Members that lose something, by what that is.
#[derive(Debug, Default)]
pub(crate) struct Losses(BTreeMap<&'static str, (u64, String)>);

impl Losses {
    /// A member loses something.
    pub(crate) fn add(&mut self, what: &'static str, path: &[Vec<u8>]) {
        let (count, _) = self.0.entry(what).or_insert_with(|| {
            let path = path.join(&b'/');
            let shown = &path[..path.len().min(SHOWN_PATH_BYTES)];
            (0, shown.escape_ascii().to_string())
        });
        *count += 1;
    }

    /// Each kind: what it is, how many members it is about, and the first of them.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&'static str, u64, &str)> {
        self.0.iter().map(|(what, (count, first))| (*what, *count, first.as_str()))
    }
}

/// Looks at the members of a stream that is read for something else.
pub(crate) struct Watch<'a> {
    input: &'a mut dyn Read,
    /// Where copies of what is read go; none when nobody looks any more.
    copies: Option<SyncSender<Vec<u8>>>,
}

impl<'a> Watch<'a> {
    /// Begins; what `look` found is the thread's result, once this is dropped. A stream that
    /// is no archive is not this one's to complain about.
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
