//! Parses headers: the 512 bytes before each member.

/// The size of a header and the unit of all data, in bytes.
pub const BLOCK_BYTES: usize = 512;

/// The type of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, sparse or not.
    File,
    /// A hard link: another name for an earlier member.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

impl Kind {
    pub(crate) fn of(flag: u8) -> Option<Self> {
        Some(match flag {
            b'0' | 0 | b'7' | b'S' => Self::File,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' => Self::CharDevice,
            b'4' => Self::BlockDevice,
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            _ => return None,
        })
    }
}

/// A header's fields, before extensions are applied.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    /// The whole block, for fields that only sparse members have.
    pub(crate) block: [u8; BLOCK_BYTES],
}

impl Header {
    pub(crate) fn parse(block: [u8; BLOCK_BYTES]) -> Result<Self, &'static str> {
        // The checksum is calculated as if its own field contained spaces.
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if number(&block[148..156]) != Some(sum) {
            return Err("a header with a wrong checksum: this is no tar stream");
        }
        let field = |from: usize, to: usize| number(&block[from..to]).ok_or("a malformed number");
        let small = |from: usize, to: usize| {
            field(from, to).and_then(|n| u32::try_from(n).map_err(|_| "a number out of range"))
        };
        let kind = block[156];
        let is_device = matches!(kind, b'3' | b'4');
        let posix = &block[257..263] == b"ustar\0";
        let mut path = text(&block[..100]);
        let prefix = text(&block[345..500]);
        if posix && !prefix.is_empty() {
            path = [prefix, path].join(&b'/');
        }
        Ok(Self {
            path,
            kind,
            mode: small(100, 108)?,
            uid: small(108, 116)?,
            gid: small(116, 124)?,
            size: field(124, 136)?,
            mtime: time(&block[136..148]).ok_or("a malformed time")?,
            link: text(&block[157..257]),
            device: if is_device { (small(329, 337)?, small(337, 345)?) } else { (0, 0) },
            block,
        })
    }
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// Parses a number in octal, or in base 256 if its first bit is set.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        if first & 0x40 != 0 {
            return None;
        }
        let start = u64::from(first & 0x3f);
        return rest.iter().try_fold(start, |n, byte| Some(n.checked_mul(256)? | u64::from(*byte)));
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    let mut value: u64 = 0;
    for byte in digits {
        match byte {
            b'0'..=b'7' => value = value.checked_mul(8)? + u64::from(byte - b'0'),
            b' ' | 0 => break,
            _ => return None,
        }
    }
    Some(value)
}

/// Parses a time in seconds like [`number`]; a time before 1970 is a negative number in base 256
/// (two's complement).
fn time(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((first, rest)) if first & 0xc0 == 0xc0 => {
            rest.iter().try_fold(i64::from(*first) - 256, |n, byte| {
                n.checked_mul(256)?.checked_add(i64::from(*byte))
            })
        }
        _ => i64::try_from(number(field)?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_bases() {
        assert_eq!(number(b"0000755\0"), Some(0o755));
        assert_eq!(number(b"    17 \0"), Some(0o17));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\x00\x01\x00"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff"), None);
        assert_eq!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(number(b"777777777777777777777777"), None);
        assert_eq!(number(b"12x"), None);
        assert_eq!(time(&[0xff; 12]), Some(-1));
        assert_eq!(time(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00"), Some(-256));
        assert_eq!(time(b"\xc0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), None);
        assert_eq!(time(b"00000000012\0"), Some(10));
    }
}
