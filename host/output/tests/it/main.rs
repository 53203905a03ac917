//! Tests of the formats with the reference tools, and with injected faults.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that skips says why")]

mod common;
mod disks;
mod faults;
mod trees;
