//! The body of the fuzz target: a hostile image.

use crate::Header;

/// Parses the input as an image. It must not panic, loop, or use memory beyond the limits of the
/// crate.
pub fn image(bytes: &[u8]) {
    if let Ok(header) = Header::parse(bytes) {
        // An accepted header is equal after writing and parsing, unless the backing file name does
        // not fit after the fields.
        if let Ok(written) = header.to_bytes() {
            assert_eq!(Header::parse(&written).as_ref(), Ok(&header));
        }
    }
}
