//! Reads the serial console to its end, keeps its tail, and logs whole lines.

use std::{
    collections::VecDeque,
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Kept bytes of a console or of standard error, for error messages: a panic with its backtrace
/// takes about 4 KiB, the messages before it as much again.
pub(crate) const TAIL_MAX_BYTES: usize = 32 * 1024;
/// Longer lines are logged in parts.
const LINE_MAX_BYTES: usize = 1024;
/// Bytes read per call.
const CHUNK_BYTES: usize = 4096;
/// The start of Linux's panic message.
const PANIC_MARK: &str = "Kernel panic - not syncing";

/// The tail of a byte stream. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    kept: Arc<Mutex<Kept>>,
    max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// The number of bytes that precede the kept ones.
    before: u64,
}

impl Tail {
    pub(crate) fn new(max: usize) -> Self {
        Self { kept: Arc::default(), max }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, chunk: &[u8]) {
        let mut kept = self.kept();
        kept.bytes.extend(chunk);
        let excess = kept.bytes.len().saturating_sub(self.max);
        kept.bytes.drain(..excess);
        kept.before += excess as u64;
    }

    /// Finds `needle` at or after a position of the whole stream; returns the position after it.
    pub(crate) fn find(&self, needle: &[u8], from: u64) -> Option<u64> {
        let mut kept = self.kept();
        let before = kept.before;
        let skip = usize::try_from(from.saturating_sub(before)).ok()?;
        let bytes = kept.bytes.make_contiguous().get(skip..)?;
        let at = bytes.windows(needle.len().max(1)).position(|window| window == needle)?;
        Some(before + (skip + at + needle.len()) as u64)
    }

    /// The kept bytes as text, with invalid UTF-8 replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.kept().bytes.make_contiguous()).into_owned()
    }

    /// Whether the kernel reported a panic.
    pub(crate) fn shows_panic(&self) -> bool {
        self.text().contains(PANIC_MARK)
    }
}

/// Reads `source` to its end into the tail and, line by line, the log.
pub(crate) fn follow(mut source: impl Read, tail: &Tail) {
    let mut chunk = [0; CHUNK_BYTES];
    let mut line = Vec::new();
    loop {
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                tail.push(&chunk[..count]);
                for byte in &chunk[..count] {
                    if *byte == b'\n' || line.len() >= LINE_MAX_BYTES {
                        show(&line);
                        line.clear();
                    }
                    if *byte != b'\n' {
                        line.push(*byte);
                    }
                }
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => {
                tracing::debug!(%cause, "the console cannot be read any more");
                break;
            }
        }
    }
    show(&line);
}

fn show(line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if !text.is_empty() {
        tracing::debug!(target: "console", "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let tail = Tail::new(TAIL_MAX_BYTES);
        let long = "x".repeat(TAIL_MAX_BYTES * 3);
        follow(format!("{long}the end\n\u{fffd}").as_bytes(), &tail);
        let text = tail.text();
        assert!(text.len() <= TAIL_MAX_BYTES + 3);
        assert!(text.contains("the end"));
        assert!(!tail.shows_panic());
    }

    #[test]
    fn a_panic_is_seen_across_chunks() {
        let tail = Tail::new(TAIL_MAX_BYTES);
        let filler = "y".repeat(CHUNK_BYTES - 10);
        follow(
            format!("{filler}Kernel panic - not syncing: sysrq triggered crash").as_bytes(),
            &tail,
        );
        assert!(tail.shows_panic());
    }

    #[test]
    fn a_text_is_found_once_and_by_its_place_in_the_stream() {
        let tail = Tail::new(16);
        follow("login: ".as_bytes(), &tail);
        let first = tail.find(b"login:", 0);
        assert_eq!(first, Some(6));
        assert_eq!(tail.find(b"login:", 6), None);
        follow("0123456789abcdef login:".as_bytes(), &tail);
        assert_eq!(tail.find(b"login:", 6), Some(30));
        assert_eq!(tail.find(b"0123", 6), None, "that much is not kept");
        assert_eq!(tail.find(b"x", 1000), None);
    }
}
