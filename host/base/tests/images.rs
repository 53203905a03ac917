//! Reads images in every supported base format, written by this repository (and by qemu-img if
//! installed).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that skips says why")]

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use base_image::{
    AllowedBacking, Backing, BackingFormat, BaseError, BaseImage, Expected, Format, note_backing,
    write_overlay,
};
use output::{Existing, RawFile, Silent, Target, commit, format, write_disks};

const DISK_BYTES: u64 = 600 << 20;

/// Data at critical offsets: the beginning, within a grain, across a table border at 512 MiB, the
/// end.
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

/// Opens an image whose backing files must be recorded by vbuild.
fn open(file: &Path, expected: Option<&Expected>, folder: &Path) -> Result<BaseImage, BaseError> {
    base_image::open(file, expected, &AllowedBacking::default(), folder)
}

/// Runs qemu-img, if installed.
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
        (written(&disk, "vdi", at("a.vdi")), Some(Format::Blocks)),
        (written(&disk, "vhd", at("a.vhd")), Some(Format::Blocks)),
        (written(&disk, "vhd-fixed", at("b.vhd")), Some(Format::Blocks)),
        (written(&disk, "vhdx", at("a.vhdx")), Some(Format::Blocks)),
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
    assert_eq!(digests.len(), 8, "the digest is of the file");
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
        (b"conectix and more", "cut off"),
        (b"PK\x03\x04", "zip"),
        (b"QFI\xfb\0\0\0\x03 cut off", "cannot be a base image"),
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
    // The overlay is larger than its base.
    file.set_len(DISK_BYTES + (600 << 20)).unwrap();
    file.write_all_at(b"behind", DISK_BYTES + (599 << 20)).unwrap();
    let overlay = at("overlay.qcow2");
    let backing = Backing { path: "base.img".into(), format: BackingFormat::Raw };
    let made = write_overlay(&disk, &base, &backing, &overlay).unwrap();
    assert_eq!(made.clusters, 5);
    assert!(made.bytes < 1 << 20, "{made:?}");
    // It can be read over its base in process, once vbuild has recorded the backing file.
    let error = open(&overlay, None, &at("cache")).unwrap_err();
    assert!(matches!(error, BaseError::Backing { .. }), "{error}");
    note_backing(&at("cache"), &overlay, &backing).unwrap();
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
}

/// Creates a small overlay that vbuild has not recorded.
fn foreign(base: &Path, name: &Path, overlay: &Path) {
    let file = File::create_new(overlay).unwrap();
    let backing = qcow2::Backing::new(name, BackingFormat::Raw);
    let bytes = fs::metadata(base).unwrap().len();
    qcow2::create_layer(&file, bytes, Some(backing)).unwrap();
}

fn allow(files: &[&Path]) -> AllowedBacking {
    AllowedBacking { beside: false, files: files.iter().map(|file| file.to_path_buf()).collect() }
}

const BESIDE: AllowedBacking = AllowedBacking { beside: true, files: Vec::new() };

#[test]
fn no_file_is_read_because_an_image_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("home/downloads")).unwrap();
    let secret = at("home/id_ed25519");
    fs::write(&secret, "-----BEGIN OPENSSH PRIVATE KEY-----\nvery secret\n".repeat(2000)).unwrap();
    let cache = at("cache");
    let refused = |image: &Path, allowed: &AllowedBacking, word: &str| {
        let error = base_image::open(image, None, allowed, &cache).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error} {}", cause.unwrap_or_default());
        assert!(text.contains(word), "{text}");
        assert!(!at("cache/disks").exists(), "nothing was unpacked");
        error
    };
    let image = at("home/downloads/debian-13-genericcloud-amd64.qcow2");
    // The attacker knows the digest, and names any file: absolute, in a parent, beside the image, a
    // device.
    let device = Path::new("/dev/zero");
    for name in [secret.as_path(), Path::new("../id_ed25519"), Path::new("key"), device] {
        foreign(&secret, name, &image);
        let error = refused(&image, &AllowedBacking::default(), "backing file");
        assert!(error.hint().unwrap().contains("--allow-backing"));
        fs::remove_file(&image).unwrap();
    }
    // Only files in the same folder are allowed, and no links.
    for name in [secret.as_path(), Path::new("../id_ed25519"), Path::new("./../id_ed25519")] {
        foreign(&secret, name, &image);
        refused(&image, &BESIDE, "backing file");
        fs::remove_file(&image).unwrap();
    }
    foreign(&secret, Path::new("key"), &image);
    std::os::unix::fs::symlink(&secret, at("home/downloads/key")).unwrap();
    refused(&image, &BESIDE, "a link");
    fs::remove_file(at("home/downloads/key")).unwrap();
    // A pipe does not block.
    nix::unistd::mkfifo(&at("home/downloads/key"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&image, &BESIDE, "not a regular file");
    refused(&at("home/downloads/key"), &BESIDE, "not a regular file");
    refused(device, &BESIDE, "not a regular file");
    // An external data file is always refused.
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&[4], 79).unwrap();
    refused(&image, &BESIDE, "external data");
}

#[test]
fn what_the_user_allows_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("other")).unwrap();
    let base = at("base.img");
    fs::write(&base, vec![b'b'; 1 << 20]).unwrap();
    fs::copy(&base, at("other/base.img")).unwrap();
    let opened = |image: &Path, allowed: &AllowedBacking| {
        let found = base_image::open(image, None, allowed, &at("cache")).unwrap();
        assert!(fs::read(found.raw).unwrap() == vec![b'b'; 1 << 20]);
    };
    foreign(&base, Path::new("base.img"), &at("beside.qcow2"));
    opened(&at("beside.qcow2"), &BESIDE);
    foreign(&base, Path::new("other/base.img"), &at("below.qcow2"));
    opened(&at("below.qcow2"), &allow(&[&at("other/base.img")]));
    foreign(&base, &at("other/base.img"), &at("absolute.qcow2"));
    opened(&at("absolute.qcow2"), &allow(&[&at("base.img"), &at("other/base.img")]));
    let layers =
        base_image::layers(&at("absolute.qcow2"), &allow(&[&at("other/base.img")]), &at("cache"));
    let formats: Vec<BackingFormat> =
        layers.unwrap().into_iter().map(|(_, format)| format).collect();
    assert_eq!(formats, [BackingFormat::Qcow2, BackingFormat::Raw]);
    // The file name must have the suffix of qcow2: a guest can write such a header into its raw
    // disk.
    fs::rename(at("beside.qcow2"), at("guest.img")).unwrap();
    let error = base_image::open(&at("guest.img"), None, &BESIDE, &at("cache")).unwrap_err();
    assert!(error.to_string().contains("does not end in .qcow2"), "{error}");
    // A cyclic chain is an error.
    let name = at("loop.qcow2");
    let file = File::create_new(&name).unwrap();
    let itself = qcow2::Backing::new(Path::new("loop.qcow2"), BackingFormat::Qcow2);
    qcow2::create_layer(&file, 1 << 20, Some(itself)).unwrap();
    let error = base_image::open(&name, None, &BESIDE, &at("cache")).unwrap_err();
    assert!(error.to_string().contains("more than 32 files"), "{error}");
}

#[test]
fn a_note_about_an_overlay_counts_while_its_header_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = at("base.img");
    fs::write(&base, vec![b'b'; 1 << 20]).unwrap();
    foreign(&base, Path::new("base.img"), &at("made.qcow2"));
    let backing = Backing { path: "base.img".into(), format: BackingFormat::Raw };
    note_backing(&at("cache"), &at("made.qcow2"), &backing).unwrap();
    open(&at("made.qcow2"), None, &at("cache")).unwrap();
    // Another image replaced the overlay.
    fs::write(at("secret"), vec![b's'; 1 << 20]).unwrap();
    fs::remove_file(at("made.qcow2")).unwrap();
    foreign(&base, Path::new("secret"), &at("made.qcow2"));
    let error = open(&at("made.qcow2"), None, &at("cache")).unwrap_err();
    assert!(matches!(error, BaseError::Backing { .. }), "{error}");
    // The note is removed with its overlay.
    fs::remove_file(at("made.qcow2")).unwrap();
    base_image::gc(&at("cache"), std::time::Duration::ZERO).unwrap();
    assert_eq!(fs::read_dir(at("cache/backing")).unwrap().count(), 0);
}

#[test]
fn a_vmdk_descriptor_names_only_its_own_parts() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("id_rsa"), vec![b'S'; 200_000]).unwrap();
    fs::write(at("id-card.pdf"), vec![b'S'; 200_000]).unwrap();
    let refused = |descriptor: &str, name: &str, word: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\nRW 390 FLAT \"{name}\" 0\n"
        );
        fs::write(at(descriptor), text).unwrap();
        let error = open(&at(descriptor), None, &at("cache")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused("disk.vmdk", "id_rsa", "`disk-….vmdk`");
    refused("id.vmdk", "id_rsa", "parts of its disk");
    refused("id.vmdk", "id-card.pdf", "parts of its disk");
    refused("disk.vmdk", "disk-/../id_rsa.vmdk", "parts of its disk");
    std::os::unix::fs::symlink(at("id_rsa"), at("disk-flat.vmdk")).unwrap();
    refused("disk.vmdk", "disk-flat.vmdk", "a link");
    fs::remove_file(at("disk-flat.vmdk")).unwrap();
    nix::unistd::mkfifo(&at("disk-flat.vmdk"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("disk.vmdk", "disk-flat.vmdk", "not a regular file");
}

#[test]
fn a_vmdk_descriptor_is_read_as_a_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let head = "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\n";
    let write = |name: &str, comment: usize| {
        let text = format!("{head}{}\nRW 2048 ZERO\n", "#".repeat(comment));
        fs::write(at(name), text).unwrap();
        open(&at(name), None, &at("cache"))
    };
    assert_eq!(write("long.vmdk", 100_000).unwrap().bytes, 1 << 20);
    let error = write("longer.vmdk", 2 << 20).unwrap_err().to_string();
    assert!(error.contains("longer than 1 MiB"), "{error}");
}

#[test]
fn what_the_cache_cannot_give_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let disk = raw(&at("disk.img"));
    let first = open(&disk, None, &at("cache")).unwrap();
    fs::remove_file(&first.raw).unwrap();
    fs::create_dir_all(first.raw.join("below")).unwrap();
    assert_eq!(open(&disk, None, &at("cache")).unwrap(), first);
    same(&first.raw, &disk);
}

#[test]
fn decompressors_have_a_limit_of_memory() {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let disk = vec![b'd'; 1 << 20];
    let pack = |dictionary: u32| {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(dictionary);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
        let mut packed = Vec::new();
        let mut encoder = liblzma::read::XzEncoder::new_stream(disk.as_slice(), stream);
        std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
        packed
    };
    fs::write(at("small.xz"), pack(64 << 20)).unwrap();
    open(&at("small.xz"), None, &at("cache")).unwrap();
    // The header declares the memory that the decoder needs.
    let mut large = pack(64 << 20);
    let filter = [0x21, 0x01, 28]; // LZMA2, one byte of properties: 64 MiB
    let place = large.windows(3).position(|part| part == filter).unwrap();
    large[place + 2] = 38; // 2 GiB
    let header = usize::from(large[12]) * 4 + 4;
    let sum = crc32(&large[12..12 + header - 4]);
    large[12 + header - 4..12 + header].copy_from_slice(&sum.to_le_bytes());
    fs::write(at("large.xz"), large).unwrap();
    let error = open(&at("large.xz"), None, &at("cache")).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("memory"), "{cause}");
}

/// The CRC of xz headers.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}
