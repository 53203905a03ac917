//! Types for untrusted input: records of a shared cache, recipes, guests, image files. Each type is
//! checked when a value is constructed, also by `serde`, so code that receives a value need not
//! check again.
//!
//! | type | guarantees |
//! |---|---|
//! | [`Digest`] | 32 bytes, written as 64 lower-case hexadecimal digits |
//! | [`Hex`] | a fixed number of bytes in the same notation |
//! | [`DiskName`] | one harmless component of a path |
//! | [`Printable`] | one line of text without anything that steers a terminal |
//!
//! Architecture invariant: this crate does no I/O and imports no other crate of the
//! workspace.

mod chain;
mod digest;
mod disk_name;
mod printable;

pub use chain::{causes, chain};
pub use digest::{Digest, Hex, InvalidHex};
pub use disk_name::{DISK_NAME_MAX_BYTES, DiskName, InvalidDiskName};
pub use printable::{PRINTABLE_MAX_CHARS, Paragraph, Printable, printable_json};
