//! Reads tar streams that are not trusted: those that a guest packs for the host, and those that
//! the host sends to the agent.
//!
//! ```text
//! stream  = member* end
//! member  = extension* header data padding
//! extension = PAX records (`x`), a long name (`L`), a long link target (`K`),
//!             or records for the whole archive (`g`), which are passed over
//! end     = two blocks of zeros, and anything after them
//! ```
//!
//! The reader supports what current packers produce: ustar, PAX with extended attributes
//! (`SCHILY.xattr.NAME`, whose values are binary), GNU's long names, and the two current formats of
//! sparse files. A path with `..` is refused, and every size is checked against a limit before
//! memory is allocated for it:
//!
//! ```text
//! memory of one member <= EXTENSIONS_MAX_BYTES twice (records and their parsed values)
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

/// The maximum length of a path or link target, in bytes: `PATH_MAX` of Linux without its NUL.
/// System calls do not accept longer paths.
pub const PATH_MAX_BYTES: usize = 4095;

/// The maximum number of components of a path: far more than in any real tree, and far fewer than
/// would make recursion or the construction of paths expensive.
pub const DEPTH_MAX: usize = 256;

/// The maximum size of all extensions before one member, in bytes: many times that of the largest
/// set of extended attributes on ext4 (64 KiB) or of the longest path.
pub const EXTENSIONS_MAX_BYTES: u64 = 1 << 20;

/// The maximum length of an extended attribute's name, in bytes: `XATTR_NAME_MAX` of Linux.
pub const XATTR_NAME_MAX_BYTES: usize = 255;

/// The maximum length of an extended attribute's value, in bytes: `XATTR_SIZE_MAX` of Linux.
pub const XATTR_VALUE_MAX_BYTES: usize = 65_536;

/// The maximum number of extended attributes of one member: as many names of 64 bytes as
/// `XATTR_LIST_MAX` of Linux (64 KiB of names) allows.
pub const XATTRS_MAX: usize = 1024;

/// The maximum number of bytes after the end of an archive. Packers fill up their last record,
/// which has 10 KiB, or up to 1 MiB with `tar --blocking-factor`.
pub const TRAILING_MAX_BYTES: u64 = 1 << 20;

/// The maximum number of extents of one sparse member: with extents of 64 KiB, a map of 64 GiB of
/// data, which takes 16 MiB of memory.
pub const EXTENTS_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests;
