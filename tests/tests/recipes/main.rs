//! Slow tests: real recipes, built as an ordinary user, checked and booted.
//!
//! A plain `cargo test` ignores these tests; each runs by name:
//!
//! ```sh
//! cargo test --release --workspace --test recipes -- --ignored images::vm_gpt
//! ```
//!
//! `sh tests/conformance.sh proofs NAME` also records the result.
//!
//! | variable | meaning |
//! |---|---|
//! | `VBUILD_TEST_DIR` | a directory that is kept, so that tests share downloads and tarballs |
//! | `VBUILD_TEST_CACHE` | a cache with an appliance; by default, one is created |
//! | `VBUILD_TEST_ACCEL` | the accelerator (`auto`) |
//! | `VBUILD_TEST_MIRROR` | the Debian mirror; by default, that of the host's apt |
//! | `VBUILD_TEST_WAIT` | seconds that an image gets to boot (900) |
//! | `VBUILD_ARGS` | additional options for each build |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod arm64;
mod b9;
mod ground;
mod images;
mod layers;
mod vmdb;
