//! monolithicSparse: uncompressed grains, preceded by tables at fixed offsets.

use std::collections::BTreeMap;

use super::{
    DESCRIPTOR_AT, DESCRIPTOR_SECTORS, GRAIN_BYTES, GRAIN_SECTORS, Header, SECTOR_BYTES,
    TABLE_GRAINS, TABLE_SECTORS, checked_capacity, descriptor, little_endian,
};
use crate::{
    Result, Target,
    atomic::OutFile,
    disk_input::DiskInput,
    format::{Format, Origin, Writer, no_options},
    source::is_zero,
};

pub(crate) const FORMAT: Format = Format {
    name: "vmdk",
    suffix: "vmdk",
    about: "VMware's format, growing with its content (monolithicSparse)",
    origin: Origin::Disk,
    container: None,
    max_bytes: super::MAX_BYTES,
    sequential: false,
    needs: no_options,
    write: Writer::Disk(write),
};

/// Flags: the line ending test is valid, and there is a redundant directory.
const FLAGS: u32 = 3;

/// Offsets of all parts, in sectors.
struct Layout {
    tables: u64,
    /// The redundant directory and the directory, each followed by its tables.
    directories: [u64; 2],
    directory_sectors: u64,
    overhead: u64,
}

impl Layout {
    fn new(capacity: u64) -> Self {
        let tables = capacity.div_ceil(GRAIN_SECTORS * TABLE_GRAINS as u64);
        let directory_sectors = (tables * 4).div_ceil(SECTOR_BYTES).max(1);
        let first = DESCRIPTOR_AT + DESCRIPTOR_SECTORS;
        let second = first + directory_sectors + tables * TABLE_SECTORS;
        let end = second + directory_sectors + tables * TABLE_SECTORS;
        let overhead = end.next_multiple_of(GRAIN_SECTORS);
        Self { tables, directories: [first, second], directory_sectors, overhead }
    }

    fn table(&self, directory: u64, index: u64) -> u64 {
        directory + self.directory_sectors + index * TABLE_SECTORS
    }
}

fn write(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    let capacity = checked_capacity(input)?;
    let layout = Layout::new(capacity);
    let mut tables: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    out.skip(layout.overhead * SECTOR_BYTES);
    while let Some(stride) = input.next_stride()? {
        let first = stride.offset / GRAIN_BYTES as u64;
        for (grain, data) in (first..).zip(stride.data.chunks(GRAIN_BYTES)) {
            if is_zero(data) {
                continue;
            }
            let table =
                tables.entry(grain / TABLE_GRAINS as u64).or_insert_with(|| vec![0; TABLE_GRAINS]);
            let slot = usize::try_from(grain).unwrap_or_default() % TABLE_GRAINS;
            table[slot] = u32::try_from(out.position() / SECTOR_BYTES).unwrap_or_default();
            out.append(data)?;
            out.skip((GRAIN_BYTES - data.len()) as u64);
        }
    }
    for directory in layout.directories {
        let places = (0..layout.tables).map(|index| layout.table(directory, index));
        let places: Vec<u32> = places.map(|at| u32::try_from(at).unwrap_or_default()).collect();
        out.patch(directory * SECTOR_BYTES, &little_endian(&places))?;
        for (index, table) in &tables {
            out.patch(layout.table(directory, *index) * SECTOR_BYTES, &little_endian(table))?;
        }
    }
    out.patch(DESCRIPTOR_AT * SECTOR_BYTES, &descriptor("monolithicSparse", capacity, target))?;
    let header = Header {
        version: 1,
        flags: FLAGS,
        capacity,
        second_directory: layout.directories[0],
        directory: layout.directories[1],
        overhead: layout.overhead,
        compressed: false,
    };
    out.patch(0, &header.bytes())
}
