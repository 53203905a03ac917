//! The tree as zstd-compressed tar, compressed on all cores.
//!
//! Each chunk is a separate frame; readers decompress consecutive frames as one stream.

use std::io::Read;

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    format::{Format, Origin, Writer, no_options},
    formats::tar::next_chunk,
    pool::Ordered,
};

pub(crate) const FORMAT: Format = Format {
    name: "tar.zst",
    suffix: "tar.zst",
    about: "the tree as a tar archive compressed by zstd",
    origin: Origin::Tree,
    container: None,
    max_bytes: u64::MAX,
    sequential: true,
    needs: no_options,
    write: Writer::Tree(write),
};

/// Input size of a frame: four times the window of the level, so that little compression is lost at
/// the borders.
const CHUNK_BYTES: usize = 8 << 20;

/// zstd's default level.
const LEVEL: i32 = 3;

pub(crate) fn write(tar: &mut dyn Read, out: &mut OutFile, _: &Target) -> Result<()> {
    let mut pool = Ordered::new(|chunk: Vec<u8>| zstd::bulk::compress(&chunk, LEVEL));
    let mut take = |frame: Option<std::io::Result<Vec<u8>>>| match frame {
        None => Ok(()),
        Some(Ok(frame)) => out.append(&frame),
        Some(Err(_)) => Err(OutputError::WorkerLost),
    };
    while let Some(chunk) = next_chunk(tar, CHUNK_BYTES)? {
        take(pool.push(chunk)?)?;
    }
    while let Some(frame) = pool.pop()? {
        take(Some(frame))?;
    }
    Ok(())
}
