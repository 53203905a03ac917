//! Parses the entries of every module except lvm: allowed keys, required keys, and their meaning.

use plan::{Partition, Size, TableLabel};

use super::{
    BlockDeviceError,
    expand::{Entry, lookup},
    units::{self, SizeFault},
};
use crate::yaml::Value;

/// A disk (`local_loop`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loop {
    pub(crate) bytes: Option<u64>,
    pub(crate) directory: Option<String>,
    pub(crate) block_bytes: u32,
}

/// A partition table with its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) base: String,
    pub(crate) label: TableLabel,
    pub(crate) align: u64,
    pub(crate) partitions: Vec<Partition>,
}

/// A filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mkfs {
    pub(crate) base: String,
    pub(crate) fstype: String,
    pub(crate) label: String,
    pub(crate) uuid: Option<String>,
    pub(crate) options: Vec<String>,
}

/// An fstab entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fstab {
    pub(crate) base: String,
    pub(crate) options: String,
    pub(crate) dump: u32,
    pub(crate) pass: u32,
}

/// Default alignment of partitions: 1 MiB suits every current disk.
const DEFAULT_ALIGN_BYTES: u64 = 1 << 20;

pub(crate) fn text(entry: &Entry, key: &str) -> Option<String> {
    entry.get(key).filter(|value| **value != Value::Null).map(Value::written)
}

/// Parses a list of words, or a single word.
pub(crate) fn words(
    node: &str,
    key: &'static str,
    value: Option<&Value>,
) -> Result<Vec<String>, BlockDeviceError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::List(items)) => Ok(items.iter().map(Value::written).collect()),
        Some(Value::Map(_)) => Err(BlockDeviceError::BadValue {
            node: node.to_owned(),
            key,
            found: value.map(ToString::to_string).unwrap_or_default(),
        }),
        Some(other) => Ok(split(&other.text())),
    }
}

/// Parses a size with `read`; errors quote the text as written.
pub(crate) fn size<T>(
    node: &str,
    key: &'static str,
    value: Option<&Value>,
    read: impl Fn(&str) -> Result<T, SizeFault>,
) -> Result<Option<T>, BlockDeviceError> {
    let Some(value) = value.filter(|value| **value != Value::Null) else { return Ok(None) };
    let fault = |fault| BlockDeviceError::Size {
        node: node.to_owned(),
        key,
        value: value.written(),
        fault,
    };
    read(&value.text()).map(Some).map_err(fault)
}

fn split(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

fn base(entry: &Entry, module: &'static str) -> Result<String, BlockDeviceError> {
    text(entry, "base").ok_or(BlockDeviceError::NeedsParameter { module, key: "base" })
}

pub(crate) fn local_loop(
    entry: &Entry,
    block_bytes: Option<u32>,
) -> Result<Loop, BlockDeviceError> {
    let bytes = size(&entry.name(), "size", entry.get("size"), units::absolute)?;
    let block_bytes = match (block_bytes, text(entry, "block_size")) {
        (Some(bytes), _) => bytes,
        (None, None) => 512,
        (None, Some(size)) => units::block_bytes(&size)
            .ok_or_else(|| BlockDeviceError::BlockSize { disk: entry.name(), size })?,
    };
    Ok(Loop { bytes, directory: text(entry, "directory"), block_bytes })
}

pub(crate) fn partitioning(entry: &Entry) -> Result<Table, BlockDeviceError> {
    let needs = |key| BlockDeviceError::Needs { module: "Partitioning", key };
    let base = text(entry, "base").ok_or(needs("base"))?;
    let list = entry.get("partitions").and_then(Value::as_list).ok_or(needs("partitions"))?;
    let label = match text(entry, "label").ok_or(needs("label"))?.as_str() {
        "mbr" => TableLabel::Mbr,
        "gpt" => TableLabel::Gpt,
        _ => return Err(BlockDeviceError::TableLabel),
    };
    let align = size(&entry.name(), "align", entry.get("align"), units::alignment)?;
    let align = match label {
        TableLabel::Mbr => align.unwrap_or(DEFAULT_ALIGN_BYTES),
        // The original leaves GPT alignment to sgdisk and ignores the key `align`.
        TableLabel::Gpt => DEFAULT_ALIGN_BYTES,
    };
    let partitions: Vec<Partition> =
        list.iter().map(|item| partition(item, label)).collect::<Result<_, _>>()?;
    let logical = partitions.iter().position(|partition| !partition.primary);
    if label == TableLabel::Mbr
        && logical.is_some_and(|at| partitions[at..].iter().any(|partition| partition.primary))
    {
        return Err(BlockDeviceError::PrimariesFirst);
    }
    Ok(Table { name: entry.name(), base, label, align, partitions })
}

fn partition(item: &Value, label: TableLabel) -> Result<Partition, BlockDeviceError> {
    let keys = item.as_map().unwrap_or_default();
    let get = |key| lookup(keys, key).filter(|value| **value != Value::Null);
    let name = get("name").map(Value::written).unwrap_or_default();
    let flags = words(&name, "flags", get("flags"))?;
    if label == TableLabel::Gpt && flags.iter().any(|flag| flag == "primary") {
        return Err(BlockDeviceError::PrimaryOnGpt);
    }
    if let Some(flag) = flags.iter().find(|flag| !matches!(flag.as_str(), "boot" | "primary")) {
        return Err(BlockDeviceError::UnknownFlag(flag.clone()));
    }
    let size: Size = size(&name, "size", get("size"), units::relative)?
        .ok_or_else(|| BlockDeviceError::NoSize(name.clone()))?;
    let type_code = type_code(&name, get("type").map(Value::written), label)?;
    let has = |flag: &str| flags.iter().any(|found| found == flag);
    Ok(Partition {
        start: None,
        size,
        type_code,
        // diskimage-builder ignores the boot flag on GPT.
        boot: label == TableLabel::Mbr && has("boot"),
        primary: has("primary"),
        name,
    })
}

/// Parses a partition type. MBR: a byte in hexadecimal, with or without `0x`. GPT: any code that
/// sgdisk takes.
fn type_code(
    name: &str,
    given: Option<String>,
    label: TableLabel,
) -> Result<String, BlockDeviceError> {
    match (label, given) {
        (TableLabel::Mbr, None) => Ok("83".into()),
        (TableLabel::Gpt, None) => Ok("8300".into()),
        (TableLabel::Mbr, Some(code)) => {
            let digits = code.strip_prefix("0x").unwrap_or(&code);
            u8::from_str_radix(digits, 16).map(|byte| format!("{byte:02x}")).map_err(|_| {
                BlockDeviceError::BadValue { node: name.to_owned(), key: "type", found: code }
            })
        }
        (TableLabel::Gpt, Some(code)) => {
            Ok(code.strip_prefix("0x").unwrap_or(&code).to_uppercase())
        }
    }
}

/// Maximum label length in bytes, for the filesystem types that the original checks.
fn label_max_bytes(fstype: &str) -> Option<usize> {
    match fstype {
        "ext2" | "ext3" | "ext4" | "swap" => Some(16),
        "xfs" => Some(12),
        "vfat" => Some(11),
        _ => None,
    }
}

pub(crate) fn mkfs(entry: &Entry, labels: &mut Vec<String>) -> Result<Mkfs, BlockDeviceError> {
    let base = base(entry, "Mkfs")?;
    let fstype = text(entry, "type")
        .ok_or(BlockDeviceError::NeedsParameter { module: "Mkfs", key: "type" })?;
    let mut label = text(entry, "label").unwrap_or_else(|| entry.name());
    if matches!(fstype.as_str(), "vfat" | "fat") {
        label = label.to_uppercase();
    }
    if labels.contains(&label) {
        return Err(BlockDeviceError::DuplicateLabel(label));
    }
    labels.push(label.clone());
    if let Some(max) = label_max_bytes(&fstype).filter(|max| label.len() > *max) {
        return Err(BlockDeviceError::LabelTooLong { length: label.len(), label, fstype, max });
    }
    // The original passes no mkfs options to mkswap.
    let options = match entry.get("opts") {
        Some(_) if fstype == "swap" => Vec::new(),
        options => words(&entry.name(), "opts", options)?,
    };
    Ok(Mkfs { base, fstype, label, uuid: text(entry, "uuid"), options })
}

pub(crate) fn mount(entry: &Entry) -> Result<(String, String), BlockDeviceError> {
    let base = base(entry, "MountPoint")?;
    let place = text(entry, "mount_point")
        .ok_or(BlockDeviceError::NeedsParameter { module: "MountPoint", key: "mount_point" })?;
    Ok((base, place))
}

pub(crate) fn fstab(entry: &Entry) -> Result<Fstab, BlockDeviceError> {
    let number = |key: &'static str, default: u32| match text(entry, key) {
        None => Ok(default),
        Some(value) => value.parse().map_err(|_| BlockDeviceError::BadValue {
            node: entry.name(),
            key,
            found: value,
        }),
    };
    Ok(Fstab {
        base: base(entry, "Fstab")?,
        options: text(entry, "options").unwrap_or_else(|| "defaults".into()),
        dump: number("dump-freq", 0)?,
        pass: number("fsck-passno", 2)?,
    })
}

/// A LUKS container: `base`, `passphrase`, `options` for luksFormat.
pub(crate) fn luks(entry: &Entry) -> Result<plan::Luks, BlockDeviceError> {
    Ok(plan::Luks {
        base: base(entry, "Luks")?,
        passphrase: text(entry, "passphrase")
            .ok_or(BlockDeviceError::NeedsParameter { module: "Luks", key: "passphrase" })?,
        options: words(&entry.name(), "options", entry.get("options"))?,
    })
}

/// An md array: `base` (a list), `level`, `metadata`.
pub(crate) fn md(entry: &Entry) -> Result<plan::MdArray, BlockDeviceError> {
    let bases = words(&entry.name(), "base", entry.get("base"))?;
    if bases.is_empty() {
        return Err(BlockDeviceError::NeedsParameter { module: "Md", key: "base" });
    }
    Ok(plan::MdArray {
        bases,
        level: text(entry, "level")
            .ok_or(BlockDeviceError::NeedsParameter { module: "Md", key: "level" })?,
        // Metadata 1.0 has its superblock at the end, so firmware and boot loaders can read a
        // mirror's member as a plain partition.
        metadata: text(entry, "metadata").unwrap_or_else(|| "1.0".into()),
    })
}
