//! The archive reader and writer against GNU tar and against hostile input.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use super::*;

fn pack(dir: &Path, args: &[&str]) -> Vec<u8> {
    let out = Command::new("tar")
        .args(["-C", dir.to_str().unwrap(), "--sort=name"])
        .args(args)
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn entries(tar: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut archive = Archive::new(tar);
    let mut all = Vec::new();
    while let Some(entry) = archive.next_entry().unwrap() {
        let mut data = vec![0; usize::try_from(archive.data_left()).unwrap()];
        archive.read_data(&mut data).unwrap();
        all.push((entry, data));
    }
    all
}

fn joined(entry: &Entry) -> String {
    String::from_utf8(entry.path.join(&b'/')).unwrap()
}

#[test]
fn every_form_of_the_reference_packer_is_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(180);
    let root = dir.path();
    fs::create_dir_all(root.join("d").join(&long)).unwrap();
    fs::write(root.join("d").join(&long).join("file"), "content").unwrap();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o2751)).unwrap();
    fs::hard_link(root.join("d").join(&long).join("file"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink(format!("d/{long}/{long}"), root.join("soft")).unwrap();
    let sparse = fs::File::create(root.join("z")).unwrap();
    sparse.set_len(4 << 20).unwrap();
    for part in 1..9 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 4096], part * 400 * 1024).unwrap();
    }
    for args in
        [&["--format=pax"][..], &["--format=gnu"], &["--format=gnu", "-S"], &["--format=pax", "-S"]]
    {
        let all = entries(&pack(root, args));
        let names: Vec<String> = all.iter().map(|(e, _)| joined(e)).collect();
        let file = format!("d/{long}/file");
        assert_eq!(names, ["", "d", &format!("d/{long}"), &file, "hard", "soft", "z"], "{args:?}");
        assert_eq!((all[1].0.kind, all[1].0.mode), (Kind::Directory, 0o2751));
        assert_eq!(all[3].1, b"content");
        assert_eq!((all[4].0.kind, all[4].0.hard_link.len()), (Kind::HardLink, 3));
        assert_eq!(all[5].0.link, format!("d/{long}/{long}").as_bytes());
        assert_eq!((all[6].0.size, all[6].0.extents.is_some()), (4 << 20, args.len() > 1));
        let ones = all[6].1.iter().filter(|b| **b == 7).count();
        assert_eq!(ones, 8 * 4096);
    }
}

/// A header block with a valid checksum.
fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    for (at, value) in [(100, "0000644"), (108, "0000000"), (116, "0000000")] {
        block[at..at + 7].copy_from_slice(value.as_bytes());
    }
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Data, padded to whole blocks.
fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK_BYTES), 0);
    data
}

/// A member that is only an extension of so many bytes.
fn long(kind: u8, bytes: usize) -> Vec<u8> {
    [header("x", kind, bytes as u64), padded(&vec![b'a'; bytes])].concat()
}

/// One PAX record.
fn record(key: &str, value: &str) -> String {
    let body = format!(" {key}={value}\n");
    let mut length = body.len();
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    format!("{length}{body}")
}

/// A member of records.
fn records(records: &[(&str, &str)]) -> Vec<u8> {
    let data: String = records.iter().map(|(key, value)| record(key, value)).collect();
    [header("x", b'x', data.len() as u64), padded(data.as_bytes())].concat()
}

/// An empty file with records before it.
fn extended(before: &[(&str, &str)]) -> Vec<u8> {
    [records(before), header("x", b'0', 0)].concat()
}

/// A key for an attribute whose name is so long.
fn xattr(bytes: usize) -> String {
    format!("SCHILY.xattr.{}", "n".repeat(bytes))
}

fn refused(tar: &[u8]) -> String {
    Archive::new(tar).next_entry().unwrap_err().to_string()
}

#[test]
fn hostile_members_are_refused_by_name() {
    let cases: [(Vec<u8>, &str); 15] = [
        (header("../x", b'0', 0), "member 1 (`../x`): a path that leads out of the tree"),
        (header("a/../../x", b'0', 0), "leads out of the tree"),
        (header("x", b'Z', 0), "an unknown kind of member"),
        (header("x", b'6', 5), "data for something that is no regular file"),
        (header("x", b'x', 1 << 30), "its attributes are larger than 1048576 bytes"),
        (vec![b'a'; 512], "this is no tar stream"),
        (header(&"a/".repeat(50), b'L', 5000), "the tar stream breaks off"),
        (extended(&[("path", &"a".repeat(PATH_MAX_BYTES + 1))]), "longer than Linux takes"),
        (extended(&[("linkpath", &"a".repeat(PATH_MAX_BYTES + 1))]), "longer than Linux takes"),
        (
            [long(b'L', PATH_MAX_BYTES + 1), header("x", b'0', 0)].concat(),
            "a path that is longer than Linux takes",
        ),
        (
            [long(b'K', PATH_MAX_BYTES + 1), header("x", b'2', 0)].concat(),
            "a target of more than 4095 bytes",
        ),
        (header("x", b'2', 0), "a symbolic link without a target"),
        (extended(&[(&xattr(256), "v")]), "whose name Linux does not take"),
        (
            extended(&[(&xattr(9), &"v".repeat(XATTR_VALUE_MAX_BYTES + 1))]),
            "an extended attribute that is longer than Linux takes",
        ),
        (
            [header("x", b'x', 9), b"99 path=a".to_vec(), vec![0; 503]].concat(),
            "malformed attribute",
        ),
    ];
    for (tar, message) in cases {
        let error = refused(&tar);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let long = format!("99999999\n{}", "1\n".repeat(508));
    let record = b"30 GNU.sparse.realsize=100000\n";
    for (map, message) in [
        ("1\n0\n99\n", "differ from its data"),
        ("2\n500\n1\n0\n1\n", "overlap"),
        ("1\n99999\n512\n", "pass its end"),
        ("1\n18446744073709551615\n2\n", "beyond all sizes"),
        ("x\n", "malformed map"),
        (&long, "longer than its data"),
    ] {
        let mut tar = header("x", b'x', record.len() as u64);
        tar.extend_from_slice(record);
        tar.resize(1024, 0);
        tar.extend(header("f", b'0', 1024));
        tar.extend(map.as_bytes());
        tar.resize(1024 + 512 + 1024, b'\0');
        let error = refused(&tar);
        assert!(error.contains(message), "{map}: {error}");
    }
}

#[test]
fn a_stream_cut_anywhere_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), vec![1; 3000]).unwrap();
    let tar = pack(dir.path(), &["--format=pax"]);
    let end = entries(&tar).len();
    assert_eq!(end, 2);
    let used = tar.iter().rposition(|b| *b != 0).unwrap().next_multiple_of(512);
    for cut in (0..used).step_by(100) {
        let mut archive = Archive::new(&tar[..cut]);
        let failed = loop {
            match archive.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(failed, "cut at {cut}");
    }
}

/// A stream that is made while it is read.
struct Endless<F> {
    next: F,
    ready: Vec<u8>,
    at: usize,
}

impl<F: FnMut() -> Vec<u8>> Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.ready.len() {
            (self.ready, self.at) = ((self.next)(), 0);
        }
        let count = buffer.len().min(self.ready.len() - self.at);
        buffer[..count].copy_from_slice(&self.ready[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn endless<F: FnMut() -> Vec<u8>>(next: F) -> Archive<Endless<F>> {
    Archive::new(Endless { next, ready: Vec::new(), at: 0 })
}

#[test]
fn extensions_without_end_take_memory_for_one_member() {
    let value = "v".repeat(XATTR_VALUE_MAX_BYTES);
    let bound = 4 * EXTENSIONS_MAX_BYTES;
    // As many headers with attributes as the stream likes, before any member.
    let mut number = 0;
    let error = memory_bound::within(bound, || {
        let mut archive = endless(|| {
            number += 1;
            records(&[(&format!("SCHILY.xattr.user.n{number}"), &value)])
        });
        archive.next_entry().unwrap_err().to_string()
    });
    assert!(error.contains("its attributes are larger than 1048576 bytes"), "{error}");
    // Records for the whole archive, and zeros behind it.
    let error = memory_bound::within(bound, || {
        endless(|| long(b'g', 1000)).next_entry().unwrap_err().to_string()
    });
    assert!(error.contains("its attributes are larger than 1048576 bytes"), "{error}");
    let error = memory_bound::within(bound, || {
        endless(|| vec![0; 1 << 16]).next_entry().unwrap_err().to_string()
    });
    assert!(error.contains("more than 1048576 bytes behind the end"), "{error}");
}

#[test]
fn a_sparse_map_without_end_is_refused_within_its_limit() {
    let map = format!("{}\n", u64::MAX)
        + &(0..EXTENTS_MAX as u64 + 2).map(|at| format!("{}\n1\n", 2 * at)).collect::<String>();
    let size = map.len().next_multiple_of(BLOCK_BYTES);
    let mut tar = records(&[("GNU.sparse.realsize", "9999999999")]);
    tar.extend(header("f", b'0', size as u64 + EXTENTS_MAX as u64));
    tar.extend(padded(map.as_bytes()));
    // The vector and the one that it grows into.
    let error = memory_bound::within(3 * 16 * EXTENTS_MAX as u64, || {
        Archive::new(tar.as_slice()).next_entry().unwrap_err().to_string()
    });
    assert!(error.contains("a sparse file with too many extents"), "{error}");
}

#[test]
fn an_attribute_that_comes_twice_counts_once() {
    let tar = [
        extended(&[("SCHILY.xattr.user.a", "1"), ("SCHILY.xattr.user.a", "2")]),
        vec![0; 2 * BLOCK_BYTES],
    ]
    .concat();
    let entry = Archive::new(tar.as_slice()).next_entry().unwrap().unwrap();
    assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"2".to_vec())]);
}

#[test]
fn sizes_of_what_has_no_data_are_passed_over() {
    for kind in [b'1', b'5'] {
        let mut first = header("x", kind, 5000);
        first[157] = b't';
        first[148..156].copy_from_slice(b"        ");
        let sum: u64 = first.iter().map(|b| u64::from(*b)).sum();
        first[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let tar = [first, header("y", b'0', 0), vec![0; 1024]].concat();
        assert_eq!(entries(&tar).len(), 2);
    }
}

mod properties {
    use proptest::prelude::*;

    /// Blocks that mostly look like headers, and what may lie between.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop::sample::select(b"0123456xgLKS7Z".to_vec());
        let name = prop::sample::select(vec!["a", "a/b", "../a", "/a", "a//./b", ""]);
        let size = prop_oneof![Just(0), 0_u64..2000, any::<u64>()];
        let block = (kind, name, size).prop_map(|(kind, name, size)| {
            let mut block = super::header(name, kind, size % 0o77_777_777_777);
            block[157..160].copy_from_slice(b"a/b");
            block
        });
        let record = prop::sample::select(vec![
            ("path", "a/b"),
            ("linkpath", "../../x"),
            ("size", "700"),
            ("mtime", "-7.25"),
            ("uid", "4294967295"),
            ("GNU.sparse.realsize", "9000"),
            ("SCHILY.xattr.security.capability", "\u{1}\u{0}"),
        ]);
        let records = prop::collection::vec(record, 0..3).prop_map(|all| super::records(&all));
        let map = Just(super::padded(b"2\n0\n100\n4096\n88\n"));
        let rest = prop::collection::vec(any::<u8>(), 0..700);
        let piece = prop_oneof![4 => block, 2 => records, 1 => map, 1 => rest];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn streams_never_break_the_reader(bytes in stream()) {
            memory_bound::within(8 << 20, || crate::fuzzing::archive(&bytes));
        }
    }
}
