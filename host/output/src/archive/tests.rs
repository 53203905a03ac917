//! The archive reader and writer against GNU tar and against hostile input.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

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

fn refused(tar: &[u8]) -> String {
    Archive::new(tar).next_entry().unwrap_err().to_string()
}

#[test]
fn hostile_members_are_refused_by_name() {
    let cases: [(Vec<u8>, &str); 7] = [
        (header("../x", b'0', 0), "entry 1 `../x`: a path that leads out of the tree"),
        (header("a/../../x", b'0', 0), "leads out of the tree"),
        (header("x", b'Z', 0), "an unknown kind of member"),
        (header("x", b'5', 5), "data for something that is no regular file"),
        (header("x", b'x', 1 << 30), "its attributes are larger than 1048576 bytes"),
        (vec![b'a'; 512], "this is no tar stream"),
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
