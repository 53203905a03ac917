//! The body of the fuzz target, for `tests/fuzz` and for this crate's own tests.

use crate::{
    Archive, BLOCK_BYTES, Content, DEPTH_MAX, EXTENTS_MAX, Entry, Kind, PATH_MAX_BYTES,
    XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES, XATTRS_MAX,
};

/// Content that is read of one archive: enough to pass every branch, small enough
/// that holes of exabytes do not take for ever.
const CONTENT_MAX_BYTES: u64 = 1 << 20;
/// Pieces in which content is read, as squashfs has them.
const PIECE_BYTES: u64 = 4096;

/// A tar stream. Blocks that look like headers get a checksum that is right, as no
/// mutation would find it.
///
/// # Panics
/// When a member that the reader gives away breaks one of its promises.
pub fn archive(bytes: &[u8]) {
    let repaired = with_checksums(bytes);
    let mut archive = Archive::new(repaired.as_slice());
    let mut left = CONTENT_MAX_BYTES;
    while let Ok(Some(entry)) = archive.next_entry() {
        check(&entry);
        let mut content = Content::new(&entry);
        while entry.kind == Kind::File && content.left() > 0 && left > 0 {
            let before = content.left();
            if content.is_hole(PIECE_BYTES) {
                content.skip(PIECE_BYTES);
                left = left.saturating_sub(1);
            } else if content.read(&mut archive, 4096).is_err() {
                return;
            } else {
                left = left.saturating_sub(PIECE_BYTES);
            }
            assert!(content.left() < before, "no way forward");
        }
    }
}

/// What is promised of every member.
fn check(entry: &Entry) {
    for path in [&entry.path, &entry.hard_link] {
        assert!(path.len() <= DEPTH_MAX);
        assert!(path.iter().map(Vec::len).sum::<usize>() <= PATH_MAX_BYTES);
        for part in path {
            let part = part.as_slice();
            assert!(!part.is_empty() && part != b"." && part != b"..");
            assert!(!part.contains(&0) && !part.contains(&b'/'));
        }
    }
    assert!(entry.link.len() <= PATH_MAX_BYTES);
    assert!(entry.mode <= 0o7777);
    assert!(entry.mtime.1 < 1_000_000_000);
    assert!(entry.xattrs.len() <= XATTRS_MAX);
    for (name, value) in &entry.xattrs {
        assert!((1..=XATTR_NAME_MAX_BYTES).contains(&name.len()));
        assert!(value.len() <= XATTR_VALUE_MAX_BYTES);
    }
    let mut end = 0;
    let extents = entry.extents.as_deref().unwrap_or_default();
    assert!(extents.len() <= EXTENTS_MAX);
    for (offset, length) in extents {
        assert!(*offset >= end);
        end = offset.checked_add(*length).expect("within the file");
        assert!(end <= entry.size);
    }
}

/// Gives each block that has the magic of a header its checksum.
#[must_use]
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.as_chunks_mut::<BLOCK_BYTES>().0 {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}
