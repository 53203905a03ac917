//! Tests that boot real guests.
//!
//! They need an appliance: `VBUILD_TEST_CACHE` is a cache directory that contains one,
//! `VBUILD_AGENT` is the agent. `sh tests/all.sh` sets both; without them each test prints why it
//! is skipped. `VBUILD_TEST_ACCEL` selects the backend (`tcg`, `kvm`), so that every test can run
//! on both.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(unreachable_pub, reason = "a test has no outside")]

mod b9;
mod cache;
mod disks;
mod faults;
mod harness;
mod hostile;
mod machine;
mod network;
mod plans;
mod program;
mod session;
mod stages;
mod streams;
mod uploads;
mod vmdb;
mod warm;
