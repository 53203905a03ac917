//! Compares disk formats with qemu-img, the reference for all of them.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::common::{DISK_BYTES, NotAFile, names, text, tool, verified, with_disk};
use output::{
    BlockSource, Checksum, Existing, RawFile, Silent, Target, Written, commit, format, write_disks,
};

fn target(name: &str, dir: &Path) -> Target {
    let format = format(name).unwrap();
    Target::new(format, dir.join(format!("image.{}", format.suffix)))
}

fn write(source: &dyn BlockSource, targets: &[Target]) -> Vec<Written> {
    commit(write_disks(source, targets, &Silent).unwrap(), Existing::Replace).unwrap()
}

/// Compares an image with the source disk, and runs `qemu-img check` if the format supports it.
fn verify(driver: &str, disk: &Path, image: &Path, checkable: bool) -> bool {
    if checkable {
        let Some(report) = tool(&["qemu-img", "check", "-f", driver, text(image)]) else {
            return false;
        };
        assert!(report.contains("No errors were found"), "{report}");
    }
    tool(&["qemu-img", "compare", "-f", "raw", "-F", driver, text(disk), text(image)]).is_some()
}

#[test]
fn qcow2_with_every_option_done_in_process() {
    let (dir, disk) = with_disk();
    let source = RawFile::open(&disk).unwrap();
    for options in [
        "",
        "compat=0.10",
        "compat=1.1,lazy_refcounts=on",
        "compression_type=zstd",
        "cluster_size=512",
        "cluster_size=4k,compression_type=zstd",
        "cluster_size=2M",
        "cluster_size=1M,compat=v2",
    ] {
        for compress in [true, false] {
            let mut target = target("qcow2", dir.path());
            target.options = (!options.is_empty()).then(|| options.to_owned());
            target.compress = compress;
            let written = write(&source, std::slice::from_ref(&target));
            assert_eq!(written[0].bytes, fs::metadata(&target.path).unwrap().len());
            verify("qcow2", &disk, &target.path, true);
            if let Some(info) = tool(&["qemu-img", "info", text(&target.path)]) {
                assert!(info.contains(&format!("({DISK_BYTES} bytes)")), "{options}: {info}");
                let zstd = options.contains("zstd");
                assert_eq!(info.contains("compression type: zstd"), zstd, "{options}: {info}");
                let lazy = options.contains("lazy_refcounts=on");
                assert_eq!(info.contains("lazy refcounts: true"), lazy, "{options}: {info}");
            }
        }
    }
}

#[test]
fn qcow2_compression_saves_space_and_u_does_not() {
    let (dir, disk) = with_disk();
    let source = RawFile::open(&disk).unwrap();
    let mut target = target("qcow2", dir.path());
    let packed = write(&source, std::slice::from_ref(&target))[0].bytes;
    target.compress = false;
    let plain = write(&source, std::slice::from_ref(&target))[0].bytes;
    assert!(packed * 2 < plain, "{packed} and {plain} bytes");
}

#[test]
fn qcow2_of_empty_tiny_and_huge_disks() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    for size in [0, 512, 65_536, 1 << 40] {
        let file = fs::File::create(&disk).unwrap();
        file.set_len(size).unwrap();
        if size > 0 {
            std::os::unix::fs::FileExt::write_all_at(&file, b"end", size - 3).unwrap();
        }
        let target = target("qcow2", dir.path());
        write(&RawFile::open(&disk).unwrap(), std::slice::from_ref(&target));
        verify("qcow2", &disk, &target.path, true);
    }
}

#[test]
fn qcow2_options_beyond_the_writer_go_to_qemu_img() {
    let (dir, disk) = with_disk();
    let mut target = target("qcow2", dir.path());
    target.compress = false;
    target.options = Some("preallocation=metadata,refcount_bits=8".to_owned());
    target.checksums = vec![Checksum::Sha256];
    if output::check(std::slice::from_ref(&target), false).is_err() {
        eprintln!("not checked: qemu-img is not installed");
        return;
    }
    for source in [
        &RawFile::open(&disk).unwrap() as &dyn BlockSource,
        &NotAFile(RawFile::open(&disk).unwrap()),
    ] {
        let written = write(source, std::slice::from_ref(&target));
        assert_eq!(written[0].bytes, fs::metadata(&target.path).unwrap().len());
        verify("qcow2", &disk, &target.path, true);
        let info = tool(&["qemu-img", "info", text(&target.path)]).unwrap();
        assert!(info.contains("refcount bits: 8"), "{info}");
    }
    assert_eq!(names(dir.path()), ["disk", "image.qcow2", "image.qcow2.sha256"]);
    target.options = Some("no_such_option=1".to_owned());
    let error = write_disks(&RawFile::open(&disk).unwrap(), &[target], &Silent).unwrap_err();
    assert!(error.to_string().contains("no_such_option"), "{error}");
}

#[test]
fn raw_is_exact_and_sparse_by_every_way() {
    let (dir, disk) = with_disk();
    let file = RawFile::open(&disk).unwrap();
    let other = NotAFile(RawFile::open(&disk).unwrap());
    let content = fs::read(&disk).unwrap();
    for (source, checksums) in
        [(&file as &dyn BlockSource, vec![]), (&file, vec![Checksum::Sha256]), (&other, vec![])]
    {
        let mut target = target("raw", dir.path());
        target.checksums = checksums;
        write(source, std::slice::from_ref(&target));
        assert!(fs::read(&target.path).unwrap() == content);
        let meta = fs::metadata(&target.path).unwrap();
        assert!(meta.blocks() * 512 < meta.len() / 2, "{} blocks", meta.blocks());
    }
}

#[test]
fn raw_takes_the_build_disk_itself_when_allowed() {
    let (dir, disk) = with_disk();
    let inode = fs::metadata(&disk).unwrap().ino();
    let source = RawFile::open(&disk).unwrap();
    let mut raw = target("raw", dir.path());
    raw.adopt = true;
    let qcow2 = target("qcow2", dir.path());
    let pending = write_disks(&source, &[raw.clone(), qcow2], &Silent).unwrap();
    assert!(disk.exists());
    commit(pending, Existing::Replace).unwrap();
    assert_eq!(fs::metadata(&raw.path).unwrap().ino(), inode);
    assert_eq!(names(dir.path()), ["image.qcow2", "image.raw"]);
}

#[test]
fn several_at_once_with_checksums_that_verify() {
    let (dir, disk) = with_disk();
    let source = RawFile::open(&disk).unwrap();
    let targets: Vec<Target> = output::FORMATS
        .iter()
        .filter(|f| f.origin == output::Origin::Disk)
        .map(|f| {
            let mut target = target(f.name, dir.path());
            target.checksums = Checksum::ALL.to_vec();
            target
        })
        .collect();
    for written in write(&source, &targets) {
        for kind in Checksum::ALL {
            let file = kind.file_for(&written.path);
            verified(kind.suffix(), &file);
        }
    }
    assert_eq!(names(dir.path()).len(), 1 + 4 * targets.len());
}

/// Format, its name in qemu-img, whether qemu-img can check it, and the unit of sizes.
const OTHERS: [(&str, &str, bool, u64); 6] = [
    ("vhd", "vpc", false, 512),
    ("vhd-fixed", "vpc", false, 1 << 20),
    ("vhdx", "vhdx", true, 512),
    ("vmdk", "vmdk", true, 512),
    ("vmdk-stream", "vmdk", true, 512),
    ("vdi", "vdi", true, 512),
];

#[test]
fn other_formats_hold_the_same_disk() {
    let (dir, disk) = with_disk();
    let source = RawFile::open(&disk).unwrap();
    let targets = OTHERS.map(|(name, ..)| target(name, dir.path()));
    let written = write(&source, &targets);
    for ((name, driver, checkable, unit), written) in OTHERS.into_iter().zip(written) {
        assert_eq!(written.format, name);
        verify(driver, &disk, &written.path, checkable);
        let Some(info) = tool(&["qemu-img", "info", "-f", driver, text(&written.path)]) else {
            continue;
        };
        let size = DISK_BYTES.next_multiple_of(unit);
        assert!(info.contains(&format!("({size} bytes)")), "{name}: {info}");
        let kind = match name {
            "vmdk" => "create type: monolithicSparse",
            "vmdk-stream" => "create type: streamOptimized",
            _ => "",
        };
        assert!(info.contains(kind), "{info}");
        let used = fs::metadata(&written.path).unwrap().blocks() * 512;
        assert!(used < DISK_BYTES * 3 / 4, "{name} takes {used} bytes on disk");
    }
}

#[test]
fn other_formats_of_empty_tiny_and_large_disks() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    for size in [512, 65_536, (33 << 20) + 512, 3 << 30] {
        for marks in [vec![], vec![0], vec![size - 1, size / 2]] {
            let file = fs::File::create(&disk).unwrap();
            file.set_len(size).unwrap();
            for at in marks {
                std::os::unix::fs::FileExt::write_all_at(&file, b"x", at).unwrap();
            }
            let targets = OTHERS.map(|(name, ..)| target(name, dir.path()));
            write(&RawFile::open(&disk).unwrap(), &targets);
            for ((_, driver, checkable, _), target) in OTHERS.into_iter().zip(&targets) {
                verify(driver, &disk, &target.path, checkable);
            }
        }
    }
}

#[test]
fn disks_beyond_a_format_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(3 << 40).unwrap();
    for name in ["vhd", "vhd-fixed", "vmdk", "vmdk-stream"] {
        let source = RawFile::open(&disk).unwrap();
        let error = write_disks(&source, &[target(name, dir.path())], &Silent).unwrap_err();
        assert!(matches!(error, output::OutputError::TooLarge { .. }), "{name}: {error}");
    }
}

#[test]
fn a_fixed_identity_gives_the_same_bytes() {
    let (dir, disk) = with_disk();
    let source = RawFile::open(&disk).unwrap();
    for format in output::FORMATS.iter().filter(|f| f.origin == output::Origin::Disk) {
        let mut target = target(format.name, dir.path());
        target.identity = output::Identity::fixed(b"build", 1_600_000_000);
        let make = || {
            write(&source, std::slice::from_ref(&target));
            fs::read(&target.path).unwrap()
        };
        assert!(make() == make(), "{}", format.name);
    }
}
