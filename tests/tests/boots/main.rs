//! Tests that boot real guests.
//!
//! They need an appliance: `VBUILD_TEST_CACHE` names a cache directory that
//! holds one, `VBUILD_AGENT` the agent. `sh tests/all.sh` sets both; without
//! them each test prints why it is skipped. `VBUILD_TEST_ACCEL` chooses the
//! backend (`tcg`, `kvm`), so that every body runs over both.

mod faults;
mod harness;
mod plans;
mod session;
mod stages;
