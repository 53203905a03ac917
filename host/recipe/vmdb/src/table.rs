//! Partition tables as parted would make them, computed beforehand: a table is
//! written whole, so all of a disk's `mkpart` steps become one node.

use plan::{Partition, PartitionTable, Size, TableLabel};

use crate::size::{ALIGN_BYTES, Location, SECTOR_BYTES, location};

/// Sectors of [`ALIGN_BYTES`].
const ALIGN: u64 = ALIGN_BYTES / SECTOR_BYTES;
/// Sectors that a GPT takes at the start of the disk, and less one at its end.
const GPT_SECTORS: u64 = 34;

/// A partition's role in an MBR. On GPT all are primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Extended,
    Logical,
}

/// A partition that a spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The name of its node.
    pub(crate) node: String,
    pub(crate) role: Role,
    /// First sector.
    pub(crate) start: u64,
    /// First sector behind it.
    pub(crate) end: u64,
    /// The kind of filesystem that parted was told.
    pub(crate) fs_type: String,
    /// Flags that were set, in order, and whether on or off.
    pub(crate) flags: Vec<(String, bool)>,
}

/// Sectors that partitions of a disk may use.
fn usable(label: TableLabel, sectors: u64) -> (u64, u64) {
    match label {
        TableLabel::Mbr => (1, sectors),
        TableLabel::Gpt => (GPT_SECTORS, sectors.saturating_sub(GPT_SECTORS - 1)),
    }
}

/// Where a partition goes, or why it cannot.
pub(crate) fn place(
    label: TableLabel,
    disk_bytes: u64,
    others: &[Part],
    role: Role,
    words: (&str, &str),
) -> Result<(u64, u64), String> {
    let wrong = |text: &str| format!("`{text}` is no place on the disk of {disk_bytes} bytes");
    let start = location(words.0, disk_bytes).ok_or_else(|| wrong(words.0))?;
    let end = location(words.1, disk_bytes).ok_or_else(|| wrong(words.1))?;
    let sectors = disk_bytes / SECTOR_BYTES;
    let (low, high) = usable(label, sectors);
    if start.sector >= sectors || end.sector > sectors {
        return Err(format!("`{} {}` is beyond the end of the disk", words.0, words.1));
    }
    // A binary unit or a percentage names a border; a sector names a sector.
    let exact_end = if end.binary { end.sector } else { end.sector + 1 };
    if exact_end <= start.sector {
        return Err(format!("the end `{}` is not behind the start `{}`", words.1, words.0));
    }
    let others: Vec<&Part> = others
        .iter()
        .filter(|other| (other.role == Role::Extended) == (role == Role::Extended))
        .filter(|other| (other.role == Role::Logical) == (role == Role::Logical))
        .collect();
    let is_free = |sector: u64| !others.iter().any(|o| (o.start..o.end).contains(&sector));
    // A border that is within reach is meant.
    let behind_others: Vec<u64> = others.iter().map(|other| other.end).collect();
    let mut before_others: Vec<u64> = others.iter().map(|other| other.start).collect();
    before_others.push(high);
    let start_wish = snapped(&start, &behind_others).unwrap_or(start.sector);
    let aligned_start = nearest_aligned(&start, start_wish, (low, high), &is_free);
    let end_border = border(&end);
    let end_wish = snapped(&end_border, &before_others);
    let aligned_end =
        nearest_aligned(&end_border, end_wish.unwrap_or(end_border.sector), (low, high), &|s| {
            is_free(s - 1)
        });
    let (first, behind) = match (aligned_start, aligned_end) {
        (Some(first), Some(behind)) if first < behind => (first, behind),
        // What cannot be aligned is taken as it is. Only a start at nothing,
        // which parted puts right behind the table, is aligned here.
        (None, behind) if start.radius > 0 && start.sector < low => {
            (ALIGN, behind.unwrap_or(exact_end).min(high))
        }
        _ => (start_wish.max(low), end_wish.unwrap_or(exact_end).min(high)),
    };
    if behind <= first {
        return Err(format!("nothing is left between `{}` and `{}`", words.0, words.1));
    }
    // The table is written in one go, in order.
    if let Some(other) = others.iter().find(|o| behind <= o.start) {
        return Err(format!(
            "`{} {}` lies before the partition `{}`, which must then come later in the spec",
            words.0, words.1, other.node
        ));
    }
    if let Some(other) = others.iter().find(|o| first < o.end && o.start < behind) {
        return Err(format!(
            "`{} {}` (sectors {first} to {}) overlaps the partition `{}`",
            words.0,
            words.1,
            behind - 1,
            other.node
        ));
    }
    Ok((first, behind))
}

/// The border that an end means.
fn border(end: &Location) -> Location {
    let exact = !end.binary && end.radius == 0;
    Location { sector: if exact { end.sector + 1 } else { end.sector }, ..*end }
}

/// The nearest of several borders that a location may mean.
fn snapped(at: &Location, borders: &[u64]) -> Option<u64> {
    borders
        .iter()
        .copied()
        .filter(|border| border.abs_diff(at.sector) <= at.radius)
        .min_by_key(|border| border.abs_diff(at.sector))
}

/// The free aligned sector nearest to what is wished, as near to the location
/// as its unit demands.
fn nearest_aligned(
    at: &Location,
    wish: u64,
    (low, high): (u64, u64),
    is_free: &dyn Fn(u64) -> bool,
) -> Option<u64> {
    let from = at.sector.saturating_sub(at.radius).max(low).div_ceil(ALIGN);
    let to = at.sector.saturating_add(at.radius).min(high) / ALIGN;
    (from..=to)
        .map(|unit| unit * ALIGN)
        .filter(|sector| *sector > 0 && is_free(*sector))
        .min_by_key(|sector| sector.abs_diff(wish))
}

/// The table as the plan has it, or why it cannot be written.
pub(crate) fn table(
    disk: &str,
    label: TableLabel,
    disk_bytes: u64,
    parts: &[Part],
) -> Result<PartitionTable, String> {
    let sectors = disk_bytes / SECTOR_BYTES;
    // The last unit of an MBR disk stays free, as the engine lays tables out.
    let last = (sectors / ALIGN).saturating_sub(1) * ALIGN;
    let is_round = |sector: u64| sector.is_multiple_of(ALIGN);
    let round =
        parts.iter().all(|part| is_round(part.start) && (is_round(part.end) || part.end > last));
    let mut partitions = Vec::new();
    let mut reached = 0;
    let mut logical = false;
    for part in parts.iter().filter(|part| part.role != Role::Extended) {
        if part.start < reached {
            return Err(format!("the partition `{}` stands before an earlier one", part.node));
        }
        if logical && part.role == Role::Primary {
            return Err(format!(
                "the partition `{}` is primary, but follows a logical one",
                part.node
            ));
        }
        reached = part.end;
        logical |= part.role == Role::Logical;
        let (type_code, boot) = type_of(label, part)?;
        let end = if label == TableLabel::Mbr {
            part.end.min(last.max(part.start + 1))
        } else {
            part.end
        };
        partitions.push(Partition {
            name: part.node.clone(),
            start: Some(part.start * SECTOR_BYTES),
            size: Size::EndAt(end * SECTOR_BYTES),
            type_code,
            boot,
            primary: part.role == Role::Primary,
        });
    }
    let align = if round { ALIGN_BYTES } else { SECTOR_BYTES };
    Ok(PartitionTable { disk: disk.to_owned(), label, align, partitions })
}

/// The names of filesystems that parted takes for a new partition.
pub(crate) const FS_TYPES: &[&str] = &[
    "ext2",
    "ext3",
    "ext4",
    "btrfs",
    "xfs",
    "fat16",
    "fat32",
    "ntfs",
    "linux-swap",
    "linux-swap(v1)",
    "linux-swap(v0)",
    "linux-swap(new)",
    "linux-swap(old)",
    "f2fs",
    "hfs",
    "hfs+",
    "hfsx",
    "jfs",
    "nilfs2",
    "reiserfs",
    "swsusp",
    "udf",
    "zfs",
];

/// The flags of partitions that parted knows, by label: MBR byte, GPT GUID.
const FLAGS: &[(&str, Option<&str>, Option<&str>)] = &[
    ("esp", Some("ef"), Some("EF00")),
    ("bios_grub", None, Some("EF02")),
    ("lvm", Some("8e"), Some("8E00")),
    ("raid", Some("fd"), Some("FD00")),
    ("swap", Some("82"), Some("8200")),
    ("prep", Some("41"), Some("4100")),
    ("diag", Some("12"), Some("de94bba4-06d1-4d40-a16a-bfd50179d6ac")),
    ("irst", Some("84"), Some("d3bfe2de-3daf-11df-ba40-e3a556d89593")),
    ("palo", Some("f0"), None),
    ("bls_boot", Some("ea"), Some("bc13c2ff-59e6-4262-a352-b275fd6f7172")),
    ("msftdata", None, Some("0700")),
    ("msftres", Some("27"), Some("e3c9e316-0b5c-4db8-817d-f92df00215ae")),
    ("linux-home", None, Some("8302")),
    ("chromeos_kernel", None, Some("fe3a2a5d-4f32-41a7-b725-accc3285a309")),
];

/// Whether a table of this label has the flag.
pub(crate) fn has_flag(label: TableLabel, flag: &str) -> bool {
    let part = Part {
        node: String::new(),
        role: Role::Primary,
        start: 0,
        end: 0,
        fs_type: "ext2".into(),
        flags: vec![(flag.to_owned(), true)],
    };
    type_of(label, &part).is_ok()
}

/// The names of all flags.
pub(crate) fn flag_names() -> Vec<&'static str> {
    let plain = FLAGS.iter().map(|(name, ..)| *name);
    plain.chain(["boot", "legacy_boot", "lba"]).collect()
}

/// The type that a kind of filesystem gives a partition.
fn base_type(label: TableLabel, fs_type: &str) -> &'static str {
    match (label, fs_type) {
        (TableLabel::Mbr, "fat16") => "0e",
        (TableLabel::Mbr, "fat32") => "0c",
        (TableLabel::Mbr, "ntfs" | "udf") => "07",
        (TableLabel::Mbr, "hfs" | "hfs+" | "hfsx") => "af",
        (TableLabel::Gpt, "fat16" | "fat32" | "ntfs" | "udf") => "0700",
        (TableLabel::Gpt, "hfs" | "hfs+" | "hfsx") => "48465300-0000-11aa-aa11-00306543ecac",
        (TableLabel::Mbr, fs) if fs.starts_with("linux-swap") => "82",
        (TableLabel::Gpt, fs) if fs.starts_with("linux-swap") => "8200",
        (TableLabel::Mbr, _) => "83",
        (TableLabel::Gpt, _) => "8300",
    }
}

/// The type code and the boot flag of a partition, after all of its flags.
fn type_of(label: TableLabel, part: &Part) -> Result<(String, bool), String> {
    let base = base_type(label, &part.fs_type);
    let mut code = base;
    let mut boot = false;
    for (flag, on) in &part.flags {
        match (flag.as_str(), label) {
            ("boot", TableLabel::Mbr) | ("legacy_boot", TableLabel::Gpt) => boot = *on,
            // FAT types are made with LBA; other types have no such form.
            ("lba", TableLabel::Mbr) => {
                code = match (code, on) {
                    ("0c", false) => "0b",
                    ("0e", false) => "06",
                    ("0b", true) => "0c",
                    ("06", true) => "0e",
                    (other, _) => other,
                };
            }
            (name, _) => {
                // On GPT, parted's boot flag is the ESP.
                let name = if name == "boot" { "esp" } else { name };
                let row = FLAGS.iter().find(|(known, ..)| *known == name);
                let meant = row.and_then(|(_, mbr, gpt)| match label {
                    TableLabel::Mbr => *mbr,
                    TableLabel::Gpt => *gpt,
                });
                let Some(meant) = meant else {
                    let table = if label == TableLabel::Mbr { "an msdos" } else { "a gpt" };
                    return Err(format!("the flag `{flag}` does not exist in {table} table"));
                };
                if *on {
                    code = meant;
                } else if code == meant {
                    code = base;
                }
            }
        }
    }
    Ok((code.to_owned(), boot))
}

#[cfg(test)]
mod tests;
