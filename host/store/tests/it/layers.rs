//! Layers in and out, merged, and from the files that builds have.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::Command,
};

use store::{Digest, DiskState, Extent, Merged, OverlaySource, RawSource, RawTarget, StoreError};

use crate::common::{DISK_BYTES, Listed, Memory, Numbers, store_in};

fn random_layer(numbers: &mut Numbers) -> Listed {
    let mut extents = Vec::new();
    let mut at = numbers.below(3000);
    while at < DISK_BYTES as u64 {
        let length = (1 + numbers.below(5000)).min(DISK_BYTES as u64 - at);
        extents.push(if numbers.below(4) == 0 {
            Extent::Zeros { offset: at, length }
        } else {
            let byte = u8::try_from(1 + numbers.below(255)).unwrap();
            Extent::Data { offset: at, bytes: vec![byte; usize::try_from(length).unwrap()] }
        });
        // Sometimes the next one follows at once.
        at += length + numbers.below(3) * numbers.below(4000);
    }
    Listed(extents)
}

#[test]
fn layers_come_back_and_merge_to_the_same_disk() {
    let dir = tempfile::tempdir().unwrap();
    let lease = store_in(dir.path()).lease().unwrap();
    let mut numbers = Numbers(42);
    for count in 1..12 {
        let mut model = Memory(vec![0; DISK_BYTES]);
        let mut digests = Vec::new();
        for _ in 0..count {
            let layer = random_layer(&mut numbers);
            for extent in &layer.0 {
                store::ExtentTarget::extent(&mut model, extent).unwrap();
            }
            let extents = layer.0.len() as u64;
            let stored = lease.put_layer(&mut Listed(layer.0)).unwrap();
            assert_eq!(stored.content.extents, extents);
            digests.push(stored.digest);
        }
        let mut chain = Memory(vec![0; DISK_BYTES]);
        for digest in &digests {
            lease.get_layer(digest, &mut chain).unwrap();
        }
        assert!(chain.0 == model.0, "{count} layers applied");
        let merged = lease.merge(&digests).unwrap().unwrap();
        // On a disk full of other bytes, to see that zeros are kept.
        let mut over = Memory(vec![9; DISK_BYTES]);
        lease.get_layer(&merged.digest, &mut over).unwrap();
        let mut expected = Memory(vec![9; DISK_BYTES]);
        for digest in &digests {
            lease.get_layer(digest, &mut expected).unwrap();
        }
        assert!(over.0 == expected.0, "{count} layers merged");
    }
    assert!(lease.merge(&[]).unwrap().is_none());
}

#[test]
fn the_same_layer_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let lease = store_in(dir.path()).lease().unwrap();
    let layer = || random_layer(&mut Numbers(7));
    let first = lease.put_layer(&mut layer()).unwrap();
    assert_eq!(lease.put_layer(&mut layer()).unwrap(), first);
    assert_eq!(lease.store().usage().unwrap().objects, 1);
}

#[test]
fn layers_that_break_the_rules_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lease = store_in(dir.path()).lease().unwrap();
    let data = |offset, length| Extent::Data { offset, bytes: vec![1; length] };
    for extents in [
        vec![data(100, 10), data(105, 10)],
        vec![data(100, 10), data(50, 10)],
        vec![data(DISK_BYTES as u64 - 5, 10)],
        vec![data(0, 0)],
        vec![Extent::Zeros { offset: u64::MAX, length: 2 }],
    ] {
        let error = lease.put_layer(&mut Listed(extents)).unwrap_err();
        assert!(matches!(error, StoreError::BadLayer(_)), "{error}");
    }
    assert_eq!(lease.store().usage().unwrap().objects, 0);
    let tmp = lease.store().root().join("tmp");
    assert_eq!(fs::read_dir(tmp).unwrap().count(), 0);
}

#[test]
fn a_sparse_raw_disk_comes_back_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let lease = store_in(dir.path()).lease().unwrap();
    let path = dir.path().join("disk");
    let file = fs::File::create(&path).unwrap();
    file.set_len((1 << 30) + 512).unwrap();
    file.write_all_at(&[1; 3_000_000], 5_000_001).unwrap();
    file.write_all_at(b"end", (1 << 30) + 509).unwrap();
    let stored = lease.put_layer(&mut RawSource::open(&path).unwrap()).unwrap();
    assert!(stored.stored_bytes < 100_000, "{} bytes", stored.stored_bytes);
    let disk = DiskState { bytes: (1 << 30) + 512, layers: vec![stored.digest] };
    let back = dir.path().join("back");
    lease.restore(&disk, &back).unwrap();
    let meta = fs::metadata(&back).unwrap();
    assert_eq!(meta.len(), (1 << 30) + 512);
    assert!(meta.blocks() * 512 < 10 << 20, "{} blocks", meta.blocks());
    let mut part = vec![0; 3_000_002];
    fs::File::open(&back).unwrap().read_exact_at(&mut part, 5_000_000).unwrap();
    assert!(part[0] == 0 && part[3_000_001] == 0 && part[1..3_000_001].iter().all(|b| *b == 1));
    assert!(lease.restore(&disk, &back).is_err(), "an existing file is not written over");
    let gone = DiskState { layers: vec![stored.digest, Digest([0; 32])], ..disk };
    let other = dir.path().join("other");
    assert!(lease.restore(&gone, &other).unwrap_err().is_miss());
    assert!(!other.exists());
}

/// Runs a tool of QEMU; `None` and a reason when it is not there.
fn run(argv: &[&str]) -> Option<()> {
    match Command::new(argv[0]).args(&argv[1..]).output() {
        Ok(output) => {
            assert!(output.status.success(), "{argv:?}: {output:?}");
            Some(())
        }
        Err(e) => {
            eprintln!("not checked with {}: {e}", argv[0]);
            None
        }
    }
}

/// A raw disk, an overlay over it with writes, zeros and discards, and the
/// options that the overlay is made with.
fn overlay(dir: &Path, options: &str) -> Option<(String, String)> {
    let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (base, top) = (text("base"), text("top"));
    fs::write(&base, vec![0xaa; (9 << 20) + 512]).unwrap();
    let _ = fs::remove_file(&top);
    run(&[
        "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", &base, "-F", "raw", &top,
    ])?;
    run(&[
        "qemu-io",
        "-f",
        "qcow2",
        "-c",
        "write -P 1 1000k 300k",
        "-c",
        "write -P 2 5M 3000",
        "-c",
        "write -z 3M 1M",
        "-c",
        "write -P 0 4608k 64k",
        "-c",
        "write -P 3 9M 512",
        "-c",
        "write -P 4 0 512",
        &top,
    ])?;
    Some((base, top))
}

#[test]
fn an_overlay_of_qemu_holds_what_was_written_over_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let lease = store_in(dir.path()).lease().unwrap();
    for options in ["cluster_size=64k", "cluster_size=2M", "cluster_size=512", "compat=0.10"] {
        let Some((base, top)) = overlay(dir.path(), options) else { return };
        let flat = dir.path().join("flat");
        run(&["qemu-img", "convert", "-O", "raw", &top, flat.to_str().unwrap()]);
        let lower = lease.put_layer(&mut RawSource::open(Path::new(&base)).unwrap()).unwrap();
        let mut source = OverlaySource::open(Path::new(&top)).unwrap();
        let upper = lease.put_layer(&mut source).unwrap();
        if !options.contains("2M") {
            assert!(upper.content.data_bytes < 2 << 20, "{options}: {:?}", upper.content);
        }
        let layers = vec![lower.digest, upper.digest];
        let disk = DiskState { bytes: (9 << 20) + 512, layers: layers.clone() };
        let back = dir.path().join("back");
        lease.restore(&disk, &back).unwrap();
        assert!(fs::read(&back).unwrap() == fs::read(&flat).unwrap(), "{options}");
        fs::remove_file(&back).unwrap();
        let merged = lease.merge(&layers).unwrap().unwrap();
        lease.restore(&DiskState { layers: vec![merged.digest], ..disk }, &back).unwrap();
        assert!(fs::read(&back).unwrap() == fs::read(&flat).unwrap(), "{options}, merged");
        fs::remove_file(&back).unwrap();
    }
}

#[test]
fn compressed_clusters_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let mut numbers = Numbers(3);
    let mut content = vec![0; 3 << 20];
    for chunk in content.chunks_mut(1000) {
        chunk.fill(u8::try_from(numbers.below(200)).unwrap());
    }
    fs::write(&raw, &content).unwrap();
    for kind in ["zlib", "zstd"] {
        let packed = dir.path().join(kind);
        let options = format!("compression_type={kind}");
        let Some(()) = run(&[
            "qemu-img",
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            &options,
            raw.to_str().unwrap(),
            packed.to_str().unwrap(),
        ]) else {
            return;
        };
        let back = dir.path().join(format!("{kind}.back"));
        let mut target = RawTarget::create(&back, content.len() as u64).unwrap();
        let mut source = OverlaySource::open(&packed).unwrap();
        while let Some(extent) = store::ExtentSource::next_extent(&mut source).unwrap() {
            store::ExtentTarget::extent(&mut target, &extent).unwrap();
        }
        assert!(fs::read(&back).unwrap() == content, "{kind}");
    }
}

#[test]
fn files_that_are_no_overlays_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut header = vec![0u8; 512];
    header[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
    for (at, bytes) in [
        (20, vec![0, 0, 0, 60]),
        (20, vec![0; 4]),
        (32, vec![0, 0, 0, 1]),
        (72, vec![0, 0, 0, 0, 0, 0, 0, 4]),
        (0, vec![0]),
        (36, vec![255; 4]),
        (24, vec![255; 8]),
    ] {
        let mut bad = header.clone();
        bad[23] = 16;
        bad[at..at + bytes.len()].copy_from_slice(&bytes);
        fs::write(&path, &bad).unwrap();
        let error = OverlaySource::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Qcow2 { .. }), "{at}: {error}");
    }
    fs::write(&path, b"short").unwrap();
    assert!(OverlaySource::open(&path).is_err());
}

#[test]
fn a_disk_that_shrank_or_grew_merges() {
    struct Sized(u64, Listed);
    impl store::ExtentSource for Sized {
        fn disk_bytes(&self) -> u64 {
            self.0
        }
        fn next_extent(&mut self) -> std::io::Result<Option<Extent>> {
            self.1.next_extent()
        }
    }
    let data = |offset| Extent::Data { offset, bytes: vec![1; 100] };
    let lower = || Listed(vec![data(0), data(150), data(500), data(700)]);
    let mut small = Merged::new(Sized(1000, lower()), Sized(200, Listed(vec![])));
    let mut ends = Vec::new();
    while let Some(extent) = store::ExtentSource::next_extent(&mut small).unwrap() {
        ends.push((extent.offset(), extent.end()));
    }
    assert_eq!(ends, [(0, 100), (150, 200)]);
    let upper = Listed(vec![data(1200)]);
    let mut large = Merged::new(Sized(1000, lower()), Sized(2000, upper));
    let mut count = 0;
    while store::ExtentSource::next_extent(&mut large).unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 5);
}
