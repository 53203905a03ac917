//! Writes a disk as a qcow2 overlay over its base, with only the clusters that differ.
//!
//! ```text
//! header, names | data… | L2 tables | L1 table | reference counts | their table
//! ```

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use qcow2::BackingFormat;

use crate::{Backing, BaseError, unfinished};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of an L1 or L2 table cluster.
const TABLE_ENTRIES: u64 = CLUSTER / 8;
/// 16-bit reference counts per cluster.
const BLOCK_COUNTS: u64 = CLUSTER / 2;
/// The `QCOW_OFLAG_COPIED` bit: the cluster has exactly one reference.
const COPIED: u64 = 1 << 63;
/// The L2 bit of a cluster that reads as zeros, whatever the base contains.
const ZERO: u64 = 1;
const HEADER_BYTES: u32 = 104;
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Maximum length of a backing file name in QEMU.
const NAME_MAX_BYTES: usize = 1023;

/// The result of writing an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The file size in bytes.
    pub bytes: u64,
    /// Clusters of 64 KiB that it stores itself.
    pub clusters: u64,
}

/// Writes the difference between two raw disks as a qcow2 file. The file appears complete or not at
/// all.
///
/// # Errors
/// Fails if a disk cannot be read, or if the file cannot be written.
pub fn write_overlay(
    disk: &Path,
    base: &Path,
    backing: &Backing,
    to: &Path,
) -> Result<Written, BaseError> {
    let open = |path: &Path| File::open(path).map_err(|e| BaseError::io("open", path, e));
    let (changed, under) = (open(disk)?, open(base)?);
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = unfinished::file(folder).map_err(|e| BaseError::io("write in", folder, e))?;
    let file = unfinished.work;
    let name = backing.path.to_str().filter(|name| name.len() <= NAME_MAX_BYTES);
    let name = name.ok_or_else(|| BaseError::image(&backing.path, "its name cannot be written"))?;
    let write = || -> io::Result<Written> {
        let bytes = changed.metadata()?.len();
        let mut writer = Writer { file: file.as_file(), next: CLUSTER, clusters: 0 };
        let l1 = writer.tables(&changed, &under, bytes)?;
        let header = Header { bytes, l1_entries: l1.len() as u64, name, format: backing.format };
        let written = writer.finish(&header, &l1)?;
        file.as_file().sync_all()?;
        Ok(written)
    };
    let written = write().map_err(|e| BaseError::io("write", to, e))?;
    rooted::allow_user_mode(file.as_file(), 0o666).map_err(|e| BaseError::io("write", to, e))?;
    file.persist(to).map_err(|e| BaseError::io("name", to, e.error))?;
    Ok(written)
}

struct Writer<'a> {
    file: &'a File,
    /// File offset of the next cluster.
    next: u64,
    clusters: u64,
}

struct Header<'a> {
    bytes: u64,
    l1_entries: u64,
    name: &'a str,
    format: BackingFormat,
}

impl Writer<'_> {
    /// Writes data clusters and L2 tables, and returns the L1 table.
    fn tables(&mut self, disk: &File, base: &File, bytes: u64) -> io::Result<Vec<u64>> {
        let mut l1 = vec![0; to_usize(bytes.div_ceil(CLUSTER * TABLE_ENTRIES))];
        let mut open: Option<(usize, Vec<u64>)> = None;
        let (mut new, mut old) = (vec![0; to_usize(CLUSTER)], vec![0; to_usize(CLUSTER)]);
        let mut at = 0;
        while let Some(found) = next_data(disk, base, at)?.filter(|found| *found < bytes) {
            let cluster = found / CLUSTER;
            at = (cluster + 1) * CLUSTER;
            read(disk, cluster * CLUSTER, &mut new)?;
            read(base, cluster * CLUSTER, &mut old)?;
            if new == old {
                continue;
            }
            let entry =
                if new.iter().all(|byte| *byte == 0) { ZERO } else { self.append(&new)? | COPIED };
            self.clusters += 1;
            let (table, slot) =
                (to_usize(cluster / TABLE_ENTRIES), to_usize(cluster % TABLE_ENTRIES));
            if open.as_ref().is_none_or(|(index, _)| *index != table) {
                self.close(open.take(), &mut l1)?;
                open = Some((table, vec![0; to_usize(TABLE_ENTRIES)]));
            }
            if let Some((_, entries)) = &mut open {
                entries[slot] = entry;
            }
        }
        self.close(open, &mut l1)?;
        Ok(l1)
    }

    fn close(&mut self, open: Option<(usize, Vec<u64>)>, l1: &mut [u64]) -> io::Result<()> {
        if let Some((index, entries)) = open {
            l1[index] = self.append(&big_endian(&entries))? | COPIED;
        }
        Ok(())
    }

    /// Appends whole clusters, and returns their file offset.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.next;
        self.file.write_all_at(bytes, at)?;
        self.next += (bytes.len() as u64).next_multiple_of(CLUSTER);
        Ok(at)
    }

    fn finish(mut self, header: &Header<'_>, l1: &[u64]) -> io::Result<Written> {
        let l1_at = self.append(&big_endian(l1))?;
        // The reference counts include their own clusters.
        let used = self.next / CLUSTER;
        let (mut blocks, mut tables) = (0_u64, 0_u64);
        loop {
            let all = used + blocks + tables;
            let (need, rows) = (all.div_ceil(BLOCK_COUNTS), blocks.div_ceil(TABLE_ENTRIES).max(1));
            if (need, rows) == (blocks, tables) {
                break;
            }
            (blocks, tables) = (need, rows);
        }
        let mut counts = vec![0; to_usize(blocks * CLUSTER)];
        for pair in counts.chunks_exact_mut(2).take(to_usize(used + blocks + tables)) {
            pair[1] = 1;
        }
        let counts_at = self.append(&counts)?;
        let rows: Vec<u64> = (0..blocks).map(|index| counts_at + index * CLUSTER).collect();
        let table_at = self.append(&big_endian(&rows))?;
        self.file.set_len(self.next)?;
        let first = header_bytes(header, l1_at, table_at, tables);
        self.file.write_all_at(&first, 0)?;
        Ok(Written { bytes: self.next, clusters: self.clusters })
    }
}

fn header_bytes(header: &Header<'_>, l1_at: u64, table_at: u64, tables: u64) -> Vec<u8> {
    let format = header.format.name().as_bytes();
    let extension = 8 + format.len().next_multiple_of(8);
    let name_at = HEADER_BYTES as usize + extension + 8;
    let mut out = Vec::with_capacity(name_at + header.name.len());
    let word = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    out.extend(b"QFI\xfb");
    out.extend(3_u32.to_be_bytes());
    out.extend((name_at as u64).to_be_bytes());
    out.extend(word(header.name.len() as u64));
    out.extend(CLUSTER_BITS.to_be_bytes());
    out.extend(header.bytes.to_be_bytes());
    out.extend(0_u32.to_be_bytes()); // no encryption
    out.extend(word(header.l1_entries));
    out.extend(l1_at.to_be_bytes());
    out.extend(table_at.to_be_bytes());
    out.extend(word(tables));
    out.extend([0; 4 + 8]); // no internal snapshots
    out.extend([0; 8 + 8 + 8]); // no features
    out.extend(4_u32.to_be_bytes()); // refcount_order: 16 bits
    out.extend(HEADER_BYTES.to_be_bytes());
    out.extend(BACKING_FORMAT.to_be_bytes());
    out.extend(word(format.len() as u64));
    out.extend(format);
    out.resize(HEADER_BYTES as usize + extension, 0);
    out.extend([0; 8]); // end of header extensions
    out.extend(header.name.as_bytes());
    out
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

/// Converts a table size of one image, at most some megabytes.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The next offset at which one of the disks has data.
fn next_data(disk: &File, base: &File, at: u64) -> io::Result<Option<u64>> {
    let of = |file: &File| Ok::<_, io::Error>(sparse::next_data(file, at)?.map(|data| data.start));
    Ok([of(disk)?, of(base)?].into_iter().flatten().min())
}

/// Reads a cluster; beyond the end of the file it is zeros.
fn read(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}
