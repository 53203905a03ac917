//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests.

use std::{fs, path::Path};

use crate::{
    PendingTree, Silent, Target, UnpackLimits, atomic::OutFile, format, format::Writer, unpack_tree,
};

/// Limits on a tree: low, so that inputs reach them.
const LIMITS: UnpackLimits = UnpackLimits { bytes: 1 << 20, entries: 64 };
/// Content of a file outside, which must not change.
const OUTSIDE: &[u8] = b"outside";

/// Unpacks a guest's tree on the host.
///
/// # Panics
/// Panics if anything is written outside, left behind, or beyond the limits.
pub fn unpack(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let outside = folder.path().join("outside");
    fs::write(&outside, OUTSIDE).expect("a file beside it");
    let to = folder.path().join("image.d");
    let stream = tar_stream::fuzzing::with_checksums(bytes);
    let unpacked = unpack_tree(&mut stream.as_slice(), &to, LIMITS, &Silent);
    if let Ok(Some(tree)) = unpacked.map(|tree| tree.map(PendingTree::commit)) {
        tree.expect("a place that is free");
        let (mut entries, mut length) = (0, 0);
        walk(&to, &to, &mut entries, &mut length);
        assert!(entries <= LIMITS.entries, "{entries} files");
        assert!(length <= LIMITS.bytes, "{length} bytes");
    }
    assert_eq!(fs::read(&outside).expect("it is still there"), OUTSIDE);
    let beside = fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(beside, 1 + usize::from(to.exists()), "something was left behind");
}

/// Counts the entries and bytes of a tree, and checks that no link leads out.
fn walk(top: &Path, folder: &Path, entries: &mut u64, length: &mut u64) {
    for entry in fs::read_dir(folder).expect("a directory").map(|entry| entry.expect("an entry")) {
        let (path, meta) = (entry.path(), entry.metadata().expect("its status"));
        *entries += 1;
        if meta.is_dir() {
            walk(top, &path, entries, length);
        } else if meta.is_symlink() {
            // Dangling and cyclic links do not lead out.
            if let Ok(target) = path.canonicalize() {
                let top = top.canonicalize().expect("the tree");
                assert!(
                    target.starts_with(&top),
                    "{} leads to {}",
                    path.display(),
                    target.display()
                );
            }
        } else {
            assert!(meta.is_file());
            *length += meta.len();
        }
    }
}

/// Writes a guest's tree as squashfs.
///
/// # Panics
/// Panics if writing fails for a reason other than the tree.
pub fn squashfs(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("image.squash");
    let format = format("squashfs").expect("a format of this crate");
    let target = Target { compress: false, ..Target::new(format, &path) };
    let Writer::Tree(write) = &format.write else { unreachable!("it is written from a tree") };
    let mut out = OutFile::create(&path, false).expect("a file");
    let stream = tar_stream::fuzzing::with_checksums(bytes);
    // Holes are small in a stream, but each block of them is processed.
    if write(&mut stream.as_slice(), &mut out, &target).is_ok() {
        assert!(out.position() >= 96, "there is a superblock");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Headers of all types with conflicting names.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let name =
            || prop::sample::select(vec!["a", "b", "a/b", "a/b/c", "c", "a/../b", "./a", ""]);
        let link = prop::sample::select(vec!["a", "../a", "b", "../../x", "/etc", "a/..", ".."]);
        let kind = prop::sample::select(b"01235S6".to_vec());
        let member = (kind, name(), link, 0_u64..1500).prop_map(|(kind, name, link, size)| {
            let size = if matches!(kind, b'0' | b'S') { size } else { 0 };
            let mut block = tar_stream::file_header(name, size, 7);
            block[156] = kind;
            block[157..157 + link.len()].copy_from_slice(link.as_bytes());
            let mut bytes = block.to_vec();
            bytes.resize(512 + usize::try_from(size).unwrap().next_multiple_of(512), 7);
            bytes
        });
        prop::collection::vec(member, 0..12).prop_map(|members| {
            let end = vec![0; 1024];
            [members.concat(), end].concat()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn trees_stay_in_their_place(bytes in stream()) {
            super::unpack(&bytes);
        }

        #[test]
        fn trees_become_filesystems(bytes in stream()) {
            super::squashfs(&bytes);
        }
    }
}
