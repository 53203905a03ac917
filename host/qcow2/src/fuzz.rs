//! The body of the fuzz target: a hostile image.

use crate::Header;

/// Reads the bytes as an image. Nothing may panic, loop, or take memory beyond the
/// limits of the crate.
pub fn image(bytes: &[u8]) {
    if let Ok(header) = Header::parse(bytes) {
        // What is accepted reads as the same when it is written, unless the name of the
        // backing file has no room behind the fields.
        if let Ok(written) = header.to_bytes() {
            assert_eq!(Header::parse(&written).as_ref(), Ok(&header));
        }
    }
}
