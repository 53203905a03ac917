//! Cluster refcounts: allocating clusters, and growing the file.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt};

use ::qcow2::{Header, REFCOUNT_TABLE_MAX_BYTES, read_table, write_table};

use super::invalid;

/// A refcount table entry's offset.
const OFFSET_MASK: u64 = !511;
/// Refcount blocks cached in memory: 1 MiB with 64 KiB clusters, which count 32 GiB.
const CACHE_BLOCKS: usize = 16;
/// Maximum released clusters remembered for reuse.
const FREE_MAX: usize = 1 << 16;

/// The refcounts of a writable image.
#[derive(Debug)]
pub(super) struct Refcounts {
    cluster: u64,
    table: Vec<u64>,
    blocks: HashMap<u64, Vec<u16>>,
    /// Released clusters, by index.
    free: Vec<u64>,
    /// The first cluster after all clusters ever used.
    end: u64,
}

impl Refcounts {
    /// Reads the table; `file_end` is the length of the file.
    pub(super) fn read(file: &File, header: &Header, file_end: u64) -> io::Result<Self> {
        let cluster = header.cluster_bytes();
        let entries = u64::from(header.refcount_clusters) * cluster / 8;
        let table = read_table(file, header.refcount_offset, entries)?;
        Ok(Self {
            cluster,
            table,
            blocks: HashMap::new(),
            free: Vec::new(),
            end: file_end.div_ceil(cluster),
        })
    }

    fn per_block(&self) -> u64 {
        self.cluster / 2
    }

    fn split(&self, cluster: u64) -> (usize, usize) {
        let table = usize::try_from(cluster / self.per_block()).unwrap_or(usize::MAX);
        let index = usize::try_from(cluster % self.per_block()).unwrap_or(usize::MAX);
        (table, index)
    }

    fn block_offset(&self, index: usize) -> io::Result<Option<u64>> {
        let offset = self.table.get(index).copied().unwrap_or(0) & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster) {
            return Err(invalid("a refcount block is not aligned"));
        }
        Ok((offset != 0).then_some(offset))
    }

    fn block(&mut self, file: &File, offset: u64) -> io::Result<&mut Vec<u16>> {
        if !self.blocks.contains_key(&offset) {
            if self.blocks.len() >= CACHE_BLOCKS {
                self.blocks.clear(); // written through, so nothing is lost
            }
            let mut raw = vec![0; usize::try_from(self.cluster).map_err(io::Error::other)?];
            file.read_exact_at(&mut raw, offset)?;
            let counts = raw.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            self.blocks.insert(offset, counts.collect());
        }
        self.blocks.get_mut(&offset).ok_or_else(|| invalid("a refcount block is missing"))
    }

    fn get(&mut self, file: &File, cluster: u64) -> io::Result<u16> {
        let (table, index) = self.split(cluster);
        let Some(offset) = self.block_offset(table)? else { return Ok(0) };
        Ok(self.block(file, offset)?.get(index).copied().unwrap_or(0))
    }

    fn set(
        &mut self,
        file: &File,
        header: &mut Header,
        cluster: u64,
        count: u16,
    ) -> io::Result<()> {
        let (table, index) = self.split(cluster);
        let offset = match self.block_offset(table)? {
            Some(offset) => offset,
            None => self.new_block(file, header, table)?,
        };
        self.store(file, offset, index, count)
    }

    fn store(&mut self, file: &File, block: u64, index: usize, count: u16) -> io::Result<()> {
        file.write_all_at(&count.to_be_bytes(), block + index as u64 * 2)?;
        if let Some(place) = self.block(file, block)?.get_mut(index) {
            *place = count;
        }
        Ok(())
    }

    /// Appends the refcount block for a table index to the file. The block itself must be counted
    /// too, possibly in itself.
    fn new_block(&mut self, file: &File, header: &mut Header, table: usize) -> io::Result<u64> {
        if table >= self.table.len() {
            self.grow_table(file, header, table)?;
            if let Some(offset) = self.block_offset(table)? {
                return Ok(offset);
            }
        }
        let cluster = self.end;
        self.end += 1;
        let offset = cluster * self.cluster;
        let size = usize::try_from(self.cluster).map_err(io::Error::other)?;
        file.write_all_at(&vec![0; size], offset)?;
        self.blocks.insert(offset, vec![0; size / 2]);
        let (own_table, own_index) = self.split(cluster);
        if own_table == table {
            self.store(file, offset, own_index, 1)?;
        }
        self.table[table] = offset;
        file.write_all_at(&offset.to_be_bytes(), header.refcount_offset + table as u64 * 8)?;
        if own_table != table {
            self.set(file, header, cluster, 1)?;
        }
        Ok(offset)
    }

    /// Moves the table to the end of the file, with at least twice its size.
    fn grow_table(&mut self, file: &File, header: &mut Header, needed: usize) -> io::Result<()> {
        /// `refcount_table_offset` and `refcount_table_clusters` of the header.
        const HEADER_OFFSET: u64 = 48;
        let per_cluster = self.cluster / 8;
        let entries = (self.table.len() as u64 * 2).max(needed as u64 + 1);
        let clusters = entries.div_ceil(per_cluster);
        if clusters * self.cluster > REFCOUNT_TABLE_MAX_BYTES {
            return Err(invalid("the image has grown beyond what the format can count"));
        }
        let (old_offset, old_clusters) = (header.refcount_offset, header.refcount_clusters);
        let first = self.end;
        self.end += clusters;
        let len = usize::try_from(clusters * per_cluster).map_err(io::Error::other)?;
        self.table.resize(len, 0);
        let offset = first * self.cluster;
        write_table(file, offset, &self.table)?;
        let count = u32::try_from(clusters).map_err(io::Error::other)?;
        let mut place = offset.to_be_bytes().to_vec();
        place.extend(count.to_be_bytes());
        file.write_all_at(&place, HEADER_OFFSET)?;
        header.refcount_offset = offset;
        header.refcount_clusters = count;
        for cluster in first..first + clusters {
            self.set(file, header, cluster, 1)?;
        }
        for index in 0..u64::from(old_clusters) {
            self.release(file, old_offset + index * self.cluster)?;
        }
        Ok(())
    }

    /// Allocates `clusters` adjacent clusters with one reference each, and returns the offset of
    /// the first.
    pub(super) fn allocate(
        &mut self,
        file: &File,
        header: &mut Header,
        clusters: u64,
    ) -> io::Result<u64> {
        if clusters == 1
            && let Some(cluster) = self.free.pop()
        {
            self.set(file, header, cluster, 1)?;
            return Ok(cluster * self.cluster);
        }
        // Counting may itself allocate clusters at the end, so the clusters are reserved first and
        // counted then.
        let first = self.end;
        self.end += clusters;
        for cluster in first..self.end.min(first + clusters) {
            self.set(file, header, cluster, 1)?;
        }
        Ok(first * self.cluster)
    }

    /// Drops a reference; returns whether it was the last one. A cluster that is already free stays
    /// unchanged: the image was inconsistent before.
    pub(super) fn release(&mut self, file: &File, offset: u64) -> io::Result<bool> {
        let cluster = offset / self.cluster;
        let count = self.get(file, cluster)?;
        let Some(count) = count.checked_sub(1) else { return Ok(false) };
        let (table, index) = self.split(cluster);
        let Some(block) = self.block_offset(table)? else { return Ok(false) };
        self.store(file, block, index, count)?;
        if count == 0 && self.free.len() < FREE_MAX {
            self.free.push(cluster);
        }
        Ok(count == 0)
    }
}
