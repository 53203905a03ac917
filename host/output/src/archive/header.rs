//! The 512 bytes before each member.

/// Size of a header and unit of all data.
pub(crate) const BLOCK_BYTES: usize = 512;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    pub(super) fn of(flag: u8) -> Option<Self> {
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
pub(super) struct Header {
    pub(super) path: Vec<u8>,
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: u64,
    pub(super) link: Vec<u8>,
    pub(super) device: (u32, u32),
    /// For what only the sparse kind has.
    pub(super) block: [u8; BLOCK_BYTES],
}

impl Header {
    pub(super) fn parse(block: [u8; BLOCK_BYTES]) -> Result<Self, &'static str> {
        // The checksum counts its own field as blanks.
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
            // A time before 1970 is a negative number, which `number` refuses.
            mtime: number(&block[136..148]).unwrap_or(0),
            link: text(&block[157..257]),
            device: if is_device { (small(329, 337)?, small(337, 345)?) } else { (0, 0) },
            block,
        })
    }
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|b| *b != 0).collect()
}

/// A number in octal, or in base 256 when its first bit is set.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        if first & 0x40 != 0 {
            return None;
        }
        let start = u64::from(first & 0x3f);
        return rest.iter().try_fold(start, |n, b| Some(n.checked_mul(256)? | u64::from(*b)));
    }
    let digits = field.iter().skip_while(|b| **b == b' ');
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
