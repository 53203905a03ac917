//! The tree as the guest sends it: a PAX archive with owners and xattrs.

use std::io::Read;

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    format::{Format, Origin, Writer, no_options},
};

pub(crate) const FORMAT: Format = Format {
    name: "tar",
    suffix: "tar",
    about: "the tree as a tar archive",
    origin: Origin::Tree,
    container: None,
    max_bytes: u64::MAX,
    sequential: true,
    needs: no_options,
    write: Writer::Tree(write),
};

/// Bytes that the tree formats read from the stream per call.
pub(crate) const READ_BYTES: usize = 1 << 20;

pub(crate) fn write(tar: &mut dyn Read, out: &mut OutFile, _: &Target) -> Result<()> {
    while let Some(chunk) = next_chunk(tar, READ_BYTES)? {
        out.append(&chunk)?;
    }
    Ok(())
}

/// Reads a chunk, which is full unless the stream ends.
pub(crate) fn next_chunk(tar: &mut dyn Read, bytes: usize) -> Result<Option<Vec<u8>>> {
    let mut chunk = Vec::with_capacity(bytes);
    tar.take(bytes as u64).read_to_end(&mut chunk).map_err(OutputError::ReadTree)?;
    Ok((!chunk.is_empty()).then_some(chunk))
}
