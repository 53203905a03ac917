//! Trees as tar streams: the PAX format, numeric owners, links, devices, and
//! every extended attribute as `SCHILY.xattr.NAME` (file capabilities and access
//! control lists are such attributes).
//!
//! The crate `tar-stream` reads tar streams, as it does on the host. The `tar` crate encodes the
//! header blocks of packed files; the records around them are written here, because attribute
//! values are binary.

mod pack;
mod unpack;

pub(crate) use pack::pack;
pub(crate) use unpack::unpack;

/// The unit of a tar stream, in bytes.
const BLOCK_BYTES: usize = 512;
