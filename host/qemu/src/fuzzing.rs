//! The body of the fuzz target, for `tests/fuzz` and for this crate's own tests.

use tokio::io::AsyncReadExt;

use crate::qmp::{LINE_MAX_BYTES, filter};

/// Filters input from QEMU's monitor.
///
/// # Panics
/// Panics if an event reaches the `qapi` crate, which cannot handle unknown ones.
pub fn monitor(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let passed = runtime.block_on(async {
        let (near, mut far) = tokio::io::duplex(4096);
        let mut passed = Vec::new();
        let reading = far.read_to_end(&mut passed);
        let ((), read) = tokio::join!(filter(bytes, near, drop), reading);
        read.expect("a pipe in memory");
        passed
    });
    assert!(passed.len() <= bytes.len() + 1);
    for line in passed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        assert!(line.len() <= LINE_MAX_BYTES);
        let message: serde_json::Value = serde_json::from_slice(line).expect("only JSON passes");
        assert!(message.get("event").is_none(), "{message}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_of_every_kind(
            text in "(\\{\"event\": ?\"[A-Z_]{1,9}\"[,}]|\"data\": ?\\{|\"return\": ?\\{|[{}\\[\\]\",:a-z0-9 ]|\\n|\\r\\n){0,40}",
        ) {
            memory_bound::within(4 << 20, || super::monitor(text.as_bytes()));
        }
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_its_limit() {
        let endless = vec![b'x'; 16 << 20];
        memory_bound::within(3 << 20, || super::monitor(&endless));
    }
}
