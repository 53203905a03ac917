//! Reads disk formats with a block table: VDI, VHD and VHDX, as vbuild and hypervisors write them.
//! Refuses differencing disks, and a VHDX whose log must be replayed.
//!
//! ```text
//!   header ─► table, one entry for each block of the disk ─► where its bytes are, or nowhere
//! ```

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use store::{Extent, ExtentTarget, RawTarget};

use crate::{
    BaseError, Magic,
    limits::{DISK_MAX_BYTES, Written},
    source::ImageFile,
};

/// Maximum table entries: 4 TiB in the smallest blocks, and 32 MiB of memory.
const ENTRIES_MAX: u64 = 1 << 22;
/// The smallest and the largest block size in use.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = (512 << 10)..=(256 << 20);
/// Bytes copied per operation.
const COPY_BYTES: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The cookie of a VHD's footer.
const FOOTER: &[u8; 8] = b"conectix";

/// A disk with its open file.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) file: ImageFile,
    magic: Option<Magic>,
}

/// The block table of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    /// The size of the disk in bytes.
    bytes: u64,
    /// The size of a block in bytes.
    block: u64,
    /// The file offset of each block; `None` means zeros.
    places: Vec<Option<u64>>,
}

impl Disk {
    /// A disk in the format that `magic` names.
    pub(crate) fn of(file: ImageFile, magic: Magic) -> Self {
        Self { file, magic: Some(magic) }
    }

    /// Detects a fixed VHD: a raw disk with a footer. The file name must end in `.vhd` too,
    /// because a guest can write a footer into its raw disk.
    pub(crate) fn fixed_vhd(file: &ImageFile) -> Result<bool, BaseError> {
        let is_named = file.path.extension().is_some_and(|end| end.eq_ignore_ascii_case("vhd"));
        let Some(at) = file.bytes()?.checked_sub(SECTOR).filter(|_| is_named) else {
            return Ok(false);
        };
        let mut cookie = [0; 8];
        let read = file.file.read_exact_at(&mut cookie, at);
        read.map_err(|e| BaseError::io("read", &file.path, e))?;
        Ok(&cookie == FOOTER)
    }

    /// Like [`Self::of`], for a fixed VHD.
    pub(crate) fn of_fixed_vhd(file: ImageFile) -> Self {
        Self { file, magic: None }
    }

    fn table(&self) -> Result<Table, BaseError> {
        let reader = Reader { file: &self.file.file, path: &self.file.path };
        match self.magic {
            Some(Magic::Vdi) => reader.vdi(),
            Some(Magic::Vhd) => reader.vhd(),
            Some(Magic::Vhdx) => reader.vhdx(),
            _ => {
                let bytes = self.file.bytes()?.saturating_sub(SECTOR);
                Ok(Table { bytes, block: bytes.max(1), places: vec![Some(0)] })
            }
        }
    }
}

/// Disk size, block size, and number of table entries.
pub(crate) fn shape(file: ImageFile, magic: Magic) -> Result<(u64, u64, usize), BaseError> {
    let table = Disk::of(file, magic).table()?;
    Ok((table.bytes, table.block, table.places.len()))
}

/// Converts the disk to raw.
pub(crate) fn unpack(disk: &Disk, to: &Path, limits: &mut Written) -> Result<(), BaseError> {
    let path = &disk.file.path;
    let table = disk.table()?;
    let mut raw = RawTarget::create(to, table.bytes)
        .map_err(|source| BaseError::Qcow2 { path: to.to_owned(), source })?;
    for (index, place) in table.places.iter().enumerate() {
        let Some(place) = *place else { continue };
        let start = index as u64 * table.block;
        let end = start.saturating_add(table.block).min(table.bytes);
        let mut at = start;
        while at < end {
            let length = COPY_BYTES.min(end - at);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            let from = place.checked_add(at - start);
            let from = from.ok_or_else(|| BaseError::image(path, "a block lies nowhere"))?;
            let read = disk.file.file.read_exact_at(&mut bytes, from);
            read.map_err(|_| BaseError::image(path, "a block lies behind the end of the file"))?;
            if bytes.iter().any(|byte| *byte != 0) {
                let extent = Extent::Data { offset: at, bytes };
                limits.add(path, &extent)?;
                raw.extent(&extent).map_err(|e| BaseError::io("write", to, e))?;
            }
            at += length;
        }
    }
    Ok(())
}

struct Reader<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Reader<'_> {
    fn bad(&self, reason: &str) -> BaseError {
        BaseError::image(self.path, reason)
    }

    fn bytes(&self, at: u64, count: u64) -> Result<Vec<u8>, BaseError> {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|_| self.bad("it is cut off"))?;
        Ok(bytes)
    }

    /// The number of table entries of a disk, within all limits.
    fn entries(&self, bytes: u64, block: u64) -> Result<u64, BaseError> {
        if bytes == 0 || bytes > DISK_MAX_BYTES || !BLOCK_BYTES.contains(&block) {
            return Err(self.bad("its disk has an impossible size"));
        }
        let entries = bytes.div_ceil(block);
        if entries > ENTRIES_MAX {
            return Err(self.bad("its table is larger than is read"));
        }
        Ok(entries)
    }

    fn vdi(&self) -> Result<Table, BaseError> {
        const UNUSED: u32 = 0xffff_fffe;
        let header = self.bytes(0, 512)?;
        if u32_le(&header, 0x4c) > 2 {
            return Err(self.bad("it is a snapshot that depends on another file"));
        }
        let (map, data) = (u32_le(&header, 0x154), u32_le(&header, 0x158));
        let (bytes, block) = (u64_le(&header, 0x170), u64::from(u32_le(&header, 0x178)));
        let entries = self.entries(bytes, block)?;
        let map = self.bytes(map.into(), entries * 4)?;
        let place = |entry: &[u8]| match u32_le(entry, 0) {
            UNUSED.. => None,
            number => Some(u64::from(data) + u64::from(number) * block),
        };
        Ok(Table { bytes, block, places: map.chunks_exact(4).map(place).collect() })
    }

    fn vhd(&self) -> Result<Table, BaseError> {
        const DYNAMIC: u32 = 3;
        let footer = self.bytes(0, 512)?;
        if u32_be(&footer, 60) != DYNAMIC {
            return Err(self.bad("it is a snapshot that depends on another file"));
        }
        let (bytes, header_at) = (u64_be(&footer, 48), u64_be(&footer, 16));
        let header = self.bytes(header_at, 1024)?;
        if &header[..8] != b"cxsparse" {
            return Err(self.bad("its header is damaged"));
        }
        let (table_at, block) = (u64_be(&header, 16), u64::from(u32_be(&header, 32)));
        let entries = self.entries(bytes, block)?;
        if u64::from(u32_be(&header, 28)) < entries {
            return Err(self.bad("its table is too short"));
        }
        let map = self.bytes(table_at, entries * 4)?;
        // A bitmap precedes each block; a sector whose bit is clear reads as zeros.
        let bits = (block / SECTOR / 8).next_multiple_of(SECTOR);
        let place = |entry: &[u8]| match u32_be(entry, 0) {
            u32::MAX => None,
            sector => Some(u64::from(sector) * SECTOR + bits),
        };
        Ok(Table { bytes, block, places: map.chunks_exact(4).map(place).collect() })
    }

    fn vhdx(&self) -> Result<Table, BaseError> {
        const PRESENT: u64 = 6;
        const PARTIAL: u64 = 7;
        const REGIONS_AT: u64 = 192 << 10;
        let header = self.newer_header()?;
        if header[48..64].iter().any(|byte| *byte != 0) {
            return Err(self.bad("it was not closed: its log must be replayed first"));
        }
        let regions = self.bytes(REGIONS_AT, 64 << 10)?;
        if &regions[..4] != b"regi" {
            return Err(self.bad("its regions are damaged"));
        }
        let count = usize::try_from(u32_le(&regions, 8).min(2047)).unwrap_or_default();
        let rows: Vec<&[u8]> = regions[16..].chunks_exact(32).take(count).collect();
        let region = |guid: u128| {
            let row = rows.iter().find(|row| row[..16] == uuid_bytes(guid));
            row.map(|row| u64_le(row, 16)).ok_or_else(|| self.bad("it lacks a region"))
        };
        let table_at = region(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08)?;
        let metadata_at = region(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e)?;
        let metadata = self.bytes(metadata_at, 64 << 10)?;
        let count = usize::from(u16::from_le_bytes([metadata[10], metadata[11]]).min(2047));
        let items: Vec<&[u8]> = metadata[32..].chunks_exact(32).take(count).collect();
        let item = |guid: u128| -> Result<Vec<u8>, BaseError> {
            let row = items.iter().find(|row| row[..16] == uuid_bytes(guid));
            let offset = row.map(|row| u32_le(row, 16));
            let offset = offset.ok_or_else(|| self.bad("it lacks an item of metadata"))?;
            self.bytes(metadata_at.saturating_add(offset.into()), 8)
        };
        let parameters = item(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b)?;
        let bytes = u64_le(&item(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8)?, 0);
        let sector = u64::from(u32_le(&item(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f)?, 0));
        if u32_le(&parameters, 4) & 2 != 0 {
            return Err(self.bad("it is a snapshot that depends on another file"));
        }
        let block = u64::from(u32_le(&parameters, 0));
        let blocks = self.entries(bytes, block)?;
        if !matches!(sector, 512 | 4096) {
            return Err(self.bad("its sectors have an impossible size"));
        }
        // After each chunk of blocks, the table has an entry for a sector bitmap, which only
        // differencing disks use.
        let chunk = ((sector << 23) / block).max(1);
        let entries = blocks + (blocks - 1) / chunk;
        let map = self.bytes(table_at, entries * 8)?;
        let mut places = Vec::new();
        for (index, entry) in map.chunks_exact(8).enumerate() {
            if (index as u64 + 1).is_multiple_of(chunk + 1) {
                continue;
            }
            let entry = u64_le(entry, 0);
            places.push(match entry & 7 {
                PRESENT => Some((entry >> 20) << 20),
                PARTIAL => return Err(self.bad("it is a snapshot that depends on another file")),
                _ => None,
            });
        }
        Ok(Table { bytes, block, places })
    }

    /// The more recent of the two headers of a VHDX.
    fn newer_header(&self) -> Result<Vec<u8>, BaseError> {
        let headers = [64 << 10, 128 << 10].map(|at| self.bytes(at, 4096));
        let sound = headers.into_iter().filter_map(Result::ok).filter(|h| &h[..4] == b"head");
        let newest = sound.max_by_key(|header| u64_le(header, 8));
        newest.ok_or_else(|| self.bad("its headers are damaged"))
    }
}

/// A GUID in its file representation: its first three parts are little-endian.
fn uuid_bytes(guid: u128) -> [u8; 16] {
    let mut bytes = guid.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_le(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn u64_be(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..at + N).and_then(|part| part.try_into().ok());
    found.unwrap_or([0; N])
}
