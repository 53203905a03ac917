//! The store as builds use it: several at once, dying, damaged, too large.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that skips says why")]

mod common;
mod faults;
mod layers;
mod sharing;
