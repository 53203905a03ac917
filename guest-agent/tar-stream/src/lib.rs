//! Reads tar streams of which nothing is believed: what a guest packs for the
//! host, and what the host sends to the agent.
//!
//! ```text
//! stream  = member* end
//! member  = extension* header data padding
//! extension = PAX records (`x`), a long name (`L`), a long link target (`K`),
//!             or records for the whole archive (`g`), which are passed over
//! end     = two blocks of zeros, and anything behind them
//! ```
//!
//! Understood is what packers produce today: ustar, PAX with extended attributes
//! (`SCHILY.xattr.NAME`, whose values are binary), GNU's long names, and the two
//! current ways of sparse files. Every path is free of `..` before anybody sees
//! it, and every size is held to a limit before memory is taken for it:
//!
//! ```text
//! memory of one member <= EXTENSIONS_MAX_BYTES twice (records and what they say)
//!                       + EXTENTS_MAX x 16 bytes     (twice that as a vector grows)
//! ```

mod archive;
mod content;
pub mod fuzzing;
mod header;
mod records;
mod sparse;
mod write;

pub use archive::{Archive, Entry, TarError};
pub use content::Content;
pub use header::{BLOCK_BYTES, Kind};
pub use records::{Xattr, xattr_key};
pub use write::file_header;

/// The longest path or link target, in bytes: `PATH_MAX` of Linux without its NUL,
/// beyond which no system call takes a path.
pub const PATH_MAX_BYTES: usize = 4095;

/// Components of a path: far beyond any real tree, and far below what would make
/// recursion or the building of paths expensive.
pub const DEPTH_MAX: usize = 256;

/// Bytes of all extensions before one member: the largest set of extended
/// attributes that ext4 holds (64 KiB) fits many times, as does the longest path.
pub const EXTENSIONS_MAX_BYTES: u64 = 1 << 20;

/// The longest name of an extended attribute, in bytes: `XATTR_NAME_MAX` of Linux.
pub const XATTR_NAME_MAX_BYTES: usize = 255;

/// The longest value of an extended attribute, in bytes: `XATTR_SIZE_MAX` of Linux.
pub const XATTR_VALUE_MAX_BYTES: usize = 65_536;

/// Extended attributes of one member: `XATTR_LIST_MAX` of Linux (64 KiB of names)
/// with names of 64 bytes.
pub const XATTRS_MAX: usize = 1024;

/// Bytes behind the end of an archive: packers fill up their last record, which has
/// 10 KiB, or up to 1 MiB with `tar --blocking-factor`.
pub const TRAILING_MAX_BYTES: u64 = 1 << 20;

/// Extents of one sparse member: at 64 KiB each a map of 64 GiB, and 16 MiB of
/// memory.
pub const EXTENTS_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests;
