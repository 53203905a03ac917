//! The body of the fuzz target for qcow2 images.

use std::{fs::File, io, os::unix::fs::FileExt};

use ::qcow2::create_layer;
use vm_memory::VolatileSlice;

use super::{Image, Qcow2};
use crate::memory;

/// Bytes of an operation in the input: kind, offset (two), length, value.
const OPERATION_BYTES: usize = 5;
/// Maximum operations per input.
const OPERATIONS: usize = 8;
const SECTOR: u64 = 512;
/// Clusters that contain the tables of an image created by vbuild.
const TABLES: u64 = 4;
/// Maximum sectors read or written by one operation.
const SECTORS_MAX: u8 = 16;

/// Opens an image made from the input, and performs the operations of the input. The first byte
/// selects whether the rest is the file itself or is written over the tables of a valid image (bit
/// 0), and whether the image is read-only (bit 1).
///
/// # Panics
/// Panics if no file can be created.
pub(crate) fn run(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let (operations, bytes) = bytes.split_at(bytes.len().min(OPERATION_BYTES * OPERATIONS));
    let file = memory::create_file(0).expect("a file for the test");
    if kind & 1 == 0 { whole(&file, bytes) } else { file.write_all_at(bytes, 0) }
        .expect("room for the test");
    let Ok(mut image) = Qcow2::open(file, None, kind & 2 != 0) else { return };
    for operation in operations.as_chunks::<OPERATION_BYTES>().0 {
        let _ = carry_out(&mut image, *operation);
    }
    let _ = image.flush(false);
}

/// A valid empty layer whose tables begin with parts of the input.
fn whole(file: &File, bytes: &[u8]) -> io::Result<()> {
    create_layer(file, 1 << 20, None)?;
    let part = bytes.len().div_ceil(usize::try_from(TABLES).unwrap_or(1)).max(1);
    for (cluster, part) in (1..).zip(bytes.chunks(part)) {
        file.write_all_at(part, cluster << 16)?;
    }
    Ok(())
}

fn carry_out(image: &mut Qcow2, [what, low, high, sectors, value]: [u8; 5]) -> io::Result<()> {
    let length = u64::from(sectors % SECTORS_MAX + 1) * SECTOR;
    // Accesses beyond the disk are refused before they reach an image.
    let Some(last) = image.len().checked_sub(length) else { return Ok(()) };
    let offset = (u64::from(u16::from_le_bytes([low, high])) * SECTOR).min(last / SECTOR * SECTOR);
    let mut bytes = vec![value; usize::try_from(length).unwrap_or_default()];
    let slices = [VolatileSlice::from(&mut bytes[..])];
    match what % 5 {
        0 => image.read(&slices, offset),
        1 => image.write(&slices, offset),
        2 => image.write_zeroes(offset, length, true).map(drop),
        3 => image.write_zeroes(offset, length, false).map(drop),
        _ => image.discard(offset, length).map(drop),
    }
}
