//! Images in every format that can be a base, made by the writers of this
//! repository (and by qemu-img where it is installed), read back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that skips says why")]

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use base_image::{Backing, Expected, Format, open, write_overlay};
use output::{Existing, RawFile, Silent, Target, commit, format, write_disks};

const DISK_BYTES: u64 = 600 << 20;

/// Pieces at places that matter: the beginning, within a grain, across a table of
/// 512 MiB, the end.
fn pieces() -> Vec<(u64, Vec<u8>)> {
    let noise = |seed: u32, count: usize| -> Vec<u8> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(count)
        .collect()
    };
    vec![
        (0, b"boot sector".to_vec()),
        ((1 << 20) + 777, noise(1, 200_000)),
        ((512 << 20) - 70_000, noise(2, 140_000)),
        (DISK_BYTES - 512, noise(3, 512)),
    ]
}

fn raw(path: &Path) -> PathBuf {
    let file = File::create(path).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    for (at, bytes) in pieces() {
        file.write_all_at(&bytes, at).unwrap();
    }
    path.to_owned()
}

fn same(one: &Path, two: &Path) {
    let (one, two) = (File::open(one).unwrap(), File::open(two).unwrap());
    assert_eq!(one.metadata().unwrap().len(), two.metadata().unwrap().len());
    for (at, bytes) in pieces() {
        let from = at.saturating_sub(4096);
        let read = |file: &File| {
            let mut found = vec![
                0;
                usize::try_from((DISK_BYTES - from).min(bytes.len() as u64 + 8192))
                    .unwrap()
            ];
            file.read_exact_at(&mut found, from).unwrap();
            found
        };
        assert!(read(&one) == read(&two), "around {at}");
    }
}

fn written(disk: &Path, name: &str, to: PathBuf) -> PathBuf {
    let target = Target { compress: true, ..Target::new(format(name).unwrap(), &to) };
    let source = RawFile::open(disk).unwrap();
    commit(write_disks(&source, &[target], &Silent).unwrap(), Existing::Replace).unwrap();
    to
}

/// qemu-img, where there is one.
fn qemu_img(arguments: &[&str]) -> Option<String> {
    let Ok(output) = Command::new("qemu-img").args(arguments).output() else {
        eprintln!("skipped: qemu-img is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_format_gives_the_same_disk() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let disk = raw(&at("disk.img"));
    let cache = at("cache");
    let files = [
        (disk.clone(), Some(Format::Raw)),
        (written(&disk, "qcow2", at("a.qcow2")), Some(Format::Qcow2)),
        (written(&disk, "vmdk", at("a.vmdk")), Some(Format::Vmdk)),
        (written(&disk, "vmdk-stream", at("b.vmdk")), Some(Format::Vmdk)),
    ];
    let mut digests = Vec::new();
    for (file, format) in files {
        let found = open(&file, None, &cache).unwrap();
        assert_eq!((found.bytes, found.format), (DISK_BYTES, format), "{}", file.display());
        same(&found.raw, &disk);
        assert_eq!(open(&file, None, &cache).unwrap(), found, "it is made once");
        digests.push(found.digest);
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 4, "the digest is of the file");
}

#[test]
fn packed_images_and_digests() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let disk = raw(&at("disk.img"));
    let image = written(&disk, "qcow2", at("a.qcow2"));
    let packed = at("a.qcow2.zst");
    let content = fs::read(&image).unwrap();
    fs::write(&packed, zstd::encode_all(content.as_slice(), 1).unwrap()).unwrap();
    let found = open(&packed, None, &at("cache")).unwrap();
    assert_eq!(found.format, None);
    same(&found.raw, &disk);
    let wrong = Expected::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let error = open(&packed, Some(&wrong), &at("cache")).unwrap_err().to_string();
    assert!(error.contains("not 0000"), "{error}");
}

#[test]
fn vmdk_in_flat_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let disk = raw(&at("disk-flat.vmdk"));
    let half = DISK_BYTES / 2 / 512;
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW {half} FLAT \"disk-flat.vmdk\" 0\nRW {half} FLAT \"disk-flat.vmdk\" {half}\n"
    );
    fs::write(at("disk.vmdk"), &text).unwrap();
    same(&open(&at("disk.vmdk"), None, &at("cache")).unwrap().raw, &disk);
    fs::write(at("snapshot.vmdk"), text.replace("parentCID=ffffffff", "parentCID=12345678"))
        .unwrap();
    let error = open(&at("snapshot.vmdk"), None, &at("cache")).unwrap_err().to_string();
    assert!(error.contains("snapshot"), "{error}");
    fs::write(at("leak.vmdk"), text.replace("disk-flat.vmdk", "../disk-flat.vmdk")).unwrap();
    assert!(open(&at("leak.vmdk"), None, &at("cache")).is_err());
}

#[test]
fn what_is_no_image_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[u8], &str); 4] = [
        (b"hello", "too few"),
        (b"conectix and more", "vhd"),
        (b"PK\x03\x04", "zip"),
        (b"QFI\xfb\0\0\0\x03 cut off", "header"),
    ];
    for (content, word) in cases {
        let file = folder.path().join("x.qcow2");
        fs::write(&file, content).unwrap();
        let error = open(&file, None, &folder.path().join("cache")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn an_overlay_holds_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = raw(&at("base.img"));
    let disk = raw(&at("disk.img"));
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(b"changed", 100 << 20).unwrap();
    file.write_all_at(&[0; 4096], (1 << 20) + 4096).unwrap();
    file.write_all_at(&vec![0; 131_072], (512 << 20) - 131_072).unwrap();
    // Larger than its base.
    file.set_len(DISK_BYTES + (600 << 20)).unwrap();
    file.write_all_at(b"behind", DISK_BYTES + (599 << 20)).unwrap();
    let overlay = at("overlay.qcow2");
    let backing = Backing { path: "base.img".into(), format: Format::Raw };
    let made = write_overlay(&disk, &base, &backing, &overlay).unwrap();
    assert_eq!(made.clusters, 5);
    assert!(made.bytes < 1 << 20, "{made:?}");
    // Read back in process, over its base.
    let found = open(&overlay, None, &at("cache")).unwrap();
    assert_eq!(found.bytes, DISK_BYTES + (600 << 20));
    let (one, two) = (File::open(&found.raw).unwrap(), File::open(&disk).unwrap());
    for place in [0, 1 << 20, 100 << 20, (512 << 20) - 131_072, 512 << 20, DISK_BYTES + (599 << 20)]
    {
        let read = |file: &File| {
            let mut bytes = vec![0; 131_072];
            file.read_exact_at(&mut bytes, place).unwrap();
            bytes
        };
        assert!(read(&one) == read(&two), "{place}");
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    if let Some(report) = qemu_img(&["check", &text(&overlay)]) {
        assert!(report.contains("No errors were found"), "{report}");
        qemu_img(&["compare", "-F", "raw", &text(&overlay), &text(&disk)]);
    }
    // A name that does not say qcow2 must not lead to other files.
    fs::rename(&overlay, at("guest.img")).unwrap();
    let error = open(&at("guest.img"), None, &at("cache")).unwrap_err().to_string();
    assert!(error.contains("does not end in .qcow2"), "{error}");
}
