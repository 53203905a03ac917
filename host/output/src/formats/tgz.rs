//! The tree as gzip-compressed tar, compressed on all cores.
//!
//! ```text
//!   header | deflate of chunk 0, sync flush | … | deflate of the last, final | CRC, size
//! ```
//!
//! One gzip member: each chunk is deflated separately and ends at a byte boundary, so the chunks
//! form one deflate stream.

use std::io::Read;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    format::{Format, Origin, Writer, no_options},
    formats::tar::next_chunk,
    pool::Ordered,
};

pub(crate) const FORMAT: Format = Format {
    name: "tgz",
    suffix: "tgz",
    about: "the tree as a tar archive compressed by gzip",
    origin: Origin::Tree,
    container: None,
    max_bytes: u64::MAX,
    sequential: true,
    needs: no_options,
    write: Writer::Tree(write),
};

/// Input size of a chunk. Each chunk starts with an empty window of 32 KiB, so at this size about
/// two percent of the matches are lost.
const CHUNK_BYTES: usize = 512 << 10;

/// gzip header: magic, deflate, no flags, no time (for reproducible files), no extra flags, unknown
/// system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty final deflate block, which ends the stream.
const FINAL_BLOCK: [u8; 2] = [3, 0];

pub(crate) fn write(tar: &mut dyn Read, out: &mut OutFile, _: &Target) -> Result<()> {
    let mut sink = |bytes: &[u8]| out.append(bytes);
    gzip(tar, &mut sink)
}

/// Compresses a stream into `sink`.
pub(crate) fn gzip(input: &mut dyn Read, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    sink(&HEADER)?;
    let mut pool = Ordered::new(|chunk: Vec<u8>| deflate(&chunk));
    let mut crc = Crc::new();
    let mut take = |piece: Option<Option<(Vec<u8>, Crc)>>, crc: &mut Crc| match piece {
        None => Ok(()),
        Some(None) => Err(OutputError::WorkerLost),
        Some(Some((packed, part))) => {
            crc.combine(&part);
            sink(&packed)
        }
    };
    while let Some(chunk) = next_chunk(input, CHUNK_BYTES)? {
        take(pool.push(chunk)?, &mut crc)?;
    }
    while let Some(piece) = pool.pop()? {
        take(Some(piece), &mut crc)?;
    }
    let mut end = FINAL_BLOCK.to_vec();
    end.extend_from_slice(&crc.sum().to_le_bytes());
    // The size modulo 2^32, as the CRC object counts it.
    end.extend_from_slice(&crc.amount().to_le_bytes());
    sink(&end)
}

/// Deflates a chunk, ending at a byte boundary.
fn deflate(chunk: &[u8]) -> Option<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(chunk);
    let mut compressor = Compress::new(Compression::default(), false);
    // Incompressible data grows by a few bytes per block, and the flush adds some; the buffer is
    // enlarged if needed.
    let mut packed = Vec::with_capacity(chunk.len() / 2 + 1024);
    loop {
        let done = usize::try_from(compressor.total_in()).ok()?;
        let status = compressor.compress_vec(&chunk[done..], &mut packed, FlushCompress::Sync);
        if !matches!(status, Ok(Status::Ok | Status::BufError)) {
            return None;
        }
        let all_in = compressor.total_in() == chunk.len() as u64;
        if all_in && packed.len() < packed.capacity() {
            return Some((packed, crc));
        }
        packed.reserve(packed.capacity());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_many_sizes_come_back() {
        for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 77] {
            let data: Vec<u8> = (0..len as u64)
                .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (n % 57)).to_le_bytes()[0])
                .collect();
            let mut packed = Vec::new();
            let mut sink = |bytes: &[u8]| {
                packed.extend_from_slice(bytes);
                Ok(())
            };
            gzip(&mut data.as_slice(), &mut sink).unwrap();
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut back).unwrap();
            assert!(back == data, "{len} bytes");
        }
    }
}
