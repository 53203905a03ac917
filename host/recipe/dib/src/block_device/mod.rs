//! diskimage-builder's block-device layer as data: chooses the configuration, parses its grammar,
//! and produces disks and a layout.
//!
//! ```text
//! choose ─► YAML ─► expand ─► merge root parameters ─► graph ─► order ─► Disks + plan::Layout
//!                                       └─► symbols (root label, mount points, …)
//! ```
//!
//! Error messages are those of diskimage-builder 3.43 where it has one.

mod choose;
mod declare;
mod error;
mod expand;
mod graph;
mod layout;
mod lvm;
mod symbols;
mod units;

pub use choose::{ConfigOrigin, ConfigText};
pub use error::BlockDeviceError;
pub use symbols::Symbols;
pub use units::SizeFault;

pub(crate) use choose::choose;
pub(crate) use layout::{BlockDevices, DiskDeclaration, IMAGE_DISK};
pub(crate) use units::{block_bytes, whole};

use crate::yaml::Value;
use expand::{Entry, Module, set};

/// Root filesystem options of the command line. They apply only to the node named `mkfs_root`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RootParameters {
    /// Filesystem type, unless the configuration sets one.
    pub(crate) fstype: String,
    /// Label, unless the configuration sets one.
    pub(crate) label: Option<String>,
    /// Options for mkfs, unless the configuration sets some.
    pub(crate) options: String,
}

/// Default label of the root filesystem; historical, and expected by cloud images.
const DEFAULT_ROOT_LABEL: &str = "cloudimg-rootfs";
/// Default label of an XFS root filesystem: XFS labels hold at most 12 bytes.
const DEFAULT_ROOT_LABEL_XFS: &str = "img-rootfs";

/// An expanded and merged configuration, without the mkfs options: they depend on the filesystem
/// type, which the configuration may set.
#[derive(Debug, Clone)]
pub(crate) struct Configuration {
    entries: Vec<Entry>,
}

impl Configuration {
    /// Reads and expands a configuration.
    pub(crate) fn parse(text: &str) -> Result<Self, BlockDeviceError> {
        let value =
            Value::parse(text).map_err(|error| BlockDeviceError::Yaml(error.to_string()))?;
        Ok(Self { entries: expand::expand(&value)? })
    }

    /// Merges the root parameters into `mkfs_root`.
    pub(crate) fn merge_root(&mut self, root: &RootParameters) {
        let nodes = self
            .entries
            .iter_mut()
            .filter(|entry| entry.module == Module::Mkfs && entry.name() == "mkfs_root");
        for entry in nodes {
            if entry.get("type").is_none() {
                set(&mut entry.values, "type", Value::Text(root.fstype.clone()));
            }
            if entry.get("opts").is_none() && !root.options.trim().is_empty() {
                set(&mut entry.values, "opts", Value::Text(root.options.clone()));
            }
            if entry.get("label").is_none() {
                let xfs = entry.get("type").is_some_and(|value| value.text() == "xfs");
                let default = if xfs { DEFAULT_ROOT_LABEL_XFS } else { DEFAULT_ROOT_LABEL };
                let label = root.label.as_deref().unwrap_or(default);
                set(&mut entry.values, "label", Value::Text(label.to_owned()));
            }
        }
    }

    /// The values that scripts can query before the layout exists.
    pub(crate) fn symbols(&self) -> Result<Symbols, BlockDeviceError> {
        Symbols::of(&self.entries)
    }

    /// The disks and the layout.
    pub(crate) fn lower(
        &self,
        block_bytes: Option<u32>,
        uuid_of: &dyn Fn(&str) -> String,
    ) -> Result<BlockDevices, BlockDeviceError> {
        let graph = graph::Graph::build(&self.entries, block_bytes)?;
        layout::lower(graph, uuid_of)
    }

    #[cfg(test)]
    fn to_json(&self) -> Vec<serde_json::Value> {
        self.entries.iter().map(Entry::to_json).collect()
    }
}

#[cfg(test)]
mod tests;
