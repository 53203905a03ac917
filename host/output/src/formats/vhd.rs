//! Virtual PC's VHD format, for Hyper-V, Azure and Xen.
//!
//! ```text
//!   fixed     the disk | footer
//!   dynamic   footer | header | block table | bitmap, block | … | footer
//! ```

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    disk_input::DiskInput,
    format::{Format, Origin, Writer, no_options},
    formats::raw::append_sparse,
    source::STRIDE_BYTES,
};

/// The dynamic format, which virt-dib and diskimage-builder call vhd.
pub(crate) const DYNAMIC: Format = Format {
    name: "vhd",
    suffix: "vhd",
    about: "Virtual PC's format, growing with its content",
    origin: Origin::Disk,
    container: None,
    max_bytes: MAX_BYTES,
    sequential: false,
    needs: no_options,
    write: Writer::Disk(write_dynamic),
};

/// The fixed format, as Azure requires.
pub(crate) const FIXED: Format = Format {
    name: "vhd-fixed",
    suffix: "fixed.vhd",
    about: "Virtual PC's format in full size, a multiple of 1 MiB, as Azure wants it",
    origin: Origin::Disk,
    container: None,
    max_bytes: MAX_BYTES,
    sequential: true,
    needs: no_options,
    write: Writer::Disk(write_fixed),
};

const SECTOR_BYTES: u64 = 512;

/// Maximum disk size that readers accept.
const MAX_BYTES: u64 = 2040 << 30;

/// Azure accepts only multiples of this; the disk is padded with zeros.
const FIXED_UNIT_BYTES: u64 = 1 << 20;

/// Block size: the default of all writers.
const BLOCK_BYTES: u64 = STRIDE_BYTES as u64;

/// Sector bitmap of a block.
const BITMAP_BYTES: usize = STRIDE_BYTES / 512 / 8;

/// Offset of the dynamic header, after the footer copy; the block table follows.
const HEADER_AT: u64 = 512;
const TABLE_AT: u64 = 512 + 1024;

/// Table entry of a block that is not stored.
const UNUSED: u32 = u32::MAX;

/// Seconds from 1970 to 2000, the epoch of the format.
const EPOCH: u64 = 946_684_800;

fn write_fixed(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    let size = checked_size(input, FIXED_UNIT_BYTES)?;
    while let Some(stride) = input.next_stride()? {
        out.skip(stride.offset - out.position());
        append_sparse(out, &stride.data)?;
    }
    out.skip(size - out.position());
    out.append(&footer(size, 2, u64::MAX, target))
}

fn write_dynamic(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    let size = checked_size(input, SECTOR_BYTES)?;
    let blocks = size.div_ceil(BLOCK_BYTES);
    let mut table = vec![UNUSED; usize::try_from(blocks).unwrap_or_default()];
    let footer = footer(size, 3, HEADER_AT, target);
    out.append(&footer)?;
    out.append(&header(blocks))?;
    out.skip((blocks * 4).next_multiple_of(SECTOR_BYTES));
    while let Some(stride) = input.next_stride()? {
        let index = usize::try_from(stride.offset / BLOCK_BYTES).unwrap_or_default();
        table[index] = u32::try_from(out.position() / SECTOR_BYTES).unwrap_or(UNUSED);
        out.append(&[0xff; BITMAP_BYTES])?;
        append_sparse(out, &stride.data)?;
        out.skip(BLOCK_BYTES - stride.data.len() as u64);
    }
    let mut bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    let padded = bytes.len().next_multiple_of(512);
    bytes.resize(padded, 0xff);
    out.patch(TABLE_AT, &bytes)?;
    out.append(&footer)
}

fn checked_size(input: &DiskInput<'_>, unit: u64) -> Result<u64> {
    let size = input.len().next_multiple_of(unit);
    if size > MAX_BYTES {
        let (bytes, max) = (input.len(), MAX_BYTES);
        return Err(OutputError::TooLarge { format: "vhd", bytes, max });
    }
    Ok(size)
}

fn footer(size: u64, kind: u32, header_at: u64, target: &Target) -> [u8; 512] {
    let mut footer = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    // A reserved feature bit that is always set, and version 1.0.
    put(8, &2u32.to_be_bytes());
    put(12, &0x0001_0000u32.to_be_bytes());
    put(16, &header_at.to_be_bytes());
    let time = target.identity.unix_time.saturating_sub(EPOCH);
    put(24, &u32::try_from(time).unwrap_or(u32::MAX).to_be_bytes());
    // For this creator, readers use the size below instead of the rounded geometry.
    put(28, b"win ");
    put(32, &0x000a_0000u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(size / SECTOR_BYTES);
    put(56, &cylinders.to_be_bytes());
    put(58, &[heads, sectors]);
    put(60, &kind.to_be_bytes());
    put(68, target.identity.derive("vhd").as_bytes());
    put_checksum(&mut footer, 64);
    footer
}

fn header(blocks: u64) -> [u8; 1024] {
    let mut header = [0; 1024];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"cxsparse");
    put(8, &u64::MAX.to_be_bytes());
    put(16, &TABLE_AT.to_be_bytes());
    put(24, &0x0001_0000u32.to_be_bytes());
    put(28, &u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
    put(32, &u32::try_from(BLOCK_BYTES).unwrap_or_default().to_be_bytes());
    put_checksum(&mut header, 36);
    header
}

/// Sets the checksum: the one's complement of the sum of all bytes, with the checksum field as
/// zero.
fn put_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// The CHS geometry that the specification derives from the number of sectors.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65_535 * 16 * 255);
    let (mut per_track, mut heads, mut tracks);
    if total >= 65_535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, total / 255);
    } else {
        (per_track, tracks) = (17, total / 17);
        heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (per_track, heads, tracks) = (31, 16, total / 31);
        }
        if tracks >= heads * 1024 {
            (per_track, heads, tracks) = (63, 16, total / 63);
        }
    }
    let narrow = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
    (u16::try_from(tracks / heads).unwrap_or(u16::MAX), narrow(heads), narrow(per_track))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_of_the_specification() {
        assert_eq!(geometry(0), (0, 4, 17));
        assert_eq!(geometry((5 << 30) / 512), (10_402, 16, 63));
        assert_eq!(geometry(1 << 40), (65_535, 16, 255));
        assert_eq!(geometry((40 << 20) / 512), (963, 5, 17));
    }
}
