//! The body of the fuzz target, for `tests/fuzz` and for this crate's own tests.

use crate::{
    Archive, BLOCK_BYTES, Content, DEPTH_MAX, EXTENTS_MAX, Entry, Kind, PATH_MAX_BYTES,
    XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES, XATTRS_MAX,
};

/// The maximum number of bytes of content that are read from one archive: enough to reach every
/// branch, and few enough that holes of exabytes do not take for ever.
const CONTENT_MAX_BYTES: u64 = 1 << 20;
/// The size of the pieces in which content is read, in bytes, like the blocks of squashfs.
const PIECE_BYTES: u64 = 4096;

/// Reads the bytes as a tar stream. Blocks that look like headers get a correct checksum first, as
/// no mutation would find it.
///
/// # Panics
/// Panics if a member that the reader returns breaks one of the reader's guarantees.
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

/// Checks what the reader guarantees for every member.
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

/// Sets the checksum of each block that has the magic of a header.
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
