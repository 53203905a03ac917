//! Reads text files up to a maximum size.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Reads a UTF-8 text file, which must not be larger than `max_bytes`.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let text = format!("it is larger than the {max_bytes} bytes that it can have");
        return Err(io::Error::other(text));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::other(format!("it is no UTF-8 text: byte {at} begins no character"))
    })
}
