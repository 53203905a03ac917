//! The format of a layer as an object: one zstd stream of records.
//!
//! ```text
//!   "vbuild layer 1\n" | u64 size of the disk
//!   then records     1 | u64 offset | u32 length | bytes
//!                    2 | u64 offset | u64 length            zeros
//!   at the end       0 | u64 number of records
//! ```
//!
//! Numbers are little-endian; extents ascend and do not overlap.

use std::io::{self, Read, Write};

use crate::extents::{Extent, ExtentSource, ExtentTarget, MAX_EXTENT_BYTES};

const MAGIC: &[u8; 15] = b"vbuild layer 1\n";

const END: u8 = 0;
const DATA: u8 = 1;
const ZEROS: u8 = 2;

/// zstd's fastest ordinary level, since the layer is compressed while a build waits.
const LEVEL: i32 = 1;

/// Returns the maximum size of a layer of a disk in bytes: the size of the disk, a sixteenth of it,
/// and a mebibyte. The sixteenth is twice what records of 13 bytes for each 512 bytes of data take,
/// together with what zstd adds to data that it cannot compress.
#[must_use]
pub fn layer_max_bytes(disk_bytes: u64) -> u64 {
    disk_bytes.saturating_add(disk_bytes / 16).saturating_add(1 << 20)
}

/// The amount of data in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerContent {
    /// The size of the disk in bytes.
    pub disk_bytes: u64,
    /// The size of the data in the layer before compression, in bytes.
    pub data_bytes: u64,
    /// The number of extents.
    pub extents: u64,
}

/// The error for a layer that cannot be encoded.
#[derive(Debug)]
pub(crate) enum EncodeError {
    Source(io::Error),
    Bad(&'static str),
    Write(io::Error),
}

/// Encodes a layer and writes it to `out`.
pub(crate) fn encode(
    source: &mut dyn ExtentSource,
    out: impl Write,
) -> Result<LayerContent, EncodeError> {
    let mut encoder = zstd::Encoder::new(out, LEVEL).map_err(EncodeError::Write)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = u32::try_from(threads).unwrap_or(1);
    encoder.multithread(threads).map_err(EncodeError::Write)?;
    let mut content = LayerContent { disk_bytes: source.disk_bytes(), ..LayerContent::default() };
    let mut put = |parts: &[&[u8]]| {
        parts.iter().try_for_each(|part| encoder.write_all(part)).map_err(EncodeError::Write)
    };
    put(&[MAGIC, &content.disk_bytes.to_le_bytes()])?;
    let mut end = 0;
    while let Some(extent) = source.next_extent().map_err(EncodeError::Source)? {
        if extent.offset() < end || extent.end() <= extent.offset() {
            return Err(EncodeError::Bad("its extents overlap, descend or are empty"));
        }
        end = extent.end();
        if end > content.disk_bytes {
            return Err(EncodeError::Bad("an extent lies beyond the disk's end"));
        }
        content.extents += 1;
        match &extent {
            Extent::Data { offset, bytes } => {
                if bytes.len() > MAX_EXTENT_BYTES {
                    return Err(EncodeError::Bad("an extent is too large"));
                }
                let length = u32::try_from(bytes.len()).unwrap_or_default();
                content.data_bytes += u64::from(length);
                put(&[&[DATA], &offset.to_le_bytes(), &length.to_le_bytes(), bytes])?;
            }
            Extent::Zeros { offset, length } => {
                put(&[&[ZEROS], &offset.to_le_bytes(), &length.to_le_bytes()])?;
            }
        }
    }
    put(&[&[END], &content.extents.to_le_bytes()])?;
    encoder.finish().and_then(|mut out| out.flush()).map_err(EncodeError::Write)?;
    Ok(content)
}

/// The error for a layer that cannot be decoded.
#[derive(Debug)]
pub(crate) enum DecodeError {
    /// The bytes are not a valid layer, or end early.
    Bad(String),
    /// The target cannot be written.
    Target(io::Error),
}

/// Decodes the extents of a layer.
pub(crate) struct Decoder<R: Read> {
    input: zstd::Decoder<'static, io::BufReader<R>>,
    disk_bytes: u64,
    end: u64,
    extents: u64,
    done: bool,
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(input: R) -> io::Result<Self> {
        let mut input = zstd::Decoder::new(input)?;
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(bad("it is no layer"));
        }
        let disk_bytes = read_u64(&mut input)?;
        Ok(Self { input, disk_bytes, end: 0, extents: 0, done: false })
    }

    /// Returns the rest of the input, which must be read to its end for a digest of the whole
    /// input.
    pub(crate) fn into_inner(self) -> io::BufReader<R> {
        self.input.finish()
    }

    fn read(&mut self) -> io::Result<Option<Extent>> {
        if self.done {
            return Ok(None);
        }
        let mut kind = [0];
        self.input.read_exact(&mut kind)?;
        let number = read_u64(&mut self.input)?;
        let extent = match kind[0] {
            END => {
                if number != self.extents {
                    return Err(bad("its number of extents is wrong"));
                }
                self.done = true;
                return Ok(None);
            }
            DATA => {
                let mut length = [0; 4];
                self.input.read_exact(&mut length)?;
                let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                if length > MAX_EXTENT_BYTES {
                    return Err(bad("an extent is too large"));
                }
                let mut bytes = vec![0; length];
                self.input.read_exact(&mut bytes)?;
                Extent::Data { offset: number, bytes }
            }
            ZEROS => Extent::Zeros { offset: number, length: read_u64(&mut self.input)? },
            _ => return Err(bad("an unknown record")),
        };
        let end = extent.end();
        if extent.offset() < self.end || end <= extent.offset() || end > self.disk_bytes {
            return Err(bad("its extents are out of order or beyond the disk"));
        }
        self.end = end;
        self.extents += 1;
        Ok(Some(extent))
    }
}

impl<R: Read> ExtentSource for Decoder<R> {
    fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn next_extent(&mut self) -> io::Result<Option<Extent>> {
        self.read()
    }
}

/// Decodes a whole layer into `target`.
pub(crate) fn decode<R: Read>(
    decoder: &mut Decoder<R>,
    target: &mut dyn ExtentTarget,
) -> Result<LayerContent, DecodeError> {
    let mut content = LayerContent { disk_bytes: decoder.disk_bytes, ..LayerContent::default() };
    while let Some(extent) = decoder.read().map_err(|e| DecodeError::Bad(e.to_string()))? {
        content.extents += 1;
        if let Extent::Data { bytes, .. } = &extent {
            content.data_bytes += bytes.len() as u64;
        }
        target.extent(&extent).map_err(DecodeError::Target)?;
    }
    Ok(content)
}

fn read_u64(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
