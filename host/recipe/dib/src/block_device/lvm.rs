//! The `lvm` module: physical volumes, volume groups and logical volumes of one entry, created
//! together.

use plan::{LogicalVolume, LvSize};

use super::{
    BlockDeviceError,
    declare::{size, words},
    expand::{Entry, lookup},
    units,
};
use crate::yaml::Value;

/// Extent size; logical volumes are rounded to whole extents.
const EXTENT_BYTES: u64 = 4 << 20;

/// One `lvm` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lvm {
    pub(crate) name: String,
    pub(crate) physical: Vec<Physical>,
    pub(crate) groups: Vec<Group>,
    pub(crate) logical: Vec<(String, LogicalVolume)>,
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Physical {
    pub(crate) name: String,
    pub(crate) base: String,
    pub(crate) options: Vec<String>,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bases: Vec<String>,
    pub(crate) options: Vec<String>,
}

type Keys<'a> = &'a [(String, Value)];

fn fault<T>(text: impl Into<String>) -> Result<T, BlockDeviceError> {
    Err(BlockDeviceError::Lvm(text.into()))
}

fn items<'a>(
    entry: &'a Entry,
    key: &str,
    message: &str,
) -> Result<Vec<Keys<'a>>, BlockDeviceError> {
    let Some(list) = entry.get(key).and_then(Value::as_list) else { return fault(message) };
    list.iter()
        .map(|item| match item.as_map() {
            Some(keys) => Ok(keys),
            None => fault(format!("`{key}` must be a list of mappings, found {item}")),
        })
        .collect()
}

fn text(keys: Keys<'_>, key: &str) -> Option<String> {
    lookup(keys, key).filter(|value| **value != Value::Null).map(Value::written)
}

fn required(keys: Keys<'_>, key: &str, message: &str) -> Result<String, BlockDeviceError> {
    match text(keys, key) {
        Some(value) => Ok(value),
        None => fault(message),
    }
}

/// Parses an entry, with the checks of the original in the same order.
pub(crate) fn lvm(entry: &Entry) -> Result<Lvm, BlockDeviceError> {
    let pvs = items(entry, "pvs", "Lvm config requires a 'pvs'")?;
    let vgs = items(entry, "vgs", "Lvm config needs 'vgs'")?;
    let lvs = items(entry, "lvs", "Lvm config needs 'lvs'")?;
    let physical = pvs.into_iter().map(read_physical).collect::<Result<Vec<_>, _>>()?;
    let groups =
        vgs.into_iter().map(|keys| read_group(keys, &physical)).collect::<Result<Vec<_>, _>>()?;
    let logical =
        lvs.into_iter().map(|keys| read_logical(keys, &groups)).collect::<Result<Vec<_>, _>>()?;
    Ok(Lvm { name: entry.name(), physical, groups, logical })
}

fn read_physical(keys: Keys<'_>) -> Result<Physical, BlockDeviceError> {
    let name = required(keys, "name", "Missing 'name' in pvs config")?;
    let base = required(keys, "base", "Missing 'base' in pvs_config")?;
    let options = words(&name, "options", lookup(keys, "options"))?;
    Ok(Physical { name, base, options })
}

fn read_group(keys: Keys<'_>, physical: &[Physical]) -> Result<Group, BlockDeviceError> {
    let name = required(keys, "name", "Missing 'name' in vgs config")?;
    let bases = words(&name, "base", lookup(keys, "base"))?;
    if bases.is_empty() {
        return fault("Missing 'base' in vgs config");
    }
    for base in &bases {
        if !physical.iter().any(|volume| volume.name == *base) {
            return fault(format!("base:{base} in vgs does not match a valid pvs"));
        }
    }
    let options = words(&name, "options", lookup(keys, "options"))?;
    Ok(Group { name, bases, options })
}

fn read_logical(
    keys: Keys<'_>,
    groups: &[Group],
) -> Result<(String, LogicalVolume), BlockDeviceError> {
    let name = required(keys, "name", "Missing 'name' in lvs config")?;
    let group = required(keys, "base", "Missing 'base' in lvs config")?;
    let bytes = size(&name, "size", lookup(keys, "size"), units::absolute)?;
    let size = match (bytes, text(keys, "extents")) {
        (Some(bytes), _) => LvSize::Bytes(bytes - bytes % EXTENT_BYTES),
        (None, Some(extents)) => LvSize::Extents(extents),
        (None, None) => return fault("Missing 'size' or 'extents' in lvs config"),
    };
    if !groups.iter().any(|candidate| candidate.name == group) {
        return fault(format!("base:{group} in lvs does not match a valid vg"));
    }
    let kind = text(keys, "type");
    if let Some(other) = kind.as_deref().filter(|kind| !matches!(*kind, "thin" | "thin-pool")) {
        return fault(format!("Unsupported type:{other}, supported types: thin, thin-pool"));
    }
    let volume = LogicalVolume {
        group,
        size,
        thin_pool: text(keys, "thin-pool"),
        is_thin_pool: kind.as_deref() == Some("thin-pool"),
        options: words(&name, "options", lookup(keys, "options"))?,
    };
    Ok((name, volume))
}
