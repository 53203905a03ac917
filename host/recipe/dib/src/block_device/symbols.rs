//! Layout values that scripts can query before the layout exists.

use super::{
    BlockDeviceError,
    expand::{Entry, Module},
};
use crate::yaml::Value;

/// The `getval` answers that depend on the configuration alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbols {
    /// `root-label`, for `DIB_ROOT_LABEL`.
    pub root_label: String,
    /// `root-fstype`, for `DIB_ROOT_FSTYPE`.
    pub root_fstype: String,
    /// `boot-label`, for `DIB_BOOT_LABEL`; empty without a filesystem on /boot.
    pub boot_label: String,
    /// `mount-points` in the order of the expanded configuration.
    pub mount_points: Vec<String>,
}

fn text(entry: &Entry, key: &str) -> Option<String> {
    entry.get(key).filter(|value| **value != Value::Null).map(Value::written)
}

/// The filesystem that is mounted at `place`.
fn filesystem_at<'a>(entries: &'a [Entry], place: &str) -> Option<&'a Entry> {
    let mount = entries.iter().find(|entry| {
        entry.module == Module::Mount && text(entry, "mount_point").as_deref() == Some(place)
    })?;
    let base = text(mount, "base")?;
    entries.iter().find(|entry| entry.module == Module::Mkfs && entry.name() == base)
}

/// The label that a filesystem will get.
fn label(entry: &Entry) -> String {
    let label = text(entry, "label").unwrap_or_else(|| entry.name());
    match text(entry, "type").as_deref() {
        Some("vfat" | "fat") => label.to_uppercase(),
        _ => label,
    }
}

impl Symbols {
    pub(crate) fn of(entries: &[Entry]) -> Result<Self, BlockDeviceError> {
        let root = filesystem_at(entries, "/").ok_or(BlockDeviceError::NoRoot)?;
        let root_fstype = text(root, "type")
            .ok_or(BlockDeviceError::NeedsParameter { module: "Mkfs", key: "type" })?;
        Ok(Self {
            root_label: label(root),
            root_fstype,
            boot_label: filesystem_at(entries, "/boot").map(label).unwrap_or_default(),
            mount_points: entries
                .iter()
                .filter(|entry| entry.module == Module::Mount)
                .filter_map(|entry| text(entry, "mount_point"))
                .collect(),
        })
    }
}
