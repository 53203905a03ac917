//! streamOptimized: compressed grains, front to back, as used in OVF templates.

use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{
    DESCRIPTOR_AT, GRAIN_BYTES, GRAIN_SECTORS, Header, SECTOR_BYTES, TABLE_GRAINS, TABLE_SECTORS,
    checked_capacity, descriptor, little_endian,
};
use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    disk_input::DiskInput,
    format::{Format, Origin, Writer, no_options},
    pool::Ordered,
    source::{Stride, is_zero},
};

pub(crate) const FORMAT: Format = Format {
    name: "vmdk-stream",
    suffix: "stream.vmdk",
    about: "VMware's compressed format for transport (streamOptimized)",
    origin: Origin::Disk,
    container: None,
    max_bytes: super::MAX_BYTES,
    sequential: true,
    needs: no_options,
    write: Writer::Disk(write),
};

/// Flags: the line ending test is valid, grains are compressed, markers are present.
const FLAGS: u32 = 0x3_0001;

/// Directory offset in the first header: see the footer.
const AT_END: u64 = u64::MAX;

/// Types of metadata markers.
const END_OF_STREAM: u32 = 0;
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

/// The stored grains of a stride: number and compressed bytes.
type Grains = Option<Vec<(u64, Vec<u8>)>>;

fn write(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    let capacity = checked_capacity(input)?;
    let header = |directory| Header {
        version: 3,
        flags: FLAGS,
        capacity,
        second_directory: 0,
        directory,
        overhead: GRAIN_SECTORS,
        compressed: true,
    };
    out.append(&header(AT_END).bytes())?;
    debug_assert_eq!(out.position(), DESCRIPTOR_AT * SECTOR_BYTES);
    out.append(&descriptor("streamOptimized", capacity, target))?;
    out.skip(GRAIN_SECTORS * SECTOR_BYTES - out.position());

    let tables = capacity.div_ceil(GRAIN_SECTORS * TABLE_GRAINS as u64);
    let directory = vec![0; usize::try_from(tables).unwrap_or_default()];
    let mut stream = Stream { out, directory, open: None };
    let mut pool = Ordered::new(|stride: Arc<Stride>| pack(&stride));
    while let Some(stride) = input.next_stride()? {
        if let Some(grains) = pool.push(stride)? {
            stream.grains(grains)?;
        }
    }
    while let Some(grains) = pool.pop()? {
        stream.grains(grains)?;
    }
    let directory = stream.finish()?;
    marker(out, 1, FOOTER)?;
    out.append(&header(directory).bytes())?;
    marker(out, 0, END_OF_STREAM)
}

/// Compresses the non-zero grains of a stride; runs on the thread pool.
fn pack(stride: &Stride) -> Grains {
    let first = stride.offset / GRAIN_BYTES as u64;
    let filled = (first..).zip(stride.data.chunks(GRAIN_BYTES)).filter(|(_, data)| !is_zero(data));
    filled.map(|(grain, data)| deflate(data).map(|packed| (grain, packed))).collect()
}

/// Compresses a whole grain to a zlib stream; the last grain of the disk is padded with zeros.
fn deflate(data: &[u8]) -> Option<Vec<u8>> {
    let mut grain = data.to_vec();
    grain.resize(GRAIN_BYTES, 0);
    let mut compressor = Compress::new(Compression::default(), true);
    // Incompressible data grows by five bytes per block of at most 64 KiB.
    let mut packed = Vec::with_capacity(GRAIN_BYTES + 1024);
    let status = compressor.compress_vec(&grain, &mut packed, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(packed)
}

struct Stream<'a> {
    out: &'a mut OutFile,
    directory: Vec<u32>,
    /// The current table, with its index.
    open: Option<(usize, Vec<u32>)>,
}

impl Stream<'_> {
    fn grains(&mut self, grains: Grains) -> Result<()> {
        for (grain, packed) in grains.ok_or(OutputError::WorkerLost)? {
            let grain_index = usize::try_from(grain).unwrap_or_default();
            let (index, slot) = (grain_index / TABLE_GRAINS, grain_index % TABLE_GRAINS);
            if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
                self.end_table()?;
                self.open = Some((index, vec![0; TABLE_GRAINS]));
            }
            let at = self.sector();
            if let Some((_, table)) = &mut self.open {
                table[slot] = at;
            }
            let size = u32::try_from(packed.len()).unwrap_or_default();
            let mut bytes = (grain * GRAIN_SECTORS).to_le_bytes().to_vec();
            bytes.extend_from_slice(&size.to_le_bytes());
            bytes.extend(packed);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            self.out.append(&bytes)?;
        }
        Ok(())
    }

    fn sector(&self) -> u32 {
        u32::try_from(self.out.position() / SECTOR_BYTES).unwrap_or_default()
    }

    fn end_table(&mut self) -> Result<()> {
        let Some((index, table)) = self.open.take() else { return Ok(()) };
        marker(self.out, TABLE_SECTORS, TABLE)?;
        self.directory[index] = self.sector();
        self.out.append(&little_endian(&table))
    }

    /// Writes the directory; returns its sector.
    fn finish(mut self) -> Result<u64> {
        self.end_table()?;
        let mut bytes = little_endian(&self.directory);
        let padded = bytes.len().next_multiple_of(512).max(512);
        bytes.resize(padded, 0);
        marker(self.out, padded as u64 / SECTOR_BYTES, DIRECTORY)?;
        let at = self.sector();
        self.out.append(&bytes)?;
        Ok(u64::from(at))
    }
}

/// Writes a marker sector: the number of sectors that follow, and the type.
fn marker(out: &mut OutFile, sectors: u64, kind: u32) -> Result<()> {
    let mut marker = [0; 512];
    marker[..8].copy_from_slice(&sectors.to_le_bytes());
    marker[12..16].copy_from_slice(&kind.to_le_bytes());
    out.append(&marker)
}
