//! Hyper-V's VHDX format.
//!
//! ```text
//!   0       identifier    64K, 128K  headers    192K, 256K  region tables
//!   1M      log, empty    2M  metadata          3M  block table   then blocks
//! ```

use uuid::{Uuid, uuid};

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    disk_input::DiskInput,
    format::{Format, Origin, Writer, no_options},
    formats::raw::append_sparse,
    source::STRIDE_BYTES,
};

pub(crate) const FORMAT: Format = Format {
    name: "vhdx",
    suffix: "vhdx",
    about: "Hyper-V's format, growing with its content",
    origin: Origin::Disk,
    container: None,
    max_bytes: MAX_BYTES,
    sequential: false,
    needs: no_options,
    write: Writer::Disk(write),
};

const KIB: usize = 1 << 10;
const MIB: u64 = 1 << 20;

/// Block size; the specification allows 1 to 256 MiB.
const BLOCK_BYTES: u64 = STRIDE_BYTES as u64;

/// Logical sector size, and the physical sector size to which guests align.
const SECTOR_BYTES: u32 = 512;
const PHYSICAL_SECTOR_BYTES: u32 = 4096;

/// Maximum disk size in the specification.
const MAX_BYTES: u64 = 64 << 40;

const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;

/// Offset of the items in the metadata region.
const ITEMS_AT: u32 = 64 << 10;

/// Payload blocks per sector bitmap entry in the table (used only by differencing disks).
const CHUNK_BLOCKS: u64 = (1 << 23) * SECTOR_BYTES as u64 / BLOCK_BYTES;

/// State of a block that is stored completely.
const FULLY_PRESENT: u64 = 6;

const REGION_TABLE: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const REGION_METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

const ITEM_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const ITEM_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const ITEM_IDENTITY: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const ITEM_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const ITEM_PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");

/// Flags of metadata items: virtual disk, and required.
const VIRTUAL_DISK: u32 = 2;
const REQUIRED: u32 = 4;

pub(crate) fn write(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    let size = input.len().next_multiple_of(u64::from(SECTOR_BYTES));
    if size > MAX_BYTES {
        let bytes = input.len();
        return Err(OutputError::TooLarge { format: "vhdx", bytes, max: MAX_BYTES });
    }
    let blocks = size.div_ceil(BLOCK_BYTES);
    let entries = blocks + blocks.saturating_sub(1) / CHUNK_BLOCKS;
    let table_bytes = (entries * 8).next_multiple_of(MIB).max(MIB);
    let mut table = vec![0u64; usize::try_from(entries).unwrap_or_default()];
    out.skip(TABLE_AT + table_bytes);
    while let Some(stride) = input.next_stride()? {
        let block = stride.offset / BLOCK_BYTES;
        let entry = usize::try_from(block + block / CHUNK_BLOCKS).unwrap_or_default();
        // File offsets are multiples of 1 MiB; the low 20 bits hold the state.
        table[entry] = out.position() | FULLY_PRESENT;
        append_sparse(out, &stride.data)?;
        out.skip(BLOCK_BYTES - stride.data.len() as u64);
    }
    let table: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    out.patch(TABLE_AT, &table)?;
    out.patch(METADATA_AT, &metadata(size, target))?;
    let regions = region_table(u32::try_from(table_bytes).unwrap_or(u32::MAX));
    for at in [192 * KIB as u64, 256 * KIB as u64] {
        out.patch(at, &regions)?;
    }
    for (sequence, at) in [(1, 64 * KIB as u64), (2, 128 * KIB as u64)] {
        out.patch(at, &header(sequence, target))?;
    }
    let creator = "vbuild".encode_utf16().flat_map(u16::to_le_bytes);
    out.patch(0, &b"vhdxfile".iter().copied().chain(creator).collect::<Vec<u8>>())
}

/// A header; of the two, readers use the one with the higher sequence number.
fn header(sequence: u64, target: &Target) -> Vec<u8> {
    let mut header = vec![0; 4 * KIB];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"head");
    put(8, &sequence.to_le_bytes());
    put(16, &target.identity.derive("vhdx file").to_bytes_le());
    put(32, &target.identity.derive("vhdx data").to_bytes_le());
    // No log GUID, as the log is empty. Log version 0, format version 1.
    put(66, &1u16.to_le_bytes());
    put(68, &u32::try_from(MIB).unwrap_or_default().to_le_bytes());
    put(72, &LOG_AT.to_le_bytes());
    put_checksum(&mut header);
    header
}

fn region_table(table_bytes: u32) -> Vec<u8> {
    let mut regions = vec![0; 64 * KIB];
    regions[..4].copy_from_slice(b"regi");
    regions[8] = 2;
    let metadata_bytes = u32::try_from(MIB).unwrap_or_default();
    let list =
        [(REGION_TABLE, TABLE_AT, table_bytes), (REGION_METADATA, METADATA_AT, metadata_bytes)];
    for (index, (region, at, bytes)) in list.into_iter().enumerate() {
        let entry = &mut regions[16 + index * 32..][..32];
        entry[..16].copy_from_slice(&region.to_bytes_le());
        entry[16..24].copy_from_slice(&at.to_le_bytes());
        entry[24..28].copy_from_slice(&bytes.to_le_bytes());
        // The region is required.
        entry[28] = 1;
    }
    put_checksum(&mut regions);
    regions
}

fn metadata(size: u64, target: &Target) -> Vec<u8> {
    let block = u32::try_from(BLOCK_BYTES).unwrap_or_default();
    // Block size, and no flags: blocks are allocated dynamically, and there is no parent.
    let parameters = [block.to_le_bytes(), [0; 4]].concat();
    let identity = target.identity.derive("vhdx disk").to_bytes_le();
    let items: [(Uuid, Vec<u8>, u32); 5] = [
        (ITEM_PARAMETERS, parameters, REQUIRED),
        (ITEM_SIZE, size.to_le_bytes().into(), REQUIRED | VIRTUAL_DISK),
        (ITEM_IDENTITY, identity.into(), REQUIRED | VIRTUAL_DISK),
        (ITEM_SECTOR, SECTOR_BYTES.to_le_bytes().into(), REQUIRED | VIRTUAL_DISK),
        (ITEM_PHYSICAL_SECTOR, PHYSICAL_SECTOR_BYTES.to_le_bytes().into(), REQUIRED | VIRTUAL_DISK),
    ];
    let mut region = b"metadata".to_vec();
    region.extend_from_slice(&[0, 0]);
    region.extend_from_slice(&u16::try_from(items.len()).unwrap_or_default().to_le_bytes());
    region.resize(32, 0);
    let mut values = Vec::new();
    for (item, value, flags) in &items {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or_default();
        region.extend_from_slice(&item.to_bytes_le());
        for field in [ITEMS_AT + length(&values), length(value), *flags, 0] {
            region.extend_from_slice(&field.to_le_bytes());
        }
        values.extend_from_slice(value);
    }
    region.resize(64 * KIB, 0);
    region.extend(values);
    region
}

/// Sets the CRC-32C of the whole structure, with the field at offset 4 as zero.
fn put_checksum(bytes: &mut [u8]) {
    let crc = crc32c(bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes
        .iter()
        .fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_check_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
