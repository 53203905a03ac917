//! The clusters in a qcow2 overlay itself, which were written after the overlay was created. The
//! backing file is not read.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use flate2::{Decompress, FlushDecompress};

use crate::{
    Result, StoreError,
    extents::{Extent, ExtentSource, MAX_EXTENT_BYTES},
};

/// The magic number of qcow2: "QFI" and 0xfb.
const MAGIC: u32 = 0x5146_49fb;

/// Maximum size of the L1 table in bytes; QEMU has the same limit.
const MAX_L1_BYTES: u64 = 32 << 20;

/// The bits of a table entry that are an offset in the file.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Supported incompatible features: dirty reference counts, which only concern writers, and the
/// type of compression.
const KNOWN_FEATURES: u64 = 1 | 1 << 3;

/// The window size of deflate streams, as a power of two; fixed by the format.
const WINDOW_BITS: u8 = 12;

/// The clusters that an overlay itself contains.
#[derive(Debug)]
pub struct OverlaySource {
    path: PathBuf,
    file: File,
    disk_bytes: u64,
    cluster_bits: u32,
    zstd: bool,
    l1: Vec<u64>,
    /// The L2 table in memory, with its index in the L1 table.
    l2: Option<(usize, Vec<u64>)>,
    next: u64,
    /// The second half of a cluster of 2 MiB.
    rest: Option<Extent>,
}

/// The content of a cluster of the disk in this file.
enum Cluster {
    Absent,
    Zeros,
    Plain(u64),
    Packed(u64),
}

impl OverlaySource {
    /// Opens a qcow2 file.
    ///
    /// # Errors
    /// Fails if the file cannot be read, is not qcow2, or uses features that overlays of running
    /// guests do not have (encryption, external data, subclusters).
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
        Self::new(file, path)
    }

    /// Same as [`OverlaySource::open`], for an open file; the path is only for errors.
    ///
    /// # Errors
    /// Fails for the same reasons as [`OverlaySource::open`].
    pub fn new(file: File, path: &Path) -> Result<Self> {
        let bad = |reason| StoreError::Qcow2 { path: path.to_owned(), reason };
        let mut header = [0; 112];
        let count = file.read_at(&mut header, 0).map_err(|e| StoreError::io("read", path, e))?;
        let u32_at = |at: usize| be32(&header[at..]);
        let u64_at = |at: usize| be64(&header[at..]);
        if count < 72 || u32_at(0) != MAGIC {
            return Err(bad("it is no qcow2"));
        }
        let version = u32_at(4);
        let features = if version >= 3 && count >= 104 { u64_at(72) } else { 0 };
        let cluster_bits = u32_at(20);
        let disk_bytes = u64_at(24);
        if !(2..=3).contains(&version) || features & !KNOWN_FEATURES != 0 || u32_at(32) != 0 {
            return Err(bad("it has a version, a feature or an encryption that is not supported"));
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(bad("its clusters have an impossible size"));
        }
        let entries = u64::from(u32_at(36));
        let bytes_per_entry = 1u64 << (2 * cluster_bits - 3);
        if entries * 8 > MAX_L1_BYTES || entries < disk_bytes.div_ceil(bytes_per_entry) {
            return Err(bad("its first table has an impossible size"));
        }
        let zstd = features & 1 << 3 != 0 && header[104] == 1;
        let mut overlay = Self {
            path: path.to_owned(),
            file,
            disk_bytes,
            cluster_bits,
            zstd,
            l1: Vec::new(),
            l2: None,
            next: 0,
            rest: None,
        };
        let entries = usize::try_from(entries).unwrap_or_default();
        overlay.l1 = overlay
            .table(u64_at(40), entries)
            .map_err(|e| StoreError::io("read a table of", path, e))?;
        Ok(overlay)
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn table(&self, at: u64, entries: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; entries * 8];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes.chunks_exact(8).map(be64).collect())
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the cluster at an offset, and the end of the range for which this answer is valid.
    fn lookup(&mut self, offset: u64) -> io::Result<(Cluster, u64)> {
        let per_table = 1usize << (self.cluster_bits - 3);
        let index = usize::try_from(offset >> self.cluster_bits).unwrap_or(usize::MAX);
        let (table, slot) = (index / per_table, index % per_table);
        let next_table = (table as u64 + 1).saturating_mul(per_table as u64) << self.cluster_bits;
        let Some(place) = self.l1.get(table).map(|entry| entry & PLACE).filter(|at| *at != 0)
        else {
            return Ok((Cluster::Absent, next_table));
        };
        if self.l2.as_ref().is_none_or(|(open, _)| *open != table) {
            self.l2 = Some((table, self.table(place, per_table)?));
        }
        let entry = self.l2.as_ref().map_or(0, |(_, entries)| entries[slot]);
        let cluster = if entry & COMPRESSED != 0 {
            Cluster::Packed(entry)
        } else if entry & ZERO != 0 {
            Cluster::Zeros
        } else if entry & PLACE != 0 {
            Cluster::Plain(entry & PLACE)
        } else {
            Cluster::Absent
        };
        Ok((cluster, offset + self.cluster_bytes()))
    }

    fn unpack(&self, entry: u64) -> io::Result<Vec<u8>> {
        let place_bits = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << place_bits) - 1);
        let sectors = (entry & !COMPRESSED & !(1 << 63)) >> place_bits;
        let size = (sectors + 1) * 512 - at % 512;
        let mut packed = vec![0; usize::try_from(size).unwrap_or_default()];
        // The file may end within the last sector.
        let count = read_up_to(&self.file, &mut packed, at)?;
        packed.truncate(count);
        let cluster = usize::try_from(self.cluster_bytes()).unwrap_or_default();
        let mut data = vec![0; cluster];
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "a damaged compressed cluster");
        let produced = if self.zstd {
            // The sectors are longer than the frame in them.
            let frame = zstd::zstd_safe::find_frame_compressed_size(&packed).map_err(|_| bad())?;
            zstd::bulk::decompress_to_buffer(&packed[..frame], &mut data)?
        } else {
            let mut inflate = Decompress::new_with_window_bits(false, WINDOW_BITS);
            inflate.decompress(&packed, &mut data, FlushDecompress::Finish)?;
            usize::try_from(inflate.total_out()).unwrap_or_default()
        };
        if produced == cluster { Ok(data) } else { Err(bad()) }
    }
}

impl ExtentSource for OverlaySource {
    fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn next_extent(&mut self) -> io::Result<Option<Extent>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        while self.next < self.disk_bytes {
            let offset = self.next;
            let (cluster, next) = self.lookup(offset)?;
            self.next = next;
            let end = next.min(self.disk_bytes);
            let length = end - offset;
            let whole = usize::try_from(length).unwrap_or_default();
            let mut bytes = match cluster {
                Cluster::Absent => continue,
                Cluster::Zeros => return Ok(Some(Extent::Zeros { offset, length })),
                Cluster::Plain(at) => {
                    let mut bytes = vec![0; whole];
                    // The file may end within its last cluster.
                    read_up_to(&self.file, &mut bytes, at)?;
                    bytes
                }
                Cluster::Packed(entry) => self.unpack(entry)?,
            };
            bytes.truncate(whole);
            if bytes.iter().all(|b| *b == 0) {
                return Ok(Some(Extent::Zeros { offset, length }));
            }
            if bytes.len() > MAX_EXTENT_BYTES {
                let rest = bytes.split_off(MAX_EXTENT_BYTES);
                let at = offset + MAX_EXTENT_BYTES as u64;
                self.rest = Some(Extent::Data { offset: at, bytes: rest });
            }
            return Ok(Some(Extent::Data { offset, bytes }));
        }
        Ok(None)
    }
}

fn read_up_to(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn be32(bytes: &[u8]) -> u32 {
    bytes[..4].iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes[..8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}
