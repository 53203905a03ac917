//! Creates the raw files of disks: empty ones, and copies of a base with its holes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, copy},
    path::{Path, PathBuf},
};

use plan::DiskBase;

/// Creates the file of a disk with a size of `bytes`: a copy of its base followed by zeros, or
/// zeros only. An existing file is a disk in use, and keeps its content.
pub(crate) fn make_disk(path: &Path, bytes: u64, base: Option<&DiskBase>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if let Some(base) = base
        && !path.exists()
    {
        return copy_base(base, path, bytes);
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.set_len(bytes)
}

/// Copies a base to a disk. The copy has another name until it is complete, because an existing
/// disk file counts as complete.
fn copy_base(base: &DiskBase, path: &Path, bytes: u64) -> io::Result<()> {
    let name = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let partial = name(".part");
    let mut from = File::open(&base.path)?;
    let there = from.metadata()?.len();
    let base_end = base.offset.checked_add(base.bytes).ok_or(io::ErrorKind::InvalidInput)?;
    // If the base is a partition of a disk, the file may be longer than its end.
    if there < base_end || (base.offset == 0 && there != base_end) {
        return Err(io::Error::other(format!(
            "its base {} has changed: it has not {base_end} bytes",
            base.path.display(),
        )));
    }
    let mut to = File::create(&partial)?;
    to.set_len(bytes)?;
    let mut at = base.offset;
    while let Some(data) = sparse::next_data(&from, at)?.filter(|data| data.start < base_end) {
        let (start, end) = (data.start, data.end.min(base_end));
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start - base.offset))?;
        // This uses copy_file_range(2), which shares blocks if the filesystem supports it.
        let copied = copy(&mut io::Read::take(&mut from, end - start), &mut to)?;
        if copied != end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_base_is_copied_with_its_holes_once() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("base.raw");
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"here", 1 << 20).unwrap();
        file.write_all_at(b"there", (64 << 20) - 5).unwrap();
        let sha256 = plan::Digest::of(b"");
        let base = DiskBase { path: from, offset: 0, bytes: 64 << 20, sha256 };
        let disk = folder.path().join("disks/disk.raw");
        make_disk(&disk, 100 << 20, Some(&base)).unwrap();
        let made = OpenOptions::new().read(true).write(true).open(&disk).unwrap();
        let read = |at: u64, count: usize| {
            let mut bytes = vec![0; count];
            made.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!(read(1 << 20, 5), b"here\0");
        assert_eq!(read((64 << 20) - 5, 6), b"there\0");
        assert_eq!(made.metadata().unwrap().len(), 100 << 20);
        assert!(made.metadata().unwrap().blocks() * 512 < 1 << 20, "holes stay holes");
        // A disk in use is not replaced.
        made.write_all_at(b"more", 1 << 20).unwrap();
        make_disk(&disk, 100 << 20, Some(&base)).unwrap();
        assert_eq!(read(1 << 20, 4), b"more");
    }

    #[test]
    fn a_part_of_a_file_is_copied_alone() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("base.raw");
        let file = File::create(&from).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[b'x'; 3 << 20], 1 << 20).unwrap();
        let sha256 = plan::Digest::of(b"");
        let base = DiskBase { path: from, offset: 2 << 20, bytes: 1 << 20, sha256 };
        let disk = folder.path().join("disk.raw");
        make_disk(&disk, 3 << 20, Some(&base)).unwrap();
        let made = fs::read(&disk).unwrap();
        assert_eq!(made.len(), 3 << 20);
        assert!(made[..1 << 20].iter().all(|byte| *byte == b'x'));
        assert!(made[1 << 20..].iter().all(|byte| *byte == 0), "nothing from behind the part");
        let beyond = DiskBase { bytes: 7 << 20, ..base };
        let error = make_disk(&folder.path().join("b.raw"), 7 << 20, Some(&beyond)).unwrap_err();
        assert!(error.to_string().contains("it has not 9437184 bytes"), "{error}");
    }

    #[test]
    fn a_base_of_another_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("base.raw");
        fs::write(&from, b"short").unwrap();
        let sha256 = plan::Digest::of(b"");
        let base = DiskBase { path: from, offset: 0, bytes: 512, sha256 };
        let disk = folder.path().join("disk.raw");
        let error = make_disk(&disk, 512, Some(&base)).unwrap_err();
        assert!(error.to_string().contains("base.raw has changed"), "{error}");
        assert!(!disk.exists());
    }
}
