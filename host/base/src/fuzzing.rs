//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::{Magic, blocks, partition::Disk, source::ImageFile};

/// The partition tables of a disk: where each of the first partitions lies.
pub fn partition_table(bytes: &[u8]) {
    let read = |at: u64, buffer: &mut [u8]| {
        let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
        let from = from.and_then(|from| from.get(..buffer.len()));
        let from = from.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    };
    let disk = Disk { bytes: bytes.len() as u64, read: &read };
    for number in 1..=8 {
        if let Ok(part) = disk.partition(number) {
            assert!(part.offset + part.bytes <= disk.bytes, "a partition lies on its disk");
        }
    }
}

/// The tables of blocks of VDI and VHD, and of a VHDX whose header, regions and metadata stand
/// one after another in the input.
///
/// # Panics
/// When there is no room for a file, and when a table has not one entry for each block.
pub fn block_tables(bytes: &[u8]) {
    /// Where a VHDX has its header and its regions, and where the input has what they mean.
    const VHDX_PARTS: [(usize, u64); 3] =
        [(128, 64 << 10), (256, 192 << 10), (usize::MAX, 2 << 20)];
    let file = || tempfile::tempfile().expect("a file for the test");
    let looked_at = |file: File, magic: Magic| {
        let path = magic.name().into();
        if let Ok((disk, block, entries)) = blocks::shape(ImageFile { path, file }, magic) {
            assert_eq!(entries as u64, disk.div_ceil(block), "each block has an entry");
        }
    };
    for magic in [Magic::Vdi, Magic::Vhd] {
        let file = file();
        file.write_all_at(bytes, 0).expect("room for the test");
        looked_at(file, magic);
    }
    let vhdx = file();
    vhdx.set_len(4 << 20).expect("room for the test");
    let mut rest = bytes;
    for (length, at) in VHDX_PARTS {
        let (part, behind) = rest.split_at(length.min(rest.len()));
        vhdx.write_all_at(part, at).expect("room for the test");
        rest = behind;
    }
    looked_at(vhdx, Magic::Vhdx);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tables_of_rubbish(
            entries in proptest::collection::vec(any::<u8>(), 64),
            kind in proptest::sample::select(vec![0x05_u8, 0x0f, 0x83, 0xee]),
            rest in proptest::collection::vec(any::<u8>(), 0..4096),
        ) {
            let mut disk = vec![0; 512];
            disk[446..510].copy_from_slice(&entries);
            for index in 0..4 {
                disk[446 + 16 * index] &= 0x80;
            }
            disk[450] = kind;
            disk[510..].copy_from_slice(&[0x55, 0xaa]);
            disk.extend(b"EFI PART");
            disk.extend(rest);
            super::partition_table(&disk);
        }
    }

    proptest! {
        #[test]
        fn block_tables_of_rubbish(
            header in proptest::collection::vec(any::<u8>(), 0..2048),
            numbers in proptest::collection::vec((0_usize..600, any::<u8>()), 0..8),
        ) {
            let mut bytes = header;
            // Mostly zeros, so that sizes are possible now and then.
            bytes.resize(4096, 0);
            bytes[512..].fill(0);
            for (at, byte) in numbers {
                bytes[at] = byte;
            }
            super::block_tables(&bytes);
        }
    }
}
