//! The qcow2 format, versions 2 and 3, read and written in process.
//!
//! ```text
//! guest offset ─► L1 ─► L2 entry ─┬─ data cluster in this file
//!                                 ├─ compressed data (read; a write replaces it)
//!                                 ├─ zeros
//!                                 └─ nothing: the backing image, or zeros
//! ```
//!
//! All metadata is written through, in an order that leaves the image valid at every moment: first
//! the refcount, then the data, then the entry that points to it. If the process dies in between,
//! clusters leak but no data is lost. Not supported, and refused with a reason: encryption,
//! external data files, extended L2 entries, and writing to images with internal snapshots.

pub(crate) mod fuzz;
mod refcount;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use ::qcow2::{Compression, Header, read_table, read_up_to, write_table};
use vm_memory::VolatileSlice;

use self::refcount::Refcounts;
use super::{image::Image, raw::punch};
use crate::devices::chain::{Direction, copy_in, part, total, transfer, zero};

/// An L2 entry's data offset (bits 9 to 55).
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster has exactly one reference, so it may be written in place.
const COPIED: u64 = 1 << 63;
/// The entry describes compressed data.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (version 3).
const ZERO: u64 = 1;
/// L2 tables cached in memory: 4 MiB with 64 KiB clusters, which map 32 GiB.
const L2_CACHE_TABLES: usize = 64;
/// Maximum clusters allocated for one write, which limits the data written per call.
const RUN_MAX_CLUSTERS: u64 = 256;

/// The meaning of an L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Unallocated: the backing image provides the data.
    Absent,
    /// Zeros, possibly with a preallocated cluster.
    Zero(Option<u64>),
    /// Data at this offset, and whether it may be written in place.
    Data(u64, bool),
    /// Compressed data: the raw entry.
    Compressed(u64),
}

/// A qcow2 image with its backing image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    file: File,
    header: Header,
    cluster: u64,
    l1: Vec<u64>,
    l2_cache: HashMap<u64, Vec<u64>>,
    /// Present if the image is writable.
    refcounts: Option<Refcounts>,
    backing: Option<Box<dyn Image>>,
    /// The last decompressed cluster, by its raw entry.
    inflated: Option<(u64, Vec<u8>)>,
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

impl Qcow2 {
    /// Opens an image. On failure the backing image is returned.
    pub(crate) fn open(
        mut file: File,
        backing: Option<Box<dyn Image>>,
        read_only: bool,
    ) -> Result<Self, (Option<Box<dyn Image>>, io::Error)> {
        let opened = (|| {
            let header = Header::read(&file)?;
            let l1 = header.read_l1(&file)?;
            let refcounts = if read_only {
                None
            } else {
                header.check_writable().map_err(invalid)?;
                header.clear_autoclear(&file)?;
                let end = file.seek(SeekFrom::End(0))?;
                Some(Refcounts::read(&file, &header, end)?)
            };
            Ok((header, l1, refcounts))
        })();
        match opened {
            Ok((header, l1, refcounts)) => Ok(Self {
                cluster: header.cluster_bytes(),
                file,
                header,
                l1,
                l2_cache: HashMap::new(),
                refcounts,
                backing,
                inflated: None,
            }),
            Err(error) => Err((backing, error)),
        }
    }

    fn l2_entries(&self) -> u64 {
        self.cluster / 8
    }

    /// Splits a guest offset into L1 index and L2 index.
    fn indices(&self, offset: u64) -> (usize, usize) {
        let cluster = offset / self.cluster;
        let l1 = usize::try_from(cluster / self.l2_entries()).unwrap_or(usize::MAX);
        let l2 = usize::try_from(cluster % self.l2_entries()).unwrap_or(usize::MAX);
        (l1, l2)
    }

    /// The L2 table at this file offset.
    fn l2_table(&mut self, table: u64) -> io::Result<&mut Vec<u64>> {
        if !self.l2_cache.contains_key(&table) {
            if self.l2_cache.len() >= L2_CACHE_TABLES {
                self.l2_cache.clear(); // written through, so nothing is lost
            }
            let entries = read_table(&self.file, table, self.l2_entries())?;
            self.l2_cache.insert(table, entries);
        }
        self.l2_cache.get_mut(&table).ok_or_else(|| invalid("an L2 table is missing"))
    }

    /// The file offset of the L2 table for an L1 index, if allocated.
    fn l2_offset(&self, l1: usize) -> io::Result<Option<u64>> {
        let entry = *self.l1.get(l1).ok_or_else(|| invalid("the L1 table is too short"))?;
        let offset = entry & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster) {
            return Err(invalid("an L2 table is not aligned"));
        }
        Ok((offset != 0).then_some(offset))
    }

    fn entry(&mut self, offset: u64) -> io::Result<Entry> {
        let (l1, l2) = self.indices(offset);
        let Some(table) = self.l2_offset(l1)? else { return Ok(Entry::Absent) };
        let raw = *self.l2_table(table)?.get(l2).ok_or_else(|| invalid("an L2 table is short"))?;
        self.decode(raw)
    }

    fn decode(&self, raw: u64) -> io::Result<Entry> {
        if raw & COMPRESSED != 0 {
            return Ok(Entry::Compressed(raw));
        }
        let offset = raw & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster) {
            return Err(invalid("a data cluster is not aligned"));
        }
        Ok(if self.header.version >= 3 && raw & ZERO != 0 {
            Entry::Zero((offset != 0).then_some(offset))
        } else if offset == 0 {
            Entry::Absent
        } else {
            Entry::Data(offset, raw & COPIED != 0)
        })
    }

    /// Reads a range, in pieces within a cluster; adjacent pieces with contiguous data are joined.
    fn read_range(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let all = total(slices);
        let mut done = 0;
        while done < all {
            let at = offset + done as u64;
            let entry = self.entry(at)?;
            let mut len = self.within_cluster(at, all - done);
            if let Entry::Data(data, _) = entry {
                // Joins following clusters that are contiguous in the file.
                let start = at / self.cluster * self.cluster;
                let mut clusters = 1;
                while done + len < all {
                    let next = start + clusters * self.cluster;
                    let expected = data + clusters * self.cluster;
                    if !matches!(self.entry(next)?, Entry::Data(at, _) if at == expected) {
                        break;
                    }
                    len += self.within_cluster(next, all - done - len);
                    clusters += 1;
                }
            }
            self.read_piece(entry, &part(slices, done, len), at)?;
            done += len;
        }
        Ok(())
    }

    /// The number of the `wanted` bytes from `offset` that are in its cluster.
    fn within_cluster(&self, offset: u64, wanted: usize) -> usize {
        let left = self.cluster - offset % self.cluster;
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
    }

    fn read_piece(
        &mut self,
        entry: Entry,
        slices: &[VolatileSlice<'_>],
        at: u64,
    ) -> io::Result<()> {
        let inside = at % self.cluster;
        match entry {
            Entry::Absent => self.read_backing(slices, at),
            Entry::Zero(_) => {
                zero(slices);
                Ok(())
            }
            Entry::Data(offset, _) => {
                transfer(&self.file, Direction::Read, slices, offset + inside)
            }
            Entry::Compressed(raw) => {
                let data = self.inflate(raw)?;
                let from = usize::try_from(inside).unwrap_or(usize::MAX);
                copy_in(slices, data.get(from..).unwrap_or(&[]));
                Ok(())
            }
        }
    }

    fn read_backing(&mut self, slices: &[VolatileSlice<'_>], at: u64) -> io::Result<()> {
        let Some(backing) = &mut self.backing else {
            zero(slices);
            return Ok(());
        };
        let all = total(slices);
        let inside = usize::try_from(backing.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let inside = inside.min(all);
        if inside > 0 {
            backing.read(&part(slices, 0, inside), at)?;
        }
        zero(&part(slices, inside, all - inside));
        Ok(())
    }

    /// The file offset and length of compressed data.
    fn compressed_place(&self, raw: u64) -> (u64, u64) {
        let bits = 62 - (self.header.cluster_bits - 8);
        let offset = raw & ((1 << bits) - 1);
        let sectors = (raw & (COMPRESSED - 1)) >> bits;
        (offset, (sectors + 1) * 512 - (offset & 511))
    }

    fn inflate(&mut self, raw: u64) -> io::Result<&[u8]> {
        let fresh = !matches!(&self.inflated, Some((entry, _)) if *entry == raw);
        if fresh {
            let (offset, len) = self.compressed_place(raw);
            let len = usize::try_from(len).map_err(|_| invalid("compressed data is too long"))?;
            let mut packed = vec![0; len];
            let got = read_up_to(&self.file, &mut packed, offset)?;
            packed.truncate(got);
            let size = usize::try_from(self.cluster).map_err(io::Error::other)?;
            let mut data = vec![0; size];
            match self.header.compression {
                Compression::Zlib => {
                    flate2::read::DeflateDecoder::new(&packed[..]).read_exact(&mut data)?;
                }
                Compression::Zstd => {
                    zstd::stream::read::Decoder::with_buffer(&packed[..])?.read_exact(&mut data)?;
                }
            }
            self.inflated = Some((raw, data));
        }
        self.inflated.as_ref().map(|(_, data)| &data[..]).ok_or_else(|| invalid("no data"))
    }

    fn refcounts(&mut self) -> io::Result<&mut Refcounts> {
        self.refcounts.as_mut().ok_or_else(|| io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn allocate(&mut self, clusters: u64) -> io::Result<u64> {
        let Self { refcounts, file, header, .. } = self;
        let refcounts = refcounts.as_mut().ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        refcounts.allocate(file, header, clusters)
    }

    /// Drops one reference to the cluster at an offset; after the last one it becomes a hole that
    /// can be reused.
    fn release(&mut self, offset: u64) -> io::Result<bool> {
        let cluster = self.cluster;
        let Self { refcounts, file, .. } = self;
        let refcounts = refcounts.as_mut().ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        if !refcounts.release(file, offset)? {
            return Ok(false);
        }
        punch(file, offset, cluster)?;
        Ok(true)
    }

    /// Releases the clusters of an entry that has been overwritten.
    fn release_entry(&mut self, entry: Entry) -> io::Result<u64> {
        match entry {
            Entry::Absent | Entry::Zero(None) => Ok(0),
            Entry::Zero(Some(offset)) | Entry::Data(offset, _) => {
                Ok(if self.release(offset)? { self.cluster } else { 0 })
            }
            Entry::Compressed(raw) => {
                let (offset, len) = self.compressed_place(raw);
                let first = offset / self.cluster;
                let last = (offset + len - 1) / self.cluster;
                for cluster in first..=last {
                    self.release(cluster * self.cluster)?;
                }
                Ok(0)
            }
        }
    }

    /// The L2 table for an L1 index, allocated if necessary. A shared table is refused, since only
    /// internal snapshots share them.
    fn writable_l2(&mut self, l1: usize) -> io::Result<u64> {
        if let Some(table) = self.l2_offset(l1)? {
            return Ok(table);
        }
        let table = self.allocate(1)?;
        let entries = vec![0; usize::try_from(self.l2_entries()).map_err(io::Error::other)?];
        write_table(&self.file, table, &entries)?;
        self.l2_cache.insert(table, entries);
        let entry = table | COPIED;
        let slot = self.header.l1_offset + l1 as u64 * 8;
        self.file.write_all_at(&entry.to_be_bytes(), slot)?;
        self.l1[l1] = entry;
        Ok(table)
    }

    /// Sets consecutive entries of one table.
    fn set_entries(&mut self, table: u64, first: usize, raw: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = raw.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.write_all_at(&bytes, table + first as u64 * 8)?;
        let entries = self.l2_table(table)?;
        let places = entries.get_mut(first..first + raw.len());
        places.ok_or_else(|| invalid("an L2 table is short"))?.copy_from_slice(raw);
        Ok(())
    }

    fn write_range(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let all = total(slices);
        let mut done = 0;
        while done < all {
            let at = offset + done as u64;
            done += match self.entry(at)? {
                Entry::Data(data, true) => self.write_in_place(data, slices, done, at)?,
                _ => self.write_new(slices, done, at)?,
            };
        }
        Ok(())
    }

    fn write_in_place(
        &mut self,
        data: u64,
        slices: &[VolatileSlice<'_>],
        done: usize,
        at: u64,
    ) -> io::Result<usize> {
        let left = total(slices) - done;
        let start = at / self.cluster * self.cluster;
        let mut len = self.within_cluster(at, left);
        let mut clusters = 1;
        while len < left {
            let next = start + clusters * self.cluster;
            let expected = data + clusters * self.cluster;
            if self.entry(next)? != Entry::Data(expected, true) {
                break;
            }
            len += self.within_cluster(next, left - len);
            clusters += 1;
        }
        transfer(&self.file, Direction::Write, &part(slices, done, len), data + at - start)?;
        Ok(len)
    }

    /// Writes to new clusters, for the run of clusters that cannot be written in place, within the
    /// limits of the request, the table and the run.
    fn write_new(
        &mut self,
        slices: &[VolatileSlice<'_>],
        done: usize,
        at: u64,
    ) -> io::Result<usize> {
        let left = total(slices) - done;
        let start = at / self.cluster * self.cluster;
        let (l1, first) = self.indices(at);
        let in_table = self.l2_entries() - first as u64;
        let wanted = (at - start + left as u64).div_ceil(self.cluster);
        let wanted = wanted.min(in_table).min(RUN_MAX_CLUSTERS);
        let mut old = Vec::new();
        for index in 0..wanted {
            match self.entry(start + index * self.cluster)? {
                Entry::Data(_, true) => break,
                entry => old.push(entry),
            }
        }
        let clusters = old.len() as u64;
        let len =
            usize::try_from(start + clusters * self.cluster - at).unwrap_or(usize::MAX).min(left);
        let end = at + len as u64;
        let head = self.old_bytes(start, at)?;
        let tail_end = start + clusters * self.cluster;
        let tail = self.old_bytes(end, tail_end.min(self.header.disk_bytes.max(end)))?;
        let table = self.writable_l2(l1)?;
        let new = self.allocate(clusters)?;
        if !head.is_empty() {
            self.file.write_all_at(&head, new)?;
        }
        transfer(&self.file, Direction::Write, &part(slices, done, len), new + (at - start))?;
        if !tail.is_empty() {
            self.file.write_all_at(&tail, new + (end - start))?;
        }
        let entries: Vec<u64> =
            (0..clusters).map(|index| (new + index * self.cluster) | COPIED).collect();
        self.set_entries(table, first, &entries)?;
        for entry in old {
            self.release_entry(entry)?;
        }
        Ok(len)
    }

    /// The current content of a range within one cluster.
    fn old_bytes(&mut self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(to.saturating_sub(from)).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        if len > 0 {
            let entry = self.entry(from)?;
            self.read_piece(entry, &[VolatileSlice::from(&mut bytes[..])], from)?;
        }
        Ok(bytes)
    }

    /// Makes whole clusters read as zeros without storing data.
    fn zero_cluster(&mut self, start: u64) -> io::Result<u64> {
        let old = self.entry(start)?;
        let backed = self.backing.as_ref().is_some_and(|backing| backing.len() > start);
        match old {
            Entry::Absent if !backed => return Ok(0),
            Entry::Zero(None) => return Ok(0),
            _ => {}
        }
        if backed && self.header.version < 3 {
            let mut zeros = vec![0; usize::try_from(self.cluster).map_err(io::Error::other)?];
            let len = self.within_cluster(start, zeros.len());
            let len = len.min(usize::try_from(self.header.disk_bytes - start).unwrap_or(len));
            self.write_range(&[VolatileSlice::from(&mut zeros[..len])], start)?;
            return Ok(0);
        }
        let (l1, l2) = self.indices(start);
        let table = self.writable_l2(l1)?;
        let raw = if backed { ZERO } else { 0 };
        self.set_entries(table, l2, &[raw])?;
        self.release_entry(old)
    }

    /// Clears a range cluster by cluster: whole clusters are deallocated; partial ones are
    /// overwritten with zeros if `parts`, and otherwise left unchanged.
    fn clear(&mut self, offset: u64, len: u64, parts: bool) -> io::Result<u64> {
        self.refcounts()?;
        let end = offset + len;
        let mut at = offset;
        let mut freed = 0;
        while at < end {
            let start = at / self.cluster * self.cluster;
            let next = (start + self.cluster).min(end);
            let whole =
                at == start && (next == start + self.cluster || next == self.header.disk_bytes);
            if whole {
                freed += self.zero_cluster(start)?;
            } else if parts && !matches!(self.entry(at)?, Entry::Zero(_)) {
                let mut zeros = vec![0; usize::try_from(next - at).map_err(io::Error::other)?];
                self.write_range(&[VolatileSlice::from(&mut zeros[..])], at)?;
            }
            at = next;
        }
        Ok(freed)
    }
}

impl Image for Qcow2 {
    fn len(&self) -> u64 {
        self.header.disk_bytes & !511
    }

    fn granularity(&self) -> u64 {
        self.cluster
    }

    fn read(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.read_range(slices, offset)
    }

    fn write(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.refcounts()?;
        self.write_range(slices, offset)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, _unmap: bool) -> io::Result<u64> {
        self.clear(offset, len, true)
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<u64> {
        self.clear(offset, len, false)
    }

    fn flush(&mut self, durable: bool) -> io::Result<()> {
        if durable && self.refcounts.is_some() { self.file.sync_data() } else { Ok(()) }
    }
}
