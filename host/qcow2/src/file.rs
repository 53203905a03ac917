//! Reads and writes tables of big-endian integers at a file offset.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Reads until the buffer is full or the file ends; returns the number of bytes read.
///
/// # Errors
/// Any error of the file. The end of the file is not an error.
pub fn read_up_to(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Reads a table of 64-bit big-endian entries.
///
/// # Errors
/// `UnexpectedEof` if the file ends within the table, and any error of the file.
pub fn read_table(file: &File, offset: u64, entries: u64) -> io::Result<Vec<u64>> {
    let bytes = entries.checked_mul(8).and_then(|bytes| usize::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| invalid("a table is too long"))?;
    let mut raw = vec![0; bytes];
    file.read_exact_at(&mut raw, offset)?;
    Ok(raw.chunks_exact(8).map(|entry| be64(entry, 0)).collect())
}

/// Writes a table of 64-bit big-endian entries.
///
/// # Errors
/// Any error of the file.
pub fn write_table(file: &File, offset: u64, entries: &[u64]) -> io::Result<()> {
    let raw: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    file.write_all_at(&raw, offset)
}

/// The error for content that violates the format.
pub(crate) fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// The 32-bit field at an offset; 0 beyond the end of the bytes.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_be_bytes(*field))
}

/// The 64-bit field at an offset; 0 beyond the end of the bytes.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u64::from_be_bytes(*field))
}
