//! A regular file's bytes in order, holes as zeros.

use std::io::Read;

use super::{Archive, Entry};
use crate::Result;

/// Where the reading of one member stands.
pub(crate) struct Content {
    extents: Vec<(u64, u64)>,
    next: usize,
    at: u64,
    size: u64,
}

impl Content {
    pub(crate) fn new(entry: &Entry) -> Self {
        let extents = entry.extents.clone().unwrap_or_else(|| vec![(0, entry.size)]);
        Self { extents, next: 0, at: 0, size: entry.size }
    }

    /// Whether the next `bytes` bytes, or all that are left, lie in a hole.
    pub(crate) fn is_hole(&self, bytes: u64) -> bool {
        let end = self.at.saturating_add(bytes);
        self.extents.get(self.next).is_none_or(|(start, _)| *start >= end)
    }

    /// Passes over bytes of a hole.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes).min(self.size);
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> u64 {
        self.size - self.at
    }

    /// The next bytes, `want` of them or all that are left.
    pub(crate) fn read<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        want: usize,
    ) -> Result<Vec<u8>> {
        let want = usize::try_from(self.left()).unwrap_or(usize::MAX).min(want);
        let mut data = vec![0; want];
        let (start, end) = (self.at, self.at + want as u64);
        while let Some((offset, length)) = self.extents.get(self.next).copied() {
            let (from, to) = (offset.max(self.at), (offset + length).min(end));
            if from < to {
                let within = |at: u64| usize::try_from(at - start).unwrap_or(want);
                let mut part = &mut data[within(from)..within(to)];
                while !part.is_empty() {
                    let count = archive.read_data(part)?;
                    part = &mut part[count..];
                }
                self.at = to;
            }
            if offset + length > end {
                break;
            }
            self.next += 1;
        }
        self.at = end;
        Ok(data)
    }
}
