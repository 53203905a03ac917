//! VirtualBox's VDI format: header, block map, blocks of 1 MiB in order of arrival.

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    disk_input::DiskInput,
    format::{Format, Origin, Writer, no_options},
    formats::raw::append_sparse,
    source::is_zero,
};

pub(crate) const FORMAT: Format = Format {
    name: "vdi",
    suffix: "vdi",
    about: "VirtualBox's format",
    origin: Origin::Disk,
    container: None,
    max_bytes: MAX_BLOCKS * BLOCK_BYTES as u64,
    sequential: false,
    needs: no_options,
    write: Writer::Disk(write),
};

const SECTOR_BYTES: u64 = 512;
const BLOCK_BYTES: usize = 1 << 20;

/// The map follows the header's sector; data begins at a block boundary.
const MAP_AT: u64 = 512;

/// Map entry of a block that is not stored and reads as zeros.
const UNUSED: u32 = u32::MAX;

/// Maximum number of blocks that readers accept.
const MAX_BLOCKS: u64 = 0x3fff_ffff;

pub(crate) fn write(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    let block = BLOCK_BYTES as u64;
    let size = input.len().next_multiple_of(SECTOR_BYTES);
    let blocks = size.div_ceil(block);
    if blocks > MAX_BLOCKS {
        let (bytes, max) = (input.len(), MAX_BLOCKS * block);
        return Err(OutputError::TooLarge { format: "vdi", bytes, max });
    }
    let data_at = (MAP_AT + blocks * 4).next_multiple_of(block);
    let mut map = vec![UNUSED; usize::try_from(blocks).unwrap_or_default()];
    let mut used = 0;
    out.skip(data_at);
    while let Some(stride) = input.next_stride()? {
        let first = usize::try_from(stride.offset / block).unwrap_or_default();
        for (index, data) in stride.data.chunks(BLOCK_BYTES).enumerate() {
            if is_zero(data) {
                continue;
            }
            map[first + index] = used;
            used += 1;
            append_sparse(out, data)?;
            out.skip(block - data.len() as u64);
        }
    }
    let map: Vec<u8> = map.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    out.patch(MAP_AT, &map)?;
    out.patch(0, &header(size, data_at, used, target))
}

fn header(size: u64, data_at: u64, used: u32, target: &Target) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    put(0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    put(0x40, &0xbeda_107fu32.to_le_bytes());
    // Version 1.1 with a header of 400 bytes; a dynamic image without flags.
    put(0x44, &0x0001_0001u32.to_le_bytes());
    put(0x48, &400u32.to_le_bytes());
    put(0x4c, &1u32.to_le_bytes());
    put(0x154, &narrow(MAP_AT));
    put(0x158, &narrow(data_at));
    put(0x168, &narrow(SECTOR_BYTES));
    put(0x170, &size.to_le_bytes());
    put(0x178, &narrow(BLOCK_BYTES as u64));
    put(0x180, &narrow(size.div_ceil(BLOCK_BYTES as u64)));
    put(0x184, &used.to_le_bytes());
    put(0x188, &target.identity.derive("vdi").to_bytes_le());
    put(0x198, &target.identity.derive("vdi snapshot").to_bytes_le());
    header
}
