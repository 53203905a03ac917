//! Computes partition tables as parted would create them. A table is written as a whole, so all
//! `mkpart` steps of a disk become one node.

mod place;

use plan::{Extended, Partition, PartitionTable, Placing, Size, TableLabel};

pub(crate) use place::{Misplaced, fits, place};

use crate::size::SECTOR_BYTES;

/// A partition's role in an MBR. On GPT all are primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Extended,
    Logical,
}

/// A partition that a spec declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The name of its node.
    pub(crate) node: String,
    pub(crate) role: Role,
    /// First sector.
    pub(crate) start: u64,
    /// First sector after it.
    pub(crate) end: u64,
    /// The filesystem type given to parted.
    pub(crate) fs_type: String,
    /// Flags in order of setting: name, and on or off.
    pub(crate) flags: Vec<(String, bool)>,
}

/// The table for the plan, or why it cannot be written.
pub(crate) fn table(
    disk: &str,
    label: TableLabel,
    parts: &[Part],
) -> Result<PartitionTable, String> {
    let mut partitions = Vec::new();
    let mut extended = None;
    let mut entries = 0;
    for part in parts {
        let (start, end) = (part.start * SECTOR_BYTES, part.end * SECTOR_BYTES);
        entries += u32::from(part.role != Role::Logical);
        if part.role == Role::Extended {
            extended = Some(Extended { number: entries, start, end });
            continue;
        }
        let (type_code, boot) = type_of(label, part)?;
        partitions.push(Partition {
            name: part.node.clone(),
            start: Some(start),
            size: Size::EndAt(end),
            type_code,
            boot,
            primary: part.role == Role::Primary,
        });
    }
    let placing = Placing::Exact { extended };
    Ok(PartitionTable { disk: disk.to_owned(), label, placing, partitions })
}

/// Filesystem types that parted's mkpart accepts.
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

/// parted's partition flags, with the MBR type byte and the GPT type GUID that they set.
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

/// Whether a table with this label supports the flag.
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

/// The partition type that a filesystem type selects.
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

/// The type code and the boot flag of a partition after all of its flags are applied.
fn type_of(label: TableLabel, part: &Part) -> Result<(String, bool), String> {
    let base = base_type(label, &part.fs_type);
    let mut code = base;
    let mut boot = false;
    for (flag, on) in &part.flags {
        match (flag.as_str(), label) {
            ("boot", TableLabel::Mbr) | ("legacy_boot", TableLabel::Gpt) => boot = *on,
            // FAT types get LBA; other types have no LBA variant.
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
                // On GPT, parted's `boot` flag means `esp`.
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
