//! Filters the blocks that have not changed out of a new layer. The overlay of a disk has clusters
//! of 64 KiB even if the guest has written only 4 KiB of them, and blocks that were written again
//! with the same content. What the layers below contain already is left out.
//!
//! A block is remembered by a digest instead of its bytes: 4 GiB of a disk take about 40 MiB of
//! memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io,
    os::unix::fs::FileExt,
};

use sha2::{Digest as _, Sha256};

use crate::extents::{Extent, ExtentSource};

/// The size of the compared blocks: the smallest unit that filesystems usually write.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// [`BLOCK_BYTES`] as an offset.
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Maximum number of blocks that are remembered: 32 GiB of data in about 320 MiB of memory. If
/// there are more, everything is forgotten, and blocks count as changed until seen again.
const BLOCKS_MAX: usize = 8 << 20;
/// The number of bytes of a digest that are kept: with 128 bits, no two blocks of a disk have the
/// same one by chance.
const MARK_BYTES: usize = 16;

/// The digest of a block, truncated.
pub(crate) type Mark = [u8; MARK_BYTES];

/// The known content of a disk's layers, by block.
#[derive(Debug)]
pub struct Known {
    blocks: BTreeMap<u64, Mark>,
    rest: Rest,
}

/// The content of the blocks that are not remembered.
#[derive(Debug)]
enum Rest {
    Zeros,
    /// The content of this raw file, and zeros behind its end.
    File(File),
    Anything,
}

impl Known {
    /// Returns the state for a disk without stored layers, which is all zeros.
    #[must_use]
    pub fn of_new_disk() -> Self {
        Self { blocks: BTreeMap::new(), rest: Rest::Zeros }
    }

    /// Returns the state for a disk that was restored to a raw file, which must not change any
    /// more.
    #[must_use]
    pub fn of_restored_disk(raw: File) -> Self {
        Self { blocks: BTreeMap::new(), rest: Rest::File(raw) }
    }

    /// Records the content of a block. Returns whether it differs from what was known before.
    fn takes(&mut self, block: u64, bytes: &[u8]) -> bool {
        if matches!(self.rest, Rest::Zeros) && bytes.iter().all(|byte| *byte == 0) {
            return self.blocks.remove(&block).is_some();
        }
        let mark = mark(bytes);
        let is_known = match (self.blocks.get(&block), &self.rest) {
            (Some(known), _) => *known == mark,
            (None, Rest::File(raw)) => holds(raw, block, bytes),
            (None, Rest::Zeros | Rest::Anything) => false,
        };
        if !is_known {
            self.remember(block, mark);
        }
        !is_known
    }

    fn remember(&mut self, block: u64, mark: Mark) {
        if self.blocks.len() < BLOCKS_MAX || self.blocks.contains_key(&block) {
            self.blocks.insert(block, mark);
        } else {
            self.know_nothing();
        }
    }

    fn know_nothing(&mut self) {
        self.rest = Rest::Anything;
        self.blocks.clear();
    }

    /// Records zeros in a range of blocks. Returns whether this may differ from what was known
    /// before.
    fn takes_zeros(&mut self, first: u64, end: u64) -> bool {
        let zeros = mark(&[0; BLOCK_BYTES]);
        let known: Vec<(u64, Mark)> =
            self.blocks.range(first..end).map(|(block, mark)| (*block, *mark)).collect();
        for (block, _) in &known {
            self.blocks.remove(block);
        }
        let was_written = known.iter().any(|(_, mark)| *mark != zeros);
        match &self.rest {
            Rest::Zeros => !known.is_empty(),
            Rest::Anything => true,
            Rest::File(raw) => match blocks_with_data(raw, first, end) {
                Ok(data) => {
                    let zeroed: BTreeSet<u64> = known.into_iter().map(|(block, _)| block).collect();
                    let news = data.iter().any(|block| !zeroed.contains(block));
                    for block in data {
                        self.remember(block, zeros);
                    }
                    was_written || news
                }
                Err(_) => {
                    self.know_nothing();
                    true
                }
            },
        }
    }

    /// Records that the content of a block is not known.
    fn forget(&mut self, block: u64) {
        match self.rest {
            // No content has this mark in practice.
            Rest::Zeros | Rest::File(_) => self.remember(block, [0xff; MARK_BYTES]),
            Rest::Anything => drop(self.blocks.remove(&block)),
        }
    }
}

/// Whether a block of a file has these bytes; false if it cannot be read.
fn holds(raw: &File, block: u64, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    raw.read_exact_at(&mut found, block.saturating_mul(BLOCK)).is_ok() && found == bytes
}

/// Returns the blocks of a range that are not holes in a file.
fn blocks_with_data(raw: &File, first: u64, end: u64) -> io::Result<Vec<u64>> {
    let mut blocks = Vec::new();
    let mut at = first.saturating_mul(BLOCK);
    while let Some(data) = sparse::next_data(raw, at)? {
        let (from, to) = (data.start / BLOCK, data.end.div_ceil(BLOCK).min(end));
        if from >= end {
            break;
        }
        blocks.extend(from.max(first)..to);
        at = data.end;
    }
    Ok(blocks)
}

pub(crate) fn mark(bytes: &[u8]) -> Mark {
    let digest = Sha256::digest(bytes);
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&digest[..MARK_BYTES]);
    mark
}

/// The extents of a source, without the blocks whose content is known already.
#[derive(Debug)]
pub struct Changed<'a, S: ?Sized> {
    source: &'a mut S,
    known: &'a mut Known,
    ready: VecDeque<Extent>,
}

impl<'a, S: ExtentSource + ?Sized> Changed<'a, S> {
    /// Creates the filter. The source is read once, and its content is then known.
    pub fn new(source: &'a mut S, known: &'a mut Known) -> Self {
        Self { source, known, ready: VecDeque::new() }
    }

    fn split(&mut self, extent: Extent) {
        match extent {
            Extent::Data { offset, bytes } => self.split_data(offset, &bytes),
            Extent::Zeros { offset, length } => {
                // Only whole blocks are compared; blocks at the edges become unknown.
                let end = offset.saturating_add(length);
                let (first, behind) = (offset.div_ceil(BLOCK), end / BLOCK);
                let edges = [offset, end].into_iter().filter(|at| !at.is_multiple_of(BLOCK));
                let edges: Vec<u64> = edges.map(|at| at / BLOCK).collect();
                let news = first < behind && self.known.takes_zeros(first, behind);
                for block in &edges {
                    self.known.forget(*block);
                }
                if news || !edges.is_empty() {
                    self.ready.push_back(Extent::Zeros { offset, length });
                }
            }
        }
    }

    /// Splits an extent of data; neighbouring changed blocks stay in one extent.
    fn split_data(&mut self, offset: u64, bytes: &[u8]) {
        let disk = self.source.disk_bytes();
        let mut at = 0;
        let mut open: Option<usize> = None;
        while at < bytes.len() {
            let place = offset + at as u64;
            let block = place / BLOCK;
            let room = usize::try_from((block + 1) * BLOCK - place).unwrap_or(usize::MAX);
            let next = bytes.len().min(at.saturating_add(room));
            let part = &bytes[at..next];
            let end = place + part.len() as u64;
            // The last block of a disk may be shorter.
            let whole = place.is_multiple_of(BLOCK) && (end.is_multiple_of(BLOCK) || end == disk);
            let news = if whole {
                self.known.takes(block, part)
            } else {
                self.known.forget(block);
                true
            };
            match (news, open) {
                (true, None) => open = Some(at),
                (false, Some(from)) => {
                    self.tell(offset, bytes, from, at);
                    open = None;
                }
                _ => {}
            }
            at = next;
        }
        if let Some(from) = open {
            self.tell(offset, bytes, from, bytes.len());
        }
    }

    fn tell(&mut self, offset: u64, bytes: &[u8], from: usize, to: usize) {
        let bytes = bytes[from..to].to_vec();
        self.ready.push_back(Extent::Data { offset: offset + from as u64, bytes });
    }
}

impl<S: ExtentSource + ?Sized> ExtentSource for Changed<'_, S> {
    fn disk_bytes(&self) -> u64 {
        self.source.disk_bytes()
    }

    fn next_extent(&mut self) -> io::Result<Option<Extent>> {
        loop {
            if let Some(extent) = self.ready.pop_front() {
                return Ok(Some(extent));
            }
            let Some(extent) = self.source.next_extent()? else { return Ok(None) };
            self.split(extent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 64 * BLOCK + 512;

    struct List(VecDeque<Extent>);

    impl ExtentSource for List {
        fn disk_bytes(&self) -> u64 {
            DISK
        }

        fn next_extent(&mut self) -> io::Result<Option<Extent>> {
            Ok(self.0.pop_front())
        }
    }

    fn data(offset: u64, bytes: &[u8]) -> Extent {
        Extent::Data { offset, bytes: bytes.to_vec() }
    }

    fn changed(known: &mut Known, extents: &[Extent]) -> Vec<Extent> {
        let mut list = List(extents.to_vec().into());
        let mut changed = Changed::new(&mut list, known);
        std::iter::from_fn(|| changed.next_extent().unwrap()).collect()
    }

    fn apply(disk: &mut [u8], extents: &[Extent]) {
        for extent in extents {
            let at = usize::try_from(extent.offset()).unwrap();
            match extent {
                Extent::Data { bytes, .. } => disk[at..at + bytes.len()].copy_from_slice(bytes),
                Extent::Zeros { length, .. } => {
                    disk[at..at + usize::try_from(*length).unwrap()].fill(0);
                }
            }
        }
    }

    #[test]
    fn of_a_cluster_only_the_block_that_was_written_is_told() {
        let mut known = Known::of_new_disk();
        let mut cluster = vec![7; 16 * 4096];
        assert_eq!(changed(&mut known, &[data(0, &cluster)]), [data(0, &cluster)]);
        assert_eq!(changed(&mut known, &[data(0, &cluster)]), []);
        cluster[5 * 4096..7 * 4096].fill(9);
        let told = changed(&mut known, &[data(0, &cluster)]);
        assert_eq!(told, [data(5 * 4096, &[9; 2 * 4096])]);
        // Zeros where nothing was are none; where something was, they are news once.
        assert_eq!(changed(&mut known, &[data(20 * 4096, &[0; 4096])]), []);
        assert_eq!(changed(&mut known, &[Extent::Zeros { offset: 32 * 4096, length: 4096 }]), []);
        let freed = Extent::Zeros { offset: 0, length: 4096 };
        let freed = [freed];
        assert_eq!(changed(&mut known, &freed), freed);
        assert_eq!(changed(&mut known, &freed), []);
        // When nothing is known, everything is news once.
        known.know_nothing();
        assert_eq!(changed(&mut known, &[data(0, &[0; 4096])]), [data(0, &[0; 4096])]);
        assert_eq!(changed(&mut known, &[data(0, &[0; 4096])]), []);
    }

    /// A raw file of the disk's size with these bytes in it.
    fn restored(offset: u64, bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(DISK).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        file
    }

    #[test]
    fn of_a_restored_disk_only_what_differs_from_its_file_is_told() {
        let mut known = Known::of_restored_disk(restored(16 * 4096, &[7; 16 * 4096]));
        let mut cluster = vec![7; 16 * 4096];
        assert_eq!(changed(&mut known, &[data(16 * 4096, &cluster)]), []);
        cluster[3 * 4096..4 * 4096].fill(9);
        let told = changed(&mut known, &[data(16 * 4096, &cluster)]);
        assert_eq!(told, [data(19 * 4096, &[9; 4096])]);
        // Back to what the file holds is a change, too.
        cluster.fill(7);
        let told = changed(&mut known, &[data(16 * 4096, &cluster)]);
        assert_eq!(told, [data(19 * 4096, &[7; 4096])]);
        // Holes of the file are zeros; its data are zeros from when that was told.
        let zeros =
            |first: u64, count: u64| Extent::Zeros { offset: first * 4096, length: count * 4096 };
        assert_eq!(changed(&mut known, &[zeros(32, 8)]), []);
        assert_eq!(changed(&mut known, &[zeros(16, 24)]), [zeros(16, 24)]);
        assert_eq!(changed(&mut known, &[zeros(16, 24)]), []);
        let again = data(16 * 4096, &[7; 4096]);
        assert_eq!(changed(&mut known, std::slice::from_ref(&again)), [again]);
    }

    #[test]
    fn a_chain_of_what_changes_is_the_same_disk() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            (state >> 33) % below
        };
        let old = vec![2; 24 * 4096];
        let begun = vec![
            (Known::of_new_disk(), Vec::new()),
            (Known::of_restored_disk(restored(8 * 4096, &old)), vec![data(8 * 4096, &old)]),
        ];
        for (mut known, begin) in begun {
            let mut whole = vec![0_u8; usize::try_from(DISK).unwrap()];
            apply(&mut whole, &begin);
            let mut less = whole.clone();
            for _ in 0..200 {
                // Layers of some extents, in sectors, with few different contents.
                let mut at = random(16) * 512;
                let mut layer = Vec::new();
                while at < DISK {
                    let length = ((1 + random(40)) * 512).min(DISK - at);
                    let content = u8::try_from(random(3)).unwrap();
                    layer.push(if random(4) == 0 {
                        Extent::Zeros { offset: at, length }
                    } else {
                        data(at, &vec![content; usize::try_from(length).unwrap()])
                    });
                    at += length + random(60) * 512;
                }
                apply(&mut whole, &layer);
                let told = changed(&mut known, &layer);
                apply(&mut less, &told);
                assert!(whole == less);
            }
        }
    }
}
