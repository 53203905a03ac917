//! Slow proofs: real recipes, built as an ordinary user, looked into and booted.
//!
//! Each test is ignored by a plain `cargo test`, and runs by its name:
//!
//! ```sh
//! cargo test --release --workspace --test recipes -- --ignored images::vm_gpt
//! ```
//!
//! `sh tests/conformance.sh proofs NAME` notes the outcome, too.
//!
//! | variable | meaning |
//! |---|---|
//! | `VBUILD_TEST_DIR` | a folder that is kept, so that tests share downloads and tarballs |
//! | `VBUILD_TEST_CACHE` | a cache with an appliance; without it one is made |
//! | `VBUILD_TEST_ACCEL` | the accelerator (`auto`) |
//! | `VBUILD_TEST_MIRROR` | the mirror of Debian; without it that of this machine's apt |
//! | `VBUILD_TEST_WAIT` | seconds that an image gets to boot (900) |
//! | `VBUILD_ARGS` | more options for each build |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod b9;
mod ground;
mod images;
mod layers;
mod vmdb;
