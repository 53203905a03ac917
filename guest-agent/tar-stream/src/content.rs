//! Reads the bytes of a regular file in order, with its holes as zeros.

use std::io::Read;

use crate::{Archive, Entry, TarError};

/// The current position in the content of one member.
#[derive(Debug)]
pub struct Content<'a> {
    /// The extents of a sparse file; `None` for a file without holes.
    extents: Option<&'a [(u64, u64)]>,
    next: usize,
    at: u64,
    size: u64,
}

impl<'a> Content<'a> {
    /// Starts at the beginning of a member, which must be the current one of its archive.
    #[must_use]
    pub fn new(entry: &'a Entry) -> Self {
        Self { extents: entry.extents.as_deref(), next: 0, at: 0, size: entry.size }
    }

    /// Returns the extent at the current position, or the next one.
    fn extent(&self) -> Option<(u64, u64)> {
        match self.extents {
            Some(extents) => extents.get(self.next).copied(),
            None => (self.next == 0).then_some((0, self.size)),
        }
    }

    /// Whether the next `bytes` bytes, or all that are left, are in a hole.
    #[must_use]
    pub fn is_hole(&self, bytes: u64) -> bool {
        let end = self.at.saturating_add(bytes);
        self.extent().is_none_or(|(start, _)| start >= end)
    }

    /// Skips bytes of a hole.
    pub fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes).min(self.size);
    }

    /// Returns the number of bytes that are left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.size - self.at
    }

    /// Reads the next `want` bytes, or all that are left.
    ///
    /// # Errors
    /// Fails if the stream fails or ends early.
    pub fn read<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        want: usize,
    ) -> Result<Vec<u8>, TarError> {
        let want = usize::try_from(self.left()).unwrap_or(usize::MAX).min(want);
        let mut data = vec![0; want];
        let (start, end) = (self.at, self.at + want as u64);
        while let Some((offset, length)) = self.extent() {
            let (from, to) = (offset.max(self.at), (offset + length).min(end));
            if from < to {
                let within = |at: u64| usize::try_from(at - start).unwrap_or(want);
                let mut part = &mut data[within(from)..within(to)];
                while !part.is_empty() {
                    let count = archive.read_data(part)?;
                    if count == 0 {
                        return Err(archive.bad(b"", "its content was read past its end"));
                    }
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
