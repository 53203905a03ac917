//! The tables of a qcow2 image that is written by appending.

use super::options::Options;
use crate::{OutputError, Result, atomic::OutFile};

/// The magic at the start of an image: "QFI" and 0xfb.
const MAGIC: u32 = 0x5146_49fb;

/// Refcount width as a power of two: 16 bits, as qemu-img uses.
const REFCOUNT_ORDER: u32 = 4;

/// Maximum L1 table size that readers accept, which limits the disk size.
const MAX_L1_BYTES: u64 = 32 << 20;

/// `OFLAG_COPIED`: the cluster has one reference, so it may be written in place.
const FLAG_COPIED: u64 = 1 << 63;

/// `OFLAG_COMPRESSED`: the entry refers to compressed data.
const FLAG_COMPRESSED: u64 = 1 << 62;

/// Incompatible feature: the compression type field is valid.
const FEATURE_COMPRESSION_TYPE: u64 = 1 << 3;

/// Compatible feature: refcounts may be rebuilt after a crash.
const FEATURE_LAZY_REFCOUNTS: u64 = 1;

/// The unit of compressed sizes.
const SECTOR_BYTES: u64 = 512;

/// An image that is being written.
pub(super) struct Image {
    options: Options,
    disk_bytes: u64,
    /// L1 entries: file offsets of the L2 tables.
    l1: Vec<u64>,
    /// The current L2 table; strides arrive in order, so there is only one.
    l2: Option<(usize, Vec<u64>)>,
    /// Refcount of each cluster of the file.
    refcounts: Vec<u16>,
    /// File offset of the next compressed data, if a cluster for it is open.
    packed_at: Option<u64>,
}

impl Image {
    pub(super) fn new(options: Options, disk_bytes: u64) -> Result<Self> {
        let cluster = options.cluster_bytes() as u64;
        let per_l1_entry = cluster * (cluster / 8);
        let max = (MAX_L1_BYTES / 8).saturating_mul(per_l1_entry);
        let l1_entries = disk_bytes.div_ceil(per_l1_entry);
        if disk_bytes > max {
            return Err(OutputError::TooLarge { format: "qcow2", bytes: disk_bytes, max });
        }
        // Even an empty disk has an L1 table, since readers expect one.
        let l1 = vec![0; usize::try_from(l1_entries).unwrap_or(1).max(1)];
        // Cluster 0 is the header.
        let refcounts = vec![1];
        Ok(Self { options, disk_bytes, l1, l2: None, refcounts, packed_at: None })
    }

    pub(super) fn cluster_bytes(&self) -> usize {
        self.options.cluster_bytes()
    }

    fn cluster(&self) -> u64 {
        self.options.cluster_bytes() as u64
    }

    /// Stores an uncompressed cluster. A short one at the end of the disk is padded.
    pub(super) fn put_plain(&mut self, out: &mut OutFile, index: u64, data: &[u8]) -> Result<()> {
        let at = self.append_clusters(out, data)?;
        self.set_entry(out, index, at | FLAG_COPIED)
    }

    /// Stores a compressed cluster, packed after the previous one.
    pub(super) fn put_packed(
        &mut self,
        out: &mut OutFile,
        index: u64,
        packed: &[u8],
    ) -> Result<()> {
        let cluster = self.cluster();
        let size = packed.len() as u64;
        let end_of_file = self.refcounts.len() as u64 * cluster;
        let open = self.packed_at.filter(|at| {
            let rest = at.next_multiple_of(cluster) - at;
            // It fits, or the cluster after the open one is still unused.
            rest >= size || at.next_multiple_of(cluster) == end_of_file
        });
        let at = open.unwrap_or(end_of_file);
        let last = at + size - 1;
        while self.refcounts.len() as u64 * cluster <= last {
            self.refcounts.push(0);
        }
        // Readers count whole sectors as used.
        let sectors_from = at / SECTOR_BYTES;
        let more_sectors = last / SECTOR_BYTES - sectors_from;
        let used_to = (sectors_from + more_sectors + 1) * SECTOR_BYTES - 1;
        for touched in sectors_from * SECTOR_BYTES / cluster..=used_to / cluster {
            let count = &mut self.refcounts[usize::try_from(touched).unwrap_or(usize::MAX)];
            // Each compressed cluster has several bytes, so a cluster holds far fewer pieces.
            *count = count.checked_add(1).ok_or(OutputError::WorkerLost)?;
        }
        out.patch(at, packed)?;
        self.packed_at = Some(at + size).filter(|at| at % cluster != 0);
        let offset_bits = 62 - (self.options.cluster_bits - 8);
        let entry = FLAG_COMPRESSED | (more_sectors << offset_bits) | at;
        self.set_entry(out, index, entry)
    }

    /// Appends whole clusters; returns their file offset.
    fn append_clusters(&mut self, out: &OutFile, data: &[u8]) -> Result<u64> {
        let cluster = self.cluster();
        let at = self.refcounts.len() as u64 * cluster;
        out.patch(at, data)?;
        let count = data.len().div_ceil(self.cluster_bytes());
        self.refcounts.resize(self.refcounts.len() + count, 1);
        Ok(at)
    }

    fn set_entry(&mut self, out: &mut OutFile, index: u64, entry: u64) -> Result<()> {
        let per_table = self.cluster_bytes() / 8;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let (table, slot) = (index / per_table, index % per_table);
        if self.l2.as_ref().is_none_or(|(open, _)| *open != table) {
            self.close_l2(out)?;
            self.l2 = Some((table, vec![0; per_table]));
        }
        if let Some((_, entries)) = &mut self.l2 {
            entries[slot] = entry;
        }
        Ok(())
    }

    fn close_l2(&mut self, out: &OutFile) -> Result<()> {
        if let Some((table, entries)) = self.l2.take() {
            self.l1[table] = self.append_clusters(out, &big_endian(&entries))? | FLAG_COPIED;
        }
        Ok(())
    }

    /// Writes the tables, and finally the header.
    pub(super) fn finish(mut self, out: &mut OutFile) -> Result<()> {
        self.close_l2(out)?;
        let l1 = big_endian(&self.l1);
        let l1_at = self.append_clusters(out, &l1)?;
        let (table_at, table_clusters) = self.write_refcounts(out)?;
        out.patch(0, &self.header(l1_at, table_at, table_clusters))?;
        let end = self.refcounts.len() as u64 * self.cluster();
        out.skip(end - out.position());
        Ok(())
    }

    /// Writes the refcounts, which include their own clusters: the number of these is computed by
    /// iterating until it is stable.
    fn write_refcounts(&mut self, out: &OutFile) -> Result<(u64, u32)> {
        let size = self.cluster_bytes();
        let (per_block, per_table) = (size / 2, size / 8);
        let used = self.refcounts.len();
        let (mut blocks, mut tables) = (1, 1);
        loop {
            let need_blocks = (used + blocks + tables).div_ceil(per_block);
            let need_tables = blocks.div_ceil(per_table);
            if need_blocks <= blocks && need_tables <= tables {
                break;
            }
            (blocks, tables) = (need_blocks.max(blocks), need_tables.max(tables));
        }
        self.refcounts.resize(used + blocks + tables, 1);
        let mut content = Vec::with_capacity(blocks * size);
        for count in &self.refcounts {
            content.extend_from_slice(&count.to_be_bytes());
        }
        content.resize(blocks * size, 0);
        let at = |cluster: usize| cluster as u64 * size as u64;
        out.patch(at(used), &content)?;
        let entries: Vec<u64> = (used..used + blocks).map(at).collect();
        out.patch(at(used + blocks), &big_endian(&entries))?;
        Ok((at(used + blocks), u32::try_from(tables).unwrap_or(u32::MAX)))
    }

    fn header(&self, l1_at: u64, refcounts_at: u64, refcount_clusters: u32) -> Vec<u8> {
        let options = &self.options;
        let mut header = Vec::with_capacity(120);
        let u32s = |values: &[u32], header: &mut Vec<u8>| {
            values.iter().for_each(|v| header.extend_from_slice(&v.to_be_bytes()));
        };
        u32s(&[MAGIC, options.version], &mut header);
        // No backing file: offset and length of the name are zero.
        u32s(&[0, 0, 0, options.cluster_bits], &mut header);
        header.extend_from_slice(&self.disk_bytes.to_be_bytes());
        let l1_entries = u32::try_from(self.l1.len()).unwrap_or(u32::MAX);
        u32s(&[0, l1_entries], &mut header);
        header.extend_from_slice(&l1_at.to_be_bytes());
        header.extend_from_slice(&refcounts_at.to_be_bytes());
        // No snapshots: count and offset are zero.
        u32s(&[refcount_clusters, 0, 0, 0], &mut header);
        if options.version == 3 {
            let incompatible = if options.zstd { FEATURE_COMPRESSION_TYPE } else { 0 };
            let compatible = if options.lazy_refcounts { FEATURE_LAZY_REFCOUNTS } else { 0 };
            for features in [incompatible, compatible, 0] {
                header.extend_from_slice(&features.to_be_bytes());
            }
            // The header length includes the compression type and its padding.
            u32s(&[REFCOUNT_ORDER, 112], &mut header);
            header.extend_from_slice(&[u8::from(options.zstd), 0, 0, 0, 0, 0, 0, 0]);
        }
        // End of the header extensions.
        header.extend_from_slice(&[0; 8]);
        header
    }
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}
