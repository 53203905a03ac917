//! Checksum files: computed while a sequential output is written, or by reading the output again
//! (from the page cache).
//!
//! Each algorithm has its own thread: MD5 and the SHA-2 family are not parallel, and their times
//! would otherwise add up.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

use crate::{OutputError, Progress, Result};

/// A checksum algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// MD5, in `FILE.md5`.
    Md5,
    /// SHA-256, in `FILE.sha256`.
    Sha256,
    /// SHA-512, in `FILE.sha512`.
    Sha512,
}

impl Checksum {
    /// All algorithms, in the order of their files.
    pub const ALL: [Self; 3] = [Self::Md5, Self::Sha256, Self::Sha512];

    /// The suffix of the checksum file: the name of the algorithm.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The checksum file beside `path`.
    #[must_use]
    pub fn file_for(self, path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(self.suffix());
        name.into()
    }
}

/// The line that `md5sum FILE` and similar tools print for a file in the current directory, so that
/// they can check it from there. File names with a backslash or a line break are escaped, and the
/// line is prefixed with a backslash.
pub(crate) fn line(hex: &str, path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut line = Vec::with_capacity(hex.len() + name.len() + 4);
    if name.iter().any(|b| matches!(b, b'\\' | b'\n' | b'\r')) {
        line.push(b'\\');
    }
    line.extend_from_slice(hex.as_bytes());
    line.extend_from_slice(b"  ");
    for byte in name {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    line
}

/// Bytes collected before they are passed to the hash threads, so that small appends do not cause
/// many messages.
const BATCH_BYTES: usize = 1 << 20;

/// Batches that may wait for a hash thread; limits memory to 4 MiB each.
const BATCHES_IN_FLIGHT: usize = 4;

#[derive(Clone)]
enum Batch {
    Bytes(Arc<Vec<u8>>),
    Zeros(u64),
}

/// Hashes a stream with several algorithms in parallel.
pub(crate) struct Digester {
    lanes: Vec<(Checksum, SyncSender<Batch>, JoinHandle<String>)>,
    batch: Vec<u8>,
}

impl Digester {
    /// Starts one thread per algorithm.
    pub(crate) fn new(kinds: &[Checksum]) -> Self {
        let lanes = kinds.iter().map(|kind| {
            let (sender, receiver) = sync_channel(BATCHES_IN_FLIGHT);
            let thread = match kind {
                Checksum::Md5 => std::thread::spawn(move || hash::<Md5>(receiver.iter())),
                Checksum::Sha256 => std::thread::spawn(move || hash::<Sha256>(receiver.iter())),
                Checksum::Sha512 => std::thread::spawn(move || hash::<Sha512>(receiver.iter())),
            };
            (*kind, sender, thread)
        });
        Self { lanes: lanes.collect(), batch: Vec::new() }
    }

    /// Hashes data.
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.batch.extend_from_slice(data);
        if self.batch.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Hashes a run of zeros, without a buffer of that size.
    pub(crate) fn zeros(&mut self, count: u64) {
        self.flush();
        self.send(&Batch::Zeros(count));
    }

    /// The digests, in the order of the algorithms given to [`Self::new`].
    pub(crate) fn finish(mut self) -> Result<Vec<(Checksum, String)>> {
        self.flush();
        let join = |(kind, sender, thread): (_, _, JoinHandle<String>)| {
            drop(sender);
            thread.join().map(|hex| (kind, hex)).map_err(|_| OutputError::WorkerLost)
        };
        self.lanes.drain(..).map(join).collect()
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            let batch = Batch::Bytes(Arc::new(std::mem::take(&mut self.batch)));
            self.send(&batch);
        }
    }

    fn send(&self, batch: &Batch) {
        for (_, sender, _) in &self.lanes {
            // If a thread is gone it panicked; `finish` reports that.
            let _ = sender.send(batch.clone());
        }
    }
}

fn hash<D: Digest>(batches: impl Iterator<Item = Batch>) -> String {
    let zeros = [0u8; 1 << 16];
    let mut digest = D::new();
    for batch in batches {
        match batch {
            Batch::Bytes(bytes) => digest.update(bytes.as_slice()),
            Batch::Zeros(mut left) => {
                while left > 0 {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
                    digest.update(&zeros[..part]);
                    left -= part as u64;
                }
            }
        }
    }
    hex::encode(digest.finalize())
}

/// Hashes a finished file.
pub(crate) fn of_file(
    kinds: &[Checksum],
    file: &File,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Vec<(Checksum, String)>> {
    let mut digester = Digester::new(kinds);
    let mut reader = ReadFrom { file, at: 0 };
    let mut buffer = vec![0; BATCH_BYTES];
    loop {
        if progress.cancelled() {
            return Err(OutputError::Cancelled);
        }
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(OutputError::io("read back", path, e)),
        };
        digester.update(&buffer[..count]);
    }
    digester.finish()
}

/// Reads a file at its own offset, independent of the shared one.
struct ReadFrom<'a> {
    file: &'a File,
    at: u64,
}

impl Read for ReadFrom<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(self.file, buf, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_known_inputs_with_zeros_between() {
        let mut digester = Digester::new(&Checksum::ALL);
        digester.update(b"abc");
        let digests = digester.finish().unwrap();
        assert_eq!(digests[0].1, "900150983cd24fb0d6963f7d28e17f72");
        assert!(digests[1].1.starts_with("ba7816bf8f01cfea414140de5dae2223"));
        assert!(digests[2].1.starts_with("ddaf35a193617abacc417349ae204131"));

        let mut sparse = Digester::new(&[Checksum::Sha256]);
        sparse.update(b"x");
        sparse.zeros(200_000);
        sparse.update(b"y");
        let mut flat = vec![0; 200_002];
        flat[0] = b'x';
        flat[200_001] = b'y';
        assert_eq!(sparse.finish().unwrap()[0].1, hex::encode(Sha256::digest(&flat)));
    }

    #[test]
    fn lines_are_what_md5sum_prints() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["plain", "with space", "back\\slash", "new\nline"] {
            let path = dir.path().join(name);
            std::fs::write(&path, b"abc").unwrap();
            let mut command = std::process::Command::new("md5sum");
            let out = command.arg(name).current_dir(dir.path()).output().unwrap();
            assert_eq!(
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&line("900150983cd24fb0d6963f7d28e17f72", &path)),
            );
        }
    }
}
