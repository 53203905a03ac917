//! Partition tables as bytes: where each partition goes, and what is written
//! where on the disk. The tables themselves are encoded by gptman and mbrman.
//!
//! The guest never runs a partitioner: the host computes the few sectors, the
//! agent writes them, and the kernel reads the table again.

use std::io::{Read, Seek, SeekFrom, Write};

use mbrman::{CHS, LogicalPartition, MBRPartitionEntry};
use plan::{PartitionTable, Size, TableLabel};
use uuid::Uuid;

/// The heads and sectors that every BIOS of the last decades pretends.
const CHS_HEADS: u32 = 255;
/// See [`CHS_HEADS`].
const CHS_SECTORS: u32 = 63;
/// The type of the extended partition that holds the logical ones (LBA form).
const EXTENDED_TYPE: u8 = 0x0f;
/// GPT keeps 33 blocks of backup at the end; diskimage-builder leaves a whole
/// alignment unit free, so that sizes come out the same.
const MIB: u64 = 1024 * 1024;

/// Why a table cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The partitions do not fit.
    #[error(
        "partition `{name}` needs {needed} bytes, but only {left} of the {disk} bytes of disk `{disk_name}` are left"
    )]
    Full {
        /// The partition.
        name: String,
        /// The disk.
        disk_name: String,
        /// What it needs.
        needed: u64,
        /// What is left.
        left: u64,
        /// The size of the disk.
        disk: u64,
    },
    /// A type that is no type.
    #[error("partition `{name}` has the type `{type_code}`, which is no {label} type code")]
    Type {
        /// The partition.
        name: String,
        /// Its type.
        type_code: String,
        /// The kind of table.
        label: &'static str,
    },
    /// Too many primary partitions, or primaries after logical ones.
    #[error("the partitions of disk `{disk}` cannot be written to an MBR: {reason}")]
    Mbr {
        /// The disk.
        disk: String,
        /// Why.
        reason: String,
    },
    /// The encoder refused.
    #[error("the partition table of disk `{disk}` cannot be encoded: {reason}")]
    Encode {
        /// The disk.
        disk: String,
        /// Why.
        reason: String,
    },
}

/// Where a partition ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// Its number as the kernel counts.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// A table ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableImage {
    /// Offset and bytes of each write.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// The partitions.
    pub partitions: Vec<Placed>,
}

/// Lays a table out on a disk of `disk_bytes` with blocks of `block_bytes`.
/// `id` gives the identifiers: the same name gives the same one.
///
/// # Errors
/// When partitions do not fit or cannot be expressed.
pub fn lay_out(
    table: &PartitionTable,
    disk_bytes: u64,
    block_bytes: u64,
    id: &dyn Fn(&str) -> Uuid,
) -> Result<TableImage, TableError> {
    match table.label {
        TableLabel::Gpt => gpt(table, disk_bytes, block_bytes, id),
        TableLabel::Mbr => mbr(table, disk_bytes, block_bytes, id),
    }
}

fn align_up(value: u64, align: u64) -> u64 {
    value.div_ceil(align).saturating_mul(align)
}

/// The size of a partition that starts at `start`, when `end` is the first
/// byte that it may not use.
fn size_of(
    table: &PartitionTable,
    index: usize,
    start: u64,
    end: u64,
    disk_bytes: u64,
) -> Result<u64, TableError> {
    let partition = &table.partitions[index];
    let left = end.saturating_sub(start);
    let unit = table.align.max(512);
    let share = |of: u64, milli: u32| {
        let bytes = u128::from(of) * u128::from(milli) / 100_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let wanted = match partition.size {
        Size::Bytes(bytes) => bytes,
        Size::MilliPercent(milli) => share(left, milli),
        Size::EndAt(offset) => offset.saturating_sub(start),
        Size::EndAtMilliPercent(milli) if milli >= 100_000 => left,
        Size::EndAtMilliPercent(milli) => share(disk_bytes, milli).saturating_sub(start),
    };
    let bytes = wanted / unit * unit;
    if bytes == 0 || bytes > left {
        return Err(TableError::Full {
            name: partition.name.clone(),
            disk_name: table.disk.clone(),
            needed: wanted.max(unit),
            left,
            disk: disk_bytes,
        });
    }
    Ok(bytes)
}

fn gpt(
    table: &PartitionTable,
    disk_bytes: u64,
    block_bytes: u64,
    id: &dyn Fn(&str) -> Uuid,
) -> Result<TableImage, TableError> {
    let encode = |reason: String| TableError::Encode { disk: table.disk.clone(), reason };
    let align = table.align.max(block_bytes);
    let mut image = SparseDisk::new(disk_bytes);
    let guid = id(&table.disk).to_bytes_le();
    let mut gpt =
        gptman::GPT::new_from(&mut image, block_bytes, guid).map_err(|e| encode(e.to_string()))?;
    let end = (disk_bytes.saturating_sub(MIB)) / align * align;
    let mut next = align_up(MIB, align);
    let mut placed = Vec::new();
    for (index, partition) in table.partitions.iter().enumerate() {
        let start = partition.start.map_or(next, |start| align_up(start, align).max(next));
        let bytes = size_of(table, index, start, end, disk_bytes)?;
        let type_guid = gpt_type(&partition.type_code).ok_or_else(|| TableError::Type {
            name: partition.name.clone(),
            type_code: partition.type_code.clone(),
            label: "GPT",
        })?;
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        gpt[number] = gptman::GPTPartitionEntry {
            partition_type_guid: type_guid.to_bytes_le(),
            unique_partition_guid: id(&partition.name).to_bytes_le(),
            starting_lba: start / block_bytes,
            ending_lba: (start + bytes) / block_bytes - 1,
            attribute_bits: if partition.boot { 1 << 2 } else { 0 },
            partition_name: partition.name.as_str().into(),
        };
        placed.push(Placed { name: partition.name.clone(), number, start, bytes });
        next = align_up(start + bytes, align);
    }
    gptman::GPT::write_protective_mbr_into(&mut image, block_bytes)
        .map_err(|e| encode(e.to_string()))?;
    gpt.write_into(&mut image).map_err(|e| encode(e.to_string()))?;
    Ok(TableImage { writes: image.into_writes(), partitions: placed })
}

/// GUIDs of the sgdisk codes that image recipes use (sgdisk(8), `-L`); any
/// other type is given as a GUID itself.
fn gpt_type(code: &str) -> Option<Uuid> {
    let guid = match code.to_ascii_uppercase().as_str() {
        "EF00" => "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "EF02" => "21686148-6449-6e6f-744e-656564454649",
        "8200" => "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
        "8300" | "83" | "" => "0fc63daf-8483-4772-8e79-3d69d8477de4",
        "8302" => "933ac7e1-2eb4-4f13-b844-0e14e2aef915",
        "8303" => "44479540-f297-41b2-9af7-d131d5f0458a",
        "8304" => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "8305" => "b921b045-1df0-41c3-af44-4c6f280d3fae",
        "8309" => "ca7d7ccb-63ed-4c53-861c-1742536059cc",
        "8E00" => "e6d6d379-f507-44c2-a23c-238f2a3df928",
        "FD00" => "a19d880f-05fc-4d3b-a006-743f0f84911e",
        "4100" => "9e1a2d38-c612-4316-aa26-8b49521e5a8b",
        "0700" => "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
        other => return Uuid::parse_str(other).ok(),
    };
    Uuid::parse_str(guid).ok()
}

fn chs(lba: u64) -> CHS {
    let cylinder = lba / u64::from(CHS_HEADS * CHS_SECTORS);
    let within = lba % u64::from(CHS_HEADS * CHS_SECTORS);
    match u16::try_from(cylinder) {
        Ok(cylinder) if cylinder <= 1023 => {
            let head = u8::try_from(within / u64::from(CHS_SECTORS)).unwrap_or(u8::MAX);
            let sector = u8::try_from(within % u64::from(CHS_SECTORS) + 1).unwrap_or(63);
            CHS::new(cylinder, head, sector)
        }
        _ => CHS::new(1023, 254, 63),
    }
}

fn mbr_entry(start: u64, sectors: u64, sys: u8, boot: bool) -> MBRPartitionEntry {
    MBRPartitionEntry {
        boot: if boot { mbrman::BOOT_ACTIVE } else { mbrman::BOOT_INACTIVE },
        first_chs: chs(start),
        sys,
        last_chs: chs(start + sectors - 1),
        starting_lba: u32::try_from(start).unwrap_or(u32::MAX),
        sectors: u32::try_from(sectors).unwrap_or(u32::MAX),
    }
}

fn mbr_type(table: &PartitionTable, index: usize) -> Result<u8, TableError> {
    let partition = &table.partitions[index];
    let digits = partition.type_code.trim_start_matches("0x");
    u8::from_str_radix(digits, 16).map_err(|_| TableError::Type {
        name: partition.name.clone(),
        type_code: partition.type_code.clone(),
        label: "MBR",
    })
}

fn mbr(
    table: &PartitionTable,
    disk_bytes: u64,
    block_bytes: u64,
    id: &dyn Fn(&str) -> Uuid,
) -> Result<TableImage, TableError> {
    let fault = |reason: String| TableError::Mbr { disk: table.disk.clone(), reason };
    let encode = |reason: String| TableError::Encode { disk: table.disk.clone(), reason };
    let align = table.align.max(block_bytes);
    let sector = |bytes: u64| bytes / block_bytes;
    // The last alignment unit stays free, as diskimage-builder leaves it.
    let end = disk_bytes.saturating_sub(align) / align * align;
    if sector(end) > u64::from(u32::MAX) {
        return Err(fault("the disk is larger than 2^32 blocks".into()));
    }
    let mut image = SparseDisk::new(disk_bytes);
    let id_bytes = id(&table.disk).into_bytes();
    let signature = [id_bytes[0], id_bytes[1], id_bytes[2], id_bytes[3]];
    let block = u32::try_from(block_bytes).unwrap_or(512);
    let mut mbr =
        mbrman::MBR::new_from(&mut image, block, signature).map_err(|e| encode(e.to_string()))?;
    let primaries = table.partitions.iter().take_while(|partition| partition.primary).count();
    if table.partitions[primaries..].iter().any(|partition| partition.primary) {
        return Err(fault("all primary partitions must be given first".into()));
    }
    let logical = table.partitions.len() > primaries;
    if primaries + usize::from(logical) > 4 {
        return Err(fault("more than four entries".into()));
    }
    let mut next = align;
    let mut placed = Vec::new();
    for (index, partition) in table.partitions.iter().enumerate() {
        if index == primaries {
            let sectors = sector(end - next);
            mbr[primaries + 1] = mbr_entry(sector(next), sectors, EXTENDED_TYPE, false);
        }
        // Each logical partition has its own boot record one unit before it.
        let ebr = next;
        let gap = if partition.primary { 0 } else { align };
        let after = next + gap;
        let start = partition.start.map_or(after, |start| align_up(start, align).max(after));
        let bytes = size_of(table, index, start, end, disk_bytes)?;
        let entry =
            mbr_entry(sector(start), sector(bytes), mbr_type(table, index)?, partition.boot);
        let number = if partition.primary {
            mbr[index + 1] = entry;
            index + 1
        } else {
            let ebr_sectors = sector(start + bytes - ebr);
            mbr.logical_partitions.push(LogicalPartition {
                partition: entry,
                absolute_ebr_lba: u32::try_from(sector(ebr)).unwrap_or(u32::MAX),
                ebr_sectors: Some(u32::try_from(ebr_sectors).unwrap_or(u32::MAX)),
                ebr_first_chs: chs(sector(ebr)),
                ebr_last_chs: Some(chs(sector(ebr) + ebr_sectors - 1)),
                bootstrap_code: [0; 446],
            });
            5 + index - primaries
        };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        placed.push(Placed { name: partition.name.clone(), number, start, bytes });
        next = align_up(start + bytes, align);
    }
    mbr.write_into(&mut image).map_err(|e| encode(e.to_string()))?;
    Ok(TableImage { writes: image.into_writes(), partitions: placed })
}

/// A disk of which only the written bytes exist.
struct SparseDisk {
    bytes: u64,
    position: u64,
    writes: std::collections::BTreeMap<u64, Vec<u8>>,
}

impl SparseDisk {
    fn new(bytes: u64) -> Self {
        Self { bytes, position: 0, writes: std::collections::BTreeMap::new() }
    }

    /// The writes with touching ones joined.
    fn into_writes(self) -> Vec<(u64, Vec<u8>)> {
        let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
        for (offset, bytes) in self.writes {
            match joined.last_mut() {
                Some((start, last)) if *start + last.len() as u64 == offset => last.extend(bytes),
                _ => joined.push((offset, bytes)),
            }
        }
        joined
    }
}

impl Read for SparseDisk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // The encoders only seek; a fresh disk reads as zeros.
        buffer.fill(0);
        self.position += buffer.len() as u64;
        Ok(buffer.len())
    }
}

impl Write for SparseDisk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.position + bytes.len() as u64 > self.bytes {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        self.writes.insert(self.position, bytes.to_vec());
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for SparseDisk {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.bytes.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position =
            target.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use plan::Partition;

    use super::*;

    fn part(name: &str, size: Size, type_code: &str, primary: bool) -> Partition {
        Partition {
            name: name.into(),
            start: None,
            size,
            type_code: type_code.into(),
            boot: primary,
            primary,
        }
    }

    fn table(label: TableLabel, partitions: Vec<Partition>) -> PartitionTable {
        PartitionTable { disk: "image0".into(), label, align: MIB, partitions }
    }

    fn id(name: &str) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
    }

    #[test]
    fn a_full_primary_leaves_a_unit_at_each_end() {
        let table =
            table(TableLabel::Mbr, vec![part("root", Size::MilliPercent(100_000), "83", true)]);
        let image = lay_out(&table, 600 * MIB, 512, &id).unwrap();
        assert_eq!(
            image.partitions,
            [Placed { name: "root".into(), number: 1, start: MIB, bytes: 598 * MIB }]
        );
        let sector = &image.writes[0].1;
        assert_eq!(&sector[510..512], [0x55, 0xaa]);
        // Boot flag, LBA 2048, type 83, and a CHS end that is right (0x11, not 0x13).
        assert_eq!(sector[446], 0x80);
        assert_eq!(sector[450], 0x83);
        assert_eq!(sector[454..458], 2048_u32.to_le_bytes());
        assert_eq!(sector[452] & 0x3f, chs(599 * 2048 - 1).sector);
    }

    #[test]
    fn logical_partitions_count_from_five() {
        let logical = |n: usize| part(&format!("l{n}"), Size::Bytes(10 * MIB), "83", false);
        let mut partitions = vec![part("root", Size::Bytes(100 * MIB), "83", true)];
        partitions.extend((0..64).map(logical));
        let image = lay_out(&table(TableLabel::Mbr, partitions), 1024 * MIB, 512, &id).unwrap();
        let numbers: Vec<u32> = image.partitions.iter().map(|p| p.number).collect();
        assert_eq!(numbers[..3], [1, 5, 6]);
        assert_eq!(numbers.len(), 65);
        assert_eq!(image.partitions[1].start, 102 * MIB);
        assert_eq!(image.partitions[2].start, 113 * MIB);
    }

    #[test]
    fn gpt_places_in_order_and_keeps_the_backup() {
        let image = lay_out(
            &table(
                TableLabel::Gpt,
                vec![
                    part("ESP", Size::Bytes(8 * MIB), "EF00", false),
                    part("BSP", Size::Bytes(8 * MIB), "EF02", false),
                    part("root", Size::MilliPercent(100_000), "8300", false),
                ],
            ),
            1024 * MIB,
            512,
            &id,
        )
        .unwrap();
        let sizes: Vec<u64> = image.partitions.iter().map(|p| p.bytes / MIB).collect();
        assert_eq!(sizes, [8, 8, 1006]);
        // The backup header stands in the very last block.
        let last = image.writes.last().unwrap();
        assert!(last.0 + last.1.len() as u64 > 1024 * MIB - 512);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let table = table(TableLabel::Gpt, vec![part("pv", Size::Bytes(40 << 30), "8e00", false)]);
        let error = lay_out(&table, 5 << 30, 512, &id).unwrap_err();
        assert!(matches!(error, TableError::Full { ref name, .. } if name == "pv"), "{error}");
    }

    #[test]
    fn a_block_size_of_4096_moves_the_header() {
        let table =
            table(TableLabel::Gpt, vec![part("root", Size::MilliPercent(100_000), "8300", false)]);
        let image = lay_out(&table, 100 * MIB, 4096, &id).unwrap();
        let header = image
            .writes
            .iter()
            .find(|(offset, bytes)| *offset <= 4096 && 4096 < offset + bytes.len() as u64)
            .unwrap();
        let at = usize::try_from(4096 - header.0).unwrap();
        assert_eq!(&header.1[at..at + 8], b"EFI PART");
    }
}
