//! Builds the headers of the few plain members of which container archives consist.

use crate::BLOCK_BYTES;

/// Returns the header of a regular file that is owned by root and readable by all. The name has at
/// most 100 bytes, the size is in bytes, the time in seconds since 1970.
#[must_use]
pub fn file_header(name: &str, size: u64, unix_time: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    // No name here is longer than a digest below `blobs/sha256`.
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, &number(size));
    put(136, &number(unix_time));
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(148, b"        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Formats a number as eleven octal digits, or in base 256 if these do not suffice.
fn number(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if value < 1 << 33 {
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
    } else {
        field[4..].copy_from_slice(&value.to_be_bytes());
        field[0] = 0x80;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::number as read_number;

    #[test]
    fn sizes_beyond_octal() {
        for size in [0, 1, (1 << 33) - 1, 1 << 33, 1 << 40] {
            let header = file_header("name", size, 0);
            assert_eq!(read_number(&header[124..136]), Some(size));
        }
    }
}
