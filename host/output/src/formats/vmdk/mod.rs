//! VMware's VMDK format in its two single-file variants.
//!
//! ```text
//!   sparse   header | descriptor | directory and tables, twice | grains
//!   stream   header | descriptor | (marker, packed grain)… (marker, table)…
//!            | marker, directory | marker, footer | end marker
//! ```
//!
//! Both divide the disk into grains of 64 KiB; a table has 512 grains, and the directory lists the
//! tables.

mod sparse;
mod stream;

pub(crate) use sparse::FORMAT as SPARSE;
pub(crate) use stream::FORMAT as STREAM;

use crate::{OutputError, Result, Target, disk_input::DiskInput};

const SECTOR_BYTES: u64 = 512;
const GRAIN_BYTES: usize = 64 << 10;
const GRAIN_SECTORS: u64 = GRAIN_BYTES as u64 / SECTOR_BYTES;

/// Number of grains in a table.
const TABLE_GRAINS: usize = 512;
const TABLE_SECTORS: u64 = TABLE_GRAINS as u64 * 4 / SECTOR_BYTES;

/// Offset and reserved size of the descriptor, in sectors.
const DESCRIPTOR_AT: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;

/// Offsets are 32-bit sector numbers.
const MAX_BYTES: u64 = (1 << 41) - (1 << 30);

/// The size of the disk in sectors.
fn checked_capacity(input: &DiskInput<'_>) -> Result<u64> {
    if input.len() > MAX_BYTES {
        let bytes = input.len();
        return Err(OutputError::TooLarge { format: "vmdk", bytes, max: MAX_BYTES });
    }
    Ok(input.len().div_ceil(SECTOR_BYTES))
}

/// The header fields in which the two variants differ.
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    /// Sectors of the redundant directory, of the directory, and before the grains.
    second_directory: u64,
    directory: u64,
    overhead: u64,
    compressed: bool,
}

impl Header {
    fn bytes(&self) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"KDMV");
        put(4, &self.version.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &self.capacity.to_le_bytes());
        put(20, &GRAIN_SECTORS.to_le_bytes());
        put(28, &DESCRIPTOR_AT.to_le_bytes());
        put(36, &DESCRIPTOR_SECTORS.to_le_bytes());
        put(44, &u32::try_from(TABLE_GRAINS).unwrap_or_default().to_le_bytes());
        put(48, &self.second_directory.to_le_bytes());
        put(56, &self.directory.to_le_bytes());
        put(64, &self.overhead.to_le_bytes());
        // Line endings that reveal damage from a text-mode transfer.
        put(73, b"\n \r\n");
        put(77, &u16::from(self.compressed).to_le_bytes());
        header
    }
}

/// The text of the descriptor.
fn descriptor(kind: &str, capacity: u64, target: &Target) -> Vec<u8> {
    let name = target.path.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: &char| !c.is_control() && *c != '"';
    let name: String = name.chars().filter(plain).take(255).collect();
    let content = target.identity.derive("vmdk").as_u128();
    // Any number except the two highest, which mean "none".
    let content = u32::try_from(content & 0x7fff_ffff).unwrap_or_default();
    let cylinders = capacity.div_ceil(255 * 63).min(65_535);
    let text = format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={content:08x}\n\
         parentCID=ffffffff\n\
         createType=\"{kind}\"\n\
         \n\
         # Extent description\n\
         RW {capacity} SPARSE \"{name}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.virtualHWVersion = \"8\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"lsilogic\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize(usize::try_from(DESCRIPTOR_SECTORS * SECTOR_BYTES).unwrap_or_default(), 0);
    bytes
}

fn little_endian(entries: &[u32]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}
