//! Reads seeds back: FAT with the `fatfs` crate, ISO9660 with a small parser of its records.

use std::io::{Cursor, Read};

use super::*;

fn file(path: &str, mode: u32, bytes: &[u8]) -> SeedFile {
    SeedFile { path: path.into(), mode, bytes: bytes.to_vec() }
}

fn files() -> Vec<SeedFile> {
    vec![
        file("user-data", 0o644, b"#cloud-config\n"),
        file("meta-data", 0o600, b""),
        file("etc/deep/er/f", 0o755, &[7; 5000]),
        file(&format!("long/{}", "n".repeat(251)), 0o644, b"long"),
        file("user-data.other", 0o644, b"2"),
    ]
}

/// The path, mode and content of every file in an image.
fn read_iso(image: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    assert_eq!(&image[16 * 2048 + 1..16 * 2048 + 6], b"CD001");
    assert!(image[16 * 2048 + 40..].starts_with(b"cidata  "));
    let u32_at = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(u32_at(16 * 2048 + 80) * 2048, image.len());
    let mut found = Vec::new();
    let root = 16 * 2048 + 156;
    let mut queue = vec![(String::new(), u32_at(root + 2), u32_at(root + 10))];
    while let Some((path, sector, bytes)) = queue.pop() {
        let (mut at, end) = (sector * 2048, sector * 2048 + bytes);
        let mut last = Vec::new();
        while at < end {
            let length = image[at] as usize;
            if length == 0 {
                at = at.next_multiple_of(2048);
                continue;
            }
            assert!(at % 2048 + length <= 2048, "a record crosses a sector");
            let name_length = image[at + 32] as usize;
            let name = image[at + 33..at + 33 + name_length].to_vec();
            assert!(last < name || name.len() == 1, "records are in order");
            let fields_at = at + 33 + name_length + usize::from(name_length.is_multiple_of(2));
            let (mode, long) = fields(image, fields_at, at + length);
            let (sector, bytes) = (u32_at(at + 2), u32_at(at + 10));
            if !matches!(name.as_slice(), [0 | 1]) {
                let path = format!("{path}{long}");
                if image[at + 25] & 2 > 0 {
                    queue.push((format!("{path}/"), sector, bytes));
                } else {
                    found.push((path, mode, image[sector * 2048..sector * 2048 + bytes].to_vec()));
                }
            }
            last = name;
            at += length;
        }
    }
    found.sort();
    found
}

/// Mode and name from the Rock Ridge fields.
fn fields(image: &[u8], mut at: usize, mut end: usize) -> (u32, String) {
    let u32_at = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    let (mut mode, mut name, mut more) = (0, String::new(), None);
    loop {
        while at + 4 <= end {
            let length = image[at + 2] as usize;
            match &image[at..at + 2] {
                b"PX" => mode = u32_at(at + 4) & 0o7777,
                b"NM" => name += std::str::from_utf8(&image[at + 5..at + length]).unwrap(),
                b"CE" => more = Some((u32_at(at + 4), u32_at(at + 12), u32_at(at + 20))),
                _ => {}
            }
            at += length;
        }
        let Some((sector, offset, length)) = more.take() else { return (mode, name) };
        at = sector as usize * 2048 + offset as usize;
        end = at + length as usize;
    }
}

#[test]
fn an_iso_holds_names_modes_and_bytes() {
    let image = iso(&files()).unwrap();
    let mut expected: Vec<_> =
        files().into_iter().map(|file| (file.path, file.mode, file.bytes)).collect();
    expected.sort();
    assert_eq!(read_iso(&image), expected);
    assert_eq!(image, iso(&files()).unwrap(), "the same files are the same bytes");
    assert_eq!(read_iso(&iso(&[]).unwrap()), []);
    let many: Vec<SeedFile> =
        (0..500).map(|n| file(&format!("file-number-{n}"), 0o644, b"x")).collect();
    assert_eq!(read_iso(&iso(&many).unwrap()).len(), 500);
}

#[test]
fn a_fat_image_holds_names_and_bytes() {
    let image = vfat(&files()).unwrap();
    assert_eq!(image.len(), 2 << 20);
    let filesystem =
        fatfs::FileSystem::new(Cursor::new(image.clone()), fatfs::FsOptions::new()).unwrap();
    assert_eq!(filesystem.volume_label(), "cidata");
    for wanted in files() {
        let mut bytes = Vec::new();
        filesystem.root_dir().open_file(&wanted.path).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, wanted.bytes, "{}", wanted.path);
    }
    assert_eq!(image, vfat(&files()).unwrap(), "the same files are the same bytes");
    let large = vfat(&[file("f", 0o644, &vec![1; 9 << 20])]).unwrap();
    assert!(large.len() > 9 << 20);
}

#[test]
fn a_name_is_not_both() {
    let both = [file("a/b", 0o644, b""), file("a", 0o644, b"")];
    assert!(matches!(iso(&both), Err(SeedError::Both(path)) if path == "a"));
    let other = [file("a", 0o644, b""), file("a/b", 0o644, b"")];
    assert!(matches!(vfat(&other), Err(SeedError::Both(path)) if path == "a/b"));
}
