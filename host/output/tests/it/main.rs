//! The formats against the reference tools, and under faults.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that skips says why")]

mod common;
mod disks;
mod faults;
mod trees;
