//! Compares qcow2 with a model in memory and with `qemu-img check`.

use std::{path::Path, process::Command};

use ::qcow2::{Backing, BackingFormat, create_layer};
use proptest::prelude::*;

use super::*;
use crate::devices::block::raw::Raw;

/// Runs `qemu-img`; if it is missing, prints why the test is skipped.
fn qemu_img(arguments: &[&std::ffi::OsStr]) -> Option<String> {
    match Command::new("qemu-img").args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{arguments:?}: {text}");
            Some(text)
        }
        Err(e) => {
            println!("skipped: `qemu-img` cannot be run: {e}");
            None
        }
    }
}

macro_rules! img {
    ($($argument:expr),* $(,)?) => { qemu_img(&[$($argument.as_ref()),*]) };
}

fn open_file(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn open(path: &Path, backing: Option<Box<dyn Image>>) -> Qcow2 {
    Qcow2::open(open_file(path), backing, false).map_err(|(_, e)| e).unwrap()
}

fn read(image: &mut dyn Image, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xcc; len];
    image.read(&[VolatileSlice::from(&mut bytes[..])], offset).unwrap();
    bytes
}

fn write(image: &mut dyn Image, offset: u64, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    image.write(&[VolatileSlice::from(&mut bytes[..])], offset).unwrap();
}

/// A raw file with a pattern, and an empty overlay on it.
fn overlay(dir: &Path, size: u64) -> (Vec<u8>, Qcow2, std::path::PathBuf) {
    let base = dir.join("base.raw");
    let pattern: Vec<u8> = (0..size).map(|i| u8::try_from(i / 512 % 251 + 1).unwrap()).collect();
    std::fs::write(&base, &pattern).unwrap();
    let top = dir.join("top.qcow2");
    let file = File::create_new(&top).unwrap();
    create_layer(&file, size, Some(Backing::new(&base, BackingFormat::Raw))).unwrap();
    let backing = Raw::new(File::open(&base).unwrap()).unwrap();
    (pattern, open(&top, Some(Box::new(backing))), top)
}

#[test]
fn a_new_layer_shows_its_backing_and_keeps_writes_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (pattern, mut image, top) = overlay(dir.path(), 1 << 20);
    assert_eq!(image.len(), 1 << 20);
    assert_eq!(read(&mut image, 0, 1 << 20), pattern);
    write(&mut image, 100 * 512, &[7; 1024]);
    let mut expected = pattern.clone();
    expected[100 * 512..102 * 512].fill(7);
    assert_eq!(read(&mut image, 0, 1 << 20), expected);
    drop(image);
    assert_eq!(std::fs::read(dir.path().join("base.raw")).unwrap(), pattern);
    let header = Header::read(&open_file(&top)).unwrap();
    let backing = header.backing.unwrap();
    assert_eq!(backing.format, Some(BackingFormat::Raw));
    assert!(backing.name.ends_with("base.raw"));
    img!("check", &top);
    img!("compare", "-f", "qcow2", &top, "-F", "qcow2", &top);
}

#[test]
fn qemu_reads_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut expected, mut image, top) = overlay(dir.path(), 3 << 20);
    write(&mut image, 65_536 - 512, &[1; 131_072]);
    expected[65_536 - 512..][..131_072].fill(1);
    image.write_zeroes(1 << 20, 1 << 19, true).unwrap();
    expected[1 << 20..][..1 << 19].fill(0);
    image.write_zeroes((2 << 20) + 512, 1024, true).unwrap();
    expected[(2 << 20) + 512..][..1024].fill(0);
    assert_eq!(read(&mut image, 0, 3 << 20), expected);
    drop(image);
    let flat = dir.path().join("flat");
    if img!("check", &top).is_none() {
        return;
    }
    img!("convert", "-O", "raw", &top, &flat);
    assert!(std::fs::read(flat).unwrap() == expected, "qemu-img reads other bytes");
}

#[test]
fn images_of_qemu_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let mut expected: Vec<u8> =
        (0..2u32 << 20).map(|i| u8::try_from(i / 4096 % 7).unwrap()).collect();
    std::fs::write(&raw, &expected).unwrap();
    for options in ["compat=1.1", "compat=0.10", "compression_type=zstd", "cluster_size=512"] {
        let path = dir.path().join("image.qcow2");
        if img!("convert", "-c", "-O", "qcow2", "-o", options, &raw, &path).is_none() {
            return;
        }
        let mut image = open(&path, None);
        assert!(read(&mut image, 0, 2 << 20) == expected, "{options}");
        write(&mut image, 4096 * 9 + 512, &[0xaa; 5120]);
        expected[4096 * 9 + 512..][..5120].fill(0xaa);
        assert!(read(&mut image, 0, 2 << 20) == expected, "{options}");
        drop(image);
        img!("check", &path);
        let flat = dir.path().join("flat");
        img!("convert", "-O", "raw", &path, &flat);
        assert!(std::fs::read(flat).unwrap() == expected, "{options}");
        std::fs::write(&raw, &expected).unwrap();
    }
}

#[test]
fn the_refcount_table_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.qcow2");
    if img!("create", "-f", "qcow2", "-o", "cluster_size=512", &path, "20M").is_none() {
        return;
    }
    let mut image = open(&path, None);
    // With 512-byte clusters, a refcount block has 256 entries and counts 128 KiB, and a cluster of
    // the refcount table has 64 entries and counts 8 MiB: 20 MiB need a table of three clusters.
    let block = vec![5; 1 << 20];
    for mib in 0..20 {
        write(&mut image, mib << 20, &block);
    }
    assert_eq!(read(&mut image, 19 << 20, 512), [5; 512]);
    drop(image);
    img!("check", &path);
}

#[test]
fn discarded_clusters_go_back_to_the_host_and_are_used_again() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (_, mut image, top) = overlay(dir.path(), 8 << 20);
    write(&mut image, 0, &vec![1; 8 << 20]);
    let full = std::fs::metadata(&top).unwrap();
    assert_eq!(image.discard(0, 4 << 20).unwrap(), 4 << 20);
    let after = std::fs::metadata(&top).unwrap();
    assert!(after.blocks() + 8000 < full.blocks(), "{} of {}", after.blocks(), full.blocks());
    assert_eq!(read(&mut image, 0, 512), [0; 512], "not the backing file's bytes");
    for cluster in 0..64 {
        write(&mut image, cluster << 16, &vec![2; 1 << 16]);
    }
    assert_eq!(std::fs::metadata(&top).unwrap().len(), full.len(), "the file has not grown");
    drop(image);
    img!("check", &top);
}

#[test]
fn what_cannot_be_handled_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (_, image, top) = overlay(dir.path(), 1 << 20);
    drop(image);
    let good = std::fs::read(&top).unwrap();
    let cases: [(usize, &[u8], &str); 7] = [
        (0, b"X", "not a qcow2"),
        (4, &[0, 0, 0, 4], "version 4"),
        (20, &[0, 0, 0, 40], "40 bits"),
        (32, &[0, 0, 0, 1], "encrypted"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 16], "extended L2"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 1], "qemu-img check"),
        (60, &[0, 0, 0, 1], "snapshots"),
    ];
    for (at, bytes, reason) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&top, bad).unwrap();
        let (_, error) = Qcow2::open(open_file(&top), None, false).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_read_only_image_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (_, image, top) = overlay(dir.path(), 1 << 20);
    drop(image);
    let mut image = Qcow2::open(open_file(&top), None, true).map_err(|(_, e)| e).unwrap();
    let mut bytes = [0; 512];
    assert!(image.write(&[VolatileSlice::from(&mut bytes[..])], 0).is_err());
    assert!(image.discard(0, 65_536).is_err());
}

#[derive(Debug, Clone)]
enum Operation {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Discard(u64, u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let range = (0u64..1024, 1u64..400);
    prop_oneof![
        (range.clone(), any::<u8>()).prop_map(|((at, len), byte)| Operation::Write(
            at,
            usize::try_from(len.min(1024 - at)).unwrap(),
            byte
        )),
        range.clone().prop_map(|(at, len)| Operation::Zero(at, len.min(1024 - at))),
        range.prop_map(|(at, len)| Operation::Discard(at, len.min(1024 - at))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any sequence of writes, zero writes and discards reads like a flat array.
    #[test]
    fn it_behaves_like_an_array(operations in prop::collection::vec(operation(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut model, mut image, top) = overlay(dir.path(), 512 << 10);
        for operation in operations {
            match operation {
                Operation::Write(at, len, byte) => {
                    write(&mut image, at * 512, &vec![byte; len * 512]);
                    let at = usize::try_from(at).unwrap() * 512;
                    model[at..at + len * 512].fill(byte);
                }
                Operation::Zero(at, len) => {
                    image.write_zeroes(at * 512, len * 512, true).unwrap();
                    let range = usize::try_from(at * 512).unwrap()
                        ..usize::try_from((at + len) * 512).unwrap();
                    model[range].fill(0);
                }
                Operation::Discard(at, len) => {
                    image.discard(at * 512, len * 512).unwrap();
                    // The content of a discarded range is undefined.
                    let range = usize::try_from(at * 512).unwrap()
                        ..usize::try_from((at + len) * 512).unwrap();
                    let now = read(&mut image, at * 512, range.len());
                    for (old, new) in model[range].iter_mut().zip(now) {
                        prop_assert!(new == *old || new == 0);
                        *old = new;
                    }
                }
            }
        }
        prop_assert!(read(&mut image, 0, 512 << 10) == model);
        drop(image);
        let backing = Raw::new(File::open(dir.path().join("base.raw")).unwrap()).unwrap();
        let mut again = open(&top, Some(Box::new(backing)));
        prop_assert!(read(&mut again, 0, 512 << 10) == model);
    }

    /// Random tables behind a valid header give an error or zeros, not a panic.
    #[test]
    fn rubbish_tables_are_survived(
        noise in prop::collection::vec(any::<u8>(), 4096),
        offset in 0u64..(1 << 20) / 512,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (_, image, top) = overlay(dir.path(), 1 << 20);
        drop(image);
        let file = open_file(&top);
        for cluster in 1..4u64 {
            file.write_all_at(&noise, cluster << 16).unwrap();
        }
        if let Ok(mut image) = Qcow2::open(file, None, false) {
            let mut bytes = [0; 512];
            let _ = image.read(&[VolatileSlice::from(&mut bytes[..])], offset * 512);
            let _ = image.write(&[VolatileSlice::from(&mut bytes[..])], offset * 512);
        }
    }
}
