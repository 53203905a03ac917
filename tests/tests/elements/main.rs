//! Builds with the elements in `tests/elements`, from the command line to the output files: every
//! phase, format and layout in seconds, with no download except diskimage-builder itself.
//!
//! They need an appliance: `VBUILD_TEST_CACHE` is a cache directory that contains one,
//! `VBUILD_AGENT` is the agent. `sh tests/all.sh` sets both; without them each test prints why it
//! is skipped. `VBUILD_TEST_ACCEL` selects the accelerator.
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
