//! The body of the fuzz target, for `tests/fuzz` and for this crate's own tests.

use std::io;

use crate::partition::Disk;

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
}
