//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests.

use std::{fs, fs::File, io, os::unix::fs::FileExt};

use crate::{Magic, blocks, limits::Written, partition::Disk, source::ImageFile, vmdk};

/// Parses the partition tables of a disk, and finds each of the first partitions.
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

/// Parses the block tables of VDI and VHD, and of a VHDX whose header, regions and metadata are
/// concatenated in the input.
///
/// # Panics
/// Panics if no file can be created, and if a table does not have one entry per block.
pub fn block_tables(bytes: &[u8]) {
    /// File offsets of header, regions and metadata in a VHDX, with their offsets in the input.
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

/// Limit on the output of [`vmdk`], so that one input does not occupy the fuzzer for long.
const WRITTEN_MAX_BYTES: u64 = 16 << 20;

/// Converts a VMDK to raw. An input that begins like a sparse file is used as one; any other is a
/// descriptor up to its first zero byte, followed by the extent `disk-s001.vmdk`.
///
/// # Panics
/// Panics if no files can be created.
pub fn vmdk(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("disk.vmdk");
    let end = if bytes.starts_with(b"KDMV") { None } else { bytes.iter().position(|b| *b == 0) };
    let (top, part) = bytes.split_at(end.unwrap_or(bytes.len()));
    fs::write(&path, top).expect("room for the test");
    if let Some((_, part)) = part.split_first() {
        fs::write(folder.path().join("disk-s001.vmdk"), part).expect("room for the test");
    }
    let mut limits = Written::with_room_for(WRITTEN_MAX_BYTES);
    if let Ok(disk) = ImageFile::named(&path).and_then(vmdk::Disk::open) {
        let _ = vmdk::unpack(&disk, &folder.path().join("disk.raw"), &mut limits);
    }
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
            // Mostly zeros, so that valid sizes occur.
            bytes.resize(4096, 0);
            bytes[512..].fill(0);
            for (at, byte) in numbers {
                bytes[at] = byte;
            }
            super::block_tables(&bytes);
        }
    }

    /// A sparse VMDK: one table, grains of one sector.
    fn sparse() -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[..4].copy_from_slice(b"KDMV");
        for (at, number) in [(4, 1_u64), (12, 16), (20, 1), (28, 0), (44, 16), (56, 1)] {
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        for (at, sector) in [(512, 2_u32), (1024, 3), (1028, 4), (1032, 1)] {
            file[at..at + 4].copy_from_slice(&sector.to_le_bytes());
        }
        file
    }

    #[test]
    fn the_sparse_file_of_these_tests_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.vmdk");
        std::fs::write(&path, sparse()).unwrap();
        let disk = crate::source::ImageFile::named(&path).and_then(crate::vmdk::Disk::open);
        let raw = folder.path().join("raw");
        let mut limits = crate::limits::Written::with_room_for(1 << 20);
        crate::vmdk::unpack(&disk.unwrap(), &raw, &mut limits).unwrap();
        assert_eq!(std::fs::metadata(raw).unwrap().len(), 16 * 512);
    }

    proptest! {
        #[test]
        fn sparse_files_of_rubbish(
            changes in proptest::collection::vec((0_usize..2048, any::<u8>()), 0..12),
        ) {
            let mut bytes = sparse();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            super::vmdk(&bytes);
        }

        #[test]
        fn descriptors_of_rubbish(
            text in "((RW|RDONLY) [0-9]{1,20} (FLAT|SPARSE|ZERO|VMFS) \"disk-s001.vmdk\" [0-9]{0,20}\n|parentCID=[f0]{8}\n|.{0,9}\n){0,6}",
        ) {
            super::vmdk(&[text.as_bytes(), b"\0", &sparse()].concat());
        }
    }
}
