//! Writes metadata blocks: 8 KiB each, compressed, prefixed by their size.

use super::xz;

/// Bytes of a metadata block before compression.
const BLOCK_BYTES: usize = 8192;

/// Size flag: the block is stored uncompressed.
const STORED: u16 = 1 << 15;

/// The offset of an absent table.
pub(super) const NO_TABLE: u64 = u64::MAX;

/// A stream of metadata blocks.
pub(super) struct Meta {
    done: Vec<u8>,
    places: Vec<u64>,
    open: Vec<u8>,
    compress: bool,
}

/// A position in the stream: the start of the block, and the offset in the uncompressed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u32,
    pub(super) offset: u16,
}

impl Place {
    /// The position as one number, as in inode references.
    pub(super) fn reference(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }
}

impl Meta {
    pub(super) fn new(compress: bool) -> Self {
        Self { done: Vec::new(), places: Vec::new(), open: Vec::new(), compress }
    }

    /// The position of the next byte.
    pub(super) fn place(&self) -> Place {
        Place {
            // A table of more than 4 GiB would need billions of files.
            block: u32::try_from(self.done.len()).unwrap_or(u32::MAX),
            offset: u16::try_from(self.open.len()).unwrap_or(u16::MAX),
        }
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.open.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.open.extend_from_slice(now);
            bytes = later;
            if self.open.len() == BLOCK_BYTES {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        let open = std::mem::take(&mut self.open);
        let packed = self.compress.then(|| xz(&open)).flatten();
        let (data, mark) = match packed.filter(|packed| packed.len() < open.len()) {
            Some(packed) => (packed, 0),
            None => (open, STORED),
        };
        self.places.push(self.done.len() as u64);
        let size = u16::try_from(data.len()).unwrap_or_default() | mark;
        self.done.extend_from_slice(&size.to_le_bytes());
        self.done.extend_from_slice(&data);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.finish_with_places().0
    }

    /// The stream, with the start of each of its blocks.
    pub(super) fn finish_with_places(mut self) -> (Vec<u8>, Vec<u64>) {
        if !self.open.is_empty() {
            self.end_block();
        }
        (self.done, self.places)
    }
}
