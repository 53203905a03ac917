//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests.

use std::io::{self, Write};

use crate::{
    Digest, Extent, ExtentSource, ExtentTarget, OverlaySource, StageRecord,
    layer::{Decoder, decode},
};

/// Maximum number of extents that are read of a damaged overlay: all entries of its L1 table may
/// name the same L2 table.
const EXTENTS_MAX: usize = 4096;

/// Fuzzes the parser of a record from a shared cache.
pub fn record(bytes: &[u8]) {
    let _ = StageRecord::from_json(bytes, &Digest([0; 32]));
}

/// A disk that checks that it is written in order and within its size.
struct Disk {
    bytes: u64,
    end: u64,
}

impl ExtentTarget for Disk {
    fn extent(&mut self, extent: &Extent) -> io::Result<()> {
        assert!(extent.offset() >= self.end && extent.end() > extent.offset());
        assert!(extent.end() <= self.bytes);
        self.end = extent.end();
        Ok(())
    }
}

/// Fuzzes the decoder of layers. If the first byte is even, the rest is the compressed layer;
/// otherwise the rest is the content behind the magic, and is compressed first.
///
/// # Panics
/// Panics if an extent is out of order or beyond the disk.
pub fn layer(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let packed = match first % 2 {
        0 => rest.to_vec(),
        _ => zstd::encode_all(&[&b"vbuild layer 1\n"[..], rest].concat()[..], 1).expect("zstd"),
    };
    let Ok(mut decoder) = Decoder::new(packed.as_slice()) else { return };
    let mut disk = Disk { bytes: decoder.disk_bytes(), end: 0 };
    let _ = decode(&mut decoder, &mut disk);
}

/// Fuzzes the reader of overlays that a machine has written.
///
/// # Panics
/// Panics if an extent is out of order or beyond the disk.
pub fn overlay(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file for the test");
    file.write_all(bytes).expect("room for the test");
    let Ok(mut overlay) = OverlaySource::open(file.path()) else { return };
    let mut disk = Disk { bytes: overlay.disk_bytes(), end: 0 };
    for _ in 0..EXTENTS_MAX {
        match overlay.next_extent() {
            Ok(Some(extent)) => disk.extent(&extent).expect("it never fails"),
            Ok(None) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn layers(
            first in any::<u8>(),
            disk in 0_u64..100_000,
            records in prop::collection::vec((0_u8..4, 0_u64..100_000, 0_u32..5000), 0..8),
        ) {
            let mut bytes = vec![first];
            bytes.extend(disk.to_le_bytes());
            for (kind, offset, length) in records {
                bytes.push(kind);
                bytes.extend(offset.to_le_bytes());
                bytes.extend(length.to_le_bytes());
                bytes.resize(bytes.len() + if kind == 1 { length as usize } else { 4 }, 0);
            }
            // What zstd takes for its window, twice.
            memory_bound::within(32 << 20, || super::layer(&bytes));
        }

        #[test]
        fn overlays(
            bits in 7_u32..23,
            disk in prop_oneof![0_u64..1 << 24, any::<u64>()],
            entries in 0_u32..70_000,
            at in 0_u64..8192,
            rest in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..8192),
        ) {
            let mut bytes = vec![0; 112];
            bytes[..4].copy_from_slice(b"QFI\xfb");
            bytes[7] = 3;
            bytes[20..24].copy_from_slice(&bits.to_be_bytes());
            bytes[24..32].copy_from_slice(&disk.to_be_bytes());
            bytes[36..40].copy_from_slice(&entries.to_be_bytes());
            bytes[40..48].copy_from_slice(&at.to_be_bytes());
            bytes.extend(rest);
            memory_bound::within(80 << 20, || super::overlay(&bytes));
        }

        #[test]
        fn records(text in "[\\[\\]{}\":,a-z0-9]{0,80}") {
            super::record(text.as_bytes());
        }
    }
}
