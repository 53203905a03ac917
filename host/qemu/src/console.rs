//! The serial console: read to the end whatever the guest writes, keep the last
//! of it, show whole lines to the log.

use std::{
    collections::VecDeque,
    io::Read,
    sync::{Arc, Mutex, PoisonError},
};

/// How much of the console is kept: a panic with its backtrace takes about
/// 4 KiB, the messages before it are worth as much again.
const TAIL_MAX_BYTES: usize = 32 * 1024;
/// A longer line goes to the log in parts.
const LINE_MAX_BYTES: usize = 1024;
/// Bytes read at once.
const CHUNK_BYTES: usize = 4096;
/// What Linux writes first when it panics.
const PANIC_MARK: &str = "Kernel panic - not syncing";

/// The end of a stream of bytes. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    max: usize,
}

impl Tail {
    pub(crate) fn new() -> Self {
        Self { bytes: Arc::default(), max: TAIL_MAX_BYTES }
    }

    fn push(&self, chunk: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend(chunk);
        let excess = bytes.len().saturating_sub(self.max);
        bytes.drain(..excess);
    }

    /// The text, with what is not text replaced.
    pub(crate) fn text(&self) -> String {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(bytes.make_contiguous()).into_owned()
    }

    /// Whether the kernel said that it panicked.
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
        let tail = Tail::new();
        let long = "x".repeat(TAIL_MAX_BYTES * 3);
        follow(format!("{long}the end\n\u{fffd}").as_bytes(), &tail);
        let text = tail.text();
        assert!(text.len() <= TAIL_MAX_BYTES + 3);
        assert!(text.contains("the end"));
        assert!(!tail.shows_panic());
    }

    #[test]
    fn a_panic_is_seen_across_chunks() {
        let tail = Tail::new();
        let filler = "y".repeat(CHUNK_BYTES - 10);
        follow(
            format!("{filler}Kernel panic - not syncing: sysrq triggered crash").as_bytes(),
            &tail,
        );
        assert!(tail.shows_panic());
    }
}
