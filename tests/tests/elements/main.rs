//! Builds with the elements of `tests/elements`, from the command line to the
//! files that come out: every phase, format and layout in seconds, with nothing
//! downloaded but diskimage-builder itself.
//!
//! They need an appliance: `VBUILD_TEST_CACHE` names a cache directory that
//! holds one, `VBUILD_AGENT` the agent. `sh tests/all.sh` sets both; without
//! them each test prints why it is skipped. `VBUILD_TEST_ACCEL` chooses the
//! accelerator.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(unreachable_pub, reason = "a test has no outside")]

mod caches;
mod failures;
mod harness;
mod image;
mod layouts;
mod outputs;
mod phases;
mod real;
mod shell;
