//! The qcow2 format, versions 2 and 3.
//!
//! ```text
//! cluster 0   header, extensions, name of the backing file
//! guest offset ─► L1 ─► L2 entry ─┬─ data cluster in this file
//!                                 ├─ compressed data
//!                                 ├─ zeros
//!                                 └─ nothing: the backing image, or zeros
//! ```
//!
//! Every file is untrusted: a header is accepted only if it uses no features but the supported
//! ones, tables have limits, and offsets are checked before use. A header may name a backing file.
//! This crate reports the name and never opens it: the caller decides which other files belong to
//! an image, from the user's options or from records of vbuild.
//!
//! Source: `docs/interop/qcow2.rst` of QEMU.

mod file;
pub mod fuzz;
mod header;

pub use file::{read_table, read_up_to, write_table};
pub use header::{Backing, BackingFormat, Compression, Header, HeaderError, MAGIC, create_layer};

/// Maximum size of the refcount table; QEMU has the same limit.
pub const REFCOUNT_TABLE_MAX_BYTES: u64 = 8 << 20;
/// Maximum size of the L1 table; QEMU has the same limit. With clusters of 64 KiB it describes a
/// disk of 2 PiB.
pub const L1_MAX_BYTES: u64 = 32 << 20;
