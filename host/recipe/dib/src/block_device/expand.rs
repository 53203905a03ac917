//! Expands a configuration tree into a flat list of entries: nested modules become separate
//! entries, linked by `base` and `name`.
//!
//! ```text
//! - local_loop:              - mount:      { base: mkfs_image0, name: mount_mkfs_image0, … }
//!     name: image0      ──►  - mkfs:       { base: image0, name: mkfs_image0, … }
//!     mkfs:                  - local_loop: { name: image0 }
//!       mount: …
//! ```
//!
//! Children precede their parents, as in the original; the graph then sorts them by dependency.

use super::BlockDeviceError;
use crate::yaml::Value;

/// The modules of the grammar. `luks` and `md` are extensions of vbuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    LocalLoop,
    Partitioning,
    Lvm,
    Luks,
    Md,
    Mkfs,
    Mount,
    Fstab,
}

impl Module {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "local_loop" => Self::LocalLoop,
            "partitioning" => Self::Partitioning,
            "lvm" => Self::Lvm,
            "luks" => Self::Luks,
            "md" => Self::Md,
            "mkfs" => Self::Mkfs,
            "mount" => Self::Mount,
            "fstab" => Self::Fstab,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LocalLoop => "local_loop",
            Self::Partitioning => "partitioning",
            Self::Lvm => "lvm",
            Self::Luks => "luks",
            Self::Md => "md",
            Self::Mkfs => "mkfs",
            Self::Mount => "mount",
            Self::Fstab => "fstab",
        }
    }
}

/// One flat entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) module: Module,
    pub(crate) values: Vec<(String, Value)>,
}

impl Entry {
    /// The value of a key. If the key is repeated the last value wins, as in a Python dict.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        lookup(&self.values, key)
    }

    pub(crate) fn name(&self) -> String {
        self.get("name").map(Value::written).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ self.module.name(): Value::Map(self.values.clone()).to_json() })
    }
}

pub(crate) fn lookup<'a>(values: &'a [(String, Value)], key: &str) -> Option<&'a Value> {
    values.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
}

/// Sets a key; an existing key keeps its position.
pub(crate) fn set(values: &mut Vec<(String, Value)>, key: &str, value: Value) {
    match values.iter_mut().find(|(name, _)| name == key) {
        Some((_, old)) => *old = value,
        None => values.push((key.to_owned(), value)),
    }
}

/// Expands a whole configuration.
pub(crate) fn expand(config: &Value) -> Result<Vec<Entry>, BlockDeviceError> {
    let entries = match config {
        Value::List(entries) => entries.as_slice(),
        Value::Map(entries) => {
            let first = entries.first().map(|(key, _)| key.clone()).unwrap_or_default();
            return Err(BlockDeviceError::NotADict(first));
        }
        Value::Null => return Err(BlockDeviceError::Empty),
        other => return Err(BlockDeviceError::NotADict(other.text())),
    };
    let mut output = Vec::new();
    for entry in entries {
        let keys = entry.as_map().ok_or_else(|| BlockDeviceError::NotADict(entry.text()))?;
        let [(key, values)] = keys else {
            return Err(BlockDeviceError::NotASingleDict(entry.to_string()));
        };
        let module =
            Module::named(key).ok_or_else(|| BlockDeviceError::NotAPlugin(entry.to_string()))?;
        recurse(module, values, None, &mut output)?;
    }
    Ok(output)
}

fn recurse(
    module: Module,
    values: &Value,
    parent: Option<&str>,
    output: &mut Vec<Entry>,
) -> Result<(), BlockDeviceError> {
    let values = values.as_map().ok_or_else(|| BlockDeviceError::NoSettings {
        module: module.name(),
        found: values.to_string(),
    })?;
    let mut this: Vec<(String, Value)> = Vec::new();
    match (lookup(values, "base"), parent) {
        (Some(base), _) => set(&mut this, "base", base.clone()),
        (None, Some(parent)) => set(&mut this, "base", Value::Text(parent.to_owned())),
        (None, None) => {}
    }
    let base = lookup(&this, "base").cloned();
    let name = match (lookup(values, "name"), &base) {
        (Some(name), _) => name.written(),
        (None, Some(base)) => format!("{}_{}", module.name(), base.written()),
        (None, None) => return Err(BlockDeviceError::NoName { module: module.name() }),
    };
    set(&mut this, "name", Value::Text(name.clone()));
    for (key, value) in values {
        if key == "partitions" {
            let partitions = partitions(value, base.as_ref(), output)?;
            set(&mut this, "partitions", Value::List(partitions));
        } else if let Some(child) = Module::named(key) {
            recurse(child, value, Some(&name), output)?;
        } else if key != "name" && key != "base" {
            set(&mut this, key, value.clone());
        }
    }
    output.push(Entry { module, values: this });
    Ok(())
}

/// Partitions stay inside their partitioning entry; modules nested in them are
/// based on the partition.
fn partitions(
    list: &Value,
    base: Option<&Value>,
    output: &mut Vec<Entry>,
) -> Result<Vec<Value>, BlockDeviceError> {
    let list =
        list.as_list().ok_or_else(|| BlockDeviceError::PartitionsNotAList(list.to_string()))?;
    let mut partitions = Vec::new();
    for partition in list {
        let keys = partition
            .as_map()
            .ok_or_else(|| BlockDeviceError::PartitionsNotAList(partition.to_string()))?;
        let name = lookup(keys, "name")
            .ok_or_else(|| BlockDeviceError::PartitionWithoutName(partition.to_string()))?;
        let mut new = Vec::new();
        for (key, value) in keys {
            match Module::named(key) {
                Some(child) => recurse(child, value, Some(&name.written()), output)?,
                None => set(&mut new, key, value.clone()),
            }
        }
        let base = base.ok_or(BlockDeviceError::Needs { module: "Partitioning", key: "base" })?;
        set(&mut new, "base", base.clone());
        partitions.push(Value::Map(new));
    }
    Ok(partitions)
}
