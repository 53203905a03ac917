//! Finds a partition on a raw disk by its number: in an MBR with logical partitions, or in a GPT.
//! All numbers on the disk are untrusted, so offsets are checked before each read and the number of
//! reads is bounded.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use crate::BaseError;

/// The sector size that MBR fields count in.
const SECTOR_BYTES: u64 = 512;
/// Possible sector sizes of a GPT, in search order.
const GPT_SECTORS_BYTES: [u64; 2] = [512, 4096];
/// Maximum partitions in a table: the default size of a GPT, and Linux's limit for logical ones.
const PARTITIONS_MAX: u32 = 128;
/// Maximum size of a GPT entry; the usual size is 128 bytes.
const GPT_ENTRY_MAX_BYTES: u32 = 4096;
/// The first number of a logical partition.
const FIRST_LOGICAL: u32 = 5;
/// The type of the protective MBR entry on a disk with a GPT.
const PROTECTIVE: u8 = 0xee;
/// Types of extended partitions, which contain logical ones.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// The offset of the partition from the start of the disk, in bytes.
    pub offset: u64,
    /// The size of the partition in bytes.
    pub bytes: u64,
}

/// Finds a partition of a raw disk, by its number from 1.
///
/// # Errors
/// Fails if the disk has no table, or no partition of that number.
pub fn partition(raw: &Path, number: u32) -> Result<Partition, BaseError> {
    let file = File::open(raw).map_err(|e| BaseError::io("open", raw, e))?;
    let bytes = file.metadata().map_err(|e| BaseError::io("read", raw, e))?.len();
    let disk = Disk { bytes, read: &|at, buffer| file.read_exact_at(buffer, at) };
    disk.partition(number).map_err(|fault| match fault {
        Fault::Read(error) => BaseError::io("read", raw, error),
        Fault::Table(reason) => BaseError::image(raw, reason),
    })
}

/// A disk with random access.
pub(crate) struct Disk<'a> {
    /// The size of the disk in bytes.
    pub(crate) bytes: u64,
    /// Fills a buffer from an offset.
    pub(crate) read: &'a dyn Fn(u64, &mut [u8]) -> io::Result<()>,
}

/// Why a partition was not found.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The disk cannot be read.
    Read(io::Error),
    /// The table does not contain it.
    Table(String),
}

fn table<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Table(reason.into()))
}

/// An entry of an MBR.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u8,
    start: u32,
    sectors: u32,
}

impl Entry {
    fn is_empty(self) -> bool {
        self.kind == 0 || self.sectors == 0
    }

    fn is_extended(self) -> bool {
        EXTENDED.contains(&self.kind)
    }
}

impl Disk<'_> {
    pub(crate) fn partition(&self, number: u32) -> Result<Partition, Fault> {
        if !(1..=PARTITIONS_MAX).contains(&number) {
            return table(format!("partitions are counted from 1 to {PARTITIONS_MAX}"));
        }
        let Some(entries) = self.entries(0)? else {
            return table("it has no partition table");
        };
        if entries.iter().any(|entry| entry.kind == PROTECTIVE) {
            return self.of_gpt(number);
        }
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        match entries.get(index) {
            Some(entry) if entry.is_empty() => table(format!("partition {number} is empty")),
            Some(entry) => self.sectors(entry.start.into(), entry.sectors.into()),
            None => self.logical(&entries, number),
        }
    }

    /// The entries of an MBR or EBR; `None` if the sector has no table.
    fn entries(&self, sector: u64) -> Result<Option<[Entry; 4]>, Fault> {
        let mut bytes = [0; 512];
        let Some(at) = self.place(sector, SECTOR_BYTES, 512) else { return Ok(None) };
        (self.read)(at, &mut bytes).map_err(Fault::Read)?;
        let of = |index: usize| {
            let entry = &bytes[446 + 16 * index..446 + 16 * (index + 1)];
            let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| entry[at + byte]));
            // Other values are code of a boot sector or filesystem, which has no table.
            let is_flag = matches!(entry[0], 0 | 0x80);
            is_flag.then(|| Entry { kind: entry[4], start: number(8), sectors: number(12) })
        };
        let [Some(a), Some(b), Some(c), Some(d)] = [0, 1, 2, 3].map(of) else { return Ok(None) };
        Ok((bytes[510..] == [0x55, 0xaa]).then_some([a, b, c, d]))
    }

    /// Follows the chain of extended boot records.
    fn logical(&self, entries: &[Entry; 4], number: u32) -> Result<Partition, Fault> {
        let missing = || table(format!("there is no partition {number}"));
        let Some(extended) = entries.iter().find(|entry| entry.is_extended()) else {
            return missing();
        };
        let extended = u64::from(extended.start);
        let mut at = extended;
        for current in FIRST_LOGICAL..=PARTITIONS_MAX {
            let Some([own, next, ..]) = self.entries(at)? else { return missing() };
            if current == number {
                return match own.is_empty() {
                    true => table(format!("partition {number} is empty")),
                    false => self.sectors(at + u64::from(own.start), own.sectors.into()),
                };
            }
            if next.is_empty() || !next.is_extended() {
                return missing();
            }
            at = extended + u64::from(next.start);
        }
        missing()
    }

    fn of_gpt(&self, number: u32) -> Result<Partition, Fault> {
        for sector_bytes in GPT_SECTORS_BYTES {
            let mut header = [0; 92];
            let Some(at) = self.place(1, sector_bytes, 92) else { continue };
            (self.read)(at, &mut header).map_err(Fault::Read)?;
            if !header.starts_with(b"EFI PART") {
                continue;
            }
            let (count, entry_bytes) = (number_at(&header, 80), number_at(&header, 84));
            if !(128..=GPT_ENTRY_MAX_BYTES).contains(&entry_bytes) {
                return table("its partition table is damaged");
            }
            if number > count {
                return table(format!("there is no partition {number}"));
            }
            let place = self.place(long_at(&header, 72), sector_bytes, 0).and_then(|entries| {
                let at = entries.checked_add(u64::from(number - 1) * u64::from(entry_bytes))?;
                at.checked_add(128).filter(|end| *end <= self.bytes).map(|_| at)
            });
            let Some(at) = place else { return table("its partition table is damaged") };
            let mut entry = [0; 128];
            (self.read)(at, &mut entry).map_err(Fault::Read)?;
            if entry[..16] == [0; 16] {
                return table(format!("partition {number} is empty"));
            }
            let (first, last) = (long_at(&entry, 32), long_at(&entry, 40));
            let sectors = last.checked_sub(first).and_then(|count| count.checked_add(1));
            let unit = sector_bytes / SECTOR_BYTES;
            let part = sectors
                .and_then(|count| Some((first.checked_mul(unit)?, count.checked_mul(unit)?)));
            let Some((start, sectors)) = part else {
                return table("its partition table is damaged");
            };
            return self.sectors(start, sectors);
        }
        table("the GPT that its MBR speaks of is not there")
    }

    /// The byte offset of a sector, if that many bytes of it are on the disk.
    fn place(&self, sector: u64, sector_bytes: u64, bytes: u64) -> Option<u64> {
        let at = sector.checked_mul(sector_bytes)?;
        at.checked_add(bytes).filter(|end| *end <= self.bytes)?;
        Some(at)
    }

    fn sectors(&self, start: u64, sectors: u64) -> Result<Partition, Fault> {
        let bytes = sectors.checked_mul(SECTOR_BYTES);
        let place = bytes.and_then(|bytes| Some((self.place(start, SECTOR_BYTES, bytes)?, bytes)));
        match place {
            Some((offset, bytes)) if offset > 0 => Ok(Partition { offset, bytes }),
            _ => table("the partition does not lie on the disk"),
        }
    }
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]))
}

fn long_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(number_at(bytes, at + 4)) << 32 | u64::from(number_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(disk: &[u8], number: u32) -> Result<(u64, u64), String> {
        let read = |at: u64, buffer: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            buffer.copy_from_slice(&disk[at..at + buffer.len()]);
            Ok(())
        };
        let found = Disk { bytes: disk.len() as u64, read: &read }.partition(number);
        found.map(|part| (part.offset / 512, part.bytes / 512)).map_err(|fault| match fault {
            Fault::Read(error) => error.to_string(),
            Fault::Table(reason) => reason,
        })
    }

    fn entry(disk: &mut [u8], sector: usize, index: usize, (kind, start, sectors): (u8, u32, u32)) {
        let at = sector * 512 + 446 + 16 * index;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn primary_and_logical_partitions() {
        let mut disk = vec![0; 1000 * 512];
        assert_eq!(find(&disk, 1).unwrap_err(), "it has no partition table");
        entry(&mut disk, 0, 0, (0x83, 10, 20));
        entry(&mut disk, 0, 2, (0x0f, 100, 800));
        entry(&mut disk, 100, 0, (0x83, 5, 50));
        entry(&mut disk, 100, 1, (0x05, 200, 100));
        entry(&mut disk, 300, 0, (0x83, 7, 60));
        assert_eq!(find(&disk, 1), Ok((10, 20)));
        assert_eq!(find(&disk, 5), Ok((105, 50)));
        assert_eq!(find(&disk, 6), Ok((307, 60)));
        for (number, reason) in [
            (0, "partitions are counted from 1 to 128"),
            (2, "partition 2 is empty"),
            (7, "there is no partition 7"),
            (129, "partitions are counted from 1 to 128"),
        ] {
            assert_eq!(find(&disk, number).unwrap_err(), reason);
        }
        // A cyclic chain ends at the limit of partitions.
        entry(&mut disk, 300, 1, (0x05, 0, 100));
        assert!(find(&disk, 128).is_ok(), "the same two, again and again, but not for ever");
        entry(&mut disk, 0, 3, (0x83, 990, 11));
        assert_eq!(find(&disk, 4).unwrap_err(), "the partition does not lie on the disk");
        // A boot sector without a partition table.
        disk[446] = 0x12;
        assert_eq!(find(&disk, 1).unwrap_err(), "it has no partition table");
    }

    #[test]
    fn a_gpt_of_either_sector_size() {
        for sector in [512, 4096] {
            let mut disk = vec![0; 2 << 20];
            entry(&mut disk, 0, 0, (PROTECTIVE, 1, u32::MAX));
            disk[sector..sector + 8].copy_from_slice(b"EFI PART");
            disk[sector + 72] = 2;
            disk[sector + 80] = 128;
            disk[sector + 84] = 128;
            let at = 2 * sector + 128;
            disk[at] = 1;
            disk[at + 32] = 40;
            disk[at + 40] = 79;
            let unit = sector as u64 / 512;
            assert_eq!(find(&disk, 2), Ok((40 * unit, 40 * unit)));
            assert_eq!(find(&disk, 1).unwrap_err(), "partition 1 is empty");
            disk[sector + 80] = 1;
            assert_eq!(find(&disk, 2).unwrap_err(), "there is no partition 2");
            disk[sector + 79] = 0x80;
            assert_eq!(find(&disk, 1).unwrap_err(), "its partition table is damaged");
            disk[sector] = 0;
            assert!(find(&disk, 1).unwrap_err().starts_with("the GPT"));
        }
    }
}
