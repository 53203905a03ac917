//! A disk for the encoders of partition tables, which records the bytes that they write and their
//! offsets.

use std::io::{Read, Seek, SeekFrom, Write};

/// A disk of which only the written bytes exist.
pub(super) struct SparseDisk {
    bytes: u64,
    position: u64,
    writes: std::collections::BTreeMap<u64, Vec<u8>>,
}

impl SparseDisk {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, position: 0, writes: std::collections::BTreeMap::new() }
    }

    /// Returns the writes by offset. Adjacent writes are joined.
    pub(super) fn into_writes(self) -> Vec<(u64, Vec<u8>)> {
        let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
        for (offset, bytes) in self.writes {
            match joined.last_mut() {
                Some((start, last)) if *start + last.len() as u64 == offset => last.extend(bytes),
                _ => joined.push((offset, bytes)),
            }
        }
        joined
    }
}

impl Read for SparseDisk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // The encoders only seek; a fresh disk reads as zeros.
        buffer.fill(0);
        self.position += buffer.len() as u64;
        Ok(buffer.len())
    }
}

impl Write for SparseDisk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.position + bytes.len() as u64 > self.bytes {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        self.writes.insert(self.position, bytes.to_vec());
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for SparseDisk {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.bytes.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position =
            target.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
