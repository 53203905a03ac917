//! A disk with all relevant content, and the reference tools.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use output::BlockSource;

/// Size of the test disk: not a multiple of any cluster size, but of a sector.
pub(crate) const DISK_BYTES: u64 = (23 << 20) + 5 * 512;

/// Incompressible bytes that are the same on every run.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// Creates a sparse disk with text, noise, single bytes, written zeros, and data at its very end.
pub(crate) fn make_disk(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    file.write_all_at(&noise(1, 1000), 0).unwrap();
    file.write_all_at(&b"the same words again ".repeat(20_000), 1 << 20).unwrap();
    file.write_all_at(&noise(2, 700_000), (3 << 20) + 12_345).unwrap();
    file.write_all_at(&[0; 300_000], 6 << 20).unwrap();
    file.write_all_at(b"!", (8 << 20) - 1).unwrap();
    file.write_all_at(b"!", 8 << 20).unwrap();
    for part in 0..40 {
        let words = format!("part {part} ").repeat(500);
        file.write_all_at(words.as_bytes(), (10 << 20) + part * 150_000).unwrap();
        file.write_all_at(&noise(part, 3000), (10 << 20) + part * 150_000 + 70_000).unwrap();
    }
    file.write_all_at(b"the end", DISK_BYTES - 7).unwrap();
}

/// The same disk as a source that is not a raw file.
pub(crate) struct NotAFile(pub(crate) output::RawFile);

impl BlockSource for NotAFile {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(offset)
    }
}

/// Runs a reference tool; if it is missing, prints the reason. A failure of the tool fails the
/// test.
pub(crate) fn tool(argv: &[&str]) -> Option<String> {
    let output = match Command::new(argv[0]).args(&argv[1..]).output() {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            eprintln!("not checked with {}: it is not installed", argv[0]);
            return None;
        }
        Err(e) => panic!("{argv:?}: {e}"),
    };
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{argv:?}: {}\n{text}", output.status);
    Some(text)
}

/// Verifies a checksum file with the tool, in its directory.
pub(crate) fn verified(kind: &str, file: &Path) {
    let (dir, name) = (file.parent().unwrap(), file.file_name().unwrap());
    let script = "cd \"$1\" && \"$2sum\" -c --quiet \"$3\"";
    let name = name.to_str().unwrap();
    tool(&["sh", "-c", script, "sh", text(dir), kind, name]);
}

/// Names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory with the disk in it.
pub(crate) fn with_disk() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    make_disk(&disk);
    (dir, disk)
}
