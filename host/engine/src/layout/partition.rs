//! Creates partition tables: computes the place of each partition, and the bytes to write to the
//! disk. The tables themselves are encoded by gptman and mbrman.
//!
//! No partitioner runs in the guest to create a table: the host computes the few sectors, the agent
//! writes them, and the kernel reads the table again.

mod gpt_types;
mod sparse_disk;

use std::io::{Seek, SeekFrom, Write};

use mbrman::{CHS, LogicalPartition, MBRPartitionEntry};
use plan::{
    Disk, DiskSize, Extended, NodeKind, Partition, PartitionTable, Placing, Plan, Size, TableLabel,
};
use uuid::Uuid;

use sparse_disk::SparseDisk;

/// The number of heads in CHS addresses, as every BIOS of the last decades reports it.
const CHS_HEADS: u32 = 255;
/// The number of sectors per track in CHS addresses; see [`CHS_HEADS`].
const CHS_SECTORS: u32 = 63;
/// The type of the extended partition that contains the logical ones (LBA form).
const EXTENDED_TYPE: u8 = 0x0f;
/// One MiB, which the partitions of a GPT leave free at each end of the disk. The backup table at
/// the end needs only 33 blocks, but diskimage-builder leaves a whole alignment unit free, and
/// sizes must be the same.
const MIB: u64 = 1024 * 1024;
/// The size of a sector of an MBR.
const SECTOR_BYTES: u64 = 512;

/// Errors of creating a partition table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A partition does not fit on the disk.
    #[error(
        "partition `{name}` needs {needed} bytes, but only {left} of the {disk} bytes of disk `{disk_name}` are left"
    )]
    Full {
        /// The name of the partition.
        name: String,
        /// The name of the disk.
        disk_name: String,
        /// The size that the partition needs, in bytes.
        needed: u64,
        /// The space that is left for it, in bytes.
        left: u64,
        /// The size of the disk in bytes.
        disk: u64,
    },
    /// The type code of a partition is not valid.
    #[error("partition `{name}` has the type `{type_code}`, which is no {label} type code")]
    Type {
        /// The name of the partition.
        name: String,
        /// The type code that was requested for the partition.
        type_code: String,
        /// The kind of table.
        label: &'static str,
    },
    /// The partitions cannot be represented in an MBR, for example because there are too many
    /// primary ones, or primary ones after logical ones.
    #[error("the partitions of disk `{disk}` cannot be written to an MBR: {reason}")]
    Mbr {
        /// The name of the disk.
        disk: String,
        /// The reason why an MBR cannot represent the partitions.
        reason: String,
    },
    /// The encoder of the table failed.
    #[error("the partition table of disk `{disk}` cannot be encoded: {reason}")]
    Encode {
        /// The name of the disk.
        disk: String,
        /// The error message of the encoder.
        reason: String,
    },
}

/// The place of a partition on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The name of the partition.
    pub(crate) name: String,
    /// The number of the partition as the kernel counts: from 1, and from 5 for logical partitions
    /// of an MBR.
    pub(crate) number: u32,
    /// The offset of the first byte.
    pub(crate) start: u64,
    /// The size in bytes.
    pub(crate) bytes: u64,
}

/// An encoded table that can be written to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableImage {
    /// The offset and the bytes of each write.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// The places of the partitions.
    pub(crate) partitions: Vec<Placed>,
}

/// The places of all parts of a table.
#[derive(Debug, Default)]
struct Arrangement {
    /// The partitions, in the order of the table.
    placed: Vec<Placed>,
    /// The extended partition of an MBR.
    extended: Option<Extended>,
    /// The offsets of the boot records of an MBR's logical partitions, in bytes.
    records: Vec<u64>,
}

/// Lays out a table on a disk of `disk_bytes` with blocks of `block_bytes`. `id` returns an
/// identifier for a name, always the same one for the same name.
///
/// # Errors
/// Fails if partitions do not fit, or cannot be represented in the table.
pub(crate) fn lay_out(
    table: &PartitionTable,
    disk_bytes: u64,
    block_bytes: u64,
    id: &dyn Fn(&str) -> Uuid,
) -> Result<TableImage, TableError> {
    let arranged = match table.placing {
        Placing::InOrder { align } => in_order(table, align.max(block_bytes), disk_bytes)?,
        Placing::Exact { extended } => exact(table, extended, disk_bytes, block_bytes)?,
    };
    match table.label {
        TableLabel::Gpt => gpt(table, arranged, disk_bytes, block_bytes, id),
        TableLabel::Mbr => mbr(table, arranged, disk_bytes, block_bytes, id),
    }
}

fn align_up(value: u64, align: u64) -> u64 {
    value.div_ceil(align).saturating_mul(align)
}

/// The space for a partition.
struct Room {
    /// The offset on the disk of the first byte that the partition may use.
    start: u64,
    /// The offset of the first byte that the partition may not use.
    end: u64,
    /// The number of bytes that percentages refer to.
    free: u64,
    /// The unit to which sizes are rounded down.
    unit: u64,
}

/// Computes the size of a partition in bytes. Fails if it does not fit, or is rounded down to zero.
fn size_of(
    table: &PartitionTable,
    index: usize,
    room: &Room,
    disk_bytes: u64,
) -> Result<u64, TableError> {
    let partition = &table.partitions[index];
    let Room { start, end, free, unit } = *room;
    let left = end.saturating_sub(start);
    let wanted = match partition.size {
        Size::Bytes(bytes) => bytes,
        Size::Percent(percent) => percent.of(free),
        Size::EndAt(offset) => offset.saturating_sub(start),
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

fn mbr_fault(table: &PartitionTable, reason: &str) -> TableError {
    TableError::Mbr { disk: table.disk.clone(), reason: reason.to_owned() }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Returns the number of primary partitions. Fails if an MBR has one of them after a logical one.
fn primaries(table: &PartitionTable) -> Result<usize, TableError> {
    if table.label == TableLabel::Gpt {
        return Ok(table.partitions.len());
    }
    let primaries = table.partitions.iter().take_while(|partition| partition.primary).count();
    if table.partitions[primaries..].iter().any(|partition| partition.primary) {
        return Err(mbr_fault(table, "all primary partitions must be given first"));
    }
    Ok(primaries)
}

/// Places the partitions one after the other, aligned, as diskimage-builder does.
fn in_order(
    table: &PartitionTable,
    align: u64,
    disk_bytes: u64,
) -> Result<Arrangement, TableError> {
    let is_gpt = table.label == TableLabel::Gpt;
    let (margin, unit) = if is_gpt { (MIB, MIB) } else { (align, SECTOR_BYTES) };
    let last = disk_bytes.saturating_sub(margin) / align * align;
    let primaries = primaries(table)?;
    let mut next = align_up(margin, align);
    // In diskimage-builder, sgdisk keeps 2 MiB free, and the requested sizes are subtracted, not
    // the rounded ones.
    let mut unused = disk_bytes.saturating_sub(2 * MIB);
    let mut arranged = Arrangement::default();
    for (index, partition) in table.partitions.iter().enumerate() {
        let is_logical = index >= primaries;
        if index == primaries {
            let number = number(primaries + 1);
            arranged.extended = Some(Extended { number, start: next, end: disk_bytes });
        }
        // Each logical partition has its own boot record one unit before it.
        let after = if is_logical { next + align } else { next };
        let start = partition.start.map_or(after, |start| align_up(start, align).max(after));
        let free = if is_gpt { unused } else { disk_bytes.saturating_sub(next + align) };
        let is_end = matches!(partition.size, Size::EndAt(_));
        // On an MBR, only sizes in percent leave the last unit free.
        let end = if is_gpt || is_end { last } else { disk_bytes };
        let unit = if is_end { align } else { unit };
        let bytes = size_of(table, index, &Room { start, end, free, unit }, disk_bytes)?;
        unused = unused.saturating_sub(match partition.size {
            Size::Bytes(bytes) => bytes,
            Size::Percent(percent) => percent.of(unused),
            Size::EndAt(_) => bytes,
        });
        if is_logical {
            arranged.records.push(next);
        }
        let number = number(if is_logical { 5 + index - primaries } else { index + 1 });
        arranged.placed.push(Placed { name: partition.name.clone(), number, start, bytes });
        next = align_up(start + bytes, align);
    }
    Ok(arranged)
}

/// Places every partition at the start that the plan gives.
fn exact(
    table: &PartitionTable,
    extended: Option<Extended>,
    disk_bytes: u64,
    block_bytes: u64,
) -> Result<Arrangement, TableError> {
    let mut arranged = Arrangement { extended, ..Arrangement::default() };
    let (mut primary, mut logical) = (0, 4);
    for (index, partition) in table.partitions.iter().enumerate() {
        let start = partition.start.unwrap_or_default();
        let free = disk_bytes.saturating_sub(start);
        let room = Room { start, end: disk_bytes, free, unit: block_bytes };
        let bytes = size_of(table, index, &room, disk_bytes)?;
        let number = if table.label == TableLabel::Gpt || partition.primary {
            primary += 1;
            if extended.is_some_and(|extended| extended.number == primary) {
                primary += 1;
            }
            primary
        } else {
            let extended =
                extended.ok_or_else(|| mbr_fault(table, "there is no extended partition"))?;
            // The chain of boot records begins at the start of the extended partition.
            let own = start.saturating_sub(block_bytes);
            arranged.records.push(if logical == 4 { extended.start } else { own });
            logical += 1;
            logical
        };
        arranged.placed.push(Placed { name: partition.name.clone(), number, start, bytes });
    }
    Ok(arranged)
}

fn gpt(
    table: &PartitionTable,
    arranged: Arrangement,
    disk_bytes: u64,
    block_bytes: u64,
    id: &dyn Fn(&str) -> Uuid,
) -> Result<TableImage, TableError> {
    let encode = |reason: String| TableError::Encode { disk: table.disk.clone(), reason };
    let mut image = SparseDisk::new(disk_bytes);
    let guid = id(&table.disk).to_bytes_le();
    let mut gpt =
        gptman::GPT::new_from(&mut image, block_bytes, guid).map_err(|e| encode(e.to_string()))?;
    for (partition, placed) in table.partitions.iter().zip(&arranged.placed) {
        let type_guid = gpt_type_of(partition)?;
        gpt[placed.number] = gptman::GPTPartitionEntry {
            partition_type_guid: type_guid.to_bytes_le(),
            unique_partition_guid: id(&partition.name).to_bytes_le(),
            starting_lba: placed.start / block_bytes,
            ending_lba: (placed.start + placed.bytes) / block_bytes - 1,
            attribute_bits: if partition.boot { 1 << 2 } else { 0 },
            partition_name: partition.name.as_str().into(),
        };
    }
    gptman::GPT::write_protective_mbr_into(&mut image, block_bytes)
        .map_err(|e| encode(e.to_string()))?;
    gpt.write_into(&mut image).map_err(|e| encode(e.to_string()))?;
    Ok(TableImage { writes: image.into_writes(), partitions: arranged.placed })
}

/// Checks the partition tables of a plan, as far as that is possible before a machine runs: type
/// codes always, places if the size of the disk is known. Returns an error for each faulty table.
#[must_use]
pub fn check_tables(plan: &Plan) -> Vec<TableError> {
    let tables = plan.nodes().filter_map(|node| match &node.kind {
        NodeKind::Table(table) => Some(table),
        _ => None,
    });
    tables.filter_map(|table| check_table(table, &plan.disks).err()).collect()
}

fn check_table(table: &PartitionTable, disks: &[Disk]) -> Result<(), TableError> {
    for (index, partition) in table.partitions.iter().enumerate() {
        match table.label {
            TableLabel::Mbr => drop(mbr_type(table, index)?),
            TableLabel::Gpt => drop(gpt_type_of(partition)?),
        }
    }
    let disk = disks.iter().find(|disk| disk.name == table.disk.as_str());
    if let Some(Disk { size: DiskSize::Bytes(bytes), block_bytes, .. }) = disk {
        lay_out(table, *bytes, u64::from(*block_bytes), &|name| {
            Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
        })?;
    }
    Ok(())
}

fn gpt_type_of(partition: &Partition) -> Result<Uuid, TableError> {
    gpt_types::guid(&partition.type_code).ok_or_else(|| TableError::Type {
        name: partition.name.clone(),
        type_code: partition.type_code.clone(),
        label: "GPT",
    })
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
    arranged: Arrangement,
    disk_bytes: u64,
    block_bytes: u64,
    id: &dyn Fn(&str) -> Uuid,
) -> Result<TableImage, TableError> {
    let encode = |reason: String| TableError::Encode { disk: table.disk.clone(), reason };
    let sector = |bytes: u64| bytes / block_bytes;
    let Arrangement { placed, extended, records } = arranged;
    let spans = placed.iter().map(|placed| (placed.start, placed.bytes));
    let spans =
        spans.chain(extended.map(|extended| (extended.start, extended.end - extended.start)));
    let is_beyond = |(start, bytes): (u64, u64)| sector(start.max(bytes)) > u64::from(u32::MAX);
    if spans.into_iter().any(is_beyond) {
        return Err(mbr_fault(table, "a partition lies beyond 2^32 blocks"));
    }
    let entries = placed.len() - records.len() + usize::from(extended.is_some());
    if entries > 4 {
        return Err(mbr_fault(table, "more than four entries"));
    }
    let mut image = SparseDisk::new(disk_bytes);
    let id_bytes = id(&table.disk).into_bytes();
    let signature = [id_bytes[0], id_bytes[1], id_bytes[2], id_bytes[3]];
    let block = u32::try_from(block_bytes).unwrap_or(512);
    let mut mbr =
        mbrman::MBR::new_from(&mut image, block, signature).map_err(|e| encode(e.to_string()))?;
    if let Some(Extended { number, start, end }) = extended {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if !(1..=4).contains(&number) {
            return Err(mbr_fault(table, "an extended partition is one of the four entries"));
        }
        mbr[number] = mbr_entry(sector(start), sector(end - start), EXTENDED_TYPE, false);
    }
    let mut records = records.into_iter();
    for (index, (partition, placed)) in table.partitions.iter().zip(&placed).enumerate() {
        let (start, bytes) = (placed.start, placed.bytes);
        let entry =
            mbr_entry(sector(start), sector(bytes), mbr_type(table, index)?, partition.boot);
        if partition.primary {
            mbr[usize::try_from(placed.number).unwrap_or(usize::MAX)] = entry;
            continue;
        }
        let ebr = records.next().unwrap_or(start);
        let ebr_sectors = sector(start + bytes - ebr);
        mbr.logical_partitions.push(LogicalPartition {
            partition: entry,
            absolute_ebr_lba: u32::try_from(sector(ebr)).unwrap_or(u32::MAX),
            ebr_sectors: Some(u32::try_from(ebr_sectors).unwrap_or(u32::MAX)),
            ebr_first_chs: chs(sector(ebr)),
            ebr_last_chs: Some(chs(sector(ebr) + ebr_sectors - 1)),
            bootstrap_code: [0; 446],
        });
    }
    mbr.write_into(&mut image).map_err(|e| encode(e.to_string()))?;
    if let Some(extended) = extended.filter(|_| mbr.logical_partitions.is_empty()) {
        // Without its signature, the first boot record would not be valid.
        let mut record = [0; 512];
        record[510..].copy_from_slice(&[0x55, 0xaa]);
        image.seek(SeekFrom::Start(extended.start)).map_err(|e| encode(e.to_string()))?;
        image.write_all(&record).map_err(|e| encode(e.to_string()))?;
    }
    Ok(TableImage { writes: image.into_writes(), partitions: placed })
}

#[cfg(test)]
mod tests;
