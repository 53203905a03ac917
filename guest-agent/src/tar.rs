//! Trees as tar streams: the PAX format, numeric owners, links, devices, and
//! every extended attribute as `SCHILY.xattr.NAME` (file capabilities and access
//! control lists are such attributes).
//!
//! The `tar` crate encodes and decodes the header blocks. The records around
//! them are read here, because attribute values are binary and may hold the
//! newline at which that crate splits them.

mod pack;
mod read;
mod unpack;

pub(crate) use pack::pack;
pub(crate) use unpack::unpack;

/// Unit of a tar stream.
const BLOCK_BYTES: usize = 512;

/// What stands before the name of an extended attribute in a PAX record.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
